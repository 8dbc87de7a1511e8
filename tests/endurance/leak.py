"""Leak check: `python -m endurance.leak --runs 10000` measures memory, files, threads and processes of a daemon.

It compares the idle daemon, after its template process has ended, after WARM runs and at the end.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from endurance.cluster import TESTS, Node

ENTRIES = 16
BATCH = 250
WARM = 4000
"""Runs before the first measurement: until then SQLite's page caches fill (1.8 to 3.1 MB). After that the numbers of
live objects and of allocated bytes are constant; only the free memory that the allocator keeps grows a little."""

ALLOWED = 1.05
REST_WITHIN = 90.0
STORE_FILES = 24
"""SQLite keeps the descriptor of a closed connection while others hold locks on the file: at most as many as there were
connections at the same time."""


JOB = '''"""Do nothing, with evidence."""

from maintd.job import Context, job


@job(repeatable=True)
def run(ctx: Context, params: object) -> None:
    ctx.check("nothing done", 1, equals=1)
    ctx.measure("things", 1.0)
    ctx.log("nothing")
'''


class Size(NamedTuple):
    """The resources of an idle daemon."""

    memory: int  # bytes of unique memory (USS)
    store: int  # descriptors of the store's files
    files: int  # other descriptors
    threads: int
    processes: int  # below the daemon, zombies included


def main() -> int:
    """Print a line per thousand runs; return 1 if anything grew."""
    parser = argparse.ArgumentParser(prog="endurance.leak", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--warm", type=int, default=WARM)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="maintd-leak-") as name, daemon(Path(name)) as node:
        first, last = watch(node, given.runs, given.warm, lambda line: print(line, flush=True))
    grown = last.memory / first.memory
    print(f"memory × {grown:.3f}, {last.files - first.files:+d} files, {last.threads - first.threads:+d} threads")
    return 1 if grown > ALLOWED or not is_as_before(first, last) else 0


def is_as_before(first: Size, last: Size) -> bool:
    """Return whether files, threads and processes have not grown."""
    return last.store <= STORE_FILES and last[2:] == first[2:]


@contextmanager
def daemon(folder: Path) -> Iterator[Node]:
    """Start a daemon on SQLite with entries that run only on request."""
    (folder / "jobs").mkdir()
    (folder / "state").mkdir()
    (folder / "jobs/nothing.py").write_text(JOB)
    entries = "".join(f"  e{number}: {{steps: [nothing]}}\n" for number in range(ENTRIES))
    (folder / "schedules.yaml").write_text(f"timezone: UTC\nentries:\n{entries}")
    environ = {key: value for key, value in os.environ.items() if not key.startswith("MAINTD_")} | {
        "MAINTD_STATE_DIR": str(folder / "state"),
        "MAINTD_DEBUGGABLE": "1",  # its memory and descriptors are measured
        "MAINTD_CALENDAR": str(folder / "schedules.yaml"),
        "MAINTD_JOBS_PATH": str(folder / "jobs"),
        "MAINTD_LISTEN": "",
        "MAINTD_SLOTS": "8",
        "MAINTD_LOG_LEVEL": "warning",
        "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
    }
    node = Node("leak", folder, environ)
    node.start()
    assert node.process is not None
    try:
        _wait(lambda: node.ask("GET", "/api/v1/version") is not None, "the daemon answers")
        yield node
    finally:
        node.process.terminate()
        node.process.wait(30)


def watch(node: Node, runs: int, warm: int, report: Callable[[str], None]) -> tuple[Size, Size]:
    """Return the size of the idle daemon after `warm` runs, and after `runs` more."""
    process = node.daemon()
    assert process is not None
    done, first = 0, None
    while True:
        if done == warm or done == warm + runs:
            _wait(lambda: not process.children(), "the template process has ended")
            size = _size(process)
            report(f"{done:6} runs, idle: {_text(size)}")
            if first is not None:
                return first, size
            first = size
        elif done % 1000 == 0:
            report(f"{done:6} runs: {_text(_size(process))}")
        batch = min(BATCH, warm - done if first is None else warm + runs - done)
        _run_jobs(node, batch)
        done += batch


def _size(process: psutil.Process) -> Size:
    memory = process.memory_full_info().uss
    store = sum("/maintd.db" in target for target in _targets(process.pid))
    files = process.num_fds() - store
    return Size(memory, store, files, process.num_threads(), len(process.children(recursive=True)))


def _targets(pid: int) -> Iterator[str]:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed since
            yield str(descriptor.readlink())


def _text(size: Size) -> str:
    files = f"{size.files} files and {size.store} of the store"
    return f"{size.memory / 2**20:6.1f} MiB, {files}, {size.threads} threads, {size.processes} processes"


def _run_jobs(node: Node, count: int) -> None:
    """Run `count` jobs to their ends."""
    for number in range(count):
        body = {"name": f"e{number % ENTRIES}", "by": "leak", "why": ""}
        _wait(lambda body=body: node.ask("POST", "/api/v1/runs", body) is not None, "a trigger is accepted")  # type: ignore[misc]
    _wait(lambda: _is_idle(node), "the runs end")


def _is_idle(node: Node) -> bool:
    listed = node.ask("GET", "/api/v1/runs?state=queued&state=running&limit=1")
    return listed is not None and not listed["runs"]


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + REST_WITHIN
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {REST_WITHIN:.0f} s"
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
