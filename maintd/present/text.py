"""Small texts that every view is made of: times, durations, values, symbols, colour, wrapping."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from maintd.model.evidence import Scalar
from maintd.units import format_size

WIDTH = 80


class Tone(StrEnum):
    """How urgent a text is; a terminal shows it as a colour."""

    GOOD = "32"  # green
    WARN = "33"  # yellow
    BAD = "31"  # red
    LIVE = "36"  # cyan: under way
    DIM = "2"
    STRONG = "1"
    PLAIN = ""


class Ink:
    """Colours texts, or leaves them as they are."""

    def __init__(self, colour: bool) -> None:
        self.colour = colour

    def __call__(self, text: str, tone: Tone) -> str:
        return f"\x1b[{tone.value}m{text}\x1b[0m" if self.colour and tone is not Tone.PLAIN and text else text


# Every word for a state, with the symbol that goes with it: never the symbol alone.
LOOKS: dict[str, tuple[str, Tone]] = {
    "succeeded": ("✓", Tone.GOOD),
    "ok": ("✓", Tone.GOOD),
    "warned": ("!", Tone.WARN),
    "warn": ("!", Tone.WARN),
    "unknown": ("?", Tone.WARN),
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
    "paused": ("‖", Tone.WARN),
    "disabled": ("–", Tone.DIM),
    "never_ran": ("·", Tone.DIM),
}


def symbol(word: str, ink: Ink) -> str:
    """The coloured symbol of a state."""
    mark, tone = LOOKS.get(word, ("·", Tone.PLAIN))
    return ink(mark, tone)


def worded(word: str, ink: Ink, width: int = 0) -> str:
    """A state as a word in its colour, padded: `timed_out` → `timed out`."""
    return ink(word.replace("_", " ").ljust(width), LOOKS.get(word, ("", Tone.PLAIN))[1])


def duration_text(value: timedelta) -> str:
    """Two figures that matter: `0.4s`, `12s`, `3m20s`, `2h5m`, `3d4h`. Written as the calendar writes durations."""
    seconds = value.total_seconds()
    if seconds < 0:
        return f"-{duration_text(-value)}"
    if seconds < 0.0005:
        return "0s"
    if seconds < 0.995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    whole = round(seconds)
    for size, unit, small, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            count, rest = divmod(whole, size)
            rest //= small
            return f"{count}{unit}{rest}{small_unit}" if rest and count < 100 else f"{count}{unit}"
    return f"{whole}s"


def rough_text(value: timedelta) -> str:
    """One figure: `12s`, `3m`, `2h`, `3d`. For "how long ago", where the rest is noise."""
    seconds = max(0, int(value.total_seconds()))
    for size, unit in ((2 * 86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // (86400 if unit == 'd' else size)}{unit}"
    return f"{seconds}s"


def ago(at: datetime, now: datetime) -> str:
    """`3h ago`, `just now`, or `in 5m` when the clock says that it is still to come."""
    past = now - at
    if past < timedelta(seconds=-1):
        return f"in {rough_text(-past)}"
    return "just now" if past < timedelta(seconds=2) else f"{rough_text(past)} ago"


def from_now(at: datetime, now: datetime) -> str:
    """`in 4d`, or `3m late`."""
    left = at - now
    return f"{rough_text(-left)} late" if left < timedelta(seconds=-1) else f"in {rough_text(left)}"


def utc_minute(at: datetime) -> str:
    """`Sun 2026-11-29 04:00 UTC`."""
    return f"{at.astimezone(UTC):%a %Y-%m-%d %H:%M} UTC"


def utc_second(at: datetime) -> str:
    """`2026-11-29 04:00:07 UTC`."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def value_text(value: Scalar, unit: str = "") -> str:
    """What was observed, with its unit; bytes as a person reads them; `not observed` for nothing."""
    if value is None:
        return "not observed"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return f"{value} {unit}".strip()
    if unit == "B":
        return format_size(value)
    number = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return f"{number} {unit}".strip()


def plural(count: int, noun: str) -> str:
    """`1 check`, `3 checks`, `2 entries`, `7 days`."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}{'es' if noun.endswith(('s', 'x', 'ch')) else 's'}"


def wrapped(text: str, width: int, indent: str = "", hanging: str | None = None) -> Iterator[str]:
    """The text in lines of at most `width`, unbroken only where a single word is longer. Its own lines stay."""
    after = indent if hanging is None else hanging
    for number, line in enumerate(text.splitlines() or [""]):
        yield from textwrap.wrap(
            printable(line),
            width=max(width, 20),
            initial_indent=after if number else indent,
            subsequent_indent=after,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]


def printable(text: str) -> str:
    """Without control characters: what a job or a server said must not steer the terminal."""
    return "".join(char if char.isprintable() or char == "\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def columns(rows: Sequence[Sequence[str]], gap: int = 1, least: Sequence[int] = ()) -> list[int]:
    """The width of each column."""
    count = max((len(row) for row in rows), default=0)
    widths = [max((len(row[index]) for row in rows if index < len(row)), default=0) for index in range(count)]
    return [max(width, *(least[index : index + 1] or [0])) + gap for index, width in enumerate(widths)]
