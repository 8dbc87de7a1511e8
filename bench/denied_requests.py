"""How long it takes to count denied requests in large logs of JSON lines, against `grep -E "(401|403)"`.

    python bench/denied_requests.py [--size 1GiB] [--files 8] [--reps 3] [--keep FOLDER]

Makes logs as the stack's services write them, plain and as the engine's json-files, with a known number of denied
requests; then counts them by grep and by maintd, in turns, and prints the best of each, how many of grep's lines were
denied requests, whether maintd's count was exact, and its peak memory.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.sample_logs import PATHS, request, wrapped

from maintd.units import format_size, parse_size

MADE = 4_000_000  # bytes of different lines; a file repeats them, with the times moved on
COUNT = """
import resource, sys, time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from maintd.checks.logs import folder
from maintd.checks.logs.denied_requests import DeniedRequests
until = datetime.fromtimestamp(float(sys.argv[2]), UTC)
found = DeniedRequests(until - timedelta(hours=float(sys.argv[3])), until)
began = time.perf_counter()
folder.read(Path(sys.argv[1]), found)
duration = time.perf_counter() - began
print(duration, found.total, found.bytes_read, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def fill(
    path: Path, size: int, since: datetime, until: datetime, seed: int, form: Callable[[str, datetime], str]
) -> int:
    """Write a log of this size in order of time; return the number of denied requests."""
    rng = random.Random(seed)
    lines: list[tuple[str, bool]] = []
    made = 0
    while made < MADE:
        status = rng.choice((401, 403)) if rng.random() < 0.012 else rng.choice((200, 200, 204, 304, 404, 500))
        line = form(request(rng, since, status, rng.choice(PATHS)), since)
        lines.append((line, status in (401, 403)))
        made += len(line) + 1
    rounds = max(1, size // made)
    denied = 0
    old = [f"{since:%Y-%m-%dT%H:%M}"]
    with path.open("w") as file:
        for number in range(rounds):
            at = since + (until - since) * number / rounds
            text = "\n".join(line for line, _ in lines).replace(old[0], f"{at:%Y-%m-%dT%H:%M}")
            file.write(text + "\n")
            denied += sum(is_denied for _, is_denied in lines)
    return denied


@contextmanager
def logs(where: Path | None) -> Iterator[Path]:
    """Yield an empty folder; delete it at the end unless `where` is given."""
    if where is not None:
        where.mkdir(parents=True)
        yield where
    else:
        with tempfile.TemporaryDirectory(prefix="maintd-bench-", dir="/var/tmp") as name:
            yield Path(name)


def grep(folder: Path) -> tuple[float, int]:
    """Run the runbook's command; return seconds and lines shown."""
    began = time.perf_counter()
    done = subprocess.run(["grep", "-rhcE", "(401|403)", str(folder)], capture_output=True, text=True, check=True)
    return time.perf_counter() - began, sum(int(line) for line in done.stdout.split())


def maintd(folder: Path, until: datetime, hours: float) -> tuple[float, int, int, int]:
    """Count in another process; return seconds, denied requests, bytes read and peak memory in KiB."""
    argv = [sys.executable, "-c", COUNT, str(folder), str(until.timestamp()), str(hours)]
    words = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    return float(words[0]), int(words[1]), int(words[2]), int(words[3])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=parse_size("1GiB"))
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--keep", type=Path, default=None)
    asked = parser.parse_args()
    until = datetime.now(UTC)
    since = until - timedelta(hours=50)
    for title, form in (("plain", lambda line, _: line), ("json-file", wrapped)):
        with logs(asked.keep / title if asked.keep else None) as folder:
            sizes = Counter[str]()
            denied = 0
            for number in range(asked.files):
                path = folder / f"agent-{number}.log"
                denied += fill(path, asked.size // asked.files, since, until, number, form)
                sizes[path.name] = path.stat().st_size
            greps, counts, news = [], [], []
            for _ in range(asked.reps):
                greps.append(grep(folder))
                counts.append(maintd(folder, until, 51))
                news.append(maintd(folder, until, 1))
            report(title, sizes.total(), denied, min(greps), min(counts), min(news))


def report(
    title: str,
    size: int,
    denied: int,
    by_grep: tuple[float, int],
    by_maintd: tuple[float, int, int, int],
    new: tuple[float, int, int, int],
) -> None:
    """Print the results for one form of logs."""
    seconds, lines = by_grep
    print(f"\n{title}: {format_size(size)}, {denied:,} denied requests")
    print(f"  {'':34}{'seconds':>9}{'MB/s':>8}{'x grep':>8}")
    for name, duration in (
        ("grep -cE (401|403)", seconds),
        ("maintd, all of it", by_maintd[0]),
        ("maintd, the last hour", new[0]),
    ):
        print(f"  {name:34}{duration:9.2f}{size / duration / 1e6:8,.0f}{seconds / duration:8.2f}")
    print(f"  grep shows {lines:,} lines, of which {100 * denied / lines:.1f} % are denied requests")
    exact = "exact" if by_maintd[1] == denied else f"WRONG, {by_maintd[1]:,}"
    print(f"  maintd's count is {exact}; peak memory {format_size(by_maintd[3] * 1024)}")
    print(f"  the last hour is {100 / 50:.0f} % of the time; {100 * new[2] / size:.1f} % of the bytes were read for it")


if __name__ == "__main__":
    main()
