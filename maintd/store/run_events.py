"""The events of runs: a row for each change of a run's state, in the transaction that changes it.

Followers read them in the order of their ids and resume after the last one they saw. The ends of runs wait there until
they were reviewed: for findings, incidents and notices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import func, select, text, update
from sqlalchemy.engine import Connection

from maintd.model.run import RunEvent, RunState, SkipReason
from maintd.store import prepared
from maintd.store.database import Database
from maintd.store.tables import NOT_REVIEWED, attempts, entries, run_events, runs, steps

T = TypeVar("T")

REVIEW = "review of ended runs"
"""The name that a transaction locks before it changes findings, acknowledgements or incidents: one after another."""

_EVENTS = (
    select(run_events.c.id, run_events.c.run_id, entries.c.name.label("entry"), run_events.c.state, run_events.c.at)
    .join(runs, runs.c.id == run_events.c.run_id)
    .join(entries, entries.c.id == runs.c.entry_id)
)

_FINAL = tuple(state.value for state in RunState if state.final)

# On Postgres: written by a transaction older than any open one. Transaction ids wrap around, their ages do not.
_OLDER_THAN_OPEN_TRANSACTIONS = text(
    "age(run_events.xmin) > age((pg_snapshot_xmin(pg_current_snapshot())::text::bigint % 4294967296)::text::xid)"
)


class RunEvents:
    """Read the events of runs, and mark ends as reviewed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def after(self, event_id: int, limit: int = 500, entry: str | None = None) -> list[RunEvent]:
        """Events with a larger id, oldest first.

        On Postgres those of transactions that may still commit an event with a smaller id are left out until then, so
        that a follower misses none.
        """
        query = _EVENTS.where(run_events.c.id > event_id)
        if entry is not None:
            query = query.where(entries.c.name == entry)
        if self._database.kind == "postgres":
            query = query.where(_OLDER_THAN_OPEN_TRANSACTIONS)
        return self._read(query.order_by(run_events.c.id).limit(limit))

    def bounds(self) -> tuple[int, int]:
        """The ids of the oldest and the newest event; (0, 0) without any."""
        query = select(func.min(run_events.c.id), func.max(run_events.c.id))
        first, last = self._database.read(lambda conn: conn.execute(query).one())
        return first or 0, last or 0

    def newest(self) -> int:
        """The id of the newest event after which a follower that begins there misses none; 0 without any."""
        query = select(run_events.c.id).order_by(run_events.c.id.desc()).limit(1)
        if self._database.kind == "postgres":
            query = query.where(_OLDER_THAN_OPEN_TRANSACTIONS)
        return self._database.read(lambda conn: conn.execute(query).scalar_one_or_none()) or 0

    def ends_after(self, event_id: int, limit: int = 500) -> tuple[int, list[EndedRun]]:
        """Ends of runs with a larger event id, oldest first, and the id after which to continue."""
        columns = (run_events.c.id, run_events.c.run_id, entries.c.name.label("entry"), run_events.c.state)
        more = (runs.c.skip_reason, runs.c.due_at, runs.c.started_at, runs.c.finished_at, runs.c.dry_run)
        query = (
            select(*columns, *more)
            .join(runs, runs.c.id == run_events.c.run_id)
            .join(entries, entries.c.id == runs.c.entry_id)
            .where(run_events.c.id > event_id, run_events.c.state.in_(_FINAL))
        )
        if self._database.kind == "postgres":
            query = query.where(_OLDER_THAN_OPEN_TRANSACTIONS)
        query = query.order_by(run_events.c.id).limit(limit)

        def transaction(conn: Connection) -> tuple[int, list[EndedRun]]:
            rows = conn.execute(query).all()
            waits = _lock_waits(conn, [row.run_id for row in rows])
            last = rows[-1].id if rows else event_id
            return last, [_ended_run(row, waits.get(row.run_id)) for row in rows]

        return self._database.read(transaction)

    def not_reviewed(self, limit: int = 100) -> list[RunEvent]:
        """Ends of runs that were not reviewed yet, oldest first."""
        return self._read(_EVENTS.where(NOT_REVIEWED).order_by(run_events.c.id).limit(limit))

    def review(self, transaction: Callable[[Connection, list[RunEvent]], T], limit: int = 100) -> T:
        """Commit what follows from the oldest ends that were not reviewed together with the mark that they were.

        `transaction(conn, ends)` writes it; an exception leaves all as it was. One node at a time reviews.
        """

        def locked(conn: Connection) -> T:
            self._database.lock_names(conn, [REVIEW])
            waiting = _events(conn, _EVENTS.where(NOT_REVIEWED).order_by(run_events.c.id).limit(limit))
            marked = set(mark_reviewed(conn, [event.id for event in waiting])) if waiting else set()
            return transaction(conn, [event for event in waiting if event.id in marked])

        # Whatever is done about it in the outside world begins with a synced commit.
        return self._database.write(locked, synced=False)

    def under_review(self, transaction: Callable[[Connection], T]) -> T:
        """Commit a transaction that changes findings, while no other one reviews."""

        def locked(conn: Connection) -> T:
            self._database.lock_names(conn, [REVIEW])
            return transaction(conn)

        return self._database.write(locked)

    def _read(self, query: Any) -> list[RunEvent]:
        return self._database.read(lambda conn: _events(conn, query))


