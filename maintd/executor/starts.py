"""Those that start go first: what has started can wait a moment, what is due cannot.

To hear what a child says and to record it takes as long as to start another one. When many are due at once, each run
that has its child therefore waits until all that were claimed have theirs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

PATIENCE = 0.15  # seconds that one that has started waits at most


class Starts:
    """Counts the runs that were claimed and have not started yet. Thread-safe."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._left = 0

    def begin(self, number: int) -> list[Callable[[], None]]:
        """So many runs are to start. Each is to call its own of these when it has, and again when it is over.

        The first call returns once nobody else is starting.
        """
        with self._condition:
            self._left += number
        return [self._once() for _ in range(number)]

    def _once(self) -> Callable[[], None]:
        starting = True

        def started() -> None:
            nonlocal starting
            if starting:
                starting = False
                self._started()

        return started

    def _started(self) -> None:
        with self._condition:
            self._left -= 1
            if self._left:
                self._condition.wait_for(lambda: not self._left, PATIENCE)
            else:
                self._condition.notify_all()
