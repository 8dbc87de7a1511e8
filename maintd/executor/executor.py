"""The executor of this node: claims queued runs, supervises each in a thread, starts and ends the template.

One thread dispatches: it claims runs when it is woken, when the next one may start, and at each heartbeat. Each run has
a thread of its own. An idle executor has the sleeping threads of the dispatcher, the leases and the recorder, and no
other process.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog

from maintd.clock import Clock, since_boot
from maintd.config.settings import Settings
from maintd.errors import SettingsError, StoreError
from maintd.executor.claimed_runs import ClaimedRuns
from maintd.executor.fork_client import Preload, TemplateError
from maintd.executor.job_user import check_access, root_jobs_of
from maintd.executor.outcome import StopKind
from maintd.executor.run_context import Jobs, imports_of
from maintd.executor.thread_pool import ThreadPool
from maintd.model.entry import Freeze
from maintd.model.job import JobDescription
from maintd.model.target import Targets
from maintd.store import Store

log = structlog.get_logger()

STORE_RETRY = 1.0  # seconds between two claims while the store cannot be reached
CLAIM_INTERVAL = 0.02  # least seconds between two claims
MOST_SPARES = 100  # children that are forked in advance; each takes about 1 MiB
TEMPLATE_IDLE_SECONDS = 10.0  # that an unused template is kept for the next run


class LocalExecutor:
    """Runs what is queued, at most `slots` runs at once. Thread-safe."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        clock: Clock,
        *,
        jobs: Callable[[], Jobs],
        targets: Callable[[], Targets],
        secrets: Callable[[], Mapping[str, str]] = dict,
        calendar: Callable[[], Mapping[str, Any]] = dict,
        freezes: Callable[[], Sequence[Freeze]] = tuple,
        incarnation: str,
        calendar_jobs: Callable[[], Iterable[str]] = tuple,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`calendar_jobs` returns the names of the jobs whose modules the template preloads; `on_end` is called when
        the end of a run is recorded."""
        self._store = store
        self._settings = settings
        self._clock = clock
        self._incarnation = incarnation
        self._jobs = jobs
        self._calendar_jobs = calendar_jobs
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._next_queued: datetime | None = None
        self._next_due: datetime | None = None
        self._runs = ClaimedRuns(
            store,
            settings,
            clock,
            jobs=jobs,
            targets=targets,
            secrets=secrets,
            calendar=calendar,
            freezes=freezes,
            incarnation=incarnation,
            preload=self._preload,
            spares=min(settings.slots, MOST_SPARES),
            on_change=self._wake.set,
            on_end=on_end,
        )
        self._threads = ThreadPool("run")
        self._dispatcher = threading.Thread(target=self._dispatch, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Start to claim runs. Raises SettingsError when the settings of `job_user` cannot be applied."""
        if self._runs.job_user is not None:
            check_access(self._runs.job_user, self._settings)
        unknown = root_jobs_of(self._settings) - set(self._jobs())
        if unknown:
            raise SettingsError(f'root_jobs: there is no job "{min(unknown)}"', "see: maintd jobs")
        shutil.rmtree(self._settings.state_dir / "work", ignore_errors=True)  # of attempts that were killed
        self._runs.start()
        self._dispatcher.start()

    def wake(self) -> None:
        """Claim runs and read cancel requests now, since rows have changed. Returns at once."""
        self._wake.set()
        self._runs.wake()

    def expect(self, next_due: datetime | None) -> None:
        """Set when the calendar next has a run due; the template is started shortly before. Returns at once."""
        if next_due != self._next_due:
            self._next_due = next_due
            self._wake.set()

    @property
    def running(self) -> tuple[int, ...]:
        """Ids of the runs that are being supervised."""
        return tuple(sorted(claimed.run.id for claimed in self._runs.supervised))

    @property
    def held(self) -> tuple[int, ...]:
        """Ids of the runs that this process has claimed and whose end is not recorded yet."""
        return self._runs.ids

    @property
    def template_ready(self) -> bool:
        """Whether a template has imported everything: what falls due starts within milliseconds."""
        return self._runs.fork_client.is_ready

    @property
    def template_pid(self) -> int | None:
        """The template's pid; None while there is no template."""
        return self._runs.fork_client.pid

    @property
    def alive(self) -> bool:
        """Whether runs are claimed, leases renewed and ends recorded. False after an unexpected error: exit then."""
        return self._dispatcher.is_alive() and self._runs.alive

    def stop(self, drain: timedelta) -> None:
        """Claim no more; wait for the runs under way, at most `drain`; cancel what is left; record all ends.

        A run whose first step has not started is requeued.
        """
        deadline = self._clock.elapsed() + drain.total_seconds()
        self._runs.draining = True
        self.wake()
        self._dispatcher.join()
        self._runs.wait_until_idle(deadline)
        for claimed in self._runs.supervised:
            log.warning("run_cancelled_by_shutdown", run=claimed.run.id, entry=claimed.run.entry)
            claimed.cancel.request(StopKind.SHUTDOWN, f"shutdown of node {self._settings.node}")
        self._runs.wait_until_idle(None)
        self._stopping.set()
        self._runs.stop()

    # --- claiming ---

    def _dispatch(self) -> None:
        claimed_at = 0.0
        while not self._runs.draining:
            # The first of a burst of wake-ups is served at once, the others together.
            self._stopping.wait(max(0.0, CLAIM_INTERVAL - (time.monotonic() - claimed_at)))
            self._wake.clear()
            claimed_at = time.monotonic()
            try:
                seconds = min(self._claim(), self._keep_template())
            except StoreError as error:
                log.debug("claims_wait", error=str(error))
                seconds = STORE_RETRY
            except Exception:
                # Too many open files, say: what is queued stays queued, and the next attempt may succeed.
                log.exception("claim_failed")
                seconds = STORE_RETRY
            self._wake.wait(max(0.0, min(seconds, self._settings.heartbeat.total_seconds())))

    def _claim(self) -> float:
        """Claim as many runs as there are free slots and start them; return the seconds until the next claim."""
        free = self._settings.slots - len(self._runs.supervised)
        if free <= 0:
            return float("inf")  # the end of a run wakes the dispatcher
        requested_at = since_boot()
        now = self._runs.read_store_time()
        found = self._store.runs.claimable(now, limit=free)
        if found:
            lease_until = now + self._settings.lease
            node, incarnation = self._settings.node, self._incarnation
            runs = self._store.runs.claim_many(found, node, incarnation, lease_until, now)
            for run in runs:
                claimed = self._runs.hold(run, requested_at)
                self._threads.run(partial(self._runs.supervise, claimed))
            for run in runs:  # after the starts, which are urgent
                log.info("run_claimed", run=run.id, entry=run.entry, due_at=run.due_at)
            return 0.0  # there may be more than the limit
        self._next_queued = self._store.runs.next_not_before()
        if self._next_queued is None:
            return float("inf")
        left = (self._next_queued - self._runs.now()).total_seconds()
        return left if left > 0 else STORE_RETRY

    # --- the template ---

    def _keep_template(self) -> float:
        """Start the template shortly before something is due, end it when unused; return the seconds to the next call.

        It stays while a run is under way, and TEMPLATE_IDLE_SECONDS after the last one.
        """
        client = self._runs.fork_client
        client.reap()
        now, before = self._runs.now(), self._settings.warm_before.total_seconds()
        times = [at for at in (self._next_due, self._next_queued) if at is not None]
        left = min(((at - now).total_seconds() for at in times), default=float("inf"))
        if left <= before:
            try:
                client.start()
            except TemplateError as error:
                log.error("template_unavailable", error=str(error))
            return float("inf")
        if not self._runs.supervised and client.pid is not None:
            unused = self._clock.elapsed() - self._runs.used_at
            if unused < TEMPLATE_IDLE_SECONDS:
                return min(left - before, TEMPLATE_IDLE_SECONDS - unused)
            client.release()
        return left - before

    def _preload(self) -> Preload:
        """Return the job modules of the calendar, and what they and the runs under way import."""
        jobs = self._jobs()
        calendar = [job for job in map(jobs.get, self._calendar_jobs()) if isinstance(job, JobDescription)]
        under_way = {step.job for claimed in self._runs.supervised for step in claimed.run.plan}
        return Preload(
            imports=imports_of(jobs, {job.name for job in calendar} | under_way),
            jobs=frozenset(job.path for job in calendar if not job.fresh),
        )
