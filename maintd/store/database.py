"""The interface that SQLite and Postgres implement. They raise StoreError for everything that their drivers raise."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar, cast

from sqlalchemy import Table
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError

from maintd.errors import SettingsError, StoreError
from maintd.redaction import is_secret_name

T = TypeVar("T")

URL_HINT = "write sqlite:///path/to/maintd.db or postgresql://user@host/database"


class ConflictError(StoreError):
    """A constraint rejected the rows: another transaction was first."""


class Database(Protocol):
    """A SQLite file or a Postgres database. All methods are thread-safe."""

    @property
    def kind(self) -> Literal["sqlite", "postgres"]: ...

    @property
    def url(self) -> URL: ...

    @property
    def error_count(self) -> int:
        """How many reads and writes have failed so far, conflicts left out."""
        ...

    def read(self, transaction: Callable[[Connection], T]) -> T:
        """Return the transaction's result. It must not write."""
        ...

    def write(self, transaction: Callable[[Connection], T], *, synced: bool = True) -> T:
        """Commit the transaction and return its result. An exception rolls it back. It can be executed repeatedly.

        With `synced=False` a power failure can undo the commit, unless a later one was synced. Only for writes that
        maintd repeats after a power failure and on which no effect on the outside world depends.
        """
        ...

    def migrate(self, transaction: Callable[[Connection], T]) -> T:
        """Like `write`, but without a statement timeout and while no other process migrates."""
        ...

    def lock_names(self, conn: Connection, names: Iterable[str]) -> None:
        """Lock these names until the end of the transaction; wait while another transaction has locked any of them."""
        ...

    def now(self) -> datetime:
        """The time that all nodes use, UTC."""
        ...

    def close(self) -> None: ...


def parse_url(text: str) -> URL:
    """Raises SettingsError, whose message never contains the text, since that can contain a password."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise SettingsError("the store's URL is not valid", URL_HINT) from None
    backend = url.drivername.partition("+")[0]
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise SettingsError("the store's URL has no file", URL_HINT)
        return url.set(drivername="sqlite")
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    raise SettingsError(f'the store\'s URL begins with "{backend}:", which is not supported', URL_HINT)


def mask(url: URL) -> str:
    """The URL with its passwords masked."""
    shown = url.set(drivername=url.get_backend_name())
    hidden = {key: "***" for key in shown.query if is_secret_name(key)}
    return shown.update_query_dict(hidden).render_as_string(hide_password=True)


def driver(conn: Connection) -> sqlite3.Connection:
    """The sqlite3 connection below SQLAlchemy's."""
    return cast(sqlite3.Connection, conn.connection.dbapi_connection)


def insert_into(conn: Connection, table: Table) -> Any:
    """An INSERT that supports ON CONFLICT in the connection's dialect."""
    return dialect_insert(conn.dialect.name, table)


def dialect_insert(dialect: str, table: Table) -> Any:
    """Like `insert_into`, for a dialect by name."""
    if dialect == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # costs memory that a daemon on SQLite does not need

    return postgresql.insert(table)
