"""What rehearsals prove about the rollbacks of windows: how long one takes, and how long ago that was shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy.engine import Connection

from maintd.errors import RefusedError
from maintd.model.entry import Entry, Window
from maintd.model.run import Run
from maintd.model.target import Targets
from maintd.present import utc_minute
from maintd.store import Store
from maintd.store.history import load_runs
from maintd.store.last_runs import last_runs
from maintd.store.run_plans import RunPlans
from maintd.units import format_duration

MEASURE = "rehearsal_rto_seconds"
"""The measure of the job `rehearsal`; it has one only when all was proven."""

SUFFIX = "-rehearsal"
"""What the name of an entry has that rehearses another one: emergency-rollback-rehearsal."""

MAX_AGE = timedelta(days=35)
"""A proof that is older warns: a month, and some days for a rehearsal that was postponed."""

FACTOR = 1.5
"""`rollback_by` must be this many times the proven time: a real rollback begins with people who find out why."""


class ProvenTime(NamedTuple):
    """How long the last rehearsal that proved all took, and when it ended."""

    run_id: int
    at: datetime
    duration: timedelta

    @property
    def text(self) -> str:
        """In one line."""
        return f"{format_duration(_seconds(self.duration))} in run {self.run_id}, {utc_minute(self.at)}"


def proven_time(conn: Connection, plans: RunPlans, name: str) -> ProvenTime | None:
    """What the last success of an entry has proven; None if it never succeeded."""
    found = last_runs(conn, [name])[name].last_success
    return None if found is None else time_of(load_runs(conn, plans, {found.id: True})[found.id])


def time_of(run: Run) -> ProvenTime | None:
    """What a run has proven; None without the measure."""
    measures = [one for step in run.steps for attempt in step.attempts for one in attempt.measures]
    seconds = [one.value for one in measures if one.name == MEASURE]
    if not seconds or run.finished_at is None:
        return None
    return ProvenTime(run.id, run.finished_at, timedelta(seconds=seconds[-1]))


def too_short(window: Window, proven: ProvenTime | None) -> str:
    """Why `rollback_by` leaves too little time for a rollback; empty if it leaves enough, or nothing is proven."""
    if proven is None or proven.duration * FACTOR <= window.rollback_by:
        return ""
    needed = format_duration(_seconds(proven.duration * FACTOR))
    return (
        f"rollback_by {format_duration(window.rollback_by)} is shorter than {needed}, {FACTOR:g} times the time "
        f"of the rehearsal {window.rehearsal} ({proven.text})"
    )


def refuse_too_short(conn: Connection, plans: RunPlans, run: Run) -> None:
    """Raise RefusedError if a rollback would not fit into what the window of a run leaves for it."""
    window = run.policy.window
    if window is None or not window.rehearsal:
        return
    problem = too_short(window, proven_time(conn, plans, window.rehearsal))
    if problem:
        hint = f"raise rollback_by in the calendar, or see what was slow: maintd status {window.rehearsal}"
        raise RefusedError(f"run {run.id}: {problem}", hint)


def remarks(store: Store, entries: Iterable[Entry], targets: Targets, now: datetime) -> Iterator[str]:
    """The remarks of the status about the rehearsals of windows. Raises StoreError.

    Nothing where a rehearsal has no targets: it is not configured.
    """
    by_name = {entry.name: entry for entry in entries}
    wanted = {
        entry.name: window
        for entry in by_name.values()
        if entry.enabled and (window := entry.policy.window) is not None and window.rehearsal
    }
    windows = {name: window for name, window in wanted.items() if _is_configured(by_name, window.rehearsal, targets)}
    if not windows:
        return
    names = sorted({window.rehearsal for window in windows.values()})
    proven = store.read(lambda conn: {name: proven_time(conn, store.plans, name) for name in names})
    yield from remarks_about(windows, proven, now)


def remarks_about(
    windows: Mapping[str, Window], proven: Mapping[str, ProvenTime | None], now: datetime
) -> Iterator[str]:
    """By the windows of entries and what is proven. Pure."""
    for name, window in windows.items():
        found = proven[window.rehearsal]
        todo = f"run: maintd rehearse {window.rehearsal.removesuffix(SUFFIX)}"
        if found is None:
            yield f'entry "{name}": it is not proven how long its rollback takes; {todo}'
        elif now - found.at > MAX_AGE:
            age = format_duration(timedelta(days=(now - found.at).days))
            yield f'entry "{name}": the last proof of how long its rollback takes is {age} old; {todo}'
        elif problem := too_short(window, found):
            yield f'entry "{name}": {problem}'


def _is_configured(entries: Mapping[str, Entry], name: str, targets: Targets) -> bool:
    """Whether the targets are there that the job `rehearsal` needs; an operator's own job needs none that is known."""
    entry = entries.get(name)
    steps = [] if entry is None else [step for step in entry.steps if step.job == "rehearsal"]
    return all(targets.docker and step.params.get("manifest", "rollback") in targets.folders for step in steps)


def _seconds(duration: timedelta) -> timedelta:
    return timedelta(seconds=max(1, round(duration.total_seconds())))
