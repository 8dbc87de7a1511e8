"""When the daemon's loop reviews ended runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import structlog
from sqlalchemy.engine import Connection

from maintd.calendar import fingerprint_of
from maintd.clock import Clock
from maintd.errors import StoreError
from maintd.model.entry import Entry
from maintd.model.run import RunEvent
from maintd.operations.follow import PlannedEntry
from maintd.operations.review import BATCH, Hook, end_removed, review_ends
from maintd.store import Store

log = structlog.get_logger()

DELAY_SECONDS = 0.2
"""From the end of a run to its review: the ends of a burst are reviewed together, and after what is urgent."""

MOST_BATCHES = 5
"""Of one review; the loop plans in between."""


COMPARED_EVERY_SECONDS = 60.0
"""Between two comparisons of the findings with a calendar that is the same: a run of the former one can end late."""


class Reviewer:
    """Reviews ended runs, of this node and of those that are gone. `wake` wakes the loop; any thread may call
    `note_end`."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        wake: Callable[[], None],
        hooks: tuple[Hook, ...] = (),
        entries: Callable[[], Sequence[Entry]] | None = None,
    ) -> None:
        """`entries` are those of the active calendar, the same object until another is loaded. Without it, no finding
        ends because its entry was removed."""
        self._store = store
        self._clock = clock
        self._wake = wake
        self._hooks = hooks
        self._entries = entries
        self._compared: Sequence[Entry] | None = None  # the entries that the findings were compared with last
        self._compared_at = 0.0
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
        self._end_removed()
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

    def _end_removed(self) -> None:
        """End the findings whose entry or step is no longer in the calendar, after a reload and now and then."""
        if self._entries is None:
            return
        entries, now = self._entries(), self._clock.elapsed()
        if entries is self._compared and now - self._compared_at < COMPARED_EVERY_SECONDS:
            return
        by_name = {entry.name: entry for entry in entries}
        end_removed(self._store, lambda name: _planned(by_name.get(name)))
        self._compared, self._compared_at = entries, now

    def _review_singly(self) -> None:
        """Review each end of a batch by itself; one that cannot be reviewed must not keep the others waiting."""
        for _ in range(BATCH):
            try:
                if not review_ends(self._store, *self._hooks, limit=1):
                    return
            except StoreError:
                raise
            except Exception:
                for event in self._store.run_events.review(self._record_only, 1):
                    log.exception("run_not_reviewed", run=event.run_id, entry=event.entry)

    def _record_only(self, conn: Connection, events: list[RunEvent]) -> list[RunEvent]:
        self._store.records.add_ends(conn, [event.run_id for event in events], self._store.now())
        return events


def _planned(entry: Entry | None) -> PlannedEntry | None:
    if entry is None:
        return None
    if not entry.enabled:
        return PlannedEntry("")
    return PlannedEntry(fingerprint_of(entry), frozenset((step.name, step.job) for step in entry.steps))
