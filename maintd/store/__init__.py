"""The store: the rows through which planner, executor and web server exchange work, and the history.

    store = open_store("sqlite:///maintd.db", clock=SystemClock(), migrate=True)
    store.runs.claim(...); store.history.run(...)

Every method is synchronous and thread-safe, and uses aware UTC datetimes. It raises StoreUnavailableError when a retry
can succeed, StoreUnusableError when an operator must act.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from sqlalchemy.engine import Connection

from maintd.clock import Clock
from maintd.store.audit import Audit
from maintd.store.chain import Chain
from maintd.store.changed_runs import ChangedRuns
from maintd.store.database import Database, mask, parse_url
from maintd.store.entries import Entries, EntryPlan, planning_statements
from maintd.store.findings import Findings
from maintd.store.freezes import Freezes
from maintd.store.gates import Gates
from maintd.store.history import START_STATEMENTS, History, LastRuns, LogRow, MeasurePoint
from maintd.store.locks import Locks
from maintd.store.maintenance import Maintenance, PruneResult
from maintd.store.mutes import Mutes
from maintd.store.nodes import Nodes
from maintd.store.notices import Notices
from maintd.store.records import Records
from maintd.store.run_events import RunEvents
from maintd.store.run_plans import RunPlans, plan_statements
from maintd.store.runs import CLAIM_STATEMENTS, Runs
from maintd.store.schema import current_revision, require_current, upgrade
from maintd.store.successors import Successors
from maintd.store.tokens import Tokens

__all__ = [
    "EntryPlan",
    "LastRuns",
    "LogRow",
    "MeasurePoint",
    "PruneResult",
    "Store",
    "open_store",
    "read_store",
]


T = TypeVar("T")


class Store:
    """One database; an attribute for each aggregate."""

    def __init__(self, database: Database) -> None:
        self._database = database
        plans = self.plans = RunPlans()
        self.url_masked = mask(database.url)
        self.shared = database.kind == "postgres"  # whether several nodes can use it
        self.entries = Entries(database, plans)
        self.runs = Runs(database, plans)
        self.gates = Gates(database, plans)
        self.successors = Successors(database, plans)
        self.locks = Locks(database)
        self.nodes = Nodes(database)
        self.audit = Audit(database)
        self.run_events = RunEvents(database)
        self.findings = Findings(database)
        self.tokens = Tokens(database)
        self.notices = Notices(database)
        self.mutes = Mutes(database)
        self.freezes = Freezes(database)
        self.history = History(database, plans)
        self.records = Records(database)
        self.chain = Chain(database)
        self.changed_runs = ChangedRuns(database, plans)
        self.maintenance = Maintenance(database)

    @property
    def error_count(self) -> int:
        """How many reads and writes of this process have failed so far."""
        return self._database.error_count

    def now(self) -> datetime:
        """The time that all nodes of this store use: this machine's on SQLite, the server's on Postgres."""
        return self._database.now()

    def read(self, transaction: Callable[[Connection], T]) -> T:
        """The result of a transaction that only reads, for queries of several aggregates at one moment."""
        return self._database.read(transaction)

    def write(self, transaction: Callable[[Connection], T]) -> T:
        """Commit a transaction over several aggregates and return its result. It can be executed repeatedly."""
        return self._database.write(transaction)

    def prepare(self) -> None:
        """On SQLite, compile what a due run waits for; otherwise the first one waits 8 ms longer than later ones."""
        if not self.shared:
            self._database.read(_prepare)

    def ping(self) -> None:
        """Raises StoreUnavailableError when the database does not answer."""
        self._database.read(current_revision)

    def close(self) -> None:
        """Finish pending writes and close all connections."""
        self._database.close()


def _prepare(conn: Connection) -> None:
    for statement in (*planning_statements(conn), *plan_statements(conn), *CLAIM_STATEMENTS, *START_STATEMENTS):
        statement.prepare(conn)


def open_store(url: str, *, clock: Clock, migrate: bool, state_dir: Path | None = None) -> Store:
    """Open the store for reading and writing.

    With `migrate`, a missing SQLite file is created (also its directory, if that is `state_dir`) and an older revision
    is upgraded. Without it, any other revision raises StoreUnusableError. Raises SettingsError for an invalid URL.
    """
    parsed = parse_url(url)
    database: Database
    if parsed.get_backend_name() == "sqlite":
        from maintd.store.sqlite import SqliteDatabase

        assert parsed.database is not None
        folder = Path(parsed.database).absolute().parent
        if migrate and state_dir is not None and folder == state_dir.absolute():
            folder.mkdir(parents=True, exist_ok=True)
        database = SqliteDatabase(parsed, clock, "create" if migrate else "write")
    else:
        from maintd.store.postgres import PostgresDatabase

        database = PostgresDatabase(parsed)
    return _checked(database, migrate=migrate)


def read_store(url: str, *, clock: Clock) -> Store:
    """Open the store read-only, with or without a running daemon. Never migrates."""
    parsed = parse_url(url)
    database: Database
    if parsed.get_backend_name() == "sqlite":
        from maintd.store.sqlite import SqliteDatabase

        database = SqliteDatabase(parsed, clock, "read")
    else:
        from maintd.store.postgres import PostgresDatabase

        database = PostgresDatabase(parsed, read_only=True)
    return _checked(database, migrate=False)


def _checked(database: Database, *, migrate: bool) -> Store:
    try:
        if migrate:
            upgrade(database)
        else:
            require_current(database)
    except BaseException:
        database.close()
        raise
    return Store(database)
