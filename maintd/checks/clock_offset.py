"""The clock of a server against this machine's, by an answer that has the server's time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from maintd.checks.hints import printable
from maintd.checks.limits import Limits
from maintd.clients.http import Answer
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.units import Duration, format_duration

_HTTP_DATE = timedelta(seconds=1)  # its resolution; source: RFC 9110, 5.6.7


class ClockLimits(Limits):
    """Limits for the clock of a server."""

    clock_warn: Duration = timedelta(seconds=2)
    clock_fail: Duration = timedelta(seconds=30)
    """Difference between the server's clock and this machine's."""


@dataclass(frozen=True)
class ClockOffset:
    """The server's clock minus this machine's, and by how much that may be wrong."""

    offset: timedelta
    uncertainty: timedelta

    @property
    def least(self) -> timedelta:
        """The difference that there is at least, in either direction."""
        return max(abs(self.offset) - self.uncertainty, timedelta())

    @property
    def most(self) -> timedelta:
        """The difference that there is at most."""
        return abs(self.offset) + self.uncertainty


def clock_offset(at: float, sent: float, received: float, resolution: timedelta = timedelta()) -> ClockOffset:
    """The offset of a server whose time was `at` at some moment between `sent` and `received`, all in Unix seconds.

    Half of the round trip is the uncertainty, and half of `resolution`, by which `at` was rounded down. Raises
    TargetError for what is no time.
    """
    if not math.isfinite(at) or not 0 < at < datetime.max.replace(tzinfo=UTC).timestamp():
        raise TargetError(f"its time is {at:g} seconds", cause="malformed")
    half = resolution / 2
    offset = timedelta(seconds=at - (sent + received) / 2) + half
    return ClockOffset(offset, timedelta(seconds=abs(received - sent) / 2) + half)


def clock_of_answer(answer: Answer) -> ClockOffset:
    """The clock of an HTTP server by the header Date. Raises TargetError without one, and for an answer of a cache."""
    text = answer.headers.get("date", "")
    if not text:
        raise TargetError("the answer has no header Date", "nothing to do: not every service sends it", cause="empty")
    if "age" in answer.headers:
        raise TargetError("the answer is from a cache", "request a path that is not cached", cause="empty")
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        raise TargetError(f"its header Date is {printable(text[:40])!r}", cause="malformed") from None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    received = answer.received_at.timestamp()
    return clock_offset(at.timestamp(), received - answer.latency.total_seconds(), received, _HTTP_DATE)


def report_clock(
    ctx: Context, subject: str, found: ClockOffset | TargetError, limits: ClockLimits, *, optional: bool = False
) -> None:
    """Check a server's clock. It is unknown when the answer took so long that it may be within the limits or beyond."""
    name, expected = f"{subject}: clock offset", f"warns above {format_duration(limits.clock_warn)}"
    if isinstance(found, TargetError):
        cause = f"{found.cause}: {found.message}"
        ctx.unknown(name, cause, expected=expected, hint=found.hint or "", optional=optional)
        return
    seconds = f"{found.offset.total_seconds():+.3f} s ± {found.uncertainty.total_seconds():.3f} s"
    if found.least <= limits.clock_warn < found.most:
        hint = "the answer took too long to compare the clocks: check the load of both hosts"
        ctx.unknown(name, f"{seconds}", expected=expected, hint=hint, optional=optional)
        return
    direction = "ahead of" if found.offset > timedelta() else "behind"
    hint = f"its clock is {direction} this machine's, {seconds}: check time synchronization on both hosts: timedatectl"
    certain = found.most <= limits.clock_fail or found.least > limits.clock_fail
    difference = abs(found.offset) if certain else found.least
    ctx.check(
        name,
        timedelta(milliseconds=round(difference / timedelta(milliseconds=1))),
        at_most=limits.clock_fail,
        warn_above=limits.clock_warn,
        hint=hint if found.least > limits.clock_warn else "",
    )
