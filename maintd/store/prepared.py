"""Statements that are built and compiled once for each shape.

Building a statement takes longer than SQLite needs to execute it, and so does SQLAlchemy's execution: 80 µs against
8 µs. So the statements of every run go to SQLite's driver directly. On Postgres the round trip takes most of the time,
and SQLAlchemy detects lost connections there.
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
"""Columns whose new values are differences, added to the old ones."""

NO_PARAMETERS: Mapping[str, Any] = {}


class Prepared:
    """One statement with named parameters. An INSERT sets the columns `names`.

    SQLite has no statistics to choose an index by; `index` names the one for the statement's first table, and
    `alias_indexes` those for aliases, by the names of these.
    """

    def __init__(
        self,
        statement: Any,
        names: Sequence[str] | None = None,
        *,
        index: str = "",
        alias_indexes: Mapping[str, str] = NO_PARAMETERS,
    ) -> None:
        self.statement = statement
        self._names = names
        self._index = index
        self._alias_indexes = alias_indexes
        self._compiled: _Compiled | None = None

    def rows(self, conn: Connection, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """The rows, with columns as attributes."""
        if conn.dialect.name != "sqlite":
            return conn.execute(self.statement, parameters).all()
        return self._begin(conn).rows(driver(conn), parameters)

    def rows_without_transaction(self, conn: Connection, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """Like `rows`, for a single SELECT: on SQLite it begins no transaction."""
        if conn.dialect.name != "sqlite" or conn.in_transaction():
            return self.rows(conn, parameters)
        return self._compile(conn).rows(driver(conn), parameters)

    def one_or_none(self, conn: Connection, parameters: Mapping[str, Any]) -> Any:
        """The only row, or None without one."""
        found = self.rows(conn, parameters)
        assert len(found) <= 1
        return found[0] if found else None

    def rows_of_each(self, conn: Connection, many: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Execute the statement with each of the parameter sets; all rows it returns, in their order."""
        if conn.dialect.name != "sqlite":
            return list(conn.execute(self.statement, many).all())
        compiled, connection = self._begin(conn), driver(conn)
        return [row for parameters in many for row in compiled.rows(connection, parameters)]

    def execute(self, conn: Connection, parameters: Mapping[str, Any]) -> int:
        """Execute the statement; the number of changed rows."""
        if conn.dialect.name != "sqlite":
            return conn.execute(self.statement, parameters).rowcount
        compiled = self._begin(conn)
        return driver(conn).execute(compiled.text, compiled.values(parameters)).rowcount

    def execute_many(self, conn: Connection, many: Sequence[Mapping[str, Any]]) -> None:
        """Execute the statement with each of the parameter sets, which all have the same names."""
        if conn.dialect.name != "sqlite":
            conn.execute(self.statement, many)
            return
        compiled = self._begin(conn)
        driver(conn).executemany(compiled.text, map(compiled.values, many))

    def prepare(self, conn: Connection) -> None:
        """Compile it for SQLite now, not when it is first executed."""
        self._compile(conn)

    def _begin(self, conn: Connection) -> _Compiled:
        if not conn.in_transaction():  # the driver begins none by itself
            conn.begin()
        return self._compile(conn)

    def _compile(self, conn: Connection) -> _Compiled:
        if self._compiled is None:
            self._compiled = _compile(self.statement, conn.dialect, self._names)
            if self._index:
                self._compiled = self._compiled.indexed_by(r"\bFROM \w+", self._index, count=1)
            for alias, index in self._alias_indexes.items():
                self._compiled = self._compiled.indexed_by(rf"\bFROM \w+ AS {alias}", index)
        return self._compiled


class PreparedForValues:
    """A statement for rows whose column has one of several values.

    On SQLite it is executed once per value; on Postgres, where each execution is a round trip, once per MAX_VALUES. A
    statement that changes rows must return columns, and be executed in a transaction.
    """

    MAX_VALUES = 1000  # a longer list takes long to compile

    def __init__(
        self,
        statement: Select[Any] | ReturningUpdate[Any],
        column: ColumnElement[Any],
        alias_indexes: Mapping[str, str] = NO_PARAMETERS,
    ) -> None:
        self._one = Prepared(statement.where(column == bindparam("of_value")), alias_indexes=alias_indexes)
        self._many = statement.where(column.in_(bindparam("of_values", expanding=True)))

    def prepare(self, conn: Connection) -> None:
        """Compile it for SQLite now, not when it is first executed."""
        self._one.prepare(conn)

    def rows(self, conn: Connection, values: Iterable[Any], parameters: Mapping[str, Any] = NO_PARAMETERS) -> list[Any]:
        """The rows of all values; in the values' order if the statement orders by the column first."""
        wanted = sorted(set(values))
        if len(wanted) == 1:
            return list(self._one.rows_without_transaction(conn, {**parameters, "of_value": wanted[0]}))
        if conn.dialect.name == "sqlite":
            return self._one.rows_of_each(conn, [{**parameters, "of_value": value} for value in wanted])
        parts = [wanted[start : start + self.MAX_VALUES] for start in range(0, len(wanted), self.MAX_VALUES)]
        return [row for part in parts for row in conn.execute(self._many, {**parameters, "of_values": part})]


