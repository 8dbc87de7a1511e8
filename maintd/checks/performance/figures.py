"""Figures and time series of a window: requests, paths, memory, CPU, alerts, and the answers of SQL queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from statistics import mean, median
from typing import Any

from pydantic import BaseModel, ConfigDict

from maintd.checks.alerts.history import Alerts
from maintd.checks.postgres.queries import Answer, SqlQuery, run_all
from maintd.checks.probes import as_target_error
from maintd.checks.prometheus.histograms import added, quantile
from maintd.checks.prometheus.promql_window import Coverage, Window
from maintd.checks.prometheus.requests import MAX_PATHS, Metric, Paths, Service, Traffic, total, whole
from maintd.checks.prometheus.usage import Use
from maintd.clients.postgres import connect
from maintd.errors import TargetError
from maintd.job.causes import hint_for
from maintd.model.target import PostgresTarget
from maintd.reports.figure import Figure, TimeSeries, unmeasured
from maintd.units import duration_text

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
ALL = "all services"
_MIN_COVERAGE = 0.9  # of the window before, to compare with it
_MIN_REQUESTS = 20  # of a path, to report its quantiles


_NO_DATA = "check that the application wrote rows in this window, and that the query finds them"


class Query(BaseModel):
    """A named SQL query."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    title: str
    """Its title in the report."""
    sql: str
    """A SELECT of numbers between `%(start)s` and `%(end)s`: one row for each `day`, or one row without that column."""
    needs: tuple[str, ...] = ()
    """Relations that must exist."""
    units: dict[str, str] = {}
    """The unit of each column that has one: B, s, %, or any word."""
    means: tuple[str, ...] = ()
    """Columns of a query by day that are averaged; other columns are summed."""


def traffic_figures(traffic: Traffic, metric: Metric, server: str) -> tuple[list[Figure], list[TimeSeries]]:
    """Requests, errors and latency of each service and of all services, each against the window before."""
    figures: list[Figure] = []
    for service in traffic.services:
        figures += _service_figures([service], service.name, service.labels, traffic, metric, server)
    figures += _service_figures(traffic.services, ALL, {}, traffic, metric, server)
    return figures, _traffic_series(traffic)


def _service_figures(
    services: Sequence[Service], name: str, labels: Mapping[str, str], traffic: Traffic, metric: Metric, server: str
) -> list[Figure]:
    window, source = str(traffic.window), f"{metric.source} in {server}"
    count = traffic.window.count
    now, then = slice(count, None), slice(0, count)
    covered, compared = traffic.coverage.of(labels), _comparable(traffic.coverage_before, labels)
    new_since = traffic.coverage.new_since(labels)
    own = {"service": name}

    def figure(kind: str, value: float, unit: str, before: float | None, **more: Any) -> Figure:
        return Figure(
            kind,
            name,
            value,
            unit,
            source,
            window,
            coverage=covered,
            new_since=new_since,
            labels=own,
            before=before if compared else None,
            **more,
        )

    figures = []
    requests = total([total(service.requests[now]) for service in services])
    requests_then = total([total(service.requests[then]) for service in services])
    if requests is None:
        return [unmeasured("requests", name, "", source, "no values in this window", window)]
    figures.append(figure("requests", requests, "", requests_then, measure="http_requests"))
    known = [service.errors for service in services if service.errors is not None]
    if not known:
        cause = f'no request has the label "{metric.status}"; set the param status_label'
        figures.append(unmeasured("errors", name, "%", source, cause, window))
    elif requests > 0:
        errors = total([total(errors[now]) for errors in known]) or 0.0
        errors_then = total([total(errors[then]) for errors in known])
        before = 100 * (errors_then or 0.0) / requests_then if requests_then else None
        figures.append(figure("errors", 100 * errors / requests, "%", before, measure="http_error_percent"))
    else:
        figures.append(unmeasured("errors", name, "%", source, "no requests in this window", window))
    histogram, histogram_then = (added(whole(service, steps) for service in services) for steps in (now, then))
    for text, part in QUANTILES.items():
        kind, found = f"latency {text}", quantile(histogram, part)
        if found is None:
            cause = "no requests in this window" if requests == 0 else f"{metric.name}_bucket has no observations"
            figures.append(unmeasured(kind, name, "s", source, cause, window))
            continue
        earlier = quantile(histogram_then, part)
        figures.append(
            figure(
                kind,
                found.value,
                "s",
                earlier.value if earlier else None,
                at_least=found.at_least,
                measure=f"http_{text}_seconds",
            )
        )
    return figures


def _comparable(coverage: Coverage | None, labels: Mapping[str, str]) -> bool:
    share = coverage.of(labels) if coverage else None
    return share is not None and share >= _MIN_COVERAGE


