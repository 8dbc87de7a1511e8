"""Run one VACUUM or ANALYZE within a timeout, and read its result from the server's statistics.

A VACUUM that the server skips (no permission, table locked) is a success with a warning to Postgres. Here it is done
only when the statistics say so.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import sql

from maintd.checks.postgres.autovacuum import VacuumNeed
from maintd.checks.postgres.blockers import (
    Blocker,
    can_see_other_sessions,
    lock_holders,
    snapshot_criteria,
    snapshot_holders,
)
from maintd.checks.postgres.tables import Table, tables
from maintd.checks.postgres.wraparound import age_criteria, databases
from maintd.clients.postgres import SERVER_LOG, Notice, Postgres, Row, lock_timed_out
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.units import seconds_text

PROGRESS = """
SELECT p.phase, p.heap_blks_scanned AS done, p.heap_blks_total AS total, a.wait_event_type = 'BufferPin' AS pinned
  FROM pg_stat_progress_vacuum p LEFT JOIN pg_stat_activity a USING (pid) WHERE p.pid = %s
"""
# A pin has no record of its own: a session that holds one has a lock on the table or on its index, too.
_PIN_HOLDERS = """
SELECT DISTINCT 'session' AS kind, l.pid, coalesce(nullif(a.application_name, ''), a.backend_type) AS name,
       a.usename AS owner, a.state || ', open cursor or scan' AS state, NULL::int AS xids, a.xact_start AS since,
       clock_timestamp() AS now
  FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'relation' AND l.granted AND l.pid <> %(pid)s AND l.pid <> pg_backend_pid()
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND (l.relation = %(oid)s::oid OR l.relation IN (SELECT indexrelid FROM pg_index WHERE indrelid = %(oid)s::oid))
 ORDER BY since
"""
_LOCK_NOT_AVAILABLE = "55P03"
_NOT_REMOVABLE = re.compile(r"(\d+) are dead but not yet removable")
_REMOVED = re.compile(r"tuples: (\d+) removed")
_STATISTICS_DELAY = 3.0  # seconds; up to Postgres 14 the statistics collector lags by half a second


@dataclass(frozen=True)
class VacuumSettings:
    """The session's settings that limit its load on the server. A manual VACUUM has no cost delay by default."""

    lock_timeout: timedelta = timedelta(seconds=5)
    cost_delay: timedelta = timedelta(milliseconds=2)
    cost_limit: int = 1000
    memory_bytes: int = 64 * 1024 * 1024

    def apply(self, session: Postgres) -> None:
        """Set them for the session. Raises TargetError."""
        session.set_lock_timeout(self.lock_timeout)
        session.rows(f"SET vacuum_cost_delay = {self.cost_delay.total_seconds() * 1000:g}")
        session.rows(f"SET vacuum_cost_limit = {self.cost_limit}")
        session.rows(f"SET maintenance_work_mem = {max(1024, self.memory_bytes // 1024)}")


@dataclass(frozen=True)
class VacuumResult:
    """`problem` is empty when the server's statistics prove that the table was vacuumed or analyzed."""

    problem: str
    locked: bool  # another session's lock or pin was the cause
    duration: timedelta
    removed: int
    not_removable: int  # dead rows that a snapshot may still see
    after: Table | None  # None: the table was dropped
    skipped: bool = False  # the server did not begin it: a lock or a missing permission

    def criterion(self, table: Table, grant: str) -> Criterion:
        """Whether it was done; a lock only warns. `grant` is the hint when the session may not vacuum the table."""
        name = f"vacuum of {table.label}"
        if self.locked:
            hint = "the next run tries again; find out why the lock is held for so long"
            return Criterion(name, f"skipped: {self.problem}", equals="done", severity=CheckStatus.WARN, hint=hint)
        hint = SERVER_LOG if table.permitted else grant
        return Criterion(name, self.problem or "done", equals="done", hint=hint)


class PinWatch:
    """Ends a VACUUM that waits for a page which another session keeps pinned; lock_timeout does not end that wait.

    Without it, a cursor that a client left open would take the time of all other tables.
    """

    def __init__(self, monitor: Postgres, pid: int, table: Table, timeout: timedelta) -> None:
        self._monitor, self._pid, self._table, self._timeout = monitor, pid, table, timeout
        self._since: float | None = None
        self.holder = ""  # set when it was ended

    def look(self, row: Row) -> None:
        """Evaluate one row of PROGRESS. Raises TargetError when the monitor fails."""
        if not row["pinned"]:
            self._since = None
            return
        self._since = self._since or time.monotonic()
        if not self.holder and time.monotonic() - self._since >= self._timeout.total_seconds():
            found = self._monitor.rows(_PIN_HOLDERS, {"pid": self._pid, "oid": self._table.oid})
            self.holder = str(Blocker(**found[0])) if found else "a session that has ended"
            self._monitor.rows("SELECT pg_cancel_backend(%s)", (self._pid,))


