"""Report how the services did over the last whole days: speed, errors, use, alerts, and what the database says.

Runbook: Weekly Maintenance, Performance Analysis

Reads only. Prometheus and SQL are asked in whole UTC days; SQL in one read-only snapshot. The queries are yours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from pydantic import BaseModel, ConfigDict, Field

from maintd.checks.alerts import history as alerts
from maintd.checks.performance import Figure, Track, summaries, unmeasured
from maintd.checks.performance import report as performance
from maintd.checks.performance.limits import Limits, assess
from maintd.checks.postgres import queries
from maintd.checks.prometheus import requests, usage
from maintd.checks.prometheus.promql_window import Window, coverage, whole_days
from maintd.clients import postgres, prometheus
from maintd.job import Context, Duration, JobParams, TargetError, job
from maintd.reports import publish as shelf
from maintd.reports import rendering


class Query(BaseModel):
    """A named question to the database."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    title: str
    """What the report calls it."""
    sql: str
    """A SELECT of numbers between `%(start)s` and `%(end)s`; with a column `day` it has a row a day, else one row."""
    needs: tuple[str, ...] = ()
    """Relations without which the source is missing."""
    units: dict[str, str] = {}
    """The unit of each column that has one: B, s, %, or any word."""
    means: tuple[str, ...] = ()
    """Columns of a query by day of which the mean is stated, not the sum."""


class Params(JobParams):
    days: int = Field(7, ge=1, le=31)
    """How many whole UTC days."""
    prometheus: str | None = None
    """Which Prometheus, when there are several."""
    postgres: str | None = None
    """Which database, when there are several."""
    title: str = "Business Metrics"
    """The heading over what the queries answer."""
    queries: dict[str, Query] = {}
    """Questions to the database, by name."""
    weeks: int = Field(5, ge=1, le=12)
    """Over how many windows of that length the queries are asked, to know what is usual."""
    max_cost: float = 5_000_000
    """A query that EXPLAIN says is more costly is not run."""
    histogram: str = "http_request_duration_seconds"
    """The histogram of requests, without its `_bucket`."""
    selector: str = ""
    """Which of its series, as `job="api",path!="/metrics"`."""
    by: tuple[str, ...] = ("job", "instance")
    """The labels that tell services apart."""
    status_label: str = "status"
    """The label with the status of a request."""
    error_status: str = "5.."
    """A pattern of the statuses that are errors."""
    path_label: str = "path"
    """The label with the path of a request."""
    memory: tuple[str, ...] = ('container_memory_working_set_bytes{name!=""}', "process_resident_memory_bytes")
    """Gauges of memory; the first that has data is taken."""
    cpu: tuple[str, ...] = ('container_cpu_usage_seconds_total{name!=""}', "process_cpu_seconds_total")
    """Counters of CPU seconds; the first that has data is taken."""
    latency_warn: Duration = timedelta(seconds=1)
    """A p95 above this warns."""
    latency_fail: Duration = timedelta(seconds=5)
    """A p95 above this fails."""
    errors_warn: float = 1.0
    """Percent of failed requests above which it warns."""
    errors_fail: float = 5.0
    """Percent of failed requests above which it fails."""
    coverage: float = 90.0
    """Percent of the window that must have been seen."""
    patience: Duration = timedelta(seconds=60)
    """How long one question may take."""
    keep: int = 104
    """How many reports are kept in the reports folder."""


@job(timeout="30m", repeatable=True)
def run(ctx: Context, params: Params) -> None:
    if not ctx.targets.prometheus and not params.queries:
        ctx.target("prometheus")  # says that it is not configured
    window = whole_days(ctx.due_at or ctx.now(), params.days)
    figures: list[Figure] = []
    tracks: list[Track] = []
    for more, over_time in collect(ctx, params, window):
        figures += more
        tracks += over_time
    ctx.check(
        "figures measured",
        sum(figure.value is not None for figure in figures),
        at_least=1,
        hint="nothing could be measured: see the causes of the checks that are unknown",
    )
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
    assessments = list(assess(figures, tracks, limits))
    ctx.report(item.with_hint() for item in assessments)
    with ctx.phase("write the report"):
        names = {name: query.title for name, query in params.queries.items()}
        report = performance.build(
            figures, tracks, assessments, params.title, names, str(window), window.end, ctx.now()
        )
        publish(ctx, rendering.as_files(report), f"performance-{window.end:%Y%m%d}", params.keep)