def _traffic_series(traffic: Traffic) -> list[TimeSeries]:
    times, count = traffic.window.times, traffic.window.count
    hour = traffic.window.step.total_seconds()
    series = []
    for text, part in QUANTILES.items():
        values = []
        for index in range(count, 2 * count):
            found = quantile(added(b for service in traffic.services if (b := service.buckets[index])), part)
            values.append(found.value if found else None)
        series.append(TimeSeries("latency", text, "s", tuple(zip(times, values, strict=True))))
    for service in traffic.services:
        quantiles = [quantile(buckets, 0.95) if buckets else None for buckets in service.buckets[count:]]
        points = [(at, found.value if found else None) for at, found in zip(times, quantiles, strict=True)]
        series.append(TimeSeries("latency by service", service.name, "s", tuple(points)))
        rate = tuple(
            (at, None if v is None else v / hour) for at, v in zip(times, service.requests[count:], strict=True)
        )
        series.append(TimeSeries("requests", service.name, "/s", rate))
    with_errors = [service.errors[count:] for service in traffic.services if service.errors is not None]
    if with_errors:
        sums = [total([values[index] for values in with_errors]) for index in range(count)]
        series.append(TimeSeries("errors", "errors", "", tuple(zip(times, sums, strict=True))))
    return series


def path_figures(paths: Paths, metric: Metric, window: Window, server: str, most: int = 5) -> list[Figure]:
    """The number of paths, and the `most` slowest paths with at least 20 requests."""
    source = f"{metric.source} in {server}"
    figures = [Figure("paths", "paths", paths.count, "", source, str(window))]
    if paths.count > MAX_PATHS:
        return figures
    slow = []
    for path, buckets in paths.buckets.items():
        requests, found = max(buckets.values(), default=0.0), quantile(buckets, 0.95)
        if found is not None and requests >= _MIN_REQUESTS:
            details = {"requests": requests} | {t: q.value for t, p in QUANTILES.items() if (q := quantile(buckets, p))}
            slow.append(
                Figure(
                    "slow path", path, found.value, "s", source, str(window), details=details, at_least=found.at_least
                )
            )
    return figures + sorted(slow, key=lambda figure: -(figure.value or 0.0))[:most]


def usage_figures(kind: str, unit: str, uses: Iterable[Use], window: Window) -> tuple[list[Figure], list[TimeSeries]]:
    """Mean, p95 and peak of the memory or CPU use of each container or process."""
    figures, series = [], []
    for use in uses:
        values = sorted(value for value in use.mean if value is not None)
        if not values:
            figures.append(unmeasured(kind, use.name, unit, use.source, "no value at the end of any hour", str(window)))
            continue
        since = len(use.mean) - max((index + 1 for index, start in enumerate(use.started) if start), default=0)
        peak = max(value for value in use.highest if value is not None)
        details = {"p95": values[round(0.95 * (len(values) - 1))], "peak": peak, "hours since start": float(since)}
        figures.append(
            Figure(
                kind,
                use.name,
                mean(values),
                unit,
                use.source,
                str(window),
                coverage=use.coverage,
                new_since=use.new_since,
                details=details,
            )
        )
        series.append(TimeSeries(kind, use.name, unit, tuple(zip(window.times, use.mean, strict=True))))
    return figures, series


def alert_figures(alerts: Alerts, window: Window, server: str, covered: Coverage) -> list[Figure]:
    """How many alerts fired, how many of them critical, the mean time to resolution, and each alert by name."""
    source = f"ALERTS in {server}, every {duration_text(alerts.step)}"

    def figure(kind: str, name: str, value: float | None, unit: str, cause: str = "", **more: Any) -> Figure:
        coverage, begun = covered.present, covered.begun
        return Figure(
            kind, name, value, unit, source, str(window), coverage=coverage, new_since=begun, cause=cause, **more
        )

    episodes = alerts.episodes
    critical = [episode for episode in episodes if episode.severity == "critical"]
    resolution = alerts.mean_time_to_resolution
    none = "no alert fired" if not episodes else "no alert began and ended in this window"
    figures = [
        figure("alerts", "all", float(len(episodes)), "", measure="alerts_fired"),
        figure("alerts", "critical", float(len(critical)), "", measure="alerts_fired_critical"),
        figure("resolution", "mean", resolution.total_seconds(), "s", measure="alert_mttr_seconds")
        if resolution
        else figure("resolution", "mean", None, "s", none),
    ]
    for name, severity in sorted({(episode.name, episode.severity) for episode in episodes}):
        own = [episode for episode in episodes if (episode.name, episode.severity) == (name, severity)]
        ended = [episode.lasted.total_seconds() for episode in own if episode.resolved]
        details = {
            "seconds": sum(episode.lasted.total_seconds() for episode in own),
            "open": float(sum(episode.ended_at is None for episode in own)),
        } | ({"resolution": mean(ended)} if ended else {})
        figures.append(figure("alert", name, float(len(own)), "", labels={"severity": severity}, details=details))
    return figures


