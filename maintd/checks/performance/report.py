"""The weekly performance report: what the business did, how fast and how reliably, what it used, and what fired."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from maintd.checks.assessment import Assessment
from maintd.checks.performance.limits import CAPACITY, MONITORING, OPTIMIZATION
from maintd.model.evidence import CheckStatus
from maintd.reports import charts, formats
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
    low,
    number,
    origin,
    told,
)
from maintd.reports.document import line as stated
from maintd.reports.figure import Figure, Track, unmeasured

AREAS = (OPTIMIZATION, CAPACITY, MONITORING)
ALL = "all services"
_METHOD = (
    "The window is half open and made of whole UTC days; it is compared with the one just before.",
    "Latency is read from the sum of all histogram increments, not from means of quantiles; ≥ is over the last bucket.",
    "Seen is the share of successful scrapes that should have been; below the limit a figure is called not known.",
    "The first increment of a counter that appears during the window is not seen by Prometheus' increase().",
    "An alert's time to resolution is from its firing to its end, for alerts that did both within the window.",
    "SQL was read in one read-only snapshot. What could not be measured is told with its cause, never as zero.",
)


def build(
    figures: Sequence[Figure],
    tracks: Sequence[Track],
    assessments: Sequence[Assessment],
    title: str,
    names: dict[str, str],
    window: str,
    day: datetime,
    now: datetime,
) -> Document:
    """The whole report. `title` heads what the database says, `names` are the titles of its queries."""
    findings = [item.finding for item in assessments if item.status is not CheckStatus.OK]
    order = {"fail": 0, "unknown": 1, "warn": 2}
    return Document(
        kind="performance",
        title=f"Weekly Performance Report - {day:%Y-%m-%d}",
        subtitle=f"{window} (UTC)",
        made_at=now,
        headlines=_headlines(figures),
        sections=(
            _changes(figures),
            _queries(figures, tracks, title, names),
            _system(figures, tracks),
            _alerts(figures),
        ),
        findings=_grouped(sorted(findings, key=lambda finding: order.get(finding.mark, 3))),
        areas=AREAS,
        method=_METHOD,
        data={"figures": [_data(figure) for figure in figures]},
    )


def _grouped(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Those that say the same of several subjects as one, so that one cause is one line."""
    groups: dict[tuple[Mark, str, str, str], list[str]] = {}
    for finding in findings:
        groups.setdefault((finding.mark, finding.area, finding.says, finding.command), []).append(finding.subject)
    return tuple(
        Finding(mark, area, ", ".join(subjects), says, command)
        for (mark, area, says, command), subjects in groups.items()
    )


def _of(figures: Iterable[Figure], *kinds: str) -> list[Figure]:
    return [figure for kind in kinds for figure in figures if figure.kind == kind]


def _one(figures: Sequence[Figure], kind: str, name: str, unit: str = "") -> Figure:
    """That figure, or one that says what its kind lacks."""
    found = next((figure for figure in figures if figure.kind == kind and figure.name == name), None)
    if found is not None:
        return found
    cause = next((figure.cause for figure in figures if figure.kind == kind and figure.cause), "")
    lacking = cause or "no prometheus target is configured; set targets.prometheus"
    return unmeasured(kind, name, unit, "prometheus", lacking)


def _headlines(figures: Sequence[Figure]) -> tuple[Line, ...]:
    wanted = (
        ("Latency (P95)", _one(figures, "latency p95", ALL, "s")),
        ("Error rate", _one(figures, "errors", ALL, "%")),
        ("Requests", _one(figures, "requests", ALL)),
        ("Alerts", _one(figures, "alerts", "all")),
    )
    return tuple(_with_change(label, figure) for label, figure in wanted)


def _with_change(label: str, figure: Figure) -> Line:
    made = stated(label, figure, "unknown" if low(figure) else "")
    change = _change(figure)
    seen = "" if figure.coverage is None else f"{formats.share(figure.coverage)} of the window seen"
    return replace(made, origin="; ".join(filter(None, (change, seen))) or made.origin)


def _change(figure: Figure) -> str:
    """`+12 % on the week before (85 ms)`; empty when that is not known."""
    if figure.before is None or figure.value is None:
        return ""
    was = formats.amount(figure.before, figure.unit)
    if abs(figure.value - figure.before) <= 0.001 * abs(figure.before):
        return f"as in the week before ({was})"
    if figure.before == 0:
        return f"was {was} in the week before"
    return f"{formats.signed(100 * (figure.value / figure.before - 1), '%')} on the week before ({was})"


