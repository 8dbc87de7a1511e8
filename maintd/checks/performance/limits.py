"""What was too slow, failed too often, changed too much or could not be seen; with the next command for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from maintd.checks.assessment import Assessment
from maintd.job.criterion import Criterion
from maintd.reports import formats
from maintd.reports.document import low
from maintd.reports.figure import Figure, Track
from maintd.reports.forecast import slope_interval

OPTIMIZATION, CAPACITY = "Performance optimization recommendations", "Capacity planning recommendations"
MONITORING = "Monitoring improvements"
_LEAK_HOURS = 72  # since the start; before, caches fill
_LEAK_PERCENT = 1.0  # of its mean, a day
_WORSE = 1.5  # times last week's p95, and …
_WORSE_SECONDS = 0.05  # … at least this much slower: from 2 to 4 ms is no finding
_UNUSUAL = 5.0  # scatters away from the median of the weeks before
_OF_PROMETHEUS = ("requests", "errors", "latency p50", "latency p95", "latency p99", "memory", "cpu", "alerts")
_FLAPS = 5  # times that the same alert fired


@dataclass(frozen=True)
class Limits:
    """What the job's params say. Percentages of 100."""

    latency_warn: float
    latency_fail: float
    errors_warn: float
    errors_fail: float
    coverage: float


def assess(figures: Sequence[Figure], tracks: Sequence[Track], limits: Limits) -> Iterator[Assessment]:
    """Every figure against its limits. What was seen too little of is not known, whatever its number says."""
    days_told: set[str] = set()
    for figure in figures:
        if figure.value is None:
            if figure.kind != "resolution" and not figure.cause.startswith("no requests"):
                yield _unknown(figure, figure.cause)
        elif figure.kind in _OF_PROMETHEUS and low(figure, limits.coverage / 100):
            # One line for each service: what is said of its requests holds for its errors and latency.
            if figure.kind in ("requests", "memory", "cpu") or (figure.kind, figure.name) == ("alerts", "all"):
                seen = formats.share(figure.coverage)
                yield _unknown(figure, f"only {seen} of its window was seen, {limits.coverage:g} % are needed")
        elif figure.kind == "latency p95":
            yield from _latency(figure, limits)
        elif figure.kind == "errors":
            yield _errors(figure, limits)
        elif figure.kind == "memory":
            yield from _leak(figure, tracks)
        elif figure.kind == "paths" and figure.value > 500:
            says = f"{figure.value:.0f} values of the path label: it holds ids; label requests by their route instead"
            yield Assessment(MONITORING, "paths", Criterion("paths", figure.value, warn_above=500), says)
        elif figure.kind == "alert" and figure.value >= _FLAPS:
            says = f"fired {figure.value:.0f} times: let it wait longer (its `for`), or cure what it tells"
            fired = Criterion(f"alert {figure.name} fired", figure.value, warn_above=_FLAPS - 1)
            yield Assessment(MONITORING, figure.name, fired, says)
        elif figure.kind == "alerts" and figure.name == "critical":
            says = f"fired: {figure.value:.0f}; see the table of alerts"
            critical = Criterion("critical alerts", figure.value, warn_above=0)
            yield Assessment(OPTIMIZATION, "critical alerts", critical, says)
        elif figure.kind.startswith("query "):
            yield from _query(figure, days=figure.kind not in days_told)
            days_told.add(figure.kind)


def _unknown(figure: Figure, cause: str) -> Assessment:
    subject = f"{figure.kind} of {figure.name}"
    of_sql = figure.kind.startswith("query ")
    says = "correct the query or its needs" if of_sql else "see whether its targets are scraped and answer: /targets"
    return Assessment(MONITORING, subject, Criterion(subject, unknown=cause), says)


def _latency(figure: Figure, limits: Limits) -> Iterator[Assessment]:
    value = figure.value or 0.0
    more = "more than " if figure.at_least else ""
    yield Assessment(
        OPTIMIZATION,
        figure.name,
        Criterion(
            f"latency p95 of {figure.name}",
            value * (1.0001 if figure.at_least else 1),  # above its bucket's bound, as far as is known
            unit="s",
            at_most=limits.latency_fail,
            warn_above=limits.latency_warn,
        ),
        meaning=f"its p95 is {more}{formats.amount(value, 's')}; see the slowest paths",
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
            meaning=f"p95 went from {formats.amount(figure.before, 's')} to {more}{formats.amount(value, 's')}",
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
        meaning=f"{formats.amount(value, '%')} of requests failed",
        command=f"docker logs --since 24h {figure.name.partition(':')[0]}",
    )


def _leak(figure: Figure, tracks: Sequence[Track]) -> Iterator[Assessment]:
    """Growth since the last start that is certain (95 %) and of more than 1 % of the mean a day."""
    hours = int(figure.details.get("hours since start", 0))
    own = next((track for track in tracks if track.kind == "memory" and track.name == figure.name), None)
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
            meaning=f"its memory grows by {formats.amount(slope, 'B')} a day since its last start: a leak, or a cache",
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
            meaning=f"only {formats.share(figure.coverage)} of the days have data: was its source down on the others?",
        )
    if "median" in figure.details:
        usual = figure.details["median"]
        # Four weeks that were nearly the same must not make the fifth unusual by a hair.
        scatter = max(figure.details["scatter"], 0.02 * abs(usual), 1e-9)
        yield Assessment(
            OPTIMIZATION,
            title,
            Criterion(
                f"{title} against earlier weeks",
                round(abs(value - usual) / (1.4826 * scatter), 1),
                unit="scatters",
                warn_above=_UNUSUAL,
            ),
            meaning=f"{formats.amount(value, figure.unit)}, where {formats.amount(usual, figure.unit)} is usual",
        )
