"""SQLite as the store: writers take turns and commit in groups, and never block readers."""

from __future__ import annotations

import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import NullPool

from maintd.clock import Clock
from maintd.errors import StoreError, StoreUnavailableError, StoreUnusableError
from maintd.store.database import ConflictError, driver
from maintd.store.group_commit import GroupCommit
from maintd.units import seconds_text

T = TypeVar("T")

BUSY_SECONDS = 5.0
"""How long to wait while another process writes."""

IDLE_READERS = 4
"""Connections kept for the next reads; more are opened on demand."""

MIGRATION_TRIES = 12
"""How many times that long to wait while another process migrates."""

_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

Access = Literal["create", "write", "read"]
_MODE = {"create": "rwc", "write": "rw", "read": "ro"}

_RESTORE = "restore the file from a copy made by: maintd db backup"


class _LockedError(StoreUnavailableError):
    """Another process has been writing for longer than BUSY_SECONDS."""


class SqliteDatabase:
    """One file in WAL mode, which several processes can use. In each of them, threads that write commit in groups."""

    kind: Literal["sqlite", "postgres"] = "sqlite"

    def __init__(self, url: URL, clock: Clock, access: Access) -> None:
        assert url.database is not None
        self.url = url
        self.path = Path(url.database).absolute()
        self._clock = clock
        self._access = access
        self.error_count = 0
        self._check_file()
        self._readers = self._engine(writes=False)
        self._idle_readers: deque[Connection] = deque()
        # Without the right to share the file, a connection may read it as one without writers; the next one is to
        # find out again whether that is so.
        self._idle_most = IDLE_READERS if access != "read" or self._can_share() else 0
        self._group_commit: GroupCommit | None = None
        if access != "read":
            self._write_engine = self._engine(writes=True)
            self._group_commit = GroupCommit(self._write_engine)

    def read(self, transaction: Callable[[Connection], T]) -> T:
        try:
            conn = self._reader()
            try:
                result = transaction(conn)
                conn.rollback()
            except BaseException:
                conn.close()
                raise
        except (DBAPIError, sqlite3.Error) as error:
            raise self.store_error(error) from error
        if len(self._idle_readers) < self._idle_most:
            self._idle_readers.append(conn)
        else:
            conn.close()
        return result

    def _reader(self) -> Connection:
        """Return a connection without a transaction; SQLAlchemy's pool would take longer than most queries."""
        with suppress(IndexError):
            return self._idle_readers.pop()
        return self._readers.connect()

    def write(self, transaction: Callable[[Connection], T], *, synced: bool = True) -> T:
        if self._group_commit is None:
            raise StoreUnusableError(f"{self.path} was opened read-only")
        try:
            return self._group_commit.run(transaction, synced=synced)
        except (DBAPIError, sqlite3.Error) as error:
            raise self.store_error(error) from error

    def migrate(self, transaction: Callable[[Connection], T]) -> T:
        for _ in range(MIGRATION_TRIES - 1):
            with suppress(_LockedError):  # another process migrates, which can take long
                return self.write(transaction)  # BEGIN IMMEDIATE excludes the writers of other processes
        return self.write(transaction)

    def lock_names(self, conn: Connection, names: Iterable[str]) -> None:
        """Nothing to do: SQLite has one writer at a time."""

    def now(self) -> datetime:
        return self._clock.now()

    def close(self) -> None:
        if self._group_commit is not None:
            self._group_commit.close()
            self._write_engine.dispose()
        while self._idle_readers:
            self._idle_readers.pop().close()

    def raw(self) -> sqlite3.Connection:
        """Open a connection in autocommit mode that can only read; the caller closes it."""
        return self._connect(writes=False)

    def store_error(self, error: Exception) -> StoreError:
        """The StoreError for an error of the driver or of SQLAlchemy."""
        found = self._translated(error)
        self.error_count += not isinstance(found, ConflictError)
        return found

    def _translated(self, error: Exception) -> StoreError:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        code = getattr(cause, "sqlite_errorcode", None) or 0
        primary, text, uid = code & 0xFF, str(cause), os.geteuid()
        if isinstance(error, IntegrityError) or primary == sqlite3.SQLITE_CONSTRAINT:
            return ConflictError(f"{self.path}: {text}")
        if primary in _LOCKED:
            hint = "list the processes that use it with: fuser " + str(self.path)
            return _LockedError(
                f"{self.path}: locked by another process for over {seconds_text(BUSY_SECONDS)}",
                hint,
            )
        if primary == sqlite3.SQLITE_FULL:
            return StoreUnavailableError(f"{self.path}: the disk is full", "free some space; maintd loses no records")
        if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return StoreUnusableError(f"{self.path}: {text}", _RESTORE)
        if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH):
            return StoreUnusableError(
                f"{self.path}: {text} (as uid {uid})", "make the file and its directory writable for that user"
            )
        if primary in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOMEM):
            return StoreUnavailableError(f"{self.path}: {text} ({getattr(cause, 'sqlite_errorname', 'I/O')})")
        return StoreError(f"{self.path}: {text}")

    def _check_file(self) -> None:
        """Raises StoreError when the file cannot be used, before anything depends on it."""
        if self._access != "create" and not self.path.exists():
            raise StoreUnusableError(
                f"there is no store at {self.path}", "start the daemon with: maintd serve, or run: maintd db upgrade"
            )
        last_try_at = time.monotonic() + MIGRATION_TRIES * BUSY_SECONDS
        while True:
            try:
                self._open_once()
                return
            except sqlite3.Error as error:
                # Another process may be creating the store in a new file, which is not in WAL mode yet.
                is_locked = isinstance(error, sqlite3.OperationalError) and (error.sqlite_errorcode & 0xFF) in _LOCKED
                if not is_locked or self._access != "create" or time.monotonic() >= last_try_at:
                    raise self.store_error(error) from error
            time.sleep(0.05)

    def _open_once(self) -> None:
        with closing(self._connect(writes=self._access != "read")) as conn:
            if self._access != "read":
                conn.execute("PRAGMA journal_mode = WAL")
                self._try_to_write(conn)
            conn.execute("SELECT count(*) FROM sqlite_master").fetchone()

    def _try_to_write(self, conn: sqlite3.Connection) -> None:
        try:
            conn.execute("BEGIN IMMEDIATE")
            conn.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            if (error.sqlite_errorcode & 0xFF) not in _LOCKED:  # another process writes, so the file is writable
                raise

    def _engine(self, *, writes: bool) -> Engine:
        def connect(*_: Any) -> sqlite3.Connection:
            return self._connect(writes=writes)

        engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
        begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
        event.listen(engine, "begin", lambda conn: driver(conn).execute(begin))
        return engine

    def _connect(self, *, writes: bool) -> sqlite3.Connection:
        mode = f"mode={_MODE[self._access]}"
        if self._access == "read" and self._is_immutable():
            mode = "immutable=1"
        # isolation_level None: SQLAlchemy begins transactions, not the driver.
        conn = sqlite3.connect(
            f"file:{quote(str(self.path))}?{mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            conn.execute("PRAGMA foreign_keys = ON")
            conn.execute(f"PRAGMA synchronous = {'FULL' if writes else 'NORMAL'}")
            conn.execute("PRAGMA journal_size_limit = 67108864")
            if not writes:
                conn.execute("PRAGMA query_only = ON")
        except BaseException:
            conn.close()
            raise
        return conn

    def _is_immutable(self) -> bool:
        """Whether no process has the file open and this one cannot create the files that sharing needs."""
        wal = self.path.with_name(f"{self.path.name}-wal")
        return not wal.exists() and not self._can_share()

    def _can_share(self) -> bool:
        """Whether this user can create the files beside it by which processes share it."""
        return os.access(self.path.parent, os.W_OK)
