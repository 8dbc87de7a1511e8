"""Stores on both databases, each test with its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from maintd.clock import ManualClock
from maintd.store import Store, open_store

BIN = Path("/usr/lib/postgresql/15/bin")
NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@dataclass
class PostgresServer:
    """A private server on a free loopback port that a test may stop and start."""

    folder: Path
    port: int

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-l", f"{self.folder}/log", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-m", mode, "stop")

    def create(self, database: str, template: str = "template1") -> str:
        with psycopg.connect(self.url("postgres"), autocommit=True) as conn:
            conn.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url(database)

    def drop(self, database: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as conn:
            conn.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def _run(self, program: str, *arguments: str) -> None:
        # Postgres refuses to run as root.
        drop = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"] if os.geteuid() == 0 else []
        subprocess.run([*drop, BIN / program, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=self.folder)


def start_postgres() -> PostgresServer:
    """A new server. The folder is not pytest's, whose parents only root may enter."""
    if not (BIN / "initdb").exists():
        message = "needs Postgres: apt-get install postgresql-15"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    folder = Path(tempfile.mkdtemp(prefix="maintd-pg-"))
    folder.chmod(0o755)
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        server = PostgresServer(folder, sock.getsockname()[1])
    server._run("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "postgres", "--no-sync")
    server.start()
    return server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = start_postgres()
    try:
        url = server.create("maintd_template")
        open_store(url, clock=ManualClock(NOON), migrate=True).close()
        yield server
    finally:
        server.stop("immediate")
        shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that the test may stop."""
    server = start_postgres()
    try:
        yield server
    finally:
        with suppress(subprocess.CalledProcessError):
            server.stop("immediate")
        shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.server)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database with maintd's tables, once for each kind of database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/maintd.db"
        open_store(url, clock=ManualClock(NOON), migrate=True).close()
        yield url
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = f"t{os.urandom(6).hex()}"
    yield server.create(name, template="maintd_template")
    server.drop(name)


@pytest.fixture
def open_another(store_url: str, clock: ManualClock) -> Iterator[Callable[[], Store]]:
    """Opens further stores on the same database, as other processes would."""
    opened: list[Store] = []

    def open_one() -> Store:
        opened.append(open_store(store_url, clock=clock, migrate=False))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_another: Callable[[], Store]) -> Store:
    return open_another()


@pytest.fixture
def free_port() -> int:
    """A loopback port that nothing listens on."""
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
