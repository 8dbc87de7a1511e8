"""When the daemon's loop reviews ended runs."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from maintd.clock import Clock
from maintd.errors import StoreError
from maintd.operations.review import BATCH, Hook, review_ends
from maintd.store import Store

log = structlog.get_logger()

DELAY_SECONDS = 0.2
"""From the end of a run to its review: the ends of a burst are reviewed together, and after what is urgent."""

MOST_BATCHES = 5
"""Of one review; the loop plans in between."""


class Reviewer:
    """Reviews ended runs, of this node and of those that are gone. `wake` wakes the loop; any thread may call
    `note_end`."""

    def __init__(self, store: Store, clock: Clock, wake: Callable[[], None], hooks: tuple[Hook, ...] = ()) -> None:
        self._store = store
        self._clock = clock
        self._wake = wake
        self._hooks = hooks
        self._lock = threading.Lock()
        self._due_at: float | None = None  # on the clock; None: nothing is known to wait

    def note_end(self) -> None:
        """A run has ended: review it soon. Returns at once."""
        with self._lock:
            if self._due_at is not None:
                return
            self._due_at = self._clock.elapsed() + DELAY_SECONDS
        self._wake()

    @property
    def seconds_left(self) -> float:
        """Until the next review; infinity when nothing is known to wait."""
        with self._lock:
            return float("inf") if self._due_at is None else max(0.0, self._due_at - self._clock.elapsed())

    def review(self) -> None:
        """Review what waits. Raises StoreError, and what was unforeseen after the other ends were reviewed."""
        with self._lock:
            self._due_at = None
        try:
            for _ in range(MOST_BATCHES):
                if review_ends(self._store, *self._hooks) < BATCH:
                    return
        except StoreError:
            raise
        except Exception:
            self._review_singly()
            raise
        self.note_end()

    def _review_singly(self) -> None:
        """Review each end of a batch by itself; one that cannot be reviewed must not keep the others waiting."""
        for _ in range(BATCH):
            try:
                if not review_ends(self._store, *self._hooks, limit=1):
                    return
            except StoreError:
                raise
            except Exception:
                for event in self._store.run_events.review(lambda conn, ends: ends, 1):
                    log.exception("run_not_reviewed", run=event.run_id, entry=event.entry)
