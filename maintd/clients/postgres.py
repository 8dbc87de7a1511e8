"""Postgres client on psycopg 3: autocommit, a timeout for every wait, the server's notices kept.

A session's application_name is `maintd:<job>`. When this process dies, the server notices within a second and cancels
the running statement (`client_connection_check_interval`, Postgres 14 and later).
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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

GRACE_SECONDS = 2.0
"""How long after its statement_timeout a query may stay without an answer before the connection is closed."""
PROGRESS_INTERVAL = 0.5  # seconds

# libpq reports why a connection was refused only as text, without an SQLSTATE.
SERVER_LOG = "look for the error in the server's log: SHOW log_directory, or docker logs of its container"

_CONNECT_CAUSES = (
    ("password authentication failed", "denied", "check the target's user and password"),
    ("no password supplied", "denied", "give the target a password"),
    ("no pg_hba.conf entry", "denied", "allow this host in pg_hba.conf"),
    ("is not permitted to log in", "denied", "allow it: ALTER ROLE … LOGIN"),
    ("permission denied", "denied", "grant CONNECT on the database"),
    ("certificate", "tls", "check the server's certificate, and sslrootcert and sslmode in the dsn"),
    ("SSL", "tls", "check whether the server speaks TLS, and sslmode in the dsn"),
    ("too many connections for role", "refused", "raise the role's limit: ALTER ROLE … CONNECTION LIMIT"),
    ("too many connections for database", "refused", "raise the database's limit: ALTER DATABASE … CONNECTION LIMIT"),
    ("too many", "refused", "raise max_connections, or find the clients in pg_stat_activity"),
    ("remaining connection slots", "refused", "raise max_connections, or find the clients in pg_stat_activity"),
    ("starting up", "refused", "wait until it has recovered"),
    ("not yet accepting connections", "refused", "wait until it has recovered"),
    ("shutting down", "refused", "start it"),
    ("Connection refused", "refused", "check that it is running and that the port is right"),
    ("No such file or directory", "refused", "check that it is running and that the socket's folder is right"),
    ("timeout", "timed_out", "the server accepts connections but does not answer: see its log and load"),
    ("could not translate host name", "unreachable", "correct the host name or the network"),
    ("Name or service not known", "unreachable", "correct the host name or the network"),
    ("failed to resolve", "unreachable", "correct the host name or the network"),
    ("No route to host", "unreachable", "correct the host name or the network"),
    ("server closed the connection", "partial", SERVER_LOG),
    ("does not exist", "failed", "correct the target's dsn"),
)


_LOGIN_REFUSED = ("password authentication failed", "is not permitted to log in")


class Notice(NamedTuple):
    """A message of the server besides the result; severity is WARNING, NOTICE or INFO."""

    severity: str
    message: str
    hint: str
    sqlstate: str = ""


@dataclass(frozen=True)
class Login:
    """A user with a password, as it is: no reference in it is resolved."""

    user: str
    password: str = field(repr=False)


class Postgres:
    """One session; a context manager that cancels a running statement and closes the session on exit."""

    def __init__(self, connection: psycopg.Connection[Row], name: str, timeout: timedelta) -> None:
        self._connection = connection
        self._timeout = timeout
        self.name = name
        self.notices: list[Notice] = []
        connection.add_notice_handler(self._add_notice)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id of the session's backend."""
        return self._connection.info.backend_pid

    @property
    def version(self) -> int:
        """The server's major version."""
        return self._connection.info.server_version // 10000

    def rows(self, query: str | sql.Composed, params: Mapping[str, Any] | Sequence[Any] = ()) -> list[Row]:
        """All rows of a query, as dicts by column name. Raises TargetError."""
        with self._limited(), self._translated():
            text = query.encode() if isinstance(query, str) else query
            cursor = self._connection.execute(text, params or None)
            return cursor.fetchall() if cursor.description else []

    def one(self, query: str | sql.Composed, params: Mapping[str, Any] | Sequence[Any] = ()) -> Row:
        """The first row of a query. Raises TargetError(cause="empty") when there is none."""
        rows = self.rows(query, params)
        if not rows:
            raise TargetError(f"{self.name}: a query that always has a row returned none", cause="empty")
        return rows[0]

    @contextmanager
    def statement_timeout(self, timeout: timedelta) -> Iterator[None]:
        """Set the timeout of each query inside the block, on the server and here."""
        previous, self._timeout = self._timeout, timeout
        try:
            self.rows(f"SET statement_timeout = {_milliseconds(timeout)}")
            yield
        finally:
            self._timeout = previous
            with suppress(TargetError):
                self.rows(f"SET statement_timeout = {_milliseconds(previous)}")

    def scram_verifier(self, login: Login) -> str:
        """What the server keeps of a password, computed here: the password itself is not sent. Raises TargetError."""
        with self._translated():
            made = self._connection.pgconn.encrypt_password(
                login.password.encode(), login.user.encode(), b"scram-sha-256"
            )
            return made.decode()

    def set_lock_timeout(self, timeout: timedelta) -> None:
        """Set how long each wait for a lock may take from now on. Raises TargetError."""
        self.rows(f"SET lock_timeout = {_milliseconds(timeout)}")

    def run(self, statement: sql.Composed, timeout: timedelta) -> list[Notice]:
        """Run one statement with a timeout of its own; return its notices. Raises TargetError."""
        first = len(self.notices)
        with self.statement_timeout(timeout):
            self.rows(statement)
        return self.notices[first:]

    def extension_schema(self, extension: str) -> str | None:
        """The schema of an extension, None when it is not installed in this database. Raises TargetError."""
        query = "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = %s"
        return next((str(row["nspname"]) for row in self.rows(query, (extension,))), None)

    def can_execute(self, schema: str, function: str) -> bool:
        """Whether this session may call a function, named with its arguments: `bt_index_check(regclass, boolean)`."""
        query = """
        SELECT coalesce(has_schema_privilege(%(schema)s, 'USAGE')
            AND has_function_privilege(to_regprocedure(quote_ident(%(schema)s) || '.' || %(name)s), 'EXECUTE'), false)
            AS allowed
        """
        return bool(self.one(query, {"schema": schema, "name": function})["allowed"])

    def close(self) -> None:
        """Cancel a running statement, then close the session."""
        with suppress(psycopg.Error, OSError):
            if self._connection.info.transaction_status is TransactionStatus.ACTIVE:
                self._connection.cancel_safe(timeout=2)
        self._connection.close()

    def _add_notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        self.notices.append(
            Notice(
                diagnostic.severity_nonlocalized or "NOTICE",
                diagnostic.message_primary or "",
                diagnostic.message_hint or "",
                diagnostic.sqlstate or "",
            )
        )

    @contextmanager
    def _limited(self) -> Iterator[None]:
        """Close the connection when the server does not answer at all; its own statement_timeout cannot help then."""
        descriptor = os.dup(self._connection.fileno()) if not self._connection.closed else None
        if descriptor is None:
            raise TargetError(f"{self.name}: the connection is lost", SERVER_LOG, cause="partial")
        connection = socket.socket(fileno=descriptor)
        expired = threading.Event()

        def shut_down() -> None:
            expired.set()
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self._timeout.total_seconds() + GRACE_SECONDS, shut_down)
        timer.daemon = True
        timer.start()
        try:
            yield
        except TargetError as error:
            if expired.is_set():
                raise TargetError(
                    f"{self.name}: stopped answering", "check whether the server hangs", cause="timed_out"
                ) from error
            raise
        finally:
            timer.cancel()
            connection.close()

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
    lock_timeout: timedelta | None = None,
    read_only: bool = True,
    login: Login | None = None,
) -> Postgres:
    """Open a session. `timeout` (default: the target's) limits connecting and each query. `login`: instead of the
    target's own.

    Raises TargetError; its message never contains the password.
    """
    target = resolved(target)
    timeout = timeout or target.timeout
    password = target.password.get_secret_value() if target.password else None
    if login is not None:
        password = login.password
    try:
        connection = psycopg.connect(
            target.dsn,
            autocommit=True,
            row_factory=dict_row,
            connect_timeout=max(2, round(timeout.total_seconds())),  # libpq takes whole seconds, at least two
            application_name=f"maintd:{job}",
            password=password or None,
            user=None if login is None else login.user,
            # A database in the C locale is SQL_ASCII: psycopg would return its texts as bytes.
            client_encoding="utf-8",
        )
    except psycopg.ProgrammingError:
        # libpq quotes the part of the dsn that it cannot parse; the password may be in it.
        raise TargetError(f"{name}: the dsn is not valid", "write postgresql://user@host:5432/database") from None
    except psycopg.OperationalError as error:
        raise _connect_error(name, error) from error
    session = Postgres(connection, name, timeout)
    session.rows(f"SET statement_timeout = {_milliseconds(timeout)}")
    if lock_timeout is not None:
        session.set_lock_timeout(lock_timeout)
    if read_only:
        session.rows("SET default_transaction_read_only = on")
    if session.version >= 14:
        # Linux, macOS and the BSDs only; elsewhere the server notices a lost client when it sends the next answer.
        with suppress(TargetError):
            session.rows("SET client_connection_check_interval = '1s'")
    return session


