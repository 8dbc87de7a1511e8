"""Resources: figures with their history and forecast, rates of counters, and the backtest of earlier forecasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import mean

from maintd.reports import formatting
from maintd.reports.document import Mark
from maintd.reports.figure import Figure
from maintd.reports.forecast import DaysToLimit, Forecast, Insufficient, forecast

MONTH = 30
"""Days: growth is reported for a month, and forecasts a month ahead are kept for the backtest."""
Points = Sequence[tuple[datetime, float]]


@dataclass(frozen=True)
class Resource:
    """A figure with its history, which includes the present value, and its forecast."""

    figure: Figure
    history: Points
    outlook: Forecast | Insufficient | None = None  # None: no forecast was asked for
    mark: Mark = ""  # how full it is, as the report shows it

    @property
    def key(self) -> str:
        """Kind and name, unique within a report."""
        return f"{self.figure.kind} {self.figure.name}"

    @property
    def reason(self) -> str:
        """Why there is no forecast; empty when there is one, or none was asked for."""
        return self.outlook.reason if isinstance(self.outlook, Insufficient) else ""


def resource(figure: Figure, earlier: Points, now: datetime, *, ahead: bool = True, mark: Mark = "") -> Resource:
    """Combine a figure with its earlier values. ahead: also forecast it, if it is a gauge with a value."""
    if figure.value is None:
        return Resource(figure, tuple(earlier), mark=mark)
    history = (*earlier, (now, float(figure.value)))
    outlook = forecast(history, now) if ahead and figure.measure and not figure.counter else None
    return Resource(figure, history, outlook, mark)


def rate(counter: Resource, now: datetime, days: int = MONTH) -> Figure:
    """Turn a counter into its mean rate per second over the last `days`; `details` has the peak between two readings.

    Intervals in which the counter was reset are left out.
    """
    figure = counter.figure
    unit = f"{figure.unit}/s"
    base = replace(figure, unit=unit, measure="", counter=False, details={}, capacity=None)
    if figure.value is None:
        return base
    recent = sorted(point for point in counter.history if point[0] >= now - timedelta(days=days))
    parts = [((b - a).total_seconds(), d - c) for (a, c), (b, d) in pairwise(recent) if b > a and d >= c]
    if not parts:
        return replace(base, value=None, cause="a rate needs two readings of the counter")
    seconds = sum(length for length, _ in parts)
    return replace(
        base,
        value=sum(grown for _, grown in parts) / seconds,
        window=f"{seconds / 86400:.1f} days until now",
        coverage=min(1.0, seconds / max((recent[-1][0] - recent[0][0]).total_seconds(), 1.0)),
        details={"peak": max(grown / length for length, grown in parts)},
    )


def rates(counter: Resource) -> list[tuple[datetime, float | None]]:
    """Return a counter's rate per second at each reading; None where it was reset."""
    ordered = sorted(counter.history)
    return [(b, (d - c) / (b - a).total_seconds() if d >= c else None) for (a, c), (b, d) in pairwise(ordered) if b > a]


def reach_text(reach: DaysToLimit) -> str:
    """Format P10 to P90: `5 weeks to 9 weeks`, or `5 weeks or later` when P90 is beyond the horizon."""
    earliest = formatting.days(reach.earliest)
    if reach.latest is None:
        return f"{earliest} or later"
    latest = formatting.days(reach.latest)
    return earliest if earliest == latest else f"{earliest} to {latest}"


@dataclass(frozen=True)
class Backtest:
    """How well the forecasts of a month ago hold: the mean relative error, and the share of values inside P10–P90."""

    count: int
    error: float
    inside: float


def backtest(
    forecasts: Mapping[str, tuple[Points, Points, Points]], actual: Mapping[str, float], now: datetime
) -> Backtest:
    """Compare forecasts made 28 to 32 days ago with the actual values.

    forecasts: P10, P50 and P90 levels by resource; actual: the present values.
    """
    errors: list[float] = []
    inside: list[bool] = []
    for name, series in forecasts.items():
        low, likely, high = (_month_ago(points, now) for points in series)
        value = actual.get(name)
        if low is None or likely is None or high is None or not value:
            continue
        errors.append(abs(likely - value) / abs(value))
        inside.append(low <= value <= high)
    return Backtest(len(errors), mean(errors), mean(inside)) if errors else Backtest(0, 0.0, 0.0)


def _month_ago(points: Points, now: datetime) -> float | None:
    found = [value for at, value in points if timedelta(days=28) <= now - at <= timedelta(days=32)]
    return found[-1] if found else None
