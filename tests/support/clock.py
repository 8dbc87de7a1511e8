"""Clocks for tests: one that a test advances, and the real one away from the end of a day."""

from __future__ import annotations

import threading
import time
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


def now_within_a_day(at_least: timedelta = timedelta(minutes=1)) -> datetime:
    """The time, with at least so much left of the day in UTC; waits for the next day otherwise.

    For a test whose expectations have the date in them, while the code under test reads the real clock.
    """
    now = datetime.now(UTC)
    while now.date() != (now + at_least).date():
        time.sleep(1)
        now = datetime.now(UTC)
    return now
