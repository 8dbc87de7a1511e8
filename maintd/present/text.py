"""Small texts that every view uses: times, durations, values, symbols, colour, wrapping."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum

WIDTH = 80


class Tone(StrEnum):
    """The urgency of a text, as the SGR code of its colour."""

    GOOD = "32"  # green
    WARN = "33"  # yellow
    BAD = "31"  # red
    LIVE = "36"  # cyan: in progress
    DIM = "2"
    STRONG = "1"
    PLAIN = ""


class Style:
    """Colours texts, or returns them unchanged."""

    def __init__(self, colour: bool) -> None:
        self.colour = colour

    def __call__(self, text: str, tone: Tone) -> str:
        return f"\x1b[{tone.value}m{text}\x1b[0m" if self.colour and tone is not Tone.PLAIN and text else text


# A symbol is always printed beside its word.
SYMBOLS: dict[str, tuple[str, Tone]] = {
    "succeeded": ("✓", Tone.GOOD),
    "ok": ("✓", Tone.GOOD),
    "warned": ("!", Tone.WARN),
    "unknown": ("?", Tone.BAD),
    "warn": ("!", Tone.WARN),
    "failed": ("✗", Tone.BAD),
    "fail": ("✗", Tone.BAD),
    "timed_out": ("✗", Tone.BAD),
    "lost": ("?", Tone.BAD),
    "cancelled": ("■", Tone.WARN),
    "skipped": ("–", Tone.DIM),
    "running": ("▶", Tone.LIVE),
    "queued": ("…", Tone.LIVE),
    "waiting": ("‖", Tone.WARN),
    "pending": ("·", Tone.DIM),
    "open": ("·", Tone.WARN),
    "ticked": ("✓", Tone.GOOD),
    "proved": ("✓", Tone.GOOD),
    "not_proved": ("✗", Tone.BAD),
    "paused": ("‖", Tone.WARN),
    "disabled": ("–", Tone.DIM),
    "never_ran": ("·", Tone.DIM),
}


def symbol(word: str, style: Style) -> str:
    """The coloured symbol of a state."""
    mark, tone = SYMBOLS.get(word, ("·", Tone.PLAIN))
    return style(mark, tone)


def state_text(word: str, style: Style, width: int = 0) -> str:
    """A state as a word in its colour, padded: `timed_out` → `timed out`."""
    return style(word.replace("_", " ").ljust(width), SYMBOLS.get(word, ("", Tone.PLAIN))[1])


def rough_text(value: timedelta) -> str:
    """One unit: `12s`, `3m`, `2h`, `3d`."""
    seconds = max(0, int(value.total_seconds()))
    for size, unit in ((2 * 86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // (86400 if unit == 'd' else size)}{unit}"
    return f"{seconds}s"


def ago(at: datetime, now: datetime) -> str:
    """`3h ago`, `just now`; `in 5m` if it is in the future."""
    past = now - at
    if past < timedelta(seconds=-1):
        return f"in {rough_text(-past)}"
    return "just now" if past < timedelta(seconds=2) else f"{rough_text(past)} ago"


def from_now(at: datetime, now: datetime) -> str:
    """`in 4d`, `now` or `3m late`."""
    left = at - now
    if abs(left) < timedelta(seconds=1):
        return "now"
    return f"{rough_text(-left)} late" if left < timedelta(0) else f"in {rough_text(left)}"


def utc_minute(at: datetime) -> str:
    """`Sun 2026-11-29 04:00 UTC`."""
    return f"{at.astimezone(UTC):%a %Y-%m-%d %H:%M} UTC"


def utc_second(at: datetime) -> str:
    """`2026-11-29 04:00:07 UTC`."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def wrap(text: str, width: int, indent: str = "", hanging: str | None = None) -> Iterator[str]:
    """The text in lines of at most `width`; only a longer word exceeds it. Its own line breaks are kept."""
    after = indent if hanging is None else hanging
    for number, line in enumerate(text.splitlines() or [""]):
        wrapped = textwrap.wrap(
            _BEFORE_UNIT.sub(_NO_BREAK, printable(line)),
            width=max(width, 20),
            initial_indent=after if number else indent,
            subsequent_indent=after,
            break_long_words=False,
            break_on_hyphens=False,
        )
        yield from (part.replace(_NO_BREAK, " ") for part in wrapped or [""])


# A number and its unit stay on one line.
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=%|[KMGT]?i?B\b)")
_NO_BREAK = "\N{NO-BREAK SPACE}"


def printable(text: str) -> str:
    """The text with its control characters replaced: output of a job or a server must not control the terminal."""
    return "".join(char if char.isprintable() or char == "\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def column_widths(rows: Sequence[Sequence[str]], gap: int = 1) -> list[int]:
    """The width of each column, the gap after it included."""
    count = max((len(row) for row in rows), default=0)
    widths = [max((len(row[index]) for row in rows if index < len(row)), default=0) for index in range(count)]
    return [width + gap for width in widths]
