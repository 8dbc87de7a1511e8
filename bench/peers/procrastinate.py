"""Procrastinate: a worker on Postgres that starts its periodic tasks itself, ten coroutines at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from peers.base import PROGRAMS, Promises, Queue, Started, Workload, output
from peers.processes import Daemon
from peers.stores import Record, in_postgres

DATABASE = "procrastinate_bench"
RECORDS = """SELECT status::text, max(at) FILTER (WHERE type = 'started'),
                    max(at) FILTER (WHERE type IN ('succeeded', 'failed', 'cancelled', 'aborted'))
             FROM procrastinate_jobs JOIN procrastinate_events ON job_id = procrastinate_jobs.id
             GROUP BY procrastinate_jobs.id ORDER BY procrastinate_jobs.id"""


class Procrastinate(Queue):
    """As its manual has it, its job rows never deleted."""

    name = "procrastinate (Postgres)"
    requirements = "procrastinate"
    package = "procrastinate"
    status_words = "procrastinate healthchecks"
    promises = Promises(False, True, False, "a coroutine of the worker; a row with its events")

    under_way = ("doing",)
    keeps = "rows stay until one deletes them; a task of one's own may look for stalled jobs"

    def lead(self, work: Workload) -> float:
        return 4.0 + work.entries / 250

    def settings(self, work: Workload) -> dict[str, str]:
        return self.environment(
            BENCH_WORKLOAD=str(work.folder / "workload.json"),
            BENCH_DATABASE=self.servers.postgres.url(DATABASE),
            PROCRASTINATE_APP="procrastinate_tasks.app",
        )

    @contextmanager
    def started(self, work: Workload) -> Iterator[Started]:
        first = not (work.folder / "workload.json").exists()
        (work.folder / "workload.json").write_text(json.dumps(work.document()))
        env = self.settings(work)
        program = str(self.venv / "bin/procrastinate")
        if first:
            self.servers.database(DATABASE)
            output(program, "schema", "--apply", env=env)
        argv = [program, "-v", "worker", "--concurrency", "10"]
        daemon = Daemon(argv, work.folder / "log", env=env, cwd=work.folder)
        try:
            ready = daemon.wait_for("Starting worker", 120)
            yield Started([daemon], ready, servers=[self.servers.postgres_process()])
        finally:
            daemon.stop(3)

    def enqueue(self, work: Workload, count: int) -> None:
        output(self.python, str(PROGRAMS / "procrastinate_tasks.py"), "enqueue", str(count), env=self.settings(work))

    def finished(self, work: Workload) -> int:
        with psycopg.connect(self.servers.postgres.url(DATABASE)) as connection:
            row = connection.execute("SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'").fetchone()
            return int(row[0]) if row else 0

    def records(self, work: Workload) -> list[Record]:
        return in_postgres(self.servers.postgres.url(DATABASE), RECORDS)

    def status_argv(self, work: Workload) -> list[str] | None:
        return [str(self.venv / "bin/procrastinate"), "-a", "procrastinate_tasks.app", "healthchecks"]
