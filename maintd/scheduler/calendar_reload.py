"""The active calendar: loaded at the start, and again on request or when its file or a job changes."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path

import structlog

from maintd.calendar import Calendar, calendar_path, changes_between, load_configured, overlay_path
from maintd.config.settings import Settings
from maintd.errors import CalendarError, JobError, MaintdError, RefusedError, StoreUnavailableError
from maintd.job.registry import JobRegistry
from maintd.model.notice import channel_secrets
from maintd.model.target import Targets, secrets_of
from maintd.operations import ReloadResult

log = structlog.get_logger()

RELOAD_TIMEOUT = 30  # seconds that `reload` waits for the daemon's loop
DESCRIBE_TIMEOUT = 10.0  # seconds in which it begins to describe the next job module that was written


class CalendarReloader:
    """Holds the active calendar and targets. Any thread requests a reload; the daemon's loop carries it out."""

    def __init__(
        self, settings: Settings, wake: Callable[[], None], hide: Callable[[Iterable[str]], None] = lambda secrets: None
    ) -> None:
        """`wake` makes the loop call `handle_requests` soon; `hide` redacts secrets in the log."""
        self._settings = settings
        self._wake = wake
        self._hide = hide
        self._requests: queue.SimpleQueue[Future[ReloadResult]] = queue.SimpleQueue()
        self._stamps: _Stamps | None = None  # of the calendar and its overlay when they were read last
        self.refused: tuple[str, ...] = ()  # why the calendar or the jobs that were read last are not active
        self.loaded_at: datetime | None = None  # of the active calendar

    def load_first(self, registry: JobRegistry) -> None:
        """Load the calendar for the first time. Raises CalendarError."""
        self._registry = registry
        self._activate(self._read())
        self._reported = registry.snapshot()

    def on_reload(self, apply: Callable[[Calendar], None], audit: Callable[[str, str], None]) -> None:
        """Set what a reload calls: `apply` with the new calendar, `audit` with an event's kind and text.

        Both can raise StoreUnavailableError.
        """
        self._apply = apply
        self._audit = audit

    # --- for any thread ---

    def request_reload(self) -> None:
        """Reload soon; the result is only logged."""
        self._requests.put(Future())
        self._wake()

    def reload(self) -> ReloadResult:
        """Reload, and wait for the result. Blocks forever in the loop's own thread.

        With it comes what became of job modules since the last such reload, or since the start: the loop may have found
        a module that was just written before it was asked to.
        """
        result: Future[ReloadResult] = Future()
        self._requests.put(result)
        self._wake()
        found = result.result(timeout=RELOAD_TIMEOUT)
        # Not in the loop: it must not wait for modules that no entry uses.
        changes = self._registry.changes_since(self._reported, DESCRIBE_TIMEOUT)
        self._reported = self._registry.snapshot()
        reported = {name for name, _ in changes}
        broken = [
            f'job "{job.name}" is broken: {job.error}' for job in self._registry.broken if job.name not in reported
        ]
        lines = (*(text for _, text in changes), *found.changes)
        return found._replace(changes=lines, problems=(*found.problems, *broken))

    # --- for the loop ---

    def handle_requests(self) -> None:
        """Carry out the requested reloads. Raises StoreUnavailableError."""
        while not self._requests.empty():
            request = self._requests.get()
            try:
                self._registry.refresh()
                request.set_result(self._reload())
            except MaintdError as error:
                request.set_exception(error)
                if isinstance(error, StoreUnavailableError):
                    raise
                self.refused = (str(error),)
                log.error("reload_failed", error=str(error))

    def reload_if_changed(self) -> None:
        """Reload if the calendar, its overlay or a job has changed. Raises StoreUnavailableError."""
        try:
            if self._registry.refresh() or _stamps_of(self._settings) != self._stamps:
                self._reload()
        except (JobError, RefusedError) as error:
            if self.refused != (str(error),):
                log.error("jobs_unreadable", error=str(error))
            self.refused = (str(error),)

    def refuse_requests(self) -> None:
        """Fail the requests that are left when the loop ends."""
        while not self._requests.empty():
            self._requests.get().set_exception(RefusedError("the daemon is stopping", "start it again: maintd serve"))

    def _reload(self) -> ReloadResult:
        """Load the calendar; one with errors leaves the active one unchanged."""
        try:
            loaded = self._read()
        except CalendarError as error:
            self.refused = error.problems
            log.error("calendar_refused", problems=error.problems)
            self._audit("calendar_refused", str(error))
            return ReloadResult(ok=False, changes=(), problems=error.problems)
        changes = changes_between(self.calendar, loaded)
        try:
            self._apply(loaded)
        except StoreUnavailableError:
            self._stamps = None  # so that the next sweep reloads it
            raise
        self._activate(loaded)
        log.info("calendar_loaded", entries=len(loaded.entries), changes=changes)
        if changes:
            self._audit("calendar_loaded", "\n".join(changes))
        return ReloadResult(ok=True, changes=tuple(changes), problems=())

    def _activate(self, calendar: Calendar) -> None:
        self._hide({*calendar.secrets.values(), *secrets_of(calendar.targets), *channel_secrets(calendar.notify)})
        self.calendar = calendar
        self.refused = ()
        self.loaded_at = datetime.now(UTC)
        self.targets: Targets = calendar.targets.merged(self._settings.targets)  # on equal names, the settings win
        self._registry.describe_in_background()

    def _read(self) -> Calendar:
        self._stamps = _stamps_of(self._settings)
        with self._registry.one_process():
            calendar = load_configured(self._settings, self._registry.jobs, self._registry.validate_all)
        for warning in calendar.warnings:
            log.warning("calendar_warning", text=warning)
        for name, reason in calendar.broken.items():
            log.error("entry_broken", entry=name, reason=reason)
        return calendar


_Stamps = tuple[tuple[Path | None, tuple[int, int] | None], ...]


def _stamps_of(settings: Settings) -> _Stamps:
    files = (calendar_path(settings), overlay_path(settings))
    return tuple((path, None if path is None else _stamp_of(path)) for path in files)


def _stamp_of(path: Path) -> tuple[int, int] | None:
    """Modification time and size, None when the file cannot be read."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
