"""What must be true afterwards, by the store and the journal. Each function gives what it found wrong, a line each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import psutil

from endurance.journal import Line
from maintd.model import AttemptState, RunState, RunSummary, StepState
from maintd.store import Store

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PAGE = 1000


def all_runs(store: Store) -> list[RunSummary]:
    """Every run, oldest first."""
    found: list[RunSummary] = []
    before: int | None = None
    while page := store.history.runs(before_id=before, limit=PAGE):
        found += page
        before = page[-1].id
    return found[::-1]


def instants(
    store: Store, runs: Sequence[RunSummary], periods: Mapping[str, set[int]], until: datetime
) -> Iterator[str]:
    """Each instant that was owed has one row, and no row stands for an instant that was not."""
    rows: dict[str, list[datetime]] = {}
    for run in runs:
        if run.due_at is not None:
            rows.setdefault(run.entry, []).append(run.due_at)
    for name, state in store.entries.states().items():
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
        # Clocks are set back by up to 90 s, and then pass instants again.
        if any(at <= state.first_seen_at - timedelta(minutes=3) for at in due):
            yield f"{name}: a row for an instant before the entry was first seen"
        if len(steps) != 1:
            continue  # its schedule was changed by reloads: what was owed depends on when each was taken
        if state.planned_through < until:
            yield f"{name}: planned through {state.planned_through.isoformat()}, owed until {until.isoformat()}"
        owed = set(_between(next(iter(steps)), state.first_seen_at, min(state.planned_through, until)))
        if missing := owed - set(due):
            yield f"{name}: no row for {len(missing)} of {len(owed)} instants, the first {min(missing).isoformat()}"


def _between(step: int, after: datetime, until: datetime) -> Iterator[datetime]:
    number = (after - EPOCH) // timedelta(seconds=step) + 1
    while (at := EPOCH + number * timedelta(seconds=step)) <= until:
        yield at
        number += 1


def starts(journal: Sequence[Line]) -> Iterator[str]:
    """No step that mutates was started twice for one run, and no two processes held the exclusive lock at one time."""
    begun = Counter(line.run for line in journal if line.job == "mutating" and line.what == "began")
    for run, count in begun.items():
        if count > 1:
            yield f"run {run}: its mutating step was started {count} times"
    held: dict[tuple[int, int], list[float]] = {}
    for line in journal:
        if line.lock:
            held.setdefault((line.run, line.pid), []).append(line.at)
    spans = sorted((min(times), max(times), holder) for holder, times in held.items())
    for (_, end, first), (start, _, second) in pairwise(spans):
        if start < end:
            yield f"runs {first[0]} and {second[0]} held the lock together for {end - start:.2f} s"


def endings(store: Store, runs: Sequence[RunSummary], accepted: Mapping[str, int]) -> Iterator[str]:
    """Every run ended, with a reason unless all was well, and its evidence is whole; every trigger has its run."""
    known = {run.id for run in runs}
    for key, run_id in accepted.items():
        if run_id not in known:
            yield f"trigger {key}: accepted as run {run_id}, which does not exist"
    for run in runs:
        if not run.state.final:
            yield f"run {run.id} ({run.entry}) is still {run.state}"
        elif run.state not in (RunState.SUCCEEDED, RunState.WARNED) and not run.reason:
            yield f"run {run.id} ({run.entry}) is {run.state} without a reason"
        if run.state is RunState.SUCCEEDED:
            yield from _evidence(store, run.id)


def _evidence(store: Store, run_id: int) -> Iterator[str]:
    run = store.history.run(run_id)
    assert run is not None
    for step in run.steps:
        if step.state is not StepState.SUCCEEDED:
            yield f"run {run_id} succeeded with a step that is {step.state}"
            continue
        attempt = step.attempts[-1]
        if attempt.state is not AttemptState.SUCCEEDED or not attempt.checks:
            yield f"run {run_id}: step {step.name} succeeded without a check"
        if step.job == "steady":
            said = [row.line.text for row in store.history.log(run_id, step=step.name) if row.line.stream == "log"]
            found = (said.count("line 4"), len(attempt.measures), len(attempt.artifacts))
            if found != (len(step.attempts), 1, 1):
                yield f"run {run_id}, step {step.name}: last log lines, measures and artifacts are {found}"


def reported(store: Store, runs: Sequence[RunSummary], journal: Sequence[Line]) -> Iterator[str]:
    """A run that succeeded really ran: the store claims nothing that no process did."""
    ended = Counter((line.run, line.job) for line in journal if line.what == "ended")
    for run in runs:
        if run.state is not RunState.SUCCEEDED:
            continue
        full = store.history.run(run.id)
        assert full is not None
        for step in full.steps:
            if not ended[(run.id, step.job)]:
                yield f"run {run.id}: step {step.name} succeeded, and no process ended it"


def leftovers(state_dirs: Sequence[Path], store: Store, folder: Path) -> Iterator[str]:
    """No process of a finished run, no file of it, no lock and no session is left."""
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if "endurance-grandchild" in command:
            yield f"a grandchild lives: pid {process.info['pid']}"
        try:
            environ = process.environ()
        except psutil.Error:
            continue
        if "MAINTD_ATTEMPT" in environ and environ.get("ENDURANCE_JOURNAL", "").startswith(str(folder)):
            yield f"a child lives: pid {process.info['pid']}: {command}"
    for state_dir in state_dirs:
        for name in ("spool", "work"):
            left = [path for path in (state_dir / name).rglob("*") if path.is_file()]
            if left:
                yield f"{state_dir}/{name}: {len(left)} files left, such as {left[0]}"
    for holder in store.locks.holders(store.now()):
        yield f"lock {holder.lock} is held by run {holder.run_id}"
