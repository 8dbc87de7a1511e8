"""Huey on its own SQLite file: a consumer with two worker threads."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from peers.base import Promises, Queue, Started, Workload, output
from peers.processes import Daemon
from peers.stores import Record, in_sqlite


class Huey(Queue):
    """As shipped: without fsync; idle workers poll less and less often, up to every ten seconds."""

    name = "Huey (SQLite)"
    requirements = "huey"
    package = "huey"
    # Neither form is durable, seen by `compare.py --only kill --peers huey`: no row before the end, and then no times.
    promises = Promises(False, False, False, "a function in a thread; its result until it is read, no times, no fsync")
    note = "due by eta; its crontab is up to 60 s late; idle workers look each 0.1 to 10 s"
    keeps = "its row goes when the result is read"
    fsync = False
    batch = 5000

    def settings(self, work: Workload) -> dict[str, str]:
        more = {"BENCH_FSYNC": "1"} if self.fsync else {}
        return self.environment(BENCH_WORKLOAD=str(work.folder / "workload.json"), **more)

    def lead(self, work: Workload) -> float:
        return 3.0 + work.entries / 1000

    @contextmanager
    def started(self, work: Workload) -> Iterator[Started]:
        (work.folder / "workload.json").write_text(json.dumps(work.document()))
        env = self.settings(work)
        if work.due:
            self._do("schedule()", work)
        argv = [self.python, str(self.venv / "bin/huey_consumer"), "huey_tasks.huey", "-w", "2"]
        daemon = Daemon(argv, work.folder / "log", env=env, cwd=work.folder)
        daemon.command = "huey_consumer huey_tasks.huey -w 2"
        try:
            yield Started([daemon], daemon.wait_for("Huey consumer started"))
        finally:
            daemon.stop(3)

    def enqueue(self, work: Workload, count: int) -> None:
        self._do(f"enqueue({count})", work)

    def _do(self, act: str, work: Workload) -> None:
        # Imported, not run as a program: Huey names a task by its module.
        output(self.python, "-c", f"import huey_tasks; huey_tasks.{act}", env=self.settings(work))

    def finished(self, work: Workload) -> int:
        with closing(sqlite3.connect(f"file:{work.folder}/huey.db?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM kv").fetchone()[0])

    def records(self, work: Workload) -> list[Record]:
        return in_sqlite(work.folder / "huey.db", "SELECT 'result', NULL, NULL FROM kv")

    def afterwards(self, work: Workload) -> Workload:
        return replace(work, burst=0)


class HueySynced(Huey):
    """With `fsync=True`, as maintd's store is."""

    name = "Huey (SQLite, fsync)"
    promises = Promises(False, False, False, "a function in a thread; its result until it is read, no times")
    fsync = True
