"""Postgres as the store, shared by several nodes."""

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

TRIES = 4
"""How often a transaction is performed that the database undid because of another one."""

PING_AFTER = 2.0
"""Seconds of idleness after which a connection is tried before it is used. In the middle of work a ping before each
transaction would be one round trip in four; a connection that was cut just then is noticed, and replaced once."""

UNDONE = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected: nothing of it stands

# Connection lost, resources short, lock or statement timeout, shutting down, a standby that will be promoted.
_PASSING = ("08", "53", "55P03", "57", "25006", "40")
_FOR_A_PERSON = ("28", "3D", "42501", "XX001", "XX002")
_REFUSED_AT_THE_DOOR = ("authentication failed", "no password supplied", "does not exist", "no pg_hba.conf entry")

_SESSION = {
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
    "timezone": "UTC",
    "application_name": "maintd",
}

_NETWORK: dict[str, Any] = {
    "connect_timeout": 5,
    # A server that vanished without a word is noticed within about 20 s, not after the kernel's two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}

_MIGRATION = 7_240_115_001
"""Key of the advisory lock that migrations are behind."""


class PostgresDatabase:
    """A pool of connections. Nothing is kept in memory between calls, so any node may write."""

    kind: Literal["sqlite", "postgres"] = "postgres"

    def __init__(self, url: URL, *, read_only: bool = False) -> None:
        self.url = url
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

    def read(self, act: Callable[[Connection], T]) -> T:
        for tries_left in (1, 0):
            try:
                with self._reader.connect() as conn:
                    return act(conn)
            except (DBAPIError, PoolTimeoutError) as error:
                if not (tries_left and _is_cut_off(error)):
                    raise self._explained(error) from error
        raise AssertionError("the last try returns or raises")

    def write(self, act: Callable[[Connection], T], *, synced: bool = True) -> T:
        # Synced always: the server may have a power cut of its own, which this process would not notice.
        may_be_stale = True
        for tries_left in reversed(range(TRIES)):
            commits = False
            try:
                with self._engine.begin() as conn:
                    result = act(conn)
                    commits = True
                return result
            except (DBAPIError, PoolTimeoutError) as error:
                # Cut off in the middle, nothing of it stands; cut off at the commit, nobody knows.
                stale = may_be_stale and not commits and _is_cut_off(error)
                may_be_stale = may_be_stale and not stale
                if not (tries_left and (stale or _sqlstate(error) in UNDONE)):
                    raise self._explained(error) from error
        raise AssertionError("the last try returns or raises")

    def alone(self, act: Callable[[Connection], T]) -> T:
        def guarded(conn: Connection) -> T:
            conn.execute(text("SET LOCAL statement_timeout = 0"))
            conn.execute(text("SET LOCAL lock_timeout = '120s'"))
            conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION})
            return act(conn)

        return self.write(guarded)

    def hold(self, conn: Connection, names: Iterable[str]) -> None:
        # A statement of its own, in one order everywhere: what is read after it is newer than the lock, and no two
        # transactions wait for each other.
        for name in sorted(names):
            conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _key_of(name)})

    def now(self) -> datetime:
        moment: datetime = self.read(lambda conn: conn.execute(text("SELECT clock_timestamp()")).scalar_one())
        return moment.astimezone(UTC)

    def close(self) -> None:
        self._engine.dispose()

    def _ping(self, connection: Any, record: Any, _: Any) -> None:
        """Before a connection is used that was idle for a while: one that is dead is replaced, with all that are."""
        if time.monotonic() - record.info.get("used_at", time.monotonic()) <= PING_AFTER:
            return
        try:
            self._engine.dialect.do_ping(connection)
        except self._engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error

    def _explained(self, error: DBAPIError | PoolTimeoutError) -> StoreError:
        where = mask(self.url)
        if isinstance(error, PoolTimeoutError):
            return StoreUnavailableError(f"{where}: all connections are in use")
        said = " ".join(str(error.orig).split()) or type(error.orig).__name__
        if self.url.password:
            said = said.replace(str(self.url.password), "***")
        state = _sqlstate(error)
        if isinstance(error, IntegrityError):
            return ConflictError(f"{where}: {said}")
        if state.startswith(_FOR_A_PERSON) or (not state and any(word in said for word in _REFUSED_AT_THE_DOOR)):
            return StoreUnusableError(f"{where}: {said}", "check the store's URL and the database's roles")
        if state.startswith(_PASSING) or error.connection_invalidated or (not state and _is_operational(error)):
            return StoreUnavailableError(f"{where}: {said}")
        return StoreError(f"{where}: {said}")


def _note_use(_: Any, record: Any) -> None:
    record.info["used_at"] = time.monotonic()


def _is_cut_off(error: DBAPIError | PoolTimeoutError) -> bool:
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _sqlstate(error: DBAPIError | PoolTimeoutError) -> str:
    return getattr(getattr(error, "orig", None), "sqlstate", None) or ""


def _is_operational(error: DBAPIError) -> bool:
    from psycopg import InterfaceError, OperationalError

    return isinstance(error.orig, OperationalError | InterfaceError)


def _key_of(name: str) -> int:
    """A signed 64-bit key; two names that share one would only wait for each other."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, person=b"maintd-lock").digest(), signed=True)