class _Parameter(NamedTuple):
    name: str
    required: bool
    default: Any  # the statement's own value, for a parameter that is not required
    to_driver: Callable[[Any], Any] | None


class _Compiled(NamedTuple):
    text: str
    parameters: tuple[_Parameter, ...]
    make_row: Callable[[Iterable[Any]], Any]
    from_driver: tuple[tuple[int, Callable[[Any], Any]], ...]  # of the columns whose values need it, by index

    def indexed_by(self, table: str, name: str, count: int = 0) -> _Compiled:
        text, times = re.subn(rf"({table})(\s)", rf"\1 INDEXED BY {name}\2", self.text, count=count)
        assert times
        return self._replace(text=text)

    def values(self, parameters: Mapping[str, Any]) -> list[Any]:
        found = []
        for parameter in self.parameters:
            value = parameters[parameter.name] if parameter.required else parameter.default
            found.append(value if parameter.to_driver is None else parameter.to_driver(value))
        return found

    def rows(self, conn: sqlite3.Connection, parameters: Mapping[str, Any]) -> list[Any]:
        return [self.row(row) for row in conn.execute(self.text, self.values(parameters)).fetchall()]

    def row(self, values: Iterable[Any]) -> Any:
        columns = list(values)
        for index, convert in self.from_driver:
            columns[index] = convert(columns[index])
        return self.make_row(columns)


def _compile(statement: Any, dialect: Dialect, names: Sequence[str] | None) -> _Compiled:
    compiled: SQLCompiler = statement.compile(dialect=dialect, column_keys=names)
    parameters = []
    for name in compiled.positiontup or ():
        bind = compiled.binds[name]
        to_driver = bind.type.dialect_impl(dialect).bind_processor(dialect)
        parameters.append(_Parameter(name, bind.required, compiled.params[name], to_driver))
    columns = list(statement.exported_columns) if getattr(statement, "exported_columns", None) is not None else []
    row: Any = namedtuple("Row", [column.key for column in columns])  # type: ignore[misc]  # noqa: PYI024 - known only here
    convert = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
    from_driver = tuple((index, each) for index, each in enumerate(convert) if each is not None)
    return _Compiled(compiled.string, tuple(parameters), row._make, from_driver)


def update_row(conn: Connection, table: Table, key: Mapping[str, Any], columns: Mapping[str, Any]) -> bool:
    """Update the row with this primary key; False when it does not exist."""
    parameters = {f"of_{name}": value for name, value in key.items()}
    parameters |= {f"new_{name}": value for name, value in columns.items()}
    return _update(table, tuple(columns)).execute(conn, parameters) == 1


def upsert_row(
    conn: Connection, table: Table, key: Mapping[str, Any], columns: Mapping[str, Any], defaults: Mapping[str, Any]
) -> None:
    """Update `columns` of the row with this primary key; if it does not exist, insert it, with `defaults` too."""
    row = {**defaults, **columns, **key}
    _upsert(conn.dialect.name, table, tuple(columns), tuple(row)).execute(conn, row)


def insert_rows(conn: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows that all have the same columns."""
    _insert(table, tuple(rows[0])).execute_many(conn, rows)


def insert_missing_rows(conn: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert the rows whose key does not exist yet."""
    _insert_missing(conn.dialect.name, table, tuple(rows[0])).execute_many(conn, rows)


def delete_rows_of_run(conn: Connection, table: Table, run_id: int) -> None:
    """Delete a run's rows of this table."""
    _delete_of_run(table).execute(conn, {"of_run": run_id})


@cache
def _update(table: Table, columns: tuple[str, ...]) -> Prepared:
    same_key = [column == bindparam(f"of_{column.name}") for column in table.primary_key]
    values = {}
    for name in columns:
        new: Any = bindparam(f"new_{name}")
        values[name] = table.c[name] + new if name in COUNTERS else new
    return Prepared(update(table).where(*same_key).values(values))


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
def _insert_missing(dialect: str, table: Table, names: tuple[str, ...]) -> Prepared:
    return Prepared(dialect_insert(dialect, table).on_conflict_do_nothing(), names)


@cache
def _delete_of_run(table: Table) -> Prepared:
    return Prepared(delete(table).where(table.c.run_id == bindparam("of_run")))
