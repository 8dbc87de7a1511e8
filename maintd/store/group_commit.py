"""Group commit for SQLite: one thread writes at a time, and commits the transactions of all threads that wait.

A durable commit costs an fsync. While one is in progress, further writers queue up; the next of them that gets the turn
commits for all. There is no writer thread: a single writer commits in its own thread, without a hand-over.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar, cast

from sqlalchemy.engine import Connection, Engine

from maintd.errors import StoreUnavailableError
from maintd.store.database import driver

T = TypeVar("T")

MAX_BATCH = 256
"""Most transactions in one commit, so that a writer waits some tens of milliseconds at most."""


class PendingWrite:
    """A transaction that waits for its commit, with its result or error afterwards."""

    __slots__ = ("done", "error", "result", "synced", "transaction")

    def __init__(self, transaction: Callable[[Connection], Any], synced: bool) -> None:
        self.transaction = transaction
        self.synced = synced
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None


class GroupCommit:
    """Executes transactions one after the other, each in a savepoint, and commits those that wait together.

    A transaction that raises rolls back alone. When the commit fails, all transactions of the batch fail with that
    error. The engine's connections must begin with BEGIN IMMEDIATE.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: deque[PendingWrite] = deque()
        self._turn = threading.Lock()
        self._turn_of: int | None = None  # the thread that has the turn
        self._closed = False
        self._connection: Connection | None = None
        self._syncs = True

    def run(self, transaction: Callable[[Connection], T], *, synced: bool = True) -> T:
        """Commit the transaction and return its result. Raises what it raised, or what the commit raised.

        With `synced=False` it is on disk only after the next synced commit.
        """
        if self._turn_of == threading.get_ident():  # a transaction within a transaction is part of it
            assert self._connection is not None
            return transaction(self._connection)
        write = PendingWrite(transaction, synced)
        self._waiting.append(write)
        while not write.done:
            with self._turn:
                if not write.done:
                    self._commit_waiting()
        if write.error is not None:
            raise write.error
        return cast(T, write.result)

    def close(self) -> None:
        """Commit the transactions that wait; later ones fail."""
        with self._turn:
            while self._waiting:
                self._commit_waiting()
            self._closed = True
            self._disconnect()

    def _commit_waiting(self) -> None:
        batch: list[PendingWrite] = []
        try:
            self._turn_of = threading.get_ident()
            while self._waiting and len(batch) < MAX_BATCH:
                batch.append(self._waiting.popleft())
            self._commit(batch)
        except BaseException as error:
            self._disconnect_if_broken()
            for write in batch:
                write.error = (
                    error if isinstance(error, Exception) else StoreUnavailableError("the commit was interrupted")
                )
            if not isinstance(error, Exception):
                raise
        finally:
            self._turn_of = None
            for write in batch:
                write.done = True

    def _commit(self, batch: list[PendingWrite]) -> None:
        if self._closed:
            raise StoreUnavailableError("the store is closed")
        connection = self._connect()
        self._set_sync(any(write.synced for write in batch))
        with connection.begin():
            for write in batch:
                self._execute(write, connection, alone=len(batch) == 1)

    def _execute(self, write: PendingWrite, connection: Connection, *, alone: bool) -> None:
        if alone:
            write.result = write.transaction(connection)
            return
        raw = driver(connection)
        raw.execute("SAVEPOINT write")
        try:
            write.result = write.transaction(connection)
        except Exception as error:
            # On "disk full" and similar errors SQLite has already rolled back everything, other transactions included.
            if not raw.in_transaction:
                raise
            raw.execute("ROLLBACK TO write")
            write.error = error
        raw.execute("RELEASE write")

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
            self._syncs = True
        return self._connection

    def _set_sync(self, wanted: bool) -> None:
        """Set whether the next commit waits for the disk."""
        if wanted is not self._syncs:
            driver(self._connect()).execute(f"PRAGMA synchronous = {'FULL' if wanted else 'NORMAL'}")
            self._syncs = wanted

    def _disconnect_if_broken(self) -> None:
        connection = self._connection
        if connection is not None and (
            connection.invalidated or connection.closed or driver(connection).in_transaction
        ):
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()
