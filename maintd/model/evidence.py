"""Evidence: what a child reports about its attempt. All frozen; all times aware UTC.

This is all of the model that a child needs; what the store, the API and the CLI know besides is in `model`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from maintd.model.base import Model
from maintd.units import Duration, Instant

Scalar = bool | int | float | str | None
"""What a check can observe."""


class CheckStatus(StrEnum):
    """The verdict of one success criterion."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"  # could not be observed; never success


class Check(Model):
    """A success criterion, what was seen, and what to do when it is not met."""

    type: Literal["check"] = "check"
    name: str
    observed: Scalar
    expected: str
    unit: str = ""
    status: CheckStatus
    hint: str = ""


class Measure(Model):
    """A number with a unit, kept for trends. `labels` tell series of one name apart."""

    type: Literal["measure"] = "measure"
    name: str
    value: float
    unit: str = ""
    labels: dict[str, str] = {}


class Change(Model):
    """An effect on the outside, declared before it is done. In a dry run `done` is False."""

    type: Literal["change"] = "change"
    action: str
    target: str
    details: dict[str, Scalar] = {}
    done: bool = True


class Artifact(Model):
    """A file that the run leaves, kept under the state directory. `path` is relative to its artifacts folder."""

    type: Literal["artifact"] = "artifact"
    name: str
    path: str
    size_bytes: int
    sha256: str
    media_type: str = "application/octet-stream"


class Phase(Model):
    """What the attempt is doing now, as a person would tell it."""

    type: Literal["phase"] = "phase"
    name: str


class Progress(Model):
    """How far the attempt is: `done` of `total` units (total unknown: None)."""

    type: Literal["progress"] = "progress"
    done: float
    total: float | None = None
    unit: str = ""
    rate: float | None = None  # units per second
    left: Duration | None = None


class LogLine(Model):
    """One line that the job logged or printed. `seq` counts from 1 within the attempt; a gap means lines left out."""

    type: Literal["log"] = "log"
    seq: int
    at: Instant
    stream: Literal["log", "stdout", "stderr", "maintd"]
    text: str


class LogTrim(Model):
    """The middle of a log that grew too long was left out: forget lines `first` to `last` (`size_bytes` of text)."""

    type: Literal["trim"] = "trim"
    first: int
    last: int
    size_bytes: int


Report = Annotated[
    Check | Measure | Change | Artifact | Phase | Progress | LogLine | LogTrim, Field(discriminator="type")
]
"""One item of evidence."""
