"""Runs that observed too little, and what became of changes: in the history, and in a store of an earlier version."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text
from support.clock import ManualClock
from support.stores import NOON, at, claim, ended, evidence, finished, queue

from maintd.model.evidence import Change, ChangeState, Check, CheckStatus, Report
from maintd.model.run import AttemptState, Run, RunState, StepState
from maintd.model.run_updates import AttemptFinished, AttemptReported, AttemptStarted, StepFinished, StepStarted
from maintd.store import Store, open_store
from maintd.store.database import parse_url

# What the later migrations do, backwards.
AS_OF_REVISION_1 = (
    *(
        f"DROP TABLE {name}"
        for name in (
            *("acknowledgements", "findings", "notices", "incidents", "mutes", "tokens", "run_events"),
            *("gate_decisions", "handed_values", "run_links", "notes", "records", "freezes"),
        )
    ),
    "DROP INDEX ix_runs_waiting",
    "DROP INDEX ix_runs_held",
    "DROP INDEX ix_runs_to_continue",
    "DROP INDEX uq_runs_in_progress",
    "CREATE UNIQUE INDEX uq_runs_running ON runs (entry_id) WHERE state = 'running'",
    *(
        f"ALTER TABLE runs DROP COLUMN {name}"
        for name in ("waiting_step", "waiting_until", "held", "emergency", "waited", "window_from")
    ),
    "ALTER TABLE locks DROP COLUMN held",
    "ALTER TABLE steps DROP COLUMN left_by",
    "ALTER TABLE attempts DROP COLUMN complete",
    "ALTER TABLE events DROP COLUMN origin",
    "ALTER TABLE events DROP COLUMN why",
    "ALTER TABLE checks DROP COLUMN optional",
    "ALTER TABLE checks DROP COLUMN because",
    "ALTER TABLE checks DROP COLUMN missed_limit",
    "ALTER TABLE checks DROP COLUMN rule",
    "ALTER TABLE changes ADD COLUMN done BOOLEAN DEFAULT true NOT NULL",
    "UPDATE changes SET done = false WHERE state = 'planned'",
    "DROP INDEX ix_changes_run",
    "ALTER TABLE changes DROP COLUMN number",
    "ALTER TABLE changes DROP COLUMN state",
    "ALTER TABLE changes DROP COLUMN cause",
    "CREATE INDEX ix_changes_run ON changes (run_id)",
    "UPDATE alembic_version SET version_num = '0001'",
)


def check(status: CheckStatus) -> Check:
    return Check(name="lag", observed="x", expected="an answer", status=status)


def change(state: ChangeState, number: int = 1, cause: str = "") -> Change:
    return Change(number=number, action="delete", target=f"file {number}", state=state, cause=cause)


def changes_of(store: Store, run_id: int) -> list[tuple[int, ChangeState, str]]:
    run = store.history.run(run_id)
    assert run is not None
    return [(found.number, found.state, found.cause) for found in run.steps[0].attempts[0].changes]


def ran(store: Store, *items: Report, state: RunState = RunState.WARNED, tries: int = 1) -> int:
    """A run whose first attempt reports these items; more attempts report a warning. All end in the state."""
    run = claim(store, queue(store, "a"))
    updates: list[object] = [StepStarted(step=0, at=at(0))]
    for number in range(1, tries + 1):
        found = items if number == 1 else (check(CheckStatus.WARN),)
        updates += [
            AttemptStarted(step=0, attempt=number, at=at(0), pid=7),
            AttemptReported(step=0, attempt=number, items=found),
            AttemptFinished(step=0, attempt=number, state=AttemptState(state.value), at=at(1)),
        ]
    updates += [StepFinished(step=0, state=StepState(state.value), at=at(1)), ended(state, 1)]
    assert store.runs.apply(run.id, run.fence, 1, updates)
    return run.id


def test_an_unknown_run_is_no_success(store: Store) -> None:
    finished(store, "a", 1, RunState.WARNED)
    finished(store, "a", 3, RunState.UNKNOWN)

    last = store.history.last_per_entry(["a"])["a"]

    assert last.last_success is not None
    assert last.last_success.state is RunState.WARNED
    assert last.last_finished is not None
    assert last.last_finished.state is RunState.UNKNOWN
    assert (last.failures_in_a_row, last.last_failure) == (0, None)
    assert last.failing_since == at(4)
    assert store.history.last_success_since("a", at(3)) is None


def test_an_unknown_run_does_not_end_a_row_of_failures(store: Store) -> None:
    for minute, state in ((1, RunState.FAILED), (3, RunState.UNKNOWN), (5, RunState.FAILED), (7, RunState.UNKNOWN)):
        finished(store, "a", minute, state)

    last = store.history.last_per_entry(["a"])["a"]

    assert (last.failures_in_a_row, last.failing_since) == (2, at(2))


def test_an_entry_that_is_observed_again_does_not_fail_any_more(store: Store) -> None:
    finished(store, "a", 1, RunState.UNKNOWN)
    finished(store, "a", 3, RunState.SUCCEEDED)

    assert store.history.last_per_entry(["a"])["a"].failing_since is None


@pytest.mark.parametrize("at_once", [True, False])
def test_what_became_of_a_change_takes_the_place_of_what_was_intended(store: Store, at_once: bool) -> None:
    run = claim(store, queue(store, "a"))
    items = [
        change(ChangeState.INTENDED, 1),
        change(ChangeState.DONE, 1),
        change(ChangeState.INTENDED, 2),
        change(ChangeState.REFUSED, 2, "in use"),
        change(ChangeState.PLANNED, 3),
        change(ChangeState.INTENDED, 4),
    ]
    start = evidence()[:2]
    reports = [tuple(items)] if at_once else [(item,) for item in items]
    updates = [*start, *(AttemptReported(step=0, attempt=1, items=some) for some in reports)]
    for seq, update in enumerate(updates, 1):
        assert store.runs.apply(run.id, run.fence, seq, [update])
        assert store.runs.apply(run.id, run.fence, seq, [update])  # an update that is sent twice counts once

    assert changes_of(store, run.id) == [
        (1, ChangeState.DONE, ""),
        (2, ChangeState.REFUSED, "in use"),
        (3, ChangeState.PLANNED, ""),
        (4, ChangeState.INTENDED, ""),
    ]


def test_a_change_under_way_is_uncertain_when_its_run_is_lost(store: Store) -> None:
    run = claim(store, queue(store, "a"))
    items = [change(ChangeState.DONE, 1), change(ChangeState.INTENDED, 2)]
    assert store.runs.apply(run.id, run.fence, 1, evidence(*items)[:3])

    assert store.runs.mark_lost(run.id, run.fence, "its node is silent", at(9))

    assert changes_of(store, run.id) == [
        (1, ChangeState.DONE, ""),
        (2, ChangeState.UNCERTAIN, "its node is silent"),
    ]


def test_a_store_of_the_first_version_gets_its_states_from_its_checks(store_url: str) -> None:
    def opened() -> Store:
        return open_store(store_url, clock=ManualClock(NOON), migrate=True)

    store = opened()
    unknown = ran(store, check(CheckStatus.WARN), check(CheckStatus.UNKNOWN))
    warned = ran(store, check(CheckStatus.WARN), change(ChangeState.PLANNED, 1), change(ChangeState.DONE, 2))
    observed_at_the_second_try = ran(store, check(CheckStatus.UNKNOWN), tries=2)
    failed = ran(store, check(CheckStatus.UNKNOWN), state=RunState.FAILED)
    store.close()
    engine = create_engine(parse_url(store_url))
    with engine.begin() as conn:
        for statement in AS_OF_REVISION_1:
            conn.execute(text(statement))
    engine.dispose()

    store = opened()

    def states(run_id: int) -> tuple[str, ...]:
        run: Run | None = store.history.run(run_id)
        assert run is not None
        return (run.state, run.steps[0].state, *(attempt.state for attempt in run.steps[0].attempts))

    assert states(unknown) == ("unknown", "unknown", "unknown")
    assert states(warned) == ("warned", "warned", "warned")
    assert states(observed_at_the_second_try) == ("warned", "warned", "unknown", "warned")
    assert states(failed) == ("failed", "failed", "failed")
    assert [state for _, state, _ in changes_of(store, warned)] == [ChangeState.PLANNED, ChangeState.DONE]
    assert store.maintenance.check() == []
    store.close()
