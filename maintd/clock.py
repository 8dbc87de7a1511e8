"""Wall time for due times and people; elapsed time, which no setting of the clock changes, for timeouts."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """The source of the time. The daemon builds one instance and passes it down."""

    def now(self) -> datetime:
        """The wall time, in UTC. It can jump forward and back."""
        ...

    def elapsed(self) -> float:
        """Seconds on a monotonic clock that includes time in suspend. Only differences are meaningful."""
        ...

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait until the event is set, at most this many seconds. Return whether it is set."""
        ...


def since_boot() -> float:
    """Seconds since boot, time in suspend included; the same in all processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def elapsed(self) -> float:
        return since_boot()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(seconds)


class ClockStepDetector:
    """Detects that the wall clock was set: it and the elapsed time advanced differently since the last call.

    Time in suspend counts in both, so a suspend is not a step.
    """

    # NTP slews by at most 0.5 ms per second, which is far less over the minute between two calls.
    THRESHOLD = timedelta(seconds=2)

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._now = clock.now()
        self._elapsed = clock.elapsed()

    def detect(self) -> timedelta:
        """By how much the wall clock was set since the last call: negative means back, zero that it was not set."""
        now, elapsed = self._clock.now(), self._clock.elapsed()
        step = (now - self._now) - timedelta(seconds=elapsed - self._elapsed)
        self._now, self._elapsed = now, elapsed
        return step if abs(step) >= self.THRESHOLD else timedelta(0)
