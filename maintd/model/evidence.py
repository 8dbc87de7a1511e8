"""Evidence: what a child process reports about its attempt.

A child imports no other module of the model but `base`, so that it starts fast.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, computed_field, model_validator

from maintd.model.base import Model
from maintd.units import Duration, Instant

Scalar = bool | int | float | str | None
"""What a check can observe."""


def number_of(value: Scalar) -> float | None:
    """The value as a finite float; None for one that is no number, or too large."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= sys.float_info.max else None


class CheckStatus(StrEnum):
    """The status of one check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"  # could not be observed; never a success


class Check(Model):
    """A success criterion: what was observed, what was expected, and what to do when they differ."""

    type: Literal["check"] = "check"
    name: str
    observed: Scalar
    expected: str
    unit: str = ""
    status: CheckStatus
    hint: str = ""
    optional: bool = False  # may be unknown without an effect on the run's state
    because: str = ""  # name of the failed check of the same attempt that this one follows from
    rule: str = ""  # the rule that it follows, and where that comes from: `CIS Docker Benchmark 1.6.0, 5.4`
    missed_limit: float | None = None  # the limit that is not met, in `unit`; None: it is met, or is no number

    @property
    def not_required(self) -> bool:
        """Whether it was not observed and need not be: without an effect on the run's state, and no finding."""
        return self.optional and self.status is CheckStatus.UNKNOWN

    @property
    def expectation(self) -> str:
        """`expected at most 20 %`, or the two limits: `fails above 20 %, warns above 10 %`."""
        return expectation(self.expected)


def expectation(expected: str) -> str:
    """What was expected of a check, with the word where it has none of its own."""
    own = expected.startswith(("fails ", "warns "))
    return expected if own or not expected else f"expected {expected}"


class Measure(Model):
    """A number with a unit, kept for trends. Series of one name differ in their `labels`."""

    type: Literal["measure"] = "measure"
    name: str
    value: float
    unit: str = ""
    labels: dict[str, str] = {}


class ChangeState(StrEnum):
    """What is known of a change."""

    PLANNED = "planned"  # a dry run: not made
    INTENDED = "intended"  # recorded just before it was made; the attempt goes on
    DONE = "done"  # made, as far as the job could see
    REFUSED = "refused"  # the target declined it
    FAILED = "failed"  # it raised an error
    UNCERTAIN = "uncertain"  # the attempt ended, or the answer stayed away, in between: check the target


class Change(Model):
    """An effect on the outside: recorded as intended before it is made, then as what happened.

    Both records have the same `number`, which counts from 1 within the attempt.
    """

    type: Literal["change"] = "change"
    number: int = 0
    action: str
    target: str
    details: dict[str, Scalar] = {}
    state: ChangeState = ChangeState.DONE
    cause: str = ""  # why it was refused, failed or is uncertain

    @computed_field  # type: ignore[prop-decorator]  # mypy does not support a property below it
    @property
    def done(self) -> bool:
        """Whether it was made."""
        return self.state is ChangeState.DONE

    @model_validator(mode="before")
    @classmethod
    def _from_earlier_versions(cls, values: Any) -> Any:
        """Read records with only a `done` flag: spools of earlier versions, and answers of the API."""
        if isinstance(values, dict) and "done" in values:
            done = values["done"]
            values = {key: value for key, value in values.items() if key != "done"}
            values.setdefault("state", ChangeState.DONE if done else ChangeState.PLANNED)
        return values


class Artifact(Model):
    """A file that the run leaves. `path` is relative to the artifacts folder in the state directory."""

    type: Literal["artifact"] = "artifact"
    name: str
    path: str
    size_bytes: int
    sha256: str
    media_type: str = "application/octet-stream"


class Phase(Model):
    """What the attempt is doing now, in words for people."""

    type: Literal["phase"] = "phase"
    name: str


class Progress(Model):
    """The attempt has done `done` of `total` units; a total of None is unknown."""

    type: Literal["progress"] = "progress"
    done: float
    total: float | None = None
    unit: str = ""
    rate: float | None = None  # units per second
    left: Duration | None = None


class LogLine(Model):
    """One line that the job logged or printed. `seq` counts from 1 within the attempt; a gap means omitted lines."""

    type: Literal["log"] = "log"
    seq: int
    at: Instant
    stream: Literal["log", "stdout", "stderr", "maintd"]
    text: str


class LogTrim(Model):
    """The log grew too long: its lines `first` to `last`, `size_bytes` of text, are omitted."""

    type: Literal["trim"] = "trim"
    first: int
    last: int
    size_bytes: int


class Handed(Model):
    """A value for the steps after this one; a later one of the same name replaces it."""

    type: Literal["handed"] = "handed"
    name: str
    value: Any  # JSON
    at: Instant


Report = Annotated[
    Check | Measure | Change | Artifact | Phase | Progress | LogLine | LogTrim | Handed, Field(discriminator="type")
]
"""One item of evidence."""
