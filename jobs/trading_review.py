"""Review the day's figures of a trading service, and its activity against the same weekday.

The figures come from the service by HTTP: they must be finite numbers of today, not halted against expectation, and the
same as the day's row in Postgres. Activity is counted by queries of Postgres, by streams of Redis and by PromQL, each
compared with the same hours of the same weekday before. A table, stream or metric that is not there is unknown: source
missing; never zero. Nothing is written, though some services begin their day's record when they are asked for it.

Runbook: Daily Maintenance, Morning Health Check, 2 Trading Performance Review
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict

from maintd.checks.http import figures
from maintd.checks.http.activity import ActivityLimits, compare, same_weekdays
from maintd.checks.http.figures import FigureLimits, as_text, finite
from maintd.clients import postgres, prometheus, redis
from maintd.job import Context, Duration, JobParams, TargetError, job
from maintd.job.references import resolved


class Query(BaseModel):
    """A count in Postgres. `sql` has a column `count`, further columns are labels; it is given %(since)s and %(until)s,
    and any other % is written twice. `table` is looked for first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    sql: str


class Day(BaseModel):
    """The day's row in Postgres: `sql` is given %(day)s. `same` maps a field of the service's answer to a column."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    sql: str
    same: dict[str, str]


class Params(JobParams):
    service: str | None = None
    """HTTP target of the service; none named: the only one, or `main`."""
    path: str = "/pnl/status"
    """Where on that service the figures are."""
    figures: FigureLimits = FigureLimits()
    """Which of its fields are looked at, and what is expected of them."""
    database: str | None = None
    """Postgres target; none named: the only one, or `main`."""
    day: Day | None = None
    """Where the day's row is; none: the figures are not reconciled."""
    tolerance: float = 0.01
    """How far a figure may be off its column."""
    queries: dict[str, Query] = {}
    """Activity to count in Postgres, by name."""
    streams: tuple[str, ...] = ()
    """Streams whose new entries are counted from one run to the next."""
    cache: str | None = None
    """Redis target of the streams; none named: the only one, or `main`."""
    metrics: dict[str, str] = {}
    """Activity to count by PromQL, by name; each query has one series."""
    window: Duration = timedelta(days=1)
    """How far back activity is counted."""
    compare: ActivityLimits = ActivityLimits()
    """How activity is compared with the same weekday before."""


@job(timeout="5m", repeatable=True, needs=("http",))
def run(ctx: Context, params: Params) -> None:
    with ctx.phase("ask the service for its figures"):
        reported = _figures(ctx, params)
    if params.day is not None or params.queries:
        with ctx.phase("compare with Postgres"):
            _in_postgres(ctx, params, reported)
    if params.streams:
        with ctx.phase("count new entries of streams"):
            _in_redis(ctx, params)
    if params.metrics:
        with ctx.phase("ask Prometheus"):
            _in_prometheus(ctx, params)


def _figures(ctx: Context, params: Params) -> Mapping[str, Any] | None:
    """The service's answer, judged by itself; None when there is none."""
    target = resolved(ctx.target("http", params.service))
    asked = target.model_copy(update={"url": str(httpx.URL(target.url).copy_with(path=params.path, query=None))})
    try:
        found = figures.collect(asked)
    except TargetError as error:
        ctx.report_error("figures: answer", error)
        return None
    ctx.check("figures: answer", "JSON", equals="JSON")
    figures.report(ctx, found, params.figures, ctx.now().date())
    return found


def _in_postgres(ctx: Context, params: Params, reported: Mapping[str, Any] | None) -> None:
    name = params.database or "main"
    try:
        with postgres.connect(ctx.target("postgres", params.database), "trading_review", name=name) as session:
            if params.day is not None:
                _reconcile(ctx, session, params, params.day, reported)
            for what, query in params.queries.items():
                _count(ctx, session, params, what, query)
    except TargetError as error:
        ctx.report_error("postgres: answers", error)


