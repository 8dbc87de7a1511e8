"""Group commit: which writes are committed together, and which wait for the disk."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Connection, make_url
from support.servers.base import wait_for

from maintd.clock import SystemClock
from maintd.errors import StoreUnavailableError
from maintd.store.database import driver
from maintd.store.sqlite import SqliteDatabase

FULL, NORMAL = 2, 1


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    made = SqliteDatabase(make_url(f"sqlite:///{tmp_path}/file.db"), SystemClock(), "create")
    made.write(lambda conn: run(conn, "CREATE TABLE words (word TEXT)"))
    yield made
    made.close()


def run(conn: Connection, sql: str, *values: Any) -> Any:
    if not conn.in_transaction():
        conn.begin()
    return driver(conn).execute(sql, values).fetchone()


def level(conn: Connection) -> int:
    return int(run(conn, "PRAGMA synchronous")[0])


def add(word: str) -> Any:
    return lambda conn: run(conn, "INSERT INTO words VALUES (?)", word)


def waiting(database: SqliteDatabase) -> int:
    assert database._group_commit is not None
    return len(database._group_commit._waiting)


def words(database: SqliteDatabase) -> set[str]:
    return set(database.read(lambda conn: driver(conn).execute("SELECT word FROM words").fetchall()))


class Gate:
    """A transaction that lasts until the test ends it, so that other writers wait."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._open = threading.Event()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=lambda: database.write(self._act))
        self._thread.start()
        assert self._begun.wait(5)

    def _act(self, conn: Connection) -> None:
        self._begun.set()
        assert self._open.wait(10)

    def open(self) -> None:
        self._open.set()
        self._thread.join()


class Writers:
    """Threads that each write one transaction, in order, behind the gate; and their results."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._threads: list[threading.Thread] = []
        self.results: dict[int, Any] = {}

    def write(self, call: Any, *, synced: bool = True) -> None:
        number = len(self._threads)

        def work() -> None:
            try:
                self.results[number] = self._database.write(call, synced=synced)
            except BaseException as error:  # noqa: BLE001 - the result to check
                self.results[number] = error

        thread = threading.Thread(target=work)
        self._threads.append(thread)
        thread.start()
        wait_for(lambda: waiting(self._database) == len(self._threads), "its turn")

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


def test_an_unsynced_write_does_not_wait_for_the_disk(database: SqliteDatabase) -> None:
    assert database.write(level, synced=False) == NORMAL
    assert database.write(level) == FULL
    assert database.write(level, synced=False) == NORMAL
    assert database.write(level, synced=False) == NORMAL


def test_waiting_writes_are_committed_together_and_synced_if_one_must_be(database: SqliteDatabase) -> None:
    gate, writers = Gate(database), Writers(database)
    writers.write(level, synced=False)
    writers.write(level)
    gate.open()
    writers.join()
    assert writers.results == {0: FULL, 1: FULL}


def test_a_failing_write_does_not_affect_the_others_of_its_batch(database: SqliteDatabase) -> None:
    gate, writers = Gate(database), Writers(database)

    def fail(conn: Connection) -> None:
        run(conn, "INSERT INTO words VALUES ('undone')")
        raise LookupError("no")

    writers.write(add("one"))
    writers.write(fail)
    writers.write(add("two"))
    gate.open()
    writers.join()
    assert isinstance(writers.results[1], LookupError)
    assert words(database) == {("one",), ("two",)}


def test_after_an_interruption_the_other_writes_raise_a_store_error(database: SqliteDatabase) -> None:
    gate, writers = Gate(database), Writers(database)

    def interrupted(conn: Connection) -> None:
        raise KeyboardInterrupt

    writers.write(interrupted)
    writers.write(add("one"))
    gate.open()
    writers.join()
    kinds = {type(result) for result in writers.results.values()}
    assert kinds == {KeyboardInterrupt, StoreUnavailableError}
    assert words(database) == set()
    database.write(add("later"))
    assert words(database) == {("later",)}


def test_a_transaction_within_a_transaction_is_part_of_it(database: SqliteDatabase) -> None:
    def outer(conn: Connection) -> None:
        database.write(add("inner"))
        raise LookupError("no")

    with pytest.raises(LookupError):
        database.write(outer)
    assert words(database) == set()


def test_concurrent_writers_lose_no_write(database: SqliteDatabase) -> None:
    def work(name: int) -> None:
        for number in range(40):
            database.write(add(f"{name}.{number}"), synced=number % 2 == 0)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert words(database) == {(f"{name}.{number}",) for name in range(12) for number in range(40)}


def test_a_closed_group_commit_refuses_writes(database: SqliteDatabase) -> None:
    gate, writers = Gate(database), Writers(database)
    writers.write(add("waits"))
    closing = threading.Thread(target=database.close)
    closing.start()
    gate.open()
    closing.join(10)
    writers.join()
    assert not closing.is_alive()
    with pytest.raises(StoreUnavailableError, match="closed"):
        database.write(add("late"))
