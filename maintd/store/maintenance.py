"""Maintenance of the store itself: prune, check, backup, size."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.engine import Connection

from maintd.config.settings import Retention
from maintd.errors import RefusedError, StoreError, StoreUnusableError
from maintd.store import prune as pruning
from maintd.store.database import Database
from maintd.store.prune import PruneResult
from maintd.store.schema import current_revision, revisions
from maintd.store.tables import RUN_TABLES, runs

__all__ = ["Maintenance", "PruneResult"]


class Maintenance:
    """The operations of `maintd db`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def prune(
        self,
        retention: Retention,
        now: datetime,
        *,
        on_batch: Callable[[int], None] | None = None,
        artifacts_dir: Path | None = None,
    ) -> PruneResult:
        """Delete what `retention` does not keep, in batches with a commit each.

        Unfinished runs are kept, and the last success and the last failure of each entry with all their evidence. The
        ledger has a longer retention of its own. `on_batch` is called with the number of rows of each batch. Artifact
        files are deleted in `artifacts_dir`; without it, only their rows are.
        """
        return pruning.prune(self._database, retention, now, on_batch=on_batch, artifacts_dir=artifacts_dir)

    def check(self) -> list[str]:
        """The problems of the database, one line each; empty without any."""
        return self._database.read(_check_sqlite if self._database.kind == "sqlite" else _check_postgres)

    def backup(self, to: Path, *, replace: bool = False) -> Path:
        """Write a consistent copy of the store, which can be in use, and return its path.

        `to` is a file or a folder. An existing file is replaced only with `replace`, and only when the copy is
        complete, and checked on SQLite; without it, RefusedError is raised. On SQLite the copy is a database; on
        Postgres it has pg_dump's custom format.
        """
        suffix = "db" if self._database.kind == "sqlite" else "dump"
        if to.is_dir():
            to = to / f"maintd-{self._database.now():%Y%m%dT%H%M%SZ}.{suffix}"
        if not replace and os.path.lexists(to):
            raise _exists(to)
        part = to.with_name(f".{to.name}.{os.getpid()}.part")
        try:
            part.touch(mode=0o600)
            if self._database.kind == "sqlite":
                _copy_sqlite(self._database, part)
            else:
                _dump_postgres(self._database, part)
            _sync(part)
            if replace:
                part.replace(to)
            else:
                _move_to_new(part, to)
            _sync(to.parent)
        except OSError as error:
            raise StoreError(f"cannot write the backup {to}: {error.strerror}") from error
        finally:
            part.unlink(missing_ok=True)
        return to

    def size_bytes(self) -> int:
        """The size of the store on disk."""
        if self._database.kind == "sqlite":
            file = Path(str(self._database.url.database))
            parts = [file, file.with_name(f"{file.name}-wal")]
            return sum(part.stat().st_size for part in parts if part.exists())
        query = text("SELECT pg_database_size(current_database())")
        return self._database.read(lambda conn: int(conn.execute(query).scalar_one()))


def _exists(path: Path) -> RefusedError:
    return RefusedError(f"{path} exists", "name another file, or replace it with --force")


def _move_to_new(part: Path, to: Path) -> None:
    """Rename a file, unless there is one of the new name. Raises RefusedError, OSError."""
    try:
        os.link(part, to)  # in contrast to rename(2), link(2) never replaces a file
    except FileExistsError:
        raise _exists(to) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(to):
            raise _exists(to) from None
        part.replace(to)


def _check_sqlite(conn: Connection) -> list[str]:
    messages = [str(row[0]) for row in conn.exec_driver_sql("PRAGMA integrity_check")]
    problems = [] if messages == ["ok"] else messages
    for table, rowid, parent, _ in conn.exec_driver_sql("PRAGMA foreign_key_check"):
        problems.append(f'table "{table}", row {rowid}: the row it refers to in "{parent}" does not exist')
    return problems + _check_revision(conn)


def _check_postgres(conn: Connection) -> list[str]:
    query = text("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid ORDER BY 1")
    problems = [f'index "{name}" is not valid; run: REINDEX INDEX {name}' for name in conn.execute(query).scalars()]
    for table in RUN_TABLES:
        orphans = select(func.count()).select_from(table.outerjoin(runs)).where(runs.c.id.is_(None))
        count = conn.execute(orphans).scalar_one()
        if count:
            problems.append(f'table "{table.name}" has rows without a run: {count}')
    return problems + _check_revision(conn)


def _check_revision(conn: Connection) -> list[str]:
    found, newest = current_revision(conn), revisions()[-1]
    return [] if found == newest else [f"database is at revision {found}, this maintd needs {newest}"]


def _copy_sqlite(database: Database, part: Path) -> None:
    from maintd.store.sqlite import SqliteDatabase

    assert isinstance(database, SqliteDatabase)
    try:
        source = database.raw()
        copy = sqlite3.connect(part, isolation_level=None)
        try:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a -wal file
            messages = [row[0] for row in copy.execute("PRAGMA integrity_check")]
        finally:
            copy.close()
            source.close()
    except sqlite3.Error as error:
        raise database.store_error(error) from error
    if messages != ["ok"]:
        raise StoreUnusableError(f"the copy of {database.path} failed its integrity check: {messages[0]}")


def _dump_postgres(database: Database, part: Path) -> None:
    program = shutil.which("pg_dump")
    if program is None:
        raise StoreError("pg_dump is not installed", "install the Postgres client (Debian: postgresql-client)")
    url = database.url.set(drivername="postgresql")
    environ = {**os.environ, "PGCONNECT_TIMEOUT": "10"}
    if url.password:
        environ["PGPASSWORD"] = str(url.password)  # not in argv, which every user of the host can read
    target = url.set(password=None).render_as_string(hide_password=False)
    command = [program, "--format=custom", "--no-password", f"--file={part}", f"--dbname={target}"]
    done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        output = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise StoreError(f"pg_dump: {output[-1]}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
