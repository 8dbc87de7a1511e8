"""Figures with their history: how they grow, when they meet a limit, and how good earlier forecasts were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import mean

from maintd.reports import formats
from maintd.reports.figure import Figure
from maintd.reports.forecast import Forecast, Insufficient, Reach, forecast

MONTH = 30
"""Days for which growth is stated and forecasts are kept to be judged."""
Points = Sequence[tuple[datetime, float]]


@dataclass(frozen=True)
class Resource:
    """A figure, its earlier values with the present one, and what is to be expected."""

    figure: Figure
    history: Points
    outlook: Forecast | Insufficient | None = None  # None: not asked for

    @property
    def key(self) -> str:
        """What it is called where kinds are mixed."""
        return f"{self.figure.kind} {self.figure.name}"

    @property
    def reason(self) -> str:
        """Why there is no forecast; empty when there is one."""
        return self.outlook.reason if isinstance(self.outlook, Insufficient) else ""


def resource(figure: Figure, earlier: Points, now: datetime, *, ahead: bool = True) -> Resource:
    """Put a figure to its history. `ahead`: forecast it, if it is a gauge that was measured."""
    if figure.value is None:
        return Resource(figure, tuple(earlier))
    history = (*earlier, (now, float(figure.value)))
    outlook = forecast(history, now) if ahead and figure.measure and not figure.counter else None
    return Resource(figure, history, outlook)


def rate(counter: Resource, now: datetime, days: int = MONTH) -> Figure:
    """A counter as its mean rate per second over the last `days`, with that of its busiest stretch between readings.

    A smaller value than before is a new beginning: that stretch is not counted.
    """
    figure = counter.figure
    unit = f"{figure.unit}/s"
    bare = replace(figure, unit=unit, measure="", counter=False, details={}, capacity=None)
    if figure.value is None:
        return bare
    recent = sorted(point for point in counter.history if point[0] >= now - timedelta(days=days))
    parts = [((b - a).total_seconds(), d - c) for (a, c), (b, d) in pairwise(recent) if b > a and d >= c]
    if not parts:
        cause = "it is a counter: its rate is known from its second reading on"
        return replace(bare, value=None, cause=cause)
    seconds = sum(length for length, _ in parts)
    return replace(
        bare,
        value=sum(grown for _, grown in parts) / seconds,
        window=f"{seconds / 86400:.1f} days until now",
        coverage=min(1.0, seconds / max((recent[-1][0] - recent[0][0]).total_seconds(), 1.0)),
        details={"peak": max(grown / length for length, grown in parts)},
    )


def rates(counter: Resource) -> list[tuple[datetime, float | None]]:
    """A counter's rate per second at each reading; None where it began anew."""
    ordered = sorted(counter.history)
    return [(b, (d - c) / (b - a).total_seconds() if d >= c else None) for (a, c), (b, d) in pairwise(ordered) if b > a]


def reached(reach: Reach) -> str:
    """`5 weeks to 9 weeks`, as P10 to P90."""
    earliest = formats.days(reach.earliest)
    latest = "an unknown time" if reach.latest is None else formats.days(reach.latest)
    return earliest if earliest == latest else f"{earliest} to {latest}"


@dataclass(frozen=True)
class Backtest:
    """How forecasts made a month ago compare with what came: the mean error, and the part that lay within the band."""

    count: int
    error: float
    inside: float


def backtest(made: Mapping[str, tuple[Points, Points, Points]], came: Mapping[str, float], now: datetime) -> Backtest:
    """Judge forecasts of 28 to 32 days ago: low, likely and high level by resource, and what `came`."""
    errors: list[float] = []
    inside: list[bool] = []
    for name, series in made.items():
        low, likely, high = (_month_ago(points, now) for points in series)
        seen = came.get(name)
        if low is None or likely is None or high is None or not seen:
            continue
        errors.append(abs(likely - seen) / abs(seen))
        inside.append(low <= seen <= high)
    return Backtest(len(errors), mean(errors), mean(inside)) if errors else Backtest(0, 0.0, 0.0)


def _month_ago(points: Points, now: datetime) -> float | None:
    found = [value for at, value in points if timedelta(days=28) <= now - at <= timedelta(days=32)]
    return found[-1] if found else None
