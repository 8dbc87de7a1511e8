"""Evaluation of a week's performance: latency, errors, memory growth, alerts, and changes of the database's numbers."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from maintd.checks.assessment import Assessment
from maintd.job.criterion import Criterion
from maintd.reports import formatting
from maintd.reports.document import poorly_covered
from maintd.reports.figure import Figure, TimeSeries
from maintd.reports.forecast import slope_interval
from maintd.reports.performance_report import ALL, CAPACITY, MONITORING, OPTIMIZATION

_LEAK_HOURS = 72  # after the start; before that, caches fill
_LEAK_PERCENT = 1.0  # of the mean, a day
_WORSE = 1.5  # times last week's p95, and …
_WORSE_SECONDS = 0.05  # … at least this much slower: from 2 ms to 4 ms is not a finding
_UNUSUAL = 5.0  # scaled median absolute deviations away from the median of the earlier weeks
_FROM_PROMETHEUS = ("requests", "errors", "latency p50", "latency p95", "latency p99", "memory", "cpu", "alerts")
_FLAPS = 5  # times that the same alert fired


@dataclass(frozen=True)
class Limits:
    """Limits from the job's params: seconds for latency, percent for errors and coverage."""

    latency_warn: float
    latency_fail: float
    errors_warn: float
    errors_fail: float
    coverage: float


def evaluate(figures: Sequence[Figure], series: Sequence[TimeSeries], limits: Limits) -> Iterator[Assessment]:
    """Compare every figure with its limits. A figure with too little coverage is unknown, whatever its value."""
    queries: set[str] = set()
    for figure in figures:
        poorly = figure.kind in _FROM_PROMETHEUS and poorly_covered(figure, limits.coverage / 100)
        # One assessment for each service: errors and latency have the coverage of its requests.
        if poorly and (figure.kind in ("requests", "memory", "cpu") or (figure.kind, figure.name) == ("alerts", "all")):
            coverage = formatting.share(figure.coverage)
            yield _unknown(figure, f"only {coverage} of its window is covered, {limits.coverage:g} % are needed")
        if figure.value is None:
            of_latency = figure.kind in ("latency p50", "latency p99")  # shown, and not checked
            if figure.kind != "resolution" and not of_latency and not figure.cause.startswith("no requests"):
                yield _unknown(figure, figure.cause)
        elif poorly and figure.new_since is None:
            continue
        elif figure.kind == "latency p95":
            yield from _latency(figure, limits)
        elif figure.kind == "errors":
            yield _errors(figure, limits)
        elif figure.kind == "memory":
            yield from _leak(figure, series)
        elif figure.kind == "paths" and figure.value > 500:
            meaning = f"the path label has {figure.value:.0f} values: it contains ids; label requests by route instead"
            yield Assessment(MONITORING, "paths", Criterion("paths", figure.value, warn_above=500), meaning)
        elif figure.kind == "alert" and figure.value >= _FLAPS:
            meaning = f"fired {figure.value:.0f} times: raise its `for`, or fix the cause"
            fired = Criterion(f"alert {figure.name} fired", figure.value, warn_above=_FLAPS - 1)
            yield Assessment(MONITORING, figure.name, fired, meaning)
        elif figure.kind == "alerts" and figure.name == "critical":
            meaning = f"{figure.value:.0f} fired; see the table of alerts"
            critical = Criterion("critical alerts", figure.value, warn_above=0)
            yield Assessment(OPTIMIZATION, "critical alerts", critical, meaning)
        elif figure.kind.startswith("query "):
            yield from _query(figure, days=figure.kind not in queries)
            queries.add(figure.kind)


def _unknown(figure: Figure, cause: str) -> Assessment:
    subject = f"{figure.kind} of {figure.name}"
    if figure.new_since is not None:
        more = "" if figure.value is None else f"new since {figure.new_since:%Y-%m-%d %H:%M}: "
        return Assessment(MONITORING, subject, Criterion(subject, unknown=more + cause, optional=True))
    meaning = figure.hint or "check on /targets of Prometheus that its targets are up"
    return Assessment(MONITORING, subject, Criterion(subject, unknown=cause), meaning)


