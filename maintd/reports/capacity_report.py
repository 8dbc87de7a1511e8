"""The monthly capacity report: what is used, how it grows, when it is full, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

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
    value_text,
)
from maintd.reports.figure import Figure, unmeasured
from maintd.reports.forecast import Forecast, Insufficient
from maintd.reports.resource import MONTH, Backtest, Resource, rate, rates, reach_text

STORAGE, MEMORY, NETWORK, COST = "Storage scaling", "Memory scaling", "Network optimization", "Cost optimization"
MEASURING = "Measuring"
AREAS = (STORAGE, MEMORY, NETWORK, COST, MEASURING)
_METHOD = (
    "File systems are measured by statvfs, with the space available to users other than root; folders by their blocks.",
    "A forecast needs 14 days of history. Its slope is the median slope between all pairs of days (Theil–Sen).",
    "Only days after the last lasting jump are fitted; P10 and P90 come from a bootstrap with blocks of a week.",
    "No date is given when the 95 % interval of the slope contains zero, or beyond twice the fitted history.",
    "Rates are differences between readings of counters; intervals with a reset are left out.",
    "What could not be measured is shown with its cause, never as zero.",
)


def build(resources: Sequence[Resource], findings: Sequence[Finding], past: Backtest, now: datetime) -> Document:
    """Build the report of the resources collected at `now`. past: how well last month's forecasts hold."""
    order = {"fail": 0, "unknown": 1, "warn": 2}
    return Document(
        kind="capacity",
        title=f"Monthly Capacity Report - {now:%Y-%m}",
        subtitle="What is used, how it grows, and when it is full",
        made_at=now,
        headlines=_headlines(resources),
        sections=(_storage(resources), _memory(resources), _network(resources, now), _outlook(resources, past)),
        findings=tuple(sorted(findings, key=lambda finding: order.get(finding.mark, 3))),
        areas=AREAS,
        method=_METHOD,
        data={"resources": [_data(item) for item in resources]},
    )


def _of(resources: Iterable[Resource], *kinds: str) -> list[Resource]:
    return [item for kind in kinds for item in resources if item.figure.kind == kind]


def _headlines(resources: Sequence[Resource]) -> tuple[Line, ...]:
    lines = []
    for item in _of(resources, "file system", "memory"):
        figure = item.figure
        label = f"Disk {figure.name}" if figure.kind == "file system" else f"Memory of {figure.name}"
        if figure.percent is None:
            lines.append(figure_line(label, figure))
            continue
        where = f"of {formatting.amount(figure.capacity or 0, figure.unit)}; {ahead(item)}"
        text = f"{formatting.amount(figure.percent, '%')} used"
        lines.append(Line(label, text, where, figure.percent, "%", item.mark))
    lines.append(_sum("Databases", _of(resources, "database"), "postgres"))
    lines.append(_sum("Requests", _of(resources, "requests"), "prometheus"))
    return tuple(lines[:8])


def ahead(item: Resource) -> str:
    """Describe in a phrase when the capacity is reached."""
    outlook, limit = item.outlook, item.figure.capacity
    if isinstance(outlook, Insufficient):
        return f"not known yet: {outlook.reason}"
    if outlook is None:
        return "no forecast"
    if outlook.trend != "growing":
        return "no significant growth" if outlook.trend == "steady" else "shrinking"
    if limit is None:
        return f"{formatting.signed(outlook.slope * MONTH, item.figure.unit)} a month"
    reach = outlook.reach(limit)
    return f"full in {reach_text(reach)}" if reach else f"not full within {formatting.days(outlook.horizon)}"


