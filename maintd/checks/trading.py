"""Checks of a trading day: figures reconciled with Postgres, and activity in Postgres, Redis and Prometheus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict

from maintd.checks.http.activity import ActivityLimits, compare, same_weekdays
from maintd.checks.http.daily_results import as_text, finite
from maintd.clients.postgres import Postgres
from maintd.clients.prometheus import Prometheus
from maintd.clients.redis import RedisServer
from maintd.errors import TargetError
from maintd.job.causes import Role
from maintd.job.context import Context

_NO_TABLE = "run the migrations of the database, or name another table than {} in the params of this step"


class Query(BaseModel):
    """A count in Postgres.

    `sql` returns a column `count`; other columns are labels. It has the parameters %(since)s and %(until)s; any other %
    is written twice. `table` must exist.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    sql: str


class Day(BaseModel):
    """The day's row in Postgres: `sql` has the parameter %(day)s. `same` maps a field of the service to a column."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    sql: str
    same: dict[str, str]


def reconcile(ctx: Context, session: Postgres, day: Day, figures: Mapping[str, Any] | None, tolerance: float) -> None:
    """Compare the service's figures with the day's row. figures: None when the service did not answer."""
    today = ctx.now().date()
    try:
        if not _table_exists(ctx, session, day.table, "the day's row"):
            return
        rows = session.rows(day.sql, {"day": today})
        before = session.rows(day.sql, {"day": today - timedelta(days=1)})
    except TargetError as error:
        ctx.report_error("the day's row", error, role=Role.SOURCE)
        return
    hint = "check the service that writes it"
    if before:
        ctx.check("the row of the day before", "there", equals="there")
    else:
        ctx.unknown("the row of the day before", f"empty: not in {day.table}", hint=hint)
    if not rows:
        ctx.unknown("the day's row", f"empty: no row for {today} in {day.table}", hint=hint)
        return
    for field, column in day.same.items():
        what = f"reconciled: {field}"
        if figures is None:
            ctx.unknown(what, "no figures to compare with")
            continue
        reported, stored = finite(figures.get(field)), finite(rows[0].get(column))
        if reported is None or stored is None:
            ctx.fail(
                what,
                f"{as_text(figures.get(field))} against {as_text(rows[0].get(column))}",
                expected="two numbers",
                hint=f"the param day compares {field} of the service with {day.table}.{column}: both must be numbers",
            )
        else:
            hint = f"find out which one is wrong: {reported:g} in the service, {stored:g} in {day.table}.{column}"
            ctx.check(what, round(abs(reported - stored), 9), at_most=tolerance, hint=hint)


def count_rows(
    ctx: Context, session: Postgres, name: str, query: Query, window: timedelta, limits: ActivityLimits
) -> None:
    """Count rows of the window, compare with the same weekday, and check for rows in the future."""
    now = ctx.now()
    try:
        if not _table_exists(ctx, session, query.table, f"activity: {name}"):
            return
        rows = session.rows(query.sql, {"since": now - window, "until": now})
        earlier = [
            _total(session.rows(query.sql, {"since": then - window, "until": then}))
            for then in same_weekdays(now, limits.weeks)
        ]
        future = {"since": now + timedelta(minutes=5), "until": now + timedelta(days=3650)}
        ahead = _total(session.rows(query.sql, future))
    except TargetError as error:
        ctx.report_error(f"activity: {name}", error, role=Role.SOURCE)
        return
    for row in rows:
        labels = {key: str(value) for key, value in row.items() if key != "count"}
        ctx.measure(f"activity_{name}", float(row.get("count") or 0), "", **labels)
    compare(ctx, limits, name, _total(rows), earlier)
    hint = "rows have a time in the future: check the writer's clock"
    ctx.check(f"activity: {name} of the future", ahead, warn_above=0, hint=hint)


def count_stream(ctx: Context, server: RedisServer, stream: str, limits: ActivityLimits) -> None:
    """Count the entries of a stream since the last run, and compare with the same weekday."""
    what = f"stream {stream}"
    weekdays = same_weekdays(ctx.now(), limits.weeks)
    earlier = [
        point.value
        for point in ctx.series("activity_stream", stream=stream)
        if any(abs(point.at - then) < timedelta(hours=12) for then in weekdays)
    ]
    try:
        added = server.entries_added(stream)
    except TargetError as error:
        if error.cause == "empty":
            hint = f"check that the service writes {stream}; else correct the param streams"
            ctx.unknown(f"activity: {what}", f"source missing: {error.message}", hint=hint)
        else:
            ctx.report_error(f"activity: {what}", error, role=Role.SOURCE)
        return
    new = ctx.increase("stream_entries_added", added, stream=stream)
    if new is None:
        ctx.log(f"{what}: {added} entries so far; new ones are counted from now on")
        return
    ctx.measure("activity_stream", new, "", stream=stream)
    compare(ctx, limits, what, new, earlier)


def count_metric(ctx: Context, server: Prometheus, name: str, promql: str, limits: ActivityLimits) -> None:
    """Query a number now and on the same weekday before, and compare."""
    now = ctx.now()
    try:
        current = server.number(promql, now)
    except TargetError as error:
        if error.cause in ("refused", "timed_out", "unreachable"):
            ctx.report_error(f"activity: {name}", error)
        else:
            cause = "source missing" if error.cause == "empty" else error.cause
            ctx.unknown(f"activity: {name}", f"{cause}: {error.message}", hint=error.hint or "")
        return
    earlier = []
    for then in same_weekdays(now, limits.weeks):
        try:
            earlier.append(server.number(promql, then))
        except TargetError as error:
            ctx.log(f"{name}: no value of {then:%Y-%m-%d} to compare with: {error.cause}")
    ctx.measure(f"activity_{name}", current)
    compare(ctx, limits, name, current, earlier)


def _table_exists(ctx: Context, session: Postgres, table: str, what: str) -> bool:
    if session.one("SELECT to_regclass(%(table)s) IS NOT NULL AS there", {"table": table})["there"]:
        return True
    ctx.unknown(what, f"source missing: no table {table}", hint=_NO_TABLE.format(table))
    return False


def _total(rows: Sequence[Mapping[str, Any]]) -> float:
    if any("count" not in row for row in rows):
        raise TargetError("the query has no column count", "write: count(*) AS count", cause="malformed")
    return float(sum(row["count"] or 0 for row in rows))
