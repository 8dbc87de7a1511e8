"""How fast a tar.gz is read to its end: `tar -tzf` against backup_verify's reading, which also makes the sha256.

    python bench/archives.py [--size 300] [--repeat 3] [--folder /var/tmp]

Makes an archive of about so many MB from text, log lines and noise, then reads it in each way, warm, the best of the
repeats. Prints seconds, MB of the archive per second and the ratio to `tar -tzf`; below, the same for its sha256.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.job_runs import run_job  # noqa: E402

from maintd.checks.backups.archive import read_archive  # noqa: E402
from maintd.checks.backups.stream import sha256_of  # noqa: E402

MB = 1_000_000
MEMBER = 8 * MB


def main() -> None:
    """Create the archive, read it in each way, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=300)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="maintd-archives-", dir=options.folder) as name:
        path = make(Path(name) / "big.tar.gz", options.size * MB)
        size = path.stat().st_size
        print(f"{size / MB:.0f} MB of tar.gz, best of {options.repeat}\n\n| how | s | MB/s | × |\n|---|---|---|---|")
        table(
            size,
            options.repeat,
            {
                "tar -tzf": program("tar", "-tzf", str(path)),
                "gzip -t": program("gzip", "-t", str(path)),
                "read_archive: decoded, walked and hashed": lambda: sound(path),
                "the whole job, level decode": lambda: job(path.parent, "decode"),
            },
        )
        print("\n| sha256 | s | MB/s | × |\n|---|---|---|---|")
        table(
            size,
            options.repeat,
            {
                "sha256sum": program("sha256sum", str(path)),
                "sha256_of": lambda: sha256_of(path),
                "the whole job, level checksum": lambda: job(path.parent, "checksum"),
            },
        )


def table(size: int, repeat: int, ways: dict[str, Callable[[], object]]) -> None:
    """Print a line per way; each round times all ways, so that a busy machine affects all."""
    took = {name: float("inf") for name in ways}
    for _ in range(repeat):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            took[name] = min(took[name], time.perf_counter() - began)
    first = next(iter(took.values()))
    for name, seconds in took.items():
        print(f"| {name} | {seconds:.2f} | {size / MB / seconds:.0f} | {first / seconds:.1f} |", flush=True)


def program(*argv: str) -> Callable[[], object]:
    return lambda: subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def sound(path: Path) -> None:
    reading = read_archive(path)
    assert reading.contents and not reading.damage, reading


def job(folder: Path, level: str) -> None:
    result = run_job("backup_verify", {"root": str(folder), "level": level})
    assert result.error is None, result.text()


def make(path: Path, size: int) -> Path:
    """Write an archive of dumps, logs and incompressible data in equal parts; gzip halves its size."""
    draw = random.Random(1)
    words = [draw.randbytes(5).hex() for _ in range(4000)]
    with path.open("wb") as file, subprocess.Popen(["gzip", "-6"], stdin=subprocess.PIPE, stdout=file) as gzip:
        assert gzip.stdin is not None
        with tarfile.open(fileobj=gzip.stdin, mode="w|") as tar:
            number = 0
            while path.stat().st_size < size:
                number += 1
                tar.addfile(entry := tarfile.TarInfo(f"data/{number}"), BytesIO(content(entry, draw, words, number)))
    path.chmod(0o600)
    return path


def content(entry: tarfile.TarInfo, draw: random.Random, words: list[str], number: int) -> bytes:
    if number % 3 == 0:
        data = draw.randbytes(MEMBER)
    elif number % 3 == 1:
        line = '{"level":"info","msg":"http_request","path":"/%s","status":200,"durationMs":%d}\n'
        lines = (line % (word, draw.randrange(999)) for word in draw.choices(words, k=100_000))
        data = "".join(lines).encode()
    else:
        data = "\t".join(draw.choices(words, k=MEMBER // 11)).encode()
    entry.size, entry.mode = len(data), 0o600
    return data


if __name__ == "__main__":
    main()
