"""Jobs in processes that kill themselves at a chosen instant, forked from one process without threads.

A fork of the test process itself could wait forever for a lock that a thread of a test's own server held.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maintd.job.description import load_job
from maintd.model.evidence import Change
from support.job_runs import JOBS, run_job

TESTS = Path(__file__).parents[1]


@dataclass
class DyingJobs:
    """The process that forks them."""

    process: subprocess.Popen[str]

    def run(self, job: str, params: Mapping[str, Any], targets: Mapping[str, Any], at: int) -> bool:
        """Run a job that is killed by SIGKILL at its `at`th report of a change; whether it came so far.

        A change is reported twice: before it is made, and when it was.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([job, dict(params), dict(targets), at]) + "\n")
        self.process.stdin.flush()
        return bool(json.loads(self.process.stdout.readline()))


@contextmanager
def dying_jobs() -> Iterator[DyingJobs]:
    """Start the process; end it after the block."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    argv = [sys.executable, "-m", "support.dying_jobs"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield DyingJobs(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def _run_and_die(job: str, params: Mapping[str, Any], targets: Mapping[str, Any], at: int) -> bool:
    load_job(JOBS / f"{job}.py")  # its modules are imported once, not in each child
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    seen = 0

    def count(item: object) -> None:
        nonlocal seen
        seen += isinstance(item, Change)
        if seen >= at:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        run_job(job, params, targets, at_report=count)
    finally:
        os._exit(0)


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_run_and_die(*json.loads(line))), flush=True)
