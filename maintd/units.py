"""Durations, sizes, times and counts as text, parsed and formatted: `90s`, `2h`, `7d`; `500MB`, `20GiB`; `3 rows`."""

from __future__ import annotations

import re
from collections.abc import Iterable
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
_COUNTABLE = re.compile(r"(?:[a-z]+ )?[a-z]{2,}[a-rt-z]")
_UNCHANGED = frozenset({"min", "sec", "rpm", "percent"})  # abbreviations
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


def written_size(size_bytes: int) -> str:
    """The shortest text that `parse_size` parses to the same value: `10MB`, `2GiB`, `1234567B`."""
    for factors, suffix in ((_SIZE_BINARY, "iB"), (_SIZE_UNITS, "B")):
        for prefix, factor in reversed(factors.items()):
            if prefix and size_bytes and size_bytes % factor == 0:
                return f"{size_bytes // factor}{prefix.upper() if suffix == 'iB' else prefix}{suffix}"
    return f"{size_bytes}B"


def is_size(metadata: Iterable[object]) -> bool:
    """Whether a field with this metadata was declared as `Size`."""
    return any(
        isinstance(item, WithJsonSchema) and (item.json_schema or {}).get("format") == "size" for item in metadata
    )


def seconds_text(seconds: float) -> str:
    """Seconds as `duration_text`."""
    return duration_text(timedelta(seconds=seconds))


def duration_text(value: timedelta) -> str:
    """Two significant units, as the calendar writes them: `400ms`, `12s`, `3m20s`, `2h5m`, `3d4h`."""
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


def value_text(value: bool | float | str | None, unit: str = "", *, exact: bool = False) -> str:
    """A value with its unit, observed or expected: `31.25 %`, `1.4 GiB`, `1h30m`, `1,204 rows`, `yes`; `not observed`
    for None. A unit that is a noun in the singular, such as `row`, gets its plural. `exact` is for limits.
    """
    if value is None:
        return "not observed"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return f"{value} {unit}".strip()
    if unit == "B":
        return format_size(value)
    if unit == "s":
        return _seconds_text(value, exact=exact)
    if exact or isinstance(value, int):
        number = f"{value:,}".removesuffix(".0")
    else:
        number = f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    noun = plural_noun(unit) if abs(value) != 1 and _COUNTABLE.fullmatch(unit) and unit not in _UNCHANGED else unit
    return f"{number} {noun}".strip()


def _seconds_text(seconds: float, *, exact: bool = False) -> str:
    """Seconds as a duration; more exact than `duration_text` below a minute, where limits are close."""
    if 1 <= abs(seconds) < 60:
        return f"{seconds:.4g}s"
    if 0 < abs(seconds) < 1:
        return f"{seconds * 1000:.4g}ms"
    try:
        value = timedelta(seconds=seconds)
        return format_duration(value) if exact and seconds > 0 else duration_text(value)
    except (OverflowError, ValueError):  # longer than a timedelta, or not a number
        return f"{seconds:,.4g}s"


def plural(count: int, noun: str) -> str:
    """`1 check`, `3 checks`, `1,204 entries`."""
    return f"{count:,} {noun if count == 1 else plural_noun(noun)}"


def plural_noun(noun: str) -> str:
    """`checks`, `entries`, `indexes`."""
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch")) else f"{noun}s"


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
    if value.tzinfo is UTC:
        return value
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
