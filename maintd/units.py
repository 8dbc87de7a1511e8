"""Durations, sizes and times as text, parsed and formatted: `90s`, `30m`, `2h`, `7d`; `500MB`, `20GiB`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

LARGEST_SIZE = 2**62
"""Bytes; the largest integer of the databases is 2**63 - 1."""

_DURATION_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGT]i?B?|B)?")
_SIZE_UNITS = {"": 1, "k": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_SIZE_BINARY = {"k": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def parse_duration(text: str) -> timedelta:
    """`1h30m` → 1 h 30 min. Units: ms, s, m, h, d (24 h), w (7 d). Raises ValueError, whose message has an example."""
    clean = text.strip().replace(" ", "")
    if not _DURATION.fullmatch(clean):
        raise ValueError(f'"{text}" is not a duration; write for example 90s, 30m, 2h or 7d')
    try:
        return sum((_DURATION_UNITS[unit] * float(n) for n, unit in _DURATION_PART.findall(clean)), timedelta())
    except OverflowError:
        raise ValueError(f'"{text}" is too long for a duration') from None


def format_duration(value: timedelta) -> str:
    """The shortest text that `parse_duration` parses to the same value, rounded to milliseconds: 5400 s → `1h30m`."""
    milliseconds = (value + timedelta(microseconds=500)) // timedelta(milliseconds=1)
    if milliseconds == 0:
        return "0s"
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def parse_size(text: str) -> int:
    """`500MB` → 500,000,000 bytes; `20GiB` → 20 × 1024³. Raises ValueError, whose message has an example."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f'"{text}" is not a size; write for example 500MB or 20GiB')
    unit = (match[2] or "").removesuffix("B")
    prefix = unit[:1].replace("K", "k")
    factor = _SIZE_BINARY[prefix] if unit.endswith("i") else _SIZE_UNITS[prefix]
    size = float(match[1]) * factor
    if size > LARGEST_SIZE:
        raise ValueError(f'"{text}" is too large for a size')
    return round(size)


def format_size(size_bytes: float) -> str:
    """Bytes in binary units, for people: `1.4 GiB`."""
    amount = float(size_bytes)
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(amount) < 1024:
            break
        amount /= 1024
        unit = larger
    return f"{amount:.0f} {unit}" if unit == "B" or abs(amount) >= 100 else f"{amount:.1f} {unit}"


def utc_text(at: datetime) -> str:
    """ISO 8601 in UTC with `Z`, the format of every time in JSON."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _read_duration(value: Any) -> Any:
    if isinstance(value, str) and not value.startswith(("P", "-P")):
        return parse_duration(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"{value} has no unit; write for example {value}s or {value}m")  # noqa: TRY004 - pydantic collects ValueErrors
    return value


def _read_size(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) else value


def _aware_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("the time has no time zone")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time is out of range") from None


Duration = Annotated[
    timedelta,
    BeforeValidator(_read_duration),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    # Not "format: duration", which is that of ISO 8601.
    WithJsonSchema(
        {"type": "string", "format": "time-span", "pattern": f"^{_DURATION.pattern}$", "examples": ["30m", "2h", "7d"]}
    ),
]
"""A timedelta, written as `90s`, `30m`, `2h` or `7d` in YAML, on the command line and in JSON."""

Size = Annotated[
    int,
    BeforeValidator(_read_size),
    WithJsonSchema({"type": "string", "format": "size", "examples": ["500MB", "20GiB"]}),
]
"""A number of bytes, written as `500MB` or `20GiB`."""


def _read_instant(value: Any) -> Any:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return _aware_utc(moment) if isinstance(moment, datetime) else moment


Instant = Annotated[
    datetime, BeforeValidator(_read_instant), PlainSerializer(utc_text, return_type=str, when_used="json")
]
"""An aware UTC datetime, in JSON in ISO 8601 with `Z`."""
