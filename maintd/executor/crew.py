"""Threads for what blocks: made when they are needed, and kept a moment for the next task."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

LINGER = 10.0  # seconds that a thread waits for another task

Task = Callable[[], None]


class Crew:
    """Each task has a thread of its own while it runs; to start one takes ten times as long as to wake one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._dismissed = False
        self._free = 0  # threads that wait and that no task in the queue is meant for

    def give(self, task: Task) -> None:
        """Run it in a thread. It must see to its own errors. Returns at once."""
        with self._lock:
            waits = self._free > 0
            self._free -= waits
        if waits:
            self._tasks.put(task)
        else:
            self._start(task, LINGER)

    def call(self, number: int, seconds: float) -> None:
        """Have so many threads wait for what is going to be given: new ones at least that long, others as they do."""
        with self._lock:
            missing = max(0, number - self._free)
            self._free += missing
        for _ in range(missing):
            self._start(None, seconds + LINGER)

    def dismiss(self) -> None:
        """End the threads that wait, and each other one after its task. Nothing is given afterwards."""
        with self._lock:
            self._dismissed = True
            waiting, self._free = self._free, 0
        for _ in range(waiting):
            self._tasks.put(None)

    def _start(self, task: Task | None, linger: float) -> None:
        threading.Thread(target=self._work, args=(task, linger), name=self._name, daemon=True).start()

    def _work(self, task: Task | None, linger: float) -> None:
        if task is None:
            task = self._next(linger)
        while task is not None:
            task()
            with self._lock:
                if self._dismissed:
                    return
                self._free += 1
            task = self._next(LINGER)

    def _next(self, linger: float) -> Task | None:
        try:
            return self._tasks.get(timeout=linger)
        except Empty:
            with self._lock:
                if self._free:
                    self._free -= 1
                    return None
            return self._tasks.get()  # one is just being put there for this thread