def _changes(figures: Sequence[Figure]) -> Section:
    """What moved most against the week before, first."""
    known = [figure for figure in figures if figure.before and figure.value is not None and not low(figure)]
    moved = sorted(known, key=lambda figure: -abs((figure.value or 0) / (figure.before or 1) - 1))[:10]
    rows = [
        (
            Cell(f"{figure.kind} of {figure.name}"),
            Cell(told(figure), figure.value),
            number(figure.before, figure.unit),
            Cell(
                formats.signed(100 * ((figure.value or 0) / (figure.before or 1) - 1), "%"),
                100 * ((figure.value or 0) / (figure.before or 1) - 1),
            ),
            Cell(origin(figure)),
        )
        for figure in moved
    ]
    heads = columns("what", "this week>", "week before>", "change>", "origin")
    empty = "nothing to compare with: the week before was not seen, or not enough of it"
    return Section("Against the week before", tables=(Table("What moved most", heads, tuple(rows), empty),))


def _queries(figures: Sequence[Figure], tracks: Sequence[Track], title: str, names: dict[str, str]) -> Section:
    if not names:
        cause = "no query is configured; set the param queries of this job"
        return Section(title, (stated("Queries", unmeasured("query", "", "", "postgres", cause)),))
    lines, drawn, tables = [], [], []
    for name, text in names.items():
        own = _of(figures, f"query {name}")
        for figure in own:
            label = f"{text}: {_words(figure.name)}" if figure.value is not None else text
            made = stated(label, figure)
            change = _change(figure)
            lines.append(replace(made, origin="; ".join(filter(None, (change, made.origin)))))
        of_days = [track for track in tracks if track.kind == f"query {name}"]
        if of_days:
            tables.append(_by_day(text, of_days))
            drawn += [_bars(text, track) for track in of_days[:2]]
    return Section(title, tuple(lines), _drawn(drawn), tuple(tables))


def _by_day(title: str, tracks: Sequence[Track]) -> Table:
    rows = []
    for index, (at, _) in enumerate(tracks[0].points):
        cells = [number(track.points[index][1], track.unit, missing="no data") for track in tracks]
        rows.append((Cell(f"{at:%a %Y-%m-%d}"), *cells))
    return Table(f"{title} by day", columns("day", *(f"{_words(track.name)}>" for track in tracks)), tuple(rows))


def _bars(title: str, track: Track) -> Chart:
    name = f"{title}: {_words(track.name)}"
    known = [value for _, value in track.points if value is not None]
    words = f"{len(known)} of {len(track.points)} days have data"
    items = [(f"{at:%a} {at.day}", value) for at, value in track.points]
    return Chart(name, charts.bars(items, track.unit, told=f"{name}: {words}"), words)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _system(figures: Sequence[Figure], tracks: Sequence[Track]) -> Section:
    lines = [
        stated("Average API Latency (P95)", _one(figures, "latency p95", ALL, "s")),
        stated("Error Rate", _one(figures, "errors", ALL, "%")),
        _summed("Average Memory Usage", _of(figures, "memory"), "B"),
        _summed("Average CPU Usage", _of(figures, "cpu"), "CPUs"),
    ]
    drawn = [
        _lines("Latency of all services by hour", [t for t in tracks if t.kind == "latency"]),
        _lines("Requests by hour", _largest(tracks, "requests")),
        _lines("P95 by service", _largest(tracks, "latency by service")),
        _lines("Failed requests by hour", [track for track in tracks if track.kind == "errors"]),
        _lines("Memory", _largest(tracks, "memory")),
        _lines("CPU", _largest(tracks, "cpu")),
    ]
    tables = (
        _services(figures),
        _paths(figures),
        _use("Memory", _of(figures, "memory")),
        _use("CPU", _of(figures, "cpu")),
    )
    return Section("System Performance", tuple(lines), _drawn(drawn), tables)


def _largest(tracks: Sequence[Track], kind: str, most: int = 6) -> list[Track]:
    def size(track: Track) -> float:
        return max((value for _, value in track.points if value is not None), default=0.0)

    return sorted((track for track in tracks if track.kind == kind), key=size, reverse=True)[:most]


