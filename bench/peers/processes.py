"""A daemon as a process: started until it is ready, weighed with all its children, stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

# The development tools bring `rich`, which structlog then imports; an installed maintd has none.
MAINTD = "import sys; sys.modules['rich'] = None; from maintd.__main__ import main; sys.exit(main())"


def write_calendar(path: Path, entries: int) -> None:
    """Entries that are due once a year."""
    lines = ["timezone: UTC", "entries:"]
    for number in range(entries):
        lines += [
            f"  entry-{number}:",
            f"    cron: {number % 60} {number // 60 % 24} 1 1 *",
            "    catch_up: none",
            "    steps: [{command: {argv: [/bin/true]}}]",
        ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def maintd_argv(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-c", MAINTD, "--state-dir", str(folder / "state"), *words]


def environment(folder: Path) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAINTD_")}
    return plain | {"MAINTD_CALENDAR": str(folder / "schedules.yaml"), "MAINTD_LOG_FORMAT": "json"}


@contextmanager
def started(
    argv: Sequence[str], word: str, env: dict[str, str] | None = None
) -> Iterator[tuple[psutil.Process, float]]:
    """The process, and the seconds until it printed a line with the word."""
    began = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    assert process.stdout is not None
    try:
        told = []
        for line in process.stdout:
            told.append(line)
            if word in line:
                break
        else:
            sys.exit("it did not start:\n" + "".join(told))
        yield psutil.Process(process.pid), time.perf_counter() - began
    finally:
        process.terminate()
        process.communicate()


def pss_mib(process: psutil.Process) -> float:
    """Of it and all its children."""
    family = [process, *process.children(recursive=True)]
    return sum(one.memory_full_info().pss for one in family) / 2**20


def cpu_seconds(process: psutil.Process) -> float:
    """Of it and all its children so far, to the nanosecond: the ticks of /proc/PID/stat are too coarse for an idler."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        for task in Path(f"/proc/{one.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9
