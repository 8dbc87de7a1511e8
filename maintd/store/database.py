"""The two databases behind one small face: read, write, now. What drivers raise becomes a StoreError here."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar, cast

from sqlalchemy import Table
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError

from maintd.errors import SettingsError, StoreError

T = TypeVar("T")

URL_HINT = "write sqlite:///path/to/maintd.db or postgresql://user@host/database"


class ConflictError(StoreError):
    """A constraint refused the rows: somebody else was first."""


class Database(Protocol):
    """A SQLite file or a Postgres database. All methods are thread-safe."""

    @property
    def kind(self) -> Literal["sqlite", "postgres"]: ...

    @property
    def url(self) -> URL: ...

    def read(self, act: Callable[[Connection], T]) -> T:
        """The act's result. It must not write."""
        ...

    def write(self, act: Callable[[Connection], T], *, synced: bool = True) -> T:
        """The act's result, once it is committed. An exception undoes it. The act may be performed more than once.

        Not `synced`: a power cut that also ends this process may undo it, unless something later was synced. For what
        is done again then, and on which nothing was done in the world.
        """
        ...

    def alone(self, act: Callable[[Connection], T]) -> T:
        """As `write`, while no other process changes the schema, and without a limit of time."""
        ...

    def hold(self, conn: Connection, names: Iterable[str]) -> None:
        """Until the end of this transaction nobody else holds any of these names."""
        ...

    def now(self) -> datetime:
        """The time that all nodes go by, UTC."""
        ...

    def close(self) -> None: ...


def parse_url(text: str) -> URL:
    """Raises SettingsError; the message never repeats the text, which may hold a password."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise SettingsError("the store's URL cannot be read", URL_HINT) from None
    backend = url.drivername.partition("+")[0]
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise SettingsError("the store's URL names no file", URL_HINT)
        return url.set(drivername="sqlite")
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    raise SettingsError(f'the store\'s URL begins with "{backend}:", which is no store', URL_HINT)


def mask(url: URL) -> str:
    """The URL for people, without any password."""
    shown = url.set(drivername=url.get_backend_name())
    hidden = {key: "***" for key in shown.query if "password" in key}
    return shown.update_query_dict(hidden).render_as_string(hide_password=True)


def driver(conn: Connection) -> sqlite3.Connection:
    """SQLite's own connection below SQLAlchemy's."""
    return cast(sqlite3.Connection, conn.connection.dbapi_connection)


def insert_into(conn: Connection, table: Table) -> Any:
    """An INSERT that knows ON CONFLICT in this database's dialect."""
    return dialect_insert(conn.dialect.name, table)


def dialect_insert(dialect: str, table: Table) -> Any:
    """As `insert_into`, for a dialect by name."""
    if dialect == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # costs memory that a SQLite daemon does not spend

    return postgresql.insert(table)
