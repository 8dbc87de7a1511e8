"""A request to stop, from any thread, to the one thread that waits for an attempt, a lock or a retry."""

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
"""Seconds before the end of a lease at which what holds a lock is killed, at most a tenth of the lease."""


@dataclass(frozen=True)
class LeaseDeadline:
    """Until when a run is certainly claimed, on the clock since boot; other nodes may take its locks after that."""

    stop_at: float  # an attempt that holds a lock gets SIGTERM
    kill_at: float  # it gets SIGKILL

    @classmethod
    def of(cls, requested_at: float, lease: timedelta, grace: timedelta) -> LeaseDeadline:
        """Return the deadline of a lease that was requested at that time and then granted."""
        seconds = lease.total_seconds()
        kill_at = requested_at + seconds - min(MARGIN, seconds / 10)
        return cls(kill_at - min(grace.total_seconds(), seconds / 4), kill_at)


class CancelToken:
    """The first request counts; only the loss of the run overrides another one. Safe to use in a signal handler."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.RLock()
        self._requested: Stopped | None = None
        self._cleaning_up = False
        self._lease: LeaseDeadline | None = None
        self._on_renewal: Callable[[LeaseDeadline], None] | None = None
        self.kill_at_once = False

    @property
    def lease(self) -> LeaseDeadline | None:
        """Until when the run is claimed; None: no other node can take it while this node lives."""
        return self._lease

    def renew(self, lease: LeaseDeadline) -> None:
        """Note that the lease was renewed, and report it to the attempt that is under way."""
        with self._lock:
            self._lease = lease
            if self._on_renewal is not None:
                self._on_renewal(lease)

    @contextmanager
    def renewals(self, on_renewal: Callable[[LeaseDeadline], None]) -> Iterator[None]:
        """Call `on_renewal`, which must not block, with the present deadline and at each renewal."""
        with self._lock:
            self._on_renewal = on_renewal
            if self._lease is not None:
                on_renewal(self._lease)
        try:
            yield
        finally:
            with self._lock:
                self._on_renewal = None

    @property
    def requested(self) -> Stopped | None:
        """The request; None: continue."""
        return self._requested

    def fileno(self) -> int:
        """Return a descriptor that is readable after a request."""
        return self._event

    def request(self, kind: StopKind, reason: str, *, kill: bool = False) -> None:
        """Request a stop. `kill` skips the grace, also of an earlier request."""
        with self._lock:
            if self._event < 0:
                return
            self.kill_at_once = self.kill_at_once or kill
            lost = kind is StopKind.LOST
            if lost or (self._requested is None and not self._cleaning_up):
                self._requested = Stopped(kind, reason)
            if self._requested is not None:
                os.eventfd_write(self._event, 1)

    def wait(self, timeout: timedelta) -> Stopped | None:
        """Wait for a request, at most that long, and return it."""
        if self._requested is None:
            select.select([self._event], [], [], max(0.0, timeout.total_seconds()))
            self.clear_event()
        return self._requested

    def clear_event(self) -> None:
        """Make the descriptor unreadable until the next request."""
        with self._lock, suppress(BlockingIOError):
            os.eventfd_read(self._event)

    def start_cleanup(self) -> None:
        """Forget the request: only steps that always run are left, with their own time. A lost run stays lost."""
        with self._lock:
            self._cleaning_up = True
            self.kill_at_once = False
            if self._requested is not None and self._requested.kind is not StopKind.LOST:
                self._requested = None
                self.clear_event()

    def close(self) -> None:
        """Close the descriptor; later requests have no effect."""
        with self._lock:
            if self._event >= 0:
                os.close(self._event)
                self._event = -1
