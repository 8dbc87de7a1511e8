"""The composition root: everything is built here and handed down; then one loop plans, sweeps and reloads.

`serve` starts in this order, and undoes it backwards when a later step fails or when it is told to stop:

1. the state directory with its lock, and an end to processes that an earlier daemon left behind;
2. the registry of jobs and the calendar;
3. the store, with what supervisors of an earlier daemon could not write to it;
4. the executor, the control socket with the page, the alarm.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

import structlog

import maintd
from maintd.calendar import Calendar
from maintd.clock import Clock, SystemClock
from maintd.config import logging
from maintd.config.settings import Settings
from maintd.config.state_directory import claim_state_dir
from maintd.errors import MaintdError, StoreUnavailableError
from maintd.executor.executor import LocalExecutor
from maintd.executor.journal import replay
from maintd.executor.process_tree import kill_orphans
from maintd.job.registry import JobRegistry
from maintd.model.entry import Rule
from maintd.model.status import NodeState
from maintd.operations import Health, OperatorService, TriggerRequest, trigger
from maintd.scheduler.alarm import Alarm
from maintd.scheduler.calendar_reload import InForce
from maintd.scheduler.lease_expiry import mark_expired_lost, mark_interrupted_lost
from maintd.scheduler.planner import Planner
from maintd.scheduler.signals import install_signal_handlers
from maintd.store import Store, open_store
from maintd.units import utc_text
from maintd.web.server import web_server

log = structlog.get_logger()

STALLED = timedelta(seconds=60)
"""A loop that has not turned for this long makes the daemon unhealthy."""

PRUNE_EVERY = timedelta(days=1)
SWEEP_MARGIN = 0.02  # seconds before a due time in which no sweep begins, since it would delay the start
STORE_PATIENCE = 5.0  # seconds between tries to reach a store that is away
STORE_CLOCK_PATIENCE = 0.05  # seconds between looks whether a store whose clock is behind thinks it is due too


def serve(settings: Settings, run_first: Sequence[str] = ()) -> int:
    """Run until SIGTERM or SIGINT; the exit code. Raises MaintdError when it cannot start.

    `run_first` names entries or jobs that are triggered once, as soon as the daemon is ready.
    """
    logging.configure(settings)
    with ExitStack() as stack:
        stack.enter_context(claim_state_dir(settings.state_dir))
        daemon = Daemon(settings, SystemClock())
        install_signal_handlers(
            {signal.SIGTERM: daemon.stop, signal.SIGINT: daemon.stop, signal.SIGHUP: daemon.ask_reload}
        )
        daemon.start(stack)
        gc.collect()
        gc.freeze()  # all of it stays to the end: no later collection walks it again
        gc.enable()
        for name in run_first:
            trigger(daemon.service(), TriggerRequest(name=name, by="maintd serve", why="asked for at start"))
        daemon.loop()
        log.info("daemon_stopping", drain=settings.drain)
    log.info("daemon_stopped")
    return 0


class Daemon:
    """One node: what it was built from, and the loop that keeps it going."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.incarnation = uuid.uuid4().hex
        self.started_at = clock.now()
        self._stopping = threading.Event()
        self._turn = threading.Event()
        self.in_force = InForce(settings, wake=self._turn.set)
        self._turned = clock.elapsed()
        self._pruned: float | None = None
        self._store_away_since: datetime | None = None

    def start(self, stack: ExitStack) -> None:
        """Build everything; the stack undoes it."""
        settings = self.settings
        for number in kill_orphans(settings.state_dir):
            log.warning("orphan_killed", pid=number)
        self.registry = JobRegistry(settings.job_dirs, settings.job_cache_file)
        stack.callback(self.registry.close)
        self.in_force.begin(self.registry)
        self.store = self._open_store()
        stack.callback(self.store.close)
        self._settle_the_past()
        self.executor = LocalExecutor(
            self.store,
            settings,
            self.clock,
            jobs=lambda: self.registry.jobs,
            targets=lambda: self.in_force.targets,
            incarnation=self.incarnation,
            calendar_jobs=lambda: {step.job for entry in self.in_force.calendar.entries for step in entry.steps},
        )
        self.alarm = Alarm(self._turn.set)
        self.planner = Planner(self.store, self.clock, on_planned=self.executor.wake, on_clock_step=self._set_alarm)
        self.planner.load(self.in_force.calendar.entries)
        self.in_force.attach(self._load, lambda kind, text: self.store.audit.add(kind, text=text, at=self.store.now()))
        self.executor.start()
        stack.callback(self.executor.stop, settings.drain)
        stack.enter_context(web_server(self.service()))
        self.alarm.start(_rules(self.in_force.calendar))
        stack.callback(self.alarm.stop)
        self.executor.expect(self.planner.next_due)
        self._announce()

    def stop(self) -> None:
        """End the loop. For any thread, but not for a signal handler: an event has a lock."""
        self._stopping.set()
        self._turn.set()

    def ask_reload(self) -> None:
        """Read the calendar again soon. For any thread."""
        self.in_force.ask()

    def service(self) -> OperatorService:
        """What the web side is given."""
        return OperatorService(
            store=self.store,
            settings=self.settings,
            clock=self.clock,
            calendar=lambda: self.in_force.calendar,
            jobs=lambda: self.registry.jobs,
            broken_jobs=lambda: self.registry.broken,
            validate=self.registry.validate,
            targets=lambda: self.in_force.targets,
            wake=self._wake_all,
            reload=self.in_force.reload,
            health=self.health,
            started_at=self.started_at,
        )

    def health(self) -> Health:
        """Whether the loop turns and the store answers."""
        problems: list[str] = []
        notes: list[str] = []
        stalled = self.clock.elapsed() - self._turned
        if stalled > STALLED.total_seconds():
            problems.append(f"the planner has not turned for {stalled:.0f} s")
        if self._store_away_since is not None:
            problems.append(f"the store is away since {utc_text(self._store_away_since)}")
        if self.planner.suspended:
            problems.append("nothing is planned for some minutes: the clock jumped forward")
        if self.planner.overruled:
            names = ", ".join(sorted(self.planner.overruled))
            notes.append(f"another node loaded a different calendar later; its schedule is in force for {names}")
        alive = stalled <= STALLED.total_seconds()
        return Health(alive=alive, ready=not problems, problems=(*problems, *notes), lag_seconds=stalled)

    # --- the loop ---

    def loop(self) -> None:
        """Until told to stop: plan at each ring, sweep at each heartbeat, reload when asked."""
        heartbeat = self.settings.heartbeat.total_seconds()
        next_sweep = self.clock.elapsed()
        while not self._stopping.is_set():
            if not self.executor.alive:  # it cannot be mended from here: whoever started the daemon starts it again
                raise MaintdError("a thread of the executor ended by an error, see the log above", "report it")
            self._turn.clear()
            self._turned = self.clock.elapsed()
            try:
                self.in_force.answer()
                # A sweep waits for what is due in a moment, but not for one after the other.
                if self._turned >= next_sweep + (heartbeat if self._until_due() <= SWEEP_MARGIN else 0):
                    next_sweep = self._turned + heartbeat
                    self._sweep()
                else:
                    self.planner.plan()
                self.executor.expect(self.planner.next_due)
                self._store_is_back()
            except StoreUnavailableError as error:
                self._store_is_away(error)
                next_sweep = self.clock.elapsed() + min(1.0, heartbeat)
            self._wait(next_sweep)
        self.in_force.refuse()

    def _wait(self, next_sweep: float) -> None:
        """Wait for the alarm, for the next sweep, or until another thread sets the event."""
        patience = STORE_CLOCK_PATIENCE if self._until_due() <= 0 else float("inf")
        self.clock.wait(self._turn, max(0.0, min(next_sweep - self.clock.elapsed(), patience)))

    def _until_due(self) -> float:
        """Seconds to the next due time by this machine's clock; when it has come is for the store's to say."""
        due = self.planner.next_due
        if due is None or self._store_away_since is not None or self.planner.suspended:
            return float("inf")
        return (due - self.clock.now()).total_seconds()

    def _sweep(self) -> None:
        self.store.nodes.heartbeat(self._node_state())
        self.in_force.look()
        for run in mark_expired_lost(self.store, self.store.now(), self.executor.held):
            log.error("run_lost", run=run.id, entry=run.entry, node=run.node)
        replay(self.settings.spool_dir, self.store)
        self.planner.sweep()
        self.executor.wake()
        self._prune_daily()

    def _settle_the_past(self) -> None:
        """Bring in what an earlier daemon of this node left: first its evidence, then the runs it can no longer end."""
        replay(self.settings.spool_dir, self.store)
        for run in mark_interrupted_lost(self.store, self.settings.node, self.incarnation, self.store.now()):
            log.error("run_lost", run=run.id, entry=run.entry, node=run.node)
        self.store.nodes.heartbeat(self._node_state())

    def _prune_daily(self) -> None:
        now = self.clock.elapsed()
        if self._pruned is not None and now - self._pruned < PRUNE_EVERY.total_seconds():
            return
        self._pruned = now

        def prune() -> None:
            try:
                done = self.store.maintenance.prune(
                    self.settings.retention, self.store.now(), artifacts_dir=self.settings.artifacts_dir
                )
                log.info("history_pruned", result=str(done))
            except MaintdError as error:
                log.error("prune_failed", error=str(error))

        threading.Thread(target=prune, name="prune", daemon=True).start()

    def _node_state(self) -> NodeState:
        return NodeState(
            name=self.settings.node,
            incarnation=self.incarnation,
            pid=os.getpid(),
            started_at=self.started_at,
            seen_at=self.store.now(),
            version=maintd.__version__,
            slots=self.settings.slots,
        )

    # --- the store, when it is away ---

    def _open_store(self) -> Store:
        while True:
            try:
                return open_store(
                    self.settings.store, clock=self.clock, migrate=True, state_dir=self.settings.state_dir
                )
            except StoreUnavailableError as error:
                gc.enable()  # this may take hours
                log.error("store_unavailable", error=str(error), next_try_seconds=STORE_PATIENCE)
                if self._stopping.wait(STORE_PATIENCE):
                    raise

    def _store_is_away(self, error: StoreUnavailableError) -> None:
        if self._store_away_since is None:
            self._store_away_since = self.clock.now()
            log.error("store_unavailable", error=str(error))

    def _store_is_back(self) -> None:
        if self._store_away_since is not None:
            since, self._store_away_since = self._store_away_since, None
            log.info("store_back", away_since=since)
            self.executor.wake()

    # --- the calendar ---

    def _load(self, calendar: Calendar) -> None:
        self.planner.load(calendar.entries)
        self.alarm.set_rules(_rules(calendar))

    def _set_alarm(self) -> None:
        self.alarm.set_rules(_rules(self.in_force.calendar))

    def _wake_all(self) -> None:
        """Rows changed from outside."""
        self._turn.set()
        self.executor.wake()

    def _announce(self) -> None:
        settings = self.settings
        due = self.planner.next_due
        log.info(
            "daemon_ready",
            took_seconds=round(self.clock.elapsed() - _started_at_elapsed(), 2),
            calendar=str(self.in_force.calendar.path),
            entries=len(self.in_force.calendar.entries),
            store=self.store.url_masked,
            socket=str(settings.socket_path),
            page=f"http://{settings.listen}/" if settings.listen else None,
            next_due=None if due is None else utc_text(due),
        )


def _started_at_elapsed() -> float:
    """When this process began, on the clock that counts since boot; field 22 of /proc/PID/stat, see proc(5)."""
    fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _rules(calendar: Calendar) -> list[Rule]:
    return [entry.rule for entry in calendar.entries if entry.enabled and entry.rule is not None]
