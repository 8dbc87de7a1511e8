"""Health of a Postgres server: sessions, locks, checksums, archiving, replication slots, wraparound."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from maintd.checks.clock_offset import ClockLimits, ClockOffset, clock_offset, report_clock
from maintd.checks.postgres import wraparound
from maintd.checks.postgres.blockers import OLD_TRANSACTION
from maintd.checks.postgres.database import checksum_criterion
from maintd.checks.probes import answered
from maintd.clients import postgres
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.model.target import PostgresTarget
from maintd.units import Duration, Size

Rows = list[postgres.Row]

# One query for each fact, so that a missing grant hides only that fact. Ages are in seconds.
QUERIES: Mapping[str, str] = {
    "server": """
        SELECT pg_is_in_recovery() AS standby, extract(epoch FROM clock_timestamp())::float8 AS clock,
               extract(epoch FROM now() - pg_postmaster_start_time())::float8 AS uptime,
               pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all, current_user AS login""",
    "connections": """
        SELECT (SELECT sum(numbackends) FROM pg_stat_database)::int AS used,
               current_setting('max_connections')::int
                   - current_setting('superuser_reserved_connections')::int AS available""",
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
        SELECT current_setting('data_checksums') = 'on' AS enabled,
               coalesce(sum(checksum_failures), 0)::int AS count FROM pg_stat_database""",
    "archiver": """
        SELECT current_setting('archive_mode') <> 'off' AS enabled, archived_count::int, failed_count::int,
               last_failed_wal, coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false) AS failing
        FROM pg_stat_archiver""",
    "slots": """
        SELECT slot_name, active, wal_status,
               pg_wal_lsn_diff(
                   CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END,
                   restart_lsn)::float8 AS retained
        FROM pg_replication_slots WHERE NOT temporary ORDER BY slot_name""",
    "settings": "SELECT name FROM pg_settings WHERE pending_restart ORDER BY name",
    "ages": wraparound.DATABASES,
}


class PostgresLimits(ClockLimits):
    """Limits for a Postgres server."""

    connections_warn: float = 75
    connections_fail: float = 90
    """Percent of the connections available to ordinary users."""
    transaction_warn: Duration = OLD_TRANSACTION[0]
    transaction_fail: Duration = OLD_TRANSACTION[1]
    """Age of the oldest transaction. VACUUM removes no row that it may still see."""
    idle_warn: Duration = timedelta(minutes=5)
    idle_fail: Duration = timedelta(minutes=15)
    """How long a session is idle in a transaction."""
    blocked_warn: Duration = timedelta(minutes=1)
    blocked_fail: Duration = timedelta(minutes=5)
    """How long a session waits for a lock of another."""
    slot_wal: Size = 10 * 1024**3
    """Warn when a replication slot retains more WAL than this."""
    wraparound_warn: float = 50
    wraparound_fail: float = 75
    """Percent of the transaction ids used up."""


@dataclass(frozen=True)
class PostgresFacts:
    """The rows of each query, or its error. `clock`: None when the server did not answer."""

    answers: Mapping[str, Rows | TargetError]
    clock: ClockOffset | None


def collect(target: PostgresTarget, name: str, job: str) -> PostgresFacts:
    """Connect and run all queries. Raises TargetError without a session; a failed query is an error in the facts."""
    answers: dict[str, Rows | TargetError] = {}
    clock = None
    with postgres.connect(target, job, name=name) as session:
        answered()
        fatal: TargetError | None = None
        for key, query in QUERIES.items():
            if fatal is not None:
                answers[key] = fatal
                continue
            before = time.time()
            try:
                rows = session.rows(query)
            except TargetError as error:
                answers[key] = error
                # After a timeout or a lost session, every other query would take its whole timeout, too.
                fatal = error if error.cause in ("timed_out", "partial") else None
                continue
            answers[key] = rows
            if key == "server":
                clock = clock_offset(rows[0]["clock"], before, time.time())
    return PostgresFacts(answers, clock)


