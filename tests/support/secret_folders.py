"""A folder of secrets, and what they open: Postgres with passwords, Redis with users, a service with a token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
import pyrage
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry

from support.job_runs import JobResult, run_job
from support.servers.postgres import PostgresServer
from support.servers.redis import RedisServer

IDENTITY = pyrage.x25519.Identity.generate()
PRINTABLE = "".join(chr(code) for code in range(33, 127))
"""Every printable character of ASCII but the space, with which a value must not begin or end."""

OLD = f"old{PRINTABLE}value"


@dataclass
class SecretFolder:
    """The folder, and the registry of its secrets as a target has it."""

    path: Path
    registry: dict[str, Any] = field(default_factory=dict)
    targets: dict[str, Any] = field(default_factory=dict)
    recipients: list[str] = field(default_factory=lambda: [str(IDENTITY.to_public())])

    def add(self, name: str, value: str, **about: Any) -> Path:
        """Write a file, and register it."""
        path = self.path / str(about.get("file", name))
        path.write_text(value)
        path.chmod(0o600)
        self.registry[name] = about
        return path

    def write(self, file: str, value: str) -> Path:
        """Write a further file."""
        path = self.path / file
        path.write_text(value)
        path.chmod(0o600)
        return path

    def read(self, file: str) -> str:
        return (self.path / file).read_text()

    def all_targets(self) -> dict[str, Any]:
        own = {"path": str(self.path), "recipients": self.recipients, "secrets": self.registry}
        return {"secrets": {"main": own}, **self.targets}

    def rotate(self, params: Mapping[str, Any] | None = None, **more: Any) -> JobResult:
        """Run the job, which rotates at once."""
        return run_job("secrets_rotate", {"min_age": "0s", **(params or {})}, self.all_targets(), **more)

    @property
    def under_way(self) -> list[str]:
        """What is left of rotations."""
        return sorted(path.name for path in (self.path / ".versions").iterdir() if path.is_dir())

    @property
    def backups(self) -> list[Path]:
        return sorted((self.path / ".versions").glob("*.age"))


def require_passwords(server: PostgresServer) -> None:
    """Let all roles but postgres need a password, and let the server log each statement and connection."""
    rules = server.folder / "data/pg_hba.conf"
    address = "127.0.0.1/32"
    rules.write_text(f"host all postgres {address} trust\nhost all all {address} scram-sha-256\n")
    settings = {"log_statement": "all", "log_connections": "on", "log_min_duration_statement": "0"}
    with psycopg.connect(server.url("postgres"), autocommit=True) as conn:
        for name, value in settings.items():
            conn.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
        conn.execute("SELECT pg_reload_conf()")
        conn.execute("SELECT pg_sleep(0)")


def logs_in(server: PostgresServer, user: str, password: str, database: str = "postgres") -> bool:
    """Whether a role may open a session with this password now."""
    try:
        psycopg.connect(
            host="127.0.0.1", port=server.port, dbname=database, user=user, password=password, connect_timeout=60
        ).close()
    except psycopg.OperationalError as error:
        assert "password authentication failed" in str(error) or "not permitted to log in" in str(error), error
        return False
    return True


def redis_accepts(server: RedisServer, user: str, password: str) -> bool:
    """Whether a user of Redis may log in with this password now."""
    retry = Retry(NoBackoff(), 0)
    client = Redis(host="127.0.0.1", port=server.port, username=user, password=password, socket_timeout=60, retry=retry)
    with closing(client) as own:
        try:
            own.ping()
        except AuthenticationError:
            return False
        return True


@contextmanager
def token_service(token: Callable[[], str | None], header: str = "X-Admin-Token") -> Iterator[str]:
    """Serve /admin with 200 for requests that have the token, and 401 for others, or 503 without one; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = token()
            self.send_response(503 if wanted is None else 200 if self.headers.get(header) == wanted else 401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/admin"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
