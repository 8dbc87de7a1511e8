"""Due times in the days ahead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from heapq import merge
from itertools import islice

from maintd.errors import StoreError, UsageError
from maintd.model.entry import Entry, Freeze, Pause
from maintd.model.run import Run
from maintd.model.status import DueLimit, DueTime
from maintd.operations.freezes import known_freezes
from maintd.operations.service import OperatorService
from maintd.present import utc_minute
from maintd.present.freezes import freeze_text
from maintd.schedule import blackout_covering, compile_rule, local_text, upcoming
from maintd.schedule.freezes import freeze_covering, mutates

MAX_DAYS = 3_660
"""Ten years: the next 29 February may be eight years away."""

MAX_PER_ENTRY = 1_000
"""Due times of one entry in one answer; one that is due every minute has 10,080 in a week."""


def due(service: OperatorService, days: int) -> tuple[list[DueTime], list[DueLimit]]:
    """The due times of the next days, as `due_times` has them, by the active calendar, pauses and freezes, and the
    runs that are planned in that time."""
    now = service.clock.now()
    entries = service.calendar().entries
    until = now + timedelta(days=min(days, MAX_DAYS))
    found, limits = due_times(entries, now, days, active_pauses(service, now), _freezes(service, now, until))
    planned = [_planned(service, run, entries) for run in _planned_runs(service, now) if run.not_before <= until]
    return list(merge(found, planned, key=lambda instant: instant.due_at)), limits


def due_times(
    entries: Sequence[Entry],
    now: datetime,
    days: int,
    pauses: Mapping[str, Pause],
    freezes: Sequence[Freeze] = (),
) -> tuple[list[DueTime], list[DueLimit]]:
    """The due times of the next days in order, and which entries have more than their first MAX_PER_ENTRY.

    `note` of a due time is the reason of a coming skip. Raises UsageError unless days is 1 to MAX_DAYS.
    """
    if not 1 <= days <= MAX_DAYS:
        raise UsageError(f"cannot list due times for {days} days", f"give a number from 1 to {MAX_DAYS}")
    lists, limits = [], []
    for entry in entries:
        if not entry.enabled or entry.rule is None:
            continue
        own = freezes if mutates(entry.steps) else ()
        stream = _due_times(entry, now, now + timedelta(days=days), pauses.get(entry.name), own)
        found = list(islice(stream, MAX_PER_ENTRY))
        if next(stream, None) is not None:
            limits.append(DueLimit(entry=entry.name, listed=len(found), listed_until=found[-1].due_at))
        lists.append(found)
    return list(merge(*lists, key=lambda instant: instant.due_at)), limits


def active_pauses(service: OperatorService, now: datetime) -> dict[str, Pause]:
    """The active pauses by entry; none while the store is unreachable, which the status reports."""
    try:
        states = service.store.entries.states()
    except StoreError:
        return {}
    return {name: state.pause for name, state in states.items() if is_active(state.pause, now) and state.pause}


def _freezes(service: OperatorService, since: datetime, until: datetime) -> list[Freeze]:
    """The freezes of a period; those of the calendar and of the file while the store is unreachable."""
    known = known_freezes(service)
    try:
        return known.between(since, until)
    except StoreError:
        return replace(known, store=None).between(since, until)


def _planned_runs(service: OperatorService, now: datetime) -> list[Run]:
    """The runs that are planned; none while the store is unreachable, which the status reports."""
    try:
        return service.store.runs.planned(now)
    except StoreError:
        return []


def _planned(service: OperatorService, run: Run, entries: Sequence[Entry]) -> DueTime:
    timezone = next((entry.timezone for entry in entries if entry.name == run.entry), "")
    window = run.policy.window
    parts = [f"run {run.id}, planned by {run.requested_by or 'an operator'}{f': {run.why}' if run.why else ''}"]
    if run.emergency:
        parts.append(f"EMERGENCY: {run.emergency}")
    if window is not None:
        parts.append(f"its window ends {utc_minute(run.not_before + window.lasts)}")
    parts.append(f"cancel it with: maintd cancel {run.id}")
    return DueTime(
        entry=run.entry,
        title=run.title,
        due_at=run.not_before,
        local=local_text(run.not_before, timezone or service.calendar().timezone),
        jobs=tuple(dict.fromkeys(step.job for step in run.plan if step.job)),
        note="; ".join(parts),
        run_id=run.id,
    )


def is_active(pause: Pause | None, at: datetime) -> bool:
    """Whether a pause covers a time."""
    return pause is not None and (pause.until is None or at < pause.until)


def _due_times(
    entry: Entry, now: datetime, until: datetime, pause: Pause | None, freezes: Sequence[Freeze]
) -> Iterator[DueTime]:
    assert entry.rule is not None
    zone = entry.rule.timezone
    for at in upcoming(compile_rule(entry.rule), now, until):
        yield DueTime(
            entry=entry.name,
            title=entry.title,
            due_at=at,
            local=local_text(at, zone),
            jobs=entry.jobs,
            note=_note(entry, at, pause, freezes, zone),
        )


def _note(entry: Entry, at: datetime, pause: Pause | None, freezes: Sequence[Freeze], timezone: str) -> str:
    if pause is not None and is_active(pause, at):
        return f"paused by {pause.by}: {pause.why}"
    freeze = freeze_covering(freezes, entry.name, at)
    if freeze is not None:
        return freeze_text(freeze)
    blackout = blackout_covering(entry.policy.blackout, at, timezone)
    return "" if blackout is None else f"in the blackout {blackout.name}".rstrip()
