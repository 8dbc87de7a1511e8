"""A time of day with its zone, as `00:00 UTC` or `17:30 Europe/Berlin`."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from maintd.schedule.wall_time import instant_of, zone_named

_TEXT = re.compile(r"([01]\d|2[0-3]):([0-5]\d) ([A-Za-z][A-Za-z0-9_+/-]*)")


def time_of_day_problem(text: str) -> str | None:
    """Why it cannot be read, with an example; None when it can."""
    found = _TEXT.fullmatch(text)
    if found is None:
        return f'"{text}" is not a time of day with its zone; for example "00:00 UTC"'
    return None if zone_named(found[3]) is not None else f'there is no time zone "{found[3]}"; for example UTC'


def first_within(text: str, start: datetime, end: datetime) -> datetime | None:
    """The first such time in (start, end), UTC; None without one. Raises ValueError for a text that cannot be read."""
    found = _TEXT.fullmatch(text)
    zone = None if found is None else zone_named(found[3])
    if found is None or zone is None:
        raise ValueError(time_of_day_problem(text))
    hour, minute = int(found[1]), int(found[2])
    day = start.astimezone(zone).date() - timedelta(days=1)
    while day <= end.astimezone(zone).date():
        at = _instant(day, hour, minute, zone)
        if start < at < end:
            return at
        day += timedelta(days=1)
    return None


def _instant(day: date, hour: int, minute: int, zone: ZoneInfo) -> datetime:
    return instant_of(datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone))