def _lines(title: str, tracks: Sequence[Track]) -> Chart | None:
    known = [track for track in tracks if sum(value is not None for _, value in track.points) > 1]
    if not known:
        return None
    unit = known[0].unit
    tops = [(track.name, max(value for _, value in track.points if value is not None)) for track in known]
    words = "at most " + ", ".join(f"{name} {formats.amount(top, unit)}" for name, top in tops)
    traces = [charts.Trace(track.name, track.points) for track in known]
    return Chart(title, charts.lines(traces, unit, told=f"{title}: {words}"), words)


def _summed(label: str, figures: Sequence[Figure], unit: str) -> Line:
    known = [figure for figure in figures if figure.value is not None]
    if not known:
        return stated(label, _one(figures, figures[0].kind if figures else "", "all", unit))
    sum_of = sum(figure.value or 0.0 for figure in known)
    missing = len(figures) - len(known)
    where = f"{len(known)} summed{f', {missing} not measured' if missing else ''}; {origin(known[0])}"
    mark: Mark = "unknown" if missing else ""
    return Line(label, formats.amount(sum_of, unit), where, sum_of, unit, mark)


def _services(figures: Sequence[Figure]) -> Table:
    rows = []
    for figure in _of(figures, "requests"):
        others = [_one(figures, kind, figure.name) for kind in ("errors", "latency p50", "latency p95", "latency p99")]
        cells = [_shown(other) for other in (figure, *others)]
        seen = Cell(formats.share(figure.coverage), figure.coverage, "unknown" if low(figure) else "")
        change = _change(others[2])
        rows.append((Cell(figure.name), *cells, Cell(change or "–"), seen, Cell(f"{figure.source}; {figure.window}")))
    heads = columns("service", "requests>", "errors>", "p50>", "p95>", "p99>", "p95 moved", "seen>", "origin")
    return Table("Services", heads, tuple(rows), told(_one(figures, "requests", ALL)))


def _shown(figure: Figure) -> Cell:
    return Cell(told(figure), figure.value, "unknown" if figure.value is None else "")


def _paths(figures: Sequence[Figure]) -> Table:
    rows = [
        (
            Cell(figure.name),
            number(figure.details.get("requests"), ""),
            number(figure.details.get("p50"), "s"),
            _shown(figure),
            number(figure.details.get("p99"), "s"),
            Cell(origin(figure)),
        )
        for figure in _of(figures, "slow path")
    ]
    heads = columns("path", "requests>", "p50>", "p95>", "p99>", "origin")
    counted = _one(figures, "paths", "paths")
    empty = (
        told(counted) if counted.value is None else f"{told(counted)} paths: none had 20 requests, or they are too many"
    )
    return Table("Slowest paths", heads, tuple(rows), empty)


def _use(title: str, figures: Sequence[Figure]) -> Table:
    rows = [
        (
            Cell(figure.name),
            _shown(figure),
            number(figure.details.get("p95"), figure.unit),
            number(figure.details.get("peak"), figure.unit),
            Cell(origin(figure)),
        )
        for figure in figures
    ]
    empty = "not measured: no prometheus target is configured; set targets.prometheus"
    return Table(title, columns("what", "average>", "p95 of hours>", "peak>", "origin"), tuple(rows), empty)


def _alerts(figures: Sequence[Figure]) -> Section:
    lines = (
        stated("Total Alerts", _one(figures, "alerts", "all")),
        stated("Critical Alerts", _one(figures, "alerts", "critical")),
        stated("Mean Time to Resolution", _one(figures, "resolution", "mean", "s")),
    )
    rows = []
    for figure in _of(figures, "alert"):
        severity = figure.labels.get("severity") or "–"
        seconds, still = figure.details["seconds"], figure.details["open"]
        rows.append(
            (
                Cell(figure.name),
                Cell(severity),
                number(figure.value, ""),
                number(seconds, "s"),
                number(figure.details.get("resolution"), "s"),
                number(still, "", "warn" if still else ""),
                Cell(origin(figure)),
            )
        )
    heads = columns("alert", "severity", "fired>", "for>", "mean time to resolution>", "still firing>", "origin")
    total = _one(figures, "alerts", "all")
    empty = "no alert fired in this window" if total.value == 0 else told(total)
    return Section("Alerts Summary", lines, tables=(Table("Alerts", heads, tuple(rows), empty),))


def _drawn(found: Iterable[Chart | None]) -> tuple[Chart, ...]:
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
        "labels": dict(figure.labels),
        "details": dict(figure.details),
    }