def report(ctx: Context, name: str, facts: PostgresFacts, limits: PostgresLimits) -> None:
    """Report the checks and measures of one server."""
    subject = f"postgres {name}"
    server = facts.answers["server"]
    if isinstance(server, TargetError):
        ctx.report_error(f"{subject}: answers", server)
        return
    state = server[0]
    ctx.check(f"{subject}: answers", "standby" if state["standby"] else "primary", one_of=("primary", "standby"))
    ctx.measure("pg_uptime_seconds", state["uptime"], "s", server=name)
    if facts.clock is not None:
        report_clock(ctx, subject, facts.clock, limits)
    reports: Mapping[str, tuple[str, Callable[[Context, str, str, Rows, PostgresLimits], None]]] = {
        "connections": ("connections used", _connections),
        "sessions": ("oldest transaction", _sessions),
        "blocked": ("longest wait for a lock", _blocked),
        "damage": ("checksum failures", _checksums),
        "archiver": ("archiving", _archiver),
        "slots": ("replication slots", _slots),
        "settings": ("settings waiting for a restart", _settings),
        "ages": ("transaction ids used up", _wraparound),
    }
    for key, (check, report_rows) in reports.items():
        rows = facts.answers[key]
        if isinstance(rows, TargetError):
            ctx.unknown(f"{subject}: {check}", f"{rows.cause}: {rows.message}", hint=rows.hint or "")
        elif key in ("sessions", "blocked") and not state["sees_all"]:
            # Without the grant, other users' sessions are listed without their state and look idle.
            grant = f"GRANT pg_monitor TO {state['login']}"
            ctx.unknown(f"{subject}: {check}", "denied: other users' sessions are hidden", hint=grant)
        else:
            report_rows(ctx, subject, name, rows, limits)


def _connections(ctx: Context, subject: str, name: str, rows: Rows, limits: PostgresLimits) -> None:
    used, available = rows[0]["used"], max(rows[0]["available"], 1)
    ctx.check(
        f"{subject}: connections used",
        round(100 * used / available, 1),
        at_most=limits.connections_fail,
        warn_above=limits.connections_warn,
        unit="%",
        hint=f"{used} of {available}: find the clients in pg_stat_activity",
    )
    ctx.measure("pg_connections_ratio", used / available, "", server=name)


def _sessions(ctx: Context, subject: str, name: str, rows: Rows, limits: PostgresLimits) -> None:
    for what, key, fail, warn in (
        ("oldest transaction", "oldest", limits.transaction_fail, limits.transaction_warn),
        ("idle in transaction", "idle", limits.idle_fail, limits.idle_warn),
    ):
        pid = rows[0][f"{key}_pid"]
        ctx.check(
            f"{subject}: {what}",
            timedelta(seconds=max(rows[0][key], 0)),
            at_most=fail,
            warn_above=warn,
            hint=f"find pid {pid} in pg_stat_activity" if pid else "",
        )
    ctx.measure("pg_longest_xact_seconds", rows[0]["oldest"], "s", server=name)


def _blocked(ctx: Context, subject: str, name: str, rows: Rows, limits: PostgresLimits) -> None:
    count, blockers = rows[0]["count"], rows[0]["blockers"]
    ctx.check(
        f"{subject}: longest wait for a lock",
        timedelta(seconds=max(rows[0]["longest"], 0)),
        at_most=limits.blocked_fail,
        warn_above=limits.blocked_warn,
        hint=f"waiting for pid {blockers}: {count}; find it in pg_stat_activity" if count else "",
    )
    ctx.measure("pg_blocked_sessions", count, "", server=name)


def _checksums(ctx: Context, subject: str, name: str, rows: Rows, limits: PostgresLimits) -> None:
    if not rows[0]["enabled"]:
        ctx.log(f"{subject}: data checksums are off; damaged pages stay undetected (pg_checksums --enable)")
        return
    count = rows[0]["count"]
    new = ctx.increase("pg_checksum_failures", count, server=name)
    ctx.report([checksum_criterion("new checksum failures", count if new is None else new)], subject)


def _archiver(ctx: Context, subject: str, name: str, rows: Rows, limits: PostgresLimits) -> None:
    archiver = rows[0]
    if not archiver["enabled"]:
        return
    ctx.check(
        f"{subject}: archiving",
        f"fails at {archiver['last_failed_wal']}" if archiver["failing"] else "works",
        equals="works",
        hint="WAL accumulates until the disk is full: as the server's user, run archive_command to see why it fails",
    )
    new = ctx.increase("pg_archive_failures", archiver["failed_count"], server=name)
    if new is not None:
        ctx.check(
            f"{subject}: new archive failures", new, warn_above=0, hint=f"archive_command failed: {postgres.SERVER_LOG}"
        )


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
        hint=f"{names}: restart in the next window, or reset them" if rows else "",
    )


def _wraparound(ctx: Context, subject: str, name: str, rows: Rows, limits: PostgresLimits) -> None:
    ctx.report([wraparound.used_criterion(rows, limits.wraparound_warn, limits.wraparound_fail)], subject)
    ctx.measure("pg_wraparound_percent", max(map(wraparound.percent_used, rows)), "%", server=name)
