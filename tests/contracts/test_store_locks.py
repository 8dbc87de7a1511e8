"""Locks: compatibility, races and expired holders, on both databases."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.stores import at, claim, ended, queue, run_concurrently

from maintd.errors import RefusedError
from maintd.model.entry import LockMode
from maintd.model.run import Run, RunState
from maintd.store import Store

ROUNDS = 30


@pytest.fixture
def one(store: Store) -> Run:
    return claim(store, queue(store, "one"), 0)


@pytest.fixture
def other(store: Store) -> Run:
    return claim(store, queue(store, "other"), 0)


@pytest.mark.parametrize(
    ("held", "wanted", "together"),
    [
        ("shared", "shared", True),
        ("shared", "exclusive", False),
        ("exclusive", "shared", False),
        ("exclusive", "exclusive", False),
    ],
)
def test_only_shared_locks_are_compatible(
    store: Store, one: Run, other: Run, held: LockMode, wanted: LockMode, together: bool
) -> None:
    store.locks.acquire(one.id, 1, "vacuum", {"postgres": held}, at(1))

    in_the_way = store.locks.acquire(other.id, 1, "reindex", {"postgres": wanted}, at(2))

    assert (in_the_way == []) == together
    assert len(store.locks.holders(at(2))) == 1 + together


def test_the_blocking_holder_is_returned(store: Store, one: Run, other: Run) -> None:
    store.locks.acquire(one.id, 1, "vacuum", {"postgres": "exclusive"}, at(1))

    (holder,) = store.locks.acquire(other.id, 1, "reindex", {"redis": "shared", "postgres": "shared"}, at(2))

    assert (holder.lock, holder.mode, holder.run_id) == ("postgres", "exclusive", one.id)
    assert (holder.entry, holder.step, holder.node, holder.since) == ("one", "vacuum", "n1", at(1))


def test_of_several_locks_all_are_acquired_or_none(store: Store, one: Run, other: Run) -> None:
    store.locks.acquire(one.id, 1, "vacuum", {"postgres": "exclusive"}, at(1))

    store.locks.acquire(other.id, 1, "x", {"docker": "exclusive", "postgres": "shared", "redis": "shared"}, at(1))

    assert [holder.lock for holder in store.locks.holders(at(1))] == ["postgres"]


def test_a_run_never_blocks_itself(store: Store, one: Run) -> None:
    store.locks.acquire(one.id, 1, "first", {"postgres": "shared"}, at(1))
    store.locks.acquire(one.id, 1, "second", {"postgres": "exclusive"}, at(1))

    store.locks.release(one.id, "first")

    assert [(holder.step, holder.mode) for holder in store.locks.holders(at(1))] == [("second", "exclusive")]


def test_released_locks_can_be_acquired_by_others(store: Store, one: Run, other: Run) -> None:
    store.locks.acquire(one.id, 1, "vacuum", {"postgres": "exclusive", "redis": "shared"}, at(1))

    store.locks.release(one.id)

    assert store.locks.acquire(other.id, 1, "x", {"postgres": "exclusive"}, at(1)) == []


def test_a_holder_with_an_expired_lease_does_not_block(store: Store, one: Run) -> None:
    other = claim(store, queue(store, "other"), 0, node="n2")
    store.locks.acquire(one.id, 1, "vacuum", {"postgres": "exclusive"}, at(1))
    store.runs.renew(other.id, 1, at(60))

    before = store.locks.acquire(other.id, 1, "x", {"postgres": "shared"}, at(4))
    after = store.locks.acquire(other.id, 1, "x", {"postgres": "shared"}, at(6))

    assert (len(before), after) == (1, [])
    assert [holder.run_id for holder in store.locks.holders(at(6))] == [other.id]


def test_taking_a_lock_from_an_expired_holder_marks_its_run_lost(store: Store, one: Run) -> None:
    other = claim(store, queue(store, "other"), 0, node="n2", lease=60)
    store.locks.acquire(one.id, 1, "vacuum", {"postgres": "exclusive"}, at(1))

    store.locks.acquire(other.id, 1, "x", {"postgres": "exclusive"}, at(6))

    # Else it could be renewed, and both would think that they hold it.
    assert store.runs.renew(one.id, 1, at(20)) is None
    lost = store.history.run(one.id)
    assert (lost.state, lost.finished_at) == (RunState.LOST, at(6))
    assert f"run {other.id} took its lock" in lost.reason
    with pytest.raises(RefusedError):
        store.locks.acquire(one.id, 1, "vacuum", {"redis": "shared"}, at(7))


def test_a_clock_step_takes_no_lock_from_a_run_of_the_same_process(store: Store, one: Run, other: Run) -> None:
    store.locks.acquire(one.id, 1, "vacuum", {"postgres": "exclusive"}, at(1))

    (holder,) = store.locks.acquire(other.id, 1, "x", {"postgres": "exclusive"}, at(1000))

    assert holder.run_id == one.id


def test_the_end_of_a_run_releases_its_locks(store: Store, one: Run, other: Run) -> None:
    store.locks.acquire(one.id, 1, "vacuum", {"postgres": "exclusive"}, at(1))

    store.runs.apply(one.id, 1, 1, [ended(RunState.FAILED, 2)])

    assert store.locks.acquire(other.id, 1, "x", {"postgres": "exclusive"}, at(2)) == []


def test_a_run_whose_claim_is_over_cannot_acquire_locks(store: Store, one: Run) -> None:
    store.runs.mark_lost(one.id, 1, "silent", at(9))

    with pytest.raises(RefusedError, match="no longer runs under fence 1"):
        store.locks.acquire(one.id, 1, "vacuum", {"postgres": "shared"}, at(9))


def test_of_eight_runs_exactly_one_acquires_an_exclusive_lock(open_another: Callable[[], Store]) -> None:
    stores = [open_another(), open_another()]
    runs = [claim(stores[0], queue(stores[0], f"e{n}"), 0, lease=600) for n in range(8)]

    for round_ in range(ROUNDS):
        name = f"lock{round_}"
        answers = run_concurrently(
            [
                lambda run=run, name=name: stores[run.id % 2].locks.acquire(run.id, 1, "s", {name: "exclusive"}, at(1))
                for run in runs
            ]
        )
        assert sum(answer == [] for answer in answers) == 1


def test_locks_requested_in_any_order_do_not_deadlock(open_another: Callable[[], Store]) -> None:
    stores = [open_another(), open_another()]
    runs = [claim(stores[0], queue(stores[0], f"e{n}"), 0, lease=600) for n in range(4)]
    names = ["a", "b", "c", "d"]

    for _ in range(10):
        answers = run_concurrently(
            [
                lambda n=n, run=run: stores[n % 2].locks.acquire(
                    run.id, 1, "s", dict.fromkeys(names[n:] + names[:n], "exclusive"), at(1)
                )
                for n, run in enumerate(runs)
            ]
        )
        assert sum(answer == [] for answer in answers) == 1
        for run in runs:
            stores[0].locks.release(run.id)
