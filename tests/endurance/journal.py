"""What job processes really did: one JSON object a line, appended and fsynced by the process itself.

A holder of a lock writes a beat every BEAT seconds, so that a process that outlived its claim gives itself away.
"""

from __future__ import annotations

import json
import os
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

BEAT = 0.1
VARIABLE = "ENDURANCE_JOURNAL"


class Line(NamedTuple):
    """One thing that a process did. `at` is CLOCK_MONOTONIC in seconds, which no fault touches."""

    what: str  # began | beat | ended
    run: int
    entry: str
    job: str
    pid: int
    at: float
    lock: str
    due: str


def note(what: str, ctx: Any, job: str, lock: str = "") -> None:
    """Append one line. Called in the job's process."""
    line = {
        "what": what, "run": ctx.run_id, "entry": ctx.entry, "job": job, "pid": os.getpid(), "lock": lock,
        "at": time.clock_gettime(time.CLOCK_MONOTONIC), "due": "" if ctx.due_at is None else ctx.due_at.isoformat(),
    }  # fmt: skip
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
def journaled(ctx: Any, job: str, lock: str = "") -> Iterator[None]:
    """Note the beginning, beats in between for a lock's holder, and the end; a process that is killed leaves no end."""
    note("began", ctx, job, lock)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT):
            note("beat", ctx, job, lock)

    thread = threading.Thread(target=beat, daemon=True)
    if lock:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if lock:
            thread.join()
        note("ended", ctx, job, lock)


def read(path: Path) -> list[Line]:
    """Every whole line, in the order in which they were appended."""
    if not path.exists():
        return []
    return [Line(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
