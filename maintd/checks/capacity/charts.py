"""The charts of the capacity report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from maintd.reports import charts, formats
from maintd.reports.document import Chart
from maintd.reports.forecast import Forecast
from maintd.reports.resources import Resource, rates

_AHEAD = 90  # days of a forecast that are drawn, if its horizon goes as far


def forecast_chart(item: Resource, title: str) -> Chart | None:
    """A gauge day by day, with its forecast's P10–P90 band and the ends of its capacity; None with one value only."""
    figure, outlook = item.figure, item.outlook
    days = outlook.history if outlook is not None else ()
    if len(days) < 2:
        return None
    past = [(_noon(day), value) for day, value in days]
    traces = [charts.Trace(figure.name, past)]
    band: list[tuple[datetime, float, float]] = []
    words = f"{formats.amount(days[0][1], figure.unit)} on {days[0][0]}, {formats.amount(days[-1][1], figure.unit)} now"
    if isinstance(outlook, Forecast):
        ahead = min(outlook.horizon, _AHEAD)
        ends = [(past[-1][0] + timedelta(days=day), day) for day in (0, ahead / 2, ahead)]
        band = [(at, outlook.at(day, 0.1), outlook.at(day, 0.9)) for at, day in ends]
        traces.append(charts.Trace("forecast", [(at, outlook.at(day)) for at, day in ends], dashed=True))
        words += f"; in {formats.days(ahead)} {formats.amount(band[-1][1], figure.unit)} to "
        words += f"{formats.amount(band[-1][2], figure.unit)} (P10–P90)"
    elif outlook is not None:
        words += f"; no forecast: {outlook.reason}"
    limits = []
    if figure.capacity:
        limits = [
            charts.Limit("80 %", 0.8 * figure.capacity),
            charts.Limit("full", figure.capacity, "fail"),
        ]
    svg = charts.lines(
        traces, figure.unit, told=f"{title}: {words}", limits=limits, band=band, from_zero=bool(figure.capacity)
    )
    return Chart(title, svg, words)


def together(items: Sequence[Resource], title: str, most: int = 6) -> Chart | None:
    """The largest of several gauges in one chart, day by day; None when none has two days."""
    with_days = [(item, item.outlook.history) for item in items if item.outlook and len(item.outlook.history) > 1]
    chosen = sorted(with_days, key=lambda pair: -pair[1][-1][1])[:most]
    if not chosen:
        return None
    unit = chosen[0][0].figure.unit
    traces = [charts.Trace(item.figure.name, [(_noon(day), value) for day, value in days]) for item, days in chosen]
    words = (
        ", ".join(f"{item.figure.name} {formats.amount(days[-1][1], unit)}" for item, days in chosen) + " at the end"
    )
    return Chart(title, charts.lines(traces, unit, told=f"{title}: {words}"), words)


def rate_chart(items: Sequence[Resource], title: str, most: int = 6) -> Chart | None:
    """Counters as rates between their readings; None when none has two."""
    found = [(item, rates(item)) for item in items]
    chosen = [(item, points) for item, points in found if sum(value is not None for _, value in points) > 1][:most]
    if not chosen:
        return None
    unit = f"{chosen[0][0].figure.unit}/s"
    traces = [charts.Trace(item.figure.name, points) for item, points in chosen]
    tops = [(item, max(value for _, value in points if value is not None)) for item, points in chosen]
    words = ", ".join(f"{item.figure.name} at most {formats.amount(top, unit)}" for item, top in tops)
    return Chart(title, charts.lines(traces, unit, told=f"{title}: {words}"), words)


def _noon(day: object) -> datetime:
    return datetime.fromisoformat(f"{day}T12:00:00").replace(tzinfo=UTC)
