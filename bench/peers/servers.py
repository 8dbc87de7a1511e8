"""The servers that contenders need, started once, on loopback: Postgres with fsync, Redis as Debian has it."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).parents[2] / "tests"))

from support.servers.postgres import PostgresServer, postgres
from support.servers.redis import RedisServer, redis


@dataclass
class Servers:
    """Those that were asked for run until the stack is closed."""

    stack: ExitStack

    @cached_property
    def postgres(self) -> PostgresServer:
        server = self.stack.enter_context(postgres())
        # The tests' server does without fsync; on the command line, so a restart with other options is needed.
        server.stop()
        options = (
            f"-p {server.port} -c listen_addresses=127.0.0.1 -c fsync=on -c max_connections=200"
            f" -c unix_socket_directories={server.folder}"
        )
        server._run("pg_ctl", "-D", f"{server.folder}/data", "-w", "-l", f"{server.folder}/log", "-o", options, "start")
        return server

    @cached_property
    def redis(self) -> RedisServer:
        return self.stack.enter_context(redis())

    def database(self, name: str) -> str:
        """A new, empty one; its URL."""
        self.postgres.drop(name)
        return self.postgres.create(name)

    def postgres_process(self) -> psutil.Process:
        pid = (self.postgres.folder / "data/postmaster.pid").read_text().split()[0]
        return psutil.Process(int(pid))
