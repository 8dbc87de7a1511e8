"""The end of waits at gates whose time is over: found by any node, ended by one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import structlog

from maintd.clock import Clock
from maintd.operations.gates import end_overdue_waits
from maintd.store import Store

log = structlog.get_logger()

LEAST_WAIT_SECONDS = 0.05
"""Between two sweeps: a store whose clock is behind this machine's has not reached the end of a wait yet."""


class GateTimeouts:
    """Knows when the next wait is over, so that the daemon's loop can sleep until then."""

    def __init__(self, store: Store, clock: Clock, on_ended: Callable[[], None]) -> None:
        """`on_ended` is called when a run was queued again because its wait was ended."""
        self._store = store
        self._clock = clock
        self._on_ended = on_ended
        self._next: datetime | None = None

    @property
    def any_waits(self) -> bool:
        """Whether a run waited at a gate at the last sweep."""
        return self._next is not None

    @property
    def seconds_left(self) -> float:
        """Until the end of the next wait that is known; infinity: none."""
        if self._next is None:
            return float("inf")
        return max(LEAST_WAIT_SECONDS, (self._next - self._clock.now()).total_seconds())

    @property
    def due(self) -> bool:
        """Whether a wait is over by this machine's clock."""
        return self._next is not None and self._next <= self._clock.now()

    def sweep(self) -> None:
        """End the waits that are over, and look for the next one. Raises StoreError."""
        ended = end_overdue_waits(self._store, self._store.now())
        for run in ended:
            log.warning("gate_timed_out", run=run.id, entry=run.entry, until=run.waiting_until)
        self._next = self._store.gates.next_timeout()
        if ended:
            self._on_ended()
