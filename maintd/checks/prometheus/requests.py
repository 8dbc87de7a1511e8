"""Requests from a histogram metric: traffic, errors and latency, by hour and by service."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from maintd.checks.prometheus.histograms import Buckets, added
from maintd.checks.prometheus.promql_window import Coverage, Window, aligned, coverage, ranged
from maintd.clients.prometheus import Prometheus
from maintd.errors import TargetError

MAX_PATHS = 500
"""With more values of the path label, latency by path is not queried: the label contains ids."""


@dataclass(frozen=True)
class Metric:
    """The metric of requests. `by` are the labels that identify a service; `errors` is a regex for the status label."""

    name: str = "http_request_duration_seconds"
    selector: str = ""
    by: tuple[str, ...] = ("job", "instance")
    status: str = "status"
    errors: str = "5.."
    path: str = "path"

    @property
    def source(self) -> str:
        """Its name in a report."""
        return f"{self.name}{{{self.selector}}}" if self.selector else self.name


@dataclass(frozen=True)
class Service:
    """The increments of one service in each step; None where Prometheus has no value."""

    name: str
    labels: Mapping[str, str]
    buckets: tuple[Buckets | None, ...]
    requests: tuple[float | None, ...]
    errors: tuple[float | None, ...] | None  # None: no request has the status label


@dataclass(frozen=True)
class Traffic:
    """All services over a window and the window before it, in steps of one hour."""

    window: Window
    before: Window
    services: tuple[Service, ...]
    coverage: Coverage
    coverage_before: Coverage | None


@dataclass(frozen=True)
class Paths:
    """Latency by path over a window. `count` is the number of paths; `buckets` is empty when there are too many."""

    count: int
    buckets: Mapping[str, Buckets]


def traffic(server: Prometheus, metric: Metric, window: Window) -> Traffic:
    """Query the window and the window before it. Raises TargetError when there is no data at all."""
    both = Window(window.before.start, window.end, window.step)
    times = both.times
    by = ", ".join(metric.by)
    total = f"sum by ({by}, {metric.status}) (increase({metric.name}_count{{{metric.selector}}}[$step]))"
    histogram = f"sum by ({by}, le) (increase({metric.name}_bucket{{{metric.selector}}}[$step]))"
    pattern = re.compile(metric.errors)
    counts: dict[tuple[str, ...], list[float | None]] = {}
    errors: dict[tuple[str, ...], list[float | None]] = {}
    labels: dict[tuple[str, ...], dict[str, str]] = {}
    for series in ranged(server, total, both):
        service = tuple(series.labels.get(label, "") for label in metric.by)
        labels[service] = {label: series.labels.get(label, "") for label in metric.by}
        values = aligned(series, times)
        _add(counts.setdefault(service, [None] * len(times)), values)
        status = series.labels.get(metric.status)
        if status is not None:
            of_errors = errors.setdefault(service, [None] * len(times))
            _add(of_errors, values if pattern.fullmatch(status) else [None if v is None else 0.0 for v in values])
    buckets: dict[tuple[str, ...], list[dict[float, float] | None]] = {}
    for series in ranged(server, histogram, both):
        service = tuple(series.labels.get(label, "") for label in metric.by)
        bound = _bound(series.labels.get("le", ""))
        steps = buckets.setdefault(service, [None] * len(times))
        for index, value in enumerate(aligned(series, times)):
            if value is not None:
                steps[index] = {**(steps[index] or {}), bound: value}
    services = tuple(
        Service(
            name=_name(labels[service]),
            labels=labels[service],
            buckets=tuple(buckets.get(service, [None] * len(times))),
            requests=tuple(counts[service]),
            errors=tuple(errors[service]) if service in errors else None,
        )
        for service in sorted(counts)
    )
    return Traffic(window, window.before, services, coverage(server, window), _coverage(server, window.before))


def paths(server: Prometheus, metric: Metric, window: Window) -> Paths:
    """Query latency by path, in steps of a day. Raises TargetError."""
    selector = f"{metric.name}_count{{{metric.selector}}}"
    query = f"count(count by ({metric.path}) (last_over_time({selector}[{_length(window)}])))"
    count = round(server.number(query, window.end))
    if count > MAX_PATHS:
        return Paths(count, {})
    daily = (
        Window(window.start, window.end, timedelta(days=1))
        if window.end - window.start >= timedelta(days=1)
        else window
    )
    histogram = f"sum by ({metric.path}, le) (increase({metric.name}_bucket{{{metric.selector}}}[$step]))"
    found: dict[str, dict[float, float]] = {}
    for series in ranged(server, histogram, daily):
        path, bound = series.labels.get(metric.path, ""), _bound(series.labels.get("le", ""))
        total = sum(value for _, value in series.points)
        of_path = found.setdefault(path, {})
        of_path[bound] = of_path.get(bound, 0.0) + total
    return Paths(count, found)


def whole(service: Service, steps: slice) -> dict[float, float]:
    """Return the histogram of a service over some steps."""
    return added(buckets for buckets in service.buckets[steps] if buckets)


def total(values: Sequence[float | None]) -> float | None:
    """Return the sum of the values; None when all are None."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _add(to: list[float | None], values: Sequence[float | None]) -> None:
    for index, value in enumerate(values):
        if value is not None:
            to[index] = (to[index] or 0.0) + value


def _bound(text: str) -> float:
    return math.inf if text in ("+Inf", "") else float(text)


def _name(labels: Mapping[str, str]) -> str:
    return labels.get("instance") or labels.get("service") or ", ".join(v for v in labels.values() if v) or "all"


def _length(window: Window) -> str:
    return f"{(window.end - window.start).total_seconds():.0f}s"


def _coverage(server: Prometheus, window: Window) -> Coverage | None:
    try:
        return coverage(server, window)
    except TargetError as error:
        if error.cause != "empty":
            raise
        return None
