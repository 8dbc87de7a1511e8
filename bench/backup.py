"""How long the job `backup` takes for a database, against plain `pg_dump -Fc` and `pg_basebackup -Ft -z` to a file.

    python bench/backup.py [--size 500MB] [--runs 3] [--more]

The job also decodes the dump, and counts and hashes the rows of each table in the snapshot of the dump; a base backup
is compared with its manifest. With `--more` also these, and the job without hashes. They take turns, and the median of
each counts: on a virtual machine the same pg_dump takes up to a fifth more or less from one run to the next.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import psycopg  # noqa: E402
from support.job_runs import run_job  # noqa: E402
from support.servers.postgres import BIN, postgres  # noqa: E402

from maintd.units import format_size, parse_size  # noqa: E402

ROW_BYTES = 240


def main() -> None:
    """Fill a database, then take turns; print the median of each, and the range."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="500MB")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--more", action="store_true", help="also without hashes, and base backups")
    options = parser.parse_args()
    rows = parse_size(options.size) // ROW_BYTES
    folder = Path(tempfile.mkdtemp(prefix="maintd-backup-bench-"))
    took: dict[str, list[float]] = {}
    try:
        with postgres() as server:
            url = server.create("trading")
            with psycopg.connect(url, autocommit=True) as conn:
                conn.execute("CREATE TABLE orders (id bigint, at timestamptz, price numeric, size float8, note text)")
                conn.execute(
                    "INSERT INTO orders SELECT n, now() - n * interval '1 second', n / 7.0, random(),"
                    " md5(n::text) || md5((n * 2)::text) || repeat('note ', 18) FROM generate_series(1, %s) n",
                    (rows,),
                )
                size = conn.execute("SELECT pg_database_size('trading')").fetchone()
                conn.execute("VACUUM ANALYZE orders")
            (folder / "sets").mkdir()
            for _ in range(options.runs):
                plain = folder / "plain"
                with timed(took, "pg_dump -Fc"):
                    subprocess.run([BIN / "pg_dump", "-Fc", "-f", plain, "-d", url], check=True)
                with timed(took, "the job"):
                    backup(url, folder)
                if options.more:
                    with timed(took, "the job, hashes: false"):
                        backup(url, folder, hashes=False)
                    with timed(took, "pg_basebackup -Ft -z"), plain.open("wb") as out:
                        argv = [BIN / "pg_basebackup", "-Ft", "-z", "-Xfetch", "-cfast", "-D", "-", "-d", url]
                        subprocess.run(argv, check=True, stdout=out)
                    with timed(took, "the job, base backup"):
                        backup(url, folder, postgres=[], base_backups=["main"])
                shutil.rmtree(folder / "sets")
                (folder / "sets").mkdir()
    finally:
        shutil.rmtree(folder)
    print(f"{format_size(size[0] if size else 0)} of database, median of {options.runs}\n")
    print("| how | s | from | to | × |\n|---|---|---|---|---|")
    for name, seconds in took.items():
        middle = statistics.median(seconds)
        against = statistics.median(took["pg_basebackup -Ft -z" if "base" in name else "pg_dump -Fc"])
        print(f"| {name} | {middle:.2f} | {min(seconds):.2f} | {max(seconds):.2f} | {middle / against:.2f} |")


@contextmanager
def timed(took: dict[str, list[float]], name: str) -> Iterator[None]:
    """Add the seconds that this block takes."""
    started = time.monotonic()
    yield
    took.setdefault(name, []).append(time.monotonic() - started)


def backup(url: str, folder: Path, **params: Any) -> None:
    """Make a set of this database only."""
    targets = {
        "postgres": {"main": {"dsn": url, "bin_dir": str(BIN)}},
        "folders": {"backup_sets": {"path": str(folder / "sets")}},
    }
    result = run_job("backup", {"min_free": "1MB", **params}, targets, folder=folder / "job")
    if result.outcome not in ("succeeded", "warned"):
        sys.exit(result.text())


if __name__ == "__main__":
    main()
