"""The two clocks: wall time for people and due times, monotonic time for waiting. Tests turn them by hand."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Where "now" comes from. One instance is built in the daemon and handed down."""

    def now(self) -> datetime:
        """Wall time, aware, in UTC. May step in either direction."""
        ...

    def elapsed(self) -> float:
        """Seconds on a clock that never steps and that counts suspended time; only differences mean something."""
        ...

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait until `event` is set or the seconds have passed; True when it is set."""
        ...


def since_boot() -> float:
    """Seconds on the clock that no setting of the time touches and that counts a suspend; the same in all processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SystemClock:
    """The clocks of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def elapsed(self) -> float:
        return since_boot()  # which counts a suspend: a laptop that slept does not look like a wall clock step

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(seconds)


class ManualClock:
    """A clock that stands still until it is told to move. Both hands move together unless `step` is used."""

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
        """Let time pass, as it does."""
        self._now += by
        self._elapsed += by.total_seconds()

    def step(self, by: timedelta) -> None:
        """Set the wall clock without time passing, as an operator or NTP does."""
        self._now += by


class StepWatch:
    """Notices that the wall clock was set, by comparing how far both clocks went since it last looked."""

    # NTP slews by at most 0.5 ms per second; over a minute between two looks that is far below this.
    NOTICED = timedelta(seconds=2)

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._now = clock.now()
        self._elapsed = clock.elapsed()

    def look(self) -> timedelta:
        """How far the wall clock was set since the last look: positive forward, negative back, zero when it was not."""
        now, elapsed = self._clock.now(), self._clock.elapsed()
        step = (now - self._now) - timedelta(seconds=elapsed - self._elapsed)
        self._now, self._elapsed = now, elapsed
        return step if abs(step) >= self.NOTICED else timedelta(0)
