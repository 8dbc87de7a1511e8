"""Which damage each level of `backup_verify` detects: random flipped bytes in real backups of every format.

    python bench/flipped_bytes.py [--flips 20] [--seed 1] [--only tar.gz]

Each backup is made by its own program, then damaged in one random byte at a time. `L1` compares with the sha256 that
was written when it was made, `L2` decodes without any. The last column is the program that people use instead. Prints
the table of docs/backup-verification.md.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support import sample_backups as made  # noqa: E402
from support.servers.postgres import BIN, postgres  # noqa: E402
from support.servers.redis import redis  # noqa: E402

from maintd.checks.backups.archive import read_archive  # noqa: E402
from maintd.checks.backups.base_backup import verify_base_backup  # noqa: E402
from maintd.checks.backups.stream import DamagedError, sha256_of  # noqa: E402

ROWS = 20_000


@dataclass
class Sample:
    """A backup, and the common tool for its format. `key`: whether its age identity is available."""

    label: str
    path: Path
    usual: tuple[str, ...] = ()
    key: bool = False


def main() -> None:
    """Create, damage and check the backups; print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    print("| format | L1 with sha256 | L2 without sha256 | common tool |\n|---|---|---|---|", flush=True)
    with samples() as made_samples:
        for sample in made_samples:
            if options.only in sample.label:
                print(row(sample, random.Random(options.seed), options.flips), flush=True)


def row(sample: Sample, draw: random.Random, flips: int) -> str:
    """One line of the table."""
    files = [sample.path] if sample.path.is_file() else [file for file in sample.path.rglob("*") if file.is_file()]
    sums = {file: sha256_of(file) for file in files}
    sizes = [file.stat().st_size for file in files]
    caught = [0, 0, 0]
    for _ in range(flips):
        file = draw.choices(files, sizes)[0]
        sound = file.read_bytes()
        at = draw.randrange(len(sound))
        file.write_bytes(sound[:at] + bytes([sound[at] ^ draw.randrange(1, 256)]) + sound[at + 1 :])
        caught[0] += sha256_of(file) != sums[file]
        caught[1] += damaged(sample)
        caught[2] += bool(sample.usual) and refused(sample)
        file.write_bytes(sound)
    usual = f"{caught[2]} ({' '.join((Path(sample.usual[0]).name, *sample.usual[1:]))})" if sample.usual else "–"
    return f"| {sample.label} | {caught[0]} of {flips} | {caught[1]} of {flips} | {usual} |"


def damaged(sample: Sample) -> bool:
    """Return whether decoding detects the damage."""
    if sample.path.is_dir():
        try:
            return bool(verify_base_backup(sample.path).problems)
        except DamagedError:
            return True
    reading = read_archive(sample.path, identities=[made.IDENTITY] if sample.key else [])
    return bool(reading.damage)


def refused(sample: Sample) -> bool:
    """Return whether the common tool ends with an error."""
    return subprocess.run([*sample.usual, sample.path], capture_output=True, check=False).returncode != 0


@contextmanager
def samples() -> Iterator[list[Sample]]:
    """All formats, in a folder that is removed."""
    folder = Path(tempfile.mkdtemp(prefix="maintd-flips-"))
    write: Callable[[str, bytes], Path] = lambda name, data: made.write(folder / name, data)  # noqa: E731
    tar = made.tar_of({**made.SECRETS, "data": made.noise(2_000_000)})
    list_gz, list_tar = ("tar", "-tzf"), ("tar", "-tf")
    restore = str(BIN / "pg_restore")
    try:
        with redis() as server:
            rdb = made.snapshot(server)
        with redis("--rdbchecksum", "no") as server:
            open_rdb = made.snapshot(server)
        with postgres() as server:
            made.trading(server, "trading", ROWS)
            sql = made.dump(server, "trading")
            found = [
                Sample("tar", write("a.tar", tar), list_tar),
                Sample("tar.gz", write("a.tar.gz", made.gz(tar)), list_gz),
                Sample("tar.zst, with its checksum (zstd's default)", write("a.tar.zst", made.zst(tar))),
                Sample("tar.zst, --no-check", write("b.tar.zst", made.zst(tar, checksum=False))),
                Sample("tar.gz.age, with the identity", write("a.tar.gz.age", made.age(made.gz(tar))), key=True),
                Sample("tar.gz.age, without", write("b.tar.gz.age", made.age(made.gz(tar)))),
                Sample("pg_dump -Fc", write("a.dump", made.dump(server, "trading", "-Fc")), (restore, "-l")),
                Sample("pg_dump -Fc", write("b.dump", made.dump(server, "trading", "-Fc")), (restore, "-f/dev/null")),
                Sample(
                    "pg_dump -Fc -Z0",
                    write("c.dump", made.dump(server, "trading", "-Fc", "-Z0")),
                    (restore, "-f/dev/null"),
                ),
                Sample("pg_dump, plain", write("a.sql", sql)),
                Sample("pg_dump, plain.gz", write("a.sql.gz", made.gz(sql)), ("gzip", "-t")),
                Sample("base backup, packed (-Ft -z)", made.base_backup(server, folder / "packed", "-Ft", "-z")),
                Sample(
                    "base backup, plain, no WAL in it",
                    made.base_backup(server, folder / "bare", "-X", "none"),
                    (str(BIN / "pg_verifybackup"), "-n"),
                ),
                Sample(
                    "base backup, plain, with WAL",
                    made.base_backup(server, folder / "plain"),
                    (str(BIN / "pg_verifybackup"),),
                ),
                Sample("RDB", write("a.rdb", rdb), ("redis-check-rdb",)),
                Sample("RDB, rdbchecksum no", write("b.rdb", open_rdb), ("redis-check-rdb",)),
            ]
            yield found
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
