"""maintd as a user runs it: a daemon, a calendar file, an operator's job module."""

from __future__ import annotations

import json
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg

from peers.base import Promises, Recorder, Started, Workload, output
from peers.processes import MAINTD, Daemon
from peers.stores import Record, in_postgres, in_sqlite

JOB = '''"""Write down when this line ran."""

import os
import time

from maintd.job import Context, JobParams, job


class Params(JobParams):
    journal: str
    entry: int
    hold: int = 0


@job(timeout="5m")
def run(ctx: Context, params: Params) -> None:
    now = time.time_ns()
    out = os.open(params.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(out, b"%d %d\\n" % (params.entry, now))
    os.close(out)
    if params.hold:
        time.sleep(params.hold)
'''

COMMAND = str(Path(sys.executable).with_name("maintd"))
MANY = 100
SLOTS = 16
FINISHED = "SELECT count(*) FROM runs WHERE state = 'succeeded'"
RECORDS = "SELECT state, started_at, finished_at FROM runs ORDER BY id"
FULL = Promises(True, True, True, "process per run, rows of run, step, attempt and evidence, log kept")


class Maintd(Recorder):
    """On its own SQLite file."""

    name = "maintd (SQLite)"
    promises = FULL
    keeps = "rows stay for 400 days and 5,000 runs of an entry by default, the last success and failure always"

    def install(self) -> None:
        """It is the checkout itself, in the environment that runs this comparison."""

    @property
    def version(self) -> str:
        return output(COMMAND, "version").splitlines()[0]

    def lead(self, work: Workload) -> float:
        # Time to load a large calendar and to start the template process, which a daemon in production has done long
        # before.
        return 5.0 + work.entries / 500

    def store_url(self, work: Workload) -> str:
        return f"sqlite:///{work.folder / 'state/maintd.db'}"

    def settings(self, work: Workload) -> dict[str, str]:
        return self.environment() | {
            "MAINTD_CALENDAR": str(work.folder / "schedules.yaml"),
            "MAINTD_STATE_DIR": str(work.folder / "state"),
            "MAINTD_DEBUGGABLE": "1",  # its memory and descriptors are measured
            "MAINTD_JOBS_PATH": str(work.folder / "jobs"),
            "MAINTD_LISTEN": f"127.0.0.1:{_free_port()}",
            "MAINTD_STORE_URL": self.store_url(work),
            "MAINTD_LOG_FORMAT": "json",
            # As many slots as runs that are due at once, within limits: the others have ten threads, or no limit.
            "MAINTD_SLOTS": str(max(work.burst, 4) if work.burst <= MANY else SLOTS),
        }

    @contextmanager
    def started(self, work: Workload) -> Iterator[Started]:
        (work.folder / "jobs").mkdir(exist_ok=True)
        (work.folder / "jobs/stamp.py").write_text(JOB)
        (work.folder / "schedules.yaml").write_text(calendar(work))
        env = self.settings(work)
        daemon = Daemon([sys.executable, "-c", MAINTD, "serve"], work.folder / "log", env=env)
        daemon.command = f"MAINTD_SLOTS={env['MAINTD_SLOTS']} maintd serve"
        try:
            ready = daemon.wait_for("daemon_ready")
            yield Started([daemon], ready, servers=self.server_processes())
        finally:
            daemon.stop()

    def server_processes(self) -> list[psutil.Process]:
        return []

    def finished(self, work: Workload) -> int:
        with closing(sqlite3.connect(f"file:{work.folder}/state/maintd.db?mode=ro", uri=True)) as connection:
            return int(connection.execute(FINISHED).fetchone()[0])

    def records(self, work: Workload) -> list[Record]:
        return in_sqlite(work.folder / "state/maintd.db", RECORDS)

    def status_argv(self, work: Workload) -> list[str]:
        return [COMMAND, "--state-dir", str(work.folder / "state"), "status"]


class MaintdOnPostgres(Maintd):
    """The same on a Postgres with fsync."""

    name = "maintd (Postgres)"

    def store_url(self, work: Workload) -> str:
        return self.servers.postgres.url("maintd_bench")

    @contextmanager
    def started(self, work: Workload) -> Iterator[Started]:
        if not (work.folder / "state").exists():  # a second start finds its history
            self.servers.database("maintd_bench")
        with super().started(work) as started:
            yield started

    def server_processes(self) -> list[psutil.Process]:
        return [self.servers.postgres_process()]

    def finished(self, work: Workload) -> int:
        with psycopg.connect(self.store_url(work)) as connection:
            row = connection.execute(FINISHED).fetchone()
            return int(row[0]) if row else 0

    def records(self, work: Workload) -> list[Record]:
        return in_postgres(self.store_url(work), RECORDS)


def calendar(work: Workload) -> str:
    """The calendar file: once at its instant, or yearly."""
    lines = ["timezone: UTC", "entries:"]
    for entry in range(work.entries):
        at = work.instant(entry)
        if at is None:
            schedule = f"cron: {entry % 60} {entry // 60 % 24} 1 1 *"
        else:
            schedule = f"at: {datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
        params = json.dumps({"journal": str(work.journal), "entry": entry} | ({"hold": work.hold} if work.hold else {}))
        lines += [f"  entry-{entry}:", f"    {schedule}", "    catch_up: none", f"    steps: [{{stamp: {params}}}]"]
    return "\n".join(lines) + "\n"


def _free_port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
