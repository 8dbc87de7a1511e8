"""Named SQL queries over whole days, in one read-only snapshot, each with a limit of its planned cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from maintd.checks.probes import as_target_error
from maintd.clients.postgres import Postgres, Row
from maintd.errors import TargetError


@dataclass(frozen=True)
class SqlQuery:
    """SQL with `%(start)s` and `%(end)s`, a half-open interval of whole UTC days; any other `%` is written `%%`.

    `needs`: relations that must exist. The result has one row for each `day`, or one row without such a column.
    """

    sql: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """The rows by window, the requested one first, or why there are none and what to do. Numbers are floats, NULL is
    None."""

    windows: tuple[tuple[Mapping[str, Any], ...], ...] = ()
    cause: str = ""
    hint: str = ""


def run_all(
    session: Postgres,
    queries: Mapping[str, SqlQuery],
    start: datetime,
    end: datetime,
    *,
    windows: int,
    max_cost: float,
) -> dict[str, Answer]:
    """Run each query for [start, end) and the `windows` − 1 windows before, all in one snapshot.

    Raises TargetError when the session fails; a query that fails has its cause in its answer.
    """
    session.rows("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        session.rows("SET LOCAL TimeZone = 'UTC'")
        return {name: _answer(session, name, query, start, end, windows, max_cost) for name, query in queries.items()}
    finally:
        session.rows("ROLLBACK")


def _answer(
    session: Postgres, name: str, query: SqlQuery, start: datetime, end: datetime, windows: int, max_cost: float
) -> Answer:
    session.rows("SAVEPOINT query")
    try:
        with as_target_error(f'query "{name}"'):
            return _windows(session, query, start, end, windows, max_cost)
    except TargetError as error:
        if error.cause == "partial" or (error.cause == "timed_out" and "stopped answering" in error.message):
            raise  # the session is lost, also for the other queries
        return Answer(
            cause=error.message, hint=error.hint or "the server does not accept it: correct the SQL of the query"
        )
    finally:
        session.rows("ROLLBACK TO SAVEPOINT query")


def _windows(
    session: Postgres, query: SqlQuery, start: datetime, end: datetime, windows: int, max_cost: float
) -> Answer:
    for relation in query.needs:
        if session.one("SELECT to_regclass(%(name)s) IS NULL AS missing", {"name": relation})["missing"]:
            return Answer(
                cause=f'source missing: there is no relation "{relation}" in {session.name}',
                hint="check that the application's migrations have run there; else correct `needs` of the query",
            )
    found = []
    length = end - start
    for index in range(windows):
        bounds = {"start": start - index * length, "end": end - index * length}
        if index == 0:
            cost = _cost(session, query.sql, bounds)
            if cost > max_cost:
                return Answer(
                    cause=f"its planned cost of {cost:,.0f} exceeds the limit of {max_cost:,.0f}",
                    hint="add an index for the query, or raise the param max_cost",
                )
        found.append(tuple(_plain(row) for row in session.rows(query.sql, bounds)))
    return Answer(tuple(found))


def _cost(session: Postgres, sql: str, bounds: Mapping[str, datetime]) -> float:
    plan = session.one(f"EXPLAIN (FORMAT JSON) {sql}", bounds)["QUERY PLAN"]
    return float(plan[0]["Plan"]["Total Cost"])


def _plain(row: Row) -> dict[str, Any]:
    return {name: _value(value) for name, value in row.items()}


def _value(value: Any) -> Any:
    """Numbers as floats, intervals as seconds, instants as their day; NaN and infinity are None."""
    match value:
        case bool():
            return float(value)
        case int() | float() | Decimal():
            number = float(value)
            return number if math.isfinite(number) else None
        case timedelta():
            return value.total_seconds()
        case datetime():
            return value.date()
        case None | date():
            return value
        case _:
            return str(value)
