"""Statements that are built once for each shape. To build one anew takes longer than SQLite takes to perform it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import Table, bindparam, delete, insert, update
from sqlalchemy.engine import Connection

from maintd.store.engine import dialect_insert

COUNTERS = frozenset({"log_lines", "log_bytes", "log_lines_left_out"})
"""Columns that are given as a difference."""


def change(conn: Connection, table: Table, key: Mapping[str, Any], columns: Mapping[str, Any]) -> bool:
    """Update the row with this primary key; False when there is none."""
    parameters = {f"of_{name}": value for name, value in key.items()}
    parameters |= {f"new_{name}": value for name, value in columns.items()}
    return conn.execute(_update(table, tuple(columns)), parameters).rowcount == 1


def put(
    conn: Connection, table: Table, key: Mapping[str, Any], columns: Mapping[str, Any], fresh: Mapping[str, Any]
) -> None:
    """Insert a row with all of these; when its key is there, update `columns`."""
    conn.execute(_upsert(conn.dialect.name, table, tuple(columns)), {**fresh, **columns, **key})


def add(conn: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows."""
    conn.execute(_insert(table), rows)


def add_new(conn: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows, leaving out those whose key is there."""
    conn.execute(_insert_new(conn.dialect.name, table), rows)


def remove_of_run(conn: Connection, table: Table, run_id: int) -> None:
    """Delete a run's rows."""
    conn.execute(_delete_of_run(table), {"of_run": run_id})


@cache
def _update(table: Table, columns: tuple[str, ...]) -> Any:
    same = [column == bindparam(f"of_{column.name}") for column in table.primary_key]
    values = {}
    for name in columns:
        new: Any = bindparam(f"new_{name}")
        values[name] = table.c[name] + new if name in COUNTERS else new
    return update(table).where(*same).values(values)


@cache
def _upsert(dialect: str, table: Table, columns: tuple[str, ...]) -> Any:
    statement = dialect_insert(dialect, table)
    new = statement.excluded
    values = {name: table.c[name] + new[name] if name in COUNTERS else new[name] for name in columns}
    return statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=values)


@cache
def _insert(table: Table) -> Any:
    return insert(table)


@cache
def _insert_new(dialect: str, table: Table) -> Any:
    return dialect_insert(dialect, table).on_conflict_do_nothing()


@cache
def _delete_of_run(table: Table) -> Any:
    return delete(table).where(table.c.run_id == bindparam("of_run"))
