"""A Postgres database for one test, and ways to bring it into the states that jobs must handle."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from support.job_runs import JobResult, run_job
from support.servers.postgres import PostgresServer

_NUMBERS = itertools.count(1)


@dataclass
class Database:
    """One database. `run` and `ask` connect as superuser."""

    server: PostgresServer
    name: str

    @property
    def url(self) -> str:
        return self.server.url(self.name)

    def url_of(self, role: str) -> str:
        return f"postgresql://{role}@127.0.0.1:{self.server.port}/{self.name}"

    def run(self, *statements: str) -> None:
        """Execute each statement in a transaction of its own; flush the statistics before returning."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement.encode())
            # Otherwise they arrive when the backend exits, which may be after the next session has run ANALYZE.
            conn.execute("SELECT pg_stat_force_next_flush()")

    def ask(self, query: str) -> Any:
        """Return the first column of the first row."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            row = conn.execute(query.encode()).fetchone()
            return row[0] if row else None

    def role(self, name: str, *grants: str) -> str:
        """Create a login with these grants only; return its name, which is unique in the server."""
        unique = f"{name}_{self.name}"
        self.run(f'CREATE ROLE "{unique}" LOGIN', *(f'GRANT {grant} TO "{unique}"' for grant in grants))
        return unique

    def job(
        self, job: str, params: Mapping[str, Any] | None = None, *, as_role: str = "postgres", **more: Any
    ) -> JobResult:
        """Run a job with this database as the target `main`."""
        return run_job(job, params, {"postgres": {"main": {"dsn": self.url_of(as_role)}}}, **more)

    @contextmanager
    def session(self, *statements: str, name: str = "app") -> Iterator[psycopg.Connection[Any]]:
        """Keep a session open, in a transaction, after these statements."""
        with psycopg.connect(self.url, application_name=name) as conn:
            for statement in statements:
                conn.execute(statement.encode())
            yield conn
            conn.rollback()


@contextmanager
def database(server: PostgresServer) -> Iterator[Database]:
    """Create a database; drop it at the end with its roles."""
    made = Database(server, f"jobs{next(_NUMBERS)}")
    server.create(made.name)
    try:
        yield made
    finally:
        with psycopg.connect(server.url(made.name), autocommit=True) as conn:
            roles = [r[0] for r in conn.execute("SELECT rolname FROM pg_roles WHERE rolname ~ %s", (f"_{made.name}$",))]
            for role in roles:
                conn.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(role)))
        server.drop(made.name)
        with psycopg.connect(server.url("postgres"), autocommit=True) as conn:
            for role in roles:
                conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
