"""Due times in the days ahead."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from heapq import merge
from itertools import islice

from maintd.errors import StoreError, UsageError
from maintd.model.entry import Entry, Pause
from maintd.model.status import DueTime
from maintd.operations.service import OperatorService
from maintd.schedule import blackout_covering, compile_rule, local_text, upcoming

MAX_DAYS = 366
MAX_DUE_TIMES = 20_000
"""Due times in one answer; an entry that is due every minute has 10,080 in a week."""


def due(service: OperatorService, days: int) -> list[DueTime]:
    """The due times of the next days in order, at most MAX_DUE_TIMES; `note` is the reason of a coming skip.

    Raises UsageError unless days is 1 to MAX_DAYS.
    """
    if not 1 <= days <= MAX_DAYS:
        raise UsageError(f"cannot list due times for {days} days", f"give a number from 1 to {MAX_DAYS}")
    now = service.clock.now()
    calendar = service.calendar()
    pauses = active_pauses(service, now)
    streams = [
        _due_times(entry, now, now + timedelta(days=days), pauses.get(entry.name))
        for entry in calendar.entries
        if entry.enabled and entry.rule is not None
    ]
    return list(islice(merge(*streams, key=lambda instant: instant.due_at), MAX_DUE_TIMES))


def active_pauses(service: OperatorService, now: datetime) -> dict[str, Pause]:
    """The active pauses by entry; none while the store is unreachable, which the status reports."""
    try:
        states = service.store.entries.states()
    except StoreError:
        return {}
    return {name: state.pause for name, state in states.items() if is_active(state.pause, now) and state.pause}


def is_active(pause: Pause | None, at: datetime) -> bool:
    """Whether a pause covers a time."""
    return pause is not None and (pause.until is None or at < pause.until)


def _due_times(entry: Entry, now: datetime, until: datetime, pause: Pause | None) -> Iterator[DueTime]:
    assert entry.rule is not None
    zone = entry.rule.timezone
    for at in upcoming(compile_rule(entry.rule), now, until):
        yield DueTime(
            entry=entry.name,
            title=entry.title,
            due_at=at,
            local=local_text(at, zone),
            jobs=entry.jobs,
            note=_note(entry, at, pause, zone),
        )


def _note(entry: Entry, at: datetime, pause: Pause | None, timezone: str) -> str:
    if pause is not None and is_active(pause, at):
        return f"paused by {pause.by}: {pause.why}"
    blackout = blackout_covering(entry.policy.blackout, at, timezone)
    return "" if blackout is None else f"in the blackout {blackout.name}".rstrip()
