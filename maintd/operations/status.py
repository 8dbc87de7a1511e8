"""The status report: the source of `maintd status`, the first page and the metrics."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import NamedTuple

import maintd
from maintd.errors import CalendarError, MaintdError, StoreError, UnknownNameError
from maintd.model.access import Caller
from maintd.model.entry import Entry, EntryState, Freeze, Pause
from maintd.model.finding import Finding
from maintd.model.gate import WaitingGate
from maintd.model.notice import Mute
from maintd.model.run import LinkKind, Run, RunState, RunSummary
from maintd.model.status import Diagnosis, EntryStatus, LockHolder, NodeState, Severity, StatusReport
from maintd.model.target import Targets
from maintd.operations import rehearsals
from maintd.operations.diagnosis import Held, diagnose
from maintd.operations.due import is_active
from maintd.operations.freezes import KnownFreezes
from maintd.operations.gates import waiting_gates
from maintd.operations.lookup import find_entry
from maintd.operations.notices import undelivered
from maintd.operations.service import OperatorService
from maintd.operations.successor_plan import why_held
from maintd.schedule import compile_rule, describe, local_text
from maintd.schedule.freezes import freeze_covering, mutates
from maintd.store import LastRuns
from maintd.store.last_runs import active_of
from maintd.store.successors import following


class CalendarView(NamedTuple):
    """The calendar as far as it can be read."""

    entries: tuple[Entry, ...]
    broken: dict[str, str]
    problems: tuple[str, ...]
    path: str
    remarks: tuple[str, ...] = ()
    notifies: bool = False
    freezes: tuple[Freeze, ...] = ()
    targets: Targets = Targets()


class StoredEntries(NamedTuple):
    """What the store knows about entries. `unreachable` is why it does not answer; then the rest is empty."""

    states: dict[str, EntryState]
    last: dict[str, LastRuns]
    unreachable: str = ""
    acknowledged: Sequence[Finding] = ()
    mutes: tuple[Mute, ...] = ()
    freezes: tuple[Freeze, ...] = ()  # active, of all kinds; those of calendar and file also without the store
    held: Mapping[str, Held] = MappingProxyType({})
    planned: Mapping[str, tuple[RunSummary, ...]] = MappingProxyType({})  # for a later time, soonest first


def status(service: OperatorService) -> StatusReport:
    """All entries and the problems of maintd itself. Works also while the store is unreachable."""
    calendar = _calendar(service)
    names = [entry.name for entry in calendar.entries]
    stored = _stored(service, names, calendar)
    others, locks, nodes = _others(service, names, stored)
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
        remarks=(*calendar.remarks, *_rehearsals(service, calendar, stored, now)),
        freezes=stored.freezes,
        entries=tuple(_status_of(service, entry, stored, now, calendar.broken) for entry in calendar.entries),
        others=tuple(others),
        locks=tuple(locks),
        gates=_gates(service, stored),
        nodes=tuple(nodes),
    )


def status_for(service: OperatorService, caller: Caller) -> StatusReport:
    """The status with the entries, runs and locks of the caller's entries."""
    report = status(service)
    if not caller.entries:
        return report
    fields = ("entries", "others", "locks", "gates")
    shown = {name: tuple(one for one in getattr(report, name) if caller.covers(one.entry)) for name in fields}
    shown["freezes"] = tuple(
        freeze for freeze in report.freezes if freeze.entries == "*" or caller.covers_pattern(freeze.entries)
    )
    return report.model_copy(update=shown)


def entry_status(service: OperatorService, name: str) -> EntryStatus:
    """The status of one entry, or of a job by its name. Raises UnknownNameError."""
    calendar = _calendar(service)
    entry = next((entry for entry in calendar.entries if entry.name == name), None)
    stored = _stored(service, [name], calendar)
    if entry is None:
        try:
            entry = find_entry(service, name)
        except UnknownNameError:
            gone = service.store.entries.states([name]) if not stored.unreachable else {}
            if name not in gone:
                raise
            entry = _entry_from_store(gone[name])  # no longer in the calendar, but it has a history
    return _status_of(service, entry, stored, _now(service, stored), calendar.broken)


