"""A clock for tests."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta


class ManualClock:
    """A clock that moves only when a test advances it."""

    def __init__(self, start: datetime) -> None:
        self._now = start.astimezone(UTC)
        self._elapsed = 0.0

    def now(self) -> datetime:
        return self._now

    def elapsed(self) -> float:
        return self._elapsed

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.advance(timedelta(seconds=seconds))
        return event.is_set()

    def advance(self, by: timedelta) -> None:
        """Let time pass: wall time and elapsed time advance together."""
        self._now += by
        self._elapsed += by.total_seconds()

    def step(self, by: timedelta) -> None:
        """Set the wall clock while no time passes, as an operator or NTP does."""
        self._now += by
