"""What people type as values: instants, how long, params."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from maintd.errors import UsageError

# maintd.units is imported where it is needed: it takes longer than all else of a command that only asks.

FORMS = "write for example 30m (from now), 2026-12-06T02:00Z or 2026-12-06T02:00+01:00"


def instant(text: str, now: datetime) -> str:
    """`30m`, `in 2h` or `+2h` from now, or ISO 8601 with a zone → ISO 8601 in UTC. Raises UsageError."""
    from maintd.units import parse_duration, utc_text

    try:
        return utc_text(now + parse_duration(text.removeprefix("in ").removeprefix("+")))
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f'"{text}" is no time', FORMS) from None
    if moment.tzinfo is None:
        raise UsageError(f'"{text}" has no time zone', FORMS)
    return utc_text(moment.astimezone(UTC))


def past(text: str, now: datetime) -> str:
    """`7d` ago, a day in UTC, or ISO 8601 with a zone → ISO 8601 in UTC. Raises UsageError."""
    from maintd.units import parse_duration, utc_text

    forms = "write for example 7d (ago), 2026-12-06 (from midnight UTC) or 2026-12-06T02:00Z"
    try:
        return utc_text(now - parse_duration(text.removesuffix(" ago")))
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f'"{text}" is no time', forms) from None
    if moment.tzinfo is None:
        if len(text) > len("2026-12-06"):
            raise UsageError(f'"{text}" has no time zone', forms)
        moment = moment.replace(tzinfo=UTC)
    return utc_text(moment.astimezone(UTC))


def lasting(text: str) -> timedelta:
    """A duration. Raises UsageError."""
    from maintd.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def params(pairs: Iterable[str]) -> dict[str, Any]:
    """`name=value` pairs. A name given twice is a list; a value that starts with [, { or " is JSON.

    Any other value stays a text, which the job's own types read: `5`, `true`, `30d`. Raises UsageError.
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
