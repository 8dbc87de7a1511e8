"""What goes between supervisor and child: the order down, evidence and the outcome up, one JSON object per line.

The order is pickled, since it may hold secrets that JSON would mask, and goes only from parent to child. What comes
back is not trusted: each line is bounded and validated.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from maintd.context import Point
from maintd.errors import JobError
from maintd.model import Model, Report
from maintd.target import Targets

MAX_MESSAGE = 1 << 20
"""Bytes of one message; a longer one is a protocol error of the child."""


class AttemptOrder(Model):
    """All that a child needs to make one attempt."""

    run_id: int
    entry: str
    step: str
    step_index: int
    attempt: int
    job: str
    path: Path
    params: dict[str, Any]
    due_at: datetime | None
    deadline_at: datetime
    dry_run: bool
    targets: Targets
    artifacts_dir: Path
    work_dir: Path
    reports_dir: Path | None = None
    budget: dict[str, int] = {}
    series: dict[str, tuple[Point, ...]] = {}
    environ: dict[str, str] = {}  # added to the child's environment: MAINTD_RUN_ID and the like


class Began(Model):
    """The first message: the process is there and is about to load the job. `secrets` are texts to keep out of the
    log; they stay in the supervisor's memory."""

    type: Literal["began"] = "began"
    pid: int
    secrets: tuple[str, ...] = ()


class Ended(Model):
    """The last message: how the job's code ended, before the process does."""

    type: Literal["ended"] = "ended"
    ok: bool
    reason: str = ""  # the exception in one line, with its hint
    traceback: str = ""
    not_configured: bool = False  # the reason is that a target is missing


ChildMessage = Annotated[Report | Began | Ended, Field(discriminator="type")]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(ChildMessage)


def encode(message: Any) -> bytes:
    """One line of JSON with its newline."""
    return bytes(message.model_dump_json().encode() + b"\n")


def decode(line: bytes) -> Any:
    """A `Report` item, `Began` or `Ended`. Raises JobError for anything else.

    A NUL character, which Postgres cannot hold, becomes U+FFFD.
    """
    if len(line) > MAX_MESSAGE:
        raise JobError(f"a message of {len(line)} bytes is longer than {MAX_MESSAGE}")
    if b"\\u0000" in line:
        line = line.replace(b"\\u0000", b"\\ufffd")
    try:
        return _ADAPTER.validate_json(line)
    except ValidationError as error:
        raise JobError(f"not a message: {error.errors(include_url=False)[0]['msg']}: {line[:80]!r}") from error
