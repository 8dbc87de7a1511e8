"""Runs that follow from another one: that resume or undo it, or that its failure triggered. Each is inserted once.

The row of the earlier run is locked while a successor is inserted, so that of two requests at once one is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection

from maintd.model.run import LinkKind, NewRun, Run, RunLink, RunSummary, StepState
from maintd.store import mapping
from maintd.store.audit import add_event
from maintd.store.database import Database
from maintd.store.entries import entry_id_of, insert_runs
from maintd.store.history import load_runs
from maintd.store.prepared import Prepared
from maintd.store.run_plans import RunPlans
from maintd.store.tables import IS_HELD, handed_values, locks, run_links, runs, steps

_HELD = Prepared(
    mapping.select_runs(*mapping.SUMMARY).where(IS_HELD).order_by(runs.c.id),
    index="ix_runs_held",
)


class TakenOver(NamedTuple):
    """A step that a successor does not run, since the earlier run did: its index and what became of it.

    With `left_by` an undo step that it runs if it fails, whatever it ran: that run left in effect what it undoes.
    """

    step: int
    state: StepState
    reason: str
    started_at: datetime | None
    finished_at: datetime | None
    left_by: int | None = None


class Successor(NamedTuple):
    """A run to insert after another one. `started_at`: its window began then, None: it begins with its first claim."""

    run: NewRun
    kind: LinkKind
    steps: tuple[TakenOver, ...] = ()
    started_at: datetime | None = None


class Successors:
    """Held runs, and the runs that follow from others."""

    def __init__(self, database: Database, plans: RunPlans) -> None:
        self._database = database
        self._plans = plans

    def held(self) -> list[RunSummary]:
        """Lost runs that keep the locks of their entries, oldest first."""
        return self._database.read(
            lambda conn: [mapping.summary(row) for row in _HELD.rows_without_transaction(conn, {})]
        )

    def add(
        self, run_id: int, decide: Callable[[Run], Successor], *, event: str, by: str, origin: str, now: datetime
    ) -> int | None:
        """Insert what `decide` returns for the run as it is now, with an audit event; the id of the new run.

        None: there is no run with this id. What `decide` raises ends the transaction without a change.
        """

        def transaction(conn: Connection) -> int | None:
            if not _lock(conn, run_id):
                return None
            earlier = load_runs(conn, self._plans, {run_id: True})[run_id]
            successor = decide(earlier)
            new = insert_successor(conn, self._plans, earlier, successor, now)
            text = f"run {new} {successor.kind.replace('_', ' ')} run {run_id}"
            why = successor.run.why
            add_event(conn, event, subject=earlier.entry, by=by, origin=origin, why=why, text=text, at=now)
            return new

        return self._database.write(transaction)

    def release(self, run_id: int, *, by: str, origin: str, why: str, now: datetime) -> bool:
        """End the hold of a lost run and free its locks; False: it is not held."""

        def transaction(conn: Connection) -> bool:
            held = update(runs).where(runs.c.id == run_id, IS_HELD).values(held=False)
            if conn.execute(held).rowcount != 1:
                return False
            names = conn.execute(
                delete(locks).where(locks.c.run_id == run_id, locks.c.held.is_(True)).returning(locks.c.lock)
            )
            text = f"run {run_id}; locks: {', '.join(sorted(set(names.scalars()))) or 'none'}"
            of_run = load_runs(conn, self._plans, {run_id: False})[run_id]
            add_event(conn, "run_released", subject=of_run.entry, by=by, origin=origin, why=why, text=text, at=now)
            return True

        return self._database.write(transaction)


def _lock(conn: Connection, run_id: int) -> bool:
    return conn.execute(select(runs.c.id).where(runs.c.id == run_id).with_for_update()).one_or_none() is not None


def following(run: Run, *kinds: LinkKind) -> RunLink | None:
    """The link to the run that follows from this one in one of these ways."""
    return next((link for link in run.links if link.other_run_id == run.id and link.kind in kinds), None)


def insert_successor(conn: Connection, plans: RunPlans, earlier: Run, successor: Successor, now: datetime) -> int:
    """Insert a successor with its steps, values and link, within a transaction; its id.

    A hold ends, and its locks become those of the successor, held until that run ends. The caller has locked the
    earlier run's row and found no link of this kind; a second one raises ConflictError.
    """
    run = successor.run
    new = insert_runs(conn, plans, [(entry_id_of(conn, run.entry, run.title, now), run, now)])[0]
    conn.execute(insert(run_links).values(run_id=new, kind=successor.kind.value, other_run_id=earlier.id))
    if successor.started_at is not None:
        conn.execute(
            update(runs).where(runs.c.id == new).values(started_at=successor.started_at, waited=earlier.waited)
        )
    if successor.kind is LinkKind.AFTER_FAILURE_OF:
        return new
    if successor.steps:
        rows = [step._asdict() | {"run_id": new, "state": step.state.value} for step in successor.steps]
        conn.execute(insert(steps), rows)
    if earlier.handed:
        conn.execute(insert(handed_values), [value.model_dump() | {"run_id": new} for value in earlier.handed])
    if earlier.held:
        conn.execute(update(runs).where(runs.c.id == earlier.id).values(held=False))
        conn.execute(update(locks).where(locks.c.run_id == earlier.id, locks.c.held.is_(True)).values(run_id=new))
    return new
