"""A task never waits for another one, and threads are used again."""

from __future__ import annotations

import threading
from queue import SimpleQueue

import pytest

from maintd.executor import thread_pool
from maintd.executor.thread_pool import ThreadPool


def test_each_task_has_a_thread_of_its_own() -> None:
    pool = ThreadPool("task")
    together = threading.Barrier(20)
    passed: SimpleQueue[int] = SimpleQueue()

    for _ in range(20):
        pool.run(lambda: passed.put(together.wait(30)))

    assert sorted(passed.get(timeout=30) for _ in range(20)) == list(range(20))


def test_a_thread_that_waits_takes_the_next_task() -> None:
    pool = ThreadPool("task")
    threads: SimpleQueue[int] = SimpleQueue()

    used = set()
    for _ in range(50):
        pool.run(lambda: threads.put(threading.get_ident()))
        used.add(threads.get(timeout=30))

    assert len(used) < 50


def test_no_task_is_lost_while_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_pool, "IDLE_SECONDS", 0.0)
    pool = ThreadPool("task")
    done: SimpleQueue[int] = SimpleQueue()

    for number in range(2000):
        pool.run(lambda number=number: done.put(number))  # type: ignore[misc]

    assert sorted(done.get(timeout=30) for _ in range(2000)) == list(range(2000))


def test_a_task_that_raises_does_not_affect_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: SimpleQueue[object] = SimpleQueue()
    monkeypatch.setattr(threading, "excepthook", lambda found: raised.put(found.exc_type))
    pool = ThreadPool("task")
    done: SimpleQueue[int] = SimpleQueue()

    pool.run(lambda: print(1 / 0))
    assert raised.get(timeout=30) is ZeroDivisionError
    pool.run(lambda: done.put(1))

    assert done.get(timeout=30) == 1
