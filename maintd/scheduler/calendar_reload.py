"""The calendar in force: read at the start, and again when somebody asks for it or a file has changed."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import structlog

from maintd.calendar import Calendar, calendar_path, changes_between, load_calendar
from maintd.config.settings import Settings
from maintd.errors import CalendarError, JobError, MaintdError, RefusedError, StoreUnavailableError
from maintd.job.registry import JobRegistry
from maintd.model.target import Targets
from maintd.operations import ReloadResult

log = structlog.get_logger()

ANSWER_WITHIN = 30  # seconds that whoever asked for a reload waits


class InForce:
    """What everybody goes by. Any thread may ask; the loop's reads."""

    def __init__(self, settings: Settings, wake: Callable[[], None]) -> None:
        """`wake` has the loop call `answer` soon."""
        self._settings = settings
        self._wake = wake
        self._asked: queue.SimpleQueue[Future[ReloadResult]] = queue.SimpleQueue()
        self._stamp: tuple[int, int] | None = None

    def begin(self, registry: JobRegistry) -> None:
        """Read the calendar for the first time. Raises CalendarError."""
        self._registry = registry
        self._use(self._read())

    def attach(self, load: Callable[[Calendar], None], note: Callable[[str, str], None]) -> None:
        """How a fresh calendar is put in force, and what is written down: an event and its text.

        Both may raise StoreUnavailableError.
        """
        self._load = load
        self._note = note

    # --- for any thread ---

    def ask(self) -> None:
        """Read the calendar again soon; what came of it is logged."""
        self._asked.put(Future())
        self._wake()

    def reload(self) -> ReloadResult:
        """Read the calendar again and wait for what came of it. Not for the loop's own thread."""
        answer: Future[ReloadResult] = Future()
        self._asked.put(answer)
        self._wake()
        return answer.result(timeout=ANSWER_WITHIN)

    # --- for the loop ---

    def answer(self) -> None:
        """Do what was asked for. Raises StoreUnavailableError."""
        while not self._asked.empty():
            asked = self._asked.get()
            try:
                self._registry.refresh()
                asked.set_result(self._read_again())
            except MaintdError as error:
                asked.set_exception(error)
                if isinstance(error, StoreUnavailableError):
                    raise
                log.error("reload_failed", error=str(error))

    def look(self) -> None:
        """Read the calendar again if its file or a job has changed. Raises StoreUnavailableError."""
        try:
            if self._registry.refresh() or _stamp_of(calendar_path(self._settings)) != self._stamp:
                self._read_again()
        except JobError as error:
            log.error("jobs_unreadable", error=str(error))

    def refuse(self) -> None:
        """Nobody is to wait for an answer that will not come."""
        while not self._asked.empty():
            self._asked.get().set_exception(RefusedError("the daemon is stopping", "start it again: maintd serve"))

    def _read_again(self) -> ReloadResult:
        """A bad calendar keeps the one that is in force."""
        try:
            fresh = self._read()
        except CalendarError as error:
            log.error("calendar_refused", problems=error.problems)
            self._note("calendar_refused", str(error))
            return ReloadResult(ok=False, changes=(), problems=error.problems)
        changes = changes_between(self.calendar, fresh)
        try:
            self._load(fresh)
        except StoreUnavailableError:
            self._stamp = None  # so that it is read again once the store is back
            raise
        self._use(fresh)
        log.info("calendar_loaded", entries=len(fresh.entries), changes=changes)
        if changes:
            self._note("calendar_loaded", "\n".join(changes))
        return ReloadResult(ok=True, changes=tuple(changes), problems=())

    def _use(self, calendar: Calendar) -> None:
        self.calendar = calendar
        self.targets: Targets = calendar.targets.merged(self._settings.targets)  # those in the settings win
        self._registry.describe_in_background()

    def _read(self) -> Calendar:
        path = calendar_path(self._settings)
        self._stamp = _stamp_of(path)
        with self._registry.one_process():
            calendar = load_calendar(path, self._registry.jobs, self._registry.validate_all)
        for warning in calendar.warnings:
            log.warning("calendar_warning", text=warning)
        for name, reason in calendar.disabled.items():
            log.error("entry_disabled", entry=name, reason=reason)
        return calendar


def _stamp_of(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
