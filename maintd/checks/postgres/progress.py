"""Watching a long statement of one Postgres session from another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from maintd.clients.postgres import Postgres, Row
from maintd.errors import TargetError

VACUUM = """
SELECT phase, heap_blks_scanned AS done, heap_blks_total AS total FROM pg_stat_progress_vacuum WHERE pid = %s
"""
REINDEX = """
SELECT phase, CASE WHEN tuples_total > 0 THEN tuples_done ELSE blocks_done END AS done,
       CASE WHEN tuples_total > 0 THEN tuples_total ELSE blocks_total END AS total,
       nullif(current_locker_pid, 0) AS locker
  FROM pg_stat_progress_create_index WHERE pid = %s
"""
EVERY = 0.5  # seconds


@contextmanager
def watched(watcher: Postgres, query: str, pid: int, tell: Callable[[Row], None]) -> Iterator[None]:
    """While inside, hand on the progress row of session `pid` twice a second; `watcher` must not be used meanwhile.

    A watcher that fails just stops: progress is a comfort, not evidence.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(EVERY):
            try:
                for row in watcher.rows(query, (pid,)):
                    tell(row)
            except TargetError:
                return

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
