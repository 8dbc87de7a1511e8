"""Postgres by psycopg 3: autocommit, every wait bounded, the server's notices kept.

A session is called `maintd:<job>` in pg_stat_activity. When this process dies, the server notices within a second and
ends the statement under way (`client_connection_check_interval`, from Postgres 14).
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, NamedTuple, Self

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.target import PostgresTarget

Row = dict[str, Any]

OVERTIME = 2.0
"""Seconds after a query's own time that a silent server is given up."""

# libpq reports why a connection was refused only as text, without an SQLSTATE.
_CONNECT_CAUSES = (
    ("password authentication failed", "denied", "check the target's user and password"),
    ("no password supplied", "denied", "give the target a password"),
    ("no pg_hba.conf entry", "denied", "allow this host in pg_hba.conf"),
    ("permission denied", "denied", "grant CONNECT on the database"),
    ("too many", "refused", "raise max_connections or find out who holds them"),
    ("remaining connection slots", "refused", "raise max_connections or find out who holds them"),
    ("starting up", "refused", "it will answer when it has recovered"),
    ("shutting down", "refused", "start it again"),
    ("Connection refused", "refused", "is it running, and is the port right?"),
    ("No such file or directory", "refused", "is it running, and is the socket's folder right?"),
    ("timeout", "timed_out", "the server accepts but does not answer: look at its log and load"),
    ("could not translate host name", "unreachable", "correct the host name or the network"),
    ("Name or service not known", "unreachable", "correct the host name or the network"),
    ("failed to resolve", "unreachable", "correct the host name or the network"),
    ("No route to host", "unreachable", "correct the host name or the network"),
    ("server closed the connection", "partial", "look at the server's log"),
    ("does not exist", "failed", "correct the target's dsn"),
)


class Notice(NamedTuple):
    """What the server said beside its answer: severity is WARNING, NOTICE or INFO."""

    severity: str
    message: str
    hint: str
    sqlstate: str = ""


