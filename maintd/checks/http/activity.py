"""Activity compared with the same hours of the same weekday in earlier weeks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import datetime, timedelta

from maintd.checks.limits import Limits
from maintd.job.context import Context

_WEEK = timedelta(days=7)


class ActivityLimits(Limits):
    """Limits for unusual activity."""

    weeks: int = 4
    """Number of earlier weeks; their median is the typical activity."""
    ratio: float = 3
    """Warn when activity is more than this times the typical one, or less than the typical one divided by this."""
    least: int = 10
    """Do not compare with less typical activity: small numbers vary. No activity at all still warns."""


def same_weekdays(now: datetime, weeks: int) -> list[datetime]:
    """The same instant one week ago, two weeks ago and so on, in UTC."""
    return [now - _WEEK * week for week in range(1, weeks + 1)]


def since_first_data(earlier: Sequence[float]) -> list[float]:
    """The earlier weeks, latest first, without those before the first data: their zeros were not observed."""
    found = list(earlier)
    while found and found[-1] == 0:
        found.pop()
    return found


def compare(ctx: Context, limits: ActivityLimits, what: str, current: float, earlier: Sequence[float]) -> None:
    """Report one kind of activity against its typical value; `earlier` has the values of earlier weeks, latest first.

    Without earlier activity to compare with, the check is unknown and optional: a number that may be anything is not
    evidence that all is well.
    """
    known = since_first_data(earlier)
    values = ", ".join(f"{value:g}" for value in known) or "no data"
    ctx.log(f"{what}: {current:g}; the same weekday in earlier weeks: {values}")
    typical = statistics.median(known) if known else 0
    if typical >= limits.least:
        low, high = typical / limits.ratio, typical * limits.ratio
        weeks = f"{len(known)} earlier week{'s' if len(known) > 1 else ''}"
        ctx.check(
            f"activity: {what}",
            current,
            warn_below=low,
            warn_above=high,
            hint=f"typical on this weekday: {typical:g}, by {weeks}",
        )
    elif typical > 0:
        hint = f"typical on this weekday: {typical:g}, too little to compare"
        ctx.check(f"activity: {what}", current, warn_below=1, hint=hint)
    else:
        cause = "no activity" if known else "no data"
        ctx.unknown(
            f"activity: {what}",
            f"{cause} in earlier weeks to compare with; now {current:g}",
            expected="activity as on the same weekday",
            optional=True,
        )
