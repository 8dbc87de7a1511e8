"""Small line charts as SVG, drawn on the server so that the page needs no JavaScript."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from html import escape
from math import isfinite
from typing import NamedTuple

WIDTH, HEIGHT = 360, 96
LEFT, RIGHT, TOP, BOTTOM = 6, 6, 8, 8


class ChartPoint(NamedTuple):
    """A value of a run; `failed` marks a run that failed."""

    at: datetime
    value: float
    run_id: int
    failed: bool = False


class Chart(NamedTuple):
    """An SVG with its latest, lowest and highest value as text."""

    title: str
    svg: str
    latest: str
    lowest: str
    highest: str
    values: int


def line_chart(title: str, points: Sequence[ChartPoint], show: Callable[[float], str]) -> Chart | None:
    """Draw points that are in order of time; None when fewer than two have a finite value.

    The y axis starts at zero, or at the lowest value when that is negative, so that small variations look small.
    """
    drawn = [point for point in points if isfinite(point.value)]
    if len(drawn) < 2:
        return None
    values = [point.value for point in drawn]
    # Relative to the largest value, because the difference of two floats can exceed the range of a float.
    largest = max(abs(value) for value in values) or 1.0
    shares = [value / largest for value in values]
    low, high = min(0.0, *shares), max(0.0, *shares)
    height = (HEIGHT - TOP - BOTTOM) / ((high - low) or 1.0)
    baseline = HEIGHT - BOTTOM + low * height
    first, last = drawn[0].at, drawn[-1].at
    width = (WIDTH - LEFT - RIGHT) / ((last - first).total_seconds() or 1.0)
    positions = [
        (LEFT + (point.at - first).total_seconds() * width, baseline - share * height)
        for point, share in zip(drawn, shares, strict=True)
    ]
    lowest, highest = show(min(values)), show(max(values))
    description = f"{title}: {len(drawn)} values, latest {show(values[-1])}, from {lowest} to {highest}"
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in positions)
    dots = "".join(_dot(point, position, show) for point, position in zip(drawn, positions, strict=True))
    svg = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">'
        f'<line class="axis" x1="{LEFT}" y1="{baseline:.1f}" x2="{WIDTH - RIGHT}" y2="{baseline:.1f}"/>'
        f'<polyline class="line" points="{path}"/>{dots}</svg>'
    )
    return Chart(title, svg, show(values[-1]), lowest, highest, len(drawn))


def _dot(point: ChartPoint, position: tuple[float, float], show: Callable[[float], str]) -> str:
    title = escape(f"run {point.run_id}, {point.at:%Y-%m-%d %H:%M} UTC: {show(point.value)}")
    x, y = position
    if point.failed:  # a square, so that a failure differs by more than its colour
        shape = f'<rect class="dot bad" x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6">'
        return f"{shape}<title>{title}, failed</title></rect>"
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2.2"><title>{title}</title></circle>'
