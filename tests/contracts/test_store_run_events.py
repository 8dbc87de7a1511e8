"""The events of runs: one for each change of a run's state, in order, on both stores."""

from __future__ import annotations

import os
import threading

from support.clock import ManualClock
from support.servers.postgres import PostgresServer
from support.stores import NOON, at, claim, ended, finished, queue

from maintd.model.run import RunState
from maintd.model.run_updates import RunRequeued
from maintd.store import Store, open_store, run_events


def states(store: Store, run_id: int) -> list[RunState]:
    return [event.state for event in store.run_events.after(0) if event.run_id == run_id]


def test_each_change_of_a_runs_state_is_an_event(store: Store) -> None:
    run_id = finished(store, "a", 1, RunState.FAILED)

    assert states(store, run_id) == [RunState.QUEUED, RunState.RUNNING, RunState.FAILED]


def test_a_requeued_run_is_queued_twice(store: Store) -> None:
    run = claim(store, queue(store, "a"))
    assert store.runs.apply(run.id, run.fence, 1, [RunRequeued(at=at(1), not_before=at(2), reason="shutdown")])

    assert states(store, run.id) == [RunState.QUEUED, RunState.RUNNING, RunState.QUEUED]


def test_a_run_that_is_cancelled_in_the_queue_ends(store: Store) -> None:
    run_id = queue(store, "a")
    store.runs.request_cancel(run_id, "ada", "", at(1))

    assert states(store, run_id) == [RunState.QUEUED, RunState.CANCELLED]


def test_a_lost_run_that_comes_back_ends_twice(store: Store) -> None:
    run = claim(store, queue(store, "a"))
    assert store.runs.mark_lost(run.id, run.fence, "no heartbeat", at(5))
    assert store.runs.apply(run.id, run.fence, 1, [ended(RunState.SUCCEEDED, 6)])

    assert states(store, run.id)[2:] == [RunState.LOST, RunState.SUCCEEDED]


def test_a_follower_resumes_after_the_last_event_it_saw(store: Store) -> None:
    finished(store, "a", 1, RunState.SUCCEEDED)
    seen = store.run_events.after(0)
    finished(store, "b", 2, RunState.SUCCEEDED)

    later = store.run_events.after(seen[-1].id)

    assert {event.entry for event in later} == {"b"}
    assert len(later) == 3
    assert store.run_events.bounds() == (seen[0].id, later[-1].id)


def test_a_follower_begins_at_the_newest_event(store: Store) -> None:
    assert store.run_events.newest() == 0
    finished(store, "a", 1, RunState.SUCCEEDED)

    newest = store.run_events.newest()
    finished(store, "b", 2, RunState.SUCCEEDED)

    assert newest == store.run_events.after(0)[2].id
    assert {event.entry for event in store.run_events.after(newest)} == {"b"}


def test_only_the_ends_of_runs_wait_for_review_and_one_node_gets_each(store: Store) -> None:
    run_id = finished(store, "a", 1, RunState.FAILED)
    waiting = store.run_events.not_reviewed()
    assert [(event.run_id, event.state) for event in waiting] == [(run_id, RunState.FAILED)]

    ids = [event.id for event in waiting]
    first = store._database.write(lambda conn: run_events.mark_reviewed(conn, ids))
    second = store._database.write(lambda conn: run_events.mark_reviewed(conn, ids))

    assert (first, second) == (ids, [])
    assert store.run_events.not_reviewed() == []


def test_a_follower_waits_for_an_older_transaction(postgres_server: PostgresServer) -> None:
    store = open_store(postgres_server.create(f"m{os.urandom(6).hex()}"), clock=ManualClock(NOON), migrate=True)
    queued = queue(store, "a")
    begun, may_commit = threading.Event(), threading.Event()

    def slow() -> None:
        def transaction(conn: object) -> None:
            run_events.add_run_events(conn, [run_events.RunChanged(queued, RunState.RUNNING, NOON)])  # type: ignore[arg-type]
            begun.set()
            may_commit.wait(30)

        store._database.write(transaction)

    thread = threading.Thread(target=slow)
    thread.start()
    assert begun.wait(30)
    other = queue(store, "b")  # its event has a larger id and is committed first
    before = {event.run_id for event in store.run_events.after(0)}
    newest = store.run_events.newest()
    may_commit.set()
    thread.join()
    after = [event.run_id for event in store.run_events.after(0)]
    after_newest = [event.run_id for event in store.run_events.after(newest)]
    store.close()

    assert other not in before
    assert after_newest == [queued, other]
    assert after == [queued, queued, other]
