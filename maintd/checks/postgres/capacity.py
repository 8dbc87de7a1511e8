"""Capacity figures of a Postgres server: databases, largest relations, write-ahead log, sequences, connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

from maintd.checks.postgres.tables import LOCKED_RELATIONS
from maintd.checks.probes import as_target_error
from maintd.clients.postgres import Postgres, connect
from maintd.errors import TargetError
from maintd.model.target import PostgresTarget
from maintd.reports.figure import Figure, unmeasured

_DATABASES = """
SELECT datname::text AS name,
       CASE WHEN has_database_privilege(oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'MEMBER')
            THEN pg_database_size(oid) END AS bytes
FROM pg_database WHERE NOT datistemplate AND datallowconn ORDER BY 1
"""
# A size of NULL is a relation that was dropped in the meantime. TOAST counts with its table, each partition by itself.
_RELATIONS = """
SELECT * FROM (
    SELECT format('%%I.%%I', n.nspname, c.relname) AS name, pg_total_relation_size(c.oid) AS bytes,
           pg_relation_size(c.oid) AS heap, pg_indexes_size(c.oid) AS indexes,
           coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0) AS toast
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid NOT IN (SELECT oid FROM busy) AND c.relkind IN ('r', 'm')
      AND n.nspname NOT IN ('pg_catalog', 'information_schema')
      AND n.nspname NOT LIKE 'pg\\_temp\\_%%' AND n.nspname NOT LIKE 'pg\\_toast%%') sizes
WHERE bytes IS NOT NULL ORDER BY bytes DESC, name LIMIT %(limit)s
"""
_LOCKED = """
SELECT format('%I.%I', n.nspname, c.relname) AS name FROM busy JOIN pg_class c ON c.oid = busy.oid
  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm') ORDER BY 1 LIMIT 20
"""
_WAL = "SELECT coalesce(sum(size), 0)::bigint AS bytes, count(*) AS files FROM pg_ls_waldir()"
_WAL_POSITION = """
SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END
        - '0/0'::pg_lsn)::float8 AS bytes
"""
_ROWS = "SELECT tup_inserted AS rows FROM pg_stat_database WHERE datname = current_database()"
# A sequence ends at its own maximum or at that of its column's type, whichever is lower.
_SEQUENCES = """
SELECT name, used, max_value FROM (
    SELECT format('%I.%I', s.schemaname, s.sequencename) AS name, s.last_value AS used,
           least(s.max_value, CASE t.typname WHEN 'int2' THEN 32767 WHEN 'int4' THEN 2147483647 END) AS max_value
    FROM pg_sequences s
    JOIN pg_namespace n ON n.nspname = s.schemaname
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.sequencename
    LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
                          AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
    LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    LEFT JOIN pg_type t ON t.oid = a.atttypid
    WHERE s.last_value IS NOT NULL AND s.increment_by > 0 AND NOT s.cycle) sequences
ORDER BY used::float8 / max_value DESC, name LIMIT 5
"""
_IDENTITY = """
SELECT to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') AS started,
       current_setting('port') AS port
"""
_OF_SERVER = ("database", "write-ahead log", "write-ahead log written", "connections")
_CONNECTIONS = """
SELECT count(*) AS used, current_setting('max_connections')::int AS max_connections
FROM pg_stat_activity WHERE backend_type = 'client backend'
"""


class MeasuredServers:
    """What was measured by which target, so that two logins to one server do not count its figures twice."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._targets: dict[tuple[str, ...], str] = {}

    def once(self, session: Postgres, found: Iterator[Figure]) -> Iterator[Figure]:
        """The figures of a session but those that an earlier target has measured. Raises TargetError."""
        server = server_identity(session)
        database = str(session.one("SELECT current_database()::text AS name")["name"])
        others: dict[str, int] = {}
        for figure in found:
            name = figure.name if figure.kind in ("database", "relation", "sequence") else ""
            key = (*server, "" if figure.kind in _OF_SERVER else database, figure.kind, name)
            if key in self._targets:
                others[self._targets[key]] = others.get(self._targets[key], 0) + 1
                continue
            if figure.value is not None:
                self._targets[key] = session.name
            yield figure
        for other, count in others.items():
            self._log(f"{session.name}: {count} figures are those of {other}, another login to the same server")


def server_identity(session: Postgres) -> tuple[str, str]:
    """What distinguishes a running server from all others, whatever address, socket, login or database leads to it.

    Every login may read its start, in microseconds, and its port. The system identifier would not do: standbys and
    copies of the data share it, and a login may be denied it. Raises TargetError.
    """
    row = session.one(_IDENTITY)
    return str(row["started"]), str(row["port"])


