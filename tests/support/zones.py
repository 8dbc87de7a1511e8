"""Time zones with special rules, their clock changes, and due times by enumeration of every minute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

ZONES = (
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",  # clocks move by half an hour
    "Asia/Kathmandu",  # 5:45 ahead, never changed
    "Africa/Casablanca",  # set back for Ramadan
    "UTC",
)
FIRST = datetime(2020, 1, 1, tzinfo=UTC)
LAST = datetime(2030, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@cache
def changes(zone: str) -> tuple[datetime, ...]:
    """Return the instants in these ten years at which the zone changes its clocks, to the minute."""
    found = []
    info = ZoneInfo(zone)
    at = FIRST
    while at < LAST:
        if at.astimezone(info).utcoffset() != (at + HOUR).astimezone(info).utcoffset():
            minute = at
            while minute.astimezone(info).utcoffset() == at.astimezone(info).utcoffset():
                minute += MINUTE
            found.append(minute)
        at += HOUR
    return tuple(found)


@dataclass(frozen=True)
class Naive:
    """A schedule that is checked minute by minute, as with a clock and a calendar."""

    hours: frozenset[int]
    minutes: frozenset[int]
    on_day: Callable[[date], bool]
    by_the_clock: bool  # whenever the clock shows the time, not once a day

    def between(self, after: datetime, until: datetime, zone: str) -> list[datetime]:
        """Return the due times in (after, until]."""
        return [at for at in self._minutes(after, until, ZoneInfo(zone)) if after < at <= until]

    def _minutes(self, after: datetime, until: datetime, zone: ZoneInfo) -> Iterator[datetime]:
        hour = after.replace(minute=0)
        while hour <= until:
            # A day may begin within the hour; hours of days that do not match are passed over.
            if any(self.on_day((hour + m * MINUTE).astimezone(zone).date()) for m in (0, 15, 30, 45, 59)):
                for minute in range(60):
                    at = hour + minute * MINUTE
                    if self._due(at, zone):
                        yield at
            hour += HOUR

    def _due(self, at: datetime, zone: ZoneInfo) -> bool:
        local = at.astimezone(zone)
        if self.by_the_clock:
            return self._shows(local)
        if local.fold == 0 and self._shows(local):
            return True
        before = (at - MINUTE).astimezone(zone).replace(tzinfo=None)
        skipped = before + MINUTE  # wall times that no clock showed between the minute before and this one
        while skipped < local.replace(tzinfo=None):
            if self._shows(skipped):
                return True
            skipped += MINUTE
        return False

    def _shows(self, wall: datetime) -> bool:
        return wall.minute in self.minutes and wall.hour in self.hours and self.on_day(wall.date())
