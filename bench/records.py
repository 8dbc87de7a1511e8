"""What the chain of records costs: per run, beside the review of its end and the other writes of a run.

    python bench/records.py [--runs 2000] [--url postgresql://…]

The store is real: SQLite in a temporary folder, or the given empty database. Each run has one step with three checks
and two changes. Reviews of 50 ends take turns with and without the chain; figures are medians per run, and ratios. CPU
is that of this process; on Postgres the server uses its own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection

from maintd.clock import SystemClock
from maintd.model.entry import Policy, StepPlan
from maintd.model.evidence import Change, Check, CheckStatus
from maintd.model.run import AttemptState, NewRun, RunEvent, RunState, StepState, Trigger
from maintd.model.run_updates import (
    AttemptFinished,
    AttemptReported,
    AttemptStarted,
    RunFinished,
    StepFinished,
    StepStarted,
)
from maintd.operations.review import BATCH, review_ends
from maintd.store import Store, open_store

RUN_MS = {"SQLite": 4.9, "Postgres": 7.0}
"""CPU of a whole trivial run, child and template included, from docs/performance.md."""


class Cost(NamedTuple):
    """Milliseconds per run."""

    wall: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--url", help="an empty Postgres database instead of SQLite")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = asked.url or f"sqlite:///{folder}/maintd.db"
        store = open_store(url, clock=SystemClock(), migrate=True, state_dir=Path(folder))
        try:
            measure(store, asked.runs, RUN_MS["Postgres" if asked.url else "SQLite"])
        finally:
            store.close()


def measure(store: Store, count: int, run_ms: float) -> None:
    """Print the table; `run_ms` is the CPU of a whole run."""

    def record(conn: Connection, events: list[RunEvent]) -> int:
        return store.records.add_ends(conn, [event.run_id for event in events], store.now())

    def mark(conn: Connection, events: list[RunEvent]) -> int:
        return len(events)

    def add_runs() -> None:
        for _ in range(BATCH):
            add_run(store)

    without, with_chain, writes, whole = "mark of the review alone", "… and the chain", "other writes", "whole review"
    acts: dict[str, Callable[[], object]] = {
        without: lambda: store.run_events.review(mark, BATCH),
        with_chain: lambda: store.run_events.review(record, BATCH),
        whole: lambda: review_ends(store),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in (writes, *acts)}
    for number in range(max(3, count // BATCH)):
        costs[writes].append(timed(add_runs))
        name = list(acts)[number % len(acts)]
        costs[name].append(timed(acts[name]))
    median = {
        name: Cost(*(statistics.median(each) for each in zip(*found, strict=True))) for name, found in costs.items()
    }
    chain = median[with_chain].cpu - median[without].cpu
    print(f"{'per run':28}{'wall ms':>10}{'CPU ms':>10}{'× the writes':>14}")
    for name, cost in median.items():
        print(f"{name:28}{cost.wall:10.3f}{cost.cpu:10.3f}{cost.cpu / median[writes].cpu:14.2f}")
    print(f"{'the chain':28}{median[with_chain].wall - median[without].wall:10.3f}{chain:10.3f}", end="")
    print(f"{chain / median[writes].cpu:14.2f}  × {chain / run_ms:.3f} of a whole run")
    records, verify = verified(store)
    print(f"verification: {records} records, {verify * 1000 / records:.3f} ms each")


def verified(store: Store) -> tuple[int, float]:
    """How many records fit, and the seconds that their verification took."""
    began, after, count = time.perf_counter(), 0, 0
    while True:
        part = store.chain.verify(after, 500, {})
        after, count = part.last, count + part.records
        if part.final or part.problem is not None:
            return count, time.perf_counter() - began


def add_run(store: Store) -> None:
    """Queue, claim and end a run with evidence."""
    now = store.now()
    new = NewRun(
        entry="bench",
        title="Bench",
        trigger=Trigger.MANUAL,
        state=RunState.QUEUED,
        not_before=now,
        plan=(StepPlan(name="step", job="command"),),
        policy=Policy(),
    )
    run_id, _ = store.runs.add(new, now)
    run = store.runs.claim(run_id, "n1", "n1-1", now + timedelta(minutes=5), now)
    assert run is not None
    items: list[Any] = [
        Check(name=f"check {number}", observed=number, expected="at most 9", unit="s", status=CheckStatus.OK)
        for number in range(3)
    ]
    items += [Change(number=number, action="delete", target=f"/var/log/{number}.log") for number in (1, 2)]
    updates = [
        StepStarted(step=0, at=now),
        AttemptStarted(step=0, attempt=1, at=now, pid=1),
        AttemptReported(step=0, attempt=1, items=tuple(items)),
        AttemptFinished(step=0, attempt=1, state=AttemptState.SUCCEEDED, at=now, exit_code=0, complete=True),
        StepFinished(step=0, state=StepState.SUCCEEDED, at=now),
        RunFinished(state=RunState.SUCCEEDED, at=now),
    ]
    assert store.runs.apply(run.id, run.fence, 1, updates)


def timed(act: Callable[[], object]) -> Cost:
    """What an act for a batch of runs takes, per run."""
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return Cost((time.perf_counter() - wall) / BATCH * 1000, (time.process_time() - cpu) / BATCH * 1000)


if __name__ == "__main__":
    main()
