"""Runs that follow from others: once, with what they take over, and with the locks of a held run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import pytest
from sqlalchemy import select, update
from support.stores import at, claim, ended, run_concurrently

from maintd.config.settings import Retention
from maintd.errors import RefusedError
from maintd.model.entry import Policy, StepPlan
from maintd.model.evidence import Handed
from maintd.model.run import LinkKind, NewRun, Run, RunState, StepState, Trigger
from maintd.model.run_updates import AttemptReported, AttemptStarted, RunRequeued, RunWaiting, StepFinished, StepStarted
from maintd.operations.successor_plan import Request, plan_resume, plan_undo
from maintd.store import Store
from maintd.store.successors import Successor
from maintd.store.tables import locks, runs

PLAN = (
    StepPlan(name="halt", job="halt", locks={"stack": "exclusive"}),
    StepPlan(name="work", job="work", repeatable=True, locks={"stack": "exclusive", "disk": "shared"}),
    StepPlan(name="undo-halt", job="unhalt", undoes="halt", locks={"stack": "exclusive"}),
)


def queue(
    store: Store,
    entry: str = "upgrade",
    plan: tuple[StepPlan, ...] = PLAN,
    minutes: float = 0,
    policy: Policy | None = None,
) -> int:
    new = NewRun(
        entry=entry,
        title=entry,
        trigger=Trigger.MANUAL,
        state=RunState.QUEUED,
        not_before=at(minutes),
        plan=plan,
        policy=policy or Policy(),
    )
    return store.runs.add(new, at(minutes))[0]


@pytest.fixture
def held(store: Store) -> Run:
    """A run that was lost in its second step; the first handed a value over."""
    run = claim(store, queue(store), 0)
    begun = [
        StepStarted(step=0, at=at(1)),
        AttemptStarted(step=0, attempt=1, at=at(1), pid=7),
        AttemptReported(step=0, attempt=1, items=(Handed(name="halted", value=["orders"], at=at(1)),)),
        StepFinished(step=0, state=StepState.SUCCEEDED, at=at(2)),
        StepStarted(step=1, at=at(2)),
    ]
    assert store.runs.apply(run.id, 1, 1, begun)
    store.locks.acquire(run.id, 1, "work", {"stack": "exclusive", "disk": "shared"}, at(2))
    assert store.runs.mark_lost(run.id, 1, "the node is gone", at(3))
    found = store.history.run(run.id)
    assert found is not None
    assert found.held
    return found


def follow(
    store: Store, run_id: int, plan: Callable[[Run, Request, object], Successor] = plan_resume, minutes: float = 4
) -> Run:
    def decide(run: Run) -> Successor:
        return plan(run, Request("ada", "go on"), at(minutes))

    event = "run_resumed" if plan is plan_resume else "run_undone"
    new = store.successors.add(run_id, decide, event=event, by="ada", origin="here", now=at(minutes))
    assert new is not None
    found = store.history.run(new)
    assert found is not None
    return found


def holders(store: Store, minutes: float = 5) -> set[tuple[str, int]]:
    return {(holder.lock, holder.run_id) for holder in store.locks.holders(at(minutes))}


def test_what_an_earlier_run_left_in_effect_is_kept_over_the_claims_of_its_successor(store: Store, held: Run) -> None:
    def from_the_start(run: Run, _: Request, now: datetime) -> Successor:
        return plan_resume(run, Request("ada", "again", from_step="halt", redo=("halt",)), now)

    new = follow(store, held.id, from_the_start)
    for minutes in (5, 7):
        claimed = claim(store, new.id, minutes)
        assert [(step.state, step.left_by) for step in claimed.steps] == [
            ("pending", None),
            ("pending", None),
            ("pending", held.id),
        ]
        requeued = RunRequeued(at=at(minutes + 1), not_before=at(minutes + 1), reason="the node is shutting down")
        assert store.runs.apply(new.id, claimed.fence, 1, [requeued])
    # It has something to undo, so that it does not end at once.
    assert store.runs.request_cancel(new.id, "bob", "stop", at(9)) is RunState.QUEUED
    claimed = claim(store, new.id, 10)
    skipped = [StepFinished(step=0, state=StepState.SKIPPED, at=at(10)), StepStarted(step=2, at=at(10))]
    assert store.runs.apply(new.id, claimed.fence, 1, skipped)
    assert store.runs.mark_lost(new.id, claimed.fence, "the node is gone", at(11))
    again = claim(store, follow(store, new.id, minutes=12).id, 13)
    assert [step.left_by for step in again.steps] == [None, None, held.id]


def test_a_successor_has_the_steps_the_values_and_the_link(store: Store, held: Run) -> None:
    new = follow(store, held.id)

    claimed = claim(store, new.id, 5)
    assert [(step.name, step.state, step.reason) for step in claimed.steps] == [
        ("halt", "succeeded", f"taken over from run {held.id}: succeeded"),
        ("work", "pending", ""),
        ("undo-halt", "pending", ""),
    ]
    assert [(value.name, value.value) for value in claimed.handed] == [("halted", ["orders"])]
    assert [(link.run_id, link.kind, link.other_run_id) for link in claimed.links] == [(new.id, "resumes", held.id)]
    earlier = store.history.run(held.id)
    assert earlier is not None
    assert (earlier.links, earlier.held, earlier.state) == (claimed.links, False, RunState.LOST)
    (event,) = store.audit.recent(1)
    assert (event.kind, event.by, event.why, event.text) == (
        "run_resumed",
        "ada",
        "go on",
        f"run {new.id} resumes run {held.id}",
    )


@pytest.mark.parametrize("plans", [(plan_resume, plan_resume), (plan_undo, plan_undo), (plan_resume, plan_undo)])
def test_of_two_requests_at_once_one_is_refused(
    store: Store, open_another: Callable[[], Store], held: Run, plans: tuple[object, object]
) -> None:
    def ask(which: Store, plan: object) -> str:
        try:
            return f"run {follow(which, held.id, plan).id}"  # type: ignore[arg-type]  # one of the two planners
        except RefusedError as error:
            return error.message

    answers = run_concurrently([partial(ask, store, plans[0]), partial(ask, open_another(), plans[1])])

    (made,) = [answer for answer in answers if answer.startswith("run ") and "already" not in answer]
    (refused,) = [answer for answer in answers if "already" in answer]
    assert refused.endswith(f"by {made} already")
    assert len(store.history.runs(entry="upgrade")) == 2


def test_the_locks_of_a_held_run_are_those_of_its_successor_until_that_ends(store: Store, held: Run) -> None:
    both = {"stack", "disk"}
    assert holders(store) == {(lock, held.id) for lock in both}
    other = claim(store, queue(store, "other"), 0, node="n2", lease=600)

    new = follow(store, held.id)
    assert holders(store) == {(lock, new.id) for lock in both}
    assert len(store.locks.acquire(other.id, 1, "x", {"stack": "exclusive"}, at(5))) == 1

    claimed = claim(store, new.id, 6, lease=600)
    assert store.locks.acquire(new.id, claimed.fence, "work", {"stack": "exclusive"}, at(6)) == []
    store.locks.release(new.id, "work")
    assert holders(store) == {(lock, new.id) for lock in both}, "between two steps"
    store.runs.apply(new.id, claimed.fence, 1, [RunWaiting(step=1, at=at(7), until=at(99), reason="waits")])
    assert holders(store) == {(lock, new.id) for lock in both}, "at a gate"
    assert len(store.locks.acquire(other.id, 1, "x", {"stack": "exclusive"}, at(8))) == 1


def test_the_end_of_a_successor_releases_the_locks(store: Store, held: Run) -> None:
    new = claim(store, follow(store, held.id).id, 5)
    store.runs.apply(new.id, new.fence, 1, [ended(RunState.SUCCEEDED, 6)])
    assert holders(store) == set()


def test_a_successor_that_is_lost_before_its_first_step_is_held(store: Store, held: Run) -> None:
    new = claim(store, follow(store, held.id, plan_undo).id, 5)
    assert store.runs.mark_lost(new.id, new.fence, "gone, too", at(6))
    assert [run.id for run in store.successors.held()] == [new.id]
    assert holders(store) == {("stack", new.id), ("disk", new.id)}


def test_a_lease_that_expires_gives_no_lock_of_a_run_that_is_held_then(store: Store) -> None:
    run = claim(store, queue(store), 0)
    store.runs.apply(run.id, 1, 1, [StepStarted(step=0, at=at(1))])
    store.locks.acquire(run.id, 1, "halt", {"stack": "exclusive"}, at(1))
    other = claim(store, queue(store, "other"), 0, node="n2", lease=600)

    (blocking,) = store.locks.acquire(other.id, 1, "x", {"stack": "exclusive"}, at(60))

    assert blocking.run_id == run.id
    lost = store.history.run(run.id)
    assert lost is not None
    assert (lost.state, lost.held) == (RunState.LOST, True)
    assert ("stack", run.id) in holders(store, 61)


def test_no_run_of_an_entry_is_claimed_while_one_is_held(store: Store, held: Run) -> None:
    waiting = queue(store, minutes=4)
    assert store.runs.claimable(at(5)) == []
    assert store.runs.next_not_before() is None
    assert store.runs.claim(waiting, "n1", "1", at(10), at(5)) is None

    assert store.successors.release(held.id, by="ada", origin="", why="cleaned up", now=at(6))

    assert store.runs.claimable(at(7)) == [waiting]
    assert holders(store) == set()
    assert store.successors.held() == []
    (event,) = store.audit.recent(1)
    assert (event.kind, event.subject, event.text) == (
        "run_released",
        "upgrade",
        f"run {held.id}; locks: disk, stack",
    )


def test_a_run_that_is_not_held_cannot_be_released(store: Store, held: Run) -> None:
    new = follow(store, held.id)
    for run_id in (held.id, new.id, 999):
        assert not store.successors.release(run_id, by="ada", origin="", why="", now=at(6))
    assert holders(store) == {("stack", new.id), ("disk", new.id)}


@pytest.fixture
def redone(store: Store) -> Run:
    """A queued run that runs the first step again, in which the run before it was lost; it takes over no other step."""
    run = claim(store, queue(store), 0)
    assert store.runs.apply(run.id, 1, 1, [StepStarted(step=0, at=at(1))])
    assert store.runs.mark_lost(run.id, 1, "the node is gone", at(3))
    return follow(store, run.id, partial(redo, "halt"))


def redo(name: str, run: Run, request: Request, now: datetime) -> Successor:
    return plan_resume(run, request._replace(redo=(name,)), now)


def test_a_queued_successor_is_not_cancelled_at_once_and_keeps_what_it_has_to_undo(store: Store, redone: Run) -> None:
    assert store.runs.request_cancel(redone.id, "ada", "not today", at(5)) is RunState.QUEUED

    claimed = claim(store, redone.id, 6)
    assert claimed.cancel_requested == "ada: not today"
    assert [(step.state, step.reason, step.started_at) for step in claimed.steps] == [
        ("pending", "", None),
        ("pending", "", None),
        ("pending", f'run {redone.follows} left "halt" in effect, or in part', None),
    ]
    assert holders(store) == {("stack", redone.id), ("disk", redone.id)}
    store.runs.apply(redone.id, claimed.fence, 1, [ended(RunState.CANCELLED, 7)])
    assert holders(store) == set()


def test_a_successor_without_a_step_to_undo_is_not_cancelled_at_once_either(store: Store) -> None:
    plan = (StepPlan(name="look", job="look", mutates=False, locks={"stack": "exclusive"}), *PLAN[1:])
    plan = (plan[0], plan[1], StepPlan(name="undo-work", job="unwork", undoes="work"))
    run = claim(store, queue(store, plan=plan), 0)
    assert store.runs.apply(run.id, 1, 1, [StepStarted(step=0, at=at(1))])
    assert store.runs.mark_lost(run.id, 1, "the node is gone", at(3))
    new = follow(store, run.id)

    assert store.runs.request_cancel(new.id, "ada", "not today", at(5)) is RunState.QUEUED
    assert holders(store) == {("stack", new.id), ("disk", new.id)}


@pytest.mark.parametrize("cancelled", ["while it runs", "while it is queued"])
def test_a_successor_that_is_requeued_and_cancelled_keeps_what_it_has_to_undo(
    store: Store, redone: Run, cancelled: str
) -> None:
    claimed = claim(store, redone.id, 5)
    if cancelled == "while it runs":
        store.runs.request_cancel(redone.id, "ada", "", at(6))
    waits = [StepStarted(step=0, at=at(6)), RunRequeued(at=at(7), not_before=at(7), reason="shutting down")]
    assert store.runs.apply(redone.id, claimed.fence, 1, waits)
    if cancelled == "while it is queued":
        store.runs.request_cancel(redone.id, "ada", "", at(8))

    again = claim(store, redone.id, 9)
    assert (again.cancel_requested, again.steps[0].state) == ("ada", "pending")
    assert again.steps[2].left_by == redone.follows
    assert holders(store) == {("stack", redone.id), ("disk", redone.id)}


@pytest.mark.parametrize("cancelled", ["while it runs", "while it is queued"])
def test_a_run_that_holds_its_locks_and_is_cancelled_after_a_requeue_has_none(store: Store, cancelled: str) -> None:
    run = claim(store, queue(store, policy=Policy(hold_locks=True)), 0)
    store.locks.acquire(run.id, 1, "", {"stack": "exclusive"}, at(1))
    if cancelled == "while it runs":
        store.runs.request_cancel(run.id, "ada", "", at(1))
    put_back = RunRequeued(at=at(2), not_before=at(2), reason="shutting down")
    assert store.runs.apply(run.id, 1, 1, [StepStarted(step=0, at=at(1)), put_back])
    if cancelled == "while it is queued":
        assert holders(store) == {("stack", run.id)}
        store.runs.request_cancel(run.id, "ada", "", at(3))

    ended = store.history.run(run.id)
    assert ended is not None
    assert ended.state is RunState.CANCELLED
    assert holders(store) == set()


def test_a_held_lock_of_a_run_that_is_over_and_not_held_blocks_no_run(store: Store, held: Run) -> None:
    """As earlier versions left it, for a successor that was cancelled in the queue."""
    store.write(lambda conn: conn.execute(update(runs).where(runs.c.id == held.id).values(held=False)))
    assert holders(store) == set()
    other = claim(store, queue(store, "other"), 5, node="n2")

    assert store.locks.acquire(other.id, 1, "x", {"stack": "exclusive"}, at(6)) == []
    left = store.read(lambda conn: conn.execute(select(locks.c.run_id).where(locks.c.lock == "stack")).scalars().all())
    assert left == [other.id]


def test_a_link_is_made_once_whatever_decides(store: Store, held: Run) -> None:
    follow(store, held.id)
    with pytest.raises(RefusedError, match="resumed by run"):
        follow(store, held.id, plan_undo)
    assert (
        store.successors.add(
            999, lambda run: plan_resume(run, Request(), at(9)), event="x", by="", origin="", now=at(9)
        )
        is None
    )


def test_a_run_that_followed_another_is_kept_as_long_as_that_one(store: Store, held: Run) -> None:
    undone = claim(store, follow(store, held.id, plan_undo).id, 5)
    store.runs.apply(undone.id, undone.fence, 1, [ended(RunState.SUCCEEDED, 6)])
    # `held` is the last failure of its entry, which is never pruned.
    for _ in range(2):
        store.maintenance.prune(Retention(runs=timedelta(days=1)), at(60 * 24 * 365))

    kept = store.history.run(undone.id)
    assert kept is not None
    with pytest.raises(RefusedError, match=f"undone by run {undone.id} already"):
        follow(store, held.id, plan_undo)

    later = claim(store, queue(store, minutes=7), 8)
    store.runs.apply(later.id, later.fence, 1, [ended(RunState.FAILED, 9)])
    store.maintenance.prune(Retention(runs=timedelta(days=1)), at(60 * 24 * 365))
    assert store.history.run(undone.id) is None
    assert store.history.run(held.id) is None


def test_evidence_that_comes_late_frees_no_lock_of_the_successor(store: Store, held: Run) -> None:
    new = follow(store, held.id)
    assert store.runs.apply(held.id, 1, 6, [ended(RunState.FAILED, 5)])
    assert holders(store) == {("stack", new.id), ("disk", new.id)}
    assert {link.kind for link in new.links} == {LinkKind.RESUMES}


def test_a_run_that_undid_another_one_is_no_success_of_the_entry(store: Store, held: Run) -> None:
    new = claim(store, follow(store, held.id, plan_undo).id, 5)
    store.runs.apply(new.id, new.fence, 1, [ended(RunState.SUCCEEDED, 6)])

    last = store.history.last_per_entry(["upgrade"])["upgrade"]
    assert (last.last_success, last.failures_in_a_row, last.last_finished and last.last_finished.id) == (
        None,
        1,
        held.id,
    )
    assert store.history.last_success_since("upgrade", at(0)) is None


def test_unfinished_runs_are_listed_with_their_values_and_held_ones_as_such(store: Store, held: Run) -> None:
    assert store.history.unfinished_with_values() == [(held.id, "upgrade", True, {"halted": ["orders"]})]

    new = follow(store, held.id)
    assert store.history.unfinished_with_values() == [(new.id, "upgrade", False, {"halted": ["orders"]})]

    running = claim(store, new.id, 5)
    handed = Handed(name="silences", value={"main": 1}, at=at(6))
    begun = [StepStarted(step=1, at=at(6)), AttemptStarted(step=1, attempt=1, at=at(6), pid=8)]
    assert store.runs.apply(new.id, running.fence, 1, [*begun, AttemptReported(step=1, attempt=1, items=(handed,))])
    values = {"halted": ["orders"], "silences": {"main": 1}}
    assert store.history.unfinished_with_values() == [(new.id, "upgrade", False, values)]

    assert store.runs.apply(new.id, running.fence, 4, [ended(RunState.FAILED, 7)])
    assert store.history.unfinished_with_values() == []
