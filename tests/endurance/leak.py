"""Does a daemon grow? `python -m endurance.leak --runs 10000`: memory, files and threads after every thousand runs."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import psutil

from endurance.world import TESTS, Node

ENTRIES = 16
WARM = 1000
"""Runs before the first look: caches are filled then."""

ALLOWED = 1.05


def main() -> int:
    """Print a line for each thousand runs; 1 when memory grew by more than 5 % or a file stayed open."""
    parser = argparse.ArgumentParser(prog="endurance.leak", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="maintd-leak-") as name:
        folder = Path(name)
        (folder / "jobs").mkdir()
        (folder / "state").mkdir()
        (folder / "jobs/nothing.py").write_text(JOB)
        entries = "".join(f"  e{number}: {{steps: [nothing]}}\n" for number in range(ENTRIES))
        (folder / "schedules.yaml").write_text(f"timezone: UTC\nentries:\n{entries}")
        environ = {key: value for key, value in os.environ.items() if not key.startswith("MAINTD_")} | {
            "MAINTD_STATE_DIR": str(folder / "state"),
            "MAINTD_CALENDAR": str(folder / "schedules.yaml"),
            "MAINTD_JOBS_PATH": str(folder / "jobs"),
            "MAINTD_LISTEN": "",
            "MAINTD_SLOTS": "8",
            "MAINTD_LOG_LEVEL": "warning",
            "PYTHONPATH": str(TESTS),
        }
        node = Node("leak", folder, environ)
        node.start()
        assert node.process is not None
        try:
            while node.ask("GET", "/api/v1/version") is None:
                time.sleep(0.2)
            return _watch(node, psutil.Process(node.process.pid), runs)
        finally:
            node.process.terminate()
            node.process.wait(30)


JOB = '''"""Do nothing, and say so."""

from maintd.job import Context, job


@job(repeatable=True)
def run(ctx: Context, params: object) -> None:
    ctx.check("nothing done", 1, equals=1)
    ctx.measure("things", 1.0)
    ctx.log("nothing")
'''


def _watch(node: Node, daemon: psutil.Process, runs: int) -> int:
    done, first = 0, None
    memory = files = 0
    while done < runs + WARM:
        _batch(node, 500)
        done += 500
        if done < WARM or done % 1000:
            continue
        memory, files, threads = daemon.memory_full_info().uss, daemon.num_fds(), daemon.num_threads()
        first = first or (memory, files)
        print(f"{done:6} runs: {memory / 2**20:6.1f} MiB of its own, {files} files, {threads} threads", flush=True)
    assert first is not None
    grown, more = memory / first[0], files - first[1]
    print(f"memory × {grown:.3f}, {more:+d} files")
    return 1 if grown > ALLOWED or more > 2 else 0


def _batch(node: Node, count: int) -> None:
    for number in range(count):
        body = {"name": f"e{number % ENTRIES}", "by": "leak", "why": ""}
        assert node.ask("POST", "/api/v1/runs", body) is not None
    while True:
        listed = node.ask("GET", "/api/v1/runs?state=queued&state=running&limit=1")
        if listed is not None and not listed["runs"]:
            return
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
