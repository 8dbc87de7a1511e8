"""Who keeps a Postgres database from cleaning up: old snapshots, prepared transactions, slots; and who holds locks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from maintd.clients.postgres import Postgres
from maintd.errors import TargetError

_CLAIM = "hashtext('maintd')::bigint"
_CLAIMANT = """
SELECT l.pid, a.application_name, a.client_addr::text FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
   AND (l.classid::bigint << 32 | l.objid::bigint) = hashtext('maintd')::bigint
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
CLAIM_PATIENCE = timedelta(seconds=10)
"""The session of a killed maintd is ended by the server within a second or two; its claim goes with it."""

# A vacuum's own snapshot holds nobody up; it is told by its row in the progress view.
_HOLDERS = """
SELECT 'session' AS kind, a.pid, coalesce(nullif(a.application_name, ''), a.backend_type) AS who, a.usename AS owner,
       a.state, greatest(age(a.backend_xmin), age(a.backend_xid)) AS xids,
       coalesce(a.xact_start, a.backend_start) AS since, clock_timestamp() AS now
  FROM pg_stat_activity a
 WHERE (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL) AND a.pid <> pg_backend_pid()
   AND (a.datname = current_database() OR a.backend_type = 'walsender')
   AND a.pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum)
UNION ALL
SELECT 'prepared transaction', NULL, gid, owner, 'prepared', age(transaction), prepared, clock_timestamp()
  FROM pg_prepared_xacts WHERE database = current_database()
UNION ALL
SELECT CASE WHEN active THEN 'slot' ELSE 'inactive slot' END, active_pid, slot_name, coalesce(plugin, slot_type), NULL,
       greatest(age(xmin), age(catalog_xmin)), NULL, clock_timestamp()
  FROM pg_replication_slots
 WHERE (xmin IS NOT NULL OR catalog_xmin IS NOT NULL) AND (database IS NULL OR database = current_database())
"""

# A concurrent build waits for every transaction, whether it has a snapshot now or not.
_OLD = """
SELECT 'session' AS kind, pid, coalesce(nullif(application_name, ''), backend_type) AS who, usename AS owner, state,
       NULL::int AS xids, xact_start AS since, clock_timestamp() AS now
  FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
   AND xact_start < clock_timestamp() - %(age)s::interval AND backend_type <> 'autovacuum worker'
UNION ALL
SELECT 'prepared transaction', NULL, gid, owner, 'prepared', NULL, prepared, clock_timestamp()
  FROM pg_prepared_xacts WHERE database = current_database()
 ORDER BY since
"""
_BACKUPS = """
SELECT 'session' AS kind, a.pid, coalesce(nullif(a.application_name, ''), 'base backup') AS who, a.usename AS owner,
       p.phase AS state, NULL::int AS xids, a.backend_start AS since, clock_timestamp() AS now
  FROM pg_stat_progress_basebackup p JOIN pg_stat_activity a USING (pid)
UNION ALL
SELECT 'session', pid, application_name, usename, state, NULL, xact_start, clock_timestamp()
  FROM pg_stat_activity WHERE datname = current_database() AND application_name ~ '^pg_(dump|restore)'
"""
_INACTIVE_SLOTS = """
SELECT 'inactive slot' AS kind, NULL::int AS pid, slot_name AS who, coalesce(plugin, slot_type) AS owner,
       NULL::text AS state, greatest(age(xmin), age(catalog_xmin)) AS xids, NULL::timestamptz AS since,
       clock_timestamp() AS now
  FROM pg_replication_slots WHERE NOT active
"""

_LOCKERS = """
SELECT DISTINCT 'session' AS kind, l.pid, coalesce(nullif(a.application_name, ''), a.backend_type) AS who,
       a.usename AS owner, a.state || ', ' || l.mode AS state, NULL::int AS xids, a.xact_start AS since,
       clock_timestamp() AS now
  FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'relation' AND l.relation = %(oid)s::oid AND l.granted AND l.pid <> pg_backend_pid()
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.mode IN ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
                  'AccessExclusiveLock')
"""


@dataclass(frozen=True)
class Holder:
    """Someone who holds old rows or a lock."""

    kind: str
    pid: int | None
    who: str
    owner: str | None
    state: str | None
    xids: int | None  # how many transactions old what it holds is
    since: datetime | None
    now: datetime  # by the server's clock

    @property
    def held(self) -> timedelta | None:
        """How long, by the server's clock; None for a slot."""
        return self.now - self.since if self.since else None

    def __str__(self) -> str:
        name = f"pid {self.pid}" if self.kind == "session" else f'{self.kind} "{self.who}"'
        details = (
            self.who if self.kind == "session" else "",
            f"user {self.owner}" if self.owner else "",
            self.state,
            f"for {timedelta(seconds=round(self.held.total_seconds()))}" if self.held else "",
        )
        return f"{name} ({', '.join(detail for detail in details if detail)})"


def sees_others(session: Postgres) -> bool:
    """Whether this session is shown what others do; without the right, holders are invisible. Raises TargetError."""
    return bool(session.one("SELECT pg_has_role('pg_read_all_stats', 'USAGE') AS ok")["ok"])


def holders(session: Postgres) -> list[Holder]:
    """Whoever keeps dead rows from being removed in this database, the oldest first. Raises TargetError."""
    found = [Holder(**row) for row in session.rows(_HOLDERS)]
    return sorted(found, key=lambda holder: -(holder.xids or 0))


def old_transactions(session: Postgres, age: timedelta) -> list[Holder]:
    """Transactions of this database that have been open for longer, and prepared ones. Raises TargetError."""
    return [Holder(**row) for row in session.rows(_OLD, {"age": age})]


def backups(session: Postgres) -> list[Holder]:
    """Base backups of the server and dumps of this database that run now. Raises TargetError."""
    return [Holder(**row) for row in session.rows(_BACKUPS)]


def inactive_slots(session: Postgres) -> list[Holder]:
    """Slots that nobody reads: all WAL written from now on stays on the disk for them. Raises TargetError."""
    return [Holder(**row) for row in session.rows(_INACTIVE_SLOTS)]


def lockers(session: Postgres, oid: int) -> list[Holder]:
    """Whoever holds a lock on this table or index that maintenance would wait for. Raises TargetError."""
    return [Holder(**row) for row in session.rows(_LOCKERS, {"oid": oid})]


@contextmanager
def claimed(session: Postgres) -> Iterator[None]:
    """Keep every other maintd from maintaining the same database meanwhile.

    Raises TargetError, which names the session that has it, or says that the server is a standby.
    """
    if session.one("SELECT pg_is_in_recovery() AS standby")["standby"]:
        raise TargetError(f"{session.name}: is a standby", "name its primary as the target", cause="refused")
    deadline = time.monotonic() + CLAIM_PATIENCE.total_seconds()
    while not session.one(f"SELECT pg_try_advisory_lock({_CLAIM}) AS won")["won"]:
        if time.monotonic() > deadline:
            who = _claimant(session)
            raise TargetError(f"{session.name}: {who} maintains this database now", "try again later", cause="refused")
        time.sleep(0.2)
    try:
        yield
    finally:
        with suppress(TargetError):  # the session is gone, and the claim with it
            session.rows(f"SELECT pg_advisory_unlock({_CLAIM})")


def _claimant(session: Postgres) -> str:
    row = next(iter(session.rows(_CLAIMANT)), None)
    if row is None:
        return "another session"
    return f"pid {row['pid']} ({row['application_name'] or 'unnamed'} from {row['client_addr'] or 'a local socket'})"