def _status_of(
    service: OperatorService, entry: Entry, stored: StoredEntries, now: datetime, broken: dict[str, str]
) -> EntryStatus:
    last = stored.last.get(entry.name, LastRuns())
    state = stored.states.get(entry.name)
    pause = state.pause if state is not None and is_active(state.pause, now) else None
    planned = stored.planned.get(entry.name, ())
    next_due = None if entry.rule is None or not entry.enabled else compile_rule(entry.rule).next_after(now)
    timezone = entry.timezone if entry.rule is None else entry.rule.timezone
    if next_due is None and entry.enabled and planned:
        next_due = planned[0].not_before
    diagnosis = _diagnosis(service, entry, stored, now, pause, broken.get(entry.name, ""))
    return EntryStatus(
        entry=entry.name,
        title=entry.title,
        runbook=entry.runbook,
        schedule=describe(entry.rule),
        enabled=entry.enabled,
        jobs=entry.jobs,
        overlay=entry.overlay,
        next_due_at=next_due,
        next_due_local="" if next_due is None else local_text(next_due, timezone or "UTC"),
        pause=pause,
        freeze=freeze_covering(stored.freezes, entry.name, now) if mutates(entry.steps) else None,
        mute=next((mute for mute in stored.mutes if fnmatchcase(entry.name, mute.entries)), None),
        active_run=last.active,
        planned_runs=planned,
        last_run=last.last_run,
        last_finished=last.last_finished,
        last_success_at=None if last.last_success is None else last.last_success.finished_at,
        failing_since=last.failing_since,
        failures_in_a_row=last.failures_in_a_row,
        typical_duration=last.typical_duration,
        **dict(diagnosis),
    )


def _diagnosis(
    service: OperatorService, entry: Entry, stored: StoredEntries, now: datetime, pause: Pause | None, broken: str
) -> Diagnosis:
    if stored.unreachable:
        return _unknown(stored.unreachable)
    last = stored.last.get(entry.name, LastRuns())
    finished: Run | None = None
    undone_by: Run | None = None
    if last.last_finished is not None and last.last_finished.state is not RunState.SUCCEEDED:
        try:
            finished = service.store.history.run(last.last_finished.id)
            undone_by = None if finished is None else _undone_by(service, finished)
        except StoreError as error:
            return _unknown(error.message)
    findings = [finding for finding in stored.acknowledged if finding.entry == entry.name]
    held = stored.held.get(entry.name)
    return diagnose(
        entry, last, finished, now, pause=pause, broken=broken, findings=findings, held=held, undone_by=undone_by
    )


def _undone_by(service: OperatorService, run: Run) -> Run | None:
    """The run that undoes this one."""
    link = following(run, LinkKind.UNDOES)
    return None if link is None else service.store.history.run(link.run_id)


def _unknown(why: str) -> Diagnosis:
    return Diagnosis(state="unknown", severity=Severity.UNKNOWN, why=f"unknown: {why}", next_step="maintd db check")


def _calendar(service: OperatorService) -> CalendarView:
    """The active calendar; if it cannot be read, the entries that the store knows."""
    try:
        calendar = service.calendar()
    except (CalendarError, MaintdError) as error:
        problems = error.problems if isinstance(error, CalendarError) else (str(error),)
        try:
            states = service.store.entries.states().values()
        except StoreError:
            states = {}.values()
        return CalendarView(
            tuple(_entry_from_store(state) for state in states if state.active), {}, tuple(problems), ""
        )
    return CalendarView(
        calendar.entries,
        dict(calendar.broken),
        (),
        calendar.place,
        tuple(calendar.warnings),
        bool(calendar.notify.destinations),
        calendar.freezes,
        calendar.targets,
    )


def _entry_from_store(state: EntryState) -> Entry:
    return Entry(
        name=state.name, title=state.title, rule=state.rule, steps=(), policy=state.policy, enabled=state.active
    )