def identify_system(target: PostgresTarget, *, name: str = "postgres") -> str:
    """The cluster's identifier, asked for as a replica does: by a connection that streams. Raises TargetError.

    It needs the attribute REPLICATION, and a line for `replication` in pg_hba.conf.
    """
    target = resolved(target)
    password = target.password.get_secret_value() if target.password else None
    seconds = max(2, round(target.timeout.total_seconds()))
    try:
        with psycopg.connect(
            target.dsn,
            autocommit=True,
            replication="true",
            connect_timeout=seconds,
            password=password or None,
            application_name="maintd:doctor",
        ) as connection:
            answer = connection.pgconn.exec_(b"IDENTIFY_SYSTEM")
            if answer.status != psycopg.pq.ExecStatus.TUPLES_OK:
                text = answer.error_message.decode(errors="replace").strip()
                raise TargetError(f"{name}: IDENTIFY_SYSTEM: {text}", cause="denied")
            return (answer.get_value(0, 0) or b"").decode()
    except psycopg.ProgrammingError:
        raise TargetError(f"{name}: the dsn is not valid", "write postgresql://user@host:5432/database") from None
    except psycopg.OperationalError as error:
        raise _connect_error(name, error) from error


def accepts(target: PostgresTarget, login: Login, *, name: str, job: str) -> bool:
    """Whether a new session of this login is accepted; false when the server refuses its password or the role.

    Raises TargetError for any other answer.
    """
    try:
        connect(target, job, name=name, login=login).close()
    except TargetError as error:
        # libpq reports why a connection was refused only as text, without an SQLSTATE.
        if any(text in error.message for text in _LOGIN_REFUSED):
            return False
        raise
    return True


