"""What a check expects: its limits, and how they and what was observed are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from maintd.model.evidence import Scalar
from maintd.units import format_duration, format_size

Number = int | float | timedelta | datetime


@dataclass(frozen=True)
class Limit:
    """One limit: how it reads, whether a value is within it, and whether to miss it fails the check or only warns."""

    text: str
    holds: Callable[[Any], bool]
    strict: bool = True


def limits_of(
    at_most: Number | None,
    at_least: Number | None,
    equals: Scalar,
    one_of: Sequence[Scalar] | None,
    warn_above: Number | None,
    warn_below: Number | None,
    unit: str,
) -> list[Limit]:
    """What the arguments of `Context.check` mean, those that decide before those that only warn."""

    def text(value: Any) -> str:
        shown, shown_unit = shown_as(value, unit)
        if isinstance(value, timedelta):
            return format_duration(value)
        if unit == "B" and isinstance(value, int | float):
            return format_size(value)
        return f"{shown} {shown_unit}".rstrip()

    limits = []
    if equals is not None:
        limits.append(Limit(text(equals), lambda seen: seen == equals))
    if one_of is not None:
        limits.append(Limit("one of " + ", ".join(text(value) for value in one_of), lambda seen: seen in one_of))
    if at_most is not None:
        limits.append(Limit(f"at most {text(at_most)}", lambda seen: seen <= at_most))
    if at_least is not None:
        limits.append(Limit(f"at least {text(at_least)}", lambda seen: seen >= at_least))
    if warn_above is not None:
        limits.append(Limit(f"normally at most {text(warn_above)}", lambda seen: seen <= warn_above, strict=False))
    if warn_below is not None:
        limits.append(Limit(f"normally at least {text(warn_below)}", lambda seen: seen >= warn_below, strict=False))
    return limits


def joined(limits: Sequence[Limit]) -> str:
    """All of them in one line."""
    return ", ".join(limit.text for limit in limits)


def shown_as(value: Any, unit: str) -> tuple[Scalar, str]:
    """A value as it is kept with a check, and its unit: durations as seconds, instants as ISO 8601 in UTC."""
    if isinstance(value, timedelta):
        return round(value.total_seconds(), 3), "s"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"), unit
    if isinstance(value, float):
        return float(f"{value:.6g}"), unit
    return value, unit
