"""What jobs need of a Postgres server: their queries, rights, extensions and settings, exercised without an effect."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from psycopg import sql

from maintd.checks.backup_sets.base_backup import explained
from maintd.checks.postgres.blockers import can_see_other_sessions
from maintd.checks.postgres.statements import require_readable, snapshot
from maintd.checks.postgres.tables import Table, selected, tables
from maintd.checks.requirements.requirement import Exercise
from maintd.checks.rollback import live
from maintd.clients.pg_dump import require_version
from maintd.clients.postgres import Postgres, Row, identify_system
from maintd.errors import TargetError
from maintd.model.target import PostgresTarget

Reader = Callable[[Postgres], object]
"""A function of `maintd.checks.postgres` that reads the server with a session."""

_PARAMETER = re.compile(r"(?<!%)%\((\w+)\)s")
_NO_PLAN = re.compile(r"\s*(SET|RESET|SHOW)\s", re.IGNORECASE)
_SHOWN = 3


def reads(*readers: Reader) -> Exercise:
    """Plan the very queries of these readers on this server, without executing them.

    Planning fails for a table, column or function that this version does not have, and for a right that is missing.
    """

    def exercise(session: Postgres) -> str:
        planner = _Planner(session)
        for reader in readers:
            try:
                reader(cast("Postgres", planner))
            except _EndOfReaderError:
                continue
        if not planner.planned:
            raise TargetError(f"{session.name}: no query could be planned", cause="unfamiliar")
        return f"{planner.planned} {'query' if planner.planned == 1 else 'queries'} planned"

    return exercise


def queries(statements: Mapping[str, tuple[str, Sequence[str]]]) -> Exercise:
    """Plan statements from the params of a job, given by name with the tables that must exist."""

    def exercise(session: Postgres) -> str:
        for name, (statement, relations) in statements.items():
            for relation in relations:
                if session.one("SELECT to_regclass(%s) IS NULL AS missing", (relation,))["missing"]:
                    raise TargetError(
                        f'{session.name}: query "{name}": there is no table {relation}',
                        "correct the query in the params of the entry",
                        cause="not_found",
                    )
            try:
                _plan(session, statement, None)
            except TargetError as error:
                raise TargetError(
                    f'{error.message} (query "{name}")', error.hint, cause=error.cause
                ) from error.__cause__
        return f"{len(statements)} {'query' if len(statements) == 1 else 'queries'} planned"

    return exercise


def sees_sessions(session: Postgres) -> str:
    """Exercise: see the queries of other users' sessions."""
    if not can_see_other_sessions(session):
        raise TargetError(
            f"{session.name}: the queries of other users are hidden",
            "GRANT pg_monitor TO the target's user",
            cause="denied",
        )
    return "may read all statistics"


def reads_statements(session: Postgres) -> str:
    """Exercise: read pg_stat_statements, with the statements of other users."""
    found = snapshot(session, require_readable(session), 1)
    return f"{found.total} statements"


def maintains(patterns: Sequence[str], exclude: Sequence[str], *, analyze: bool) -> Exercise:
    """Exercise: maintain the tables that the job selects. With `analyze`, one table of each owner is analyzed in a
    transaction that is rolled back."""

    def exercise(session: Postgres) -> str:
        chosen = selected(tables(session), patterns, exclude)
        if not chosen:
            raise TargetError(
                f"{session.name}: the params select no table", "correct `tables` and `exclude`", cause="empty"
            )
        refused = [table for table in chosen if not table.permitted]
        if refused:
            owners = sorted({table.owner for table in refused})
            raise TargetError(
                f"{session.name}: {len(refused)} of {len(chosen)} tables belong to others: {_shown(refused)}",
                f"GRANT {', '.join(owners[:_SHOWN])} TO the target's user (Postgres 17 and later: GRANT pg_maintain)",
                cause="denied",
            )
        if analyze:
            smallest = {table.owner: table for table in sorted(chosen, key=lambda item: -item.size_bytes)}
            for table in smallest.values():
                _analyze(session, table)
        return f"{len(chosen)} tables"

    return exercise


_NOT_READABLE = """
SELECT n.nspname AS schema, c.relname AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'S', 'm') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND (NOT has_schema_privilege(n.oid, 'USAGE') OR NOT has_table_privilege(c.oid, 'SELECT')
    OR row_security_active(c.oid))
ORDER BY 1, 2
"""


def can_be_dumped(target: PostgresTarget) -> Exercise:
    """Exercise: pg_dump, pg_dumpall and pg_restore are as new as the server, and may read every row."""

    def exercise(session: Postgres) -> str:
        found = {
            require_version(target, program, session.version) for program in ("pg_dump", "pg_dumpall", "pg_restore")
        }
        refused = [f"{row['schema']}.{row['name']}" for row in session.rows(_NOT_READABLE)]
        if refused:
            more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
            raise TargetError(
                f"{session.name}: may not read all rows of {', '.join(refused[:_SHOWN])}{more}",
                "GRANT pg_read_all_data TO the target's user; with row-level security also ALTER ROLE … BYPASSRLS",
                cause="denied",
            )
        return f"pg_dump {', '.join(sorted(found))}"

    return exercise


