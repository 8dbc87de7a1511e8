"""A run in the foreground, with no daemon and, if need be, with no store: the same supervision, told as it happens."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

from maintd.clock import Clock, since_boot
from maintd.config.settings import Settings
from maintd.errors import RefusedError, StoreError, StoreUnavailableError
from maintd.executor.cancellation import CancelToken, LeaseDeadline
from maintd.executor.fork_client import Warm
from maintd.executor.journal import Recorder
from maintd.executor.means import Jobs, Means, Writes, imports_of
from maintd.executor.outcome import StopKind
from maintd.executor.run_supervisor import Supervisor
from maintd.executor.run_view import Notebook
from maintd.model.entry import Entry
from maintd.model.job import JobDescription
from maintd.model.run import NewRun, Run, RunState, Trigger
from maintd.model.target import Targets
from maintd.operations.params import with_params
from maintd.store import Store

log = structlog.get_logger()

Told = Callable[[str, int, Any], None]

RECORDED_WITHIN = 15.0  # seconds that the end of the run may take to reach the store


def run_here(
    entry: Entry,
    *,
    settings: Settings,
    targets: Targets,
    jobs: Jobs,
    store: Store | None,
    clock: Clock,
    params: Mapping[str, Any],
    dry_run: bool,
    requested_by: str,
    why: str,
    on_report: Told,
) -> Run:
    """Run an entry now, in this process; the run as it ended, with all its evidence but the log lines.

    `on_report` is told everything as it happens: the step's name, the attempt's number (0 for what is no attempt's) and
    the item or write. Ctrl-C or SIGTERM cancels, a second one kills at once. A store that is away is done without.
    Raises UsageError for params that make no sense, RefusedError when a run of the entry is under way.
    """
    described = {name: job for name, job in jobs.items() if isinstance(job, JobDescription)}
    asked = NewRun(
        entry=entry.name,
        title=entry.title,
        trigger=Trigger.MANUAL,
        state=RunState.QUEUED,
        not_before=clock.now(),
        plan=with_params(entry, params, described),
        policy=entry.policy,
        params=dict(params),
        requested_by=requested_by,
        why=why,
        dry_run=dry_run,
    )
    with tempfile.TemporaryDirectory(prefix="maintd-here-") as folder:
        return _Here(settings, targets, jobs, store, clock, on_report, Path(folder)).run(asked)


class _Here:
    """One run in the foreground."""

    def __init__(
        self,
        settings: Settings,
        targets: Targets,
        jobs: Jobs,
        store: Store | None,
        clock: Clock,
        on_report: Told,
        folder: Path,
    ) -> None:
        self._settings = self._usable(settings, folder)
        self._targets = targets
        self._jobs = jobs
        self._store = store
        self._clock = clock
        self._ahead = timedelta(0)  # the store's clock before this one's
        self._claimed_at = 0.0
        self._on_report = on_report
        # Another name than the daemon's on this node, which takes all under its own for its own.
        self._node = f"{settings.node}/here"
        self._incarnation = uuid.uuid4().hex

    def run(self, asked: NewRun) -> Run:
        run = self._claimed(asked)
        names = [step.name for step in asked.plan]
        stop = CancelToken()
        imports = imports_of(self._jobs, {step.job for step in run.plan})
        warm = Warm(self._settings.state_dir, self._settings.grace, lambda: imports)
        recorder = None if self._store is None else Recorder(self._store, self._settings.spool_dir)
        journal = None if recorder is None else recorder.open(run.id, run.fence, lambda journal: None)
        notebook = Notebook(run, journal, lambda step, attempt, item: self._on_report(names[step], attempt, item))
        if recorder is not None:
            recorder.start()
        try:
            with self._interruptible(stop), self._lease_kept(run, stop):
                self._supervise(run, warm, notebook, stop)
        finally:
            warm.stop()
            stop.close()
            if recorder is not None:
                recorder.flush(RECORDED_WITHIN)
                recorder.stop()
        return notebook.run()

    def _supervise(self, run: Run, warm: Warm, writes: Writes, stop: CancelToken) -> None:
        means = Means(
            settings=self._settings,
            warm=warm,
            store=self._store,
            now=self._now,
            jobs=lambda: self._jobs,
            targets=lambda: self._targets,
        )
        folder = str(run.id) if run.id else f"here-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
        Supervisor(run, means, writes, stop, folder=folder).supervise()

    def _now(self) -> datetime:
        return self._clock.now() + self._ahead

    def _claimed(self, asked: NewRun) -> Run:
        """The run, in the store where there is one."""
        if self._store is not None:
            try:
                self._claimed_at = since_boot()
                now = self._store.now()
                self._ahead = now - self._clock.now()
                asked = asked.model_copy(update={"not_before": now})
                until = now + self._settings.lease
                run = self._store.runs.add_claimed(asked, self._node, self._incarnation, until, now)
            except StoreUnavailableError as error:
                log.warning("run_not_recorded", error=str(error))
                self._store = None
            else:
                if run is None:
                    raise RefusedError(
                        f"a run of {asked.entry} is under way", f"see: maintd status {asked.entry}, or cancel it first"
                    )
                return run
        now = self._clock.now()
        return Run(
            id=0,
            **{name: getattr(asked, name) for name in NewRun.model_fields if name not in ("state", "not_before")},
            state=RunState.RUNNING,
            queued_at=now,
            not_before=now,
            started_at=now,
            node=self._node,
        )

    @contextmanager
    def _lease_kept(self, run: Run, stop: CancelToken) -> Iterator[None]:
        if self._store is None:
            yield
            return
        store, over = self._store, threading.Event()

        def keep_locks(asked_at: float) -> None:
            if store.shared:
                stop.keep(LeaseDeadline.of(asked_at, self._settings.lease, self._settings.grace))

        def keep() -> None:
            while not over.wait(self._settings.heartbeat.total_seconds()):
                asked_at = since_boot()
                try:
                    asked = store.runs.renew(run.id, run.fence, self._now() + self._settings.lease)
                except StoreError as error:
                    log.debug("leases_wait", error=str(error))
                    continue
                if over.is_set():
                    return
                if asked is None:
                    stop.ask(StopKind.LOST, "the lease of the run was lost")
                else:
                    keep_locks(asked_at)
                    if asked:
                        stop.ask(StopKind.CANCELLED, asked)

        keep_locks(self._claimed_at)
        thread = threading.Thread(target=keep, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @contextmanager
    def _interruptible(self, stop: CancelToken) -> Iterator[None]:
        """Ctrl-C and SIGTERM cancel. Only where signals can be had: in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        asked = 0

        def handle(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            asked += 1
            stop.ask(StopKind.CANCELLED, f"{signal.Signals(number).name} at the terminal", kill=asked > 1)

        earlier = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    @staticmethod
    def _usable(settings: Settings, folder: Path) -> Settings:
        """With a state directory that can be written, if only for this run: an emergency must not fail for that."""
        state = settings.state_dir
        try:
            state.mkdir(parents=True, exist_ok=True, mode=0o750)
            with tempfile.TemporaryFile(dir=state):
                return settings
        except OSError as error:
            kept = Path(tempfile.gettempdir()) / f"maintd-{os.getuid()}"
            log.warning("state_dir_not_writable", error=str(error), artifacts=str(kept))
            return settings.model_copy(update={"state_dir": kept})
