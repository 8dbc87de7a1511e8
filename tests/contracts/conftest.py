"""Stores on both databases, each test with its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.clock import ManualClock
from support.servers.postgres import PostgresServer

from maintd.store import Store, open_store

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="session")
def store_template(postgres_server: PostgresServer) -> str:
    """The name of a database with maintd's tables, to copy."""
    open_store(postgres_server.create("maintd_template"), clock=ManualClock(NOON), migrate=True).close()
    return "maintd_template"


@pytest.fixture(scope="session")
def store_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with maintd's tables, to copy."""
    path = tmp_path_factory.mktemp("store") / "maintd.db"
    open_store(f"sqlite:///{path}", clock=ManualClock(NOON), migrate=True).close()
    return path


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.server)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database with maintd's tables, once for each kind of database."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("store_file"), tmp_path)
        yield f"sqlite:///{tmp_path}/maintd.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = f"t{os.urandom(6).hex()}"
    yield server.create(name, template=request.getfixturevalue("store_template"))
    server.drop(name)


@pytest.fixture
def open_another(store_url: str, clock: ManualClock) -> Iterator[Callable[[], Store]]:
    """Opens further stores on the same database, like other processes."""
    opened: list[Store] = []

    def open_one() -> Store:
        opened.append(open_store(store_url, clock=clock, migrate=False))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_another: Callable[[], Store]) -> Store:
    return open_another()
