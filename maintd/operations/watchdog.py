"""The watchdog: what should have happened by the schedules, compared with what the store has.

It reads what any node plans and claims, so it finds what the planner, the executor or another node failed to do. It
runs apart from the daemon's loop, which it watches, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from maintd.model.run import RunSummary
from maintd.model.status import NodeState
from maintd.present import utc_minute
from maintd.schedule import compile_rule
from maintd.store import Store
from maintd.store.entries import EntryVersion
from maintd.store.runs import overdue_runs

UNPLANNED_AFTER = timedelta(minutes=2)
"""A due time whose row is not written so long afterwards is missing; planning takes milliseconds."""

WITHOUT_LEASE_AFTER = timedelta(minutes=2)
"""A run whose lease ended so long ago should have been marked as lost by the sweep of any node."""

SILENT_AFTER = timedelta(minutes=2)
GONE_AFTER = timedelta(hours=1)
"""A node that did not stop properly is missing from SILENT_AFTER until GONE_AFTER: then it is taken for removed."""

MOST_QUEUED = 500


class MissingKind(StrEnum):
    """What is missing."""

    UNPLANNED = "unplanned"  # a due time has no row
    QUEUED = "queued"  # a run that could have started has not
    WITHOUT_LEASE = "without_lease"  # a run is called running, and no node holds it
    SILENT_NODE = "silent_node"  # a node that did not stop sends no heartbeats


class Missing(NamedTuple):
    """Something that should have happened. `subject` is an entry or a node."""

    kind: MissingKind
    subject: str
    since: datetime
    run_id: int | None = None

    @property
    def text(self) -> str:
        """What it is, in a sentence."""
        since = utc_minute(self.since)
        return {
            MissingKind.UNPLANNED: f'entry "{self.subject}" was due {since} and was not planned',
            MissingKind.QUEUED: f'entry "{self.subject}": run {self.run_id} should have started {since}',
            MissingKind.WITHOUT_LEASE: f'entry "{self.subject}": no node has held run {self.run_id} since {since}',
            MissingKind.SILENT_NODE: f'node "{self.subject}" has sent no heartbeat since {since}',
        }[self.kind]


def find_missing(
    next_due: Mapping[str, datetime],
    queued: Iterable[RunSummary],
    without_lease: Iterable[RunSummary],
    nodes: Iterable[NodeState],
    grace_of: Callable[[str], timedelta],
    now: datetime,
) -> tuple[Missing, ...]:
    """What is missing, longest first. Pure.

    `next_due` has the first due time of each active entry that was not planned yet, `without_lease` the running runs
    whose lease ended WITHOUT_LEASE_AFTER ago, and `grace_of` how late the run of an entry may start.
    """
    found = [Missing(MissingKind.UNPLANNED, *item) for item in next_due.items() if now - item[1] > UNPLANNED_AFTER]
    found += [
        Missing(MissingKind.QUEUED, run.entry, run.not_before, run.id)
        for run in queued
        if not run.dry_run and now - run.not_before > grace_of(run.entry)
    ]
    found += [Missing(MissingKind.WITHOUT_LEASE, run.entry, now - WITHOUT_LEASE_AFTER, run.id) for run in without_lease]
    found += [
        Missing(MissingKind.SILENT_NODE, node.name, node.seen_at)
        for node in nodes
        if SILENT_AFTER < now - node.seen_at <= GONE_AFTER
    ]
    return tuple(sorted(found, key=lambda missing: (missing.since, missing.kind, missing.subject)))


class Watchdog:
    """Compares at each `check`. Not thread-safe, but `found` can be read from any thread."""

    def __init__(self, store: Store, grace_of: Callable[[str], timedelta]) -> None:
        """`grace_of` returns how late the run of an entry may start."""
        self._store = store
        self._grace_of = grace_of
        self._next_due: dict[str, tuple[str, datetime | None]] = {}  # version of an entry → its name, its next due time
        self.found: tuple[Missing, ...] = ()

    def check(self, now: datetime) -> tuple[Missing, ...]:
        """Compare; return and keep what is missing. Raises StoreError."""
        before = now - min(self._grace_of(""), timedelta(minutes=1))
        self.found = find_missing(
            self._unplanned(),
            self._store.read(lambda conn: overdue_runs(conn, before, MOST_QUEUED)),
            self._store.runs.expired(now - WITHOUT_LEASE_AFTER),
            self._store.nodes.all(),
            self._grace_of,
            now,
        )
        return self.found

    def _unplanned(self) -> dict[str, datetime]:
        """By entry, the first due time that was not planned yet; computed again only for entries that have changed."""
        versions = self._store.entries.versions()
        self._next_due = {version: known for version, known in self._next_due.items() if version in versions}
        new = {version: EntryVersion.parse(version) for version in versions - self._next_due.keys()}
        states = self._store.entries.states([version.name for version in new.values() if version.active])
        for text, version in new.items():
            state = states.get(version.name)
            due = None
            if version.active and state is not None and state.active and state.rule is not None:
                due = compile_rule(state.rule).next_after(state.planned_through)
            self._next_due[text] = (version.name, due)
        return {name: due for name, due in self._next_due.values() if due is not None}


def problems_of(found: Sequence[Missing]) -> list[str]:
    """What is missing as problems for the status: the first of each kind in full."""
    counts = Counter(missing.kind for missing in found)
    lines, named = [], set()
    for missing in found:
        if missing.kind not in named:
            named.add(missing.kind)
            more = counts[missing.kind] - 1
            lines.append(missing.text + (f" (and {more} more)" if more else ""))
    return lines