def _reconcile(
    ctx: Context, session: postgres.Postgres, params: Params, day: Day, reported: Mapping[str, Any] | None
) -> None:
    today = ctx.now().date()
    try:
        if not _there(ctx, session, day.table, "the day's row"):
            return
        rows = session.rows(day.sql, {"day": today})
        before = session.rows(day.sql, {"day": today - timedelta(days=1)})
    except TargetError as error:
        ctx.unknown("the day's row", f"{error.cause}: {error.message}", hint=error.hint or "")
        return
    if before:
        ctx.check("the row of the day before", "there", equals="there")
    else:
        ctx.unknown("the row of the day before", f"empty: {day.table} has none", hint="did nothing write it?")
    if not rows:
        ctx.unknown("the day's row", f"empty: {day.table} has none for {today}", hint="did nothing write it yet?")
        return
    for field, column in day.same.items():
        what = f"reconciled: {field}"
        if reported is None:
            ctx.unknown(what, "no figures to compare with")
            continue
        ours, theirs = finite(reported.get(field)), finite(rows[0].get(column))
        if ours is None or theirs is None:
            ctx.fail(
                what,
                f"{as_text(reported.get(field))} against {as_text(rows[0].get(column))}",
                expected="two numbers",
                hint=f"correct the field or the column {column}",
            )
        else:
            hint = f"the service says {ours:g}, {day.table}.{column} {theirs:g}: which one lost something?"
            ctx.check(what, round(abs(ours - theirs), 9), at_most=params.tolerance, hint=hint)


def _count(ctx: Context, session: postgres.Postgres, params: Params, what: str, query: Query) -> None:
    now = ctx.now()
    try:
        if not _there(ctx, session, query.table, f"activity: {what}"):
            return
        rows = session.rows(query.sql, {"since": now - params.window, "until": now})
        earlier = [
            _total(session.rows(query.sql, {"since": then - params.window, "until": then}))
            for then in same_weekdays(now, params.compare.weeks)
        ]
        ahead = _total(
            session.rows(query.sql, {"since": now + timedelta(minutes=5), "until": now + timedelta(days=3650)})
        )
    except TargetError as error:
        ctx.unknown(f"activity: {what}", f"{error.cause}: {error.message}", hint=error.hint or "")
        return
    for row in rows:
        labels = {key: str(value) for key, value in row.items() if key != "count"}
        ctx.measure(f"activity_{what}", float(row.get("count") or 0), "", **labels)
    compare(ctx, params.compare, what, _total(rows), earlier)
    hint = "rows of the future: is the writer's clock right?"
    ctx.check(f"activity: {what} of the future", ahead, warn_above=0, hint=hint)


def _in_redis(ctx: Context, params: Params) -> None:
    try:
        with redis.connect(ctx.target("redis", params.cache), name=params.cache or "main") as server:
            server.ping()
            for stream in params.streams:
                _count_stream(ctx, server, params, stream)
    except TargetError as error:
        ctx.report_error("redis: answers", error)


def _count_stream(ctx: Context, server: redis.RedisServer, params: Params, stream: str) -> None:
    what = f"stream {stream}"
    earlier = [
        point.value
        for point in ctx.series("activity_stream", stream=stream)
        if any(abs(point.at - then) < timedelta(hours=12) for then in same_weekdays(ctx.now(), params.compare.weeks))
    ]
    try:
        added = server.entries_added(stream)
    except TargetError as error:
        ctx.unknown(f"activity: {what}", f"source missing: {error.message}", hint="correct the param streams")
        return
    new = ctx.increase("stream_entries_added", added, stream=stream)
    if new is None:
        ctx.log(f"{what}: {added} entries so far; what is new is counted from here on")
        return
    ctx.measure("activity_stream", new, "", stream=stream)
    compare(ctx, params.compare, what, new, earlier)


def _in_prometheus(ctx: Context, params: Params) -> None:
    now = ctx.now()
    try:
        server = prometheus.connect(ctx.target("prometheus"))
    except TargetError as error:
        ctx.report_error("prometheus: answers", error)
        return
    for what, promql in params.metrics.items():
        try:
            current = server.number(promql, now)
        except TargetError as error:
            cause = "source missing" if error.cause == "empty" else error.cause
            if error.cause in ("refused", "timed_out", "unreachable"):
                ctx.report_error(f"activity: {what}", error)
            else:
                ctx.unknown(f"activity: {what}", f"{cause}: {error.message}", hint=error.hint or "")
            continue
        earlier = []
        for then in same_weekdays(now, params.compare.weeks):
            try:
                earlier.append(server.number(promql, then))
            except TargetError as error:
                ctx.log(f"{what}: nothing of {then:%Y-%m-%d} to compare with: {error.cause}")
        ctx.measure(f"activity_{what}", current)
        compare(ctx, params.compare, what, current, earlier)


def _there(ctx: Context, session: postgres.Postgres, table: str, what: str) -> bool:
    if session.one("SELECT to_regclass(%(table)s) IS NOT NULL AS there", {"table": table})["there"]:
        return True
    ctx.unknown(what, f"source missing: there is no table {table}", hint="run its migrations, or correct the param")
    return False


def _total(rows: Sequence[Mapping[str, Any]]) -> float:
    if any("count" not in row for row in rows):
        raise TargetError("the query has no column count", "write: count(*) AS count", cause="malformed")
    return float(sum(row["count"] or 0 for row in rows))
