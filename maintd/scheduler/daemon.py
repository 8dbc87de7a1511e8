"""The daemon: it builds all components, then one loop plans due runs, sweeps and reloads the calendar.

`serve` starts the components in this order. On a failure or at the end it stops them in the reverse order.

1. The state directory and its lock; processes that an earlier daemon left are killed.
2. The registry of jobs and the calendar.
3. The store; evidence that an earlier daemon spooled is written to it.
4. The executor, the web server with the control socket, and the alarm.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from pathlib import Path

import structlog

import maintd
from maintd.calendar import Calendar
from maintd.clock import Clock, SystemClock
from maintd.config import logging
from maintd.config.process_limits import UMASK, forget_credentials, hide_memory, raise_descriptor_limit
from maintd.config.settings import Settings
from maintd.config.state_directory import claim_state_dir, note_stopping
from maintd.errors import MaintdError, StoreError, StoreUnavailableError
from maintd.executor.executor import LocalExecutor
from maintd.executor.foreground import discard_unrecorded
from maintd.executor.journal import replay
from maintd.executor.process_tree import OWNER, kill_orphans, owner_mark
from maintd.job.registry import JobRegistry
from maintd.model.entry import Rule
from maintd.model.notice import NoticeKind
from maintd.model.status import NodeState
from maintd.notify.delivery import Sender
from maintd.notify.incidents import IncidentRecorder
from maintd.notify.notifier import Notifier
from maintd.notify.outage import StoreOutage
from maintd.notify.selection import OwnProblem
from maintd.operations import Health, OperatorService, TriggerRequest, trigger
from maintd.operations.commands import LATEST_START
from maintd.operations.examination import calendar_for_jobs
from maintd.operations.follow_ups import FollowUps
from maintd.operations.freezes import KnownFreezes
from maintd.operations.resume import follow_crashes
from maintd.operations.watchdog import Missing, MissingKind, Watchdog, problems_of
from maintd.present.text import utc_second
from maintd.scheduler.alarm import Alarm
from maintd.scheduler.calendar_reload import CalendarReloader
from maintd.scheduler.daily_changelog import DailyChangelog
from maintd.scheduler.gate_timeouts import GateTimeouts
from maintd.scheduler.lease_expiry import mark_expired_lost, mark_interrupted_lost
from maintd.scheduler.planner import Planner
from maintd.scheduler.reviewer import Reviewer
from maintd.scheduler.signals import install_signal_handlers
from maintd.secret_params import discard_old
from maintd.store import Store, open_store
from maintd.units import format_size, seconds_text, utc_text
from maintd.web.server import web_server

log = structlog.get_logger()

STALLED = timedelta(seconds=60)
"""The daemon is unhealthy when one iteration of its loop takes longer than this."""

LEAST_FREE_BYTES = 64 * 1024 * 1024
"""Free space of the state directory below which the disk is reported as full: room for the evidence of
some busy runs, each of which may log twice the setting `log_limit`. A tenth of the disk, if that is less."""

PRUNE_EVERY = timedelta(days=1)
SWEEP_MARGIN = 0.02  # seconds before a due time in which no sweep starts, since it would delay the run
PLANNING_RETRY_SECONDS = 1.0  # after an iteration of the loop failed unexpectedly
PLANNING_FAILED_AFTER = timedelta(minutes=5)
"""The daemon exits when it could not plan for so long, so that its service manager can restart it."""

_REPORT = "its service manager restarts the daemon; report the error that is logged before this"

STORE_RETRY_SECONDS = 5.0  # between attempts to open an unreachable store
STORE_CLOCK_POLL_SECONDS = 0.05  # between checks for a due time by the clock of a store that is behind


def serve(settings: Settings, run_first: Sequence[str] = ()) -> int:
    """Run until SIGTERM or SIGINT; return the exit code. Raises MaintdError when it cannot start.

    `run_first` are names of entries or jobs to trigger once, as soon as the daemon is ready.
    """
    redactor = logging.configure(settings)
    os.umask(UMASK)
    raise_descriptor_limit()
    forget_credentials()
    if not settings.debuggable:
        hide_memory()
    with ExitStack() as stack:
        stack.enter_context(claim_state_dir(settings.state_dir))
        daemon = Daemon(settings, SystemClock(), hide=redactor.hide)
        install_signal_handlers(
            {signal.SIGTERM: daemon.stop, signal.SIGINT: daemon.stop, signal.SIGHUP: daemon.request_reload}
        )
        daemon.start(stack)
        with suppress(StoreError):  # then the first run takes longer
            daemon.store.prepare()
        gc.collect()
        gc.freeze()  # these objects live until the end, so later collections can leave them out
        gc.enable()
        for name in run_first:
            trigger(daemon.service(), TriggerRequest(name=name, by="maintd serve", why="requested at start"))
        daemon.loop()
        note_stopping(settings.state_dir)
        log.info("daemon_stopping", drain=settings.drain)
    log.info("daemon_stopped")
    return 0


class Daemon:
    """One node: its components and the loop."""

    def __init__(
        self, settings: Settings, clock: Clock, hide: Callable[[Iterable[str]], None] = lambda secrets: None
    ) -> None:
        """`hide` redacts secrets in the log of this process."""
        self.settings = settings
        self.clock = clock
        self.incarnation = uuid.uuid4().hex
        self.started_at = clock.now()
        self._stopping = threading.Event()
        self._wakeup = threading.Event()
        self._followed = threading.Event()  # a review has queued a run
        self.reloader = CalendarReloader(settings, wake=self._wakeup.set, hide=hide)
        self._iterated_at = clock.elapsed()
        self._pruned_at: float | None = None
        self._store_unreachable_since: datetime | None = None
        self._store_error = ""
        self._failed_since: float | None = None  # when an iteration of the loop failed first, on the clock
        self._failures: dict[str, str] = {}  # part of the loop → its error in the last iteration

    def start(self, stack: ExitStack) -> None:
        """Build and start all components; the stack stops them."""
        settings = self.settings
        for number in kill_orphans(settings.state_dir):
            log.warning("orphan_killed", pid=number)
        self.registry = JobRegistry(settings.job_dirs, settings.job_cache_file)
        stack.callback(self.registry.close)
        self.reloader.load_first(self.registry)
        self.store = self._open_store()
        stack.callback(self.store.close)
        self._recover()
        stack.callback(self._forget_node)
        self.watchdog = Watchdog(self.store, self._lateness_allowed)
        self.notifier = self._notifier()
        self.reviewer = Reviewer(
            self.store,
            self.clock,
            self._wakeup.set,
            (self.notifier.recorder.record_review, self.notifier.pings.record_review, self._follow_ups().record_review),
            entries=lambda: self.reloader.calendar.entries,
        )
        self.daily_changelog = DailyChangelog(self.store, self.clock, settings.reports_dir)
        self.executor = LocalExecutor(
            self.store,
            settings,
            self.clock,
            jobs=lambda: self.registry.jobs,
            targets=lambda: self.reloader.targets,
            secrets=lambda: self.reloader.calendar.secrets,
            calendar=lambda: calendar_for_jobs(self.reloader.calendar, self.registry.jobs, settings),
            freezes=lambda: self.reloader.calendar.freezes,
            incarnation=self.incarnation,
            on_end=self.reviewer.note_end,
            calendar_jobs=lambda: {step.job for entry in self.reloader.calendar.entries for step in entry.steps},
        )
        self.freezes = KnownFreezes(self.store, lambda: self.reloader.calendar.freezes, settings.freeze_file)
        self.gate_timeouts = GateTimeouts(self.store, self.clock, on_ended=self._wake_executor)
        self.alarm = Alarm(self._wakeup.set)
        self.planner = Planner(
            self.store,
            self.clock,
            on_planned=self._wake_executor,
            on_clock_step=self._set_alarm,
            freezes=self.freezes.between,
        )
        self.planner.load(self.reloader.calendar.entries)
        self.reloader.on_reload(self._apply, self._audit)
        self.executor.start()
        stack.callback(self.executor.stop, settings.drain)
        self.web = stack.enter_context(web_server(self.service()))
        self.notifier.start()
        stack.callback(self.notifier.stop)
        self.alarm.start(_rules(self.reloader.calendar))
        stack.callback(self.alarm.stop)
        self.executor.expect(self.planner.next_due)
        self._log_ready()

    def stop(self) -> None:
        """End the loop. Any thread can call this, but no signal handler, since it takes a lock."""
        self._stopping.set()
        self._wakeup.set()

    def request_reload(self) -> None:
        """Reload the calendar soon. Any thread can call this."""
        self.reloader.request_reload()

    def service(self) -> OperatorService:
        """The operations that the web server and the CLI use."""
        return OperatorService(
            store=self.store,
            settings=self.settings,
            clock=self.clock,
            calendar=lambda: self.reloader.calendar,
            jobs=lambda: self.registry.jobs,
            broken_jobs=lambda: self.registry.broken,
            validate=self.registry.validate,
            targets=lambda: self.reloader.targets,
            wake=self._wake_all,
            reload=self.reloader.reload,
            health=self.health,
            started_at=self.started_at,
        )

    def health(self) -> Health:
        """Whether the loop iterates, the store answers and planning is active."""
        problems: list[str] = []
        notes: list[str] = []
        stalled = self.clock.elapsed() - self._iterated_at
        if stalled > STALLED.total_seconds():
            problems.append(f"the daemon's loop has been blocked for {seconds_text(stalled)}")
        if self._store_unreachable_since is not None:
            since = utc_second(self._store_unreachable_since)
            problems.append(f"the store has been unreachable since {since}: {self._store_error}")
        problems += [f"{part} failed: {error}; see the daemon's log" for part, error in self._failures.items()]
        problems += [f"the thread of the {name} ended; restart the daemon" for name in self.web.failed]
        if self.notifier.failure:
            notes.append(f"notices cannot be sent: {self.notifier.failure}; see the daemon's log")
        if self.planner.suspended:
            problems.append("planning is suspended for some minutes: the clock jumped forward")
        if self.planner.overruled:
            names = ", ".join(sorted(self.planner.overruled))
            notes.append(f"another node loaded a different calendar later; its schedule is active for {names}")
        notes += self._calendar_problems()
        notes += self._disk_problems()
        notes += problems_of(self.watchdog.found)
        alive = stalled <= STALLED.total_seconds()
        return Health(
            alive=alive,
            ready=not problems,
            problems=(*problems, *notes),
            lag_seconds=stalled,
            reload_refused=bool(self.reloader.refused),
            loaded_at=self.reloader.loaded_at,
            missing=self.watchdog.found,
        )

    def _calendar_problems(self) -> Iterator[str]:
        """Why the calendar on disk is not active, the first reason in full."""
        refused, loaded_at = self.reloader.refused, self.reloader.loaded_at
        if refused and loaded_at is not None:
            more = f" (and {len(refused) - 1} more; see: maintd validate)" if len(refused) > 1 else ""
            yield f"the calendar was refused, and the one of {utc_second(loaded_at)} is active: {refused[0]}{more}"

    def _disk_problems(self) -> Iterator[str]:
        """Whether the state directory is about to be full, which ends planning and the record of runs."""
        folder = self.settings.state_dir
        try:
            disk = shutil.disk_usage(folder)
        except OSError as error:
            yield f"the state directory {folder} cannot be read: {error.strerror}"
            return
        if disk.free < min(LEAST_FREE_BYTES, disk.total // 10):
            yield f"the disk of the state directory {folder} is full: {format_size(disk.free)} free"

    def _own_problems(self) -> list[OwnProblem]:
        """What notices are sent about: the calendar, the disk, and all that keeps maintd from its work."""
        found = [OwnProblem(NoticeKind.CALENDAR_REFUSED, "calendar", text) for text in self._calendar_problems()]
        found += [OwnProblem(NoticeKind.MAINTD, "disk", text) for text in self._disk_problems()]
        found += [
            OwnProblem(NoticeKind.MAINTD, part, f"{part} failed: {text}") for part, text in self._failures.items()
        ]
        found += [OwnProblem(NoticeKind.MAINTD, name, f"the thread of the {name} ended") for name in self.web.failed]
        found += [
            OwnProblem(NoticeKind.MAINTD, f"{each.kind} {each.subject}", each.text)
            for each in self.watchdog.found
            if each.kind in (MissingKind.SILENT_NODE, MissingKind.WITHOUT_LEASE)
        ]
        stalled = self.clock.elapsed() - self._iterated_at
        if stalled > STALLED.total_seconds():
            found.append(
                OwnProblem(NoticeKind.MAINTD, "loop", f"the daemon's loop is blocked for {seconds_text(stalled)}")
            )
        return found

    def _is_well(self) -> bool:
        """Whether a monitor may get a ping of maintd: it plans, the store answers, and nothing is missing."""
        return self.health().ready and not self.watchdog.found

    def _watch(self) -> Sequence[Missing]:
        return self.watchdog.check(self.store.now())

    def _lateness_allowed(self, entry: str) -> timedelta:
        return self.reloader.calendar.notify.grace_of(entry)

    def _follow_ups(self) -> FollowUps:
        return FollowUps(
            self.store,
            entries=lambda: {entry.name: entry for entry in self.reloader.calendar.entries},
            on_new=self._followed.set,
        )

    def _notifier(self) -> Notifier:
        settings = self.settings
        page = f"http://{settings.listen}" if settings.listen else ""
        recorder = IncidentRecorder(
            self.store,
            config=lambda: self.reloader.calendar.notify,
            entries=lambda: {entry.name for entry in self.reloader.calendar.entries if entry.enabled},
            node=settings.node,
            page=page,
        )
        sender = Sender({OWNER: owner_mark(settings.state_dir)})
        return Notifier(
            self.store,
            self.clock,
            recorder,
            config=lambda: self.reloader.calendar.notify,
            problems=self._own_problems,
            node=settings.node,
            sender=sender,
            outage=StoreOutage(sender, settings.node, page),
            sweep_every=settings.heartbeat,
            well=self._is_well,
            watch=self._watch,
        )

    # --- the loop ---

    def loop(self) -> None:
        """Until `stop`: plan at each wake-up, sweep at each heartbeat, reload the calendar on request.

        An unexpected error is logged and reported as a problem, and the loop continues. Raises MaintdError when a
        thread of the executor has ended, or when nothing could be planned for PLANNING_FAILED_AFTER.
        """
        heartbeat = self.settings.heartbeat.total_seconds()
        next_sweep = self.clock.elapsed()
        while not self._stopping.is_set():
            if not self.executor.alive:  # only a restart of the daemon helps
                raise MaintdError("a thread of the executor failed", _REPORT)
            self._wakeup.clear()
            self._iterated_at = self.clock.elapsed()
            try:
                self._attempt("the reload of the calendar", self.reloader.handle_requests)
                # A sweep is postponed for a run that is about to be due, but at most by one heartbeat.
                if self._iterated_at >= next_sweep + (heartbeat if self._until_due() <= SWEEP_MARGIN else 0):
                    next_sweep = self._iterated_at + heartbeat
                    self._sweep()
                else:
                    self._plan(self.planner.plan)
                self._review()
                if self.gate_timeouts.due:
                    self._end_overdue_waits()
                self._note_store_reachable()
            except StoreUnavailableError as error:
                self._note_store_unreachable(error)
                next_sweep = self.clock.elapsed() + min(1.0, heartbeat)
            if self._failed_since is not None:
                next_sweep = self.clock.elapsed() + min(PLANNING_RETRY_SECONDS, heartbeat)
            self._wait(next_sweep)
        self.reloader.refuse_requests()

    def _attempt(self, part: str, act: Callable[[], object]) -> bool:
        """Carry out one part of an iteration; return whether it succeeded. Raises StoreUnavailableError only.

        An unforeseen error, such as "too many open files", must neither end the daemon nor keep the other
        parts from their work.
        """
        try:
            act()
        except StoreUnavailableError:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}"[:300]
            if self._failures.get(part) != text:
                log.exception("daemon_loop_failed", part=part)
            self._failures[part] = text
            return False
        self._failures.pop(part, None)
        return True

    def _plan(self, plan: Callable[[], object]) -> None:
        """Plan what is due. Raises StoreUnavailableError, and MaintdError after PLANNING_FAILED_AFTER of failures."""

        def plan_and_expect() -> None:
            plan()
            self.executor.expect(self.planner.next_due)

        if self._attempt("planning", plan_and_expect):
            self._failed_since = None
            return
        now = self.clock.elapsed()
        self._failed_since = now if self._failed_since is None else self._failed_since
        if now - self._failed_since > PLANNING_FAILED_AFTER.total_seconds():
            raise MaintdError(
                f"planning failed for {seconds_text(now - self._failed_since)}",
                _REPORT,
            )

    def _review(self) -> None:
        """Review ended runs, unless a run is about to be due."""
        if self.reviewer.seconds_left <= 0 and self._until_due() > SWEEP_MARGIN:
            self._attempt("the review of ended runs", self.reviewer.review)
            if self._followed.is_set():  # a run that the failure of another one triggered is queued now
                self._followed.clear()
                self._wake_executor()
            waited = self.gate_timeouts.any_waits
            self._end_overdue_waits()  # a run that has come to a gate ended its claim
            if waited or self.gate_timeouts.any_waits:
                self.notifier.note_gates()
            self.notifier.wake()
            self.notifier.expect_start()  # of what waited for them

    def _wait(self, next_sweep: float) -> None:
        """Wait for the next due time, review, end of a wait at a gate or sweep, or until another thread wakes it."""
        due = self._until_due()
        if due <= 0:  # not yet by the store's clock
            due = STORE_CLOCK_POLL_SECONDS
        review = self.reviewer.seconds_left if due > SWEEP_MARGIN else due
        gate = float("inf") if self._store_unreachable_since is not None else self.gate_timeouts.seconds_left
        self.clock.wait(self._wakeup, max(0.0, min(next_sweep - self.clock.elapsed(), due, review, gate)))

    def _until_due(self) -> float:
        """Seconds to the next due time by this machine's clock; the store's clock decides when it is due."""
        due = self.planner.next_due
        if due is None or self._store_unreachable_since is not None or self.planner.suspended:
            return float("inf")
        return (due - self.clock.now()).total_seconds()

    def _sweep(self) -> None:
        self._attempt("the record of this node", lambda: self.store.nodes.heartbeat(self._node_state()))
        self._attempt("the check of the calendar file", self.reloader.reload_if_changed)
        self._attempt("the search for lost runs", self._mark_expired_lost)
        self._end_overdue_waits()
        self._attempt("the replay of spooled evidence", lambda: replay(self.settings.spool_dir, self.store))
        self._attempt("what follows a crash", lambda: follow_crashes(self.store, self.freezes))
        self._plan(self.planner.sweep)
        self.executor.wake()
        self.reviewer.note_end()  # of a run that was lost, skipped or cancelled, or of another node that is gone
        self._attempt("pruning", self._prune_daily)
        self._attempt("the daily change log", self.daily_changelog.write_if_due)

    def _end_overdue_waits(self) -> None:
        self._attempt("the end of waits at gates", self.gate_timeouts.sweep)

    def _mark_expired_lost(self) -> None:
        for run in mark_expired_lost(self.store, self.store.now(), self.executor.held):
            log.error("run_lost", run=run.id, entry=run.entry, node=run.node)

    def _recover(self) -> None:
        """Write the evidence that an earlier daemon of this node spooled, then mark its unfinished runs as lost."""
        replay(self.settings.spool_dir, self.store)
        for run in mark_interrupted_lost(self.store, self.settings.node, self.incarnation, self.store.now()):
            log.error("run_lost", run=run.id, entry=run.entry, node=run.node)
        self.store.nodes.heartbeat(self._node_state())

    def _forget_node(self) -> None:
        with suppress(StoreError):  # then it is missing for a while
            self.store.nodes.remove(self.settings.node, self.incarnation)

    def _prune_daily(self) -> None:
        now = self.clock.elapsed()
        if self._pruned_at is not None and now - self._pruned_at < PRUNE_EVERY.total_seconds():
            return
        self._pruned_at = now

        def prune() -> None:
            discard_old(self.settings.secrets_dir, LATEST_START + timedelta(days=1))
            discard_unrecorded(self.settings.artifacts_dir, self.settings.retention.artifacts)
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

    # --- an unreachable store ---

    def _open_store(self) -> Store:
        while True:
            try:
                return open_store(
                    self.settings.store, clock=self.clock, migrate=True, state_dir=self.settings.state_dir
                )
            except StoreUnavailableError as error:
                gc.enable()  # until now it is disabled for a fast start; this can take hours
                log.error("store_unavailable", error=str(error), next_try_seconds=STORE_RETRY_SECONDS)
                if self._stopping.wait(STORE_RETRY_SECONDS):
                    raise

    def _note_store_unreachable(self, error: StoreUnavailableError) -> None:
        if self._store_unreachable_since is None:
            self._store_unreachable_since = self.clock.now()
            self._store_error = error.message
            log.error("store_unavailable", error=str(error))

    def _note_store_reachable(self) -> None:
        if self._store_unreachable_since is not None:
            since, self._store_unreachable_since = self._store_unreachable_since, None
            log.info("store_reachable", unreachable_since=since)
            self.executor.wake()

    # --- the calendar ---

    def _apply(self, calendar: Calendar) -> None:
        self.planner.load(calendar.entries)
        self.alarm.set_rules(_rules(calendar))

    def _audit(self, kind: str, text: str) -> None:
        self.store.audit.add(kind, text=text, at=self.store.now())

    def _set_alarm(self) -> None:
        self.alarm.set_rules(_rules(self.reloader.calendar))

    def _wake_all(self) -> None:
        """Wake the loop, the executor and the notifier after an operator changed rows."""
        self._wakeup.set()
        self._wake_executor()
        self.notifier.note_gates()

    def _wake_executor(self) -> None:
        self.executor.wake()
        self.notifier.expect_start()

    def _log_ready(self) -> None:
        settings = self.settings
        due = self.planner.next_due
        log.info(
            "daemon_ready",
            startup_seconds=round(self.clock.elapsed() - _started_at_elapsed(), 2),
            calendar=self.reloader.calendar.place,
            entries=len(self.reloader.calendar.entries),
            store=self.store.url_masked,
            socket=str(settings.socket_path),
            page=f"http://{settings.listen}/" if settings.listen else None,
            next_due=None if due is None else utc_text(due),
        )


def _started_at_elapsed() -> float:
    """When this process started, in seconds since boot; field 22 of /proc/PID/stat, see proc(5)."""
    fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _rules(calendar: Calendar) -> list[Rule]:
    return [entry.rule for entry in calendar.entries if entry.enabled and entry.rule is not None]