def _sum(label: str, items: Sequence[Resource], needs: str) -> Line:
    """Sum the figures that have a value, and state how many have none."""
    figures = [item.figure for item in items]
    known = [figure for figure in figures if figure.value is not None]
    if not figures:
        return figure_line(
            label, unmeasured("", label, "", needs, f"no {needs} target is configured; set targets.{needs}")
        )
    if not known:
        return figure_line(label, figures[0])
    total = sum(figure.value or 0.0 for figure in known)
    missing = f"; {len(figures) - len(known)} of {len(figures)} not measured" if len(known) < len(figures) else ""
    mark: Mark = "unknown" if missing else ""
    of = f"sum of {len(known)}; " if len(known) > 1 else ""
    return Line(
        label, formatting.amount(total, known[0].unit), f"{of}{origin(known[0])}{missing}", total, known[0].unit, mark
    )


def _storage(resources: Sequence[Resource]) -> Section:
    lines = [_sum("Database Size", _of(resources, "database"), "postgres")]
    folders = _of(resources, "folder")
    for item in folders:
        labels = {"log": "Log Storage", "backup": "Backup Storage"}
        label = next((text for word, text in labels.items() if word in item.figure.name.lower()), "Folder")
        lines.append(figure_line(f"{label} ({item.figure.name})", item.figure))
    if not folders:
        cause = "no folder is configured; set targets.folders"
        lines.append(
            figure_line("Log and Backup Storage", unmeasured("folder", "", "B", "blocks of the folder", cause))
        )
    for item in _of(resources, "file system"):
        free = item.figure.details.get("available")
        if free is None:
            lines.append(figure_line(f"Available Disk ({item.figure.name})", item.figure))
        else:
            text = formatting.amount(free, "B")
            lines.append(Line(f"Available Disk ({item.figure.name})", text, origin(item.figure), free, "B"))
    lines += [_growth("Projected Growth", item) for item in _of(resources, "file system")]
    drawn = [forecast_chart(item, f"Disk {item.figure.name}") for item in _of(resources, "file system", "folder")[:4]]
    drawn += [
        combined_chart(_of(resources, "database"), "Databases"),
        combined_chart(_of(resources, "relation"), "Largest tables"),
    ]
    tables = [
        _fullness_table(
            "Storage",
            _of(
                resources,
                "file system",
                "inodes",
                "folder",
                "database",
                "write-ahead log",
                "redis memory",
                "docker",
                "volume",
            ),
        ),
        _relations(_of(resources, "relation")),
        _parts(folders),
        _fullness_table("Sequences and connections", _of(resources, "sequence", "connections")),
    ]
    return Section(
        "Storage", tuple(lines), _charts(drawn), tuple(table for table in tables if table.rows or table.empty)
    )


def _memory(resources: Sequence[Resource]) -> Section:
    use = _of(resources, "memory use")
    lines = [_sum("Average Usage", use, "prometheus")]
    peaks = [item.figure for item in use if "peak" in item.figure.details]
    if peaks:
        top = max(peaks, key=lambda figure: figure.details["peak"])
        text = f"{formatting.amount(top.details['peak'], 'B')} by {top.name}"
        lines.append(Line("Peak Usage", text, origin(top), top.details["peak"], "B"))
    for item in _of(resources, "memory"):
        free = item.figure.details.get("available")
        shown = figure_line("Available Memory", item.figure)
        if free is not None:
            shown = Line("Available Memory", formatting.amount(free, "B"), origin(item.figure), free, "B")
        lines += [shown, _growth("Projected Requirements", item)]
    drawn = [forecast_chart(item, f"Memory of {item.figure.name}") for item in _of(resources, "memory")]
    drawn += [combined_chart(_of(resources, "container memory"), "Containers")]
    tables = (
        _fullness_table("Memory", _of(resources, "memory", "swap", "container memory", "redis memory", "redis keys")),
        _over_time("Memory over time", use, "B"),
    )
    return Section("Memory", tuple(lines), _charts(drawn), tables)


