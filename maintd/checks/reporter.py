"""What a judge needs of a job's context, and the one way to record that a target did not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from maintd.checks.criteria import Criterion
from maintd.errors import MaintdError, TargetError
from maintd.model.evidence import Check, CheckStatus, Scalar

T = TypeVar("T")
Number = int | float | timedelta | datetime

# It was not seen whether these are well: nobody is to be woken for a grant that is missing.
UNSEEN = frozenset({"denied", "not_configured", "empty"})


class Limits(BaseModel):
    """Base of each kind's limits, which are params of jobs."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)


class Reporter(Protocol):
    """A job's context, seen from below it: a layer of clients cannot import it."""

    def check(
        self,
        name: str,
        observed: Scalar | timedelta | datetime,
        *,
        at_most: Number | None = None,
        at_least: Number | None = None,
        equals: Scalar = None,
        one_of: Sequence[Scalar] | None = None,
        warn_above: Number | None = None,
        warn_below: Number | None = None,
        severity: CheckStatus = CheckStatus.FAIL,
        unit: str = "",
        hint: str = "",
    ) -> Check:
        """Record a criterion."""
        ...

    def unknown(self, name: str, cause: str, *, expected: str = "an answer", hint: str = "") -> Check:
        """Record that a criterion could not be observed."""
        ...

    def fail(self, name: str, observed: Scalar, *, expected: str, hint: str = "") -> Check:
        """Record a criterion that was judged here as failed."""
        ...

    def measure(self, name: str, value: float, unit: str = "", **labels: str) -> None:
        """Keep a number."""
        ...

    def last(self, name: str, default: float | None = None, **labels: str) -> float | None:
        """The latest earlier value of a measure."""
        ...

    def log(self, text: str) -> None:
        """A line for the person who reads along."""
        ...


def unanswered(
    ctx: Reporter, name: str, error: MaintdError, *, expected: str = "an answer", unseen: frozenset[str] = UNSEEN
) -> None:
    """Record a check without an answer: failed when the target is down, unknown when it only could not be looked at."""
    cause = error.cause if isinstance(error, TargetError) else "not_configured"
    hint = error.hint or "look at its log"
    if cause in unseen:
        ctx.unknown(name, f"{cause}: {error.message}", expected=expected, hint=hint)
    else:
        ctx.fail(name, f"{cause}: {error.message}", expected=expected, hint=hint)


def tell(ctx: Reporter, subject: str, criteria: Iterable[Criterion]) -> None:
    """Record what was judged as values, each check named after its subject."""
    for one in criteria:
        if one.unknown:
            ctx.unknown(f"{subject}: {one.name}", one.unknown, hint=one.hint)
        else:
            ctx.check(f"{subject}: {one.name}", one.observed, **one.limits)


def grown(ctx: Reporter, name: str, count: int, **labels: str) -> int | None:
    """How much a counter grew since the last run; None at the first. One that began anew grew by what it shows."""
    before = ctx.last(name, None, **labels)
    ctx.measure(name, count, "", **labels)
    if before is None:
        return None
    return count - round(before) if count >= before else count


def or_error(read: Callable[[], T]) -> T | TargetError:
    """What it returns, or the error in its place: facts that fail each by itself."""
    try:
        return read()
    except TargetError as error:
        return error
