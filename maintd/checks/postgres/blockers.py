"""Sessions, prepared transactions and replication slots that block maintenance of a Postgres database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from maintd.clients.postgres import Postgres
from maintd.errors import TargetError
from maintd.job.criterion import Criterion

GRANT_MONITOR = "GRANT pg_monitor TO the target's user"
OLD_TRANSACTION = timedelta(hours=1), timedelta(hours=6)
"""The age of the oldest transaction or snapshot that warns, and that fails: VACUUM removes no row it may still see."""
ADVISORY_LOCK_TIMEOUT = timedelta(seconds=10)
"""The server ends the session of a killed maintd within a second or two; its advisory lock is released then."""

_ADVISORY_KEY = "hashtext('maintd')::bigint"
_ADVISORY_LOCK_HOLDER = """
SELECT l.pid, a.application_name, a.client_addr::text FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
   AND (l.classid::bigint << 32 | l.objid::bigint) = hashtext('maintd')::bigint
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

# The snapshot of a vacuum holds back nothing; a vacuum is recognized by its row in the progress view.
_SNAPSHOT_HOLDERS = """
SELECT 'session' AS kind, a.pid, coalesce(nullif(a.application_name, ''), a.backend_type) AS name, a.usename AS owner,
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

# A concurrent index build waits for every older transaction, whether or not it has a snapshot now.
_OLD_TRANSACTIONS = """
SELECT 'session' AS kind, pid, coalesce(nullif(application_name, ''), backend_type) AS name, usename AS owner, state,
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
SELECT 'session' AS kind, a.pid, coalesce(nullif(a.application_name, ''), 'base backup') AS name, a.usename AS owner,
       p.phase AS state, NULL::int AS xids, a.backend_start AS since, clock_timestamp() AS now
  FROM pg_stat_progress_basebackup p JOIN pg_stat_activity a USING (pid)
UNION ALL
SELECT 'session', pid, application_name, usename, state, NULL, xact_start, clock_timestamp()
  FROM pg_stat_activity WHERE datname = current_database() AND application_name ~ '^pg_(dump|restore)'
"""
_INACTIVE_SLOTS = """
SELECT 'inactive slot' AS kind, NULL::int AS pid, slot_name AS name, coalesce(plugin, slot_type) AS owner,
       NULL::text AS state, greatest(age(xmin), age(catalog_xmin)) AS xids, NULL::timestamptz AS since,
       clock_timestamp() AS now
  FROM pg_replication_slots WHERE NOT active
"""
_LOCK_HOLDERS = """
SELECT DISTINCT 'session' AS kind, l.pid, coalesce(nullif(a.application_name, ''), a.backend_type) AS name,
       a.usename AS owner, a.state || ', ' || l.mode AS state, NULL::int AS xids, a.xact_start AS since,
       clock_timestamp() AS now
  FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'relation' AND l.relation = %(oid)s::oid AND l.granted AND l.pid <> pg_backend_pid()
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.mode = ANY (%(modes)s)
 ORDER BY since
"""
_MAINTENANCE_LOCKS = (
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)
_ALL_LOCKS = ("AccessShareLock", "RowShareLock", "RowExclusiveLock", *_MAINTENANCE_LOCKS)


@dataclass(frozen=True)
class Blocker:
    """A session, prepared transaction or slot that holds a snapshot or a lock."""

    kind: str
    pid: int | None
    name: str  # application name, or the name of the prepared transaction or slot
    owner: str | None
    state: str | None
    xids: int | None  # age of its snapshot in transactions
    since: datetime | None
    now: datetime  # by the server's clock

    @property
    def age(self) -> timedelta | None:
        """How long, by the server's clock; None for a slot."""
        return self.now - self.since if self.since else None

    def __str__(self) -> str:
        subject = f"pid {self.pid}" if self.kind == "session" else f'{self.kind} "{self.name}"'
        details = (
            self.name if self.kind == "session" else "",
            f"user {self.owner}" if self.owner else "",
            self.state,
            f"for {timedelta(seconds=round(self.age.total_seconds()))}" if self.age else "",
        )
        return f"{subject} ({', '.join(detail for detail in details if detail)})"


def can_see_other_sessions(session: Postgres) -> bool:
    """Whether pg_stat_activity shows this user other users' sessions. Raises TargetError."""
    return bool(session.one("SELECT pg_has_role('pg_read_all_stats', 'USAGE') AS ok")["ok"])


