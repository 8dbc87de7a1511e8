"""Dumps of Postgres databases, each with rows and content hashes per table from the very snapshot of its dump.

A session exports a snapshot; pg_dump and a second session, which counts and hashes, both read by it. So what is proven
of a restored dump are the rows that were dumped, whatever was written in the meantime.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

from psycopg import sql

from maintd.checks.backup_sets.content_hash import HASH, SETTINGS, count_tables, lock_tables
from maintd.checks.backup_sets.layout import safe_name
from maintd.checks.backup_sets.writer import SetWriter, WrittenFile
from maintd.checks.probes import UnforeseenError, as_target_error
from maintd.clients.pg_dump import database_of, dump_command, program_path, require_version, with_database
from maintd.clients.piped import piped
from maintd.clients.postgres import Postgres, connect
from maintd.clients.shell import Command
from maintd.errors import MaintdError, TargetError
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.model.target import PostgresTarget

_SNAPSHOT = """
SELECT pg_export_snapshot() AS snapshot, now() AS at, pg_is_in_recovery() AS standby,
  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text AS lsn,
  current_setting('server_version') AS version, current_setting('server_encoding') AS encoding,
  (SELECT datcollate FROM pg_database WHERE datname = current_database()) AS collate,
  pg_database_size(current_database()) AS size_bytes
