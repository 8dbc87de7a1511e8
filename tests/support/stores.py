"""Values for tests of the store. Times are minutes after noon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import TypeVar

from maintd.model.entry import Entry, Policy, Rule, ScheduleKind, StepPlan
from maintd.model.evidence import Check, CheckStatus, Report
from maintd.model.run import AttemptState, NewRun, Run, RunState, StepState, Trigger
from maintd.model.run_updates import (
    AttemptFinished,
    AttemptReported,
    AttemptStarted,
    RunFinished,
    RunUpdate,
    StepFinished,
    StepStarted,
)
from maintd.store import EntryPlan, Store

T = TypeVar("T")

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def entry(name: str, *jobs: str, formerly: str | None = None, enabled: bool = True, timeout: int = 60) -> Entry:
    return Entry(
        name=name,
        title=name.title(),
        rule=Rule(kind=ScheduleKind.CRON, text="* * * * *", timezone="UTC"),
        steps=plan(*jobs or ("vacuum",)),
        policy=Policy(timeout=timedelta(minutes=timeout)),
        formerly=formerly,
        enabled=enabled,
    )


def plan(*jobs: str) -> tuple[StepPlan, ...]:
    return tuple(StepPlan(name=job, job=job) for job in jobs)


def sync(store: Store, *entries: Entry, now: float = 0, fingerprint: str = "1") -> None:
    store.entries.sync(entries, {item.name: fingerprint for item in entries}, at(now))


def due(name: str, minutes: float, state: RunState = RunState.QUEUED, **columns: object) -> NewRun:
    """Return a run as the planner inserts it."""
    return NewRun.model_validate(
        {
            "entry": name,
            "title": name.title(),
            "trigger": Trigger.SCHEDULE,
            "state": state,
            "due_at": at(minutes),
            "not_before": at(minutes),
            "plan": plan("vacuum"),
            **columns,
        }
    )


def plan_runs(store: Store, name: str, seen: float, through: float, *runs: NewRun) -> list[int] | None:
    """Plan one entry; return the ids of its new rows, or None if it was not planned through `seen`."""
    return store.entries.plan([EntryPlan(name, at(seen), at(through), runs)])[0]


def manual_run(name: str, minutes: float = 0, **columns: object) -> NewRun:
    """Return a run that a user triggered."""
    return due(name, minutes, **{"due_at": None, "trigger": Trigger.MANUAL, "requested_by": "ada", **columns})


def queue(store: Store, name: str, minutes: float = 0, **columns: object) -> int:
    return store.runs.add(manual_run(name, minutes, **columns), at(minutes))[0]


def claim(store: Store, run_id: int, minutes: float = 0, node: str = "n1", lease: float = 5) -> Run:
    claimed = store.runs.claim(run_id, node, f"{node}-1", at(minutes + lease), at(minutes))
    assert claimed is not None
    return claimed


def ended(state: RunState, minutes: float, reason: str = "") -> RunFinished:
    return RunFinished(state=state, at=at(minutes), reason=reason)


def finished(
    store: Store, name: str, minutes: float, state: RunState = RunState.SUCCEEDED, took: float = 1, **columns: object
) -> int:
    """Add a run that has ended; return its id."""
    run = claim(store, queue(store, name, minutes, **columns), minutes)
    assert store.runs.apply(run.id, run.fence, 1, [ended(state, minutes + took)])
    return run.id


def evidence(*items: Report, step: int = 0, minutes: float = 1, complete: bool = False) -> list[RunUpdate]:
    """Return the updates of a step with one attempt that reports these items; if complete, its job returned."""
    return [
        StepStarted(step=step, at=at(minutes)),
        AttemptStarted(step=step, attempt=1, at=at(minutes), pid=77),
        AttemptReported(step=step, attempt=1, items=items),
        AttemptFinished(
            step=step,
            attempt=1,
            state=AttemptState.SUCCEEDED,
            at=at(minutes + 1),
            exit_code=0,
            complete=complete,
        ),
        StepFinished(step=step, state=StepState.SUCCEEDED, at=at(minutes + 1)),
    ]


def check(name: str) -> Check:
    return Check(name=name, observed=3, expected="at least 1", status=CheckStatus.OK)


def run_concurrently(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Call all functions at the same moment, each in a thread; return their results."""
    start = Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        start.wait(timeout=10)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))
