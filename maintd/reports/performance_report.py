"""The weekly performance report: business metrics, latency, errors, memory, CPU and alerts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from maintd.reports import charts, formatting
from maintd.reports.document import (
    Cell,
    Chart,
    Document,
    Finding,
    Line,
    Mark,
    Section,
    Table,
    columns,
    figure_line,
    number_cell,
    origin,
    poorly_covered,
    value_text,
)
from maintd.reports.figure import Figure, TimeSeries, unmeasured

OPTIMIZATION, CAPACITY = "Performance optimization recommendations", "Capacity planning recommendations"
MONITORING = "Monitoring improvements"
AREAS = (OPTIMIZATION, CAPACITY, MONITORING)
ALL = "all services"
_NO_PROMETHEUS = "no prometheus target is configured; set targets.prometheus"
_METHOD = (
    "The window consists of whole UTC days, without its end; it is compared with the window before.",
    "Latency quantiles come from summed histograms, not from averages of quantiles; ≥ means above the last bucket.",
    "Coverage is the share of expected scrapes that succeeded; a figure with too little coverage is unknown.",
    "Prometheus' increase() does not count the first increment of a counter that appears within the window.",
    "Time to resolution is the time from firing to the end, for alerts with both inside the window.",
    "SQL is read in one read-only snapshot. What could not be measured is shown with its cause, never as zero.",
)


def build(
    figures: Sequence[Figure],
    series: Sequence[TimeSeries],
    findings: Sequence[Finding],
    title: str,
    names: dict[str, str],
    window: str,
    day: datetime,
    now: datetime,
) -> Document:
    """Build the report. title: the heading of the queries' section; names: the titles of the queries."""
    order = {"fail": 0, "unknown": 1, "warn": 2}
    return Document(
        kind="performance",
        title=f"Weekly Performance Report - {day:%Y-%m-%d}",
        subtitle=f"{window} (UTC)",
        made_at=now,
        headlines=_headlines(figures),
        sections=(
            _changes(figures),
            _queries(figures, series, title, names),
            _system(figures, series),
            _alerts(figures),
        ),
        findings=_grouped(sorted(findings, key=lambda finding: order.get(finding.mark, 3))),
        areas=AREAS,
        method=_METHOD,
        data={"figures": [_data(figure) for figure in figures]},
    )


