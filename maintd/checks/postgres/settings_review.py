"""Settings of a Postgres server compared with its memory, its checkpoints and its largest tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from psycopg.conninfo import conninfo_to_dict

from maintd.checks.hints import name_first
from maintd.checks.postgres.statement_hints import statement
from maintd.checks.postgres.tables import Table
from maintd.clients.docker import connect
from maintd.clients.postgres import Postgres
from maintd.errors import MaintdError
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.model.target import DockerTarget, PostgresTarget
from maintd.units import format_size

DOCS = "PostgreSQL documentation"
MIN_CHECKPOINTS = 20
"""Fewer show no share: one manual CHECKPOINT would be much of it."""
MAX_REQUESTED = 0.2
MAX_DEAD_ROWS = 1_000_000
"""Dead rows that autovacuum may leave in one table before it begins."""
LEAST_WAL_BYTES = 1 << 30  # the default since 9.5
_NAMES = (
    "shared_buffers",
    "work_mem",
    "hash_mem_multiplier",
    "max_connections",
    "max_wal_size",
    "log_min_duration_statement",
    "autovacuum_vacuum_scale_factor",
    "autovacuum_vacuum_threshold",
    "autovacuum_analyze_scale_factor",
    "autovacuum_analyze_threshold",
    "track_io_timing",
)
_SETTINGS = (
    "SELECT name, setting, unit, pending_restart FROM pg_settings WHERE name = ANY (%(names)s) OR pending_restart"
)
_UNIT_BYTES = {"B": 1, "kB": 1 << 10, "8kB": 8 << 10, "16kB": 16 << 10, "32kB": 32 << 10, "MB": 1 << 20, "GB": 1 << 30}


@dataclass(frozen=True)
class ServerSettings:
    """Effective values by name, memory in bytes; and checkpoints since the statistics were reset."""

    values: Mapping[str, str]
    pending_restart: tuple[str, ...]
    timed_checkpoints: int
    requested_checkpoints: int

    def number(self, name: str) -> float | None:
        """A setting; None when this version does not have it."""
        text = self.values.get(name)
        return None if text is None else float(text)


def server_settings(session: Postgres) -> ServerSettings:
    """Read settings and counters. Raises TargetError."""
    rows = session.rows(_SETTINGS, {"names": list(_NAMES)})
    values = {
        row["name"]: str(int(row["setting"]) * _UNIT_BYTES[row["unit"]])
        if row["unit"] in _UNIT_BYTES
        else row["setting"]
        for row in rows
        if row["name"] in _NAMES
    }
    query = (
        "SELECT num_timed AS timed, num_requested AS requested FROM pg_stat_checkpointer"
        if session.version >= 17
        else "SELECT checkpoints_timed AS timed, checkpoints_req AS requested FROM pg_stat_bgwriter"
    )
    count = session.one(query)
    pending = tuple(sorted(row["name"] for row in rows if row["pending_restart"]))
    return ServerSettings(values, pending, count["timed"], count["requested"])


def criteria(
    found: ServerSettings, memory_bytes: int | None, no_memory: str, tables: Sequence[Table]
) -> Iterator[Criterion]:
    """One criterion for each rule. `memory_bytes`: the server's limit; None: not known, for the reason `no_memory`."""
    yield from _memory(found, memory_bytes, no_memory)
    yield from _checkpoints(found)
    duration = found.number("log_min_duration_statement")
    yield Criterion(
        "slow statements logged",
        None if duration is None else "no" if duration < 0 else "all" if duration == 0 else "yes",
        equals="yes",
        severity=CheckStatus.WARN,
        hint="ALTER SYSTEM SET log_min_duration_statement = '1s'; SELECT pg_reload_conf();",
        rule=f"{DOCS}, 20.8.2 log_min_duration_statement: -1 logs none, 0 logs all",
    )
    yield Criterion(
        "I/O time measured",
        found.values.get("track_io_timing"),
        equals="on",
        severity=CheckStatus.WARN,
        hint="check the cost with pg_test_timing, then ALTER SYSTEM SET track_io_timing = on; SELECT pg_reload_conf();",
        rule=f"{DOCS}, 20.9.1 track_io_timing: without it statements have no I/O time",
    )
    yield from _autovacuum(found, tables)
    yield Criterion(
        "settings that wait for a restart",
        name_first(found.pending_restart) or "none",
        equals="none",
        severity=CheckStatus.WARN,
        hint="restart the server in a maintenance window, or take the change back",
        rule=f"{DOCS}, 54.24 pg_settings.pending_restart",
    )


