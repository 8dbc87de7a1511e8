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


def compare(ctx: Context, limits: ActivityLimits, what: str, current: float, earlier: Sequence[float]) -> None:
    """Report one kind of activity against its typical value; `earlier` has the values of earlier weeks."""
    typical = statistics.median(earlier) if earlier else 0
    values = ", ".join(f"{value:g}" for value in earlier) or "no data"
    ctx.log(f"{what}: {current:g}; the same weekday in earlier weeks: {values}")
    if typical >= limits.least:
        low, high = typical / limits.ratio, typical * limits.ratio
        ctx.check(
            f"activity: {what}", current, warn_below=low, warn_above=high, hint=f"typical on this weekday: {typical:g}"
        )
    else:
        hint = f"typical on this weekday: {typical:g}, too little to compare"
        ctx.check(f"activity: {what}", current, warn_below=1 if typical > 0 else 0, hint=hint)
