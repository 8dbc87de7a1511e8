"""Which runs are late: by their rows, with and without channels for notices."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy.engine import Connection

from maintd.model.entry import Rule
from maintd.model.notice import NotifyConfig
from maintd.schedule import jitter_of
from maintd.store.entries import entry_states
from maintd.store.period import late_starts


def allowed_lateness(config: NotifyConfig, entry: str, rule: Rule | None, due_at: datetime) -> timedelta:
    """How much later than its due time a run may start: the grace of its entry, after the jitter. Pure."""
    jitter = timedelta(0) if rule is None else jitter_of(entry, due_at, rule.jitter)
    return jitter + config.grace_of(entry)


def is_late(lateness: timedelta, allowed: timedelta) -> bool:
    """Whether a run that starts so long after its due time, or still waits then, is late. Pure."""
    return lateness > allowed


def count_late(conn: Connection, config: NotifyConfig, since: datetime, until: datetime, now: datetime) -> int:
    """The runs with `queued_at` in [since, until) that started late, and those that still wait and are late now.

    Only runs with a due time count: not those that were triggered, and no dry runs.
    """
    found = late_starts(conn, since, until, now, config.least_grace)
    states = entry_states(conn, sorted({start.entry for start in found})) if found else {}
    rules: Mapping[str, Rule | None] = {name: state.rule for name, state in states.items()}
    return sum(
        is_late(
            start.started_at - start.due_at,
            allowed_lateness(config, start.entry, rules.get(start.entry), start.due_at),
        )
        for start in found
    )
