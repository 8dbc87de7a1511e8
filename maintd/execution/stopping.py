"""A request to stop, from whatever thread, to the one thread that waits for an attempt, a lock or a retry."""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
from datetime import timedelta

from maintd.outcome import StopKind, Stopped


class Stop:
    """The first request counts; only that the run was lost overrides another one. Safe in a signal handler."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.RLock()
        self._asked: Stopped | None = None
        self._cleaning = False
        self.kill_at_once = False

    @property
    def asked(self) -> Stopped | None:
        """What was asked for; None: to go on."""
        return self._asked

    def fileno(self) -> int:
        """A descriptor that is readable once something was asked."""
        return self._event

    def ask(self, kind: StopKind, reason: str, *, kill: bool = False) -> None:
        """Ask to stop. `kill` leaves out the grace, also for an earlier request."""
        with self._lock:
            if self._event < 0:
                return
            self.kill_at_once = self.kill_at_once or kill
            lost = kind is StopKind.LOST
            if lost or (self._asked is None and not self._cleaning):
                self._asked = Stopped(kind, reason)
            if self._asked is not None:
                os.eventfd_write(self._event, 1)

    def wait(self, timeout: timedelta) -> Stopped | None:
        """Until something is asked, at most that long."""
        if self._asked is None:
            select.select([self._event], [], [], max(0.0, timeout.total_seconds()))
            self.seen()
        return self._asked

    def seen(self) -> None:
        """Take note, so that the descriptor is readable again only after another request."""
        with self._lock, suppress(BlockingIOError):
            os.eventfd_read(self._event)

    def clean_up(self) -> None:
        """Only steps that always run are left, with their own time: forget what was asked. A lost run stays lost."""
        with self._lock:
            self._cleaning = True
            self.kill_at_once = False
            if self._asked is not None and self._asked.kind is not StopKind.LOST:
                self._asked = None
                self.seen()

    def close(self) -> None:
        """Nothing waits here any more."""
        with self._lock:
            if self._event >= 0:
                os.close(self._event)
                self._event = -1
