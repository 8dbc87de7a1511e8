"""The store fails and recovers: no write is applied in part, and calls succeed again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from support.clock import ManualClock
from support.servers.base import wait_for
from support.servers.disks import small_disk
from support.servers.postgres import PostgresServer
from support.stores import NOON, at, check, claim, ended, evidence, queue, run_concurrently

from maintd.errors import MaintdError, StoreUnavailableError
from maintd.model.evidence import LogLine
from maintd.model.run import RunState
from maintd.store import Store, open_store
from maintd.store.postgres import PING_AFTER


def eventually(call: Callable[[], object], seconds: float = 15) -> None:
    """Repeat the call until it raises nothing."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            call()
            return
        except StoreUnavailableError:
            if time.monotonic() > deadline:
                raise
            threading.Event().wait(0.05)


@pytest.fixture(name="small_disk")
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "4m") as folder:
        yield folder


def test_a_full_disk_raises_and_the_store_is_intact_when_there_is_room_again(small_disk: Path) -> None:
    store = open_store(f"sqlite:///{small_disk}/maintd.db", clock=ManualClock(NOON), migrate=True)
    run = claim(store, queue(store, "vacuum"), 0)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 1_500_000)
    text = "y" * 10_000
    applied = 0

    with pytest.raises(StoreUnavailableError):
        while True:
            items = [LogLine(seq=applied * 10 + n, at=at(1), stream="log", text=text) for n in range(1, 11)]
            writes = evidence(*items) if applied == 0 else evidence(*items)[2:3]
            assert store.runs.apply(run.id, 1, 1 if applied == 0 else applied + 5, writes)
            applied += 1
    ballast.unlink()
    settled = store.runs.apply(run.id, 1, applied + 5, [*evidence(check("x"))[2:3], ended(RunState.SUCCEEDED, 3)])

    kept = store.history.run(run.id)
    assert settled and kept.state == RunState.SUCCEEDED
    assert kept.steps[0].attempts[0].log_lines == applied * 10 == len(store.history.log(run.id, limit=10_000))
    assert store.maintenance.check() == []
    store.close()


def test_writers_that_share_a_commit_each_get_their_own_result(store: Store) -> None:
    names = [f"e{n}" for n in range(24)]

    def call(name: str) -> object:
        if name == "e7":
            try:
                return store.entries.pause("nobody", why="", by="", until=None, now=at(0))
            except MaintdError as error:
                return error
        return queue(store, name)

    answers = run_concurrently([lambda name=name: call(name) for name in names])

    assert isinstance(answers.pop(7), MaintdError)
    assert len(set(answers)) == 23
    assert len(store.history.runs(limit=100)) == 23


@pytest.fixture
def outlasting(own_postgres: PostgresServer) -> Iterator[Store]:
    """A store whose server the test stops."""
    store = open_store(own_postgres.create("maintd"), clock=ManualClock(NOON), migrate=True)
    yield store
    store.close()


@pytest.mark.server
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_stopped_postgres_raises_at_once_and_is_used_again_after_its_restart(
    own_postgres: PostgresServer, outlasting: Store, mode: str
) -> None:
    run = claim(outlasting, queue(outlasting, "vacuum"), 0)
    own_postgres.stop(mode)

    started = time.monotonic()
    for call in (
        outlasting.ping,
        outlasting.now,
        lambda: outlasting.runs.claimable(at(0)),
        lambda: outlasting.runs.renew(run.id, 1, at(9)),
        lambda: outlasting.runs.apply(run.id, 1, 1, evidence(check("x"))),
    ):
        with pytest.raises(StoreUnavailableError):
            call()
    took = time.monotonic() - started
    own_postgres.start()
    eventually(outlasting.ping)

    assert took < 30  # five calls that each waited for its timeout take longer
    assert outlasting.runs.apply(run.id, 1, 1, [*evidence(check("x")), ended(RunState.SUCCEEDED, 3)])
    assert outlasting.history.run(run.id).state == RunState.SUCCEEDED


@pytest.mark.server
def test_an_outage_during_many_writes_applies_each_write_once(own_postgres: PostgresServer, outlasting: Store) -> None:
    runs = [claim(outlasting, queue(outlasting, f"e{n}"), 0) for n in range(4)]
    reached = [0] * len(runs)

    def write(n: int) -> None:
        writes = evidence(*(check(f"c{n}") for n in range(1)))
        while reached[n] < 40:
            seq = reached[n] + 1
            part = writes[:3] if seq == 1 else writes[2:3]
            first = 1 if seq == 1 else seq + 2
            try:
                assert outlasting.runs.apply(runs[n].id, 1, first, part)
            except StoreUnavailableError:
                threading.Event().wait(0.02)
                continue
            reached[n] = seq

    threads = [threading.Thread(target=write, args=(n,)) for n in range(len(runs))]
    for thread in threads:
        thread.start()
    while sum(reached) < 40:
        threading.Event().wait(0.005)
    own_postgres.stop("immediate")
    own_postgres.start()
    for thread in threads:
        thread.join(timeout=60)

    for run in runs:
        assert len(outlasting.history.run(run.id).steps[0].attempts[0].checks) == 40


@pytest.mark.server
def test_connecting_to_a_hanging_postgres_times_out(own_postgres: PostgresServer) -> None:
    url = own_postgres.create("maintd")
    open_store(url, clock=ManualClock(NOON), migrate=True).close()
    pid = int((own_postgres.folder / "data/postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGSTOP)

    started = time.monotonic()
    try:
        with pytest.raises(StoreUnavailableError):
            open_store(url, clock=ManualClock(NOON), migrate=False)
    finally:
        os.kill(pid, signal.SIGCONT)

    assert time.monotonic() - started < 60  # without the timeout it never ends


@pytest.mark.server
@pytest.mark.parametrize("idle", [0.0, PING_AFTER + 0.3], ids=["in the middle of work", "after a rest"])
def test_lost_connections_are_replaced_without_an_error(
    own_postgres: PostgresServer, outlasting: Store, idle: float
) -> None:
    cutter = psycopg.connect(own_postgres.url("maintd"), autocommit=True)

    def sessions(what: str) -> int:
        found = cutter.execute(f"SELECT {what} FROM pg_stat_activity WHERE application_name = 'maintd'").fetchone()
        assert found is not None
        return int(found[0])

    def cut() -> None:
        run_concurrently([outlasting.ping for _ in range(3)])  # several connections are open
        assert sessions("count(pg_terminate_backend(pid))") >= 1
        wait_for(lambda: sessions("count(*)") == 0, "the end of all sessions")
        time.sleep(idle)  # the rest itself, after which a connection is tried

    cut()
    assert outlasting.history.runs() == []
    cut()
    run_id = queue(outlasting, "vacuum")
    cut()
    assert claim(outlasting, run_id, 0).id == run_id
    cutter.close()

    assert [run.id for run in outlasting.history.runs()] == [run_id]