"""
_EXTENSIONS = "SELECT extname AS name, extversion AS version FROM pg_extension ORDER BY 1"
# initdb makes it, so that a restore into a new cluster must find it or give it the same name. Its oid is fixed:
# BOOTSTRAP_SUPERUSERID in pg_authid.dat.
BOOTSTRAP_ROLE = "SELECT rolname AS name FROM pg_roles WHERE oid = 10"
DATABASES = """
SELECT datname AS name, pg_database_size(oid) AS size_bytes FROM pg_database
WHERE datallowconn AND NOT datistemplate AND has_database_privilege(oid, 'CONNECT') ORDER BY 1
"""
_ALWAYS_THERE = "postgres"  # the database for maintenance, which a new cluster has
_PATIENCE = timedelta(seconds=30)  # of a query of the catalog
_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# Lines of `pg_restore` and `pg_dump --schema-only` that differ between two dumps of the same schema.
# pg_restore prints the refresh of a materialized view, which is its data, also with `--schema-only`.
_VARYING = (
    b"--",
    b"SET ",
    b"SELECT pg_catalog.set_config(",
    b"\\restrict",
    b"\\unrestrict",
    b"REFRESH MATERIALIZED VIEW ",
)


@dataclass(frozen=True)
class DumpOptions:
    """databases: patterns of further databases. stall: how long a program or server may be silent."""

    databases: Sequence[str]
    exclude: Sequence[str]
    hashes: bool
    stall: timedelta
    lock_timeout: timedelta


def choose_databases(
    ctx: Context, target: PostgresTarget, name: str, options: DumpOptions, targets: Mapping[str, PostgresTarget]
) -> dict[str, int]:
    """The databases of this target to dump, with their sizes in bytes. Others of the server, which no target has, warn.

    targets: all of the site. Raises TargetError.
    """
    with connect(target, "backup", name=name) as session:
        own = str(session.one("SELECT current_database() AS name")["name"])
        found = {str(row["name"]): int(row["size_bytes"]) for row in session.rows(DATABASES)}
    more = [one for one in found if _matches(one, options.databases) and not _matches(one, options.exclude)]
    chosen = {one: found.get(one, 0) for one in dict.fromkeys((own, *more))}
    elsewhere = {_ALWAYS_THERE, *(database_of(other) for other in targets.values())}
    left = [one for one in found if one not in chosen and one not in elsewhere and not _matches(one, options.exclude)]
    ctx.check(
        f"postgres {name}: databases that are not backed up",
        len(left),
        warn_above=0,
        hint=f"add them to the param databases, or to exclude_databases: {', '.join(left[:5])}" if left else "",
    )
    return chosen


def dump_globals(
    writer: SetWriter, target: PostgresTarget, name: str, stall: timedelta
) -> tuple[WrittenFile, dict[str, Any]]:
    """Write the roles without their passwords, and the table spaces; return the file and what the manifest has.

    Raises TargetError.
    """
    with connect(target, "backup", name=name) as session:
        version = require_version(target, "pg_dumpall", session.version)
        # Which roles a restore must find; the passwords are not read, which needs a superuser.
        roles = [str(row["name"]) for row in session.rows("SELECT rolname AS name FROM pg_roles ORDER BY 1")]
        first = next((str(row["name"]) for row in session.rows(BOOTSTRAP_ROLE)), None)
    command = dump_command(target, "pg_dumpall", "--globals-only", "--no-role-passwords")
    with piped(command, stall) as program:
        file = writer.write(f"postgres-{safe_name(name)}-globals.sql", program.chunks(), "sql")
    about = {"target": name, "file": file.name, "pg_dumpall_version": version, "passwords": False}
    return file, about | {"roles": [role for role in roles if not role.startswith("pg_")], "bootstrap_role": first}


def dump_again(
    ctx: Context, writer: SetWriter, target: PostgresTarget, name: str, database: str, options: DumpOptions
) -> tuple[WrittenFile, dict[str, Any]]:
    """As `dump_database`; again by a new snapshot when a table was dropped, or locked, before pg_dump had its lock."""
    try:
        return dump_database(ctx, writer, target, name, database, options)
    except TargetError as error:
        if "LOCK TABLE" not in error.message:
            raise
        ctx.log(f"{error.message}; dumped again by a new snapshot")
        return dump_database(ctx, writer, target, name, database, options)


def dump_database(
    ctx: Context, writer: SetWriter, target: PostgresTarget, name: str, database: str, options: DumpOptions
) -> tuple[WrittenFile, dict[str, Any]]:
    """Write the dump of one database; return the file and what the manifest has about it.

    1. Export a snapshot. 2. Dump by it, and at the same time count and hash the rows by it. 3. Hash the schema.
    4. Compare the rows in the dump with those counted. Raises TargetError.
    """
    subject = f"postgres {name}: {database}"
    place = with_database(target, database)
    with ExitStack() as stack:
        session = stack.enter_context(connect(place, "backup", name=name, timeout=max(target.timeout, _PATIENCE)))
        version = require_version(place, "pg_dump", session.version)
        require_version(place, "pg_restore", session.version)
        # A server that ends idle transactions would end the snapshot.
        session.rows("SET idle_in_transaction_session_timeout = 0")
        session.rows(_BEGIN)
        taken = session.one(_SNAPSHOT)
        snapshot = str(taken["snapshot"])
        extensions = {str(row["name"]): str(row["version"]) for row in session.rows(_EXTENSIONS)}
        system = system_identifier(session)
        counting = _Counting(ctx, stack, place, name, snapshot, options)
        waiting = f"--lock-wait-timeout={round(options.lock_timeout.total_seconds() * 1000)}"
        by = (f"--snapshot={snapshot}", waiting)
        with piped(dump_command(place, "pg_dump", "--format=custom", *by), options.stall) as program:
            file_name = f"postgres-{safe_name(name)}.{safe_name(database)}.dump"
            file = writer.write(file_name, counting.started_by(program.chunks()), "pgdump")
        # From the dump, not the server: a lock on a table would now wait behind a DROP that waits for this session.
        command = Command(
            (program_path(place, "pg_restore"), "--schema-only", "--file=-", str(writer.path / file_name))
        )
        with piped(command, options.stall) as program:
            schema = schema_hash(program.chunks())
        tables = _counted(ctx, subject, file, counting.result)
    about = {
        "target": name,
        "database": database,
        "file": file.name,
        "server_version": str(taken["version"]),
        "pg_dump_version": version,
        "encoding": str(taken["encoding"]),
        "collate": str(taken["collate"]),
        "standby": bool(taken["standby"]),
        "system_identifier": system,
        "snapshot_at": taken["at"].isoformat(),
        "lsn": str(taken["lsn"]),
        "size_bytes": int(taken["size_bytes"]),
        "extensions": extensions,
        "schema_sha256": schema,
        "tables": tables,
        "hash": HASH if options.hashes else None,
        "hash_settings": SETTINGS,
    }
    return file, about


def schema_hash(chunks: Iterator[bytes]) -> str:
    """The sha256 of what pg_restore or pg_dump prints with `--schema-only`, without comments, settings, empty lines."""
    digest, rest = hashlib.sha256(), b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.strip() and not line.startswith(_VARYING):
                digest.update(line + b"\n")
    return digest.hexdigest()


def rows_criteria(file: WrittenFile, tables: Mapping[str, Mapping[str, Any]]) -> list[Criterion]:
    """Whether the decoded dump has the rows that its snapshot has."""
    if file.contents is None:
        return []
    dumped = file.contents.rows
    unlike = [name for name, table in tables.items() if dumped.get(name, 0) not in (None, table["rows"])]
    about = f"{', '.join(unlike[:3])}: the dump is not of this snapshot; make another" if unlike else ""
    return [Criterion("tables whose rows differ from the snapshot", len(unlike), at_most=0, hint=about)]


class _Counting:
    """Counts and hashes in a thread, by a session of its own; what it raises is in `result`.

    It begins with the first output of pg_dump, which has locked all tables by then. Were the tables locked here first,
    a DROP that waits for them would keep pg_dump waiting until the end of this session, which waits for pg_dump.
    """

    def __init__(
        self,
        ctx: Context,
        stack: ExitStack,
        target: PostgresTarget,
        name: str,
        snapshot: str,
        options: DumpOptions,
    ) -> None:
        self._name = name
        self._hashes = options.hashes
        self.result: Future[tuple[dict[str, Any], list[str]]] = Future()
        self._session: Postgres | None = None
        try:
            with as_target_error(f"postgres {name}"):
                session = stack.enter_context(connect(target, "backup hashes", name=name, timeout=_PATIENCE))
                session.rows("SET idle_in_transaction_session_timeout = 0")
                session.rows(_BEGIN)
                session.rows(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
                stack.enter_context(session.statement_timeout(ctx.remaining))
                stack.callback(session.close)  # first of all: when the dump fails, it ends the query of the thread
                self._session = session
        except MaintdError as error:
            self.result.set_exception(error)

    def started_by(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the chunks; the first one starts the thread."""
        for number, chunk in enumerate(chunks):
            if number == 0 and self._session is not None:
                arguments = (self._session,)
                threading.Thread(target=self._count, args=arguments, name=f"hash {self._name}", daemon=True).start()
            yield chunk

    def _count(self, session: Postgres) -> None:
        try:
            with as_target_error(f"postgres {self._name}"):
                tables, left = lock_tables(session)
                self.result.set_result((count_tables(session, tables, HASH if self._hashes else None), left))
        except MaintdError as error:
            self.result.set_exception(error)


