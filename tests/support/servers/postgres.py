"""PostgreSQL from the Debian package, in the version of the release. As root, its commands run as the user postgres."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from support.servers.base import free_port, require_program

BIN = max(
    Path("/usr/lib/postgresql").glob("[0-9]*/bin"),
    key=lambda path: int(path.parent.name),
    default=Path("/usr/lib/postgresql/bin"),
)


@dataclass
class PostgresServer:
    """A private server on an unused loopback port, which a test may stop and start."""

    folder: Path
    port: int
    addresses: tuple[str, ...] = ("127.0.0.1",)
    libraries: tuple[str, ...] = ("pg_stat_statements",)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = (
            f"-p {self.port} -c listen_addresses={','.join(self.addresses)} -c fsync=off"
            f" -c unix_socket_directories={self.folder}"
            f" -c shared_preload_libraries={','.join(self.libraries)}"
        )
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-l", f"{self.folder}/log", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-m", mode, "stop")

    def also_listen(self, address: str) -> None:
        """Listen on a further address, and accept clients from its /24; restarts the server."""
        self.stop()
        self.addresses = (*self.addresses, address)
        with (self.folder / "data/pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {address.rpartition('.')[0]}.0/24 trust\n")
        self.start()

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


def start_postgres(within: Path | None = None) -> PostgresServer:
    """Start a server in a new folder. The folder is not below pytest's, which the user postgres cannot enter."""
    require_program(BIN / "initdb", "postgresql")
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=within))
    folder.chmod(0o755)
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    server = PostgresServer(folder, free_port())
    server._run("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "postgres", "--no-sync")
    server.start()
    return server


@contextmanager
def postgres() -> Iterator[PostgresServer]:
    """Start a server; stop it at the end."""
    server = start_postgres()
    try:
        yield server
    finally:
        with suppress(subprocess.CalledProcessError):
            server.stop("immediate")
        shutil.rmtree(server.folder, ignore_errors=True)
