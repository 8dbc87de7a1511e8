"""Compiled schedules, which compute due times. Equal rules share one schedule."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from heapq import merge
from itertools import takewhile
from typing import NamedTuple, Protocol
from zoneinfo import ZoneInfo, available_timezones

from maintd.errors import nearest
from maintd.model.entry import Rule, ScheduleKind
from maintd.schedule.cron import cron_wall_times
from maintd.schedule.oncalendar import oncalendar_wall_times
from maintd.schedule.phrases import parse_phrase
from maintd.schedule.wall_time import FIRST_YEAR, LAST_YEAR, NOT_ZONES, instant_of, zone_named
from maintd.units import format_duration, parse_duration

MAX_DUE = 7 * 24 * 60
"""The most due times of one entry that get a row each after downtime: one week of an entry that is due every minute."""

SHORTEST = timedelta(seconds=1)
"""The shortest interval between due times."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Instants(Protocol):
    def instants(self, after: datetime) -> Iterator[datetime]: ...


class Schedule:
    """The due times of a rule. Created by `compile_rule`."""

    def __init__(self, parts: Sequence[_Instants]) -> None:
        self._parts = tuple(parts)

    def next_after(self, at: datetime) -> datetime | None:
        """The first due time later than `at`, in UTC; None if there is none."""
        found = next(self.instants(at), None)
        assert found is None or found > at, "due times must increase"
        return found

    def instants(self, after: datetime) -> Iterator[datetime]:
        """Due times later than `after`, in UTC, strictly increasing."""
        if len(self._parts) == 1:
            yield from self._parts[0].instants(after)
            return
        latest = after
        for at in merge(*(part.instants(after) for part in self._parts)):
            if at > latest:
                yield at
                latest = at

    def interval(self) -> timedelta | None:
        """The time between due times if it is constant, as for `every`; else None."""
        only = self._parts[0]
        return only.every if isinstance(only, _Multiples) and len(self._parts) == 1 else None


class Due(NamedTuple):
    """Due times, oldest first. `left_out` is the number of older ones beyond MAX_DUE."""

    times: list[datetime]
    left_out: int


def compile_rule(rule: Rule) -> Schedule:
    """The schedule of a rule. Raises ValueError for an invalid rule, and for one that is never due."""
    return _compile(rule.kind, rule.text, rule.timezone)


def due_between(schedule: Schedule, after: datetime, until: datetime) -> Due:
    """Due times in (after, until], oldest first, in UTC; at most MAX_DUE of them, the latest kept.

    A wall time that occurs twice (end of DST) counts once, at its first occurrence; one that does not occur (start of
    DST) falls at the first instant after the gap. What repeats by the clock (`*/15`) goes on repeating.
    Source: Debian cron's rule, see cron(8); pinned in tests/unit/test_schedule_dst.py.
    """
    skipped = 0
    interval = schedule.interval()
    if interval is not None and (until - after) // interval > MAX_DUE:
        later = until - interval * MAX_DUE
        skipped = (later - _EPOCH) // interval - (after - _EPOCH) // interval
        after = later
    count = 0
    latest: deque[datetime] = deque(maxlen=MAX_DUE)
    for at in upcoming(schedule, after, until):
        latest.append(at)
        count += 1
    return Due(list(latest), skipped + count - len(latest))


def upcoming(schedule: Schedule, after: datetime, until: datetime) -> Iterator[datetime]:
    """Due times in (after, until], oldest first, in UTC."""
    return takewhile(lambda at: at <= until, schedule.instants(after))


def jitter_of(entry: str, due_at: datetime, jitter: timedelta) -> timedelta:
    """The delay of a start after its due time, from zero to `jitter`: the same on every node and after a restart."""
    digest = hashlib.sha256(f"{entry}\n{due_at.astimezone(UTC).isoformat()}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return timedelta(milliseconds=round(jitter / timedelta(milliseconds=1) * share))


def zone_problem(name: str) -> str | None:
    """The error in the name of a time zone; None if it is valid. Names for the zone of the host are not valid."""
    if zone_named(name) is not None:
        return None
    known = available_timezones() - NOT_ZONES
    folded = {zone.rpartition("/")[2].casefold(): zone for zone in known} | {zone.casefold(): zone for zone in known}
    wanted = name.replace(" ", "_").casefold()
    near = folded.get(wanted) or folded.get(nearest(wanted, folded) or "")
    advice = f'did you mean "{near}"?' if near else "for example UTC or Europe/Berlin"
    return f'unknown time zone "{name}"; {advice}'


class _Multiples:
    """Multiples of a duration since 1970-01-01 00:00 UTC."""

    def __init__(self, every: timedelta) -> None:
        self.every = every

    def instants(self, after: datetime) -> Iterator[datetime]:
        at = _EPOCH + ((after - _EPOCH) // self.every + 1) * self.every
        while True:
            yield at
            try:
                at += self.every
            except OverflowError:
                return


class _Once:
    """One instant."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def instants(self, after: datetime) -> Iterator[datetime]:
        if self.at > after:
            yield self.at


@lru_cache(maxsize=16_384)
def _compile(kind: ScheduleKind, text: str, timezone: str) -> Schedule:
    problem = zone_problem(timezone)
    if problem:
        raise ValueError(problem)
    return Schedule(_READERS[kind](text, ZoneInfo(timezone)))


def _phrase(text: str, zone: ZoneInfo) -> list[_Instants]:
    wall_times = parse_phrase(text).wall_times(zone)
    if not wall_times.ever():
        raise ValueError(f'"{text}" can never be due: there is no such day')
    return [wall_times]


def _cron(text: str, zone: ZoneInfo) -> list[_Instants]:
    wall_times = cron_wall_times(text, zone)
    if not wall_times.ever():
        raise ValueError(f'"{text}" can never be due: there is no such day')
    return [wall_times]


def _oncalendar(text: str, zone: ZoneInfo) -> list[_Instants]:
    wall_times = oncalendar_wall_times(text, zone)
    if not any(each.ever() for each in wall_times):
        raise ValueError(f'"{text}" can never be due: there is no such day')
    return list(wall_times)


def _every(text: str, zone: ZoneInfo) -> list[_Instants]:
    if text.strip().isdigit():
        raise ValueError(f'"{text}" has no unit; for example {text.strip()}m or {text.strip()}h')
    every = parse_duration(text)
    if every < SHORTEST:
        raise ValueError(f'"{text}" is too short an interval; the shortest is {format_duration(SHORTEST)}')
    if every > timedelta(days=36_500):
        raise ValueError(f'"{text}" is too long an interval; the longest is 100 years')
    return [_Multiples(every)]


def _at(text: str, zone: ZoneInfo) -> list[_Instants]:
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f'"{text}" is not a date and time; for example 2026-12-05T01:00') from None
    if "T" not in text.strip().upper() and ":" not in text:
        raise ValueError(f'"{text}" has no time of day; for example {text.strip()}T01:00')
    if not FIRST_YEAR <= at.year <= LAST_YEAR:
        raise ValueError(f'"{text}" is outside of the years {FIRST_YEAR} to {LAST_YEAR}')
    return [_Once(instant_of(at.replace(tzinfo=zone)) if at.tzinfo is None else at.astimezone(UTC))]


_READERS: dict[ScheduleKind, Callable[[str, ZoneInfo], list[_Instants]]] = {
    ScheduleKind.PHRASE: _phrase,
    ScheduleKind.CRON: _cron,
    ScheduleKind.ONCALENDAR: _oncalendar,
    ScheduleKind.EVERY: _every,
    ScheduleKind.AT: _at,
}