def _network(resources: Sequence[Resource], now: datetime) -> Section:
    requests, counters = (
        _of(resources, "requests"),
        _of(resources, "network", "write-ahead log written", "rows inserted"),
    )
    lines = [_sum("Average Request Rate", requests, "prometheus")]
    peaks = [item.figure for item in requests if "peak" in item.figure.details]
    if peaks:
        top = max(peaks, key=lambda figure: figure.details["peak"])
        text = f"{formatting.amount(top.details['peak'], '/s')} in the busiest hour of {top.name}"
        lines.append(Line("Peak Request Rate", text, origin(top), top.details["peak"], "/s"))
    cards = [item for item in counters if item.figure.kind == "network"]
    rated = {item.key: rate(item, now) for item in counters}
    lines += [figure_line(f"Data Transfer Rate ({item.figure.name})", rated[item.key]) for item in cards]
    rows = []
    for item in counters:
        figure = rated[item.key]
        faults = item.figure.details
        rows.append(
            (
                Cell(item.key),
                Cell(value_text(figure), figure.value, "unknown" if figure.value is None else ""),
                number_cell(figure.details.get("peak"), figure.unit),
                Cell(f"{faults['errors']:.0f}, {faults['drops']:.0f}" if "errors" in faults else "–"),
                Cell(origin(figure)),
            )
        )
    heads = columns("what", "average>", "busiest>", "errors, drops since boot>", "origin")
    drawn = [
        rate_chart(cards, "Network cards"),
        rate_chart(_of(resources, "write-ahead log written"), "Write-ahead log"),
    ]
    tables = (Table("Rates", heads, tuple(rows), "no counters"), _over_time("Requests", requests, "/s"))
    return Section("Network", tuple(lines), _charts(drawn), tables)


def _outlook(resources: Sequence[Resource], past: Backtest) -> Section:
    """All forecasts, and how well last month's hold."""
    rows: list[tuple[Cell, ...]] = []
    for item in resources:
        outlook, figure = item.outlook, item.figure
        if isinstance(outlook, Forecast):
            low, high = (formatting.signed(slope * MONTH, figure.unit) for slope in (outlook.low, outlook.high))
            grows = Cell(formatting.signed(outlook.slope * MONTH, figure.unit), outlook.slope * MONTH)
            since = f"fitted since {outlook.fitted_from}" + (", after a jump" if outlook.changed_on else "")
            dates = _dates(item, outlook)
            rows.append((Cell(item.key), grows, Cell(f"{low} to {high}"), *dates, Cell(f"{outlook.days}"), Cell(since)))
        elif isinstance(outlook, Insufficient):
            rows.append((Cell(item.key), *[Cell("–")] * 4, Cell(f"{outlook.days}"), Cell(outlook.reason)))
    heads = columns("what", "growth a month>", "95 % interval>", "90 % full", "full", "days of history>", "basis")
    note = "No forecast is a month old yet, so their accuracy is not known."
    if past.count:
        inside, error = formatting.amount(100 * past.inside, "%"), formatting.amount(100 * past.error, "%")
        note = f"For {inside} of {past.count} forecasts made a month ago the actual value is inside P10–P90; "
        note += f"the mean error is {error}."
    return Section("Forecasts", tables=(Table("Growth", heads, tuple(rows), "nothing to forecast"),), notes=(note,))


def _dates(item: Resource, outlook: Forecast) -> tuple[Cell, Cell]:
    limit = item.figure.capacity
    if limit is None:
        return Cell("–"), Cell("–")
    found = []
    for part in (0.9, 1.0):
        reach = outlook.reach(limit * part)
        if reach is None:
            found.append(
                Cell(f"not within {formatting.days(outlook.horizon)}" if outlook.trend == "growing" else "no date")
            )
            continue
        first = outlook.last + timedelta(days=round(reach.earliest))
        latest = "later" if reach.latest is None else str(outlook.last + timedelta(days=round(reach.latest)))
        found.append(Cell(f"{first} to {latest}", str(first)))
    return found[0], found[1]