def _memory(found: ServerSettings, memory: int | None, no_memory: str) -> Iterator[Criterion]:
    hint = "set the param memory: {TARGET: 1GiB} to the limit of the server's container or host"
    buffers = found.number("shared_buffers")
    advised = f"{(memory or 0) // 4 >> 20}MB"
    yield Criterion(
        "shared_buffers of the memory limit",
        None if memory is None or buffers is None else round(buffers / memory, 3),
        warn_below=0.15,
        warn_above=0.40,
        unknown="" if memory is not None else no_memory,
        optional=True,
        hint=hint
        if memory is None
        else f"ALTER SYSTEM SET shared_buffers = '{advised}'; then restart the server in a maintenance window",
        rule=f"{DOCS}, 20.4.1 shared_buffers: 25 % of memory is reasonable, more than 40 % unlikely better",
    )
    work, factor, sessions = (found.number(name) for name in ("work_mem", "hash_mem_multiplier", "max_connections"))
    most = None
    if memory is not None and None not in (buffers, work, sessions):
        most = (buffers or 0) + (work or 0) * (factor or 1.0) * (sessions or 0)
    if memory is not None and work:
        hint = (
            f"lower max_connections (a pooler such as pgbouncer), or work_mem: at {format_size(work)} for each of "
            f"{sessions:,.0f} sessions; or raise the memory limit"
        )
    yield Criterion(
        "memory if each session sorts or hashes once",
        None if most is None else round(most),
        warn_above=memory if memory is not None else 0,
        unit="B",
        unknown="" if memory is not None else no_memory,
        optional=True,
        hint=hint,
        rule=f"{DOCS}, 20.4.1 work_mem: each session may use it several times; shared_buffers + work_mem × "
        "hash_mem_multiplier × max_connections",
    )


def _checkpoints(found: ServerSettings) -> Iterator[Criterion]:
    wal = found.number("max_wal_size")
    total = found.timed_checkpoints + found.requested_checkpoints
    raised = f"{round(max(2 * (wal or 0), LEAST_WAL_BYTES)) >> 20}MB"
    hint = f"if the disk has the space: ALTER SYSTEM SET max_wal_size = '{raised}'; SELECT pg_reload_conf();"
    yield Criterion(
        "checkpoints requested of all",
        round(found.requested_checkpoints / total, 3) if total >= MIN_CHECKPOINTS else None,
        warn_above=MAX_REQUESTED,
        unknown="" if total >= MIN_CHECKPOINTS else f"empty: only {total} checkpoints since the statistics were reset",
        optional=True,
        hint=hint,
        rule=f"{DOCS}, 30.5 WAL Configuration: max_wal_size is too small when it often causes checkpoints",
    )
    yield Criterion(
        "max_wal_size",
        None if wal is None else round(wal),
        warn_below=LEAST_WAL_BYTES,
        unit="B",
        hint=hint,
        rule=f"{DOCS}, 20.5.2 max_wal_size: 1 GB is the default",
    )


def _autovacuum(found: ServerSettings, tables: Sequence[Table]) -> Iterator[Criterion]:
    for kind, section in (("vacuum", "20.10"), ("analyze", "20.10")):
        name = f"autovacuum_{kind}_scale_factor"
        base, factor = found.number(f"autovacuum_{kind}_threshold"), found.number(name)
        waiting = []
        for table in tables:
            own = table.options.get(name)
            scale = float(own) if own is not None else factor
            if scale is not None and (base or 0) + scale * max(table.rows, 0) > MAX_DEAD_ROWS:
                lower = f"{max(0.001, 0.5 * MAX_DEAD_ROWS / max(table.rows, 1)):.3f}"
                waiting.append(
                    statement(f"ALTER TABLE {table.quoted} SET ({name} = {lower});", f"{table.rows:,.0f} rows")
                )
        yield Criterion(
            f"tables with a late auto{kind}",
            len(waiting),
            warn_above=0,
            unknown="" if factor is not None else f"empty: there is no setting {name}",
            hint=f"it waits for more than {MAX_DEAD_ROWS:,} changed rows: {name_first(waiting)}" if waiting else "",
            rule=f"{DOCS}, {section} {name}; 25.1.6: threshold + scale factor × rows",
        )


def counted_for(session: Postgres) -> tuple[float | None, float]:
    """Since when the server counts scans and hits of this database (None: never reset), and its time; epoch seconds."""
    row = session.one(
        "SELECT extract(epoch FROM stats_reset)::float8 AS reset, extract(epoch FROM clock_timestamp())::float8 AS now"
        " FROM pg_stat_database WHERE datname = current_database()"
    )
    return row["reset"], row["now"]


def cache_hits(session: Postgres) -> float | None:
    """The share of blocks of this database that were found in shared_buffers, 0 to 1; None without any."""
    row = session.one("SELECT blks_hit, blks_read FROM pg_stat_database WHERE datname = current_database()")
    total = row["blks_hit"] + row["blks_read"]
    return row["blks_hit"] / total if total else None


def memory_limit(target: PostgresTarget, engines: Mapping[str, DockerTarget]) -> tuple[int | None, str]:
    """The limit in bytes of the container whose service is the host of the target's dsn; None with the reason."""
    host = str(conninfo_to_dict(target.dsn).get("host") or "")
    for name, engine in engines.items():
        try:
            with connect(engine, name=name) as client:
                limits = [item.memory_limit for item in client.containers(engine.project) if item.service == host]
        except MaintdError as error:
            return None, str(error)
        if any(limits):
            return max(limits), ""
        if limits:
            return None, f"not_configured: the container of {host} has no memory limit"
    return None, "not_configured: the memory of the server is not known here"
