"""Statements that are built once for each shape, and compiled once.

To build one anew takes longer than SQLite takes to perform it, and so does SQLAlchemy's own way of performing one: 80
microseconds against 8. What every run needs is therefore given to SQLite's driver directly. On Postgres the round trip
outweighs it, and SQLAlchemy knows there what a lost connection means.
"""

from __future__ import annotations

import re
import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, Table, bindparam, delete, insert, update
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import ReturningUpdate

from maintd.store.database import dialect_insert, driver

COUNTERS = frozenset({"log_lines", "log_bytes", "log_lines_left_out"})
"""Columns that are given as a difference."""


NOTHING: Mapping[str, Any] = {}


class Prepared:
    """One statement, performed with parameters by name. An INSERT is one of the columns `names`.

    `index` is the one that SQLite must use for the statement's first table; it has no statistics to choose by.
    """

    def __init__(self, statement: Any, names: Sequence[str] | None = None, *, index: str = "") -> None:
        self.statement = statement
        self._names = names
        self._index = index
        self._compiled: _Compiled | None = None

    def all(self, conn: Connection, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """The rows, with the columns as attributes."""
        if conn.dialect.name != "sqlite":
            return conn.execute(self.statement, parameters).all()
        return self._of(conn).all(driver(conn), parameters)

    def alone(self, conn: Connection, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """As `all`, for a SELECT that need not agree with others: SQLite is spared a transaction."""
        if conn.dialect.name != "sqlite" or conn.in_transaction():
            return self.all(conn, parameters)
        return self._compile(conn).all(driver(conn), parameters)

    def one_or_none(self, conn: Connection, parameters: Mapping[str, Any]) -> Any:
        """The only row, None when there is none."""
        found = self.all(conn, parameters)
        assert len(found) <= 1
        return found[0] if found else None

    def each(self, conn: Connection, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
        """What comes back for each, in their order; of one that has nothing to give, nothing."""
        if conn.dialect.name != "sqlite":
            return list(conn.execute(self.statement, rows).all())
        return [found for row in rows for found in self.all(conn, row)]

    def change(self, conn: Connection, parameters: Mapping[str, Any]) -> int:
        """How many rows were changed."""
        if conn.dialect.name != "sqlite":
            return conn.execute(self.statement, parameters).rowcount
        compiled = self._of(conn)
        return driver(conn).execute(compiled.text, compiled.values(parameters)).rowcount

    def many(self, conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Perform it for each; all have the same names."""
        if conn.dialect.name != "sqlite":
            conn.execute(self.statement, rows)
            return
        compiled = self._of(conn)
        driver(conn).executemany(compiled.text, map(compiled.values, rows))

    def _of(self, conn: Connection) -> _Compiled:
        if not conn.in_transaction():  # the driver does not begin one
            conn.begin()
        return self._compile(conn)

    def _compile(self, conn: Connection) -> _Compiled:
        if self._compiled is None:
            self._compiled = _compile(self.statement, conn.dialect, self._names)
            if self._index:
                self._compiled = self._compiled.by_index(self._index)
        return self._compiled


class PreparedOfSeveral:
    """A statement for several values of a column: one by one where that is cheap, in parts where it is a round trip.

    What changes rows must return some columns, and be performed in a transaction.
    """

    AT_ONCE = 1000  # a longer list is dear to compile

    def __init__(self, statement: Select[Any] | ReturningUpdate[Any], column: ColumnElement[Any]) -> None:
        self._one = Prepared(statement.where(column == bindparam("of_value")))
        self._several = statement.where(column.in_(bindparam("of_values", expanding=True)))

    def all(self, conn: Connection, values: Iterable[Any], parameters: Mapping[str, Any] = NOTHING) -> list[Any]:
        """The rows of these; in their order, if the statement orders by the column first."""
        wanted = sorted(set(values))
        if len(wanted) == 1:
            return list(self._one.alone(conn, {**parameters, "of_value": wanted[0]}))
        if conn.dialect.name == "sqlite":
            return [row for value in wanted for row in self._one.all(conn, {**parameters, "of_value": value})]
        parts = [wanted[start : start + self.AT_ONCE] for start in range(0, len(wanted), self.AT_ONCE)]
        return [row for part in parts for row in conn.execute(self._several, {**parameters, "of_values": part})]


class _Given(NamedTuple):
    name: str
    needed: bool
    fixed: Any  # what the statement itself says, where it is not needed
    stored: Callable[[Any], Any] | None  # makes what the driver takes of it


class _Compiled(NamedTuple):
    text: str
    given: tuple[_Given, ...]
    make: Callable[[Iterable[Any]], Any]
    read: tuple[Callable[[Any], Any] | None, ...]

    def by_index(self, name: str) -> _Compiled:
        text, times = re.subn(r"(\bFROM \w+) ", rf"\1 INDEXED BY {name} ", self.text, count=1)
        assert times == 1
        return self._replace(text=text)

    def values(self, parameters: Mapping[str, Any]) -> list[Any]:
        found = []
        for given in self.given:
            value = parameters[given.name] if given.needed else given.fixed
            found.append(value if given.stored is None else given.stored(value))
        return found

    def all(self, conn: sqlite3.Connection, parameters: Mapping[str, Any]) -> list[Any]:
        return [self.row(row) for row in conn.execute(self.text, self.values(parameters)).fetchall()]

    def row(self, values: Iterable[Any]) -> Any:
        return self.make(value if read is None else read(value) for value, read in zip(values, self.read, strict=True))


def _compile(statement: Any, dialect: Dialect, names: Sequence[str] | None) -> _Compiled:
    compiled: SQLCompiler = statement.compile(dialect=dialect, column_keys=names)
    given = []
    for name in compiled.positiontup or ():
        bind = compiled.binds[name]
        stored = bind.type.dialect_impl(dialect).bind_processor(dialect)
        given.append(_Given(name, bind.required, compiled.params[name], stored))
    columns = list(statement.exported_columns) if getattr(statement, "exported_columns", None) is not None else []
    row: Any = namedtuple("Row", [column.key for column in columns])  # type: ignore[misc]  # noqa: PYI024 - known only here
    read = tuple(column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns)
    return _Compiled(compiled.string, tuple(given), row._make, read)


def change(conn: Connection, table: Table, key: Mapping[str, Any], columns: Mapping[str, Any]) -> bool:
    """Update the row with this primary key; False when there is none."""
    parameters = {f"of_{name}": value for name, value in key.items()}
    parameters |= {f"new_{name}": value for name, value in columns.items()}
    return _update(table, tuple(columns)).change(conn, parameters) == 1


def put(
    conn: Connection, table: Table, key: Mapping[str, Any], columns: Mapping[str, Any], fresh: Mapping[str, Any]
) -> None:
    """Insert a row with all of these; when its key is there, update `columns`."""
    row = {**fresh, **columns, **key}
    _upsert(conn.dialect.name, table, tuple(columns), tuple(row)).change(conn, row)


def add(conn: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows."""
    _insert(table, tuple(rows[0])).many(conn, rows)


def add_new(conn: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows, leaving out those whose key is there."""
    _insert_new(conn.dialect.name, table, tuple(rows[0])).many(conn, rows)


def remove_of_run(conn: Connection, table: Table, run_id: int) -> None:
    """Delete a run's rows."""
    _delete_of_run(table).change(conn, {"of_run": run_id})


@cache
def _update(table: Table, columns: tuple[str, ...]) -> Prepared:
    same = [column == bindparam(f"of_{column.name}") for column in table.primary_key]
    values = {}
    for name in columns:
        new: Any = bindparam(f"new_{name}")
        values[name] = table.c[name] + new if name in COUNTERS else new
    return Prepared(update(table).where(*same).values(values))


@cache
def _upsert(dialect: str, table: Table, columns: tuple[str, ...], names: tuple[str, ...]) -> Prepared:
    statement = dialect_insert(dialect, table)
    new = statement.excluded
    values = {name: table.c[name] + new[name] if name in COUNTERS else new[name] for name in columns}
    return Prepared(statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=values), names)


@cache
def _insert(table: Table, names: tuple[str, ...]) -> Prepared:
    return Prepared(insert(table), names)


@cache
def _insert_new(dialect: str, table: Table, names: tuple[str, ...]) -> Prepared:
    return Prepared(dialect_insert(dialect, table).on_conflict_do_nothing(), names)


@cache
def _delete_of_run(table: Table) -> Prepared:
    return Prepared(delete(table).where(table.c.run_id == bindparam("of_run")))
