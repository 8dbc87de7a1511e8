"""Small line charts as SVG, drawn here so that the page needs no script. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from html import escape
from math import isfinite
from typing import NamedTuple

WIDTH, HEIGHT = 360, 96
LEFT, RIGHT, TOP, BOTTOM = 6, 6, 8, 8


class ChartPoint(NamedTuple):
    """A value at a time, with the run that it is of; `bad` marks one that failed."""

    at: datetime
    value: float
    run_id: int
    bad: bool = False


class Chart(NamedTuple):
    """A chart with all that it shows in words too."""

    title: str
    svg: str
    latest: str
    lowest: str
    highest: str
    values: int


def line_chart(title: str, points: Sequence[ChartPoint], show: Callable[[float], str]) -> Chart | None:
    """The points in order of time; None when fewer than two can be drawn. The axis begins at zero unless a value is
    below it, so that a small wobble does not look like a cliff."""
    drawn = [point for point in points if isfinite(point.value)]
    if len(drawn) < 2:
        return None
    values = [point.value for point in drawn]
    # In shares of the largest, because a difference of two floats can be too large for a float.
    largest = max(abs(value) for value in values) or 1.0
    shares = [value / largest for value in values]
    low, high = min(0.0, *shares), max(0.0, *shares)
    height = (HEIGHT - TOP - BOTTOM) / ((high - low) or 1.0)
    baseline = HEIGHT - BOTTOM + low * height
    first, last = drawn[0].at, drawn[-1].at
    width = (WIDTH - LEFT - RIGHT) / ((last - first).total_seconds() or 1.0)
    places = [
        (LEFT + (point.at - first).total_seconds() * width, baseline - share * height)
        for point, share in zip(drawn, shares, strict=True)
    ]
    words = f"{title}: {len(drawn)} values, latest {show(values[-1])}, from {show(min(values))} to {show(max(values))}"
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(_dot(point, place, show) for point, place in zip(drawn, places, strict=True))
    svg = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(words)}">'
        f'<line class="axis" x1="{LEFT}" y1="{baseline:.1f}" x2="{WIDTH - RIGHT}" y2="{baseline:.1f}"/>'
        f'<polyline class="line" points="{path}"/>{dots}</svg>'
    )
    return Chart(title, svg, show(values[-1]), show(min(values)), show(max(values)), len(drawn))


def _dot(point: ChartPoint, place: tuple[float, float], show: Callable[[float], str]) -> str:
    told = escape(f"run {point.run_id}, {point.at:%Y-%m-%d %H:%M} UTC: {show(point.value)}")
    x, y = place
    if point.bad:  # a square, so that colour is not all that tells it apart
        shape = f'<rect class="dot bad" x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6">'
        return f"{shape}<title>{told}, failed</title></rect>"
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2.2"><title>{told}</title></circle>'
