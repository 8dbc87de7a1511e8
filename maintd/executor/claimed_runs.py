"""The runs that this process has claimed: supervises each, renews its lease and records its end.

The executor uses it for what it claims from the queue, and `maintd run NAME --here` for its one run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from maintd.clock import Clock, since_boot
from maintd.config.settings import Settings
from maintd.errors import StoreError
from maintd.executor.cancellation import CancelToken, LeaseDeadline
from maintd.executor.fork_client import ForkClient, Preload
from maintd.executor.job_user import job_user_of
from maintd.executor.journal import Journal, Recorder
from maintd.executor.outcome import StopKind
from maintd.executor.run_context import Jobs, RunContext
from maintd.executor.run_projection import RunProjection
from maintd.executor.run_supervisor import RunSupervisor
from maintd.model.entry import Freeze
from maintd.model.run import Run
from maintd.model.run_updates import RunRequeued, RunUpdate, RunWaiting
from maintd.model.target import Targets
from maintd.operations.freezes import KnownFreezes
from maintd.secret_params import discard
from maintd.store import Store

log = structlog.get_logger()

FLUSH_SECONDS = 15.0  # within which the ends of the last runs should reach the store at a stop
RENEW_INTERVAL = 0.2  # least seconds between two renewals: a burst of wake-ups reads cancel requests once


@dataclass
class ClaimedRun:
    """A run that this process has claimed, until its end is recorded. Takes its supervisor's updates."""

    run: Run
    cancel: CancelToken
    journal: Journal | None  # None: there is no store
    projection: RunProjection | None
    supervised: bool = True  # False: only its end is still to be recorded

    @property
    def full(self) -> bool:
        """Whether so much waits to be recorded that the child should wait too."""
        return self.journal is not None and self.journal.full

    def wait_stored(self, seconds: float) -> bool:
        """Wait until the store has all that was added, at most that long; whether it has, or there is no store."""
        return self.journal is None or self.journal.wait_stored(seconds)

    def wait_durable(self, seconds: float) -> bool:
        """Wait until all that was added is in the store or the spool, at most that long; whether it is, or there is no
        store."""
        return self.journal is None or self.journal.wait_durable(seconds)

    def add(self, *updates: RunUpdate, soon: bool = True) -> None:
        """Record these after all earlier ones; with `soon` False they may wait a moment for more."""
        if self.journal is not None:
            self.journal.add(*updates, soon=soon)
        if self.projection is not None:
            for update in updates:
                self.projection.apply(update)