def _events(conn: Connection, query: Any) -> list[RunEvent]:
    return [
        RunEvent(id=row.id, run_id=row.run_id, entry=row.entry, state=RunState(row.state), at=row.at)
        for row in conn.execute(query)
    ]


class EndedRun(NamedTuple):
    """The end of a run, with what is measured of it. Each duration is None when it does not apply."""

    run_id: int
    entry: str
    state: RunState
    skip_reason: SkipReason | None
    duration: timedelta | None
    lateness: timedelta | None  # from the due time to the start
    lock_wait: timedelta | None  # of all steps with locks together
    dry_run: bool
    due_at: datetime | None = None


def _ended_run(row: Any, lock_wait: timedelta | None) -> EndedRun:
    started, finished, due = row.started_at, row.finished_at, row.due_at
    return EndedRun(
        run_id=row.run_id,
        entry=row.entry,
        state=RunState(row.state),
        skip_reason=None if row.skip_reason is None else SkipReason(row.skip_reason),
        duration=None if started is None or finished is None else finished - started,
        lateness=None if started is None or due is None else started - due,
        lock_wait=lock_wait,
        dry_run=row.dry_run,
        due_at=due,
    )


def _lock_waits(conn: Connection, run_ids: Sequence[int]) -> dict[int, timedelta]:
    """By run: the time from the start of its steps to their first attempts, of steps that got one."""
    if not run_ids:
        return {}
    query = (
        select(steps.c.run_id, steps.c.started_at, attempts.c.started_at.label("first"))
        .join(attempts, (attempts.c.run_id == steps.c.run_id) & (attempts.c.step == steps.c.step))
        .where(steps.c.run_id.in_(run_ids), attempts.c.number == 1)
    )
    found: dict[int, timedelta] = {}
    for row in conn.execute(query):
        if row.started_at is not None:
            found[row.run_id] = found.get(row.run_id, timedelta()) + (row.first - row.started_at)
    return found


class RunChanged(NamedTuple):
    """A run got a state."""

    run_id: int
    state: RunState
    at: datetime


def add_run_events(conn: Connection, changed: Iterable[RunChanged]) -> None:
    """Add an event for each change, within the transaction that makes it."""
    rows = [change._asdict() | {"state": change.state.value, "reviewed": not change.state.final} for change in changed]
    if rows:
        prepared.insert_rows(conn, run_events, rows)


def mark_reviewed(conn: Connection, event_ids: Sequence[int]) -> list[int]:
    """Mark ends as reviewed, within the transaction that records what follows from them; those that no other node
    marked before."""
    marked = update(run_events).where(run_events.c.id.in_(event_ids), NOT_REVIEWED).values(reviewed=True)
    return list(conn.execute(marked.returning(run_events.c.id)).scalars())
