"""Forecasts: when a growing value reaches a limit, with P10 and P90; or why there is no forecast.

1. Reduce the history to one value for each UTC day: the median.
2. With four weeks of history, remove the weekly pattern if it explains at least a fifth of the scatter.
3. Fit only the days after the last lasting jump, such as a clean-up or a resize.
4. Estimate the slope by Theil and Sen: the median slope between all pairs of days, which is robust against outliers.
5. Estimate the uncertainty of slope and level by refitting resampled residuals, in blocks of a week so that they stay
   autocorrelated. The seed is fixed: the same history gives the same forecast.

Sources: Sen, J. Amer. Stat. Assoc. 63 (1968) 1379; Künsch, Ann. Statist. 17 (1989) 1217 for the block bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Any

MIN_DAYS = 14
"""Days of history that a forecast needs."""
MIN_SINCE_CHANGE = 7
"""Days after a lasting jump that a forecast needs."""
MAX_DAYS = 180  # of history; older days predict little, and the number of pairs grows with the square
HORIZON = 2  # times the fitted history: how far ahead a forecast reaches
_REPLICATES = 300
_BLOCK = 7
_SEED = 1968
_JUMP = 5.0  # times the scatter of the daily steps
_TO_SIGMA = 1.4826  # converts a median absolute deviation to a standard deviation

Daily = tuple[tuple[date, float], ...]


@dataclass(frozen=True)
class Insufficient:
    """There is not enough history for a forecast. `reason` is shown in the report."""

    reason: str
    days: int
    history: Daily = ()


@dataclass(frozen=True)
class DaysToLimit:
    """Days from the last day of the history until a limit is reached: P10, P50 and P90. None: beyond the horizon."""

    earliest: float
    likely: float | None
    latest: float | None


@dataclass(frozen=True)
class Forecast:
    """A fitted trend. Slopes are per day; `low` and `high` are the 95 % interval of the slope."""

    history: Daily
    fitted_from: date
    changed_on: date | None
    level: float  # on the last day, without the weekly pattern
    slope: float
    low: float
    high: float
    horizon: int  # days after the last day
    peak: float = 0.0  # how far the highest weekday is above the level
    slopes: tuple[float, ...] = field(default=(), repr=False)
    levels: tuple[float, ...] = field(default=(), repr=False)

    @property
    def last(self) -> date:
        """The last day of the history."""
        return self.history[-1][0]

    @property
    def days(self) -> int:
        """How many days have a value."""
        return len(self.history)

    @property
    def trend(self) -> str:
        """growing, shrinking, or steady when the 95 % interval of the slope contains zero."""
        return "growing" if self.low > 0 else "shrinking" if self.high < 0 else "steady"

    def reach(self, limit: float) -> DaysToLimit | None:
        """When the limit is reached; None when the value does not grow, or P10 is beyond the horizon."""
        room = limit - self.peak
        if self.level >= room:
            return DaysToLimit(0.0, 0.0, 0.0)
        if self.trend != "growing":
            return None
        pairs = zip(self.levels, self.slopes, strict=True)
        times = sorted(max((room - level) / slope, 0.0) if slope > 0 else math.inf for level, slope in pairs)
        earliest, likely, latest = (_within(_quantile(times, part), self.horizon) for part in (0.1, 0.5, 0.9))
        return None if earliest is None else DaysToLimit(earliest, likely, latest)

    def at(self, days: float, part: float = 0.5) -> float:
        """The level `days` after the last day of the history. part: the quantile, 0.1, 0.5 or 0.9."""
        pairs = zip(self.levels, self.slopes, strict=True)
        return _quantile(sorted(level + slope * days for level, slope in pairs), part)


def forecast(points: Iterable[tuple[datetime, float]], now: datetime) -> Forecast | Insufficient:
    """Forecast a gauge from its history. Points may be unordered, repeated, missing, or not finite."""
    history = daily(points, now)
    if len(history) < MIN_DAYS:
        return Insufficient(f"{len(history)} of {MIN_DAYS} days of history", len(history), history)
    days = [day.toordinal() for day, _ in history]
    values = [value for _, value in history]
    weekly = _weekly(days, values)
    plain = [value - weekly[day % 7] for day, value in zip(days, values, strict=True)]
    start = _last_change(days, plain)
    if len(days) - start < MIN_SINCE_CHANGE:
        since = f"{len(days) - start} of {MIN_SINCE_CHANGE} days of history since the jump on {history[start][0]}"
        return Insufficient(since, len(history), history)
    slope, level, slopes, levels = _fit(days[start:], plain[start:])
    ordered = sorted(slopes)
    return Forecast(
        history=history,
        fitted_from=history[start][0],
        changed_on=history[start][0] if start else None,
        level=level,
        slope=slope,
        low=_quantile(ordered, 0.025),
        high=_quantile(ordered, 0.975),
        horizon=HORIZON * (days[-1] - days[start] + 1),
        peak=max(weekly.values()),
        slopes=tuple(slopes),
        levels=tuple(levels),
    )


def daily(points: Iterable[tuple[datetime, float]], now: datetime) -> Daily:
    """Return the median of each UTC day of the last 180 days, oldest first.

    Leaves out points after `now`, which were written while a clock was wrong, and values that are not finite.
    """
    oldest = now - timedelta(days=MAX_DAYS)
    days: dict[date, list[float]] = {}
    for at, value in points:
        if oldest < at <= now + timedelta(minutes=5) and math.isfinite(value):
            days.setdefault(at.astimezone(UTC).date(), []).append(value)
    return tuple((day, float(median(days[day]))) for day in sorted(days))


def slope_interval(days: Sequence[float], values: Sequence[float], block: int = _BLOCK) -> tuple[float, float, float]:
    """Return (low, slope, high): the Theil–Sen slope of a series with its 95 % interval."""
    slope, _, slopes, _ = _fit(days, values, block)
    ordered = sorted(slopes)
    return _quantile(ordered, 0.025), slope, _quantile(ordered, 0.975)


def _weekly(days: Sequence[int], values: Sequence[float]) -> dict[int, float]:
    """Return how far each weekday is above the median of the week around it; zeros without a clear weekly pattern."""
    none = dict.fromkeys(range(7), 0.0)
    if days[-1] - days[0] < 27 or len(days) < 24:
        return none
    around = [
        value - median(other for near, other in zip(days, values, strict=True) if abs(near - day) <= 3)
        for day, value in zip(days, values, strict=True)
    ]
    found: dict[int, list[float]] = {}
    for day, value in zip(days, around, strict=True):
        found.setdefault(day % 7, []).append(value)
    if len(found) < 7:
        return none
    offsets = {weekday: median(seen) for weekday, seen in found.items()}
    middle = sum(offsets.values()) / 7
    offsets = {weekday: offset - middle for weekday, offset in offsets.items()}
    left = [value - offsets[day % 7] for day, value in zip(days, around, strict=True)]
    return offsets if _scatter(left) < 0.8 * _scatter(around) else none


def _scatter(values: Sequence[float]) -> float:
    middle = median(values)
    return median(abs(value - middle) for value in values)


def _last_change(days: Sequence[int], values: Sequence[float]) -> int:
    """Return the index of the first day after the last lasting jump; 0 without one.

    A single outlier is not a jump, and neither is growth in bursts.
    """
    calm = [values[0], *(median(values[i - 1 : i + 2]) for i in range(1, len(values) - 1)), values[-1]]
    steps = [b - a for a, b in pairwise(calm)]
    pace = median(step / (e - d) for step, (d, e) in zip(steps, pairwise(days), strict=True))
    scatter = max(
        _TO_SIGMA * _scatter(steps),
        2.0 * sum(abs(step) for step in steps[:-1]) / len(steps),  # weekly bursts of growth are not a jump
        0.001 * median(abs(value) for value in values),  # a line without noise has no scatter
    )
    for place in range(len(values) - 3, 2, -1):
        jump = calm[place] - calm[place - 1] - pace * (days[place] - days[place - 1])
        if abs(jump) <= _JUMP * scatter:
            continue
        after, before = median(values[place : place + 5]), median(values[max(0, place - 5) : place])
        apart = median(days[place : place + 5]) - median(days[max(0, place - 5) : place])
        lasting = after - before - pace * apart
        if lasting * jump > 0 and abs(lasting) > abs(jump) / 2:
            return place
    return 0


def _fit(
    days: Sequence[float], values: Sequence[float], block: int = _BLOCK
) -> tuple[float, float, list[float], list[float]]:
    """Return slope and level on the last day, then the slopes and the levels of the bootstrap replicates."""
    import numpy as np  # takes 0.2 s to load, and most runs make no forecast

    x = np.asarray(days, dtype=float) - float(days[-1])
    y = np.asarray(values, dtype=float)
    first, second = np.triu_indices(len(x), 1)
    apart = x[second] - x[first]

    def fit(rows: Any) -> tuple[Any, Any]:
        slopes = np.median((rows[:, second] - rows[:, first]) / apart, axis=1)
        recent = rows[:, -3:] - slopes[:, None] * x[-3:]
        return slopes, np.median(recent, axis=1)

    slopes, levels = fit(y[None, :])
    slope, level = float(slopes[0]), float(levels[0])
    line = slope * x + np.median(y - slope * x)
    width = max(1, min(block, len(x) // 3))
    # Residuals of a fitted line are smaller than those of the true line, and a few blocks vary less than many.
    # The second factor is empirical: with it P10–P90 contains the true date in nine of ten simulated histories.
    residuals = (y - line) * math.sqrt(len(x) / max(len(x) - 2, 1)) * (1 + 2 * width / len(x))
    random = np.random.default_rng(_SEED)
    starts = random.integers(0, len(x), size=(_REPLICATES, -(-len(x) // width)))
    places = (starts[:, :, None] + np.arange(width)) % len(x)
    rows = line + residuals[places.reshape(_REPLICATES, -1)[:, : len(x)]]
    found = [fit(part) for part in np.array_split(rows, 10)]
    return (
        slope,
        level,
        [float(value) for part, _ in found for value in part],
        [float(value) for _, part in found for value in part],
    )


def _quantile(ordered: Sequence[float], part: float) -> float:
    """Return the nearest of the sorted values, without interpolation, since some are infinite."""
    return ordered[min(len(ordered) - 1, round(part * (len(ordered) - 1)))]


def _within(days: float, horizon: int) -> float | None:
    return days if days <= horizon else None