def _latency(figure: Figure, limits: Limits) -> Iterator[Assessment]:
    value = figure.value or 0.0
    more = "more than " if figure.at_least else ""
    yield Assessment(
        OPTIMIZATION,
        figure.name,
        Criterion(
            f"latency p95 of {figure.name}",
            value * (1.0001 if figure.at_least else 1),  # above the highest bucket: more than its bound
            unit="s",
            at_most=limits.latency_fail,
            warn_above=limits.latency_warn,
        ),
        meaning=f"its p95 is {more}{formatting.amount(value, 's')}; see the slowest paths",
    )
    if figure.before is not None and value - figure.before > _WORSE_SECONDS:
        yield Assessment(
            OPTIMIZATION,
            figure.name,
            Criterion(
                f"latency p95 of {figure.name} against the week before",
                round(100 * value / figure.before, 1) if figure.before else 1000.0,
                unit="%",
                warn_above=100 * _WORSE,
            ),
            meaning=f"its p95 rose from {formatting.amount(figure.before, 's')} to "
            f"{more}{formatting.amount(value, 's')}",
            command="maintd history",
        )


def _errors(figure: Figure, limits: Limits) -> Assessment:
    value = figure.value or 0.0
    return Assessment(
        OPTIMIZATION,
        figure.name,
        Criterion(
            f"errors of {figure.name}",
            round(value, 3),
            unit="%",
            at_most=limits.errors_fail,
            warn_above=limits.errors_warn,
        ),
        meaning=f"{formatting.amount(value, '%')} of requests failed",
        command="" if figure.name == ALL else f"docker logs --since 24h {shlex.quote(figure.name.partition(':')[0])}",
    )


def _leak(figure: Figure, series: Sequence[TimeSeries]) -> Iterator[Assessment]:
    """Memory that grows since the last start with 95 % confidence; more than 1 % of its mean a day warns."""
    hours = int(figure.details.get("hours since start", 0))
    own = next((one for one in series if one.kind == "memory" and one.name == figure.name), None)
    if own is None or hours < _LEAK_HOURS or not figure.value:
        return
    known = [(at.timestamp() / 86400, value) for at, value in own.points[-hours:] if value is not None]
    if len(known) < _LEAK_HOURS:
        return
    low, slope, _ = slope_interval([at for at, _ in known], [value for _, value in known], block=24)
    percent = 100 * slope / figure.value
    if low > 0:
        yield Assessment(
            CAPACITY,
            figure.name,
            Criterion(f"memory growth of {figure.name}", round(percent, 2), unit="% a day", warn_above=_LEAK_PERCENT),
            meaning=f"its memory has grown by {formatting.amount(slope, 'B')} a day since its last start: "
            "a leak, or a growing cache",
            command="docker stats --no-stream",
        )


def _query(figure: Figure, *, days: bool) -> Iterator[Assessment]:
    query = figure.kind.removeprefix("query ")
    value, title = figure.value or 0.0, f"{query} {figure.name}"
    if days and figure.coverage is not None and figure.coverage < 1:
        yield Assessment(
            MONITORING,
            query,
            Criterion(f"days of {query}", round(100 * figure.coverage, 1), unit="%", warn_below=100),
            meaning=f"only {formatting.share(figure.coverage)} of the days have data: "
            "check whether its source was down on the others",
        )
    if "median" in figure.details:
        typical = figure.details["median"]
        # With four nearly equal weeks the scatter is tiny, and a small change would count as unusual.
        scatter = max(figure.details["scatter"], 0.02 * abs(typical), 1e-9)
        yield Assessment(
            OPTIMIZATION,
            title,
            Criterion(
                f"{title} against earlier weeks",
                round(abs(value - typical) / (1.4826 * scatter), 1),
                unit="σ",
                warn_above=_UNUSUAL,
            ),
            meaning=f"{formatting.amount(value, figure.unit)}; {formatting.amount(typical, figure.unit)} is typical",
        )