def figures(
    target: PostgresTarget, name: str, max_relations: int, timeout: timedelta, measured: MeasuredServers
) -> Iterator[Figure]:
    """All figures of the server and of the target's database, with at most `max_relations` relations.

    Those that another target has measured already are left out.
    """
    try:
        session = connect(target, "capacity_report", name=name, timeout=timeout)
    except TargetError as error:
        yield unmeasured("database", name, "B", f"pg_database_size on {name}", str(error))
        return
    with session:
        yield from measured.once(session, _figures(session, name, max_relations))


def _figures(session: Postgres, name: str, max_relations: int) -> Iterator[Figure]:
    for kind, unit, source, read in (
        ("database", "B", f"pg_database_size on {name}", _databases),
        ("relation", "B", f"pg_total_relation_size on {name}", lambda s: _relations(s, max_relations)),
        ("write-ahead log", "B", f"pg_ls_waldir on {name}", _wal),
        ("write-ahead log written", "B", f"pg_current_wal_insert_lsn on {name}", _wal_position),
        ("rows inserted", "", f"pg_stat_database on {name}", _rows),
        ("sequence", "", f"pg_sequences on {name}", _sequences),
        ("connections", "", f"pg_stat_activity on {name}", _connections),
    ):
        yield from _read(session, kind, unit, source, read)


def _read(
    session: Postgres, kind: str, unit: str, source: str, read: Callable[[Postgres], Iterator[Figure]]
) -> Iterator[Figure]:
    """The figures, or one without a value and with the cause."""
    try:
        with as_target_error(f"{kind} of {session.name}"):
            yield from read(session)
    except TargetError as error:
        yield unmeasured(kind, session.name, unit, source, str(error))


def _databases(session: Postgres) -> Iterator[Figure]:
    source = f"pg_database_size on {session.name}"
    for row in session.rows(_DATABASES):
        if row["bytes"] is None:
            cause = f"no CONNECT privilege; GRANT CONNECT ON DATABASE {row['name']}, or pg_read_all_stats"
            yield unmeasured("database", row["name"], "B", source, cause)
            continue
        labels = {"server": session.name, "database": row["name"]}
        yield Figure("database", row["name"], row["bytes"], "B", source, measure="pg_database_bytes", labels=labels)


def _relations(session: Postgres, limit: int) -> Iterator[Figure]:
    source = f"pg_total_relation_size on {session.name}"
    for row in session.rows(LOCKED_RELATIONS + _RELATIONS, {"limit": limit}):
        parts = {key: float(row[key]) for key in ("heap", "indexes", "toast")}
        labels = {"server": session.name, "relation": row["name"]}
        yield Figure(
            "relation",
            row["name"],
            row["bytes"],
            "B",
            source,
            measure="pg_relation_total_bytes",
            labels=labels,
            details=parts,
        )
    for row in session.rows(LOCKED_RELATIONS + _LOCKED):
        yield unmeasured("relation", row["name"], "B", source, "locked by another session: see pg_locks")


def _wal(session: Postgres) -> Iterator[Figure]:
    row = session.one(_WAL)
    source = f"pg_ls_waldir on {session.name}, segments: {row['files']}"
    labels = {"server": session.name}
    yield Figure("write-ahead log", session.name, row["bytes"], "B", source, measure="pg_wal_bytes", labels=labels)


def _wal_position(session: Postgres) -> Iterator[Figure]:
    yield Figure(
        "write-ahead log written",
        session.name,
        session.one(_WAL_POSITION)["bytes"],
        "B",
        f"pg_current_wal_insert_lsn on {session.name}",
        "since initdb",
        measure="pg_wal_written_bytes",
        labels={"server": session.name},
        counter=True,
    )


def _rows(session: Postgres) -> Iterator[Figure]:
    yield Figure(
        "rows inserted",
        session.name,
        session.one(_ROWS)["rows"],
        "",
        f"pg_stat_database on {session.name}",
        "since the last reset of its statistics",
        measure="pg_rows_inserted",
        labels={"server": session.name},
        counter=True,
    )


def _sequences(session: Postgres) -> Iterator[Figure]:
    source = f"pg_sequences on {session.name}"
    for row in session.rows(_SEQUENCES):
        yield Figure(
            "sequence",
            row["name"],
            row["used"],
            "",
            source,
            capacity=row["max_value"],
            measure="pg_sequence_used",
            labels={"server": session.name, "sequence": row["name"]},
        )


def _connections(session: Postgres) -> Iterator[Figure]:
    row = session.one(_CONNECTIONS)
    yield Figure(
        "connections",
        session.name,
        row["used"],
        "",
        f"pg_stat_activity on {session.name}",
        capacity=row["max_connections"],
        measure="pg_connections_used",
        labels={"server": session.name},
    )
