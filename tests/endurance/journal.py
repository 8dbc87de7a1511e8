"""What job processes really did: one JSON object a line, appended and fsynced by the process itself.

A holder of a lock writes a beat every BEAT seconds, so that a process that outlived its claim gives itself away. The
last line of a process that came to its end tells everything that it had reported by then.
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
    """One thing that a process did. `at` is CLOCK_MONOTONIC in seconds, which no fault touches."""

    what: str  # began | beat | ended
    run: int
    step: str
    attempt: int
    job: str
    pid: int
    at: float
    lock: str = ""
    returned: bool = False  # with `ended`: the job came to its end, and was not stopped or failing
    logs: tuple[str, ...] = ()  # with `ended`: what was reported
    checks: tuple[tuple[str, int], ...] = ()


@dataclass
class Book:
    """What one process does, to be noted."""

    ctx: Any
    job: str
    lock: str
    logs: list[str] = field(default_factory=list)
    checks: list[tuple[str, int]] = field(default_factory=list)

    def log(self, text: str) -> None:
        """Report a line of log."""
        self.ctx.log(text)
        self.logs.append(text)

    def check(self, name: str, observed: int, equals: int = 1) -> None:
        """Report a check."""
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
    """Wait. Not time.sleep, which libfaketime breaks: it waits for an absolute time on a clock that is not faked."""
    select.select([], [], [], seconds)


@contextmanager
def journaled(ctx: Any, job: str, lock: str = "") -> Iterator[Book]:
    """Note the beginning, beats in between for a lock's holder, and the end; a process that is killed leaves no end."""
    book = Book(ctx, job, lock)
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
    """Every whole line, in the order in which they were appended."""
    if not path.exists():
        return []
    return [_line(json.loads(text)) for text in path.read_text(encoding="utf-8").splitlines() if text.endswith("}")]


def _line(read: dict[str, Any]) -> Line:
    logs, checks = tuple(read.pop("logs", ())), tuple((name, number) for name, number in read.pop("checks", ()))
    return Line(**read, logs=logs, checks=checks)
