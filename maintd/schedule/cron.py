"""crontab expressions. cronsim parses them and matches days; `maintd.schedule.wall_time` computes the instants.

cronsim's own iteration is not used: for a clock change of half an hour (Lord Howe) it omits some instants of
`*/15 2 * * *`, and when it starts within a repeated hour it returns an instant in the past.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from maintd.schedule.wall_time import ClockChange, DayRule, WallTimes, times_of_day

MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""Source: crontab(5)."""

# cronsim parses 5-5/2 as 5/2, which continues to the end of the range; in crontab it is only 5.
_SINGLE_VALUE_RANGE = re.compile(r"\b(\w+)-\1/[1-9]\d*\b")

_ORDER = "minute hour day-of-month month day-of-week"


def read_cron(text: str) -> Any:
    """The expression, parsed by cronsim. Raises ValueError with the error and a correction."""
    expression = _SINGLE_VALUE_RANGE.sub(r"\1", MACROS.get(text.strip().lower(), text))
    fields = expression.split()
    if expression.strip().startswith("@"):
        raise ValueError(f'"{text}" is not supported; write five fields, or one of {", ".join(MACROS)}')
    if fields and (named := re.fullmatch(r"(?:CRON_)?TZ=(\S*)", fields[0])):
        zone = named[1].strip("\"'") or "UTC"
        raise ValueError(f'"{fields[0]}" is no part of an expression; write `timezone: {zone}` beside `cron`')
    if len(fields) != 5:
        advice = "for seconds use `every: 30s`" if len(fields) == 6 else 'for example "0 2 * * 0"'
        raise ValueError(f'"{text}" has {len(fields)} fields, a cron expression has five ({_ORDER}); {advice}')
    try:
        return CronSim(expression, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        if _day_never_comes(fields):
            raise ValueError(f'"{text}" can never be due: there is no such day') from None
        raise ValueError(f'"{text}": {_message(str(error), fields)}') from None


def uneven_steps(text: str) -> list[str]:
    """Steps of minutes or hours that are no interval: */45 is due at :00 and :45, since each hour begins at 0."""
    fields = MACROS.get(text.strip().lower(), text).split()[:2]
    found = []
    for field, size in zip(fields, (60, 24), strict=False):
        steps = re.findall(r"(?:\*|\d+)/(\d+)", field)
        found += [field for step in steps if int(step) > 0 and size % int(step) and int(step) < size]
    return found


def cron_wall_times(text: str, zone: ZoneInfo) -> WallTimes:
    """The wall times of an expression.

    0 and 7 are Sunday. Day-of-month and day-of-week are OR-ed unless one begins with `*`, as in Debian's cron. An
    expression whose minute or hour begins with `*` repeats with the clock, any other has fixed times.
    """
    read = read_cron(text)
    minute, hour, *days = read.parts[1:]
    clock_change = ClockChange.INTERVAL if minute.startswith("*") or hour.startswith("*") else ClockChange.FIXED
    times = times_of_day(frozenset(read.hours), frozenset(read.minutes))
    return WallTimes(zone, _day_rule(" ".join(days)), times, clock_change, read.months)


@lru_cache(maxsize=4096)
def _day_rule(fields: str) -> DayRule:
    """Cached, because many expressions differ only in the time of day."""
    read = CronSim(f"0 0 {fields}", datetime(2026, 1, 1, tzinfo=UTC))

    def matches(first_weekday: int, length: int) -> list[int]:
        year, month = month_of_shape(first_weekday, length)
        return [day for day in range(1, length + 1) if read.match_day(date(year, month, day))]

    return DayRule(matches)


@lru_cache(maxsize=28)
def month_of_shape(first_weekday: int, length: int) -> tuple[int, int]:
    """(year, month) of a month that begins on this weekday (Monday is 0) and has this many days."""
    from calendar import monthrange

    return next(
        (year, month)
        for year in range(1996, 2100)
        for month in range(1, 13)
        if monthrange(year, month) == (first_weekday, length)
    )


def _day_never_comes(fields: list[str]) -> bool:
    """True for a date such as 30 February, which cronsim reports with the same text as the 32nd of a month."""
    try:
        CronSim(" ".join([*fields[:3], "*", fields[4]]), datetime(2026, 1, 1, tzinfo=UTC))
        CronSim(" ".join([*fields[:2], "*", *fields[3:]]), datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError:
        return False
    return True


def _message(message: str, fields: list[str]) -> str:
    name = message.removeprefix("Bad ")
    order = _ORDER.split()
    if name not in order:
        return message
    ranges = {
        "minute": "0 to 59",
        "hour": "0 to 23",
        "day-of-month": "1 to 31, or L for the last",
        "month": "1 to 12, or JAN to DEC",
        "day-of-week": "0 to 7 (0 and 7 are Sunday), or SUN to SAT",
    }
    return f'"{fields[order.index(name)]}" is not a {name}; write {ranges[name]}'
