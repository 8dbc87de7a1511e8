"""What falls due in the days ahead."""

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
MOST = 20_000
"""Instants in one answer; an entry that is due every minute has 10,080 in a week."""


def due(service: OperatorService, days: int) -> list[DueTime]:
    """Every instant from now on for so many days, in order; `note` says why one will be skipped.

    At most MOST, the nearest. Raises UsageError unless days is 1 to MAX_DAYS.
    """
    if not 1 <= days <= MAX_DAYS:
        raise UsageError(f"{days} days cannot be looked ahead", f"give a number from 1 to {MAX_DAYS}")
    now = service.clock.now()
    calendar = service.calendar()
    pauses = pauses_now(service, now)
    streams = [
        _instants(entry, now, now + timedelta(days=days), pauses.get(entry.name))
        for entry in calendar.entries
        if entry.enabled and entry.rule is not None and entry.name not in calendar.disabled
    ]
    return list(islice(merge(*streams, key=lambda instant: instant.due_at), MOST))


def pauses_now(service: OperatorService, now: datetime) -> dict[str, Pause]:
    """Pauses in force by entry; none while the store is away, which says so elsewhere."""
    try:
        states = service.store.entries.states()
    except StoreError:
        return {}
    return {name: state.pause for name, state in states.items() if in_force(state.pause, now) and state.pause}


def in_force(pause: Pause | None, now: datetime) -> bool:
    """Whether a pause holds at that time."""
    return pause is not None and (pause.until is None or now < pause.until)


def _instants(entry: Entry, now: datetime, until: datetime, pause: Pause | None) -> Iterator[DueTime]:
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
    if pause is not None and in_force(pause, at):
        return f"paused by {pause.by}: {pause.why}"
    blackout = blackout_covering(entry.policy.blackout, at, timezone)
    return "" if blackout is None else f"in the blackout {blackout.name}".rstrip()