def _grouped(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Combine findings that differ only in their subject, so that one cause is one line."""
    groups: dict[tuple[Mark, str, str, str], list[str]] = {}
    for finding in findings:
        groups.setdefault((finding.mark, finding.area, finding.meaning, finding.command), []).append(finding.subject)
    return tuple(
        Finding(mark, area, ", ".join(subjects), meaning, command)
        for (mark, area, meaning, command), subjects in groups.items()
    )


def _of(figures: Iterable[Figure], *kinds: str) -> list[Figure]:
    return [figure for kind in kinds for figure in figures if figure.kind == kind]


def _one(figures: Sequence[Figure], kind: str, name: str, unit: str = "") -> Figure:
    """Return that figure, or one without a value and with the cause."""
    found = next((figure for figure in figures if figure.kind == kind and figure.name == name), None)
    if found is not None:
        return found
    causes = [figure.cause_and_hint for figure in figures if figure.kind == kind and figure.cause]
    asked = any(not figure.kind.startswith("query ") for figure in figures)
    cause = causes[0] if causes else "no value in this window" if asked else _NO_PROMETHEUS
    return unmeasured(kind, name, unit, "prometheus", cause)


def _headlines(figures: Sequence[Figure]) -> tuple[Line, ...]:
    wanted = (
        ("Latency (P95)", _one(figures, "latency p95", ALL, "s")),
        ("Error rate", _one(figures, "errors", ALL, "%")),
        ("Requests", _one(figures, "requests", ALL)),
        ("Alerts", _one(figures, "alerts", "all")),
    )
    return tuple(_with_change(label, figure) for label, figure in wanted)


def _with_change(label: str, figure: Figure) -> Line:
    line = figure_line(label, figure, "unknown" if poorly_covered(figure) else "")
    change = _change(figure)
    coverage = "" if figure.coverage is None else f"{formatting.share(figure.coverage)} coverage"
    return replace(line, origin="; ".join(filter(None, (change, coverage))) or line.origin)


def _change(figure: Figure) -> str:
    """Format as `+12 % on the week before (85 ms)`; empty when the week before is not known."""
    if figure.before is None or figure.value is None:
        return ""
    was = formatting.amount(figure.before, figure.unit)
    if abs(figure.value - figure.before) <= 0.001 * abs(figure.before):
        return f"same as the week before ({was})"
    if figure.before == 0:
        return f"{was} in the week before"
    return f"{formatting.signed(100 * (figure.value / figure.before - 1), '%')} on the week before ({was})"


def _changes(figures: Sequence[Figure]) -> Section:
    """The largest relative changes against the week before, largest first."""
    known = [figure for figure in figures if figure.before and figure.value is not None and not poorly_covered(figure)]
    changed = sorted(known, key=lambda figure: -abs((figure.value or 0) / (figure.before or 1) - 1))[:10]
    rows = [
        (
            Cell(f"{figure.kind} of {figure.name}"),
            Cell(value_text(figure), figure.value),
            number_cell(figure.before, figure.unit),
            Cell(
                formatting.signed(100 * ((figure.value or 0) / (figure.before or 1) - 1), "%"),
                100 * ((figure.value or 0) / (figure.before or 1) - 1),
            ),
            Cell(origin(figure)),
        )
        for figure in changed
    ]
    heads = columns("what", "this week>", "week before>", "change>", "origin")
    empty = "no comparison: the week before has no data, or too little coverage"
    return Section("Against the week before", tables=(Table("Largest changes", heads, tuple(rows), empty),))


def _queries(figures: Sequence[Figure], series: Sequence[TimeSeries], title: str, names: dict[str, str]) -> Section:
    if not names:
        cause = "no query is configured; set the param queries of this job"
        return Section(title, (figure_line("Queries", unmeasured("query", "", "", "postgres", cause)),))
    lines, drawn, tables = [], [], []
    for name, text in names.items():
        own = _of(figures, f"query {name}")
        for figure in own:
            label = f"{text}: {_words(figure.name)}" if figure.value is not None else text
            line = figure_line(label, figure)
            change = _change(figure)
            lines.append(replace(line, origin="; ".join(filter(None, (change, line.origin)))))
        of_days = [one for one in series if one.kind == f"query {name}"]
        if of_days:
            tables.append(_by_day(text, of_days))
            drawn += [_bars(text, one) for one in of_days[:2]]
    return Section(title, tuple(lines), _charts(drawn), tuple(tables))


def _by_day(title: str, series: Sequence[TimeSeries]) -> Table:
    rows = []
    for index, (at, _) in enumerate(series[0].points):
        cells = [number_cell(one.points[index][1], one.unit, missing="no data") for one in series]
        rows.append((Cell(f"{at:%a %Y-%m-%d}"), *cells))
    return Table(f"{title} by day", columns("day", *(f"{_words(one.name)}>" for one in series)), tuple(rows))


def _bars(title: str, one: TimeSeries) -> Chart:
    name = f"{title}: {_words(one.name)}"
    known = [value for _, value in one.points if value is not None]
    words = f"{len(known)} of {len(one.points)} days have data"
    items = [(f"{at:%a} {at.day}", value) for at, value in one.points]
    return Chart(name, charts.bars(items, one.unit, alt=f"{name}: {words}"), words)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _system(figures: Sequence[Figure], series: Sequence[TimeSeries]) -> Section:
    lines = [
        figure_line("Average API Latency (P95)", _one(figures, "latency p95", ALL, "s")),
        figure_line("Error Rate", _one(figures, "errors", ALL, "%")),
        _summed("Average Memory Usage", _of(figures, "memory"), "B"),
        _summed("Average CPU Usage", _of(figures, "cpu"), "CPUs"),
    ]
    drawn = [
        _lines("Latency of all services by hour", [t for t in series if t.kind == "latency"]),
        _lines("Requests by hour", _largest(series, "requests")),
        _lines("P95 by service", _largest(series, "latency by service")),
        _lines("Failed requests by hour", [one for one in series if one.kind == "errors"]),
        _lines("Memory", _largest(series, "memory")),
        _lines("CPU", _largest(series, "cpu")),
    ]
    tables = (
        _services(figures),
        _paths(figures),
        _use("Memory", _of(figures, "memory"), value_text(_one(figures, "memory", "all"))),
        _use("CPU", _of(figures, "cpu"), value_text(_one(figures, "cpu", "all"))),
    )
    return Section("System Performance", tuple(lines), _charts(drawn), tables)


def _largest(series: Sequence[TimeSeries], kind: str, most: int = 6) -> list[TimeSeries]:
    def size(one: TimeSeries) -> float:
        return max((value for _, value in one.points if value is not None), default=0.0)

    return sorted((one for one in series if one.kind == kind), key=size, reverse=True)[:most]


def _lines(title: str, series: Sequence[TimeSeries]) -> Chart | None:
    known = [one for one in series if sum(value is not None for _, value in one.points) > 1]
    if not known:
        return None
    unit = known[0].unit
    tops = [(one.name, max(value for _, value in one.points if value is not None)) for one in known]
    words = "maximum: " + ", ".join(f"{name} {formatting.amount(top, unit)}" for name, top in tops)
    traces = [charts.Trace(one.name, one.points) for one in known]
    return Chart(title, charts.lines(traces, unit, alt=f"{title}: {words}"), words)


def _summed(label: str, figures: Sequence[Figure], unit: str) -> Line:
    known = [figure for figure in figures if figure.value is not None]
    if not known:
        return figure_line(label, _one(figures, figures[0].kind if figures else "", "all", unit))
    sum_of = sum(figure.value or 0.0 for figure in known)
    missing = len(figures) - len(known)
    where = f"sum of {len(known)}{f', {missing} not measured' if missing else ''}; {origin(known[0])}"
    mark: Mark = "unknown" if missing else ""
    return Line(label, formatting.amount(sum_of, unit), where, sum_of, unit, mark)


def _services(figures: Sequence[Figure]) -> Table:
    rows = []
    for figure in _of(figures, "requests"):
        others = [_one(figures, kind, figure.name) for kind in ("errors", "latency p50", "latency p95", "latency p99")]
        cells = [_shown(other) for other in (figure, *others)]
        covered = Cell(formatting.share(figure.coverage), figure.coverage, "unknown" if poorly_covered(figure) else "")
        change = _change(others[2])
        rows.append(
            (Cell(figure.name), *cells, Cell(change or "–"), covered, Cell(f"{figure.source}; {figure.window}"))
        )
    heads = columns("service", "requests>", "errors>", "p50>", "p95>", "p99>", "p95 change", "coverage>", "origin")
    return Table("Services", heads, tuple(rows), value_text(_one(figures, "requests", ALL)))


def _shown(figure: Figure) -> Cell:
    return Cell(value_text(figure), figure.value, "unknown" if figure.value is None else "")


def _paths(figures: Sequence[Figure]) -> Table:
    rows = [
        (
            Cell(figure.name),
            number_cell(figure.details.get("requests"), ""),
            number_cell(figure.details.get("p50"), "s"),
            _shown(figure),
            number_cell(figure.details.get("p99"), "s"),
            Cell(origin(figure)),
        )
        for figure in _of(figures, "slow path")
    ]
    heads = columns("path", "requests>", "p50>", "p95>", "p99>", "origin")
    counted = _one(figures, "paths", "paths")
    empty = (
        value_text(counted)
        if counted.value is None
        else f"{value_text(counted)} paths: none with 20 requests, or too many"
    )
    return Table("Slowest paths", heads, tuple(rows), empty)


def _use(title: str, figures: Sequence[Figure], empty: str) -> Table:
    rows = [
        (
            Cell(figure.name),
            _shown(figure),
            number_cell(figure.details.get("p95"), figure.unit),
            number_cell(figure.details.get("peak"), figure.unit),
            Cell(origin(figure)),
        )
        for figure in figures
    ]
    heads = columns("what", "average>", "p95 of hours>", "peak>", "origin")
    return Table(title, heads, tuple(rows), empty)


def _alerts(figures: Sequence[Figure]) -> Section:
    lines = (
        figure_line("Total Alerts", _one(figures, "alerts", "all")),
        figure_line("Critical Alerts", _one(figures, "alerts", "critical")),
        figure_line("Mean Time to Resolution", _one(figures, "resolution", "mean", "s")),
    )
    rows = []
    for figure in _of(figures, "alert"):
        severity = figure.labels.get("severity") or "–"
        seconds, still = figure.details["seconds"], figure.details["open"]
        rows.append(
            (
                Cell(figure.name),
                Cell(severity),
                number_cell(figure.value, ""),
                number_cell(seconds, "s"),
                number_cell(figure.details.get("resolution"), "s"),
                number_cell(still, "", "warn" if still else ""),
                Cell(origin(figure)),
            )
        )
    heads = columns("alert", "severity", "fired>", "for>", "mean time to resolution>", "still firing>", "origin")
    total = _one(figures, "alerts", "all")
    empty = "no alert fired in this window" if total.value == 0 else value_text(total)
    return Section("Alerts Summary", lines, tables=(Table("Alerts", heads, tuple(rows), empty),))


def _charts(found: Iterable[Chart | None]) -> tuple[Chart, ...]:
    return tuple(chart for chart in found if chart is not None and chart.svg)


def _data(figure: Figure) -> dict[str, object]:
    return {
        "kind": figure.kind,
        "name": figure.name,
        "value": figure.value,
        "unit": figure.unit,
        "before": figure.before,
        "at_least": figure.at_least,
        "source": figure.source,
        "window": figure.window,
        "coverage": figure.coverage,
        "cause": figure.cause,
        "hint": figure.hint,
        "labels": dict(figure.labels),
        "details": dict(figure.details),
    }
