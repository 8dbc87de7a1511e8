"""The executor of this node: claims queued runs, supervises each in a thread, holds their leases, warms the template.

One thread dispatches: it looks for runs that may be claimed whenever it is woken, when the next one may start, and now
and then. One thread renews all leases and hears of cancels. Each run has a thread of its own while it is under way, so
an idle executor has two threads that sleep, the recorder's, and no other process.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from maintd.clock import Clock, since_boot
from maintd.config.settings import Settings
from maintd.errors import StoreError
from maintd.executor.cancellation import CancelToken, LeaseDeadline
from maintd.executor.crew import Crew
from maintd.executor.fork_client import Warm
from maintd.executor.journal import Journal, Recorder
from maintd.executor.means import Jobs, Means, imports_of
from maintd.executor.outcome import StopKind
from maintd.executor.run_supervisor import Supervisor
from maintd.executor.starts import Starts
from maintd.executor.warmth import Warmth
from maintd.model.run import Run
from maintd.model.run_updates import RunRequeued
from maintd.model.target import Targets
from maintd.store import Store

log = structlog.get_logger()

STORE_PATIENCE = 1.0  # seconds between looks at a store that is away
SETTLE = 10.0  # seconds in which the ends of the last runs should reach the store at a stop
LOOK_APART = 0.02  # seconds between two looks for work
RENEW_APART = 0.2  # seconds; a burst of wake-ups is one look for cancels


@dataclass
class ClaimedRun:
    """A run that this process has claimed, until its end is recorded."""

    run: Run
    journal: Journal
    stop: CancelToken
    started: Callable[[], None]
    supervised: bool = True  # False: only its end is still to be recorded


class LocalExecutor:
    """Runs what is queued, at most `slots` at once. Thread-safe."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        clock: Clock,
        *,
        jobs: Callable[[], Jobs],
        targets: Callable[[], Targets],
        incarnation: str,
        usual: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """`usual`: names of the jobs in the calendar, for which the template is made ready."""
        self._store = store
        self._settings = settings
        self._clock = clock
        self._incarnation = incarnation
        self._looked = (clock.now(), clock.elapsed())  # the store's time, and when that was
        self._jobs = jobs
        self._usual = usual
        self._warm = Warm(settings.state_dir, settings.grace, self._imports)
        self._crew = Crew("run")
        self._starts = Starts()
        self._warmth = Warmth(self._warm, self._crew, settings, jobs)
        self._recorder = Recorder(store, settings.spool_dir)
        self._means = Means(
            settings=settings,
            warm=self._warm,
            store=store,
            now=self._now,
            jobs=jobs,
            targets=targets,
            draining=lambda: self._draining,
        )
        self._lock = threading.Lock()
        self._held: dict[int, ClaimedRun] = {}
        self._idle = threading.Condition(self._lock)  # fewer runs are supervised
        self._draining = False
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._renew = threading.Event()
        self._next_queued: datetime | None = None
        self._used_at = clock.elapsed()
        self._dispatcher = threading.Thread(target=self._dispatch, name="dispatcher", daemon=True)
        self._renewer = threading.Thread(target=self._keep_leases, name="leases", daemon=True)

    # --- for the daemon ---

    def start(self) -> None:
        """Begin to claim."""
        shutil.rmtree(self._settings.state_dir / "work", ignore_errors=True)  # of attempts that were killed
        self._recorder.start()
        self._dispatcher.start()
        self._renewer.start()

    def wake(self) -> None:
        """Rows changed: look for work and for cancels. Returns at once."""
        self._wake.set()
        self._renew.set()

    def expect(self, next_due: datetime | None) -> None:
        """Set when the calendar next has a run due; the template is started shortly before. Returns at once."""
        if self._warmth.expect(next_due):
            self._wake.set()

    @property
    def running(self) -> tuple[int, ...]:
        """Ids of runs that are being supervised."""
        with self._lock:
            return tuple(sorted(run_id for run_id, held in self._held.items() if held.supervised))

    @property
    def held(self) -> tuple[int, ...]:
        """Ids of runs that this process has claimed and whose end is not recorded yet."""
        with self._lock:
            return tuple(self._held)

    @property
    def warm(self) -> bool:
        """A template is there with its libraries loaded: what falls due starts within milliseconds."""
        return self._warmth.is_ready

    def is_warm_for(self, job: str) -> bool:
        """The job's module is loaded too."""
        return self._warmth.is_ready_for(job)

    @property
    def alive(self) -> bool:
        """Work is claimed and leases are renewed. False after an error that nobody foresaw: end the process."""
        return self._dispatcher.is_alive() and self._renewer.is_alive() and self._recorder.alive

    def stop(self, drain: timedelta) -> None:
        """Claim no more; wait for the runs under way, at most `drain`; cancel what is left; record all ends.

        A run whose first step has not begun goes back into the queue.
        """
        deadline = self._clock.elapsed() + drain.total_seconds()
        self._draining = True
        self.wake()
        self._dispatcher.join()
        self._wait_until_idle(deadline)
        with self._lock:
            left = [held for held in self._held.values() if held.supervised]
        for held in left:
            log.warning("run_cancelled_by_shutdown", run=held.run.id, entry=held.run.entry)
            held.stop.ask(StopKind.SHUTDOWN, f"shutdown of node {self._settings.node}")
        self._wait_until_idle(None)
        if not self._recorder.flush(SETTLE):
            log.warning("evidence_left_in_spool", folder=str(self._settings.spool_dir))
        self._stopping.set()
        self._renew.set()
        self._renewer.join()
        self._recorder.stop()
        self._crew.dismiss()
        self._warm.stop()

    def _wait_until_idle(self, deadline: float | None) -> None:
        with self._idle:
            while any(held.supervised for held in self._held.values()):
                left = 1.0 if deadline is None else deadline - self._clock.elapsed()
                if left <= 0:
                    return
                self._idle.wait(min(left, 1.0))

    def _now(self) -> datetime:
        """The store's time as well as it is known; that this machine's clock is set does no harm."""
        now, looked_at = self._looked
        return now + timedelta(seconds=self._clock.elapsed() - looked_at)

    def _store_now(self) -> datetime:
        asked_at = self._clock.elapsed()
        now = self._store.now()
        self._looked = (now, (asked_at + self._clock.elapsed()) / 2)
        return now

    # --- claiming ---

    def _dispatch(self) -> None:
        looked_at = 0.0
        while not self._draining:
            # The first of a burst of wake-ups is answered at once, the others together.
            self._stopping.wait(max(0.0, LOOK_APART - (time.monotonic() - looked_at)))
            self._wake.clear()
            looked_at = time.monotonic()
            try:
                patience = self._look()
            except StoreError as error:
                log.debug("claims_wait", error=str(error))
                patience = STORE_PATIENCE
            patience = min(patience, self._keep_warm())
            self._wake.wait(max(0.0, min(patience, self._settings.heartbeat.total_seconds())))

    def _look(self) -> float:
        """Claim what may be claimed and give each run a thread; seconds until the next look."""
        with self._lock:
            free = self._settings.slots - sum(held.supervised for held in self._held.values())
        if free <= 0:
            return float("inf")  # whoever ends wakes
        asked_at = since_boot()
        now = self._store_now()
        found = self._store.runs.claimable(now, limit=free)
        if found:
            lease_until = now + self._settings.lease
            node, incarnation = self._settings.node, self._incarnation
            claimed = self._store.runs.claim_many(found, node, incarnation, lease_until, now)
            for run, started in zip(claimed, self._starts.begin(len(claimed)), strict=True):
                self._give_thread(run, asked_at, started)
            return 0.0  # there may be more than was looked for
        self._next_queued = self._store.runs.next_not_before()
        if self._next_queued is None:
            return float("inf")
        left = (self._next_queued - self._now()).total_seconds()
        return left if left > 0 else STORE_PATIENCE

    def _give_thread(self, run: Run, asked_at: float, started: Callable[[], None]) -> None:
        held = ClaimedRun(run, self._recorder.open(run.id, run.fence, self._over), CancelToken(), started)
        self._note_hold(held, asked_at)
        with self._lock:
            self._held[run.id] = held
        self._crew.give(lambda: self._take(held))

    def _take(self, held: ClaimedRun) -> None:
        try:
            self._supervise(held)
        finally:
            with self._lock:
                held.supervised = False
                self._idle.notify_all()
                if held.journal.done:
                    self._held.pop(held.run.id, None)
                self._used_at = self._clock.elapsed()
            self._wake.set()

    def _supervise(self, held: ClaimedRun) -> None:
        run = held.run
        log.info("run_claimed", run=run.id, entry=run.entry, due_at=run.due_at)
        supervisor = Supervisor(run, self._means, held.journal, held.stop, folder=str(run.id), started=held.started)
        try:
            end = supervisor.supervise()
        finally:
            held.started()
            held.stop.close()
        if end is None:
            held.journal.abandon()
            log.error("run_not_ours", run=run.id, entry=run.entry)
        elif isinstance(end, RunRequeued):
            log.info("run_put_back", run=run.id, entry=run.entry, reason=end.reason)
        else:
            log.info("run_ended", run=run.id, entry=run.entry, state=end.state, reason=end.reason or None)

    def _over(self, journal: Journal) -> None:
        """Its end is recorded, or the claim was refused. Called by a recorder's thread."""
        with self._lock:
            held = self._held.get(journal.run_id)
            if held is not None and held.journal is journal:
                if journal.refused and held.supervised:
                    held.stop.ask(StopKind.LOST, "the run is not this node's any more")
                if not held.supervised:
                    del self._held[journal.run_id]
        self._wake.set()  # its entry and its locks are free

    # --- leases ---

    def _keep_leases(self) -> None:
        heartbeat = self._settings.heartbeat.total_seconds()
        while not self._stopping.is_set():
            self._renew.wait(heartbeat)
            self._renew.clear()
            if self._stopping.is_set():
                return
            began = time.monotonic()
            try:
                self._renew_all()
            except StoreError as error:
                log.debug("leases_wait", error=str(error))
            # A thread that is told to renew twice in a moment does so once.
            self._stopping.wait(max(0.0, RENEW_APART - (time.monotonic() - began)))

    def _renew_all(self) -> None:
        with self._lock:
            fences = {run_id: held.run.fence for run_id, held in self._held.items()}
        if not fences:
            return
        asked_at = since_boot()
        until = self._store_now() + self._settings.lease
        answers = self._store.runs.renew_all(self._settings.node, self._incarnation, until, fences)
        for run_id, asked in answers.items():
            with self._lock:
                held = self._held.get(run_id)
            if held is None or not held.supervised or held.run.fence != fences[run_id]:
                continue
            if asked is None:
                held.stop.ask(StopKind.LOST, "the lease of the run was lost to another node")
            else:
                self._note_hold(held, asked_at)
                if asked:
                    held.stop.ask(StopKind.CANCELLED, asked)

    def _note_hold(self, held: ClaimedRun, asked_at: float) -> None:
        """A lease was granted that was asked for at that moment; where other nodes are, its locks end with it.

        SQLite is one node's own: while it cannot be written, nobody takes a lock there either.
        """
        if self._store.shared:
            held.stop.keep(LeaseDeadline.of(asked_at, self._settings.lease, self._settings.grace))

    # --- warmth ---

    def _keep_warm(self) -> float:
        """Seconds until the next look."""
        with self._lock:
            busy = any(held.supervised for held in self._held.values())
        unused = None if busy else self._clock.elapsed() - self._used_at
        return self._warmth.keep(self._now(), self._next_queued, unused=unused)

    def _imports(self) -> set[str]:
        """What the jobs of the calendar, and of the runs under way, import."""
        with self._lock:
            under_way = {step.job for held in self._held.values() for step in held.run.plan}
        return imports_of(self._jobs(), {*self._usual(), *under_way})