def may_stream(target: PostgresTarget) -> Exercise:
    """Exercise: a connection of the kind that pg_basebackup opens, and senders and WAL of the kind that it needs."""

    def exercise(session: Postgres) -> str:
        version = require_version(target, "pg_basebackup", session.version)
        with explained():
            system = identify_system(target, name=session.name)
        query = "SELECT current_setting('wal_level') AS wal, current_setting('max_wal_senders')::int AS senders"
        row = session.one(query)
        if row["wal"] == "minimal" or row["senders"] < 1:
            raise TargetError(
                f"{session.name}: wal_level is {row['wal']}, max_wal_senders is {row['senders']}",
                "set wal_level to replica and max_wal_senders to at least 2, and restart the server",
                cause="not_configured",
            )
        return f"pg_basebackup {version}, system {system}"

    return exercise


def can_be_replaced(role: str | None) -> Exercise:
    """Exercise: a database may be created, and put in the place of this one, with all that it has. Nothing is made."""

    def exercise(session: Postgres) -> str:
        if role is not None:
            session.rows(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        try:
            name = str(session.one("SELECT current_database() AS name")["name"])
            database = live.find(session, name)
            missing = [] if database is None else live.missing_rights(session, database)
            missing += live.missing_for(session, *live.owners_and_extensions_of(session))
        finally:
            if role is not None:
                session.rows("RESET ROLE")
        if missing:
            text = "; ".join(item.text for item in missing)
            hint = "; ".join(dict.fromkeys(item.hint for item in missing))
            raise TargetError(f"{session.name}: {text}", hint, cause="denied")
        return "may create databases, end sessions and rename" + (f", as {role}" if role is not None else "")

    return exercise


def extension(name: str, function: str) -> Exercise:
    """Exercise: call a function of an extension, named with its arguments: `bt_index_check(regclass, boolean)`."""

    def exercise(session: Postgres) -> str:
        schema = session.extension_schema(name)
        if schema is None:
            raise TargetError(
                f"{session.name}: the extension {name} is not installed",
                f"CREATE EXTENSION {name}",
                cause="not_configured",
            )
        if not session.can_execute(schema, function):
            raise TargetError(
                f"{session.name}: may not execute {function}",
                f"GRANT EXECUTE ON FUNCTION {schema}.{function} TO the target's user",
                cause="denied",
            )
        return f"installed in {schema}"

    return exercise


def _analyze(session: Postgres, table: Table) -> None:
    statement = sql.SQL("ANALYZE {}").format(sql.Identifier(table.schema, table.name))
    first = len(session.notices)
    session.rows("BEGIN READ WRITE")
    try:
        session.rows("SET LOCAL lock_timeout = '1s'")
        session.rows(statement)
    finally:
        session.rows("ROLLBACK")
    for notice in session.notices[first:]:
        if notice.severity == "WARNING":
            raise TargetError(
                f"{session.name}: ANALYZE of {table.schema}.{table.name}: {notice.message}",
                f"GRANT {table.owner} TO the target's user",
                cause="denied",
            )


def _shown(chosen: Iterable[Table]) -> str:
    names = [f"{table.schema}.{table.name}" for table in chosen]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


class _EndOfReaderError(Exception):
    """A reader needs a row to continue, and planning a query returns none."""


class _Planner:
    """In place of a session: what is queried is planned on the real one, and has no rows."""

    def __init__(self, session: Postgres) -> None:
        self._session = session
        self.name = session.name
        self.version = session.version
        self.notices = session.notices
        self.planned = 0

    def rows(self, query: Any, params: Any = ()) -> list[Row]:
        self.planned += _plan(self._session, query, params)
        return []

    def one(self, query: Any, params: Any = ()) -> Row:
        self.rows(query, params)
        raise _EndOfReaderError

    @contextmanager
    def statement_timeout(self, timeout: object) -> Iterator[None]:
        yield


def _plan(session: Postgres, query: Any, params: Any) -> bool:
    """EXPLAIN a query; false for one that has no plan. `params` None: each parameter that it names is null.

    Raises TargetError.
    """
    if _NO_PLAN.match(str(query)):
        return False
    if params is None:
        params = dict.fromkeys(_PARAMETER.findall(str(query)))
    explained = sql.SQL("EXPLAIN ") + query if isinstance(query, sql.Composable) else f"EXPLAIN {query}"
    session.rows(cast("Any", explained), params or ())
    return True
