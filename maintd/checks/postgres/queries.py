"""Named SQL queries over whole days, in one read-only snapshot, each judged before it is run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from maintd.clients.postgres import Postgres, Row
from maintd.errors import TargetError


@dataclass(frozen=True)
class Question:
    """SQL with `%(start)s` and `%(end)s`, a half-open interval of whole UTC days; any other `%` is written `%%`.

    `needs` are relations that must exist. With a column `day` it has a row for each day, else one row.
    """

    sql: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """The rows by window, the asked one first; or why there are none. Numbers are floats, NULL is None."""

    windows: tuple[tuple[Mapping[str, Any], ...], ...] = ()
    cause: str = ""


def ask(
    session: Postgres,
    questions: Mapping[str, Question],
    start: datetime,
    end: datetime,
    *,
    windows: int,
    most_cost: float,
) -> dict[str, Answer]:
    """Answer each for [start, end) and the `windows` − 1 ones before, all as of one instant. Raises TargetError when
    the session itself fails; a question that does has its own cause."""
    session.rows("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        session.rows("SET LOCAL TimeZone = 'UTC'")
        return {
            name: _answer(session, question, start, end, windows, most_cost) for name, question in questions.items()
        }
    finally:
        session.rows("ROLLBACK")


def _answer(
    session: Postgres, question: Question, start: datetime, end: datetime, windows: int, most_cost: float
) -> Answer:
    session.rows("SAVEPOINT question")
    try:
        for relation in question.needs:
            if session.one("SELECT to_regclass(%(name)s) IS NULL AS missing", {"name": relation})["missing"]:
                return Answer(cause=f'source missing: there is no relation "{relation}" in {session.name}')
        found = []
        length = end - start
        for index in range(windows):
            bounds = {"start": start - index * length, "end": end - index * length}
            if index == 0:
                cost = _cost(session, question.sql, bounds)
                if cost > most_cost:
                    return Answer(cause=f"its cost of {cost:,.0f} by EXPLAIN is above the limit of {most_cost:,.0f}")
            found.append(tuple(_plain(row) for row in session.rows(question.sql, bounds)))
        return Answer(tuple(found))
    except TargetError as error:
        if error.cause == "partial" or (error.cause == "timed_out" and "stopped answering" in error.message):
            raise  # the session is lost: the others cannot be answered either
        return Answer(cause=str(error))
    finally:
        session.rows("ROLLBACK TO SAVEPOINT question")


def _cost(session: Postgres, sql: str, bounds: Mapping[str, datetime]) -> float:
    plan = session.one(f"EXPLAIN (FORMAT JSON) {sql}", bounds)["QUERY PLAN"]
    return float(plan[0]["Plan"]["Total Cost"])


def _plain(row: Row) -> dict[str, Any]:
    return {name: _value(value) for name, value in row.items()}


def _value(value: Any) -> Any:
    """Numbers as floats, intervals as seconds, instants as the day they are on; one that is no number is None."""
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