def _stored(service: OperatorService, names: Sequence[str], calendar: CalendarView) -> StoredEntries:
    file = service.settings.freeze_file
    try:
        now = service.store.now()
        last = service.store.history.last_per_entry(names)
        planned, active = _planned(service, last, now)
        freezes = tuple(KnownFreezes(service.store, lambda: calendar.freezes, file).active(now))
        return StoredEntries(
            service.store.entries.states(names),
            last | {name: last[name]._replace(active=run) for name, run in active.items()},
            planned=planned,
            acknowledged=service.store.findings.acknowledged(),
            mutes=tuple(service.store.mutes.active(now)),
            freezes=freezes,
            held=_held(service, freezes),
        )
    except StoreError as error:
        known = KnownFreezes(None, lambda: calendar.freezes, file).active(service.clock.now())
        return StoredEntries({}, {}, error.message, freezes=tuple(known))


def _planned(
    service: OperatorService, last: Mapping[str, LastRuns], now: datetime
) -> tuple[dict[str, tuple[RunSummary, ...]], dict[str, RunSummary | None]]:
    """By the name of an entry with planned runs: these, soonest first, and its unfinished run that is not planned."""
    names = {run.entry for run in service.store.runs.planned(now) if run.entry in last}
    names |= {name for name, runs in last.items() if runs.active is not None and runs.active.is_planned(now)}
    planned, active = {}, {}
    unfinished = service.store.runs.unfinished(sorted(names))
    for name in names:
        of_entry = [run for run in unfinished if run.entry == name]
        found = sorted((run for run in of_entry if run.is_planned(now)), key=lambda run: (run.not_before, run.id))
        planned[name], active[name] = tuple(found), active_of(of_entry, now)
    return planned, active


def _held(service: OperatorService, freezes: Sequence[Freeze]) -> dict[str, Held]:
    """The held runs by entry."""
    found = service.store.successors.held()
    now = service.store.now()
    holders = service.store.locks.holders(now) if found else []
    held: dict[str, Held] = {}
    for summary in found:
        run = service.store.history.run(summary.id)
        if run is not None and run.held:
            names = tuple(dict.fromkeys(holder.lock for holder in holders if holder.run_id == run.id))
            held.setdefault(run.entry, Held(run, names, why_held(run, freezes, now) or "it is about to be followed"))
    return held


def _others(
    service: OperatorService, names: Iterable[str], stored: StoredEntries
) -> tuple[list[RunSummary], list[LockHolder], list[NodeState]]:
    if stored.unreachable:
        return [], [], []
    known = set(names)
    try:
        others = [run for run in service.store.runs.newest_unfinished() if run.entry not in known]
        return others, service.store.locks.holders(service.store.now()), service.store.nodes.all()
    except StoreError:
        return [], [], []


def _gates(service: OperatorService, stored: StoredEntries) -> tuple[WaitingGate, ...]:
    if stored.unreachable:
        return ()
    try:
        return tuple(waiting_gates(service)) if service.store.gates.next_timeout() is not None else ()
    except StoreError:
        return ()


def _rehearsals(
    service: OperatorService, calendar: CalendarView, stored: StoredEntries, now: datetime
) -> tuple[str, ...]:
    if stored.unreachable:
        return ()
    try:
        return tuple(rehearsals.remarks(service.store, calendar.entries, calendar.targets, now))
    except StoreError:
        return ()


def _problems(service: OperatorService, calendar: CalendarView, stored: StoredEntries) -> Iterable[str]:
    yield from service.health().problems
    if calendar.notifies and not stored.unreachable:
        yield from undelivered(service)
    if stored.unreachable:
        yield f"the store does not answer: {stored.unreachable}"
    names = {entry.name for entry in calendar.entries}
    for name, held in stored.held.items():
        if name not in names:
            yield f'entry "{name}" is not in the calendar, but {held.text}'
    try:
        broken = service.broken_jobs()
    except MaintdError as error:
        yield str(error)
        broken = []
    for job in broken:
        yield f'job "{job.name}" is broken: {job.error}'
    for name, why in calendar.broken.items():
        yield f'entry "{name}" cannot run: {why}'
    yield from calendar.problems


def _now(service: OperatorService, stored: StoredEntries) -> datetime:
    """The store's time, which decides what is due; this machine's while the store is unreachable."""
    if not stored.unreachable:
        try:
            return service.store.now()
        except StoreError:
            pass
    return service.clock.now()
