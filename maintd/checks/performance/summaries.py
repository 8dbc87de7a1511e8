"""What was seen over the window as figures and tracks, each against the window before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from statistics import mean, median
from typing import Any

from maintd.checks.alerts.history import Alerts
from maintd.checks.postgres.queries import Answer
from maintd.checks.prometheus.histograms import added, quantile
from maintd.checks.prometheus.promql_window import Coverage, Window
from maintd.checks.prometheus.requests import MOST_PATHS, Metric, Paths, Service, Traffic, total, whole
from maintd.checks.prometheus.usage import Use
from maintd.reports.figure import Figure, Track, unmeasured

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
ALL = "all services"
_ENOUGH = 0.9  # coverage of the window before, below which it is not compared with
_FEW = 20  # requests of a path, below which its quantiles say nothing


def of_traffic(traffic: Traffic, metric: Metric, server: str) -> tuple[list[Figure], list[Track]]:
    """Requests, errors and latency of each service and of all."""
    figures: list[Figure] = []
    for service in traffic.services:
        figures += _of_services([service], service.name, service.labels, traffic, metric, server)
    figures += _of_services(traffic.services, ALL, {}, traffic, metric, server)
    return figures, _tracks(traffic)


def _of_services(
    services: Sequence[Service], name: str, labels: Mapping[str, str], traffic: Traffic, metric: Metric, server: str
) -> list[Figure]:
    window, source = str(traffic.window), f"{metric.source} in {server}"
    count = traffic.window.count
    now, then = slice(count, None), slice(0, count)
    seen, compared = traffic.coverage.of(labels), _comparable(traffic.coverage_before, labels)
    own = {"service": name}

    def made(kind: str, value: float, unit: str, before: float | None, **more: Any) -> Figure:
        return Figure(
            kind,
            name,
            value,
            unit,
            source,
            window,
            coverage=seen,
            labels=own,
            before=before if compared else None,
            **more,
        )

    figures = []
    requests = total([total(service.requests[now]) for service in services])
    requests_then = total([total(service.requests[then]) for service in services])
    if requests is None:
        return [unmeasured("requests", name, "", source, "it has no values in this window", window)]
    figures.append(made("requests", requests, "", requests_then, measure="http_requests"))
    known = [service.errors for service in services if service.errors is not None]
    if not known:
        cause = f'no request has the label "{metric.status}"; set the param status_label'
        figures.append(unmeasured("errors", name, "%", source, cause, window))
    elif requests > 0:
        errors = total([total(errors[now]) for errors in known]) or 0.0
        errors_then = total([total(errors[then]) for errors in known])
        before = 100 * (errors_then or 0.0) / requests_then if requests_then else None
        figures.append(made("errors", 100 * errors / requests, "%", before, measure="http_error_percent"))
    histogram, histogram_then = (added(whole(service, steps) for service in services) for steps in (now, then))
    for text, part in QUANTILES.items():
        kind, found = f"latency {text}", quantile(histogram, part)
        if found is None:
            cause = "no requests in this window" if requests == 0 else f"{metric.name}_bucket has none of them"
            figures.append(unmeasured(kind, name, "s", source, cause, window))
            continue
        earlier = quantile(histogram_then, part)
        figures.append(
            made(
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
    return share is not None and share >= _ENOUGH


def _tracks(traffic: Traffic) -> list[Track]:
    times, count = traffic.window.times, traffic.window.count
    hour = traffic.window.step.total_seconds()
    tracks = []
    for text, part in QUANTILES.items():
        values = []
        for index in range(count, 2 * count):
            found = quantile(added(b for service in traffic.services if (b := service.buckets[index])), part)
            values.append(found.value if found else None)
        tracks.append(Track("latency", text, "s", tuple(zip(times, values, strict=True))))
    for service in traffic.services:
        quantiles = [quantile(buckets, 0.95) if buckets else None for buckets in service.buckets[count:]]
        points = [(at, found.value if found else None) for at, found in zip(times, quantiles, strict=True)]
        tracks.append(Track("latency by service", service.name, "s", tuple(points)))
        rate = tuple(
            (at, None if v is None else v / hour) for at, v in zip(times, service.requests[count:], strict=True)
        )
        tracks.append(Track("requests", service.name, "/s", rate))
    with_errors = [service.errors[count:] for service in traffic.services if service.errors is not None]
    if with_errors:
        sums = [total([values[index] for values in with_errors]) for index in range(count)]
        tracks.append(Track("errors", "errors", "", tuple(zip(times, sums, strict=True))))
    return tracks


def of_paths(paths: Paths, metric: Metric, window: Window, server: str, most: int = 5) -> list[Figure]:
    """How many paths there are, and the slowest with enough requests."""
    source = f"{metric.source} in {server}"
    figures = [Figure("paths", "paths", paths.count, "", source, str(window))]
    if paths.count > MOST_PATHS:
        return figures
    slow = []
    for path, buckets in paths.buckets.items():
        requests, found = max(buckets.values(), default=0.0), quantile(buckets, 0.95)
        if found is not None and requests >= _FEW:
            details = {"requests": requests} | {t: q.value for t, p in QUANTILES.items() if (q := quantile(buckets, p))}
            slow.append(
                Figure(
                    "slow path", path, found.value, "s", source, str(window), details=details, at_least=found.at_least
                )
            )
    return figures + sorted(slow, key=lambda figure: -(figure.value or 0.0))[:most]


def of_use(kind: str, unit: str, uses: Iterable[Use], window: Window) -> tuple[list[Figure], list[Track]]:
    """Mean, p95 and peak of each series."""
    figures, tracks = [], []
    for use in uses:
        values = sorted(value for value in use.mean if value is not None)
        if not values:
            figures.append(unmeasured(kind, use.name, unit, use.source, "no value at the end of any hour", str(window)))
            continue
        since = len(use.mean) - max((index + 1 for index, start in enumerate(use.started) if start), default=0)
        peak = max(value for value in use.highest if value is not None)
        details = {"p95": values[round(0.95 * (len(values) - 1))], "peak": peak, "hours since start": float(since)}
        figures.append(
            Figure(kind, use.name, mean(values), unit, use.source, str(window), coverage=use.coverage, details=details)
        )
        tracks.append(Track(kind, use.name, unit, tuple(zip(window.times, use.mean, strict=True))))
    return figures, tracks


def of_alerts(alerts: Alerts, window: Window, server: str, coverage: float | None) -> list[Figure]:
    """How many fired, how many of them critical, how long until they ended, and each alert by name."""
    source = f"ALERTS in {server}, every {alerts.step.total_seconds():g} s"

    def made(kind: str, name: str, value: float | None, unit: str, cause: str = "", **more: Any) -> Figure:
        return Figure(kind, name, value, unit, source, str(window), coverage=coverage, cause=cause, **more)

    episodes = alerts.episodes
    critical = [episode for episode in episodes if episode.severity == "critical"]
    resolution = alerts.mean_time_to_resolution
    none = "no alert fired" if not episodes else "no alert both began and ended in this window"
    figures = [
        made("alerts", "all", float(len(episodes)), "", measure="alerts_fired"),
        made("alerts", "critical", float(len(critical)), "", measure="alerts_fired_critical"),
        made("resolution", "mean", resolution.total_seconds(), "s", measure="alerts_resolution_seconds")
        if resolution
        else made("resolution", "mean", None, "s", none),
    ]
    for name, severity in sorted({(episode.name, episode.severity) for episode in episodes}):
        own = [episode for episode in episodes if (episode.name, episode.severity) == (name, severity)]
        ended = [episode.lasted.total_seconds() for episode in own if episode.resolved]
        details = {
            "seconds": sum(episode.lasted.total_seconds() for episode in own),
            "open": float(sum(episode.ended_at is None for episode in own)),
        } | ({"resolution": mean(ended)} if ended else {})
        figures.append(made("alert", name, float(len(own)), "", labels={"severity": severity}, details=details))
    return figures


def of_answer(
    name: str,
    answer: Answer,
    units: Mapping[str, str],
    means: Sequence[str],
    start: datetime,
    end: datetime,
    source: str,
) -> tuple[list[Figure], list[Track]]:
    """A query's numbers: with a column `day` each other column as its sum over the days, or its mean for those in
    `means`, and a track by day; else as it is. `before` is the window before, `details` have the median and the scatter
    (MAD) of all earlier windows."""
    window, kind = str(Window(start, end)), f"query {name}"
    if answer.cause:
        return [unmeasured(kind, name, "", source, answer.cause, window)], []
    rows = answer.windows[0]
    if not rows:
        return [unmeasured(kind, name, "", source, "no rows in this window", window)], []
    columns = [column for column in rows[0] if column != "day"]
    figures, tracks = [], []
    wanted = [(start + timedelta(days=index)).date() for index in range((end - start).days)]
    by_day = {_day(row["day"]): row for row in rows} if "day" in rows[0] else None
    for column in columns:
        unit = units.get(column, "")
        values = [_one(of_window, column, column in means) for of_window in answer.windows]
        if values[0] is None:
            figures.append(unmeasured(kind, column, unit, source, "it is NULL in all rows", window))
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
                    coverage=None if by_day is None else sum(day in by_day for day in wanted) / len(wanted),
                    measure="query_value",
                    labels={"query": name, "column": column},
                    details=_usual(earlier),
                    before=values[1] if len(values) > 1 else None,
                )
            )
        if by_day is not None:
            noon = [(datetime.combine(day, time(12), UTC), _number(by_day.get(day), column)) for day in wanted]
            tracks.append(Track(kind, column, unit, tuple(noon)))
    return figures, tracks


def _usual(values: Sequence[float]) -> dict[str, float]:
    if len(values) < 3:
        return {}
    middle = median(values)
    return {"median": middle, "scatter": median(abs(value - middle) for value in values)}


def _one(rows: Sequence[Mapping[str, Any]], column: str, is_mean: bool) -> float | None:
    known = [value for row in rows if (value := _number(row, column)) is not None]
    return None if not known else mean(known) if is_mean else sum(known)


def _number(row: Mapping[str, Any] | None, column: str) -> float | None:
    value = row.get(column) if row else None
    return value if isinstance(value, float) else None


def _day(value: Any) -> date | None:
    return value if isinstance(value, date) else None
