"""Postgres as the store, which several nodes can share."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from maintd.errors import StoreError, StoreUnavailableError, StoreUnusableError
from maintd.store.database import ConflictError, mask

T = TypeVar("T")

MAX_TRIES = 4
"""How many times a transaction is executed that the database rolls back because of another one."""

PING_AFTER = 2.0
"""Seconds without use after which a connection is pinged before its next use. A ping before each transaction would be
one round trip in four. A connection that was lost within this time fails its transaction, which is retried once."""

ROLLED_BACK = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected: safe to retry

# Classes of SQLSTATE: connection lost, resources short, lock or statement timeout, shutdown, a standby.
_TEMPORARY = ("08", "53", "55P03", "57", "25006", "40")
_PERMANENT = ("28", "3D", "42501", "XX001", "XX002")
_LOGIN_FAILURES = ("authentication failed", "no password supplied", "does not exist", "no pg_hba.conf entry")

_SESSION = {
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
    "timezone": "UTC",
    "application_name": "maintd",
}

_NETWORK: dict[str, Any] = {
    "connect_timeout": 5,
    # A server that is gone without closing its connections is detected within 20 s, not after the kernel's two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}

_MIGRATION = 7_240_115_001
"""Key of the advisory lock of migrations."""


class PostgresDatabase:
    """A pool of connections. Nothing is cached between calls, so any node can write."""

    kind: Literal["sqlite", "postgres"] = "postgres"

    def __init__(self, url: URL, *, read_only: bool = False) -> None:
        self.url = url
        self.error_count = 0
        settings = _SESSION | ({"default_transaction_read_only": "on"} if read_only else {})
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        self._engine = create_engine(
            url,
            pool_size=4,
            max_overflow=28,
            pool_timeout=10,
            pool_recycle=1800,
            use_native_hstore=False,
            connect_args=_NETWORK | {"options": options, "client_encoding": "utf-8"},
        )
        event.listen(self._engine, "checkin", _note_use)
        event.listen(self._engine, "checkout", self._ping)
        self._reader = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    def read(self, transaction: Callable[[Connection], T]) -> T:
        for tries_left in (1, 0):
            try:
                with self._reader.connect() as conn:
                    return transaction(conn)
            except (DBAPIError, PoolTimeoutError) as error:
                if not (tries_left and _connection_lost(error)):
                    raise self._store_error(error) from error
        raise AssertionError("the last try returns or raises")

    def write(self, transaction: Callable[[Connection], T], *, synced: bool = True) -> T:
        # Always synced: the server can lose power while this process does not.
        may_be_stale = True
        for tries_left in reversed(range(MAX_TRIES)):
            commits = False
            try:
                with self._engine.begin() as conn:
                    result = transaction(conn)
                    commits = True
                return result
            except (DBAPIError, PoolTimeoutError) as error:
                # A connection lost before the commit has rolled back; lost during the commit, the outcome is unknown.
                stale = may_be_stale and not commits and _connection_lost(error)
                may_be_stale = may_be_stale and not stale
                if not (tries_left and (stale or _sqlstate(error) in ROLLED_BACK)):
                    raise self._store_error(error) from error
        raise AssertionError("the last try returns or raises")

    def migrate(self, transaction: Callable[[Connection], T]) -> T:
        def guarded(conn: Connection) -> T:
            conn.execute(text("SET LOCAL statement_timeout = 0"))
            conn.execute(text("SET LOCAL lock_timeout = '120s'"))
            conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION})
            return transaction(conn)

        return self.write(guarded)

    def lock_names(self, conn: Connection, names: Iterable[str]) -> None:
        # Separate statements, so that later reads see what was committed before the lock. Sorted, so that two
        # transactions cannot deadlock.
        for name in sorted(names):
            conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _key_of(name)})

    def now(self) -> datetime:
        moment: datetime = self.read(lambda conn: conn.execute(text("SELECT clock_timestamp()")).scalar_one())
        return moment.astimezone(UTC)

    def close(self) -> None:
        self._engine.dispose()

    def _ping(self, connection: Any, record: Any, _: Any) -> None:
        """Ping a connection that was idle; a lost one invalidates the pool."""
        if time.monotonic() - record.info.get("used_at", time.monotonic()) <= PING_AFTER:
            return
        try:
            self._engine.dialect.do_ping(connection)
        except self._engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error

    def _store_error(self, error: DBAPIError | PoolTimeoutError) -> StoreError:
        found = self._translated(error)
        self.error_count += not isinstance(found, ConflictError)
        return found

    def _translated(self, error: DBAPIError | PoolTimeoutError) -> StoreError:
        where = mask(self.url)
        if isinstance(error, PoolTimeoutError):
            return StoreUnavailableError(f"{where}: all connections are in use")
        message = " ".join(str(error.orig).split()) or type(error.orig).__name__
        if self.url.password:
            message = message.replace(str(self.url.password), "***")
        state = _sqlstate(error)
        if isinstance(error, IntegrityError):
            return ConflictError(f"{where}: {message}")
        if state.startswith(_PERMANENT) or (not state and any(word in message for word in _LOGIN_FAILURES)):
            return StoreUnusableError(f"{where}: {message}", "check the store's URL and the database's roles")
        if state.startswith(_TEMPORARY) or error.connection_invalidated or (not state and _is_operational(error)):
            return StoreUnavailableError(f"{where}: {message}")
        return StoreError(f"{where}: {message}")


def _note_use(_: Any, record: Any) -> None:
    record.info["used_at"] = time.monotonic()


def _connection_lost(error: DBAPIError | PoolTimeoutError) -> bool:
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _sqlstate(error: DBAPIError | PoolTimeoutError) -> str:
    return getattr(getattr(error, "orig", None), "sqlstate", None) or ""


def _is_operational(error: DBAPIError) -> bool:
    from psycopg import InterfaceError, OperationalError

    return isinstance(error.orig, OperationalError | InterfaceError)


def _key_of(name: str) -> int:
    """A signed 64-bit key; two names with one key would wait for each other, and nothing worse."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, person=b"maintd-lock").digest(), signed=True)
