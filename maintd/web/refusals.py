"""Refused actions as audit events, at a bounded rate: a client that repeats a request must not fill the store."""

from __future__ import annotations

import threading

import structlog

from maintd.clock import Clock
from maintd.errors import MaintdError, StoreError
from maintd.model.access import Caller
from maintd.store import Store

log = structlog.get_logger()

BURST = 60
"""Refused actions that are recorded at once, after a quiet time."""

SECONDS_PER_EVENT = 10.0
"""Then one is recorded in this time."""

MAX_TEXT = 300


class Refusals:
    """Records refused actions. Thread-safe."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._left = float(BURST)
        self._filled_at = clock.elapsed()
        self._omitted = 0

    def record(self, caller: Caller, method: str, path: str, error: MaintdError) -> None:
        """Add an audit event for a request that was refused, unless there were too many before it."""
        omitted = self._take()
        if omitted is None:
            return
        text = f"{method} {path[:MAX_TEXT]}: {error.message[:MAX_TEXT]}"
        if omitted:
            text += f" ({omitted} refused actions before it are not recorded)"
        try:
            self._store.audit.add(
                "action_refused", by=caller.name, origin=caller.origin, text=text, at=self._store.now()
            )
        except StoreError as failed:
            log.warning(
                "refusal_not_recorded", refused=text, by=caller.name, origin=caller.origin, error=failed.message
            )

    def _take(self) -> int | None:
        """The number of events that were omitted before this one; None when this one is omitted, too."""
        with self._lock:
            now = self._clock.elapsed()
            self._left = min(self._left + (now - self._filled_at) / SECONDS_PER_EVENT, BURST)
            self._filled_at = now
            if self._left < 1:
                self._omitted += 1
                return None
            self._left -= 1
            omitted, self._omitted = self._omitted, 0
            return omitted