def _counted(
    ctx: Context, subject: str, file: WrittenFile, counting: Future[tuple[dict[str, Any], list[str]]]
) -> dict[str, Any] | None:
    """The counts, compared with the dump; without them the dump is kept, and the check is unknown."""
    name = f"{subject}: rows and hashes"
    try:
        tables, left = counting.result()
    except UnforeseenError as error:
        ctx.unknown(name, error.message, hint="this is an error in maintd: report it")
        return None
    except MaintdError as error:
        hint = error.hint or "GRANT pg_read_all_data TO the target's user; see deploy/roles.sql"
        ctx.unknown(name, error.message, hint=hint)
        return None
    hint = f"a change of these tables waits for the dump: {', '.join(left[:3])}" if left else ""
    ctx.check(f"{subject}: tables without a hash", len(left), warn_above=0, hint=hint)
    ctx.report(rows_criteria(file, tables), subject)
    dumped = file.contents.rows if file.contents is not None else {}
    return tables | {table: {"rows": dumped.get(table), "hash": None} for table in left}


def system_identifier(session: Postgres) -> str | None:
    """The cluster's own number, by which a restore can see that it is not beside production; None without the right.

    An error would end the transaction, and with it the snapshot.
    """
    allowed = "SELECT has_function_privilege('pg_control_system()', 'EXECUTE') AS allowed"
    if not session.one(allowed)["allowed"]:
        return None
    return str(session.one("SELECT system_identifier FROM pg_control_system()")["system_identifier"])


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
