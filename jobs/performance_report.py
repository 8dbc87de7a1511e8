"""Report the performance of the last whole days: latency, errors, memory, CPU, alerts, and your own SQL queries.

Runbook: Weekly Maintenance, Performance Analysis

Read-only, except for its own files in the reports folder. Prometheus and SQL are queried for whole UTC days; SQL in
one read-only snapshot. Each week is compared with the week before, and SQL with the median of several earlier weeks.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from pydantic import Field

from maintd.checks.hints import name_first
from maintd.checks.performance.collect import Collected, collect_from_prometheus
from maintd.checks.performance.evaluate import Limits, evaluate
from maintd.checks.performance.figures import Query, run_queries
from maintd.checks.probes import isolate_errors, value_or_error
from maintd.checks.prometheus.promql_window import Window, whole_days
from maintd.checks.prometheus.requests import Metric
from maintd.checks.requirements.jobs.health import performance_report as requirements
from maintd.clients import prometheus
from maintd.job import CheckStatus, Context, Duration, JobParams, job
from maintd.reports.figure import Figure, TimeSeries
from maintd.reports.performance_report import build
from maintd.reports.publish import publish_report


class Params(JobParams):
    days: int = Field(7, ge=1, le=31)
    """Length of the window in whole UTC days."""
    prometheus: str | None = None
    """Prometheus target; default: the only one, or `main`."""
    postgres: str | None = None
    """Postgres target; default: the only one, or `main`."""
    title: str = "Business Metrics"
    """Heading of the section with the SQL queries."""
    queries: dict[str, Query] = {}
    """SQL queries by name."""
    weeks: int = Field(5, ge=1, le=12)
    """Number of windows that the queries run for; the earlier ones show what is typical."""
    max_cost: float = 5_000_000
    """A query with a higher cost in EXPLAIN is not run."""
    histogram: str = "http_request_duration_seconds"
    """Histogram of request durations, without `_bucket`."""
    selector: str = ""
    """Label matchers that select its series: `job="api",path!="/metrics"`."""
    by: tuple[str, ...] = ("job", "instance")
    """Labels that identify a service."""
    status_label: str = "status"
    """Label with the status of a request."""
    error_status: str = "5.."
    """Regular expression of the statuses that count as errors."""
    path_label: str = "path"
    """Label with the path of a request."""
    memory: tuple[str, ...] = ('container_memory_working_set_bytes{name!=""}', "process_resident_memory_bytes")
    """Gauges of memory; the first one with data is used."""
    cpu: tuple[str, ...] = ('container_cpu_usage_seconds_total{name!=""}', "process_cpu_seconds_total")
    """Counters of CPU seconds; the first one with data is used."""
    latency_warn: Duration = timedelta(seconds=1)
    """A p95 above this warns."""
    latency_fail: Duration = timedelta(seconds=5)
    """A p95 above this fails."""
    errors_warn: float = 1.0
    """A higher percentage of failed requests warns."""
    errors_fail: float = 5.0
    """A higher percentage of failed requests fails."""
    coverage: float = 90.0
    """Percentage of expected scrapes below which a figure is unknown."""
    patience: Duration = timedelta(seconds=60)
    """Timeout of one query."""
    keep: int = Field(104, ge=1)
    """Number of reports to keep in the reports folder; files that this job did not write, or that were edited, stay."""


@job(timeout="30m", repeatable=True, reads_findings=True, requires=requirements)
def run(ctx: Context, params: Params) -> None:
    if not ctx.targets.prometheus and not (params.queries and ctx.targets.postgres):
        ctx.target("prometheus")  # raises the error that it is not configured
    window = whole_days(ctx.due_at or ctx.now(), params.days)
    figures: list[Figure] = []
    series: list[TimeSeries] = []
    for more_figures, more_series in collect(ctx, params, window):
        figures += more_figures
        series += more_series
    measured = sum(figure.value is not None for figure in figures)
    if not measured and all(figure.new_since is not None for figure in figures):
        ctx.unknown("figures measured", f"no data yet in {window}", expected="at least 1", optional=True)
    else:
        missing = [f"{figure.kind} of {figure.name}: {figure.cause}" for figure in figures if figure.value is None]
        hint = f"nothing could be measured: {name_first(missing)}"
        ctx.check("figures measured", measured, at_least=1, hint=hint)
    for figure in figures:
        if figure.measure and figure.value is not None:
            ctx.measure(figure.measure, figure.value, figure.unit, **figure.labels)
    limits = Limits(
        latency_warn=params.latency_warn.total_seconds(),
        latency_fail=params.latency_fail.total_seconds(),
        errors_warn=params.errors_warn,
        errors_fail=params.errors_fail,
        coverage=params.coverage,
    )
    assessments = list(evaluate(figures, series, limits))
    ctx.report(item.with_hint() for item in assessments)
    with ctx.phase("write the report"):
        findings = [item.finding(ctx.findings) for item in assessments if item.status is not CheckStatus.OK]
        titles = {name: query.title for name, query in params.queries.items()}
        report = build(figures, series, findings, params.title, titles, str(window), window.end, ctx.now())
        publish_report(ctx, report, f"{window.end:%Y%m%d}", params.keep)


def collect(ctx: Context, params: Params, window: Window) -> Iterator[Collected]:
    """Collect all figures and series; a figure that cannot be measured has its cause instead of a value."""
    if params.queries and not ctx.targets.postgres:
        cause, hint = "not_configured: no postgres target", "set targets.postgres in the calendar"
        ctx.unknown("queries", cause, hint=hint, optional=True)
    elif params.queries:
        with ctx.phase("query the database"):
            yield run_queries(
                value_or_error(lambda: ctx.target("postgres", params.postgres)),
                params.queries,
                window,
                weeks=params.weeks,
                max_cost=params.max_cost,
                timeout=params.patience,
                source=params.postgres or "postgres",
            )
    if ctx.targets.prometheus:
        metric = Metric(
            name=params.histogram,
            selector=params.selector,
            by=params.by,
            status=params.status_label,
            errors=params.error_status,
            path=params.path_label,
        )
        with isolate_errors(ctx, "prometheus: queried"):
            server = prometheus.connect(ctx.target("prometheus", params.prometheus), timeout=params.patience)
            yield from collect_from_prometheus(ctx, server, metric, window, memory=params.memory, cpu=params.cpu)
