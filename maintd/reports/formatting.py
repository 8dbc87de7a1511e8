"""Formatting of numbers, durations and dates in reports, and escaping for Markdown."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from maintd.units import format_size

_MARKDOWN = re.compile(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w))")
_BLOCK = re.compile(r"^([-+](?=\s|$)|[-=]{2}|#(?=[#\s]|$)|\d+(?=[.)](?:\s|$)))")  # a list, a rule or a heading


def amount(value: float, unit: str) -> str:
    """Format a number with its unit, to about three digits: `1.4 GiB`, `12.3 %`, `85 ms`, `1,204`."""
    match unit:
        case "B":
            return format_size(value)
        case "B/s":
            return f"{format_size(value)}/s"
        case "s":
            return _seconds(value)
        case "%":
            return f"{_plain(value)} %"
        case "/s" | "":
            return f"{_plain(value)}{unit}"
        case _:
            return f"{_plain(value)} {unit}"


def signed(value: float, unit: str) -> str:
    """Format a difference with its sign."""
    text = amount(abs(value), unit)
    return f"{'−' if value < 0 else '+'}{text}"


def share(part: float | None) -> str:
    """Format a share, 0 to 1, in percent. Rounds down, so that only complete coverage reads 100 %."""
    if part is None:
        return "–"
    return "100 %" if part >= 1 else f"{int(part * 1000) / 10:g} %"


def days(count: float) -> str:
    """Format a number of days: `3 days`, `5 weeks`, `7 months`."""
    if count < 1:
        return "less than a day"
    for limit, length, name in ((21, 1, "day"), (120, 7, "week"), (100_000, 30.44, "month")):
        if count < limit:
            number = round(count / length)
            return f"{number} {name}{'' if number == 1 else 's'}"
    return "years"


def span(value: timedelta) -> str:
    """Format a duration by its two largest units: `2 h 5 min`."""
    seconds = round(value.total_seconds())
    parts: list[str] = []
    for name, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count or (name == "s" and not parts):
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])


def instant(value: datetime) -> str:
    """Format as `2026-11-24 03:30 UTC`."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def markdown(text: object) -> str:
    """Escape text for Markdown and for HTML within it; the result is one line."""
    one_line = " ".join(str(text).split())
    escaped = _MARKDOWN.sub(r"\\\1", one_line).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _BLOCK.sub(lambda match: match[1] + "\\" if match[1].isdigit() else "\\" + match[1], escaped)


def code(text: object) -> str:
    """Make a Markdown code span of any text, with a fence longer than any run of backticks in it."""
    one_line = " ".join(str(text).split())
    longest = max((len(run) for run in re.findall(r"`+", one_line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{one_line}{pad}{fence}"


def _plain(value: float) -> str:
    size = abs(value)
    if size >= 100 or (size >= 1 and value == int(value)) or size == 0:
        return f"{value:,.0f}"
    if size < 0.01:
        return "<0.01"
    return f"{value:.1f}" if size >= 10 else f"{value:.3g}"


def _seconds(value: float) -> str:
    size = abs(value)
    if size >= 1e9:
        return f"{_plain(value / 31_557_600)} years"
    if size >= 120:
        return span(timedelta(seconds=value)) if value > 0 else f"−{span(timedelta(seconds=-value))}"
    return f"{value:.3g} s" if size >= 1 else f"{_plain(value * 1000)} ms"
