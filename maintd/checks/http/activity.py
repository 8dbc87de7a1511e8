"""How much happened, against the same hours of the same weekday in the weeks before."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import datetime, timedelta

from maintd.checks.limits import Limits
from maintd.job.context import Context

_WEEK = timedelta(days=7)


class ActivityLimits(Limits):
    """When activity is unusual."""

    weeks: int = 4
    """How many of the same weekday are looked at; their median is what is usual."""
    ratio: float = 3
    """Warn when there is more than so many times, or less than such a part of, what is usual."""
    least: int = 10
    """Less usual activity than this is not compared: small numbers vary. None at all still warns."""


def same_weekdays(now: datetime, weeks: int) -> list[datetime]:
    """This moment one week ago, two weeks ago and so on, in UTC."""
    return [now - _WEEK * week for week in range(1, weeks + 1)]


def compare(ctx: Context, limits: ActivityLimits, what: str, current: float, earlier: Sequence[float]) -> None:
    """The check of one kind of activity. Without any earlier there is nothing to compare with, and it says so."""
    usual = statistics.median(earlier) if earlier else 0
    ctx.log(
        f"{what}: {current:g}; the same weekday before: {', '.join(f'{value:g}' for value in earlier) or 'no data'}"
    )
    if usual >= limits.least:
        low, high = usual / limits.ratio, usual * limits.ratio
        ctx.check(
            f"activity: {what}", current, warn_below=low, warn_above=high, hint=f"usual on this weekday: {usual:g}"
        )
    else:
        hint = f"usual on this weekday: {usual:g}, too little to compare"
        ctx.check(f"activity: {what}", current, warn_below=1 if usual > 0 else 0, hint=hint)
