"""The monthly capacity report: what is used, how it grows, when it is full, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from maintd.checks.assessment import Assessment
from maintd.checks.capacity.charts import forecast_chart, rate_chart, together
from maintd.checks.capacity.limits import COST, MEASURING, MEMORY, NETWORK, STORAGE, fullness, opportunities
from maintd.model.evidence import CheckStatus
from maintd.reports import formats
from maintd.reports.document import Cell, Chart, Document, Line, Mark, Section, Table, columns, number, origin, told
from maintd.reports.document import line as stated
from maintd.reports.figure import Figure, unmeasured
from maintd.reports.forecast import Forecast, Insufficient
from maintd.reports.resources import MONTH, Backtest, Resource, rate, reached

AREAS = (STORAGE, MEMORY, NETWORK, COST, MEASURING)
_METHOD = (
    "File systems by statvfs: used and free as a user who is not root has them. Folders by allocated blocks.",
    "A forecast needs 14 days of history. Its slope is the median of those between all pairs of days (Theil–Sen).",
    "It is fitted after the last lasting jump; P10 and P90 come from refits with residuals resampled by the week.",
    "No date is given when the 95 % interval of the slope holds zero, nor further ahead than twice the fitted history.",
    "Rates of counters are differences between readings; a counter that began anew is not counted across.",
    "What could not be measured is told with its cause and never counted as zero.",
)


def build(resources: Sequence[Resource], assessments: Sequence[Assessment], past: Backtest, now: datetime) -> Document:
    """The whole report of what was collected at `now`."""
    findings = [item.finding for item in assessments if item.status is not CheckStatus.OK] + opportunities(resources)
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
            lines.append(stated(label, figure))
            continue
        where = f"of {formats.amount(figure.capacity or 0, figure.unit)}; {ahead(item)}"
        text = f"{formats.amount(figure.percent, '%')} used"
        lines.append(Line(label, text, where, figure.percent, "%", fullness(figure.percent)))
    lines.append(_sum("Databases", _of(resources, "database"), "postgres"))
    lines.append(_sum("Requests", _of(resources, "requests"), "prometheus"))
    return tuple(lines[:8])


def ahead(item: Resource) -> str:
    """The outlook to the end of the capacity, in one phrase."""
    outlook, limit = item.outlook, item.figure.capacity
    if isinstance(outlook, Insufficient):
        return outlook.reason
    if outlook is None:
        return "not forecast"
    if outlook.trend != "growing":
        return "no significant growth" if outlook.trend == "steady" else "shrinking"
    if limit is None:
        return f"{formats.signed(outlook.slope * MONTH, item.figure.unit)} a month"
    reach = outlook.reach(limit)
    return f"full in {reached(reach)}" if reach else f"not full within {formats.days(outlook.horizon)}"


def _sum(label: str, items: Sequence[Resource], needs: str) -> Line:
    """The sum of what was measured; what was not is told beside it, so that a part is not taken for the whole."""
    figures = [item.figure for item in items]
    known = [figure for figure in figures if figure.value is not None]
    if not figures:
        return stated(label, unmeasured("", label, "", needs, f"no {needs} target is configured; set targets.{needs}"))
    if not known:
        return stated(label, figures[0])
    total = sum(figure.value or 0.0 for figure in known)
    missing = f"; {len(figures) - len(known)} of {len(figures)} not measured" if len(known) < len(figures) else ""
    mark: Mark = "unknown" if missing else ""
    of = f"{len(known)} summed; " if len(known) > 1 else ""
    return Line(
        label, formats.amount(total, known[0].unit), f"{of}{origin(known[0])}{missing}", total, known[0].unit, mark
    )


def _storage(resources: Sequence[Resource]) -> Section:
    lines = [_sum("Database Size", _of(resources, "database"), "postgres")]
    folders = _of(resources, "folder")
    for item in folders:
        words = {"log": "Log Storage", "backup": "Backup Storage"}
        label = next((text for word, text in words.items() if word in item.figure.name.lower()), "Folder")
        lines.append(stated(f"{label} ({item.figure.name})", item.figure))
    if not folders:
        cause = "no folder is configured; set targets.folders"
        lines.append(stated("Log and Backup Storage", unmeasured("folder", "", "B", "blocks of the folder", cause)))
    for item in _of(resources, "file system"):
        free = item.figure.details.get("available")
        if free is None:
            lines.append(stated(f"Available Disk ({item.figure.name})", item.figure))
        else:
            text = formats.amount(free, "B")
            lines.append(Line(f"Available Disk ({item.figure.name})", text, origin(item.figure), free, "B"))
    lines += [_growth("Projected Growth", item) for item in _of(resources, "file system")]
    drawn = [forecast_chart(item, f"Disk {item.figure.name}") for item in _of(resources, "file system", "folder")[:4]]
    drawn += [together(_of(resources, "database"), "Databases"), together(_of(resources, "relation"), "Largest tables")]
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
        "Storage", tuple(lines), _drawn(drawn), tuple(table for table in tables if table.rows or table.empty)
    )


def _memory(resources: Sequence[Resource]) -> Section:
    use = _of(resources, "memory use")
    lines = [_sum("Average Usage", use, "prometheus")]
    peaks = [item.figure for item in use if "peak" in item.figure.details]
    if peaks:
        top = max(peaks, key=lambda figure: figure.details["peak"])
        text = f"{formats.amount(top.details['peak'], 'B')} by {top.name}"
        lines.append(Line("Peak Usage", text, origin(top), top.details["peak"], "B"))
    for item in _of(resources, "memory"):
        free = item.figure.details.get("available")
        shown = stated("Available Memory", item.figure)
        if free is not None:
            shown = Line("Available Memory", formats.amount(free, "B"), origin(item.figure), free, "B")
        lines += [shown, _growth("Projected Requirements", item)]
    drawn = [forecast_chart(item, f"Memory of {item.figure.name}") for item in _of(resources, "memory")]
    drawn += [together(_of(resources, "container memory"), "Containers")]
    tables = (
        _fullness_table("Memory", _of(resources, "memory", "swap", "container memory", "redis memory", "redis keys")),
        _over_time("Memory over time", use, "B"),
    )
    return Section("Memory", tuple(lines), _drawn(drawn), tables)


def _network(resources: Sequence[Resource], now: datetime) -> Section:
    requests, counters = (
        _of(resources, "requests"),
        _of(resources, "network", "write-ahead log written", "rows inserted"),
    )
    lines = [_sum("Average Request Rate", requests, "prometheus")]
    peaks = [item.figure for item in requests if "peak" in item.figure.details]
    if peaks:
        top = max(peaks, key=lambda figure: figure.details["peak"])
        text = f"{formats.amount(top.details['peak'], '/s')} in the busiest hour of {top.name}"
        lines.append(Line("Peak Request Rate", text, origin(top), top.details["peak"], "/s"))
    cards = [item for item in counters if item.figure.kind == "network"]
    rated = {item.key: rate(item, now) for item in counters}
    lines += [stated(f"Data Transfer Rate ({item.figure.name})", rated[item.key]) for item in cards]
    rows = []
    for item in counters:
        figure = rated[item.key]
        faults = item.figure.details
        rows.append(
            (
                Cell(item.key),
                Cell(told(figure), figure.value, "unknown" if figure.value is None else ""),
                number(figure.details.get("peak"), figure.unit),
                Cell(f"{faults['errors']:.0f}, {faults['drops']:.0f}" if "errors" in faults else "–"),
                Cell(origin(figure)),
            )
        )
    heads = columns("what", "average>", "busiest>", "errors, drops since boot>", "origin")
    drawn = [
        rate_chart(cards, "Network cards"),
        rate_chart(_of(resources, "write-ahead log written"), "Write-ahead log"),
    ]
    tables = (Table("Rates", heads, tuple(rows), "no counter was read"), _over_time("Requests", requests, "/s"))
    return Section("Network", tuple(lines), _drawn(drawn), tables)


def _outlook(resources: Sequence[Resource], past: Backtest) -> Section:
    """Every forecast, and how last month's did."""
    rows: list[tuple[Cell, ...]] = []
    for item in resources:
        outlook, figure = item.outlook, item.figure
        if isinstance(outlook, Forecast):
            low, high = (formats.signed(slope * MONTH, figure.unit) for slope in (outlook.low, outlook.high))
            grows = Cell(formats.signed(outlook.slope * MONTH, figure.unit), outlook.slope * MONTH)
            since = f"fitted from {outlook.fitted_from}" + (", after a jump" if outlook.changed_on else "")
            dates = _dates(item, outlook)
            rows.append((Cell(item.key), grows, Cell(f"{low} to {high}"), *dates, Cell(f"{outlook.days}"), Cell(since)))
        elif isinstance(outlook, Insufficient):
            rows.append((Cell(item.key), *[Cell("–")] * 4, Cell(f"{outlook.days}"), Cell(outlook.reason)))
    heads = columns("what", "growth a month>", "95 % interval>", "90 % full", "full", "days of history>", "basis")
    judged = "No forecast is a month old yet, so none can be judged."
    if past.count:
        inside, error = formats.amount(100 * past.inside, "%"), formats.amount(100 * past.error, "%")
        judged = f"Of {past.count} forecasts made a month ago, what came was in the P10–P90 band of {inside}; "
        judged += f"the mean error was {error}."
    return Section("Forecasts", tables=(Table("Growth", heads, tuple(rows), "nothing to forecast"),), notes=(judged,))


