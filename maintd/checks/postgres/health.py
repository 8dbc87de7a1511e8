"""A Postgres server: its sessions, what they wait for, damage, archiving, replication slots, age of transactions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from maintd.checks.limits import Limits
from maintd.clients import postgres
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.model.target import PostgresTarget
from maintd.units import Duration, Size

Rows = list[postgres.Row]

# Each by itself, so that a grant which is missing costs one answer. Ages are seconds.
QUERIES: Mapping[str, str] = {
    "server": """
        SELECT pg_is_in_recovery() AS standby, extract(epoch FROM clock_timestamp())::float8 AS clock,
               extract(epoch FROM now() - pg_postmaster_start_time())::float8 AS uptime,
               pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all, current_user AS login""",
    "connections": """
        SELECT (SELECT sum(numbackends) FROM pg_stat_database)::int AS used,
               current_setting('max_connections')::int
                   - current_setting('superuser_reserved_connections')::int AS most""",
    "sessions": """
        SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0)::float8 AS oldest,
               coalesce(max(extract(epoch FROM now() - state_change))
                   FILTER (WHERE state LIKE 'idle in transaction%'), 0)::float8 AS idle,
               (array_agg(pid ORDER BY xact_start) FILTER (WHERE xact_start IS NOT NULL))[1] AS oldest_pid,
               (array_agg(pid ORDER BY state_change) FILTER (WHERE state LIKE 'idle in transaction%'))[1] AS idle_pid
        FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()""",
    "blocked": """
        SELECT count(DISTINCT pid)::int AS count, string_agg(DISTINCT by::text, ', ') AS blockers,
               coalesce(max(extract(epoch FROM now() - since)), 0)::float8 AS longest
        FROM (SELECT pid, unnest(pg_blocking_pids(pid)) AS by, coalesce(
                  (SELECT min(waitstart) FROM pg_locks WHERE pg_locks.pid = waiting.pid), query_start) AS since
              FROM pg_stat_activity waiting WHERE wait_event_type = 'Lock') blocked""",
    "damage": """
        SELECT current_setting('data_checksums') = 'on' AS looked_for,
               coalesce(sum(checksum_failures), 0)::int AS count FROM pg_stat_database""",
    "archiver": """
        SELECT current_setting('archive_mode') <> 'off' AS wanted, archived_count::int, failed_count::int,
               last_failed_wal, coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false) AS failing
        FROM pg_stat_archiver""",
    "slots": """
        SELECT slot_name, active, wal_status,
               pg_wal_lsn_diff(
                   CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END,
                   restart_lsn)::float8 AS retained
        FROM pg_replication_slots WHERE NOT temporary ORDER BY slot_name""",
    "settings": "SELECT name FROM pg_settings WHERE pending_restart ORDER BY name",
    "ages": """
        SELECT datname, greatest(age(datfrozenxid), mxid_age(datminmxid))::float8 AS age
        FROM pg_database ORDER BY age DESC LIMIT 1""",
}
_WRAP = 2**31  # transaction ids until the oldest must be frozen


class PostgresLimits(Limits):
    """When a Postgres server is not well."""

    connections_warn: float = 75
    connections_fail: float = 90
    """Percent of the connections that ordinary users may have."""
    transaction_warn: Duration = timedelta(hours=1)
    transaction_fail: Duration = timedelta(hours=6)
    """Age of the oldest transaction: VACUUM keeps everything that it could still see."""
    idle_warn: Duration = timedelta(minutes=5)
    idle_fail: Duration = timedelta(minutes=15)
    """How long a session may be idle in a transaction."""
    blocked_warn: Duration = timedelta(minutes=1)
    blocked_fail: Duration = timedelta(minutes=5)
    """How long a session may wait for another's lock."""
    clock_warn: Duration = timedelta(milliseconds=500)
    clock_fail: Duration = timedelta(seconds=2)
    """How far the server's clock may be off ours."""
    slot_wal: Size = 10 * 1024**3
    """Warn when a replication slot holds back more WAL than this."""
    wraparound_warn: float = 50
    wraparound_fail: float = 75
    """Percent of the transaction ids used up since the oldest was frozen."""


