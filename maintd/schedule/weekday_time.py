"""A weekday with a time of day, as `sat 01:00`: its next instant in a time zone. Pure."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from maintd.schedule.phrases import WEEKDAYS
from maintd.schedule.wall_time import instant_of

_TEXT = re.compile(r"([a-z]{3,9}) ([01]?\d|2[0-3]):([0-5]\d)", re.IGNORECASE)

EXAMPLE = 'for example "sat 01:00"'


def is_weekday_time(text: str) -> bool:
    """Whether a text has the form of a weekday with a time of day."""
    return _TEXT.fullmatch(text.strip()) is not None


def next_weekday_time(text: str, zone: ZoneInfo, now: datetime) -> datetime:
    """The first such instant after `now`, in UTC; a wall time in a clock change as in `instant_of`.

    Raises ValueError for a text that cannot be read.
    """
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise ValueError(f'"{text}" is not a weekday with a time; {EXAMPLE}')
    named = [number for number, name in enumerate(WEEKDAYS) if name.startswith(found[1].lower())]
    if len(named) != 1:
        raise ValueError(f'"{found[1]}" is not a weekday; {EXAMPLE}')
    day = now.astimezone(zone).date()
    day += timedelta(days=(named[0] - day.weekday()) % 7)
    while True:  # at most twice: today's time may have passed
        wall = datetime(day.year, day.month, day.day, int(found[2]), int(found[3]), tzinfo=zone)
        at = instant_of(wall)
        if at > now:
            return at
        day += timedelta(days=7)
