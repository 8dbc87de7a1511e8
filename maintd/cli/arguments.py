"""Parsing of argument values: times, durations, params."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from maintd.errors import UsageError

# maintd.units is imported in the functions: importing it takes longer than the rest of a command that only reads.

FUTURE_EXAMPLES = "write for example 30m (from now), 2026-12-06T02:00Z or 2026-12-06T02:00+01:00"
PAST_EXAMPLES = "write for example 7d (ago), 2026-12-06 (from midnight UTC) or 2026-12-06T02:00Z"


def future_time(text: str, now: datetime) -> datetime:
    """`30m`, `in 2h` or `+2h` from now, or ISO 8601 with a zone → a time in UTC. Raises UsageError."""
    from maintd.units import parse_duration

    try:
        return now + parse_duration(text.removeprefix("in ").removeprefix("+"))
    except (ValueError, OverflowError):
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f'"{text}" is not a time', FUTURE_EXAMPLES) from None
    if at.tzinfo is None:
        raise UsageError(f'"{text}" has no time zone', FUTURE_EXAMPLES)
    return at.astimezone(UTC)


def past_time(text: str, now: datetime) -> datetime:
    """`7d` ago, a day in UTC, or ISO 8601 with a zone → a time in UTC. Raises UsageError."""
    from maintd.units import parse_duration

    try:
        return now - parse_duration(text.removesuffix(" ago"))
    except (ValueError, OverflowError):
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f'"{text}" is not a time', PAST_EXAMPLES) from None
    if at.tzinfo is None:
        if len(text) > len("2026-12-06"):
            raise UsageError(f'"{text}" has no time zone', PAST_EXAMPLES)
        at = at.replace(tzinfo=UTC)
    return at.astimezone(UTC)


def duration(text: str) -> timedelta:
    """A duration such as `2h`. Raises UsageError."""
    from maintd.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def params(pairs: Iterable[str]) -> dict[str, Any]:
    """`name=value` pairs. A repeated name makes a list; a value that starts with [, { or " is JSON; `null` is None.

    Any other value stays text, which the job's types parse: `5`, `true`, `30d`. Raises UsageError.
    """
    found: dict[str, Any] = {}
    lists: set[str] = set()
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError(f'-p "{pair}" is not name=value', "write for example -p keep=30d")
        value = _value(name, text)
        if name in lists:
            found[name].append(value)
        elif name in found:
            found[name] = [found[name], value]
            lists.add(name)
        else:
            found[name] = value
    return found


def _value(name: str, text: str) -> Any:
    if text == "null":
        return None
    if text[:1] not in ("[", "{", '"'):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"-p {name}: not JSON: {error}", 'quote it for the shell: -p \'name=["a", "b"]\'') from None


def end_of(now: datetime, until: str | None, lasting: str | None) -> datetime | None:
    """The end that `--until` or `--for` gives; None without them. Raises UsageError for both."""
    if until is not None and lasting is not None:
        raise UsageError("--until and --for exclude each other", "give one of them")
    if until is not None:
        return future_time(until, now)
    return None if lasting is None else now + duration(lasting)