def _growth(label: str, item: Resource) -> Line:
    outlook, figure = item.outlook, item.figure
    name = f"{label} ({figure.name})"
    if isinstance(outlook, Forecast):
        low, high = (formatting.signed(slope * MONTH, figure.unit) for slope in (outlook.low, outlook.high))
        text = f"{formatting.signed(outlook.slope * MONTH, figure.unit)} a month ({low} to {high}); {ahead(item)}"
        return Line(name, text, f"{outlook.days} days until {outlook.last}", outlook.slope * MONTH, figure.unit)
    text = f"not known yet: {item.reason}" if item.reason else value_text(figure)
    return Line(name, text, origin(figure), mark="unknown")


def _fullness_table(title: str, items: Sequence[Resource]) -> Table:
    rows = []
    for item in items:
        figure = item.figure
        percent = figure.percent
        used = (
            Cell("–") if percent is None else Cell(formatting.amount(percent, "%"), percent, item.mark, percent / 100)
        )
        now = Cell(value_text(figure), figure.value, "unknown" if figure.value is None else "")
        rows.append(
            (
                Cell(item.key),
                now,
                number_cell(figure.capacity, figure.unit),
                used,
                Cell(ahead(item)),
                Cell(origin(figure)),
            )
        )
    heads = columns("what", "now>", "of>", "used>", "outlook", "origin")
    return Table(title, heads, tuple(rows))


def _relations(items: Sequence[Resource]) -> Table:
    rows = []
    for item in items:
        figure, parts = item.figure, item.figure.details
        now = Cell(value_text(figure), figure.value, "unknown" if figure.value is None else "")
        cells = [number_cell(parts.get(part), "B") for part in ("heap", "indexes", "toast")]
        rows.append((Cell(figure.name), now, *cells, Cell(ahead(item)), Cell(origin(figure))))
    heads = columns("table", "size>", "heap>", "indexes>", "toast>", "outlook", "origin")
    return Table("Largest tables", heads, tuple(rows))


def _parts(folders: Sequence[Resource], most: int = 8) -> Table:
    rows = []
    for item in folders:
        largest = sorted(item.figure.details.items(), key=lambda part: -part[1])[:most]
        whole = item.figure.value or 1.0
        rows += [
            (
                Cell(item.figure.name),
                Cell("(files in it)" if name == "." else name),
                number_cell(size, "B"),
                Cell(formatting.amount(100 * size / whole, "%"), 100 * size / whole, share=size / whole),
            )
            for name, size in largest
        ]
    heads = columns("folder", "part", "size>", "of the folder>")
    return Table("Contents of the folders", heads, tuple(rows))


def _over_time(title: str, items: Sequence[Resource], unit: str) -> Table:
    rows = []
    for item in items:
        figure = item.figure
        shown = Cell(value_text(figure), figure.value, "unknown" if figure.value is None else "")
        rows.append(
            (
                Cell(figure.name),
                shown,
                number_cell(figure.details.get("p95"), unit),
                number_cell(figure.details.get("peak"), unit),
                Cell(origin(figure)),
            )
        )
    heads = columns("what", "average>", "p95>", "peak>", "origin")
    return Table(title, heads, tuple(rows), "not measured: no prometheus target is configured; set targets.prometheus")


def _charts(found: Iterable[Chart | None]) -> tuple[Chart, ...]:
    return tuple(chart for chart in found if chart is not None and chart.svg)


def _data(item: Resource) -> dict[str, object]:
    figure: Figure = item.figure
    outlook = item.outlook
    ahead_of: dict[str, object] = {"reason": item.reason} if item.reason else {}
    if isinstance(outlook, Forecast):
        reach = outlook.reach(figure.capacity) if figure.capacity else None
        ahead_of = {
            "trend": outlook.trend,
            "slope_per_day": outlook.slope,
            "slope_low": outlook.low,
            "slope_high": outlook.high,
            "days_of_history": outlook.days,
            "fitted_from": str(outlook.fitted_from),
            "horizon_days": outlook.horizon,
            "days_until_full": None if reach is None else [reach.earliest, reach.likely, reach.latest],
        }
    return {
        "kind": figure.kind,
        "name": figure.name,
        "value": figure.value,
        "unit": figure.unit,
        "capacity": figure.capacity,
        "source": figure.source,
        "window": figure.window,
        "coverage": figure.coverage,
        "cause": figure.cause,
        "details": dict(figure.details),
        "forecast": ahead_of,
    }


