"""Named locks that running steps hold, shared or exclusive. A lock ends with its holder's claim or lease."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import delete, or_, select, tuple_
from sqlalchemy.engine import Connection

from maintd.errors import RefusedError
from maintd.model.entry import LockMode
from maintd.model.run import RunState
from maintd.model.status import LockHolder
from maintd.store.apply_updates import mark_run_lost
from maintd.store.database import Database, insert_into
from maintd.store.mapping import AnyRow
from maintd.store.prepared import Prepared
from maintd.store.tables import IS_RUNNING, entries, locks, runs

_HOLDERS = (
    select(
        locks.c.lock,
        locks.c.mode,
        locks.c.run_id,
        locks.c.step,
        locks.c.since,
        locks.c.fence,
        locks.c.held,
        entries.c.name.label("entry"),
        runs.c.node,
        runs.c.incarnation,
        runs.c.state,
        runs.c.fence.label("run_fence"),
        runs.c.held.label("run_held"),
        runs.c.lease_until,
    )
    .join_from(locks, runs)
    .join(entries)
)
_ALL_HOLDERS = Prepared(_HOLDERS.order_by(locks.c.lock, locks.c.since, locks.c.run_id))


class Locks:
    """The locks of running steps."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(
        self, run_id: int, fence: int, step: str, wanted: Mapping[str, LockMode], now: datetime
    ) -> list[LockHolder]:
        """Acquire all locks or none. Return an empty list, or the holders that block them.

        Locks of the run itself do not block. Raises RefusedError when the run no longer runs under this fence.
        """
        if not wanted:
            return []
        return self._database.write(lambda conn: self._acquire(conn, run_id, fence, step, wanted, now))

    def release(self, run_id: int, step: str | None = None) -> None:
        """Release the locks of one step, or of the whole run."""
        gone = delete(locks).where(locks.c.run_id == run_id)
        if step is not None:
            gone = gone.where(locks.c.step == step)
        self._database.write(lambda conn: conn.execute(gone) and None)

    def holders(self, now: datetime) -> list[LockHolder]:
        """The holders of all locks, ordered by lock and age."""
        return self._database.read(
            lambda conn: [_holder(row) for row in _ALL_HOLDERS.rows(conn, {}) if not _is_expired(row, now)]
        )

    def _acquire(
        self, conn: Connection, run_id: int, fence: int, step: str, wanted: Mapping[str, LockMode], now: datetime
    ) -> list[LockHolder]:
        self._database.lock_names(conn, wanted)
        claimed = select(runs.c.incarnation).where(
            runs.c.id == run_id, runs.c.fence == fence, runs.c.state == RunState.RUNNING.value
        )
        claim = conn.execute(claimed).one_or_none()
        if claim is None:
            raise RefusedError(f"run {run_id} no longer runs under fence {fence}, so it cannot acquire locks")
        held = conn.execute(_HOLDERS.where(locks.c.lock.in_(list(wanted)), locks.c.run_id != run_id)).all()
        expired = [row for row in held if _is_expired(row, now, claim.incarnation)]
        blocking = [row for row in held if row not in expired and "exclusive" in (row.mode, wanted[row.lock])]
        if blocking:
            return [_holder(row) for row in sorted(blocking, key=lambda row: (row.lock, row.since))]
        for row in expired:
            if not _is_over(row) and not _take_over(conn, row, run_id, now):
                return [_holder(row)]  # its lease was renewed in the meantime
        if any(not _is_over(row) for row in expired):
            # A run that became lost just now can be held, and then it keeps its locks.
            kept = conn.execute(_HOLDERS.where(locks.c.lock.in_(list(wanted)), locks.c.held.is_(True))).all()
            kept = [row for row in kept if row.run_id != run_id and not _is_expired(row, now)]
            kept = [row for row in kept if "exclusive" in (row.mode, wanted[row.lock])]
            if kept:
                return [_holder(row) for row in sorted(kept, key=lambda row: (row.lock, row.since))]
        if expired:
            same = (locks.c.lock, locks.c.run_id, locks.c.held)
            gone = or_(*(tuple_(*same) == (row.lock, row.run_id, row.held) for row in expired))
            conn.execute(delete(locks).where(gone))
        statement = insert_into(conn, locks)
        statement = statement.on_conflict_do_update(
            index_elements=["lock", "run_id", "step"],
            set_={"mode": statement.excluded.mode, "fence": statement.excluded.fence, "held": False},
        )
        held_by = {"run_id": run_id, "step": step, "fence": fence, "since": now}
        conn.execute(statement, [{"lock": lock, "mode": mode, **held_by} for lock, mode in sorted(wanted.items())])
        return []


def _is_expired(row: AnyRow, now: datetime, by: str | None = None) -> bool:
    """Whether the holder's claim or lease is over. Leases of `by`, the requesting process, do not expire here: it
    supervises those runs itself, and its clock can have been set. A lock that is held ends with its run, unless that is
    held."""
    if row.held:
        return RunState(row.state).final and not row.run_held
    if _is_over(row) or row.lease_until is None:
        return True
    return bool(row.lease_until < now) and (by is None or row.incarnation != by)


def _is_over(row: AnyRow) -> bool:
    return bool(row.state != RunState.RUNNING.value or row.fence != row.run_fence)


def _take_over(conn: Connection, row: AnyRow, to: int, now: datetime) -> bool:
    """Mark the holder's run as lost, so that its lease cannot be renewed any more. False: its claim is still valid."""
    reason = f"node {row.node} stopped renewing the lease, so run {to} took its lock; what it did after that is unknown"
    return mark_run_lost(conn, row.run_id, row.run_fence, reason, now, if_expired=True) or not _is_running(conn, row)


def _is_running(conn: Connection, row: AnyRow) -> bool:
    claim = select(runs.c.id).where(runs.c.id == row.run_id, runs.c.fence == row.run_fence, IS_RUNNING)
    return conn.execute(claim).one_or_none() is not None


def _holder(row: AnyRow) -> LockHolder:
    return LockHolder(
        lock=row.lock,
        mode=row.mode,
        run_id=row.run_id,
        entry=row.entry,
        step=row.step,
        node=row.node or "",
        since=row.since,
    )