def statement(table: Table, need: VacuumNeed, version: int) -> sql.Composed:
    """The VACUUM or ANALYZE that the table needs. Never FULL: that locks the table exclusively."""
    if not need.vacuum:
        return sql.SQL("ANALYZE (VERBOSE, SKIP_LOCKED) {}").format(table.identifier)
    options = ["ANALYZE", "VERBOSE", "SKIP_LOCKED", "TRUNCATE off"]  # truncation takes an ACCESS EXCLUSIVE lock
    if version >= 13:
        options.append("PARALLEL 0")
    if version >= 14:
        options.append("INDEX_CLEANUP auto")
    if need.freeze:
        options.append("FREEZE")
    return sql.SQL("VACUUM (" + ", ".join(options) + ") {}").format(table.identifier)


def vacuum(
    session: Postgres, before: Table, need: VacuumNeed, timeout: timedelta, watch: PinWatch | None = None
) -> VacuumResult:
    """Run it and read the result. Raises TargetError only when the session is lost."""
    requested_at: datetime = session.one("SELECT clock_timestamp() AS now")["now"]
    started = time.monotonic()
    problem, locked, skipped, notices = "", False, False, list[Notice]()
    try:
        notices = session.run(statement(before, need, session.version), timeout)
    except TargetError as error:
        problem, locked = error.message, lock_timed_out(error)
        skipped = locked or error.cause == "denied"
        if watch is not None and watch.holder:
            problem, locked = f"stopped: it waited for a page that another session holds: {watch.holder}", True
        elif error.cause == "timed_out" and not locked:
            problem = f"stopped after {seconds_text(time.monotonic() - started)}: {error.message}"
    duration = timedelta(seconds=time.monotonic() - started)
    after = _read(session, before) if problem else _read_when_done(session, before, need, requested_at)
    warnings = [notice for notice in notices if notice.severity == "WARNING"]
    if not problem and after is None:
        problem = "the table was dropped"
    elif not problem and not _done(after, need, requested_at):
        skipped = bool(warnings)
        locked = any(notice.sqlstate == _LOCK_NOT_AVAILABLE for notice in warnings)
        problem = "; ".join(notice.message for notice in warnings) or "the statistics show no vacuum since the request"
        if locked and (holders := lock_holders(session, before.oid)):
            problem += f": held by {holders[0]}"
    text = "\n".join(notice.message for notice in notices)
    removed, kept = _REMOVED.search(text), _NOT_REMOVABLE.search(text)
    dead = after.dead if after else 0
    return VacuumResult(
        problem,
        locked,
        duration,
        removed=int(removed[1]) if removed else max(0, before.dead - dead),
        # Other languages and older servers word it differently; the statistics count the same rows as dead.
        not_removable=int(kept[1]) if kept else dead,
        after=after,
        skipped=skipped,
    )


def kept_rows_criterion(session: Postgres, table: Table, result: VacuumResult) -> Criterion:
    """The dead rows that a successful VACUUM has left because a snapshot may still see them. Raises TargetError."""
    limit = max(50, table.dead // 10)
    hint = ""
    if result.not_removable > limit:
        holder = next(iter(snapshot_holders(session)), "a session that has ended")
        hint = f"held by {holder}: end it, then vacuum again"
    return Criterion(f"dead rows kept in {table.label}", result.not_removable, warn_above=limit, hint=hint)


def _read(session: Postgres, before: Table) -> Table | None:
    return next(iter(tables(session, before.oid)), None)


def _done(after: Table | None, need: VacuumNeed, requested_at: datetime) -> bool:
    if after is None:
        return False
    done_at = after.vacuumed_at if need.vacuum else after.analyzed_at
    return done_at is not None and done_at >= requested_at


def _read_when_done(session: Postgres, before: Table, need: VacuumNeed, requested_at: datetime) -> Table | None:
    """The table after the statistics have caught up, where they are collected by a separate process."""
    deadline = time.monotonic() + (_STATISTICS_DELAY if session.version < 15 else 0)
    while True:
        after = _read(session, before)
        if after is None or _done(after, need, requested_at) or time.monotonic() >= deadline:
            return after
        time.sleep(0.1)


def report_ages(ctx: Context, session: Postgres, freeze_max_ages: dict[str, float]) -> None:
    """Report ages of databases and the oldest snapshot."""
    target, ages, holders = session.name, databases(session), snapshot_holders(session)
    ctx.report(age_criteria(ages, freeze_max_ages), target)
    ctx.report(snapshot_criteria(holders, visible=can_see_other_sessions(session)), target)
    oldest = max((holder.age.total_seconds() for holder in holders if holder.age), default=0.0)
    ctx.measure("pg_oldest_xmin_age_seconds", oldest, "s", target=target)
    for row in ages:
        ctx.measure("pg_xid_age", row["xid_age"], "transaction", target=target, database=row["name"])
        ctx.measure("pg_mxid_age", row["mxid_age"], "multixact", target=target, database=row["name"])
