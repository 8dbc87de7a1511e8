"""One VACUUM or ANALYZE: gently, within its time, and what came of it by the server's own counts.

A VACUUM that the server declines is a success with a warning to Postgres. Here only what the statistics show as done
counts as done.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import sql

from maintd.checks.postgres.autovacuum import Need
from maintd.checks.postgres.blockers import lockers
from maintd.checks.postgres.tables import Table, tables
from maintd.clients.postgres import Notice, Postgres, lock_timed_out
from maintd.errors import TargetError

_LOCK_NOT_AVAILABLE = "55P03"
_NOT_REMOVABLE = re.compile(r"(\d+) are dead but not yet removable")
_REMOVED = re.compile(r"tuples: (\d+) removed")
_SETTLE = 3.0  # seconds; up to Postgres 14 the statistics collector lags by half a second


@dataclass(frozen=True)
class Gentleness:
    """How much a VACUUM may disturb the others. A manual one is not held back at all by default."""

    lock_timeout: timedelta = timedelta(seconds=5)
    cost_delay: timedelta = timedelta(milliseconds=2)
    cost_limit: int = 1000
    memory_bytes: int = 64 * 1024 * 1024

    def apply(self, session: Postgres) -> None:
        """Set it for the session. Raises TargetError."""
        session.wait_for_locks(self.lock_timeout)
        session.rows(f"SET vacuum_cost_delay = {self.cost_delay.total_seconds() * 1000:g}")
        session.rows(f"SET vacuum_cost_limit = {self.cost_limit}")
        session.rows(f"SET maintenance_work_mem = {max(1024, self.memory_bytes // 1024)}")


@dataclass(frozen=True)
class Vacuumed:
    """What came of it. `problem` is empty when the server's statistics prove that it was done."""

    problem: str
    locked: bool  # someone's lock was the reason: another time may do
    took: timedelta
    removed: int
    not_removable: int  # dead rows that somebody may still see
    after: Table | None  # None: the table has gone


def statement(table: Table, need: Need, version: int) -> sql.Composed:
    """The VACUUM or ANALYZE that the table needs. Never FULL: that locks everybody out for as long as it takes."""
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


def vacuum(session: Postgres, before: Table, need: Need, timeout: timedelta) -> Vacuumed:
    """Run it and prove it. Raises TargetError only when the session is lost."""
    asked_at: datetime = session.one("SELECT clock_timestamp() AS now")["now"]
    began = time.monotonic()
    problem, locked, notices = "", False, list[Notice]()
    try:
        notices = session.long(statement(before, need, session.version), timeout)
    except TargetError as error:
        problem, locked = error.message, lock_timed_out(error)
        if error.cause == "timed_out" and not locked:
            problem = f"stopped after {time.monotonic() - began:.0f} s: {error.message}"
    took = timedelta(seconds=time.monotonic() - began)
    after = _settled(session, before, need, asked_at) if not problem else _now(session, before)
    warned = [notice for notice in notices if notice.severity == "WARNING"]
    if not problem and after is None:
        problem = "the table was dropped meanwhile"
    elif not problem and not _proven(after, need, asked_at):
        locked = any(notice.sqlstate == _LOCK_NOT_AVAILABLE for notice in warned)
        problem = "; ".join(notice.message for notice in warned) or "the statistics show no vacuum since it was asked"
        if locked and (who := lockers(session, before.oid)):
            problem += f": held by {who[0]}"
    told = "\n".join(notice.message for notice in notices)
    removed, kept = _REMOVED.search(told), _NOT_REMOVABLE.search(told)
    dead = after.dead if after else 0
    return Vacuumed(
        problem,
        locked,
        took,
        removed=int(removed[1]) if removed else max(0, before.dead - dead),
        # Other languages and older servers say it otherwise; the statistics count the same rows as dead.
        not_removable=int(kept[1]) if kept else dead,
        after=after,
    )


def _now(session: Postgres, before: Table) -> Table | None:
    return next(iter(tables(session, before.oid)), None)


def _proven(after: Table | None, need: Need, asked_at: datetime) -> bool:
    if after is None:
        return False
    done_at = after.vacuumed_at if need.vacuum else after.analyzed_at
    return done_at is not None and done_at >= asked_at


def _settled(session: Postgres, before: Table, need: Need, asked_at: datetime) -> Table | None:
    """The table as the statistics show it, given a moment to catch up where they are collected apart."""
    patience = time.monotonic() + (_SETTLE if session.version < 15 else 0)
    while True:
        after = _now(session, before)
        if after is None or _proven(after, need, asked_at) or time.monotonic() >= patience:
            return after
        time.sleep(0.1)