def lock_timed_out(error: TargetError) -> bool:
    """Whether lock_timeout ended the statement, whatever the language of the server's messages."""
    return isinstance(error.__cause__, psycopg.errors.LockNotAvailable)


@contextmanager
def progress_reported(monitor: Postgres, query: str, pid: int, report: Callable[[Row], None]) -> Iterator[None]:
    """Call `report` with the progress row of backend `pid` twice a second, from a thread that uses session `monitor`.

    Reporting stops silently when the monitor fails: progress is not evidence.
    """
    done = threading.Event()

    def poll() -> None:
        while not done.wait(PROGRESS_INTERVAL):
            try:
                for row in monitor.rows(query, (pid,)):
                    report(row)
            except TargetError:
                return

    thread = threading.Thread(target=poll, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _milliseconds(value: timedelta) -> int:
    return max(1, round(value.total_seconds() * 1000))


def _connect_error(name: str, error: psycopg.OperationalError) -> TargetError:
    text = " ".join(str(error).split())
    for part, cause, hint in _CONNECT_CAUSES:
        if part.lower() in text.lower():
            return TargetError(f"{name}: {text}", hint, cause=cause)
    return TargetError(f"{name}: {text}", SERVER_LOG, cause="failed")


def _query_error(name: str, error: psycopg.Error) -> TargetError:
    text = error.diag.message_primary or " ".join(str(error).split())
    match error:
        case psycopg.errors.QueryCanceled():
            return TargetError(f"{name}: {text}", "raise the timeout, or find what it waits for", cause="timed_out")
        case psycopg.errors.LockNotAvailable():
            return TargetError(f"{name}: {text}", "another session holds a lock: see pg_locks", cause="timed_out")
        case psycopg.errors.InsufficientPrivilege():
            return TargetError(f"{name}: {text}", "grant it, or see deploy/roles.sql", cause="denied")
        case psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedColumn():
            return TargetError(
                f"{name}: {text}",
                "it does not exist in this database: run its migrations, or correct the query or the database",
                cause="empty",
            )
        case psycopg.errors.DiskFull():
            return TargetError(f"{name}: {text}", "free space on the server's disk", cause="failed")
        case psycopg.OperationalError() if error.sqlstate is None or error.sqlstate.startswith(("08", "57P")):
            return TargetError(f"{name}: {text}", SERVER_LOG, cause="partial")
        case _:
            return TargetError(f"{name}: {text}", error.diag.message_hint)
