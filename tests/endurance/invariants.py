"""What must be true afterwards, by the store and the journal. Each function yields a line per violation.

They take values, so that a test can call each of them with faulty data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from endurance.journal import Line
from endurance.plan_audit import EPOCH, Planned, instants
from maintd.model.entry import EntryState
from maintd.model.run import Run, RunSummary

SET_BACK = timedelta(minutes=10)
"""Clocks are set back by up to 90 s at a time, and then pass the same instants again."""


class ConfirmedPeriod(NamedTuple):
    """All nodes had confirmed one calendar, and until `until` no event could have loaded another one."""

    variant: int
    confirmed_at: datetime
    until: datetime


def one_row_per_due_time(
    entries: Mapping[str, EntryState],
    runs: Sequence[RunSummary],
    periods: Mapping[str, set[int]],
    until: datetime,
) -> Iterator[str]:
    """Each due time has one row, and there is no row for any other time.

    For entries whose schedule was changed by reloads, this only checks that each row is for a due time of some
    calendar; `rows_follow_schedule` and `rows_match_calendar` check the rest.
    """
    rows = _due(runs)
    for name, state in entries.items():
        due = rows.get(name, [])
        for at, count in Counter(due).items():
            if count > 1:
                yield f"{name}: {count} rows for {at.isoformat()}"
        steps = periods.get(name, set())
        unexpected = [
            at for at in due if not any((at - EPOCH) % timedelta(seconds=step) == timedelta(0) for step in steps)
        ]
        if unexpected:
            yield f"{name}: {len(unexpected)} rows for times that no calendar has, first {unexpected[0].isoformat()}"
        if any(at <= state.first_seen_at - SET_BACK for at in due):
            yield f"{name}: a row for an instant before the entry was first seen"
        if len(steps) == 1:
            due_times = set(instants(next(iter(steps)), state.first_seen_at, until))
            yield from _missing(name, due_times, due)


def rows_follow_schedule(planned: Sequence[Planned], runs: Sequence[RunSummary]) -> Iterator[str]:
    """An entry whose schedule changes has the rows of its active schedule at each time, as the database recorded it."""
    rows = _due(runs)
    of_entry: dict[str, list[Planned]] = {}
    for one in planned:
        of_entry.setdefault(one.entry, []).append(one)
    for name, steps in of_entry.items():
        for before, after in pairwise(steps):
            if before.through != after.seen:
                yield f"{name}: planned through {before.through.isoformat()}, then from {after.seen.isoformat()}"
        begin = min(step.seen for step in steps)
        due_times = {at for step in steps for at in instants(step.period, step.seen, step.through)}
        due = [at for at in rows.get(name, []) if at > begin]
        yield from _missing(name, due_times, due)
        # Rows from before the first record are not checked, also when a clock that was set back passed them again.
        if unexpected := {at for at in due if at > steps[0].seen} - due_times:
            yield f"{name}: {len(unexpected)} rows which the active schedule does not have, first {min(unexpected)}"


def rows_match_calendar(
    found: Sequence[ConfirmedPeriod], periods: Sequence[Mapping[str, int]], runs: Sequence[RunSummary]
) -> Iterator[str]:
    """Between a reload that every node confirmed and the next change, the rows are those of that calendar."""
    rows = _due(runs)
    for period in found:
        for name, seconds in periods[period.variant].items():
            due_times = set(instants(seconds, period.confirmed_at, period.until))
            due = [at for at in rows.get(name, []) if period.confirmed_at < at <= period.until]
            yield from _missing(name, due_times, due)
            if unexpected := set(due) - due_times:
                first = min(unexpected)
                yield f"{name}: {len(unexpected)} rows which calendar {period.variant} does not have, first {first}"


def mutating_steps_start_once(
    journal: Sequence[Line], mutating: Sequence[str] = ("mutating", "holding")
) -> Iterator[str]:
    """No mutating step was started twice for one run."""
    begun = Counter((line.run, line.step) for line in journal if line.job in mutating and line.what == "began")
    for (run, step), count in begun.items():
        if count > 1:
            yield f"run {run}: its mutating step {step} was started {count} times"


def locks_are_exclusive(journal: Sequence[Line]) -> Iterator[str]:
    """No two processes held one exclusive lock at the same time."""
    held: dict[str, dict[tuple[int, int], list[float]]] = {}
    for line in journal:
        if line.lock:
            held.setdefault(line.lock, {}).setdefault((line.run, line.pid), []).append(line.at)
    for lock, holders in held.items():
        spans = sorted((min(times), max(times), holder) for holder, times in holders.items())
        last: tuple[float, tuple[int, int]] | None = None
        for start, end, holder in spans:
            if last is not None and start < last[0]:
                yield f"runs {last[1][0]} and {holder[0]} held {lock} together for {min(end, last[0]) - start:.2f} s"
            last = max(last or (end, holder), (end, holder))


def one_run_per_trigger(runs: Sequence[Run], accepted: Mapping[str, int]) -> Iterator[str]:
    """Each accepted trigger has the run that was returned; no key has two runs."""
    known = {run.id: run for run in runs}
    for key, run_id in accepted.items():
        if run_id not in known:
            yield f"trigger {key}: accepted as run {run_id}, which does not exist"
        elif known[run_id].idempotency_key != key:
            yield f"trigger {key}: accepted as run {run_id}, which is another's"
    for asked, count in Counter(run.idempotency_key for run in runs if run.idempotency_key is not None).items():
        if count > 1:
            yield f"trigger {asked}: {count} runs"


def _due(runs: Sequence[RunSummary]) -> dict[str, list[datetime]]:
    rows: dict[str, list[datetime]] = {}
    for run in runs:
        if run.due_at is not None:
            rows.setdefault(run.entry, []).append(run.due_at)
    return rows


def _missing(name: str, due_times: set[datetime], due: Sequence[datetime]) -> Iterator[str]:
    if missing := due_times - set(due):
        yield f"{name}: no row for {len(missing)} of {len(due_times)} instants, the first {min(missing).isoformat()}"
