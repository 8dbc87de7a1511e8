"""Capacity figures from Prometheus: memory of containers or processes, and requests per second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from statistics import mean

from maintd.checks.prometheus.promql_window import (
    Coverage,
    Window,
    aligned,
    begins_after,
    coverage,
    first_with_data,
    names_of,
    ranged,
)
from maintd.clients.prometheus import Prometheus, Series, connect
from maintd.errors import TargetError
from maintd.model.target import PrometheusTarget
from maintd.reports.figure import Figure, unmeasured

_KINDS = ("memory use", "requests")


def figures(
    target: PrometheusTarget,
    name: str,
    *,
    now: datetime,
    days: int,
    memory: Sequence[str],
    requests: str,
    patience: timedelta,
) -> Iterator[Figure]:
    """Yield average, p95 and peak of each series over the last `days`.

    memory: gauges, of which the first with data is used. requests: a query of requests per second.
    """
    server = connect(target, name=name, timeout=patience)
    end = now.replace(minute=0, second=0, microsecond=0)
    window = Window(end - timedelta(days=days), end)
    try:
        covered = coverage(server, window)
    except TargetError as error:
        new_since = end if error.cause == "empty" and begins_after(server, window) else None
        cause = f"no data yet: {name} has no scrape until {end:%Y-%m-%d %H:%M}" if new_since else str(error)
        for kind in _KINDS:
            unit = "B" if kind == "memory use" else "/s"
            yield unmeasured(kind, name, unit, name, cause, str(window), new_since=new_since)
        return
    yield from _memory(server, memory, window, covered)
    yield from _requests(server, requests, window, covered)


def _memory(server: Prometheus, selectors: Sequence[str], window: Window, covered: Coverage) -> Iterator[Figure]:
    try:
        selector, averages = first_with_data(server, selectors, lambda s: f"avg_over_time({s}[$step])", window)
        peaks = {frozenset(s.labels.items()): s for s in ranged(server, f"max_over_time({selector}[$step])", window)}
    except TargetError as error:
        yield unmeasured("memory use", server.name, "B", server.name, str(error), str(window))
        return
    for name, series in zip(names_of(averages), averages, strict=True):
        highest = peaks.get(frozenset(series.labels.items()), series)
        yield _over_time("memory use", name, "B", f"{selector} in {server.name}", series, highest, window, covered)


def _requests(server: Prometheus, promql: str, window: Window, covered: Coverage) -> Iterator[Figure]:
    try:
        found = ranged(server, promql, window)
    except TargetError as error:
        yield unmeasured("requests", server.name, "/s", server.name, str(error), str(window))
        return
    for name, series in zip(names_of(found), found, strict=True):
        yield _over_time("requests", name, "/s", f"{promql} in {server.name}", series, series, window, covered)


def _over_time(
    kind: str, name: str, unit: str, source: str, series: Series, highest: Series, window: Window, covered: Coverage
) -> Figure:
    values = sorted(value for value in aligned(series, window.times) if value is not None)
    if not values:
        return unmeasured(kind, name, unit, source, "no value at the end of any hour", str(window))
    return Figure(
        kind,
        name,
        mean(values),
        unit,
        source,
        str(window),
        coverage=covered.of(series.labels),
        details={
            "p95": values[min(len(values) - 1, round(0.95 * (len(values) - 1)))],
            "peak": max(value for _, value in highest.points),
        },
    )
