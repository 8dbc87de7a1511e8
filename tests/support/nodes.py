"""A node for tests: a real store, a real executor, and jobs that tests write."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from maintd.clock import SystemClock
from maintd.config.settings import Settings
from maintd.executor import process_tree
from maintd.executor.executor import LocalExecutor
from maintd.job.description import load_job
from maintd.model.entry import Policy, StepPlan
from maintd.model.job import JobDescription
from maintd.model.run import Attempt, NewRun, Run, RunState, Trigger
from maintd.model.target import Targets
from maintd.store import Store, open_store
from support.servers.base import wait_for

HEADER = '''"""A job of a test."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from maintd.job import CheckStatus, Context, JobParams, job


class Params(JobParams):
    into: str = ""
    text: str = ""
    number: int = 0


'''

_numbers = itertools.count(1)


class Node:
    """An executor with its store, and helpers for both."""

    def __init__(self, folder: Path, url: str = "", *, incarnation: str = "1", **settings: Any) -> None:
        self.folder = folder
        self.jobs_dir = folder / "jobs"
        self.jobs_dir.mkdir(parents=True, exist_ok=True)
        values: dict[str, Any] = {"slots": 8, "grace": "500ms", "heartbeat": "200ms", "lease": "30s", "node": "n1"}
        values |= {"state_dir": folder / "state"} | settings
        self.settings = Settings(_env_file=None, **values)
        self.targets = Targets()
        self.jobs: dict[str, JobDescription] = {}
        self.calendar_jobs: set[str] = set()  # whose modules the template preloads
        self.clock = SystemClock()
        self.store: Store = open_store(
            url or self.settings.store, clock=self.clock, migrate=True, state_dir=self.settings.state_dir
        )
        self.incarnation = incarnation
        self.executor = LocalExecutor(
            self.store,
            self.settings,
            self.clock,
            jobs=lambda: self.jobs,
            targets=lambda: self.targets,
            incarnation=incarnation,
            calendar_jobs=lambda: self.calendar_jobs,
        )

    def job(self, body: str, traits: str = 'timeout="1m"', name: str | None = None) -> str:
        """Write a job whose `run` has this body; return its name."""
        name = name or f"job_{next(_numbers)}"
        path = self.jobs_dir / f"{name}.py"
        source = f"{HEADER}@job({traits})\ndef run(ctx: Context, params: Params) -> None:\n"
        path.write_text(source + textwrap.indent(textwrap.dedent(body).strip() + "\n", "    "), encoding="utf-8")
        self.jobs[name] = load_job(path).description
        return name

    def step(self, job: str, params: Mapping[str, Any] | None = None, **columns: Any) -> StepPlan:
        known = self.jobs.get(job)
        values = {"name": job, "job": job, "params": dict(params or {})} | columns
        if known is not None and "locks" not in values:
            values["locks"] = known.locks
        return StepPlan.model_validate(values)

    def queue(self, *steps: StepPlan, entry: str | None = None, policy: Policy | None = None, **columns: Any) -> int:
        now = self.store.now()
        name = entry or f"entry-{next(_numbers)}"
        run = NewRun.model_validate(
            {
                "entry": name,
                "title": name,
                "trigger": Trigger.MANUAL,
                "state": RunState.QUEUED,
                "not_before": now,
                "plan": steps,
                "policy": policy or Policy(),
                **columns,
            }
        )
        run_id, _ = self.store.runs.add(run, now)
        self.executor.wake()
        return run_id

    def run(self, run_id: int) -> Run:
        found = self.store.history.run(run_id)
        assert found is not None
        return found

    def ended(self, run_id: int, seconds: float = 120) -> Run:
        """Wait for the end of a run; return it."""

        def is_over() -> Run | None:
            run = self.run(run_id)
            return run if run.state.final else None

        return wait_for(is_over, f"run {run_id} ends", seconds)

    def make(self, body: str, params: Mapping[str, Any] | None = None, traits: str = 'timeout="1m"') -> Run:
        """Run a job with this body to its end; return the run."""
        return self.ended(self.queue(self.step(self.job(body, traits), params)))

    def running(self, run_id: int) -> Attempt:
        """Wait for the process of a run's first step; return the attempt."""

        def attempt() -> Attempt | None:
            attempts = [a for step in self.run(run_id).steps for a in step.attempts if a.pid is not None]
            return attempts[-1] if attempts else None

        return wait_for(attempt, f"run {run_id} has a process")

    def log(self, run_id: int) -> list[str]:
        lines: list[str] = []
        after = None
        while rows := self.store.history.log(run_id, after=after, limit=5000):
            lines += [row.line.text for row in rows]
            after = (rows[-1].step, rows[-1].attempt, rows[-1].line.seq)
        return lines

    def cancel(self, run_id: int, by: str = "ada", why: str = "wrong database") -> None:
        self.store.runs.request_cancel(run_id, by, why, self.store.now())
        self.executor.wake()

    def start(self) -> None:
        self.executor.start()

    def stop(self, drain: float = 0) -> None:
        self.executor.stop(timedelta(seconds=drain))
        self.store.close()


@contextmanager
def node(folder: Path, url: str = "", **settings: Any) -> Iterator[Node]:
    """Start a node; stop it at the end."""
    made = Node(folder, url, **settings)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def only(run: Run) -> Attempt:
    """Return the last attempt of the run's first step."""
    return run.steps[0].attempts[-1]


def is_alive(pid: int) -> bool:
    return not process_tree.is_zombie(pid)


def read_pids(path: Path, count: int) -> list[int]:
    """Wait for `count` pids in a file that a job's processes write; return them."""

    def numbers() -> list[int] | None:
        found = [int(word) for word in path.read_text(encoding="ascii").split()] if path.exists() else []
        return found if len(found) >= count else None

    return wait_for(numbers, f"{count} numbers in {path.name}")
