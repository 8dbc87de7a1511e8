"""A database of a test's own on the real Postgres, and ways to put it into the states that jobs must cope with."""

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
    """One database. `run` and `ask` are the superuser's."""

    server: PostgresServer
    name: str

    @property
    def url(self) -> str:
        return self.server.url(self.name)

    def url_of(self, role: str) -> str:
        return f"postgresql://{role}@127.0.0.1:{self.server.port}/{self.name}"

    def run(self, *statements: str) -> None:
        """Each in a transaction of its own; the statistics of it all are there when it returns."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement.encode())
            # Else they come when the server's process ends, which may be after the next session has analyzed.
            conn.execute("SELECT pg_stat_force_next_flush()")

    def ask(self, query: str) -> Any:
        """The first value of the answer."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            row = conn.execute(query.encode()).fetchone()
            return row[0] if row else None

    def role(self, name: str, *grants: str) -> str:
        """A new login that may do only this; its name is made unique in the server."""
        unique = f"{name}_{self.name}"
        self.run(f'CREATE ROLE "{unique}" LOGIN', *(f'GRANT {grant} TO "{unique}"' for grant in grants))
        return unique

    def job(
        self, job: str, params: Mapping[str, Any] | None = None, *, as_role: str = "postgres", **more: Any
    ) -> JobResult:
        """Run a job against this database as the target `main`."""
        return run_job(job, params, {"postgres": {"main": {"dsn": self.url_of(as_role)}}}, **more)

    @contextmanager
    def session(self, *statements: str, name: str = "app") -> Iterator[psycopg.Connection[Any]]:
        """A client's session in a transaction that stays open after these statements."""
        with psycopg.connect(self.url, application_name=name) as conn:
            for statement in statements:
                conn.execute(statement.encode())
            yield conn
            conn.rollback()


@contextmanager
def database(server: PostgresServer) -> Iterator[Database]:
    """A new database, dropped at the end with the roles that were made for it."""
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
