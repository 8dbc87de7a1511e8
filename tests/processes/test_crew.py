"""Threads that are kept for the next task, and the order in which starts go before what has started."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest
from support.servers.base import wait_for

from maintd.executor import crew as crews
from maintd.executor import starts as all_starts
from maintd.executor.crew import Crew
from maintd.executor.starts import Starts

NAME = "of-this-test"


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


@pytest.fixture
def crew() -> Iterator[Crew]:
    made = Crew(NAME)
    yield made
    made.dismiss()
    wait_for(lambda: not threads(), "all threads leave", every=0.002)


def test_each_task_has_a_thread_of_its_own_and_a_free_one_is_used_again(crew: Crew) -> None:
    release, running = threading.Event(), threading.Barrier(4)

    def task() -> None:
        running.wait(10)
        assert release.wait(10)

    for _ in range(3):
        crew.give(task)
    running.wait(10)
    first = set(threads())
    assert len(first) == 3
    release.set()

    seen: list[threading.Thread] = []
    wait_for(lambda: crew._free == 3, "all three are free", every=0.002)
    crew.give(lambda: seen.append(threading.current_thread()))
    wait_for(lambda: seen, "the task", every=0.002)
    assert seen[0] in first
    assert set(threads()) == first


def test_what_is_called_in_advance_is_used_and_not_called_twice(crew: Crew) -> None:
    crew.call(3, seconds=60)
    crew.call(2, seconds=60)
    called = set(threads())
    assert len(called) == 3
    seen: list[threading.Thread] = []
    everybody = threading.Barrier(4)

    def task() -> None:
        seen.append(threading.current_thread())
        everybody.wait(10)

    for _ in range(3):
        crew.give(task)
    everybody.wait(10)
    assert set(seen) == called


def test_a_free_thread_leaves_after_a_while(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "LINGER", 0.05)
    done = threading.Event()
    crew.give(done.set)
    assert done.wait(10)
    wait_for(lambda: not threads(), "all threads leave", every=0.002)
    again = threading.Event()
    crew.give(again.set)
    assert again.wait(10)


def test_no_task_is_lost_when_threads_leave_at_the_same_moment(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "LINGER", 0.001)
    done: list[int] = []
    for number in range(300):
        crew.give(partial(done.append, number))
        if number % 3 == 0:
            time.sleep(0.001)
    wait_for(lambda: len(done) == 300, "every task", every=0.002)
    assert sorted(done) == list(range(300))


def test_who_has_started_waits_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_starts, "PATIENCE", 10.0)
    first, second = Starts().begin(2)
    order: list[str] = []
    thread = threading.Thread(target=lambda: (first(), order.append("goes on")))
    thread.start()
    time.sleep(0.05)
    order.append("second starts")
    second()
    thread.join(10)
    assert order == ["second starts", "goes on"]


def test_one_that_does_not_start_holds_nobody_up_for_long() -> None:
    first, _ = Starts().begin(2)
    began = time.monotonic()
    first()
    assert time.monotonic() - began < all_starts.PATIENCE + 1


def test_to_start_a_second_time_is_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_starts, "PATIENCE", 60.0)
    starts = Starts()
    (alone,) = starts.begin(1)
    alone()
    alone()
    (another,) = starts.begin(1)
    another()  # would wait for a minute, had the second call counted
