"""How things stand: what `maintd status`, the first page and the metrics say."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import maintd
from maintd.errors import CalendarError, MaintdError, StoreError, UnknownNameError
from maintd.model.entry import Entry, EntryState, Pause
from maintd.model.run import Run, RunState, RunSummary
from maintd.model.status import Diagnosis, EntryStatus, LockHolder, NodeState, Severity, StatusReport
from maintd.operations.diagnosis import diagnose
from maintd.operations.due import in_force
from maintd.operations.lookup import find
from maintd.operations.service import OperatorService
from maintd.schedule import compile_rule, describe, local_text
from maintd.store import LastRuns

MOST_OTHERS = 100
"""Unfinished runs that are looked through for those of jobs in no calendar."""


class Calendared(NamedTuple):
    """The calendar as far as it can be had."""

    entries: tuple[Entry, ...]
    disabled: dict[str, str]
    problems: tuple[str, ...]
    path: str
    remarks: tuple[str, ...] = ()


class Stored(NamedTuple):
    """What the store knows about entries. `away` says why it does not answer, and then the rest is empty."""

    states: dict[str, EntryState]
    last: dict[str, LastRuns]
    away: str = ""


def status(service: OperatorService) -> StatusReport:
    """All entries, and what is the matter with maintd itself. Answers also while the store is away."""
    calendar = _calendar(service)
    names = [entry.name for entry in calendar.entries]
    stored = _stored(service, names)
    others, locks, nodes = _around(service, names, stored)
    now = _now(service, stored)
    daemon = service.started_at is not None
    settings = service.settings
    return StatusReport(
        at=now,
        node=settings.node if daemon else "",
        version=maintd.__version__ if daemon else "",
        pid=os.getpid() if daemon else None,
        started_at=service.started_at,
        page=f"http://{settings.listen}/" if daemon and settings.listen else None,
        calendar=calendar.path,
        store=service.store.url_masked,
        problems=tuple(_problems(service, calendar, stored)),
        remarks=calendar.remarks,
        entries=tuple(_status_of(service, entry, stored, now, calendar.disabled) for entry in calendar.entries),
        others=tuple(others),
        locks=tuple(locks),
        nodes=tuple(nodes),
    )


def entry_status(service: OperatorService, name: str) -> EntryStatus:
    """One entry, or a job by its own name. Raises UnknownNameError."""
    calendar = _calendar(service)
    entry = next((entry for entry in calendar.entries if entry.name == name), None)
    stored = _stored(service, [name])
    if entry is None:
        try:
            entry = find(service, name)
        except UnknownNameError:
            gone = service.store.entries.states([name]) if not stored.away else {}
            if name not in gone:
                raise
            entry = _remembered(gone[name])  # it was in the calendar once, and its history is still here
    return _status_of(service, entry, stored, _now(service, stored), calendar.disabled)


def _status_of(
    service: OperatorService, entry: Entry, stored: Stored, now: datetime, disabled: dict[str, str]
) -> EntryStatus:
    last = stored.last.get(entry.name, LastRuns())
    state = stored.states.get(entry.name)
    pause = state.pause if state is not None and in_force(state.pause, now) else None
    works = entry.enabled and entry.name not in disabled
    next_due = None if entry.rule is None or not works else compile_rule(entry.rule).next_after(now)
    diagnosis = _diagnosis(service, entry, stored, now, pause, disabled.get(entry.name, ""))
    return EntryStatus(
        entry=entry.name,
        title=entry.title,
        runbook=entry.runbook,
        schedule="only by hand" if entry.rule is None else describe(entry.rule),
        enabled=works,
        jobs=entry.jobs,
        next_due_at=next_due,
        next_due_local="" if next_due is None or entry.rule is None else local_text(next_due, entry.rule.timezone),
        pause=pause,
        active_run=last.active,
        last_run=last.last_run,
        last_worked=last.last_worked,
        last_success_at=None if last.last_success is None else last.last_success.finished_at,
        failing_since=last.failing_since,
        failures_in_a_row=last.failures_in_a_row,
        typical_duration=last.typical_duration,
        **dict(diagnosis),
    )


def _diagnosis(
    service: OperatorService, entry: Entry, stored: Stored, now: datetime, pause: Pause | None, disabled: str
) -> Diagnosis:
    if stored.away:
        return _unknown(stored.away)
    last = stored.last.get(entry.name, LastRuns())
    worked: Run | None = None
    if last.last_worked is not None and last.last_worked.state is not RunState.SUCCEEDED:
        try:
            worked = service.store.history.run(last.last_worked.id)
        except StoreError as error:
            return _unknown(error.message)
    return diagnose(entry, last, worked, now, pause=pause, disabled=disabled)


def _unknown(why: str) -> Diagnosis:
    return Diagnosis(state="unknown", severity=Severity.UNKNOWN, why=f"unknown: {why}", next_step="maintd db check")


def _calendar(service: OperatorService) -> Calendared:
    """In force; when it cannot be read, what the store remembers of it."""
    try:
        calendar = service.calendar()
    except (CalendarError, MaintdError) as error:
        problems = error.problems if isinstance(error, CalendarError) else (str(error),)
        try:
            states = service.store.entries.states().values()
        except StoreError:
            states = {}.values()
        return Calendared(tuple(_remembered(state) for state in states if state.active), {}, tuple(problems), "")
    return Calendared(calendar.entries, dict(calendar.disabled), (), str(calendar.path), tuple(calendar.warnings))


def _remembered(state: EntryState) -> Entry:
    return Entry(
        name=state.name, title=state.title, rule=state.rule, steps=(), policy=state.policy, enabled=state.active
    )


def _stored(service: OperatorService, names: Sequence[str]) -> Stored:
    try:
        return Stored(service.store.entries.states(names), service.store.history.last_per_entry(names))
    except StoreError as error:
        return Stored({}, {}, error.message)


def _around(
    service: OperatorService, names: Iterable[str], stored: Stored
) -> tuple[list[RunSummary], list[LockHolder], list[NodeState]]:
    if stored.away:
        return [], [], []
    known = set(names)
    unfinished = [state for state in RunState if not state.final]
    try:
        runs = service.store.history.runs(states=unfinished, limit=MOST_OTHERS)
        others = [run for run in runs if run.entry not in known]
        return others, service.store.locks.holders(service.store.now()), service.store.nodes.all()
    except StoreError:
        return [], [], []


def _problems(service: OperatorService, calendar: Calendared, stored: Stored) -> Iterable[str]:
    yield from service.health().problems
    if stored.away:
        yield f"the store does not answer: {stored.away}"
    try:
        broken = service.broken_jobs()
    except MaintdError as error:
        yield str(error)
        broken = []
    for job in broken:
        yield f'job "{job.name}" is broken: {job.error}'
    for name, why in calendar.disabled.items():
        yield f'entry "{name}" is disabled: {why}'
    yield from calendar.problems


def _now(service: OperatorService, stored: Stored) -> datetime:
    """The store's time, by which due times count; this machine's while the store is away."""
    if not stored.away:
        try:
            return service.store.now()
        except StoreError:
            pass
    return service.clock.now()
