"""The notifier: a thread of the daemon that sweeps, and delivers what waits.

It begins nothing that it has no row for, so it can be killed at any time. Whatever fails is tried again at its next
iteration, and no failure of a channel, of the store or of its own ends it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta

import structlog

from maintd.clock import Clock
from maintd.errors import StoreError, StoreUnavailableError
from maintd.model.notice import NoticeKind, NotifyConfig
from maintd.notify.announcements import announce
from maintd.notify.delivery import LEASE, Sender, deliver, log_outcome, settle_failure, unexpected
from maintd.notify.incidents import IncidentRecorder
from maintd.notify.outage import StoreOutage
from maintd.notify.pings import PingRecorder
from maintd.notify.selection import OwnProblem
from maintd.notify.sender import Outcome
from maintd.operations.watchdog import Missing
from maintd.store import Store
from maintd.store.notices import ClaimedGroup

log = structlog.get_logger()

CONCURRENT = 4
"""Messages that are delivered at once, each to another channel."""

CONCURRENT_PINGS = 2
"""Of them at most so many are pings: monitors that do not answer must not delay what people wait for."""

STORE_RETRY_SECONDS = 5.0
LEAST_WAIT_SECONDS = 0.2

START_SECONDS = 0.5
"""From the time that a run is planned, to the look whether it has started."""


class Notifier:
    """Delivers notices, and finds what no run reports: runs that are late or too long, and problems of maintd."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        recorder: IncidentRecorder,
        config: Callable[[], NotifyConfig],
        problems: Callable[[], Iterable[OwnProblem]],
        node: str,
        *,
        sender: Sender,
        outage: StoreOutage,
        sweep_every: timedelta,
        well: Callable[[], bool] = lambda: True,
        watch: Callable[[], Sequence[Missing]] = tuple,
    ) -> None:
        """`problems` are those of maintd itself, and `well` returns whether its monitor may get a ping.

        `watch` finds what is missing; it is called at each sweep, also when nothing is sent.
        """
        self._store = store
        self._clock = clock
        self.recorder = recorder
        self.pings = PingRecorder(store, config, node)
        self._well = well
        self._watch = watch
        self._starts_at: float | None = None  # when to look for runs that have started, on the clock
        self._gates_noted = threading.Event()  # a run may have come to a gate
        self._remind_at = float("inf")  # when the next reminder is due, on the clock
        self._config = config
        self._problems = problems
        self._node = node
        self._sender = sender
        self._sweep_every = sweep_every.total_seconds()
        self._next_sweep = clock.elapsed()
        self._outage = outage
        self._wakeup = threading.Event()
        self._stopping = threading.Event()
        self._slots = threading.Semaphore(CONCURRENT)
        self._deliveries: set[threading.Thread] = set()
        self._pings_under_way: set[threading.Thread] = set()
        self._failure = ""  # of the last iteration
        self._released = False
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, seconds: float = 10.0) -> None:
        """Stop; deliveries under way are ended, and their messages are sent again later."""
        self._stopping.set()
        self._sender.stop()
        self._wakeup.set()
        self._thread.join(seconds)
        for thread in list(self._deliveries):
            thread.join(seconds)

    def wake(self) -> None:
        """Look for notices now. Any thread can call this."""
        self._wakeup.set()

    def expect_start(self) -> None:
        """Runs may start in a moment: look for them then. Any thread can call this; it returns at once."""
        if self._starts_at is None and self._config().pings:
            self._starts_at = self._clock.elapsed() + START_SECONDS
            self._wakeup.set()

    def note_gates(self) -> None:
        """A run may have come to a gate, or what kept a reminder back is over: look for it now.

        Any thread can call this; it returns at once.
        """
        self._gates_noted.set()
        self._wakeup.set()

    @property
    def failure(self) -> str:
        """Why the last iteration failed; empty if it did not."""
        return self._failure

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wakeup.clear()
            try:
                wait = self._iterate()
                self._failure = ""
            except StoreUnavailableError as error:
                wait = self._note_outage(error)
            except Exception as error:
                text = f"{type(error).__name__}: {error}"[:300]
                if self._failure != text:
                    log.exception("notifier_failed")
                self._failure, wait = text, STORE_RETRY_SECONDS
            self._clock.wait(self._wakeup, wait)

    def _iterate(self) -> float:
        """Sweep if that is due, and start the deliveries that are; return the seconds until the next iteration."""
        is_sweep = self._clock.elapsed() >= self._next_sweep
        reads_gates = is_sweep or self._gates_noted.is_set() or self._clock.elapsed() >= self._remind_at
        missing: Sequence[Missing] = ()
        if is_sweep:
            self._next_sweep = self._clock.elapsed() + self._sweep_every
            missing = self._watch()
        if not self._config().destinations:
            self._remind_at = float("inf")
            return self._until_sweep()
        if not self._released:
            self._store.notices.release(self._node)
            self._released = True
        if reads_gates:
            self._gates_noted.clear()  # first: a run may come to a gate during the sweep
        if is_sweep:
            self._starts_at = None
            self.recorder.sweep(self._problems(), self._clock.elapsed())
            self._outage.over(self._store)
            self.recorder.record_missing(missing)
            self.pings.sweep(self._store.now(), own=self._well())
            announce(self._store, self._config(), self._store.now())
        elif reads_gates:
            self.recorder.sweep_gates()
        if reads_gates:
            self._remind_at = self._clock.elapsed() + self.recorder.seconds_to_reminder()
        if not is_sweep and self._starts_at is not None and self._clock.elapsed() >= self._starts_at:
            self._starts_at = None
            self.pings.sweep_starts(self._store.now())
        while self._slots.acquire(blocking=False):
            try:
                now = self._store.now()
                group = self._store.notices.claim(self._node, now, now + LEASE, pings=self._takes_pings)
            except BaseException:
                self._slots.release()
                raise
            if group is None:
                self._slots.release()
                break
            self._start(group)
        else:
            return self._until_sweep()  # a delivery that ends wakes this thread
        at = self._store.notices.next_attempt(self._store.now(), pings=self._takes_pings)
        until = self._until_sweep()
        if at is None:
            return until
        return max(LEAST_WAIT_SECONDS, min(until, (at - self._store.now()).total_seconds()))

    def _note_outage(self, error: StoreUnavailableError) -> float:
        """Report the outage if it lasts; return the seconds until the next iteration."""
        try:
            self._outage.note(self._config(), error.message, self._clock.now(), self._clock.elapsed())
        except Exception:
            log.exception("notifier_failed")
        return STORE_RETRY_SECONDS

    @property
    def _takes_pings(self) -> bool:
        return len(self._pings_under_way) < CONCURRENT_PINGS

    def _until_sweep(self) -> float:
        starts_at = float("inf") if self._starts_at is None else self._starts_at
        return max(LEAST_WAIT_SECONDS, min(self._next_sweep, self._remind_at, starts_at) - self._clock.elapsed())

    def _start(self, group: ClaimedGroup) -> None:
        thread = threading.Thread(target=self._deliver, args=(group,), name="notice", daemon=True)
        self._deliveries.add(thread)
        if group.notices[0].kind is NoticeKind.PING:
            self._pings_under_way.add(thread)
        thread.start()

    def _deliver(self, group: ClaimedGroup) -> None:
        try:
            outcome = self._attempt(group)
            log_outcome(group, outcome)
        except StoreError as error:  # the lease expires, and the message is sent again with the same id
            log.error("notice_not_recorded", channel=group.channel, error=str(error))
        except Exception:
            log.exception("notice_failed", channel=group.channel)
        finally:
            self._deliveries.discard(threading.current_thread())
            self._pings_under_way.discard(threading.current_thread())
            self._slots.release()
            self._wakeup.set()

    def _attempt(self, group: ClaimedGroup) -> Outcome:
        try:
            return deliver(self._store, self._sender, self._config().destinations, group, self._node)
        except StoreError:
            raise
        except Exception as error:  # one message must not be tried forever at once
            log.exception("notice_failed", channel=group.channel)
            outcome = unexpected(error)
            settle_failure(self._store, group, outcome, self._store.now())
            return outcome
