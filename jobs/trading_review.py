"""Review the day's figures of a trading service, and its activity against the same weekday.

The figures come from the service by HTTP: they must be finite numbers of today, the halt must be as expected, and they
must equal the day's row in Postgres. Activity is counted by SQL, in Redis streams and by PromQL, and compared with the
same hours of the same weekday in earlier weeks. A missing table, stream or metric is unknown, never zero. Read-only,
though some services create their day's record on the first request.

Runbook: Daily Maintenance, Morning Health Check, 2 Trading Performance Review
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import httpx

from maintd.checks import trading
from maintd.checks.http import daily_results
from maintd.checks.http.activity import ActivityLimits
from maintd.checks.http.daily_results import FigureLimits
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.health import trading_review as requirements
from maintd.checks.trading import Day, Query
from maintd.clients import postgres, prometheus, redis
from maintd.job import Context, Duration, JobParams, TargetError, job
from maintd.job.references import resolved


class Params(JobParams):
    service: str | None = None
    """HTTP target of the service; default: the only one, or `main`."""
    path: str = "/pnl/status"
    """Path of the figures."""
    figures: FigureLimits = FigureLimits()
    """Fields with figures, and their limits."""
    database: str | None = None
    """Postgres target; default: the only one, or `main`."""
    day: Day | None = None
    """The day's row in Postgres; null: figures are not reconciled."""
    tolerance: float = 0.01
    """Maximum difference between a figure and its column."""
    queries: dict[str, Query] = {}
    """Activity counted in Postgres, by name."""
    streams: tuple[str, ...] = ()
    """Redis streams whose new entries are counted."""
    cache: str | None = None
    """Redis target of the streams; default: the only one, or `main`."""
    metrics: dict[str, str] = {}
    """Activity counted by PromQL, by name; each query returns one series."""
    window: Duration = timedelta(days=1)
    """Time window of the activity."""
    compare: ActivityLimits = ActivityLimits()
    """Comparison with the same weekday in earlier weeks."""


@job(timeout="5m", repeatable=True, needs=("http",), requires=requirements)
def run(ctx: Context, params: Params) -> None:
    reported = None
    with ctx.phase("request the figures"), isolate_errors(ctx, "figures: evaluated"):
        reported = review_figures(ctx, params)
    if params.day is not None or params.queries:
        with ctx.phase("compare with Postgres"), isolate_errors(ctx, "postgres: evaluated"):
            review_postgres(ctx, params, reported)
    if params.streams:
        with ctx.phase("count new entries of streams"), isolate_errors(ctx, "redis: evaluated"):
            review_redis(ctx, params)
    if params.metrics:
        with ctx.phase("query Prometheus"), isolate_errors(ctx, "prometheus: evaluated"):
            review_prometheus(ctx, params)


def review_figures(ctx: Context, params: Params) -> Mapping[str, Any] | None:
    """Request and check the service's figures; None when there is no answer."""
    target = resolved(ctx.target("http", params.service))
    url = str(httpx.URL(target.url).copy_with(path=params.path, query=None))
    try:
        found = daily_results.collect(target.model_copy(update={"url": url}))
    except TargetError as error:
        ctx.report_error("figures: answer", error)
        return None
    ctx.check("figures: answer", "JSON", equals="JSON")
    daily_results.report(ctx, found, params.figures, ctx.now().date())
    return found


def review_postgres(ctx: Context, params: Params, reported: Mapping[str, Any] | None) -> None:
    """Reconcile the figures and count activity in Postgres."""
    name = params.database or "main"
    try:
        with postgres.connect(ctx.target("postgres", params.database), "trading_review", name=name) as session:
            if params.day is not None:
                with isolate_errors(ctx, "the day's row: evaluated"):
                    trading.reconcile(ctx, session, params.day, reported, params.tolerance)
            for activity, query in params.queries.items():
                with isolate_errors(ctx, f"activity: {activity}"):
                    trading.count_rows(ctx, session, activity, query, params.window, params.compare)
    except TargetError as error:
        ctx.report_error("postgres: answers", error)


def review_redis(ctx: Context, params: Params) -> None:
    """Count new entries of the streams in Redis."""
    try:
        with redis.connect(ctx.target("redis", params.cache), name=params.cache or "main") as server:
            server.ping()
            for stream in params.streams:
                with isolate_errors(ctx, f"activity: stream {stream}"):
                    trading.count_stream(ctx, server, stream, params.compare)
    except TargetError as error:
        ctx.report_error("redis: answers", error)


def review_prometheus(ctx: Context, params: Params) -> None:
    """Query activity in Prometheus."""
    try:
        server = prometheus.connect(ctx.target("prometheus"))
    except TargetError as error:
        ctx.report_error("prometheus: answers", error)
        return
    for activity, promql in params.metrics.items():
        with isolate_errors(ctx, f"activity: {activity}"):
            trading.count_metric(ctx, server, activity, promql, params.compare)
