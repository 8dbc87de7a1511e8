"""A database with a backup of it, made by the job, and a service that is halted: what a rollback of data works on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from support.halting import TradingService, trading_service
from support.job_runs import JobResult, run_job
from support.servers.postgres import BIN, PostgresServer, postgres
from support.servers.redis import RedisServer
from support.users import folder_for_all

NAME, ORIGINAL = "trading", "trading_original"
APPROVED = {"gate": "approved by ada"}
BACKED_UP = 50  # rows
_LIKE_IT = (
    f"ALTER DATABASE {NAME} OWNER TO trader",
    f"COMMENT ON DATABASE {NAME} IS 'the book'",
    f'ALTER DATABASE {NAME} SET search_path TO "$user", public, audit',
    f"REVOKE CONNECT ON DATABASE {NAME} FROM PUBLIC",
    f"GRANT CONNECT ON DATABASE {NAME} TO app",
)


@dataclass
class Origin:
    """The server, with what was backed up as a template, and the folder with the set."""

    server: PostgresServer
    sets: Path


@dataclass
class Site:
    """A database with a backup of it, and a service that is halted."""

    server: PostgresServer
    service: TradingService
    sets: Path
    work: Path
    login: str = "postgres"
    more: dict[str, Any] = field(default_factory=dict)  # further targets

    @property
    def targets(self) -> dict[str, Any]:
        dsn = self.server.url(NAME).replace("postgres@", f"{self.login}@")
        return {
            "postgres": {"main": {"dsn": dsn, "bin_dir": str(BIN), "timeout": "10s"}},
            "folders": {"backup_sets": {"path": str(self.sets)}},
            **self.service.targets(),
            **self.more,
        }

    def ask(self, query: str, database: str = NAME) -> Any:
        with psycopg.connect(self.server.url(database), autocommit=True) as conn:
            row = conn.execute(query.encode()).fetchone()
            return row[0] if row else None

    def do(self, *statements: str, database: str = NAME) -> None:
        with psycopg.connect(self.server.url(database), autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement.encode())

    def databases(self) -> list[str]:
        names = f"SELECT array_agg(datname ORDER BY datname) FROM pg_database WHERE datname LIKE '{NAME}%'"
        found: list[str] = self.ask(f"{names} AND datname <> '{ORIGINAL}'", "postgres")
        return found

    def rows(self, database: str = NAME) -> int:
        return int(self.ask("SELECT count(*) FROM audit_events", database))

    def loss(self, **params: Any) -> JobResult:
        return run_job("rollback_loss", params, self.targets, folder=self.work)

    def run(self, *, approvals: Any = APPROVED, **params: Any) -> JobResult:
        more = {
            key: params.pop(key)
            for key in ("dry_run", "at_report", "at_intent", "handed", "in_foreground")
            if key in params
        }
        given = {"level": "data", **params}
        return run_job("rollback", given, self.targets, folder=self.work, approvals=approvals, **more)

    @contextmanager
    def as_login(self, *grants: str, options: str = "") -> Iterator[str]:
        """Connect as a new login, which is a member of the owner, and has these grants."""
        self.do(f"CREATE ROLE op LOGIN {options}", *(f"GRANT {grant} TO op" for grant in grants), database="postgres")
        self.login = "op"
        try:
            yield "op"
        finally:
            self.login = "postgres"
            self.do("DROP OWNED BY op CASCADE", "DROP ROLE op", database="postgres")


@contextmanager
def origin_of_backup() -> Iterator[Origin]:
    """A server with a database, and a backup of it by its own job."""
    with postgres() as server, folder_for_all() as folder:
        server.create(NAME)
        with psycopg.connect(server.url(NAME), autocommit=True) as conn:
            for statement in (
                "CREATE ROLE trader",
                "CREATE ROLE app LOGIN",
                f"ALTER DATABASE {NAME} OWNER TO trader",
                "SET ROLE trader",
                "CREATE TABLE audit_events (id bigserial PRIMARY KEY, ts timestamptz DEFAULT now(), type text)",
                f"INSERT INTO audit_events (type) SELECT 'order ' || n FROM generate_series(1, {BACKED_UP}) n",
                "CREATE TABLE pnl_days (date date PRIMARY KEY, realized numeric)",
                "INSERT INTO pnl_days SELECT '2026-01-01'::date + n, n * 1.5 FROM generate_series(1, 20) n",
                "GRANT SELECT ON audit_events TO app",
            ):
                conn.execute(statement.encode())
        targets = {
            "postgres": {"main": {"dsn": server.url(NAME), "bin_dir": str(BIN), "timeout": "10s"}},
            "folders": {"backup_sets": {"path": str(folder)}},
        }
        made = run_job("backup", {"min_free": "1MB", "redis": [], "exclude_databases": ["*"]}, targets)
        assert made.outcome == "succeeded", made.text()
        with psycopg.connect(server.url("postgres"), autocommit=True) as conn:
            conn.execute(f"ALTER DATABASE {NAME} RENAME TO {ORIGINAL}".encode())
        yield Origin(server, folder)


@contextmanager
def rollback_site(origin: Origin, cache: RedisServer) -> Iterator[Site]:
    """The database as it was backed up, beside a service that is halted; dropped at the end with all copies."""
    server = origin.server
    with trading_service(cache) as service, folder_for_all() as work:
        service.set(halted=True)
        made = Site(server, service, origin.sets, work)
        server.create(NAME, ORIGINAL)
        made.do(*_LIKE_IT, database="postgres")
        try:
            yield made
        finally:
            for name in made.databases() or ():
                server.drop(name)


def damage(site: Site) -> None:
    """Delete half of the rows that were backed up, and write two new ones."""
    site.do("DELETE FROM audit_events WHERE id % 2 = 0", "INSERT INTO audit_events (type) VALUES ('late'), ('later')")
