"""Runs that the failure of another one triggers: `on_failure: {run: ENTRY}`. In the transaction of the review, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog
from sqlalchemy.engine import Connection

from maintd.model.entry import Entry
from maintd.model.run import LinkKind, NewRun, Run, RunState, Trigger
from maintd.operations.review import Review
from maintd.store import Store
from maintd.store.audit import add_event
from maintd.store.history import load_runs
from maintd.store.successors import Successor, following, insert_successor

log = structlog.get_logger()

FAILURES = frozenset({RunState.FAILED, RunState.TIMED_OUT, RunState.LOST, RunState.UNKNOWN})
"""Ends after which the other entry runs. A run that a person cancelled is none."""

_NO_FOLLOW_UP = frozenset({Trigger.ON_FAILURE, Trigger.UNDO})


class FollowUps:
    """Triggers the entries that others name in `on_failure`."""

    def __init__(self, store: Store, entries: Callable[[], Mapping[str, Entry]], on_new: Callable[[], None]) -> None:
        """`entries` returns those of the active calendar by name; `on_new` is called when a run may have been added."""
        self._store = store
        self._entries = entries
        self._on_new = on_new

    def record_review(self, conn: Connection, review: Review) -> None:
        """Insert the runs that follow from these ends."""
        for end in review.ends:
            if end.evidence is not None and end.run.state in FAILURES and end.evidence.policy.on_failure_run:
                # As it is now: an earlier review of the same run, lost at first, may have triggered already.
                run = load_runs(conn, self._store.plans, {end.run.id: True})[end.run.id]
                self._follow(conn, run, review)

    def _follow(self, conn: Connection, run: Run, review: Review) -> None:
        name = run.policy.on_failure_run
        if run.dry_run or run.held or run.trigger in _NO_FOLLOW_UP or following(run, LinkKind.AFTER_FAILURE_OF):
            return
        entry = self._entries().get(name)
        why = f"run {run.id} of {run.entry}: {run.state}"
        if entry is None or not entry.enabled:
            reason = "is disabled" if entry is not None else "is not in the active calendar"
            log.error("follow_up_impossible", run=run.id, entry=name, reason=reason)
            text = f'"{name}" {reason}'
            add_event(conn, "follow_up_impossible", subject=run.entry, why=why, text=text, at=review.at)
            return
        new = NewRun(
            entry=entry.name,
            title=entry.title,
            trigger=Trigger.ON_FAILURE,
            state=RunState.QUEUED,
            not_before=review.at,
            plan=entry.steps,
            policy=entry.policy,
            requested_by="maintd",
            why=why,
        )
        successor = Successor(new, LinkKind.AFTER_FAILURE_OF)
        run_id = insert_successor(conn, self._store.plans, run, successor, review.at)
        text = f"run {run_id} after run {run.id} of {run.entry}"
        add_event(conn, "run_triggered", subject=entry.name, by="maintd", why=why, text=text, at=review.at)
        self._on_new()
