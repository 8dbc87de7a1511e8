"""Threads that wait for the next task for a while: to wake one takes a third of the time that it takes to start one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

Task = Callable[[], None]

IDLE_SECONDS = 10.0  # that a thread waits for a task before it ends


class ThreadPool:
    """Runs each task at once in a thread of its own; one that raises ends its thread.

    They are daemon threads: a process that fails does not wait for them.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: SimpleQueue[Task] = SimpleQueue()
        self._idle = threading.Semaphore(0)  # threads that wait and to which no task was given yet

    def run(self, task: Task) -> None:
        """Run the task in a thread that waits, else in a new one. Raises RuntimeError when none can be started."""
        if self._idle.acquire(blocking=False):
            self._tasks.put(task)
        else:
            threading.Thread(target=self._work, args=(task,), name=self._name, daemon=True).start()

    def _work(self, task: Task) -> None:
        while True:
            task()
            del task  # and what it refers to
            self._idle.release()
            try:
                task = self._tasks.get(timeout=IDLE_SECONDS)
            except Empty:
                if self._idle.acquire(blocking=False):
                    return
                task = self._tasks.get()  # one was given at this moment
