"""A request to stop, from whatever thread, to the one thread that waits for an attempt, a lock or a retry."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from maintd.executor.outcome import StopKind, Stopped

MARGIN = 2.0
"""Seconds before the end of a lease at which what holds a lock is dead, at most a tenth of the lease."""


@dataclass(frozen=True)
class LeaseDeadline:
    """How long the claim of a run surely stands, by the clock since boot: others may take its locks after that."""

    give_up_at: float  # what holds a lock is asked to stop
    until: float  # what holds a lock is killed

    @classmethod
    def of(cls, asked_at: float, lease: timedelta, grace: timedelta) -> LeaseDeadline:
        """Of a lease that was asked for at that moment and then granted."""
        seconds = lease.total_seconds()
        until = asked_at + seconds - min(MARGIN, seconds / 10)
        return cls(until - min(grace.total_seconds(), seconds / 4), until)


class CancelToken:
    """The first request counts; only that the run was lost overrides another one. Safe in a signal handler."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.RLock()
        self._asked: Stopped | None = None
        self._cleaning = False
        self._hold: LeaseDeadline | None = None
        self._keeper: Callable[[LeaseDeadline], None] | None = None
        self.kill_at_once = False

    @property
    def hold(self) -> LeaseDeadline | None:
        """How long the claim stands; None: nobody else can take it while this node lives."""
        return self._hold

    def keep(self, hold: LeaseDeadline) -> None:
        """The claim was renewed. Whoever keeps the attempt that is under way is told."""
        with self._lock:
            self._hold = hold
            if self._keeper is not None:
                self._keeper(hold)

    @contextmanager
    def telling(self, keeper: Callable[[LeaseDeadline], None]) -> Iterator[None]:
        """Call `keeper`, which must not block, with the hold as it is now and at each renewal."""
        with self._lock:
            self._keeper = keeper
            if self._hold is not None:
                keeper(self._hold)
        try:
            yield
        finally:
            with self._lock:
                self._keeper = None

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
