"""A large calendar costs time when it is loaded, not at each iteration of the loop or each sweep."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.engine import Engine
from support.clock import ManualClock
from support.planning import HOUR, MINUTE, NOON, PlanningNode, entry, node
from support.servers.postgres import PostgresServer

from maintd.scheduler.due_queue import DueQueue
from maintd.store.entries import EntryVersion
from maintd.store.prepared import PreparedForValues

MANY = 300


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.server)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/maintd.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = f"t{os.urandom(6).hex()}"
    yield server.create(name)
    server.drop(name)


@pytest.fixture
def many(tmp_path: Path, clock: ManualClock) -> Iterator[PlanningNode]:
    with node(tmp_path, clock, entry(), *(entry(f"yearly-{n}", "0 0 1 1 *") for n in range(MANY))) as it:
        yield it


@contextmanager
def statements() -> Iterator[list[str]]:
    """The SQL statements of all stores inside the block."""
    executed: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_more: object) -> None:
        executed.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield executed
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def test_a_sweep_without_changes_executes_one_query_and_reads_no_entry(many: PlanningNode) -> None:
    with statements() as executed:
        many.planner.sweep()

    assert len([text for text in executed if "FROM entries" in text]) == 1
    assert not any("entries.policy" in text for text in executed)


def test_planning_with_nothing_due_queries_no_entries(many: PlanningNode) -> None:
    with statements() as executed:
        many.planner.plan()

    assert not any("entries" in text for text in executed)


def test_one_due_entry_of_many_gets_its_run_and_no_other_is_read(many: PlanningNode) -> None:
    before = many.store.entries.versions()
    many.clock.advance(10 * MINUTE)

    written = many.planner.plan()

    assert written == 1
    assert [EntryVersion.parse(text).name for text in many.store.entries.versions() - before] == ["tidy"]
    assert many.planner.next_due == NOON + 20 * MINUTE


def test_loading_the_same_calendar_again_writes_no_entry(many: PlanningNode) -> None:
    entries = [entry(), *(entry(f"yearly-{n}", "0 0 1 1 *") for n in range(MANY))]
    many.planner.load(entries)

    with statements() as executed:
        many.planner.load(entries)

    assert not any(text.startswith(("INSERT INTO entries", "UPDATE entries")) for text in executed)
    assert many.planner.next_due == NOON + 10 * MINUTE
    assert many.planner.overruled == frozenset()


def test_the_next_sweep_reads_a_change_by_another_node(tmp_path: Path, clock: ManualClock) -> None:
    rest = [entry(f"yearly-{n}", "0 0 1 1 *") for n in range(MANY)]
    with node(tmp_path, clock, entry(), *rest) as old, node(tmp_path, clock, entry(cron="*/5 * * * *"), *rest[1:]):
        old.planner.sweep()

        assert old.planner.overruled == {"tidy", "yearly-0"}
        assert old.planner.next_due == NOON + 5 * MINUTE


def test_an_entry_whose_change_was_reverted_is_no_longer_overruled(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, entry()) as old, node(tmp_path, clock, entry(cron="*/5 * * * *")) as new:
        old.planner.sweep()
        new.planner.load([entry()])

        old.planner.sweep()

        assert old.planner.overruled == frozenset()
        assert old.planner.next_due == NOON + 10 * MINUTE


def test_an_entry_that_another_node_planned_is_next_due_after_that(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, entry()) as one, node(tmp_path, clock, entry()) as other:
        clock.advance(10 * MINUTE)
        one.planner.plan()

        written = other.planner.sweep()

        assert written == 0
        assert other.planner.next_due == NOON + 20 * MINUTE


def test_versions_contain_the_fingerprint_and_planned_through_of_each_entry(url: str) -> None:
    with node_at(url, ManualClock(NOON + timedelta(microseconds=1)), entry(), entry("other")) as it:
        it.planner.load([entry()])

        versions = {version.name: version for version in map(EntryVersion.parse, it.store.entries.versions())}

        assert {name: version.active for name, version in versions.items()} == {"tidy": True, "other": False}
        states = it.store.entries.states()
        assert versions["tidy"].planned_through == states["tidy"].planned_through
        assert versions["tidy"].fingerprint == states["tidy"].fingerprint


def test_an_empty_store_has_no_versions(url: str) -> None:
    with node_at(url, ManualClock(NOON)) as it:
        assert it.store.entries.versions() == frozenset()


def test_states_of_more_names_than_a_statement_takes_can_be_read(url: str) -> None:
    # SQLite refuses a statement with more than 32,766 parameters.
    with node_at(url, ManualClock(NOON), entry()) as it:
        found = it.store.entries.states([*(f"none-{n}" for n in range(33 * PreparedForValues.MAX_VALUES)), "tidy"])

        assert list(found) == ["tidy"]


@contextmanager
def node_at(url: str, clock: ManualClock, *entries: object) -> Iterator[PlanningNode]:
    """A node with its own store."""
    it = PlanningNode(url, clock, *entries)  # type: ignore[arg-type]
    try:
        yield it
    finally:
        it.store.close()


def test_a_due_queue_keeps_due_names_until_they_get_another_time() -> None:
    queue = DueQueue()
    queue.set("late", NOON + HOUR)
    queue.set("early", NOON)

    assert queue.due(NOON) == queue.due(NOON) == ["early"]
    queue.set("early", NOON + 2 * HOUR)
    assert queue.due(NOON) == []
    assert queue.first == NOON + HOUR


SETS = st.tuples(st.sampled_from("abcd"), st.none() | st.integers(0, 5).map(lambda n: NOON + n * HOUR))


@given(st.lists(SETS, max_size=400), st.integers(0, 5))
def test_a_due_queue_agrees_with_a_plain_dict(sets: list[tuple[str, datetime | None]], hours: int) -> None:
    queue, plain = DueQueue(), dict[str, datetime]()
    for name, at in sets:
        queue.set(name, at)
        if at is None:
            plain.pop(name, None)
        else:
            plain[name] = at
        assert queue.first == min(plain.values(), default=None)

    due = queue.due(NOON + hours * HOUR)

    assert sorted(due) == sorted(name for name, at in plain.items() if at <= NOON + hours * HOUR)
    assert [plain[name] for name in due] == sorted(plain[name] for name in due)
