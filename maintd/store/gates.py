"""Runs that wait at gates: found, decided about, and continued. The first that ends a wait wins."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from maintd.model.run import GateDecision, Run, RunState, StepState
from maintd.store.database import Database
from maintd.store.history import load_runs
from maintd.store.prepared import Prepared
from maintd.store.run_events import RunChanged, add_run_events
from maintd.store.run_plans import RunPlans
from maintd.store.tables import IS_WAITING, gate_decisions, runs, steps

_NEXT_TIMEOUT = Prepared(select(runs.c.waiting_until).where(IS_WAITING).order_by(runs.c.waiting_until).limit(1))


class Gates:
    """The gates at which runs wait."""

    def __init__(self, database: Database, plans: RunPlans) -> None:
        self._database = database
        self._plans = plans

    def waiting(self, limit: int = 1000) -> list[Run]:
        """Runs that wait at a gate, with their evidence; the one whose time is over first is the first."""
        query = select(runs.c.id).where(IS_WAITING).order_by(runs.c.waiting_until, runs.c.id).limit(limit)

        def transaction(conn: Connection) -> list[Run]:
            ids = conn.execute(query).scalars().all()
            found = load_runs(conn, self._plans, dict.fromkeys(ids, True))
            return [found[run_id] for run_id in ids]

        return self._database.read(transaction)

    def overdue(self, now: datetime, limit: int = 100) -> list[Run]:
        """Runs whose time at a gate is over."""
        return [run for run in self.waiting(limit) if run.waiting_until is not None and run.waiting_until <= now]

    def next_timeout(self) -> datetime | None:
        """When the time of the first gate is over; None: no run waits."""
        found = self._database.read(lambda conn: _NEXT_TIMEOUT.one_or_none(conn, {}))
        return None if found is None else found.waiting_until


class Wait(NamedTuple):
    """Where a run waits: the index of its gate, and the end of its time there."""

    step: int
    until: datetime


def current_wait(conn: Connection, run_id: int) -> Wait | None:
    """Where the run waits, locked until the end of the transaction; None: it does not wait."""
    query = select(runs.c.waiting_step, runs.c.waiting_until).where(runs.c.id == run_id, IS_WAITING).with_for_update()
    row = conn.execute(query).one_or_none()
    return None if row is None else Wait(row.waiting_step, row.waiting_until)


def mark_emergency(conn: Connection, run_id: int, text: str) -> None:
    """Add a mark to a run: who passed a rule in an emergency, which, and why."""
    before = conn.execute(select(runs.c.emergency).where(runs.c.id == run_id)).scalar_one()
    marked = "; ".join(filter(None, (before, text)))
    conn.execute(update(runs).where(runs.c.id == run_id).values(emergency=marked))


def add_decision(conn: Connection, run_id: int, decision: GateDecision) -> None:
    """Record what happened at a gate."""
    conn.execute(insert(gate_decisions).values(run_id=run_id, **decision.model_dump()))


def end_wait(conn: Connection, run_id: int, decision: GateDecision, state: StepState, reason: str) -> bool:
    """End the wait of a run at its gate, with the decision and the gate's state; it is queued again.

    False: it does not wait any more, and nothing is written. The decision's step is replaced by that of the gate.
    """
    wait = current_wait(conn, run_id)
    if wait is None:
        return False
    ended = update(runs).where(runs.c.id == run_id, IS_WAITING)
    of_gate = (steps.c.run_id == run_id, steps.c.step == wait.step)
    since = conn.execute(select(steps.c.started_at).where(*of_gate)).scalar_one_or_none() or decision.at
    waited = runs.c.waited + max(timedelta(0), decision.at - since)
    columns = {"waiting_step": None, "waiting_until": None, "reason": "", "not_before": decision.at, "waited": waited}
    if conn.execute(ended.values(state=RunState.QUEUED.value, **columns)).rowcount != 1:
        return False
    add_decision(conn, run_id, decision.model_copy(update={"step": wait.step}))
    conn.execute(update(steps).where(*of_gate).values(state=state.value, reason=reason, finished_at=decision.at))
    add_run_events(conn, [RunChanged(run_id, RunState.QUEUED, decision.at)])
    return True
