"""What must be true afterwards, by the store and the journal. Each function gives what it found wrong, a line each.

They take values, so that a test can show each of them something that is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from endurance.audit import EPOCH, Planned, instants
from endurance.journal import Line
from maintd.model.entry import EntryState
from maintd.model.run import Run, RunSummary

SET_BACK = timedelta(minutes=10)
"""Clocks are set back by up to 90 s at a time, and then pass instants again."""


class Stretch(NamedTuple):
    """All nodes had confirmed one calendar, and nothing happened until then that could have loaded another one."""

    variant: int
    confirmed_at: datetime
    until: datetime


def owed_once(
    entries: Mapping[str, EntryState],
    runs: Sequence[RunSummary],
    periods: Mapping[str, set[int]],
    until: datetime,
) -> Iterator[str]:
    """Each instant that was owed has one row, and no row stands for an instant that was not.

    Of entries whose schedule was changed by reloads, only that no row stands for an instant of no calendar: `moving`
    and `stretches` say what was owed.
    """
    rows = _due(runs)
    for name, state in entries.items():
        due = rows.get(name, [])
        for at, count in Counter(due).items():
            if count > 1:
                yield f"{name}: {count} rows for {at.isoformat()}"
        steps = periods.get(name, set())
        strange = [
            at for at in due if not any((at - EPOCH) % timedelta(seconds=step) == timedelta(0) for step in steps)
        ]
        if strange:
            yield f"{name}: {len(strange)} rows for instants that no calendar has, the first {strange[0].isoformat()}"
        if any(at <= state.first_seen_at - SET_BACK for at in due):
            yield f"{name}: a row for an instant before the entry was first seen"
        if len(steps) == 1:
            owed = set(instants(next(iter(steps)), state.first_seen_at, until))
            yield from _missing(name, owed, due)


def moving(planned: Sequence[Planned], runs: Sequence[RunSummary]) -> Iterator[str]:
    """An entry whose schedule changes has exactly the rows of the rule in force at each time, as the database noted."""
    rows = _due(runs)
    of_entry: dict[str, list[Planned]] = {}
    for one in planned:
        of_entry.setdefault(one.entry, []).append(one)
    for name, steps in of_entry.items():
        for before, after in pairwise(steps):
            if before.through != after.seen:
                yield f"{name}: planned through {before.through.isoformat()}, then from {after.seen.isoformat()}"
        begin = min(step.seen for step in steps)
        owed = {at for step in steps for at in instants(step.period, step.seen, step.through)}
        due = [at for at in rows.get(name, []) if at > begin]
        yield from _missing(name, owed, due)
        # What was planned before anything was noted is not judged, also when a clock that was set back came by again.
        if strange := {at for at in due if at > steps[0].seen} - owed:
            yield f"{name}: {len(strange)} rows that the rule in force did not owe, the first {min(strange)}"


def stretches(
    found: Sequence[Stretch], periods: Sequence[Mapping[str, int]], runs: Sequence[RunSummary]
) -> Iterator[str]:
    """Between a reload that every node confirmed and the next change, the rows are those of that calendar."""
    rows = _due(runs)
    for stretch in found:
        for name, period in periods[stretch.variant].items():
            owed = set(instants(period, stretch.confirmed_at, stretch.until))
            due = [at for at in rows.get(name, []) if stretch.confirmed_at < at <= stretch.until]
            yield from _missing(name, owed, due)
            if strange := set(due) - owed:
                yield f"{name}: {len(strange)} rows that calendar {stretch.variant} did not owe, first {min(strange)}"


def started_once(journal: Sequence[Line], mutating: Sequence[str] = ("mutating", "holding")) -> Iterator[str]:
    """No step that mutates was started twice for one run."""
    begun = Counter((line.run, line.step) for line in journal if line.job in mutating and line.what == "began")
    for (run, step), count in begun.items():
        if count > 1:
            yield f"run {run}: its mutating step {step} was started {count} times"


def held_alone(journal: Sequence[Line]) -> Iterator[str]:
    """No two processes held one exclusive lock at one time."""
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


def triggered_once(runs: Sequence[Run], accepted: Mapping[str, int]) -> Iterator[str]:
    """Each trigger that a daemon accepted has the one run that was named; no key has made two."""
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


def _missing(name: str, owed: set[datetime], due: Sequence[datetime]) -> Iterator[str]:
    if missing := owed - set(due):
        yield f"{name}: no row for {len(missing)} of {len(owed)} instants, the first {min(missing).isoformat()}"
