"""What job processes really did: one JSON object per line, appended and fsynced by the process itself.

A holder of a lock writes a beat every BEAT seconds, which reveals a process that outlives its claim. The last line of a
process that ended by itself has everything that it had reported.
"""

from __future__ import annotations

import json
import os
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

BEAT = 0.1
VARIABLE = "ENDURANCE_JOURNAL"


class Line(NamedTuple):
    """One event of a process. `at` is CLOCK_MONOTONIC in seconds, which no fault changes."""

    what: str  # began | beat | ended
    run: int
    step: str
    attempt: int
    job: str
    pid: int
    at: float
    lock: str = ""
    returned: bool = False  # with `ended`: the job returned; it was not stopped and did not raise
    logs: tuple[str, ...] = ()  # with `ended`: what was reported
    checks: tuple[tuple[str, int], ...] = ()


@dataclass
class JobJournal:
    """The journal of one process."""

    ctx: Any
    job: str
    lock: str
    logs: list[str] = field(default_factory=list)
    checks: list[tuple[str, int]] = field(default_factory=list)

    def log(self, text: str) -> None:
        """Report a log line, and note it."""
        self.ctx.log(text)
        self.logs.append(text)

    def check(self, name: str, observed: int, equals: int = 1) -> None:
        """Report a check, and note it."""
        self.ctx.check(name, observed, equals=equals)
        self.checks.append((name, observed))

    def note(self, what: str, **more: object) -> None:
        """Append one line."""
        line = {
            "what": what,
            "run": self.ctx.run_id,
            "step": os.environ["MAINTD_STEP"],
            "attempt": int(os.environ["MAINTD_ATTEMPT"]),
            "job": self.job,
            "pid": os.getpid(),
            "at": time.clock_gettime(time.CLOCK_MONOTONIC),
            "lock": self.lock,
            **more,
        }
        descriptor = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, json.dumps(line).encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def pause(seconds: float) -> None:
    """Wait. time.sleep does not work with libfaketime: it waits for an absolute time on a clock that is not faked."""
    select.select([], [], [], seconds)


@contextmanager
def journaled(ctx: Any, job: str, lock: str = "") -> Iterator[JobJournal]:
    """Note the start, a beat every 0.1 s for the holder of a lock, and the end; a killed process leaves no end."""
    book = JobJournal(ctx, job, lock)
    book.note("began")
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT):
            book.note("beat")

    thread = threading.Thread(target=beat, daemon=True)
    if lock:
        thread.start()
    returned = False
    try:
        yield book
        returned = True
    finally:
        stop.set()
        if lock:
            thread.join()
        book.note("ended", returned=returned, logs=book.logs, checks=book.checks)


def read(path: Path) -> list[Line]:
    """Return every complete line in the order of writing."""
    if not path.exists():
        return []
    return [_line(json.loads(text)) for text in path.read_text(encoding="utf-8").splitlines() if text.endswith("}")]


def _line(read: dict[str, Any]) -> Line:
    logs, checks = tuple(read.pop("logs", ())), tuple((name, number) for name, number in read.pop("checks", ()))
    return Line(**read, logs=logs, checks=checks)