class ClaimedRuns:
    """All claimed runs of this process, each supervised in the thread that calls `supervise`. Thread-safe."""

    def __init__(
        self,
        store: Store | None,
        settings: Settings,
        clock: Clock,
        *,
        jobs: Callable[[], Jobs],
        targets: Callable[[], Targets],
        secrets: Callable[[], Mapping[str, str]] = dict,
        calendar: Callable[[], Mapping[str, Any]] = dict,
        freezes: Callable[[], Sequence[Freeze]] = tuple,
        incarnation: str,
        preload: Callable[[], Preload],
        spares: int = 0,
        in_foreground: bool = False,
        on_change: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_change` is called when a run is no longer supervised and when its end is recorded, `on_end` then too."""
        self._store = store
        self._settings = settings
        self._clock = clock
        self._jobs = jobs
        self._targets = targets
        self._secrets = secrets
        self._calendar = calendar
        self._freezes = KnownFreezes(store, freezes, settings.freeze_file)
        self._incarnation = incarnation
        self._in_foreground = in_foreground
        self._on_change = on_change
        self._on_end = on_end
        self.job_user = job_user_of(settings)
        self.fork_client = ForkClient(settings.state_dir, settings.grace, preload, spares)
        self.draining = False  # whether this node is about to stop
        self.used_at = clock.elapsed()  # when a run was supervised last
        self._store_time = (clock.now(), clock.elapsed())  # the store's time, and when it was read
        self._recorder = None if store is None else Recorder(store, settings.spool_dir)
        self._lock = threading.Lock()
        self._claimed: dict[int, ClaimedRun] = {}
        self._run_ended = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._renew = threading.Event()
        self._renewer = threading.Thread(target=self._renew_leases, name="leases", daemon=True)

    @property
    def supervised(self) -> list[ClaimedRun]:
        """The runs that are being supervised."""
        with self._lock:
            return [claimed for claimed in self._claimed.values() if claimed.supervised]

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of all claimed runs whose end is not recorded yet."""
        with self._lock:
            return tuple(self._claimed)

    @property
    def alive(self) -> bool:
        """Whether leases are renewed and updates recorded. False after an unexpected error."""
        return self._renewer.is_alive() and (self._recorder is None or self._recorder.alive)

    def start(self) -> None:
        """Start to renew leases and to record."""
        if self._recorder is not None:
            self._recorder.start()
        self._renewer.start()

    def wake(self) -> None:
        """Renew leases, and so read cancel requests, now. Returns at once."""
        self._renew.set()

    def now(self) -> datetime:
        """Return the store's time, as read last plus the time since; setting this machine's clock has no effect."""
        now, read_at = self._store_time
        return now + timedelta(seconds=self._clock.elapsed() - read_at)

    def read_store_time(self) -> datetime:
        """Read the store's time. Raises StoreUnavailableError."""
        if self._store is not None:
            before = self._clock.elapsed()
            self._store_time = (self._store.now(), (before + self._clock.elapsed()) / 2)
        return self.now()

    def hold(self, run: Run, requested_at: float, projection: RunProjection | None = None) -> ClaimedRun:
        """Take a run whose claim was requested at that time on the clock since boot; `supervise` it next."""
        journal = None
        if self._recorder is not None:
            journal = self._recorder.open(run.id, run.fence, self._handle_recorded)
        claimed = ClaimedRun(run, CancelToken(), journal, projection)
        if run.cancel_requested:  # while it was queued again after a gate
            claimed.cancel.request(StopKind.CANCELLED, run.cancel_requested)
        self._note_lease(claimed, requested_at)
        with self._lock:
            self._claimed[run.id] = claimed
        return claimed

    def supervise(self, claimed: ClaimedRun, folder: str = "") -> None:
        """Supervise a run to its end. `folder` names its folder of artifacts; empty: its id."""
        run = claimed.run
        context = RunContext(
            run=run,
            updates=claimed,
            cancel=claimed.cancel,
            folder=folder or str(run.id),
            settings=self._settings,
            fork_client=self.fork_client,
            store=self._store,
            now=self.now,
            jobs=self._jobs,
            targets=self._targets,
            secrets=self._secrets,
            calendar=self._calendar,
            freezes=self._freezes.active,
            draining=lambda: self.draining,
            job_user=self.job_user,
            in_foreground=self._in_foreground,
        )
        try:
            end = RunSupervisor(context).supervise()
            if end is None:
                log.error("run_claim_lost", run=run.id, entry=run.entry)
                if claimed.journal is not None:
                    claimed.journal.abandon()
            elif isinstance(end, RunWaiting):
                log.info("run_waits_at_gate", run=run.id, entry=run.entry, until=end.until)
            elif isinstance(end, RunRequeued):
                log.info("run_requeued", run=run.id, entry=run.entry, reason=end.reason)
            else:
                for step in run.plan:
                    discard(step.params, self._settings.secrets_dir)
                log.info("run_ended", run=run.id, entry=run.entry, state=end.state, reason=end.reason or None)
        finally:
            claimed.cancel.close()
            with self._lock:
                claimed.supervised = False
                self._run_ended.notify_all()
                if claimed.journal is None or claimed.journal.done:
                    self._claimed.pop(run.id, None)
                self.used_at = self._clock.elapsed()
            self._on_change()

    def wait_until_idle(self, deadline: float | None) -> None:
        """Wait until no run is supervised, at most until that time on the clock."""
        with self._run_ended:
            while any(claimed.supervised for claimed in self._claimed.values()):
                left = 1.0 if deadline is None else deadline - self._clock.elapsed()
                if left <= 0:
                    return
                self._run_ended.wait(min(left, 1.0))

    def stop(self) -> None:
        """Record all ends, end the template and all threads. No run may be supervised any more."""
        if self._recorder is not None and not self._recorder.flush(FLUSH_SECONDS):
            log.warning("evidence_left_in_spool", folder=str(self._settings.spool_dir))
        self._stopping.set()
        self._renew.set()
        self._renewer.join()
        if self._recorder is not None:
            self._recorder.stop()
        self.fork_client.stop()

    def _handle_recorded(self, journal: Journal) -> None:
        """The end of a run is recorded, or its claim was refused. Called by one of the recorder's threads."""
        with self._lock:
            claimed = self._claimed.get(journal.run_id)
            if claimed is not None and claimed.journal is journal:
                if journal.refused and claimed.supervised:
                    claimed.cancel.request(StopKind.LOST, "the run is not this node's any more")
                if not claimed.supervised:
                    del self._claimed[journal.run_id]
        self._on_change()  # its entry and its locks are free
        self._on_end()

    # --- leases ---

    def _renew_leases(self) -> None:
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
            except Exception:  # an end of this thread would end every run of this node as lost
                log.exception("lease_renewal_failed")
            self._stopping.wait(max(0.0, RENEW_INTERVAL - (time.monotonic() - began)))

    def _renew_all(self) -> None:
        with self._lock:
            fences = {run_id: claimed.run.fence for run_id, claimed in self._claimed.items()}
        if self._store is None or not fences:
            return
        requested_at = since_boot()
        until = self.read_store_time() + self._settings.lease
        answers = self._store.runs.renew_all(self._settings.node, self._incarnation, until, fences)
        for run_id, cancel_requested in answers.items():
            with self._lock:
                claimed = self._claimed.get(run_id)
            if claimed is None or not claimed.supervised or claimed.run.fence != fences[run_id]:
                continue
            if cancel_requested is None:
                claimed.cancel.request(StopKind.LOST, "the lease of the run was lost to another node")
            else:
                self._note_lease(claimed, requested_at)
                if cancel_requested:
                    claimed.cancel.request(StopKind.CANCELLED, cancel_requested)

    def _note_lease(self, claimed: ClaimedRun, requested_at: float) -> None:
        """Note a granted lease; where several nodes share the store, the run's locks end with it.

        SQLite belongs to one node: while it cannot be written, no other node takes a lock there.
        """
        if self._store is not None and self._store.shared:
            claimed.cancel.renew(LeaseDeadline.of(requested_at, self._settings.lease, self._settings.grace))
