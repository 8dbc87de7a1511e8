"""Plain APScheduler 3 embedded in a program; then with a process per run, and with rows written by that program.

The four forms show what isolation and a durable history cost, separately and together.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from peers.base import PROGRAMS, Peer, Promises, Recorder, Started, Workload
from peers.processes import Daemon
from peers.stores import Record, in_sqlite


class _Form(Peer):
    requirements = "apscheduler"
    package = "apscheduler"
    words: tuple[str, ...] = ()

    @contextmanager
    def started(self, work: Workload) -> Iterator[Started]:
        path = work.folder / "workload.json"
        path.write_text(json.dumps(work.document()))
        argv = [self.python, str(PROGRAMS / "apscheduler_daemon.py"), str(path), *self.words]
        daemon = Daemon(argv, work.folder / "log", env=self.environment())
        daemon.command = f"python apscheduler_daemon.py {' '.join(self.words)}"
        try:
            yield Started([daemon], daemon.wait_for("ready"))
        finally:
            daemon.stop()


class InThread(_Form):
    """A Python function in its pool of ten threads."""

    name = "APScheduler, thread"
    promises = Promises(False, False, False, "a function in a thread")
    words = ("thread",)


class InProcess(_Form):
    """A bare Python process for each run."""

    name = "APScheduler, process"
    promises = Promises(True, False, False, "python -I -S for each run, which imports nothing")
    words = ("process",)


class _Recorded(Recorder, _Form):
    keeps = "rows stay until one deletes them: the table is one's own"

    def finished(self, work: Workload) -> int:
        with closing(sqlite3.connect(f"file:{work.folder}/rows.db?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM runs WHERE state = 'succeeded'").fetchone()[0])

    def records(self, work: Workload) -> list[Record]:
        return in_sqlite(work.folder / "rows.db", "SELECT state, started_ns, finished_ns FROM runs")

    def afterwards(self, work: Workload) -> Workload:
        return replace(work, burst=0)


class InThreadRecorded(_Recorded):
    """In a thread, with two synced rows per run."""

    name = "APScheduler, thread + rows"
    promises = Promises(False, True, False, "a thread; own insert and update, each with fsync", own=True)
    words = ("thread", "rows")


class InProcessRecorded(_Recorded):
    """In a process, with two synced rows per run."""

    name = "APScheduler, process + rows"
    promises = Promises(
        True, True, False, "python -I -S for each run; own insert and update, each with fsync", own=True
    )
    words = ("process", "rows")
