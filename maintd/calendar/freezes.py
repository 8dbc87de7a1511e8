"""The `freezes` of a calendar: times in which no entry that changes something runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatchcase
from zoneinfo import ZoneInfo

from maintd.calendar.value_readers import NodeReader, kind, unknown
from maintd.config.yaml_tree import MappingNode, Node
from maintd.model.entry import Freeze
from maintd.present.text import utc_minute
from maintd.schedule.wall_time import FIRST_YEAR, LAST_YEAR, instant_of, zone_named

FREEZE_KEYS = ("from", "until", "why", "entries")

_EXAMPLE = "for example {from: 2026-12-24, until: 2027-01-02, why: the year-end closing}"
_TIME_EXAMPLE = "for example 2026-12-24, or 2026-12-24 18:00 in the calendar's time zone"


def read_freezes(scope: NodeReader, node: Node | None, timezone: str, names: Sequence[str]) -> tuple[Freeze, ...]:
    """The freezes of a list; `names` are those of all entries. Errors are added to the scope."""
    if node is None:
        return ()
    zone = zone_named(timezone) or ZoneInfo("UTC")
    read = [_freeze(scope.within("freeze"), item, zone, names) for item in scope.items(node)]
    return tuple(freeze for freeze in read if freeze is not None)


def _freeze(scope: NodeReader, node: Node, zone: ZoneInfo, names: Sequence[str]) -> Freeze | None:
    before = len(scope.problems.errors)
    if not isinstance(node, MappingNode):
        scope.error(node, f"a freeze must be a mapping, not {kind(node)}; {_EXAMPLE}")
        return None
    fields = {key: value for key, (_, value) in scope.fields(node, "a freeze", FREEZE_KEYS).items()}
    for key in ("from", "until", "why"):
        if key not in fields:
            scope.error(node, f'a freeze has no "{key}"; {_EXAMPLE}')
    since = _time(scope, fields["from"], "from", zone) if "from" in fields else None
    until = _time(scope, fields["until"], "until", zone) if "until" in fields else None
    why = scope.text(fields["why"], "why") if "why" in fields else None
    entries = scope.text(fields["entries"], "entries") if "entries" in fields else "*"
    if since is not None and until is not None and until <= since:
        scope.error(fields["until"], f"until {utc_minute(until)} is not after from {utc_minute(since)}")
    if entries is not None and entries != "*" and not any(fnmatchcase(name, entries) for name in names):
        otherwise = "name an entry of this calendar, or a pattern such as backup-*"
        scope.error(fields["entries"], unknown("entry", entries, names, otherwise))
    if len(scope.problems.errors) > before or why is None or entries is None:
        return None
    place = f"line {node.line}" if not node.file else f"{node.file}:{node.line}"
    return Freeze(entries=entries, why=why, by=f"the calendar ({place})", since=since, until=until)


def _time(scope: NodeReader, node: Node, key: str, zone: ZoneInfo) -> datetime | None:
    """A day, which is its start, or as `until` its end; or a time, without an offset in the calendar's time zone."""
    text = scope.text(node, key)
    if text is None:
        return None
    at: datetime | None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        pass
    else:
        if key == "until" and day.year <= LAST_YEAR:
            day += timedelta(days=1)
        text = day.isoformat()
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or not FIRST_YEAR <= at.year <= LAST_YEAR:
        scope.error(node, f'{key} "{text}" is not a day or a time; {_TIME_EXAMPLE}')
        return None
    return instant_of(at.replace(tzinfo=zone)) if at.tzinfo is None else at.astimezone(UTC)
