"""Redis 7."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from support.servers.base import free_port, is_listening, require_program, running, wait_for


@dataclass
class RedisServer:
    """A private server; its dump.rdb is in `folder`."""

    port: int
    folder: Path
    pid: int

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> Redis:
        return Redis(host="127.0.0.1", port=self.port, socket_timeout=20)


@contextmanager
def redis(*options: str) -> Iterator[RedisServer]:
    """Start a server, with further arguments of redis-server; stop it at the end."""
    program = require_program("redis-server", "redis-server")
    with tempfile.TemporaryDirectory(prefix="maintd-redis-") as name:
        folder, port = Path(name), free_port()
        argv = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", name, "--save", "", *options]
        with running(argv, folder / "log") as process:
            wait_for(lambda: is_listening(port), f"redis on {port}")
            yield RedisServer(port, folder, process.pid)