@dataclass(frozen=True)
class PostgresFacts:
    """The rows of each query, or why there are none. `clock_offset` is the server's against ours, seconds."""

    answers: Mapping[str, Rows | TargetError]
    clock_offset: float | None


def look(target: PostgresTarget, name: str, job: str) -> PostgresFacts:
    """Connect and ask. Raises TargetError when there is no session; a query without an answer has its own error."""
    answers: dict[str, Rows | TargetError] = {}
    offset = None
    with postgres.connect(target, job, name=name) as session:
        hung: TargetError | None = None
        for key, query in QUERIES.items():
            if hung is not None:
                answers[key] = hung
                continue
            before = time.time()
            try:
                found = session.rows(query)
            except TargetError as error:
                answers[key] = error
                # Whatever made one wait, or ended the session, would cost the same patience again each time.
                hung = error if error.cause in ("timed_out", "partial") else None
                continue
            answers[key] = found
            if key == "server":
                offset = found[0]["clock"] - (before + time.time()) / 2
    return PostgresFacts(answers, offset)


def judge(ctx: Context, name: str, facts: PostgresFacts, limits: PostgresLimits) -> None:
    """Checks and measures of one server."""
    subject = f"postgres {name}"
    server = facts.answers["server"]
    if isinstance(server, TargetError):
        ctx.report_error(f"{subject}: answers", server)
        return
    state = server[0]
    ctx.check(f"{subject}: answers", "standby" if state["standby"] else "primary", one_of=("primary", "standby"))
    ctx.measure("pg_uptime_seconds", state["uptime"], "s", server=name)
    if facts.clock_offset is not None:
        ctx.check(
            f"{subject}: clock offset",
            timedelta(seconds=abs(facts.clock_offset)),
            at_most=limits.clock_fail,
            warn_above=limits.clock_warn,
            hint="is time synchronised on both hosts? timedatectl",
        )
    judges: Mapping[str, tuple[str, Callable[[Context, str, str, Rows, PostgresLimits], None]]] = {
        "connections": ("connections used", _connections),
        "sessions": ("oldest transaction", _sessions),
        "blocked": ("longest wait for a lock", _blocked),
        "damage": ("checksum failures", _damage),
        "archiver": ("archiving", _archiver),
        "slots": ("replication slots", _slots),
        "settings": ("settings waiting for a restart", _settings),
        "ages": ("transaction ids used up", _ages),
    }
    for key, (what, judge_rows) in judges.items():
        rows = facts.answers[key]
        if isinstance(rows, TargetError):
            ctx.unknown(f"{subject}: {what}", f"{rows.cause}: {rows.message}", hint=rows.hint or "")
        elif key in ("sessions", "blocked") and not state["sees_all"]:
            # Without the grant others' sessions are there, but empty: that would look like rest.
            grant = f"GRANT pg_monitor TO {state['login']}"
            ctx.unknown(f"{subject}: {what}", "denied: other users' sessions are hidden", hint=grant)
        else:
            judge_rows(ctx, subject, name, rows, limits)


def _connections(ctx: Context, subject: str, name: str, rows: Rows, limits: PostgresLimits) -> None:
    used, most = rows[0]["used"], max(rows[0]["most"], 1)
    ctx.check(
        f"{subject}: connections used",
        round(100 * used / most, 1),
        at_most=limits.connections_fail,
        warn_above=limits.connections_warn,
        unit="%",
        hint=f"{used} of {most}: see who in pg_stat_activity",
    )
    ctx.measure("pg_connections_ratio", used / most, "", server=name)


def _sessions(ctx: Context, subject: str, name: str, rows: Rows, limits: PostgresLimits) -> None:
    for what, key, pid, fail, warn in (
        ("oldest transaction", "oldest", "oldest_pid", limits.transaction_fail, limits.transaction_warn),
        ("idle in transaction", "idle", "idle_pid", limits.idle_fail, limits.idle_warn),
    ):
        culprit = rows[0][pid]
        ctx.check(
            f"{subject}: {what}",
            timedelta(seconds=max(rows[0][key], 0)),
            at_most=fail,
            warn_above=warn,
            hint=f"pid {culprit}: see what it is in pg_stat_activity" if culprit else "there is none",
        )
    ctx.measure("pg_longest_xact_seconds", rows[0]["oldest"], "s", server=name)


