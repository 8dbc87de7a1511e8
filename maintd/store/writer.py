"""The one thread that writes to SQLite, and commits for everybody who waits.

A durable commit costs an fsync; while one is under way the next writers queue up, and then share a commit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from sqlalchemy.engine import Connection, Engine

from maintd.errors import StoreUnavailableError
from maintd.store.engine import driver

T = TypeVar("T")

MAX_BATCH = 256
"""Most acts in one commit, so that nobody waits for more than some tens of milliseconds."""


class _Job:
    __slots__ = ("act", "error", "future", "result", "synced")

    def __init__(self, act: Callable[[Connection], Any], synced: bool) -> None:
        self.act = act
        self.synced = synced
        self.future: Future[Any] = Future()
        self.result: Any = None
        self.error: Exception | None = None


class GroupCommit:
    """Runs acts one after the other, each undone by itself when it raises, and commits as many as wait at once.

    An act returns to its caller only after its commit is on disk, unless it need not be. When the commit fails, all acts of the batch fail
    with that error. The connection must begin its transactions with BEGIN IMMEDIATE.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._connection: Connection | None = None
        self._syncs = True
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)
        self._thread.start()

    def run(self, act: Callable[[Connection], T], *, synced: bool = True) -> T:
        """The act's result, committed. Raises what the act raised, or what the database said to the commit.

        Not `synced`: it is on the disk with the next commit that is.
        """
        if threading.current_thread() is self._thread:  # an act within an act is part of it
            assert self._connection is not None
            return act(self._connection)
        job = _Job(act, synced)
        with self._closing:
            if self._closed:
                raise StoreUnavailableError("the store is closed")
            self._queue.put(job)
        result: T = job.future.result()
        return result

    def close(self) -> None:
        """Write what waits, then stop."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            batch = [job]
            last = self._drain_into(batch)
            self._commit(batch)
            if last:
                break
        self._disconnect()

    def _drain_into(self, batch: list[_Job]) -> bool:
        while len(batch) < MAX_BATCH:
            try:
                job = self._queue.get_nowait()
            except Empty:
                return False
            if job is None:
                return True
            batch.append(job)
        return False

    def _commit(self, batch: list[_Job]) -> None:
        try:
            connection = self._connected()
            self._sync(any(job.synced for job in batch))
            with connection.begin():
                for job in batch:
                    self._perform(job, connection, alone=len(batch) == 1)
        except BaseException as error:  # noqa: BLE001 - goes to the callers; the thread must outlive it
            self._disconnect_if_broken()
            for job in batch:
                job.future.set_exception(error)
            return
        for job in batch:
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)

    def _perform(self, job: _Job, connection: Connection, *, alone: bool) -> None:
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
