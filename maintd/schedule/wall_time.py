"""Wall times of a time zone as instants: which days, which times of day, and what happens at a clock change.

A wall time may not occur (in the gap, when clocks go forward) or occur twice (in the fold, when they go back);
`ClockChange` has the three ways to treat that. The days of a month depend only on its shape, the weekday of day 1 and
the number of days. There are 28 shapes, so the days of each are computed once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from calendar import monthrange
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

FIRST_YEAR = 1970
"""No due time is earlier."""

LAST_YEAR = 2199
"""No due time is later. Source: systemd ends there; see systemd.time(7) and the oncalendar library."""

NOT_ZONES = frozenset({"localtime", "posixrules", "Factory", "posix", "right", "local"})
"""Names that can refer to the zone of the host, or to no zone."""

EVERY_MONTH = tuple(range(1, 13))

_DAY_SECONDS = 86_400
_SECOND = timedelta(seconds=1)


class ClockChange(Enum):
    """How a wall time is treated that does not occur, or occurs twice."""

    FIXED = "fixed"  # once: the first occurrence, or the first instant after the gap. Debian's cron for fixed times
    INTERVAL = "interval"  # each time that a clock shows it: not in the gap, twice in the fold. Debian's cron for `*`
    SYSTEMD = "systemd"  # the first occurrence, and not in the gap. Source: systemd-analyze calendar, v252


class DayRule:
    """Selects days of a month by its shape; computed once for each shape."""

    def __init__(self, matches: Callable[[int, int], Iterable[int]]) -> None:
        """`matches(first_weekday, length)` returns days of the month in order; Monday is 0."""
        self._matches = matches
        self._known: dict[tuple[int, int], tuple[int, ...]] = {}

    def days(self, year: int, month: int) -> tuple[int, ...]:
        """The days of a month, in order."""
        shape = monthrange(year, month)
        found = self._known.get(shape)
        if found is None:
            found = self._known[shape] = tuple(self._matches(*shape))
        return found


class WallTimes:
    """Wall times in a time zone: the days of `rule` in `months` (of `years`), at `times` (seconds since midnight)."""

    def __init__(
        self,
        zone: ZoneInfo,
        rule: DayRule,
        times: tuple[int, ...],
        clock_change: ClockChange,
        months: Iterable[int] = EVERY_MONTH,
        years: Iterable[int] | None = None,
    ) -> None:
        self._zone = zone
        self._rule = rule
        self._times = times
        self._clock_change = clock_change
        self._months = tuple(sorted(months))
        self._years = None if years is None else frozenset(years)
        self._clock_change_day: tuple[date | None, list[datetime]] = (None, [])

    def ever(self) -> bool:
        """True if there is such a day from 1970 on. Takes at most a few milliseconds."""
        return bool(self._times) and next(self._days(date(1970, 1, 1)), None) is not None

    def instants(self, after: datetime) -> Iterator[datetime]:
        """Instants later than `after`, in UTC, strictly increasing."""
        local = after.astimezone(self._zone)
        latest = after
        days = self._days(local.date())
        for day in days:
            start = _day_start(self._zone, day.toordinal())
            if start is None:
                instants = self._on_clock_change(day)
                found: Iterable[datetime] = instants[bisect_right(instants, latest) :]
            else:
                passed = int((after - start) / _SECOND)
                first = bisect_left(self._times, passed) if 0 < passed < _DAY_SECONDS else 0
                found = (start + timedelta(seconds=second) for second in self._times[first:])
            for at in found:
                if at > latest:
                    yield at
                    latest = at

    def _days(self, first: date) -> Iterator[date]:
        start = first.day
        for year in range(first.year, LAST_YEAR + 1):
            if self._years is not None and year not in self._years:
                start = 1
                continue
            for month in self._months:
                if year == first.year and month < first.month:
                    continue
                same = year == first.year and month == first.month
                for day in self._rule.days(year, month):
                    if not same or day >= start:
                        yield date(year, month, day)

    def _on_clock_change(self, day: date) -> list[datetime]:
        """The instants of a day with a clock change. The last such day is cached: a schedule that is due every
        second has 86,400 of them, which take half a second to compute, and needs the next one every second."""
        known, instants = self._clock_change_day
        if known != day:
            instants = self._clock_change_instants(day)
            self._clock_change_day = (day, instants)
        return instants

    def _clock_change_instants(self, day: date) -> list[datetime]:
        found: set[datetime] = set()
        for second in self._times:
            wall = datetime(day.year, day.month, day.day, tzinfo=self._zone) + timedelta(seconds=second)
            before, after = _offset(wall), _offset(wall.replace(fold=1))
            if before < after and self._clock_change is not ClockChange.FIXED:  # in the gap
                continue
            found.add(instant_of(wall))
            if before > after and self._clock_change is ClockChange.INTERVAL:  # in the fold
                found.add(wall.replace(tzinfo=UTC) - after)
        return sorted(found)


def instant_of(wall: datetime) -> datetime:
    """A wall time in its zone as an instant in UTC, as with `ClockChange.FIXED`."""
    assert isinstance(wall.tzinfo, ZoneInfo)
    before, after = _offset(wall.replace(fold=0)), _offset(wall.replace(fold=1))
    naive = wall.replace(tzinfo=UTC, fold=0)
    if before >= after:  # no change, or in the fold, where the offset before the change gives the first occurrence
        return naive - before
    return _end_of_gap(wall.tzinfo, naive - after, naive - before)


def zone_named(name: str) -> ZoneInfo | None:
    """The time zone of this name; None if there is none. Names for the zone of the host are not valid."""
    try:
        return ZoneInfo(name) if name and name not in NOT_ZONES else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def nth_days(first_weekday: int, length: int, group: Iterable[int], ordinals: Iterable[int]) -> list[int]:
    """Days of a month by ordinal among those of a group of weekdays: of {5}, 1 is the first Saturday, -1 the last."""
    wanted = frozenset(group)
    members = [day for day in range(1, length + 1) if (first_weekday + day - 1) % 7 in wanted]
    places = [ordinal - 1 if ordinal > 0 else len(members) + ordinal for ordinal in ordinals]
    return sorted({members[place] for place in places if 0 <= place < len(members)})


@lru_cache(maxsize=256)
def times_of_day(
    hours: frozenset[int], minutes: frozenset[int], seconds: frozenset[int] = frozenset({0})
) -> tuple[int, ...]:
    """Every combination, as seconds since midnight, in order."""
    return tuple(
        hour * 3600 + minute * 60 + second
        for hour in sorted(hours)
        for minute in sorted(minutes)
        for second in sorted(seconds)
    )


@lru_cache(maxsize=8192)
def _day_start(zone: ZoneInfo, ordinal: int) -> datetime | None:
    """The start of a day in UTC; None for a day with a clock change."""
    day = date.fromordinal(ordinal)
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    offset = _offset(midnight)
    if offset != _offset(midnight.replace(fold=1)) or offset != _offset(midnight + timedelta(days=1)):
        return None
    return midnight.replace(tzinfo=UTC) - offset


def _offset(wall: datetime) -> timedelta:
    offset = wall.utcoffset()
    assert offset is not None
    return offset


def _end_of_gap(zone: ZoneInfo, early: datetime, late: datetime) -> datetime:
    """The instant in (early, late] at which clocks go forward."""
    after = _offset(late.astimezone(zone))
    while late - early > _SECOND:
        middle = early + timedelta(seconds=(late - early) // _SECOND // 2)
        if _offset(middle.astimezone(zone)) == after:
            late = middle
        else:
            early = middle
    return late
