"""A run in the foreground, with no daemon and, if need be, with no store, executed as the daemon does."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

from maintd.clock import Clock, since_boot
from maintd.config.settings import Settings
from maintd.errors import RefusedError, StoreUnavailableError
from maintd.executor.cancellation import CancelToken
from maintd.executor.claimed_runs import ClaimedRuns
from maintd.executor.fork_client import Preload
from maintd.executor.outcome import StopKind
from maintd.executor.run_context import Jobs, imports_of
from maintd.executor.run_projection import RunProjection
from maintd.model.entry import Entry, Freeze
from maintd.model.job import JobDescription
from maintd.model.run import NewRun, Run, RunState, Trigger
from maintd.model.target import Targets
from maintd.operations.freezes import KnownFreezes, in_emergency, refuse_frozen
from maintd.operations.params import plan_with_params
from maintd.operations.windows import refuse_without_window
from maintd.secret_params import collect_into
from maintd.store import Store

log = structlog.get_logger()

UNRECORDED = "here-"
"""How the folders of runs begin that no store knows."""

OnReport = Callable[[str, int, Any], None]


def run_here(
    entry: Entry,
    *,
    settings: Settings,
    targets: Targets,
    jobs: Jobs,
    store: Store | None,
    clock: Clock,
    params: Mapping[str, Any],
    secrets: Mapping[str, str] | None = None,
    calendar: Callable[[], Mapping[str, Any]] = dict,
    dry_run: bool,
    requested_by: str,
    why: str,
    emergency: bool = False,
    freezes: Sequence[Freeze] = (),
    on_report: OnReport,
) -> Run:
    """Run an entry now, in this process; return the run as it ended, with all its evidence but the log lines.

    `on_report` is called with everything as it happens: the step's name, the attempt's number (0 outside an attempt)
    and the update or item of evidence. Ctrl-C or SIGTERM cancels, a second one kills at once. Without a store that can
    be reached, the run is not recorded.

    `secrets` are those of the calendar; `calendar` returns what a job that reads the calendar is given.

    `freezes` are those of the calendar; with `emergency` the run is started in a freeze, too.

    Raises UsageError for params that are invalid, RefusedError when a run of the entry is under way, when it is frozen,
    and for a job that runs only in a window by its own name.
    """
    refuse_without_window(entry)
    if not dry_run and not emergency:
        _refuse_frozen(entry, settings, store, freezes, clock.now())
    if not dry_run and any(step.gate is not None for step in entry.steps):
        raise RefusedError(
            f'"{entry.name}" waits for people at gates, which needs a daemon', f"run: maintd trigger {entry.name}"
        )
    known: dict[str, str] = dict(secrets or {})
    described = {name: job for name, job in jobs.items() if isinstance(job, JobDescription)}
    plan, recorded_params = plan_with_params(entry, params, described, collect_into(known, f"here.{entry.name}."))
    requested = NewRun(
        entry=entry.name,
        title=entry.title,
        trigger=Trigger.MANUAL,
        state=RunState.QUEUED,
        not_before=clock.now(),
        plan=plan,
        policy=entry.policy,
        params=recorded_params,
        requested_by=requested_by,
        why=why,
        dry_run=dry_run,
        emergency=f"run in an emergency by {requested_by or 'an operator'}: {why}" if emergency else "",
    )
    # Another name than the daemon's on this node, which takes all runs under its own name for its own.
    settings = _with_writable_state(settings).model_copy(update={"node": f"{settings.node}/here"})
    imports = imports_of(jobs, {step.job for step in requested.plan})
    incarnation = uuid.uuid4().hex

    def claimed_runs(store: Store | None) -> ClaimedRuns:
        return ClaimedRuns(
            store,
            settings,
            clock,
            jobs=lambda: jobs,
            targets=lambda: targets,
            secrets=lambda: known,
            calendar=calendar,
            freezes=lambda: freezes,
            incarnation=incarnation,
            preload=lambda: Preload(imports),
            in_foreground=True,
        )

    runs, requested_at = claimed_runs(store), since_boot()
    run = None
    if store is not None:
        try:
            now = runs.read_store_time()
            run = _claim(store, requested.model_copy(update={"not_before": now}), settings, incarnation, now)
        except StoreUnavailableError as error:
            log.warning("run_not_recorded", error=str(error))
            runs = claimed_runs(None)
    if run is None:
        run = _unrecorded(requested, settings, clock.now())
        discard_unrecorded(settings.artifacts_dir, settings.retention.artifacts)
    return _supervise(runs, run, requested_at, on_report)


def _refuse_frozen(
    entry: Entry, settings: Settings, store: Store | None, of_calendar: Sequence[Freeze], now: datetime
) -> None:
    """Raise RefusedError for an entry that is frozen. Freezes by command are not known while there is no store."""
    known = KnownFreezes(store, lambda: of_calendar, settings.freeze_file)
    try:
        found = known.active(now)
    except StoreUnavailableError as error:
        log.warning("freezes_by_command_unknown", error=str(error))
        found = replace(known, store=None).active(now)
    refuse_frozen(found, entry.name, entry.steps, now, in_emergency(f"maintd run {entry.name} --here"))


def _supervise(runs: ClaimedRuns, run: Run, requested_at: float, on_report: OnReport) -> Run:
    names = [step.name for step in run.plan]
    reports = _Reports(names, on_report)
    projection = RunProjection(run, reports)
    folder = str(run.id) if run.id else f"{UNRECORDED}{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
    runs.start()
    try:
        claimed = runs.hold(run, requested_at, projection)
        with _cancelled_by_signals(claimed.cancel):
            runs.supervise(claimed, folder)
    finally:
        runs.stop()
    return projection.run()


def discard_unrecorded(artifacts_dir: Path, older_than: timedelta, keep: int = 100) -> list[str]:
    """Delete the artifacts of runs that no store knows: those that are too old, and all but the newest `keep`.

    Return the names of the folders that were deleted. One that another process deletes first is no error.
    """
    found: list[tuple[float, str]] = []
    with suppress(OSError), os.scandir(artifacts_dir) as items:
        found.extend(
            (item.stat(follow_symlinks=False).st_mtime, item.name)
            for item in items
            if item.name.startswith(UNRECORDED) and item.is_dir(follow_symlinks=False)
        )
    found.sort(reverse=True)
    oldest = time.time() - older_than.total_seconds()
    old = [name for place, (at, name) in enumerate(found) if place >= keep or at < oldest]
    for name in old:
        shutil.rmtree(artifacts_dir / name, ignore_errors=True)
    return old


class _Reports:
    """Passes updates on to be shown. A failure there must not reach the supervision of the run."""

    def __init__(self, names: Sequence[str], on_report: OnReport) -> None:
        self._names = names
        self._on_report: OnReport | None = on_report

    def __call__(self, step: int, attempt: int, item: Any) -> None:
        if self._on_report is None:
            return
        try:
            self._on_report(self._names[step], attempt, item)
        except Exception:
            self._on_report = None
            log.exception("reports_not_shown")


def _claim(store: Store, requested: NewRun, settings: Settings, incarnation: str, now: datetime) -> Run:
    run = store.runs.add_claimed(requested, settings.node, incarnation, now + settings.lease, now)
    if run is None:
        entry = requested.entry
        raise RefusedError(f"a run of {entry} is under way", f"see: maintd status {entry}, or cancel it first")
    return run


def _unrecorded(requested: NewRun, settings: Settings, now: datetime) -> Run:
    """Return a running run that no store knows; its id is 0."""
    return Run(
        id=0,
        **{name: getattr(requested, name) for name in NewRun.model_fields if name not in ("state", "not_before")},
        state=RunState.RUNNING,
        queued_at=now,
        not_before=now,
        started_at=now,
        node=settings.node,
    )


@contextmanager
def _cancelled_by_signals(cancel: CancelToken) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM cancel the run. Signals can only be handled in the main thread; elsewhere none is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received += 1
        cancel.request(StopKind.CANCELLED, f"{signal.Signals(number).name} at the terminal", kill=received > 1)

    earlier = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _with_writable_state(settings: Settings) -> Settings:
    """Return settings with a state directory that can be written: an emergency run must not fail for that."""
    state = settings.state_dir
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o750)
        with tempfile.TemporaryFile(dir=state):
            return settings
    except OSError as error:
        kept = Path(tempfile.gettempdir()) / f"maintd-{os.getuid()}"
        log.warning("state_dir_not_writable", error=str(error), artifacts=str(kept))
        return settings.model_copy(update={"state_dir": kept})
