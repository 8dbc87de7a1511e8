"""The review of ended runs: what follows from each end, in the transaction that marks it as reviewed.

It may be killed at any time, and several nodes may review: an end is either reviewed, with all that follows from it
committed, or it waits for the next review.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import structlog
from sqlalchemy.engine import Connection

from maintd.model.finding import Finding, FindingChange, is_finding
from maintd.model.run import Run, RunEvent, RunState, RunSummary
from maintd.operations.follow import (
    MOST_OPEN,
    PlannedEntry,
    StoredEntry,
    follow,
    is_acknowledged,
    last_checked,
    observations,
    removed_from_calendar,
)
from maintd.store import Store
from maintd.store.entries import entry_states
from maintd.store.findings import (
    end_lapsed,
    forget,
    gone_findings,
    has_lapsed,
    open_findings,
    record_changes,
)
from maintd.store.history import load_runs, runs_that_ended_between
from maintd.store.run_summaries import summaries

log = structlog.get_logger()

BATCH = 50
"""Ends of one transaction: 5 ms of CPU time for successes, up to 0.4 s for failures with findings."""

_WITHOUT_CHECKS = frozenset({RunState.SKIPPED})


class ReviewedEnd(NamedTuple):
    """The end of a run, and what it changed about the findings of its entry.

    `evidence` is the whole run; it is left out for a success of an entry without open findings, and for a run that
    never started. `acknowledged`: the run was not a success, and all that was wrong has been acknowledged.
    """

    event: RunEvent
    run: RunSummary
    evidence: Run | None = None
    changes: tuple[FindingChange, ...] = ()
    acknowledged: bool = False


class Review(NamedTuple):
    """What one transaction reviews: ends, oldest first, and open findings whose acknowledgement is over."""

    ends: tuple[ReviewedEnd, ...]
    lapsed: tuple[Finding, ...]
    at: datetime


Hook = Callable[[Connection, Review], None]
"""Writes what else follows from a review, within its transaction."""


def end_removed(store: Store, planned: Callable[[str], PlannedEntry | None]) -> int:
    """End the open findings whose entry or step is no longer in the calendar; return their number.

    `planned` returns the entry of that name in this node's calendar, see `removed_from_calendar`. Raises StoreError.
    """
    now = store.now()

    def transaction(conn: Connection) -> int:
        known = open_findings(conn)
        states = entry_states(conn, sorted(known))
        calendar = {name: found for name in known if (found := planned(name)) is not None}
        stored = {name: StoredEntry(state.active, state.fingerprint) for name, state in states.items()}
        count = 0
        for entry, findings in known.items():
            changes = removed_from_calendar(findings, calendar, stored, now)
            if changes:
                record_changes(conn, entry, changes, now)
                log.info("findings_removed", entry=entry, count=len(changes))
            count += len(changes)
        return count

    return store.run_events.under_review(transaction)


def review_ends(store: Store, *hooks: Hook, limit: int = BATCH) -> int:
    """Review the oldest ends that wait for it, at most `limit`; return their number.

    Raises StoreError, and whatever a hook raises: then nothing was reviewed.
    """
    now = store.now()

    def transaction(conn: Connection, events: list[RunEvent]) -> int:
        lapsed = tuple(end_lapsed(conn, now)) if has_lapsed(conn, now) else ()
        if not events and not lapsed:
            return 0
        review = Review(tuple(_review(conn, store, events, now)), lapsed, now)
        for hook in hooks:
            hook(conn, review)
        store.records.add_ends(conn, [event.run_id for event in events], now)
        return len(events)

    return store.run_events.review(transaction, limit)


def _review(conn: Connection, store: Store, events: Sequence[RunEvent], now: datetime) -> Iterable[ReviewedEnd]:
    runs = summaries(conn, {event.run_id for event in events})
    known = open_findings(conn, {event.entry for event in events}) if events else {}
    for event in events:
        run = runs.get(event.run_id)
        if run is None:  # pruned: its events are about to be deleted
            continue
        yield _review_end(conn, store, event, run, known, now)


def _review_end(
    conn: Connection, store: Store, event: RunEvent, run: RunSummary, known: dict[str, list[Finding]], now: datetime
) -> ReviewedEnd:
    """Review one end; `known` has the open findings by entry, as the ends before it left them."""
    of_entry = known.get(run.entry, [])
    if run.started_at is None or run.state in _WITHOUT_CHECKS:
        return ReviewedEnd(event, run)
    if run.state is RunState.SUCCEEDED and not of_entry:
        return ReviewedEnd(event, run)
    evidence = load_runs(conn, store.plans, {run.id: True})[run.id]
    seen = observations(evidence)
    opened = {(finding.step, finding.job, finding.check) for finding in of_entry}
    new = {place.check for place, found in seen.items() if place not in opened and is_finding(found.check)}
    gone = gone_findings(conn, run.entry, new) if new else []
    first = min((found.at for found in seen.values()), default=now)
    later = last_checked(runs_that_ended_between(conn, store.plans, evidence, first, event.id)) if seen else {}
    followed = follow([*of_entry, *gone], evidence, now, later)
    changes = record_changes(conn, run.entry, followed.changes, now)
    forgotten = {finding.key for finding in followed.forgotten}
    if followed.left_out or forgotten:
        forget(conn, forgotten)
        counts = {"left_out": followed.left_out, "forgotten": len(forgotten)}
        log.warning("findings_limited", entry=run.entry, run=run.id, most=MOST_OPEN, **counts)
    after = {finding.key: finding for finding in of_entry if finding.key not in forgotten}
    for change in changes:
        after[change.finding.key] = change.finding
    known[run.entry] = [finding for finding in after.values() if finding.open]
    return ReviewedEnd(event, run, evidence, tuple(changes), is_acknowledged(evidence, known[run.entry], now))