_AHEAD = 90  # days of a forecast that are drawn, if its horizon reaches that far


def forecast_chart(item: Resource, title: str) -> Chart | None:
    """Draw a gauge by day with the P10–P90 range of its forecast and its capacity; None without two days of history."""
    figure, outlook = item.figure, item.outlook
    days = outlook.history if outlook is not None else ()
    if len(days) < 2:
        return None
    past = [(_noon(day), value) for day, value in days]
    traces = [charts.Trace(figure.name, past)]
    band: list[tuple[datetime, float, float]] = []
    first, last = (formatting.amount(value, figure.unit) for _, value in (days[0], days[-1]))
    words = f"{first} on {days[0][0]}, {last} now"
    if isinstance(outlook, Forecast):
        ahead = min(outlook.horizon, _AHEAD)
        ends = [(past[-1][0] + timedelta(days=day), day) for day in (0, ahead / 2, ahead)]
        band = [(at, outlook.at(day, 0.1), outlook.at(day, 0.9)) for at, day in ends]
        traces.append(charts.Trace("forecast", [(at, outlook.at(day)) for at, day in ends], dashed=True))
        words += f"; in {formatting.days(ahead)} {formatting.amount(band[-1][1], figure.unit)} to "
        words += f"{formatting.amount(band[-1][2], figure.unit)} (P10–P90)"
    elif outlook is not None:
        words += f"; no forecast yet: {outlook.reason}"
    limits = []
    if figure.capacity:
        limits = [
            charts.Limit("80 %", 0.8 * figure.capacity),
            charts.Limit("full", figure.capacity, "fail"),
        ]
    svg = charts.lines(
        traces, figure.unit, alt=f"{title}: {words}", limits=limits, band=band, from_zero=bool(figure.capacity)
    )
    return Chart(title, svg, words)


def combined_chart(items: Sequence[Resource], title: str, most: int = 6) -> Chart | None:
    """Draw the `most` largest gauges by day in one chart; None when none has two days of history."""
    with_days = [(item, item.outlook.history) for item in items if item.outlook and len(item.outlook.history) > 1]
    chosen = sorted(with_days, key=lambda pair: -pair[1][-1][1])[:most]
    if not chosen:
        return None
    unit = chosen[0][0].figure.unit
    traces = [charts.Trace(item.figure.name, [(_noon(day), value) for day, value in days]) for item, days in chosen]
    words = (
        ", ".join(f"{item.figure.name} {formatting.amount(days[-1][1], unit)}" for item, days in chosen) + " at the end"
    )
    return Chart(title, charts.lines(traces, unit, alt=f"{title}: {words}"), words)


def rate_chart(items: Sequence[Resource], title: str, most: int = 6) -> Chart | None:
    """Draw the rates of counters; None when none has two rates."""
    found = [(item, rates(item)) for item in items]
    chosen = [(item, points) for item, points in found if sum(value is not None for _, value in points) > 1][:most]
    if not chosen:
        return None
    unit = f"{chosen[0][0].figure.unit}/s"
    traces = [charts.Trace(item.figure.name, points) for item, points in chosen]
    tops = [(item, max(value for _, value in points if value is not None)) for item, points in chosen]
    words = "maximum: " + ", ".join(f"{item.figure.name} {formatting.amount(top, unit)}" for item, top in tops)
    return Chart(title, charts.lines(traces, unit, alt=f"{title}: {words}"), words)


def _noon(day: object) -> datetime:
    return datetime.fromisoformat(f"{day}T12:00:00").replace(tzinfo=UTC)