def _dates(item: Resource, outlook: Forecast) -> tuple[Cell, Cell]:
    limit = item.figure.capacity
    if limit is None:
        return Cell("–"), Cell("–")
    found = []
    for part in (0.9, 1.0):
        reach = outlook.reach(limit * part)
        if reach is None:
            found.append(
                Cell(f"not within {formats.days(outlook.horizon)}" if outlook.trend == "growing" else "no date")
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
        low, high = (formats.signed(slope * MONTH, figure.unit) for slope in (outlook.low, outlook.high))
        text = f"{formats.signed(outlook.slope * MONTH, figure.unit)} a month ({low} to {high}); {ahead(item)}"
        return Line(name, text, f"{outlook.days} days until {outlook.last}", outlook.slope * MONTH, figure.unit)
    return Line(name, item.reason or told(figure), origin(figure), mark="unknown")


def _fullness_table(title: str, items: Sequence[Resource]) -> Table:
    rows = []
    for item in items:
        figure = item.figure
        percent = figure.percent
        mark: Mark = fullness(percent) if percent is not None else ""
        used = Cell("–") if percent is None else Cell(formats.amount(percent, "%"), percent, mark, percent / 100)
        now = Cell(told(figure), figure.value, "unknown" if figure.value is None else "")
        rows.append(
            (Cell(item.key), now, number(figure.capacity, figure.unit), used, Cell(ahead(item)), Cell(origin(figure)))
        )
    heads = columns("what", "now>", "of>", "used>", "outlook", "origin")
    return Table(title, heads, tuple(rows))


def _relations(items: Sequence[Resource]) -> Table:
    rows = []
    for item in items:
        figure, parts = item.figure, item.figure.details
        now = Cell(told(figure), figure.value, "unknown" if figure.value is None else "")
        cells = [number(parts.get(part), "B") for part in ("heap", "indexes", "toast")]
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
                Cell("(files directly in it)" if name == "." else name),
                number(size, "B"),
                Cell(formats.amount(100 * size / whole, "%"), 100 * size / whole, share=size / whole),
            )
            for name, size in largest
        ]
    heads = columns("folder", "part", "size>", "of the folder>")
    return Table("What is in the folders", heads, tuple(rows))


def _over_time(title: str, items: Sequence[Resource], unit: str) -> Table:
    rows = []
    for item in items:
        figure = item.figure
        shown = Cell(told(figure), figure.value, "unknown" if figure.value is None else "")
        rows.append(
            (
                Cell(figure.name),
                shown,
                number(figure.details.get("p95"), unit),
                number(figure.details.get("peak"), unit),
                Cell(origin(figure)),
            )
        )
    heads = columns("what", "average>", "p95>", "peak>", "origin")
    return Table(title, heads, tuple(rows), "not measured: no prometheus target is configured; set targets.prometheus")


def _drawn(found: Iterable[Chart | None]) -> tuple[Chart, ...]:
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