def _blocked(ctx: Context, subject: str, name: str, rows: Rows, limits: PostgresLimits) -> None:
    count, blockers = rows[0]["count"], rows[0]["blockers"]
    ctx.check(
        f"{subject}: longest wait for a lock",
        timedelta(seconds=max(rows[0]["longest"], 0)),
        at_most=limits.blocked_fail,
        warn_above=limits.blocked_warn,
        hint=f"{count} waiting for pid {blockers}: see what it is in pg_stat_activity" if count else "nobody waits",
    )
    ctx.measure("pg_blocked_sessions", count, "", server=name)


def _damage(ctx: Context, subject: str, name: str, rows: Rows, limits: PostgresLimits) -> None:
    if not rows[0]["looked_for"]:
        ctx.log(f"{subject}: data checksums are off, so damaged pages are not noticed (pg_checksums --enable)")
        return
    new = ctx.increase("pg_checksum_failures", rows[0]["count"], server=name)
    ctx.check(
        f"{subject}: new checksum failures",
        rows[0]["count"] if new is None else new,
        equals=0,
        hint="pages are damaged: stop writing, look at the server's log and the disk, and restore from a backup",
    )


def _archiver(ctx: Context, subject: str, name: str, rows: Rows, limits: PostgresLimits) -> None:
    seen = rows[0]
    if not seen["wanted"]:
        return
    ctx.check(
        f"{subject}: archiving",
        f"fails at {seen['last_failed_wal']}" if seen["failing"] else "works",
        equals="works",
        hint="WAL piles up until the disk is full: run archive_command by hand, look at the server's log",
    )
    new = ctx.increase("pg_archive_failures", seen["failed_count"], server=name)
    if new is not None:
        ctx.check(f"{subject}: new archive failures", new, warn_above=0, hint="look at the server's log")


def _slots(ctx: Context, subject: str, name: str, rows: Rows, limits: PostgresLimits) -> None:
    for slot in rows:
        what = f"{subject}: slot {slot['slot_name']}"
        status = slot["wal_status"] or "none"
        state = f"{'active' if slot['active'] else 'inactive'}, WAL {status}"
        hint = f"start its consumer, or: SELECT pg_drop_replication_slot('{slot['slot_name']}')"
        ctx.check(
            what,
            state,
            one_of=("active, WAL reserved", "active, WAL extended"),
            severity=CheckStatus.FAIL if not slot["active"] or status == "lost" else CheckStatus.WARN,
            hint=hint,
        )
        retained = max(slot["retained"] or 0, 0)
        ctx.check(f"{what} retained WAL", retained, warn_above=limits.slot_wal, unit="B", hint=hint)
        ctx.measure("pg_slot_retained_bytes", retained, "B", server=name, slot=str(slot["slot_name"]))


def _settings(ctx: Context, subject: str, name: str, rows: Rows, limits: PostgresLimits) -> None:
    names = ", ".join(str(row["name"]) for row in rows)
    ctx.check(
        f"{subject}: settings waiting for a restart",
        len(rows),
        equals=0,
        severity=CheckStatus.WARN,
        hint=f"{names}: restart in the next window, or set them back" if rows else "",
    )


def _ages(ctx: Context, subject: str, name: str, rows: Rows, limits: PostgresLimits) -> None:
    percent = 100 * rows[0]["age"] / _WRAP
    ctx.check(
        f"{subject}: transaction ids used up",
        round(percent, 2),
        at_most=limits.wraparound_fail,
        warn_above=limits.wraparound_warn,
        unit="%",
        hint=f"in database {rows[0]['datname']}: VACUUM FREEZE it; find what holds the oldest transaction open",
    )
    ctx.measure("pg_wraparound_percent", percent, "%", server=name)