class Postgres:
    """One session. Use it in a `with`: leaving cancels what still runs and closes."""

    def __init__(self, connection: psycopg.Connection[Row], name: str, patience: timedelta) -> None:
        self._connection = connection
        self._patience = patience
        self.name = name
        self.notices: list[Notice] = []
        connection.add_notice_handler(self._noticed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The server's process for this session."""
        return self._connection.info.backend_pid

    @property
    def version(self) -> int:
        """The server's major version."""
        return self._connection.info.server_version // 10000

    def rows(self, query: str | sql.Composed, params: Mapping[str, Any] | Sequence[Any] = ()) -> list[Row]:
        """All rows of a query, each by column name. Raises TargetError."""
        with self._bounded(), self._translated():
            text = query.encode() if isinstance(query, str) else query
            cursor = self._connection.execute(text, params or None)
            return cursor.fetchall() if cursor.description else []

    def one(self, query: str | sql.Composed, params: Mapping[str, Any] | Sequence[Any] = ()) -> Row:
        """The only row of a query. Raises TargetError(empty) when there is none."""
        found = self.rows(query, params)
        if not found:
            raise TargetError(f"{self.name}: a query that always has a row had none", cause="empty")
        return found[0]

    @contextmanager
    def allowing(self, patience: timedelta) -> Iterator[None]:
        """Each query may take this long while inside, by the server's clock and a little more by ours."""
        usual, self._patience = self._patience, patience
        try:
            self.rows(f"SET statement_timeout = {_milliseconds(patience)}")
            yield
        finally:
            self._patience = usual
            with suppress(TargetError):
                self.rows(f"SET statement_timeout = {_milliseconds(usual)}")

    def wait_for_locks(self, timeout: timedelta) -> None:
        """How long each wait for a lock may take from now on. Raises TargetError."""
        self.rows(f"SET lock_timeout = {_milliseconds(timeout)}")

    def long(self, statement: sql.Composed, timeout: timedelta) -> list[Notice]:
        """Run a statement that may take as long as `timeout`; what the server said meanwhile. Raises TargetError."""
        heard = len(self.notices)
        with self.allowing(timeout):
            self.rows(statement)
        return self.notices[heard:]

    def close(self) -> None:
        """End the session; a statement that still runs is cancelled first."""
        with suppress(psycopg.Error, OSError):
            if self._connection.info.transaction_status is TransactionStatus.ACTIVE:
                self._connection.cancel_safe(timeout=2)
        self._connection.close()

    def _noticed(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        self.notices.append(
            Notice(
                diagnostic.severity_nonlocalized or "NOTICE",
                diagnostic.message_primary or "",
                diagnostic.message_hint or "",
                diagnostic.sqlstate or "",
            )
        )

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """End a wait for a server that no longer answers at all: its own statement_timeout cannot help there."""
        descriptor = os.dup(self._connection.fileno()) if not self._connection.closed else None
        if descriptor is None:
            raise TargetError(f"{self.name}: the connection is lost", "look at the server's log", cause="partial")
        watched = socket.socket(fileno=descriptor)
        late = threading.Event()

        def give_up() -> None:
            late.set()
            with suppress(OSError):
                watched.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self._patience.total_seconds() + OVERTIME, give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        except TargetError as error:
            if late.is_set():
                raise TargetError(
                    f"{self.name}: stopped answering", "is the server hung?", cause="timed_out"
                ) from error
            raise
        finally:
            timer.cancel()
            watched.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise _query_error(self.name, error) from error


def connect(
    target: PostgresTarget,
    job: str,
    *,
    name: str = "postgres",
    timeout: timedelta | None = None,
    read_only: bool = True,
) -> Postgres:
    """Open a session. `timeout`, the target's own by default, bounds the connecting and then each query.

    Raises TargetError, whose message never has the password.
    """
    target = resolved(target)
    patience = timeout or target.timeout
    password = target.password.get_secret_value() if target.password else None
    try:
        connection = psycopg.connect(
            target.dsn,
            autocommit=True,
            row_factory=dict_row,
            connect_timeout=max(2, round(patience.total_seconds())),  # libpq knows whole seconds, two at least
            application_name=f"maintd:{job}",
            password=password or None,
            # A database made in the C locale is SQL_ASCII, and its texts would come as bytes.
            client_encoding="utf-8",
        )
    except psycopg.ProgrammingError:
        # libpq repeats a part of the text it cannot read, and the password may be in it.
        raise TargetError(f"{name}: the dsn cannot be read", "write postgresql://user@host:5432/database") from None
    except psycopg.OperationalError as error:
        raise _connect_error(name, error) from error
    session = Postgres(connection, name, patience)
    session.rows(f"SET statement_timeout = {_milliseconds(patience)}")
    if read_only:
        session.rows("SET default_transaction_read_only = on")
    if session.version >= 14:
        # Linux, macOS and the BSDs only; where the server refuses it, a lost client is noticed at the next answer.
        with suppress(TargetError):
            session.rows("SET client_connection_check_interval = '1s'")
    return session


def lock_timed_out(error: TargetError) -> bool:
    """Whether a wait for a lock was what ended the statement, in any language of the server."""
    return isinstance(error.__cause__, psycopg.errors.LockNotAvailable)


def _milliseconds(value: timedelta) -> int:
    return max(1, round(value.total_seconds() * 1000))


def _connect_error(name: str, error: psycopg.OperationalError) -> TargetError:
    text = " ".join(str(error).split())
    for part, cause, hint in _CONNECT_CAUSES:
        if part.lower() in text.lower():
            return TargetError(f"{name}: {text}", hint, cause=cause)
    return TargetError(f"{name}: {text}", "look at the server's log", cause="failed")


def _query_error(name: str, error: psycopg.Error) -> TargetError:
    text = error.diag.message_primary or " ".join(str(error).split())
    match error:
        case psycopg.errors.QueryCanceled():
            return TargetError(f"{name}: {text}", "allow more time, or find what it waits for", cause="timed_out")
        case psycopg.errors.LockNotAvailable():
            return TargetError(f"{name}: {text}", "someone holds a lock: look at pg_locks", cause="timed_out")
        case psycopg.errors.InsufficientPrivilege():
            return TargetError(f"{name}: {text}", "grant it, or see deploy/roles.sql", cause="denied")
        case psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedColumn():
            return TargetError(f"{name}: {text}", "the source is missing in this database", cause="empty")
        case psycopg.errors.DiskFull():
            return TargetError(f"{name}: {text}", "free space on the server's disk", cause="failed")
        case psycopg.OperationalError() if error.sqlstate is None or error.sqlstate.startswith(("08", "57P")):
            return TargetError(f"{name}: {text}", "look at the server's log", cause="partial")
        case _:
            return TargetError(f"{name}: {text}", error.diag.message_hint)
