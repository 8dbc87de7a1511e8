"""Line and bar charts as inline SVG.

Colours are CSS classes: `c0` to `c7` for traces, and the names of marks. The page's style sheet defines them, so that
one chart works in light mode, dark mode and print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import escape

from maintd.reports import formatting

_WIDTH, _HEIGHT = 540, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 14, 14, 30
_COLOURS = 8
_MAX_POINTS = 500  # of a trace; a screen shows no more

Moment = tuple[datetime, float | None]


@dataclass(frozen=True)
class Trace:
    """One line of a chart. A value of None is a gap in it."""

    name: str
    points: Sequence[Moment]
    dashed: bool = False


@dataclass(frozen=True)
class Limit:
    """A labelled horizontal line."""

    name: str
    value: float
    mark: str = "warn"


@dataclass(frozen=True)
class _Frame:
    start: datetime
    end: datetime
    low: float
    high: float

    def x(self, at: datetime) -> float:
        whole = max((self.end - self.start).total_seconds(), 1.0)
        return _LEFT + (at - self.start).total_seconds() / whole * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM)


def lines(
    traces: Sequence[Trace],
    unit: str,
    *,
    alt: str,
    limits: Sequence[Limit] = (),
    band: Sequence[tuple[datetime, float, float]] = (),
    from_zero: bool = True,
) -> str:
    """Draw values over time. Empty when all traces together have fewer than two values.

    alt: the text for screen readers. band: shaded (at, low, high), for the interval of a forecast.
    """
    seen = [(at, value) for trace in traces for at, value in trace.points if value is not None]
    if len(seen) < 2:
        return ""
    times = [at for at, _ in seen] + [at for at, _, _ in band]
    values = [value for _, value in seen] + [high for _, _, high in band] + [low for _, low, _ in band]
    top = max(values)
    shown = [limit for limit in limits if limit.value <= top * 1.6 or limit.value <= top + (top - min(values)) * 3]
    low, high, step = _scale([*values, *(limit.value for limit in shown)], unit, from_zero)
    frame = _Frame(min(times), max(times), low, high)
    parts = [_y_axis(frame, step, unit), _x_axis(frame)]
    if band:
        parts.append(_band(frame, band))
    for limit in shown:
        y = frame.y(limit.value)
        parts.append(
            f'<line class="limit {escape(limit.mark)}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="limit {escape(limit.mark)}" x="{_WIDTH - _RIGHT}" y="{y - 4:.1f}" text-anchor="end">'
            f"{escape(limit.name)}</text>"
        )
    for index, trace in enumerate(traces):
        parts.append(_trace(frame, trace, index % _COLOURS, unit))
    return _svg("".join(parts), alt) + _legend([trace.name for trace in traces])


def bars(items: Sequence[tuple[str, float | None]], unit: str, *, alt: str) -> str:
    """Draw one bar for each label, in order; None is labelled "no data". Empty when every value is None."""
    values = [value for _, value in items if value is not None]
    if not values:
        return ""
    low, high, step = _scale([*values, 0.0], unit, True)
    frame = _Frame(datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), low, high)
    slot = (_WIDTH - _LEFT - _RIGHT) / len(items)
    width = min(slot * 0.7, 64)
    parts = [_y_axis(frame, step, unit)]
    every = max(1, math.ceil(len(items) / 9))
    for index, (label, value) in enumerate(items):
        middle = _LEFT + slot * (index + 0.5)
        if value is None:
            parts.append(
                f'<text class="gap" x="{middle:.1f}" y="{frame.y(0) - 6:.1f}" text-anchor="middle">no data</text>'
            )
        else:
            top, bottom = sorted((frame.y(value), frame.y(0)))
            parts.append(
                f'<rect class="{"c0" if value >= 0 else "fail"}" x="{middle - width / 2:.1f}" y="{top:.1f}" '
                f'width="{width:.1f}" height="{max(bottom - top, 0.5):.1f}" rx="2">'
                f"<title>{escape(label)}: {escape(formatting.amount(value, unit))}</title></rect>"
            )
        if index % every == 0:
            parts.append(
                f'<text class="tick" x="{middle:.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{escape(label)}</text>'
            )
    return _svg("".join(parts), alt)


def _svg(inner: str, alt: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(alt)}" '
        f'preserveAspectRatio="xMidYMid meet">{inner}</svg>'
    )


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    items = "".join(
        f'<li><span class="key c{index % _COLOURS}"></span>{escape(name)}</li>' for index, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def _trace(frame: _Frame, trace: Trace, colour: int, unit: str) -> str:
    points = _thinned(trace.points)
    pieces: list[list[tuple[datetime, float]]] = [[]]
    for at, value in points:
        if value is not None:
            pieces[-1].append((at, value))
        elif pieces[-1]:
            pieces.append([])
    parts = []
    for piece in pieces:
        if len(piece) == 1:
            parts.append(
                f'<circle class="c{colour}" cx="{frame.x(piece[0][0]):.1f}" cy="{frame.y(piece[0][1]):.1f}" r="2"/>'
            )
        elif piece:
            path = " ".join(f"{frame.x(at):.1f},{frame.y(value):.1f}" for at, value in piece)
            dashed = ' stroke-dasharray="5 4"' if trace.dashed else ""
            parts.append(f'<polyline class="line c{colour}" points="{path}"{dashed}/>')
    last = [(at, value) for at, value in points if value is not None][-1:]
    title = f"{trace.name}: {formatting.amount(last[0][1], unit)} at the end" if last else trace.name
    return f"<g><title>{escape(title)}</title>{''.join(parts)}</g>"


def _thinned(points: Sequence[Moment]) -> Sequence[Moment]:
    """Keep the highest point of each group of neighbours, so that peaks stay visible."""
    every = math.ceil(len(points) / _MAX_POINTS)
    if every <= 1:
        return points
    groups = [points[start : start + every] for start in range(0, len(points), every)]
    return [max(group, key=lambda moment: -math.inf if moment[1] is None else moment[1]) for group in groups]


def _band(frame: _Frame, band: Sequence[tuple[datetime, float, float]]) -> str:
    there = [f"{frame.x(at):.1f},{frame.y(high):.1f}" for at, _, high in band]
    back = [f"{frame.x(at):.1f},{frame.y(low):.1f}" for at, low, _ in reversed(band)]
    return f'<polygon class="band" points="{" ".join(there + back)}"/>'


def _y_axis(frame: _Frame, step: float, unit: str) -> str:
    parts = []
    for index in range(round((frame.high - frame.low) / step) + 1):
        value = frame.low + index * step
        y = frame.y(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
            f"{escape(formatting.amount(0.0 if abs(value) < step / 1e6 else value, unit))}</text>"
        )
    return "".join(parts)


def _x_axis(frame: _Frame) -> str:
    whole = frame.end - frame.start
    step = next(
        (timedelta(days=count) for count in (1, 2, 3, 7, 14, 28, 56, 91, 182) if whole / timedelta(days=count) <= 7.5),
        timedelta(days=365),
    )
    form: Callable[[datetime], str] = lambda at: f"{at:%b} {at.day}"  # noqa: E731 - one of two forms
    if whole <= timedelta(days=2):
        step, form = max(timedelta(hours=1), whole / 8), lambda at: f"{at:%H:%M}"
    at = frame.start.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    parts = []
    while at <= frame.end:
        if at >= frame.start - timedelta(seconds=1):
            x = frame.x(at)
            text = form(at) if x <= _WIDTH - 20 else ""  # a label at the right edge would be cut off
            parts.append(
                f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_HEIGHT - _BOTTOM}" y2="{_HEIGHT - _BOTTOM + 4}"/>'
                f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{text}</text>'
            )
        at += step
    return "".join(parts)


def _scale(values: Sequence[float], unit: str, from_zero: bool) -> tuple[float, float, float]:
    """Return (low, high, step), rounded for about five ticks. Bytes are rounded to powers of 1024."""
    low, high = min(values), max(values)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= max(abs(high), abs(low)) * 1e-9:
        low, high = (low - 1, high + 1) if low else (0.0, 1.0)
    rough = (high - low) / 4
    base = 1.0
    if unit.startswith("B"):
        base = 1024.0 ** math.floor(math.log(max(abs(low), abs(high), 1.0), 1024))
    power: float = 10.0 ** math.floor(math.log10(rough / base))
    step = next(factor * power * base for factor in (1, 2, 2.5, 5, 10) if factor * power * base >= rough * 0.999)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return low, high, step
