"""Base backups of Postgres: all databases of a server as one tar, with the backup_manifest and the WAL that it needs.

`pg_basebackup --pgdata=- --format=tar` sends everything as one stream, the manifest last. So a base backup is a file
like the others of a set: written below a temporary name, hashed, and compared with the manifest of the server while it
is written, file by file as pg_verifybackup does, which reads this format only from Postgres 18 on.

WAL is fetched at the end. A temporary replication slot, which ends with its session whatever happens to this process,
keeps the server from removing it before; without one, a server that has removed it fails the backup.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from maintd.checks.backup_sets.content_hash import TABLES
from maintd.checks.backup_sets.layout import safe_name
from maintd.checks.backup_sets.packing import quickly_gzipped
from maintd.checks.backup_sets.postgres import BOOTSTRAP_ROLE, DATABASES, system_identifier
from maintd.checks.backup_sets.writer import SetWriter, WrittenFile
from maintd.clients.pg_dump import dump_command, require_version, with_database
from maintd.clients.piped import piped
from maintd.clients.postgres import Postgres, connect
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.model.target import PostgresTarget

_OLDEST = 13  # the first version with a backup_manifest
_PATIENCE = timedelta(seconds=30)  # of a query of the catalog
_RULE = "add a line to pg_hba.conf: host replication USER ADDRESS scram-sha-256; then SELECT pg_reload_conf()"
_HINTS = (
    ("no pg_hba.conf entry for replication", _RULE),
    ("pg_hba.conf rejects replication", _RULE),
    ("replication role", "ALTER ROLE the target's user REPLICATION; see deploy/roles.sql"),
    ("permission denied to start WAL sender", "ALTER ROLE the target's user REPLICATION; see deploy/roles.sql"),
    ("max_wal_senders", "raise max_wal_senders of the server, or back up when fewer replicas are connected"),
    ("wal_level", "set wal_level of the server to replica"),
    ("single tablespace", "a server with table spaces is backed up by pg_dump, or by a program of your own"),
    ("has already been removed", "raise wal_keep_size of the server, or let it have a replication slot free"),
)


def name_of(target: str) -> str:
    """The name of the file of a target."""
    return f"postgres-{safe_name(target)}-base.tar.gz"


def size_of(target: PostgresTarget, name: str) -> int:
    """Bytes of all databases of the server. Raises TargetError."""
    with connect(target, "backup", name=name) as session:
        query = "SELECT coalesce(sum(pg_database_size(oid)), 0)::bigint AS size_bytes FROM pg_database"
        return int(session.one(query)["size_bytes"])


def save(
    ctx: Context, writer: SetWriter, target: PostgresTarget, name: str, stall: timedelta
) -> tuple[WrittenFile, dict[str, Any]]:
    """Write a base backup of the server; return the file and what the manifest has about it. Raises TargetError."""
    subject = f"postgres {name}: base backup"
    with connect(target, "backup", name=name, timeout=max(target.timeout, _PATIENCE)) as session:
        if session.version < _OLDEST:
            text = f"{subject}: a server before Postgres {_OLDEST} makes no backup_manifest"
            raise TargetError(text, "back it up by pg_dump", cause="unfamiliar")
        version = require_version(target, "pg_basebackup", session.version)
        server = session.one("SELECT current_setting('server_version') AS version, now() AS at")
        checksums = str(session.one("SELECT current_setting('data_checksums') AS value")["value"]) == "on"
        system = system_identifier(session)
        first = next((str(row["name"]) for row in session.rows(BOOTSTRAP_ROLE)), None)
        before = _tables(target, name, session)
        with _kept_wal(ctx, session, subject), explained():
            file = writer.write(name_of(name), quickly_gzipped(_stream(target, stall)), "tar.gz")
    # By a session of its own: the first one has been idle for as long as the backup took.
    with connect(target, "backup", name=name, timeout=max(target.timeout, _PATIENCE)) as session:
        after = _tables(target, name, session)
    found = file.contents.base_backup if file.contents is not None else None
    if found is None:
        raise TargetError(f"{subject}: what pg_basebackup wrote is no base backup: {file.unread}", cause="malformed")
    timeline, start, end = found.ranges[-1] if found.ranges else (0, 0, 0)
    about = {
        "target": name,
        "file": file.name,
        "server_version": str(server["version"]),
        "pg_basebackup_version": version,
        "system_identifier": system,
        "bootstrap_role": first,
        "data_checksums": checksums,
        "started_at": server["at"].isoformat(),
        "timeline": timeline,
        "lsn": _lsn(start),
        "end_lsn": _lsn(end),
        "size_bytes": found.size_bytes,
        "files": found.files,
        # What was there before and after it is in it, whatever was made or dropped while it was made.
        "databases": {
            database: sorted(set(tables) & set(after[database]))
            for database, tables in before.items()
            if database in after
        },
    }
    return file, about


def _stream(target: PostgresTarget, stall: timedelta) -> Iterator[bytes]:
    """The tar. `--checkpoint=fast`: else it begins after minutes, in which nothing is sent."""
    options = ("--pgdata=-", "--format=tar", "--wal-method=fetch", "--checkpoint=fast", "--no-sync")
    command = dump_command(target, "pg_basebackup", *options, "--manifest-checksums=SHA256", "--label=maintd")
    with piped(command, stall) as program:
        yield from program.chunks()


@contextmanager
def _kept_wal(ctx: Context, session: Postgres, subject: str) -> Iterator[None]:
    """Keep the server from removing WAL in this block, by a slot that ends with the session."""
    try:
        if session.version >= 14:
            session.rows("SET idle_session_timeout = 0")
        query = "SELECT pg_create_physical_replication_slot(%s, true, true) AS slot"
        session.rows(query, (f"maintd_backup_{os.getpid()}",))
    except TargetError as error:
        # The backup fails by itself where WAL that it needs is gone.
        ctx.log(f"{subject}: without a replication slot: {error.message}")
    yield


@contextmanager
def explained() -> Iterator[None]:
    """Say in this block what to do about an error of a streaming connection."""
    try:
        yield
    except TargetError as error:
        hint = next((hint for sign, hint in _HINTS if sign in error.message), None)
        if hint is None:
            raise
        denied = "pg_hba.conf" in error.message or "role" in error.message or "denied" in error.message
        raise TargetError(error.message, hint, cause="denied" if denied else error.cause) from error


def _tables(target: PostgresTarget, name: str, session: Postgres) -> dict[str, list[str]]:
    """The tables of each database that may be read, by `schema.table`."""
    found = {}
    for row in session.rows(DATABASES):
        database = str(row["name"])
        with suppress(TargetError), connect(with_database(target, database), "backup", name=name) as one:
            found[database] = [f"{table['schema']}.{table['name']}" for table in one.rows(TABLES)]
    return found


def _lsn(number: int) -> str:
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"