Found = tuple[Sequence[Figure], Sequence[Track]]


def collect(ctx: Context, params: Params, window: Window) -> Iterator[Found]:
    """All figures and tracks; what cannot be measured is there with its cause."""
    if params.queries:
        with ctx.phase("ask the database"):
            yield asked(ctx, params, window)
    if not ctx.targets.prometheus:
        return
    server = prometheus.connect(ctx.target("prometheus", params.prometheus), timeout=params.patience)
    metric = requests.Metric(
        name=params.histogram,
        selector=params.selector,
        by=params.by,
        status=params.status_label,
        errors=params.error_status,
        path=params.path_label,
    )
    with ctx.phase("add up requests, errors and latency"):
        try:
            traffic = requests.traffic(server, metric, window)
            yield summaries.of_traffic(traffic, metric, server.name)
        except TargetError as error:
            yield lacking(("requests", "errors", "latency p95"), metric.source, error, window), ()
    with ctx.phase("find the slowest paths"):
        try:
            yield summaries.of_paths(requests.paths(server, metric, window), metric, window, server.name), ()
        except TargetError as error:
            yield lacking(("paths",), metric.source, error, window), ()
    for kind, unit, read, selectors in (
        ("memory", "B", usage.memory, params.memory),
        ("cpu", "CPUs", usage.cpu, params.cpu),
    ):
        with ctx.phase(f"look at {kind}"):
            try:
                yield summaries.of_use(kind, unit, read(server, selectors, window), window)
            except TargetError as error:
                yield lacking((kind,), " or ".join(selectors), error, window), ()
    with ctx.phase("count the alerts"):
        try:
            seen = coverage(server, window).present
            found = alerts.fired(server, window.start, window.end)
            yield summaries.of_alerts(found, window, server.name, seen), ()
        except TargetError as error:
            yield lacking(("alerts", "resolution"), "ALERTS", error, window), ()


def asked(ctx: Context, params: Params, window: Window) -> Found:
    """What the database answers to the queries."""
    figures: list[Figure] = []
    tracks: list[Track] = []
    questions = {name: queries.Question(query.sql, query.needs) for name, query in params.queries.items()}
    try:
        target = ctx.target("postgres", params.postgres)
        with postgres.connect(target, "performance_report", timeout=params.patience) as session:
            answers = queries.ask(
                session, questions, window.start, window.end, windows=params.weeks, most_cost=params.max_cost
            )
    except TargetError as error:
        answers = {name: queries.Answer(cause=str(error)) for name in questions}
    for name, query in params.queries.items():
        source = f'query "{name}" in {params.postgres or "postgres"}'
        more, over_time = summaries.of_answer(
            name, answers[name], query.units, query.means, window.start, window.end, source
        )
        figures += more
        tracks += over_time
    return figures, tracks


def lacking(kinds: Sequence[str], source: str, error: TargetError, window: Window) -> list[Figure]:
    """One figure of each kind that says why there is none."""
    return [unmeasured(kind, "all", "", source, str(error), str(window)) for kind in kinds]


def publish(ctx: Context, files: dict[str, str], name: str, count: int) -> None:
    """As artifacts, and to the reports folder where there is one."""
    for ending, content in files.items():
        ctx.save(f"{name}.{ending}", content, shelf.FORMS[ending])
    if ctx.reports_dir is not None:
        shelf.publish(files, name, ctx.reports_dir, kind="performance", keep=count, may=ctx.may)
