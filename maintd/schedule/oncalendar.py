"""systemd's OnCalendar expressions. The oncalendar library parses them; `maintd.schedule.wall_time` computes instants.

Clock changes are treated as by systemd: a wall time in the gap is not due on that day, one in the fold is due once, at
its first occurrence (systemd repeats it if it is started within the fold). The library is imported when the first such
expression is read.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from maintd.schedule.cron import month_of_shape
from maintd.schedule.wall_time import ClockChange, DayRule, WallTimes, times_of_day, zone_named


def read_oncalendar(text: str) -> list[tuple[Any, ZoneInfo | None]]:
    """Each line of the text, parsed by the library, with the time zone in it if it has one. Raises ValueError."""
    from oncalendar import BaseIterator, OnCalendarError

    found = []
    for line in text.strip().splitlines():
        expression, _, last = line.strip().rpartition(" ")
        zone = zone_named(last) if expression and last[:1].isalpha() else None
        try:
            found.append((BaseIterator(expression if zone else line.strip(), datetime(1970, 1, 1, tzinfo=UTC)), zone))
        except OnCalendarError as error:
            advice = 'for example "Sat *-*-1..7 01:00"; see systemd.time(7)'
            raise ValueError(f'"{line.strip()}": {str(error).lower()}; {advice}') from None
    if not found:
        raise ValueError('the OnCalendar expression is empty; for example "Sat *-*-1..7 01:00"')
    return found


def oncalendar_wall_times(text: str, zone: ZoneInfo) -> list[WallTimes]:
    """The wall times of each line, in the time zone of the line, or in `zone` if it has none."""
    return [
        WallTimes(
            named or zone,
            DayRule(_matches(read)),
            times_of_day(frozenset(read.hours), frozenset(read.minutes), frozenset(read.seconds)),
            ClockChange.SYSTEMD,
            read.months,
            read.years,
        )
        for read, named in read_oncalendar(text)
    ]


def _matches(read: Any) -> Any:
    def matches(first_weekday: int, length: int) -> list[int]:
        year, month = month_of_shape(first_weekday, length)
        days = [date(year, month, day) for day in range(1, length + 1)]
        return [day.day for day in days if read.match_dow(day) and read.match_dom(day)]

    return matches
