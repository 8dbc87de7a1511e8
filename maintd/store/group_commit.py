"""One writer at a time to SQLite, who commits for everybody that waits.

A durable commit costs an fsync; while one is under way the next writers queue up, and whoever of them has the turn
next commits for all of them.
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
"""Most acts in one commit, so that nobody waits for more than some tens of milliseconds."""


class PendingWrite:
    __slots__ = ("act", "done", "error", "result", "synced")

    def __init__(self, act: Callable[[Connection], Any], synced: bool) -> None:
        self.act = act
        self.synced = synced
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None


class GroupCommit:
    """Runs acts one after the other, each undone by itself when it raises, and commits as many as wait at once.

    An act returns to its caller only after its commit is on disk, unless it need not be. When the commit fails, all
    acts of the batch fail with that error. The connection must begin its transactions with BEGIN IMMEDIATE. It has no
    thread of its own: a lone writer's commit is made in the writer's thread, without any hand-over.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: deque[PendingWrite] = deque()
        self._turn = threading.Lock()
        self._whose: int | None = None  # the thread that has the turn
        self._closed = False
        self._connection: Connection | None = None
        self._syncs = True

    def run(self, act: Callable[[Connection], T], *, synced: bool = True) -> T:
        """The act's result, committed. Raises what the act raised, or what the database said to the commit.

        Not `synced`: it is on the disk with the next commit that is.
        """
        if self._whose == threading.get_ident():  # an act within an act is part of it
            assert self._connection is not None
            return act(self._connection)
        job = PendingWrite(act, synced)
        self._waiting.append(job)
        while not job.done:
            with self._turn:
                if not job.done:
                    self._take_turn()
        if job.error is not None:
            raise job.error
        return cast(T, job.result)

    def close(self) -> None:
        """Write what waits; refuse what comes after it."""
        with self._turn:
            while self._waiting:
                self._take_turn()
            self._closed = True
            self._disconnect()

    def _take_turn(self) -> None:
        batch: list[PendingWrite] = []
        try:
            self._whose = threading.get_ident()
            while self._waiting and len(batch) < MAX_BATCH:
                batch.append(self._waiting.popleft())
            self._commit(batch)
        except BaseException as error:
            self._disconnect_if_broken()
            for job in batch:
                job.error = (
                    error if isinstance(error, Exception) else StoreUnavailableError("the writer was interrupted")
                )
            if not isinstance(error, Exception):
                raise
        finally:
            self._whose = None
            for job in batch:
                job.done = True

    def _commit(self, batch: list[PendingWrite]) -> None:
        if self._closed:
            raise StoreUnavailableError("the store is closed")
        connection = self._connected()
        self._sync(any(job.synced for job in batch))
        with connection.begin():
            for job in batch:
                self._perform(job, connection, alone=len(batch) == 1)

    def _perform(self, job: PendingWrite, connection: Connection, *, alone: bool) -> None:
        if alone:
            job.result = job.act(connection)
            return
        raw = driver(connection)
        raw.execute("SAVEPOINT act")
        try:
            job.result = job.act(connection)
        except Exception as error:
            # After "disk full" and the like SQLite has undone the whole transaction by itself: nothing of it stands.
            if not raw.in_transaction:
                raise
            raw.execute("ROLLBACK TO act")
            job.error = error
        raw.execute("RELEASE act")

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
            self._syncs = True
        return self._connection

    def _sync(self, wanted: bool) -> None:
        """Whether the next commits wait for the disk."""
        if wanted is not self._syncs:
            driver(self._connected()).execute(f"PRAGMA synchronous = {'FULL' if wanted else 'NORMAL'}")
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