def snapshot_holders(session: Postgres) -> list[Blocker]:
    """What keeps VACUUM from removing dead rows of this database, oldest snapshot first. Raises TargetError."""
    blockers = [Blocker(**row) for row in session.rows(_SNAPSHOT_HOLDERS)]
    return sorted(blockers, key=lambda blocker: -(blocker.xids or 0))


def old_transactions(session: Postgres, age: timedelta) -> list[Blocker]:
    """Transactions of this database that are older, and all prepared ones. Raises TargetError."""
    return [Blocker(**row) for row in session.rows(_OLD_TRANSACTIONS, {"age": age})]


def running_backups(session: Postgres) -> list[Blocker]:
    """Base backups of the server and dumps of this database that run now. Raises TargetError."""
    return [Blocker(**row) for row in session.rows(_BACKUPS)]


def inactive_slots(session: Postgres) -> list[Blocker]:
    """Replication slots without a consumer: the server keeps all WAL from now on for them. Raises TargetError."""
    return [Blocker(**row) for row in session.rows(_INACTIVE_SLOTS)]


def lock_holders(session: Postgres, oid: int) -> list[Blocker]:
    """Sessions with a lock on this table or index that conflicts with maintenance. Raises TargetError."""
    return [Blocker(**row) for row in session.rows(_LOCK_HOLDERS, {"oid": oid, "modes": list(_MAINTENANCE_LOCKS)})]


def table_users(session: Postgres, oid: int) -> list[Blocker]:
    """Sessions with any lock on this table, longest transaction first: what a concurrent drop waits for.

    Raises TargetError.
    """
    return [Blocker(**row) for row in session.rows(_LOCK_HOLDERS, {"oid": oid, "modes": list(_ALL_LOCKS)})]


def snapshot_criteria(blockers: list[Blocker], *, visible: bool) -> list[Criterion]:
    """The oldest snapshot, and inactive slots with one. `visible`: other users' sessions are shown to this user."""
    if not visible:
        return [
            Criterion("oldest snapshot", unknown="other users' sessions are hidden from this user", hint=GRANT_MONITOR)
        ]
    aged = [(blocker.age, blocker) for blocker in blockers if blocker.age]
    age, oldest = max(aged, key=lambda item: item[0], default=(timedelta(0), None))
    slots = [blocker for blocker in blockers if blocker.kind == "inactive slot"]
    return [
        Criterion(
            "oldest snapshot",
            age,
            warn_above=OLD_TRANSACTION[0],
            at_most=OLD_TRANSACTION[1],
            hint=f"held by {oldest}; no row that it may still see is removed" if oldest else "",
        ),
        Criterion(
            "inactive slots that hold rows",
            len(slots),
            warn_above=0,
            hint="drop it or start its consumer: " + ", ".join(map(str, slots[:5])) if slots else "",
        ),
    ]


@contextmanager
def maintenance_lock(session: Postgres) -> Iterator[None]:
    """Hold the advisory lock that keeps every other maintd from maintaining the same database.

    Raises TargetError(cause="refused") that names the holder, or states that the server is a standby.
    """
    if session.one("SELECT pg_is_in_recovery() AS standby")["standby"]:
        raise TargetError(f"{session.name}: is a standby", "use its primary as the target", cause="refused")
    deadline = time.monotonic() + ADVISORY_LOCK_TIMEOUT.total_seconds()
    while not session.one(f"SELECT pg_try_advisory_lock({_ADVISORY_KEY}) AS won")["won"]:
        if time.monotonic() > deadline:
            holder = _lock_holder(session)
            raise TargetError(
                f"{session.name}: {holder} maintains this database now",
                "trigger this job when that session has ended",
                cause="refused",
            )
        time.sleep(0.2)
    try:
        yield
    finally:
        with suppress(TargetError):  # the session is lost, and with it the lock
            session.rows(f"SELECT pg_advisory_unlock({_ADVISORY_KEY})")


def _lock_holder(session: Postgres) -> str:
    row = next(iter(session.rows(_ADVISORY_LOCK_HOLDER)), None)
    if row is None:
        return "another session"
    return f"pid {row['pid']} ({row['application_name'] or 'unnamed'} from {row['client_addr'] or 'a local socket'})"
