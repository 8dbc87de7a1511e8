"""Celery: beat, a worker of as many processes as there are cores, Redis between them, results in a database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psutil
import psycopg

from peers.base import PROGRAMS, Promises, Queue, Started, Workload, output
from peers.processes import Daemon
from peers.stores import Record, in_postgres, in_sqlite

# The row has one time, overwritten at each change; in the state STARTED, which is off by default, it is the start's.
RECORDS = """SELECT status, CASE WHEN status = 'STARTED' THEN date_done END,
                    CASE WHEN status <> 'STARTED' THEN date_done END FROM celery_taskmeta"""
FINISHED = "SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'"


class Celery(Queue):
    """As shipped, with its results in Postgres."""

    name = "Celery (Redis, Postgres)"
    requirements = "celery"
    package = "celery"
    status_words = "celery status"
    # Not durable, seen by `compare.py --only kill --peers celery`: no row before the end, and then without the start.
    promises = Promises(False, False, False, "a worker process that serves many runs; a result row at the end")
    note = "second resolution by an interval of a day; its crontab knows minutes"
    under_way = ("STARTED",)
    keeps = (
        "rows stay for result_expires, a day by default; its beat saves what it has sent each three minutes at most,"
        " and sends it once more when it is killed before"
    )
    tracked = False

    def lead(self, work: Workload) -> float:
        return 5.0 + work.entries / 500

    def backend(self, work: Workload) -> str:
        return "db+" + self.servers.postgres.url("celery_bench").replace("postgresql:", "postgresql+psycopg:")

    def clear(self) -> None:
        self.servers.database("celery_bench")

    def settings(self, work: Workload) -> dict[str, str]:
        more = {"BENCH_TRACK_STARTED": "1"} if self.tracked else {}
        return self.environment(
            BENCH_WORKLOAD=str(work.folder / "workload.json"),
            BENCH_BROKER=self.servers.redis.url,
            BENCH_BACKEND=self.backend(work),
            C_FORCE_ROOT="1",
            **more,
        )

    def prepare(self, work: Workload) -> None:
        """The workload as a file; before the first start also an empty queue and database."""
        path = work.folder / "workload.json"
        if not path.exists():
            self.servers.redis.client().flushall()
            self.clear()
        path.write_text(json.dumps(work.document()))

    @contextmanager
    def started(self, work: Workload) -> Iterator[Started]:
        self.prepare(work)
        env = self.settings(work)
        argv = [self.python, "-m", "celery", "-A", "celery_tasks"]
        worker = Daemon([*argv, "worker", "-l", "INFO"], work.folder / "worker.log", env=env, cwd=work.folder)
        beat = Daemon([*argv, "beat", "-l", "INFO"], work.folder / "log", env=env, cwd=work.folder)
        try:
            ready = max(beat.wait_for("beat: Starting"), worker.wait_for(" ready."))
            yield Started([worker, beat], ready, servers=self.server_processes())
        finally:
            beat.stop()
            worker.stop()

    def server_processes(self) -> list[psutil.Process]:
        return [psutil.Process(self.servers.redis.pid), self.servers.postgres_process()]

    def enqueue(self, work: Workload, count: int) -> None:
        output(self.python, str(PROGRAMS / "celery_tasks.py"), "enqueue", str(count), env=self.settings(work))

    def finished(self, work: Workload) -> int:
        with psycopg.connect(self.servers.postgres.url("celery_bench")) as connection:
            try:
                row = connection.execute(FINISHED).fetchone()
            except psycopg.errors.UndefinedTable:  # made with the first result
                return 0
            return int(row[0]) if row else 0

    def records(self, work: Workload) -> list[Record]:
        return in_postgres(self.servers.postgres.url("celery_bench"), RECORDS)

    def status_argv(self, work: Workload) -> list[str] | None:
        return [self.python, "-m", "celery", "-b", self.servers.redis.url, "status"]


class CeleryOnSqlite(Celery):
    """The same with its results in a SQLite file."""

    name = "Celery (Redis, SQLite)"

    def backend(self, work: Workload) -> str:
        return f"db+sqlite:///{work.folder}/results.db"

    def clear(self) -> None:
        """Each workload has its own folder."""

    def server_processes(self) -> list[psutil.Process]:
        return [psutil.Process(self.servers.redis.pid)]

    def finished(self, work: Workload) -> int:
        path = work.folder / "results.db"
        if not path.exists():
            return 0
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            try:
                return int(connection.execute(FINISHED).fetchone()[0])
            except sqlite3.OperationalError:  # no table yet, or locked: it has no write-ahead log
                return 0

    def records(self, work: Workload) -> list[Record]:
        return in_sqlite(work.folder / "results.db", RECORDS)


class CeleryTracked(CeleryOnSqlite):
    """With `task_track_started`: a row is there from the start on, but without its time. For the row `kill` alone."""

    name = "Celery (Redis, SQLite, track_started)"
    promises = Promises(False, False, False, "a worker process that serves many runs; a result row from the start on")
    tracked = True
