"""Prefect with its own server on SQLite, and one runner that serves all deployments. Telemetry is off."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager

from peers.base import PROGRAMS, Promises, Recorder, Started, Workload, output
from peers.processes import Daemon
from peers.stores import Record, in_sqlite

# Runs are planned days ahead.
RECORDS = "SELECT state_type, start_time, end_time FROM flow_run WHERE state_type <> 'SCHEDULED'"


class Prefect(Recorder):
    """As shipped: the runner asks each ten seconds, ten seconds ahead. Ten runs at once: it has no limit."""

    name = "Prefect (SQLite)"
    requirements = "prefect"
    package = "prefect"
    gap = 10
    status_words = "prefect flow-run ls"
    promises = Promises(True, True, True, "a Python process for each run; rows of run and states; logs to its server")
    under_way = ("RUNNING",)
    keeps = (
        "rows stay until one deletes them, or turns on the vacuum of flow runs; heartbeats, off by default, and an"
        " automation of one's own can end runs that have died"
    )
    port = 0

    def lead(self, work: Workload) -> float:
        return 25.0 + work.entries / 8

    def settings(self, work: Workload) -> dict[str, str]:
        return self.environment(
            PREFECT_HOME=str(work.folder / "prefect"),
            PREFECT_API_URL=f"http://127.0.0.1:{self.port}/api",
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY="false",
            PREFECT_LOGGING_COLORS="false",
            DO_NOT_TRACK="1",
            BENCH_WORKLOAD=str(work.folder / "workload.json"),
        )

    @contextmanager
    def started(self, work: Workload) -> Iterator[Started]:
        self.port = _free_port()
        (work.folder / "workload.json").write_text(json.dumps(work.document()))
        env = self.settings(work)
        argv = [str(self.venv / "bin/prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        server = Daemon(argv, work.folder / "log", env=env, cwd=work.folder)
        runner = None
        try:
            server.wait_for(self._answers, 120)
            runner = Daemon(
                [self.python, str(PROGRAMS / "prefect_flows.py"), "serve"],
                work.folder / "runner.log",
                env=env,
                cwd=work.folder,
            )
            runner.command = "python prefect_flows.py serve"
            runner.wait_for("polling for scheduled runs", 40 + work.entries / 10)
            yield Started([server, runner], runner.wait_for(lambda: True) + runner.began - server.began)
        finally:
            if runner is not None:
                runner.stop(3)
            server.stop(3)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/health", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False

    def calls_per_second(self, work: Workload, count: int) -> float:
        """Flows called one after the other in one process, recorded by the server: its cheapest recorded run."""
        return float(
            output(
                self.python,
                str(PROGRAMS / "prefect_flows.py"),
                "calls",
                str(count),
                env=self.settings(work) | {"PREFECT_LOGGING_LEVEL": "WARNING"},
            )
        )

    def finished(self, work: Workload) -> int:
        return sum(record.state == "COMPLETED" for record in self.records(work))

    def records(self, work: Workload) -> list[Record]:
        return in_sqlite(work.folder / "prefect/prefect.db", RECORDS)

    def status_argv(self, work: Workload) -> list[str] | None:
        return [str(self.venv / "bin/prefect"), "flow-run", "ls"]


def _free_port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
