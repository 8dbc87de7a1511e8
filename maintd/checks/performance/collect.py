"""Figures of a window from Prometheus: requests, latency, memory, CPU, alerts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from maintd.checks.alerts.history import fired
from maintd.checks.performance.figures import alert_figures, path_figures, traffic_figures, usage_figures
from maintd.checks.probes import as_target_error
from maintd.checks.prometheus import requests, usage
from maintd.checks.prometheus.promql_window import Window, begins_after, coverage
from maintd.checks.prometheus.requests import Metric
from maintd.checks.prometheus.usage import Use
from maintd.clients.prometheus import Prometheus
from maintd.errors import TargetError
from maintd.job.causes import hint_for
from maintd.job.context import Context
from maintd.reports.figure import Figure, TimeSeries, unmeasured

Collected = tuple[Sequence[Figure], Sequence[TimeSeries]]
_TRAFFIC = ("requests", "errors", "latency p50", "latency p95", "latency p99")
_KINDS = (*_TRAFFIC, "paths", "memory", "cpu", "alerts", "resolution")


def collect_from_prometheus(
    ctx: Context,
    server: Prometheus,
    metric: Metric,
    window: Window,
    *,
    memory: Sequence[str],
    cpu: Sequence[str],
) -> Iterator[Collected]:
    """Query one subject after the other; of one that does not answer, the figures have the cause instead of a value.

    memory, cpu: selectors of a gauge and of a counter; the first one with data is used.
    """
    with ctx.phase("query the time since its first scrape"):
        try:
            with as_target_error(server.name):
                new = begins_after(server, window)
        except TargetError as error:
            ctx.log(f"it is not known since when {server.name} has data: {error}")
            new = False
    if new:
        cause = TargetError(f"no data yet: {server.name} has no scrape until {window.end:%Y-%m-%d}", cause="empty")
        yield _missing(_KINDS, server.name, cause, window, new=True), ()
        return
    use = (("memory", "B", usage.memory, memory), ("cpu", "CPUs", usage.cpu, cpu))
    subjects: list[tuple[str, Sequence[str], str, Callable[[], Collected]]] = [
        (
            "requests, errors and latency",
            _TRAFFIC,
            metric.source,
            lambda: traffic_figures(requests.traffic(server, metric, window), metric, server.name),
        ),
        (
            "the slowest paths",
            ("paths",),
            metric.source,
            lambda: (path_figures(requests.paths(server, metric, window), metric, window, server.name), ()),
        ),
        *(
            (kind, (kind,), " or ".join(selectors), partial(_usage, kind, unit, read, server, selectors, window))
            for kind, unit, read, selectors in use
        ),
        ("alerts", ("alerts", "resolution"), "ALERTS", lambda: (_alerts(server, window), ())),
    ]
    for subject, kinds, source, collect in subjects:
        with ctx.phase(f"query {subject}"):
            try:
                with as_target_error(server.name):
                    collected = collect()
            except TargetError as error:
                collected = _missing(kinds, source, error, window), ()
            yield collected


def _usage(
    kind: str, unit: str, read: Callable[..., list[Use]], server: Prometheus, selectors: Sequence[str], window: Window
) -> Collected:
    return usage_figures(kind, unit, read(server, selectors, window), window)


def _alerts(server: Prometheus, window: Window) -> list[Figure]:
    covered = coverage(server, window)
    return alert_figures(fired(server, window.start, window.end), window, server.name, covered)


def _missing(
    kinds: Sequence[str], source: str, error: TargetError, window: Window, *, new: bool = False
) -> list[Figure]:
    """One figure without a value for each kind, with the error as its cause. new: there are no data yet."""
    since = window.end if new else None
    hint = error.hint or hint_for(error.cause)
    return [
        unmeasured(kind, "all", "", source, error.message, str(window), hint=hint, new_since=since) for kind in kinds
    ]