def run_queries(
    target: PostgresTarget | TargetError,
    named: Mapping[str, Query],
    window: Window,
    *,
    weeks: int,
    max_cost: float,
    timeout: timedelta,
    source: str,
) -> tuple[list[Figure], list[TimeSeries]]:
    """Run the queries for the window and the `weeks` - 1 windows before it.

    A query that fails, or costs more than `max_cost` in EXPLAIN, has one figure with the cause.
    """
    queries = {name: SqlQuery(query.sql, query.needs) for name, query in named.items()}
    try:
        if isinstance(target, TargetError):
            raise target
        with as_target_error(source), connect(target, "performance_report", timeout=timeout) as session:
            answers = run_all(session, queries, window.start, window.end, windows=weeks, max_cost=max_cost)
    except TargetError as error:
        answers = {name: Answer(cause=error.message, hint=error.hint or hint_for(error.cause)) for name in queries}
    figures: list[Figure] = []
    series: list[TimeSeries] = []
    for name, query in named.items():
        origin = f'query "{name}" in {source}'
        try:
            with as_target_error(origin):
                more_figures, more_series = query_figures(name, query, answers[name], window.start, window.end, origin)
        except TargetError as error:
            more_figures = [
                unmeasured(f"query {name}", name, "", origin, error.message, str(window), hint=error.hint or "")
            ]
            more_series = []
        figures += more_figures
        series += more_series
    return figures, series


def query_figures(
    name: str, query: Query, answer: Answer, start: datetime, end: datetime, source: str
) -> tuple[list[Figure], list[TimeSeries]]:
    """One figure for each column of a query.

    With a column `day`, a figure is the sum over the days, or the mean for columns in `means`, and there is a series
    by day. `details` has the median and the scatter (MAD) of all earlier windows.
    """
    window, kind = str(Window(start, end)), f"query {name}"
    if answer.cause:
        return [unmeasured(kind, name, "", source, answer.cause, window, hint=answer.hint)], []
    rows = answer.windows[0]
    if not any(_observed(rows) for rows in answer.windows):
        cause = f"no data yet: none in this window and {len(answer.windows) - 1} before"
        return [unmeasured(kind, name, "", source, cause, window, new_since=end)], []
    if not rows:
        return [unmeasured(kind, name, "", source, "no rows in this window", window, hint=_NO_DATA)], []
    columns = [column for column in rows[0] if column != "day"]
    figures, series = [], []
    wanted = [(start + timedelta(days=index)).date() for index in range((end - start).days)]
    by_day = {_day(row["day"]): row for row in rows} if "day" in rows[0] else None
    earlier_windows = answer.windows[1 : _comparable_windows(answer.windows, len(wanted))]
    # The days before the first data were not without data: they were not observed.
    first = min((day for day in by_day if day is not None), default=None) if by_day else None
    new = bool(by_day) and not any(_has_data(rows) for rows in answer.windows[1:])
    expected = [day for day in wanted if not new or first is None or day >= first]
    for column in columns:
        unit = query.units.get(column, "")
        values = [_total(rows, column, column in query.means) for rows in (rows, *earlier_windows)]
        if values[0] is None:
            figures.append(unmeasured(kind, column, unit, source, "NULL in all rows", window, hint=_NO_DATA))
        else:
            earlier = [value for value in values[1:] if value is not None]
            figures.append(
                Figure(
                    kind,
                    column,
                    values[0],
                    unit,
                    source,
                    window,
                    coverage=None if by_day is None else sum(day in by_day for day in expected) / len(expected),
                    measure="query_value",
                    labels={"query": name, "column": column},
                    details=_typical(earlier),
                    before=values[1] if len(values) > 1 else None,
                )
            )
        if by_day is not None:
            noon = [(datetime.combine(day, time(12), UTC), _number(by_day.get(day), column)) for day in wanted]
            series.append(TimeSeries(kind, column, unit, tuple(noon)))
    return figures, series


def _observed(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a window has any value but NULL."""
    return any(value is not None for row in rows for column, value in row.items() if column != "day")


def _has_data(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a window has days, or, without days, a value other than zero, which may mean that there were no data."""
    return any("day" in row or any(row.values()) for row in rows)


def _comparable_windows(windows: Sequence[Sequence[Mapping[str, Any]]], days: int) -> int:
    """How many windows, latest first, can be compared with the latest.

    Those before the first data cannot, and neither can the one in which data began, unless most of its days have data.
    """
    count = len(windows)
    while count > 1 and not _has_data(windows[count - 1]):
        count -= 1
    if count == 1:
        return 1
    oldest = windows[count - 1]
    if "day" in oldest[0]:
        return count if len(oldest) >= min(len(windows[0]), 0.9 * days) else count - 1
    return count if count == len(windows) else count - 1  # without days it may be a part of a window


def _typical(values: Sequence[float]) -> dict[str, float]:
    if len(values) < 3:
        return {}
    middle = median(values)
    return {"median": middle, "scatter": median(abs(value - middle) for value in values)}


def _total(rows: Sequence[Mapping[str, Any]], column: str, is_mean: bool) -> float | None:
    known = [value for row in rows if (value := _number(row, column)) is not None]
    return None if not known else mean(known) if is_mean else sum(known)


def _number(row: Mapping[str, Any] | None, column: str) -> float | None:
    value = row.get(column) if row else None
    return value if isinstance(value, float) else None


def _day(value: Any) -> date | None:
    return value if isinstance(value, date) else None
