"""Daemons that run a procedure, are started again when they were killed, and whose store can be taken away."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from support.servers.base import wait_for
from support.servers.maintd import DaemonProcess, Shell, clean_environ, serve
from support.servers.postgres import PostgresServer, start_postgres

from endurance.procedures import JOBS, calendar
from maintd.clock import SystemClock
from maintd.store import Store, open_store

AWAY_SECONDS = 3.0  # for which the store is taken away


class ProcedureNodes:
    """Nodes on one store. A thread starts what was killed, and takes the store away when a job asks for it."""

    def __init__(self, folder: Path, postgres: PostgresServer | None, nodes: int, after_crash: str) -> None:
        self.folder = folder
        self.marks = folder / "marks"
        self.marks.mkdir()
        self._postgres = postgres
        self._url = postgres.url("maintd") if postgres is not None else f"sqlite:///{folder}/n1/state/maintd.db"
        self._names = [f"n{number}" for number in range(1, nodes + 1)]
        self._processes: dict[str, DaemonProcess] = {}
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        for name in self._names:
            (folder / name).mkdir()
            (folder / name / "schedules.yaml").write_text(calendar(self.marks, after_crash), encoding="utf-8")
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    @property
    def shell(self) -> Shell:
        """A shell for commands of an operator on the first node."""
        return Shell(self.folder / "n1", self._environ("n1"))

    def start(self) -> Store:
        """Start the nodes; return the store once they are ready."""
        for name in self._names:
            self._start(name)
        wait_for(lambda: all("daemon_ready" in self.log(name) for name in self._names), "the daemons are ready", 300)
        self._keeper.start()
        return open_store(self._url, clock=SystemClock(), migrate=False)

    def stop(self) -> None:
        """Stop the nodes."""
        self._stopping.set()
        self._keeper.join()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def log(self, name: str) -> str:
        """What a node logged so far."""
        path = self.folder / name / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def kill(self) -> None:
        """Kill all daemons, as a power cut does."""
        with self._lock:
            for process in self._processes.values():
                process.send_signal(signal.SIGKILL)
                process.wait()

    def take_store_away(self) -> None:
        """Make the store unusable for a while."""
        if self._postgres is not None:
            self._postgres.stop("immediate")
            time.sleep(AWAY_SECONDS)
            self._postgres.start()
            return
        with closing(sqlite3.connect(self.folder / "n1/state/maintd.db", timeout=30, isolation_level=None)) as conn:
            conn.execute("BEGIN EXCLUSIVE")
            time.sleep(AWAY_SECONDS)
            conn.execute("ROLLBACK")

    def _environ(self, name: str) -> dict[str, str]:
        environ = {
            "MAINTD_STATE_DIR": str(self.folder / name / "state"),
            "MAINTD_NODE": name,
            "MAINTD_LISTEN": "",
            "MAINTD_CALENDAR": str(self.folder / name / "schedules.yaml"),
            "MAINTD_JOBS_PATH": str(JOBS),
            "MAINTD_LEASE": "8s",
            "MAINTD_HEARTBEAT": "500ms",
            "MAINTD_GRACE": "500ms",
            "MAINTD_REPORTS_DIR": str(self.folder / name / "reports"),
        }
        return environ | ({} if self._postgres is None else {"MAINTD_STORE_URL": self._url})

    def _start(self, name: str) -> None:
        self._processes[name] = serve(
            self.folder / name, self.folder / name / "log", clean_environ(**self._environ(name))
        )

    def _keep(self) -> None:
        while not self._stopping.wait(0.1):
            with self._lock:
                for name, process in list(self._processes.items()):
                    if process.poll() is not None:
                        self._start(name)
            if (self.marks / "away").exists():
                self.take_store_away()
                (self.marks / "away").unlink()


@contextmanager
def procedure_nodes(folder: Path, kind: str, nodes: int, after_crash: str = "hold") -> Iterator[ProcedureNodes]:
    """Start nodes on a store of this kind in an empty folder; stop them at the end."""
    server = None
    if kind == "postgres":
        server = start_postgres()
        server.create("maintd")
    made = ProcedureNodes(folder, server, nodes, after_crash)
    try:
        yield made
    finally:
        made.stop()
        if server is not None:
            server.stop("immediate")
            shutil.rmtree(server.folder, ignore_errors=True)


def fault_file(nodes: ProcedureNodes, kind: str, point: str) -> None:
    """Have the job at this point cause the fault."""
    written = nodes.marks / "fault.new"
    written.write_text(f"{kind} {point}", encoding="ascii")
    written.replace(nodes.marks / "fault")
