"""When the daemon writes the change log and the head of the chain of records to the reports folder: at its start, then
daily."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import structlog

from maintd.clock import Clock
from maintd.errors import MaintdError
from maintd.operations.changelog_files import write_files
from maintd.store import Store

log = structlog.get_logger()

EVERY = timedelta(days=1)
RETRY = timedelta(hours=1)


class DailyChangelog:
    """Writes the files in a thread. Without a folder it does nothing."""

    def __init__(self, store: Store, clock: Clock, folder: Path | None) -> None:
        self._store = store
        self._clock = clock
        self._folder = folder
        self._next_at: float | None = None  # on the clock; None: at once

    def write_if_due(self) -> None:
        """Start to write the files if it is time. Returns at once."""
        now = self._clock.elapsed()
        if self._folder is None or (self._next_at is not None and now < self._next_at):
            return
        self._next_at = now + EVERY.total_seconds()
        threading.Thread(target=self._write, args=(self._folder,), name="change log", daemon=True).start()

    def _write(self, folder: Path) -> None:
        try:
            head = write_files(self._store, folder, self._store.now())
        except (MaintdError, OSError) as error:
            self._next_at = self._clock.elapsed() + RETRY.total_seconds()
            log.error("changelog_not_written", folder=str(folder), error=str(error))
            return
        log.info("changelog_written", folder=str(folder), record=None if head is None else head.record)
