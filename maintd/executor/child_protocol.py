"""Messages between a supervisor and its child: the order down, evidence and the outcome up, one JSON object per line.

The order is pickled, since it may hold secrets that JSON would mask, and goes only from parent to child. Messages of
the child are not trusted: each line is bounded and validated.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from maintd.errors import JobError
from maintd.executor.job_user import JobUser
from maintd.job.attempt_info import AttemptInfo
from maintd.model.base import Model
from maintd.model.evidence import Report

if TYPE_CHECKING:
    from maintd.model.target import Targets

CONFIRMATION = struct.Struct("<q")
"""On the pipe to the child: the number of a change whose intention is recorded. It comes in one piece."""

MAX_MESSAGE = 1 << 20
"""Most bytes of one message; a longer one is a protocol error of the child."""


@dataclass(frozen=True)
class AttemptRequest:
    """All that a child needs to run one attempt."""

    path: str  # of the job's module
    params: Mapping[str, Any]
    info: AttemptInfo
    targets: bytes  # pickled by themselves, since most jobs use none
    has_secrets: bool  # the targets or the params hold secrets, or references to some
    environ: Mapping[str, str] = field(default_factory=dict)  # added to the child's: MAINTD_RUN_ID and the like
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)  # of the calendar, by name
    user: JobUser | None = None  # whose rights the child takes on
    confirms: bool = False  # the child makes no change before its intention is recorded


def targets_of(order: AttemptRequest) -> Targets:
    """Return the targets of an order, unpickled at each call."""
    targets: Targets = pickle.loads(order.targets)  # noqa: S301 - from the daemon that forked us
    return targets


class ChildStarted(Model):
    """The first message: the process exists and is about to import the job.

    `secrets` are texts to keep out of the log; they stay in the supervisor's memory.
    """

    type: Literal["began"] = "began"
    pid: int
    secrets: tuple[str, ...] = ()


class JobEnded(Model):
    """The last message: how the job's code ended. The process ends after it."""

    type: Literal["ended"] = "ended"
    ok: bool
    reason: str = ""  # the exception in one line, with its hint
    traceback: str = ""
    not_configured: bool = False  # the reason is a missing target


ChildMessage = Annotated[Report | ChildStarted | JobEnded, Field(discriminator="type")]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(ChildMessage)


def encode(message: Any) -> bytes:
    """Return one line of JSON with its newline."""
    return bytes(message.model_dump_json().encode() + b"\n")


def decode(line: bytes) -> Any:
    """Return a `Report` item, `Began` or `Ended`. Raises JobError for anything else.

    A NUL character, which Postgres cannot store, becomes U+FFFD.
    """
    if len(line) > MAX_MESSAGE:
        raise JobError(f"a message of {len(line)} bytes is longer than {MAX_MESSAGE}")
    if b"\\u0000" in line:
        line = line.replace(b"\\u0000", b"\\ufffd")
    try:
        return _ADAPTER.validate_json(line)
    except ValidationError as error:
        raise JobError(f"not a message: {error.errors(include_url=False)[0]['msg']}: {line[:80]!r}") from error
