"""How long a drill takes to restore a dump, against plain `pg_restore -j2` into a running server.

    python bench/restore.py [--size 500MB] [--runs 3]

The drill also makes and starts the server, compares the sums of the set before, and rows, hashes, schema and indexes
afterwards; these are in rows of their own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import subprocess  # noqa: E402

import psycopg  # noqa: E402
from support.job_runs import run_job  # noqa: E402
from support.servers.postgres import BIN, postgres  # noqa: E402
from support.users import folder_for_all  # noqa: E402

from maintd.units import format_size, parse_size  # noqa: E402

ROW_BYTES = 300
TABLES = 4


def main() -> None:
    """Fill and back up a database, then take turns; print the best of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="500MB")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    rows = parse_size(options.size) // ROW_BYTES // TABLES
    best: dict[str, float] = {}
    with folder_for_all() as folder, postgres() as server, tempfile.TemporaryDirectory() as job:
        url = server.create("trading")
        with psycopg.connect(url, autocommit=True) as conn:
            for number in range(TABLES):
                conn.execute(
                    f"CREATE TABLE orders_{number} (id bigint PRIMARY KEY, at timestamptz, price numeric, note text)"
                )
                conn.execute(
                    f"INSERT INTO orders_{number} SELECT n, now() - n * interval '1 second', n / 7.0,"
                    " md5(n::text) || md5((n * 2)::text) || repeat('note ', 18) FROM generate_series(1, %s) n",
                    (rows,),
                )
                conn.execute(f"CREATE INDEX ON orders_{number} (at)")
            size = conn.execute("SELECT pg_database_size('trading')").fetchone()
        for name in ("sets", "scratch"):
            (folder / name).mkdir()
        targets = {
            "postgres": {"main": {"dsn": url, "bin_dir": str(BIN)}},
            "folders": {name: {"path": str(folder / path)} for name, path in PLACES.items()},
        }
        made = run_job("backup", {"min_free": "1MB"}, targets, folder=Path(job))
        if made.outcome not in ("succeeded", "warned"):
            sys.exit(made.text())
        dump = next((folder / "sets").glob("set-*/*.dump"))
        for _ in range(options.runs):
            restored = server.create("restored")
            started = time.monotonic()
            subprocess.run([BIN / "pg_restore", "--exit-on-error", "-j2", "-d", restored, dump], check=True)
            note(best, "pg_restore -j2", time.monotonic() - started)
            server.drop("restored")
            started = time.monotonic()
            result = run_job("restore_drill", {"min_free": "1MB", "scratch": "scratch"}, targets, folder=Path(job))
            if result.outcome not in ("succeeded", "warned"):
                sys.exit(result.text())
            note(best, "the whole drill", time.monotonic() - started)
            for measure in result.measures:
                if measure.name == "restore_phase_seconds":
                    note(best, f"of it: {measure.labels['phase']}", measure.value)
    print(f"{format_size(size[0] if size else 0)} of database, best of {options.runs}\n")
    print("| how | s | × |\n|---|---|---|")
    for name, seconds in best.items():
        print(f"| {name} | {seconds:.2f} | {seconds / best['pg_restore -j2']:.2f} |")


PLACES = {"backup_sets": "sets", "scratch": "scratch"}


def note(best: dict[str, float], name: str, seconds: float) -> None:
    """Keep the least of the seconds."""
    best[name] = min(best.get(name, float("inf")), seconds)


if __name__ == "__main__":
    main()
