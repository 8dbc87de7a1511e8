"""The chain of records in tests: verified whole, and rows that are tampered with below maintd."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Boolean, Column, Table, select, update
from sqlalchemy.engine import Connection

from maintd.model.records import VerifiedPart
from maintd.store import Store
from maintd.store.records import RECORDED
from maintd.store.tables import Json, UtcDateTime, records


def verified(store: Store, heads: Mapping[int, str] | None = None, limit: int = 3) -> VerifiedPart:
    """Verify the chain in parts; the last part, with the counts of all."""
    after, counts = 0, dict.fromkeys(("records", "pruned", "artifacts_pruned"), 0)
    while True:
        part = store.chain.verify(after, limit, heads or {})
        for name in counts:
            counts[name] += getattr(part, name)
        if part.final or part.problem is not None:
            return part.model_copy(update=counts)
        after = part.last


def another_value(column: Column[Any], value: Any) -> Any:
    """A value of the column's type that differs as little as possible."""
    if isinstance(column.type, UtcDateTime):
        return value + timedelta(microseconds=1)
    if isinstance(column.type, Boolean):
        return not value
    if isinstance(column.type, Json):
        return [value]
    return value + 1 if isinstance(value, int) else f"{value}."


def rows_of(conn: Connection, table: Table) -> list[dict[str, Any]]:
    return [row._asdict() for row in conn.execute(select(table).order_by(*table.primary_key))]


def recorded_columns() -> list[Column[Any]]:
    """Each column that a record depends on, and those of the records themselves."""
    of_records = [column for column in records.c if column.name not in ("pruned_by", "artifacts_pruned_by")]
    return [table.c[name] for table, names in RECORDED.items() for name in names] + of_records


def set_value(conn: Connection, column: Column[Any], key: Mapping[str, Any], value: Any) -> None:
    """Set one value of the row with these values of its primary key."""
    table = column.table
    same = [table.c[name] == each for name, each in key.items()]
    assert conn.execute(update(table).where(*same).values({column.name: value})).rowcount == 1
