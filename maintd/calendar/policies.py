"""The keys that set how runs are treated: in `defaults`, in an entry, and a few of them in a step."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any

from maintd.calendar.value_readers import NodeReader, kind
from maintd.config.yaml_tree import Node, ScalarNode, SequenceNode
from maintd.model.entry import After, AfterCrash, Blackout, CatchUp, LockMode, Overlap
from maintd.schedule import blackout_problem

POLICY_KEYS = (
    "timeout",
    "retries",
    "retry_backoff",
    "overlap",
    "after_crash",
    "hold_locks",
    "catch_up",
    "catch_up_window",
    "misfire",
    "lock_wait",
    "blackout",
)
"""Keys of `defaults` and of an entry that are fields of `Policy` by themselves."""

MAX_RETRIES = 20

_DURATIONS = ("timeout", "retry_backoff", "catch_up_window", "misfire", "lock_wait")
_MAY_BE_ZERO = ("retry_backoff", "catch_up_window", "lock_wait")
_CHOICES: dict[str, type[StrEnum]] = {"overlap": Overlap, "catch_up": CatchUp, "after_crash": AfterCrash}
_BLACKOUT_KEYS = ("name", "date", "first", "last", "holidays", "cron", "lasting")
_LOCK_MODES: tuple[LockMode, ...] = ("shared", "exclusive")


def read_policy(scope: NodeReader, fields: Mapping[str, tuple[ScalarNode, Node]], timezone: str) -> dict[str, Any]:
    """The valid values of the policy's keys."""
    found: dict[str, Any] = {}
    for key in POLICY_KEYS:
        if key in fields:
            value = _read(scope, key, fields[key][1], timezone)
            if value is not None:
                found[key] = value
    return found


def read_positive(scope: NodeReader, node: Node, what: str) -> timedelta | None:
    """A duration longer than zero."""
    value = scope.duration(node, what)
    if value is not None and value <= timedelta(0):
        scope.error(node, f"{what} must be longer than zero")
        return None
    return value


def read_after(scope: NodeReader, node: Node) -> After | None:
    """`after: {entry: NAME, within: DURATION}`, with `if_configured: true` where that entry may be not in use."""
    if isinstance(node, ScalarNode):
        scope.error(node, f"after has no maximum age; write after: {{entry: {node.text}, within: 26h}}")
        return None
    fields = scope.fields(node, "after", ("entry", "within", "if_configured"))
    for key in ("entry", "within"):
        if key not in fields:
            scope.error(node, f'after has no "{key}"; for example after: {{entry: daily-backup, within: 26h}}')
    if not {"entry", "within"} <= fields.keys():
        return None
    entry = scope.text(fields["entry"][1], "after: entry")
    within = read_positive(scope, fields["within"][1], "after: within")
    given = fields.get("if_configured")
    if_configured = False if given is None else scope.flag(given[1], "after: if_configured")
    if entry is None or within is None or if_configured is None:
        return None
    return After(entry=entry, within=within, if_configured=if_configured)


def read_locks(scope: NodeReader, node: Node) -> dict[str, LockMode]:
    """`locks: [postgres]`, which is exclusive, or `locks: {postgres: shared}`."""
    if not isinstance(node, SequenceNode) and not isinstance(node, ScalarNode):
        found: dict[str, LockMode] = {}
        for key, value in scope.pairs(node, "locks", "lock"):
            mode = value.text if isinstance(value, ScalarNode) else None
            if mode in _LOCK_MODES:
                found[key.text] = "shared" if mode == "shared" else "exclusive"
            else:
                scope.error(value, f'lock "{key.text}" must be shared or exclusive, not {kind(value)}')
        return found
    names = [scope.text(item, "lock") for item in scope.items(node)]
    return {name: "exclusive" for name in names if name is not None}


def read_blackouts(scope: NodeReader, node: Node, timezone: str) -> tuple[Blackout, ...]:
    """A list of blackouts; a date is a blackout of one day."""
    read = [_blackout(scope, item, timezone) for item in scope.items(node)]
    return tuple(blackout for blackout in read if blackout is not None)


def _read(scope: NodeReader, key: str, node: Node, timezone: str) -> Any:
    if key in _DURATIONS:
        return scope.duration(node, key) if key in _MAY_BE_ZERO else read_positive(scope, node, key)
    if key == "retries":
        return scope.number(node, key, 0, MAX_RETRIES)
    if key == "hold_locks":
        return scope.flag(node, key)
    if key == "blackout":
        return read_blackouts(scope, node, timezone)
    return scope.choice(node, key, _CHOICES[key])


def _blackout(scope: NodeReader, node: Node, timezone: str) -> Blackout | None:
    within = scope.within("blackout")
    if isinstance(node, ScalarNode):
        day = within.day(node, "date")
        return None if day is None else Blackout(date=day)
    fields = {key: value for key, (_, value) in within.fields(node, "a blackout", _BLACKOUT_KEYS).items()}
    kinds = [
        keys
        for keys in (("date",), ("first", "last"), ("holidays",), ("cron", "lasting"))
        if any(key in fields for key in keys)
    ]
    if len(kinds) != 1 or any(key not in fields for key in kinds[0]):
        within.error(node, "write one of date, first and last, holidays, or cron and lasting")
        return None
    values: dict[str, Any] = {}
    for key, value in fields.items():
        if key in ("date", "first", "last"):
            values[key] = within.day(value, key)
        elif key == "lasting":
            values[key] = read_positive(within, value, key)
        else:
            values[key] = within.text(value, key)
    if None in values.values():
        return None
    if "first" in values and values["first"] > values["last"]:
        within.error(fields["last"], f"last {values['last']} is before first {values['first']}")
        return None
    if "name" not in values:
        values["name"] = f"holidays {values['holidays']}" if "holidays" in values else ""
    blackout = Blackout(**values)
    problem = blackout_problem(blackout, timezone)
    if problem:
        within.error(fields.get("cron") or fields["holidays"], problem)
        return None
    return blackout
