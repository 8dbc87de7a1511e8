"""`reindex` on a real Postgres: what is rebuilt, what prevents it, and what an interruption leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.databases import Database, database
from support.job_runs import run_job
from support.servers.base import free_port, wait_for
from support.servers.postgres import PostgresServer

from maintd.checks.postgres.indexes import Density, Index, duplicates, is_leftover_of
from maintd.checks.postgres.reindex import (
    DROP_TRIES,
    STOPPED_LOCK_TIMEOUT,
    DiskSpace,
    Marker,
    candidates,
    differences,
    disk_obstacle,
    gain,
    marked_comment,
    own_leftovers,
    parse_marker,
)
from maintd.config.settings import Settings
from maintd.model.evidence import CheckStatus

MB = 1024 * 1024
SMALL = {"min_size": "500kB", "lock_timeout": "400ms"}


@pytest.fixture
def db(postgres_server: PostgresServer) -> Iterator[Database]:
    with database(postgres_server) as made:
        made.run("CREATE EXTENSION pgstattuple")
        yield made


def bloated(db: Database, table: str = "events", index: str = "events_pkey", rows: int = 40_000) -> int:
    """A table whose primary key's pages are a tenth full; the size of the key's index."""
    db.run(
        f"CREATE TABLE {table} (id bigint CONSTRAINT {index} PRIMARY KEY, note text) WITH (autovacuum_enabled = false)",
        f"INSERT INTO {table} SELECT n, 'x' FROM generate_series(1, {rows}) n",
        f"DELETE FROM {table} WHERE id % 10 <> 0",
    )
    db.run(f"VACUUM ANALYZE {table}")
    return size(db, index)


def size(db: Database, index: str) -> int:
    return int(db.ask(f"SELECT pg_relation_size('{index}')"))


def invalid(db: Database) -> set[str]:
    return set(
        db.ask("SELECT coalesce(array_agg(indexrelid::regclass::text), '{}') FROM pg_index WHERE NOT indisvalid")
    )


def comment(db: Database, index: str = "events_pkey") -> str | None:
    text: str | None = db.ask(f"SELECT obj_description('{index}'::regclass, 'pg_class')")
    return text


def interrupted(db: Database, index: str = "events_pkey") -> None:
    """What another client's rebuild leaves when it runs into a lock timeout."""
    with (
        db.session("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM pg_class"),
        psycopg.connect(db.url, autocommit=True) as conn,
        pytest.raises(psycopg.errors.LockNotAvailable),
    ):
        conn.execute("SET lock_timeout = '200ms'")
        conn.execute(f"REINDEX INDEX CONCURRENTLY {index}".encode())


# --- the decisions ------------------------------------------------------------------------------------------------

INDEX = Index(
    oid=10,
    table_oid=1,
    schema="public",
    name="t_pkey",
    table_name="t",
    owner="app",
    method="btree",
    size_bytes=100 * MB,
    rows=1e6,
    valid=True,
    is_unique=True,
    is_primary=True,
    is_exclusion=False,
    is_part=False,
    temporary=False,
    columns=1,
    constraint_name="t_pkey",
    definition="CREATE …",
    scans=5,
    signature="1|btree|1",
    building=False,
    permitted=True,
    comment=None,
    fillfactor=90,
)


@settings(max_examples=50)
@given(st.none() | st.text(min_size=1), st.frozensets(st.integers(1, 2**32 - 1)))
def test_a_mark_is_read_back_and_gives_the_owners_comment_unchanged(own: str | None, before: frozenset[int]) -> None:
    text = marked_comment(Marker(own, before), datetime(2026, 11, 24, tzinfo=UTC))

    assert parse_marker(text) == Marker(own, before)


@pytest.mark.parametrize("text", [None, "", "the owner's words", "[maintd rebuilds this index since", "[maintd] x"])
def test_other_comments_are_no_mark(text: str | None) -> None:
    assert parse_marker(text) is None


@pytest.mark.parametrize(
    ("name", "base", "is_one"),
    [
        ("t_pkey_ccnew", "t_pkey", True),
        ("t_pkey_ccold", "t_pkey", True),
        ("t_pkey_ccnew12", "t_pkey", True),
        ("t_pkey_ccnewer", "t_pkey", False),
        ("t_pkey_ccnew", "t_pk", False),
        ("t_pkey", "t_pkey", False),
        ("a" * 57 + "_ccnew", "a" * 63, True),  # 63 bytes in all
        ("a" * 56 + "_ccnew1", "a" * 63, True),
        ("é" * 28 + "_ccnew", "é" * 31, True),  # 57 bytes of room hold 28 letters of two
        ("a" * 57 + "_ccnew", "a" * 56 + "b", False),
    ],
)
def test_a_leftover_is_known_by_its_name(name: str, base: str, is_one: bool) -> None:
    assert is_leftover_of(name, base) is is_one


def test_a_leftover_is_ours_only_when_it_was_not_there_before() -> None:
    base = replace(INDEX, comment="marked")
    before = replace(INDEX, oid=11, name="t_pkey_ccnew", valid=False)
    ours = replace(INDEX, oid=12, name="t_pkey_ccnew1", valid=False)
    elsewhere = replace(ours, oid=13, table_oid=2)
    healthy = replace(ours, oid=14, valid=True)

    assert own_leftovers([base, before, ours, elsewhere, healthy], base, Marker(None, frozenset({11}))) == [ours]


def test_only_what_a_concurrent_rebuild_can_do_is_a_candidate() -> None:
    others = [
        replace(INDEX, oid=2, method="gin"),
        replace(INDEX, oid=3, valid=False),
        replace(INDEX, oid=4, is_exclusion=True),
        replace(INDEX, oid=5, temporary=True),
        replace(INDEX, oid=6, building=True),
        replace(INDEX, oid=7, size_bytes=9 * MB),
    ]
    larger = replace(INDEX, oid=8, size_bytes=200 * MB)

    assert candidates([INDEX, *others, larger], 10 * MB) == [larger, INDEX]


def test_the_gain_is_what_is_missing_to_the_fill_factor() -> None:
    assert gain(INDEX, Density(45.0, measured=True)) == 50 * MB
    assert gain(INDEX, Density(95.0, measured=True)) == 0


@pytest.mark.parametrize(
    ("free", "in_the_way"),
    [(400 * MB, False), (399 * MB, True), (0, True)],  # 3 × 100 MB, and 10 % of 1000 MB must be left
)
def test_a_rebuild_needs_three_times_the_index_and_a_tenth_of_the_disk(free: int, in_the_way: bool) -> None:
    assert bool(disk_obstacle(DiskSpace(free, 1000 * MB), 100 * MB, 0)) is in_the_way


def test_a_disk_out_of_sight_allows_only_small_rebuilds() -> None:
    assert disk_obstacle(None, 100 * MB, 100 * MB) == ""
    assert "not accessible from here" in disk_obstacle(None, 101 * MB, 100 * MB)


def test_differences_after_a_rebuild_are_named() -> None:
    after = replace(INDEX, oid=20, valid=False, constraint_name=None)

    assert differences(INDEX, replace(INDEX, oid=20)) == []
    assert differences(INDEX, after) == ["it is invalid", "its constraint was t_pkey and is None"]
    assert differences(INDEX, None) == ["it no longer exists"]
    assert differences(INDEX, INDEX) == ["it was not rebuilt"]


def test_of_two_equal_indexes_the_one_without_a_constraint_can_go() -> None:
    spare = replace(INDEX, oid=5, constraint_name=None, is_unique=False)

    assert duplicates([spare, INDEX]) == [(spare, INDEX)]


# --- on a real server ---------------------------------------------------------------------------------------------


@pytest.mark.server
def test_a_bloated_index_is_rebuilt_small_whole_and_with_its_constraint(db: Database) -> None:
    before = bloated(db)
    db.run("CREATE EXTENSION amcheck", "COMMENT ON INDEX events_pkey IS 'the owner''s words'")

    result = db.job("reindex", SMALL)

    assert result.outcome == "succeeded", result.text()
    assert size(db, "events_pkey") < before / 4
    assert result.measure("pg_reindex_bytes_saved") == before - size(db, "events_pkey")
    assert result.check("main: rebuild of public.events_pkey, whole").observed == "whole"
    assert (
        db.ask("SELECT conindid::regclass::text FROM pg_constraint WHERE conrelid = 'events'::regclass")
        == "events_pkey"
    )
    assert comment(db) == "the owner's words"
    assert invalid(db) == set()
    assert [(c.action, c.target) for c in result.changes] == [("reindex", "main: public.events_pkey")]


@pytest.mark.server
def test_full_indexes_are_left_alone(db: Database) -> None:
    db.run("CREATE TABLE t (id bigint PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 40000)")

    result = db.job("reindex", SMALL)

    assert (result.outcome, result.changes) == ("succeeded", [])
    assert result.measure("pg_index_leaf_density", index="public.t_pkey") > 80


@pytest.mark.server
def test_a_dry_run_records_the_gain_and_changes_nothing(db: Database) -> None:
    before = bloated(db)
    oid = db.ask("SELECT 'events_pkey'::regclass::oid::bigint")

    result = db.job("reindex", SMALL, dry_run=True)

    [change] = result.changes
    assert (change.done, change.target) == (False, "main: public.events_pkey")
    assert float(str(change.details["density"])) < 15
    assert db.ask("SELECT 'events_pkey'::regclass::oid::bigint") == oid
    assert (size(db, "events_pkey"), comment(db)) == (before, None)


@pytest.mark.server
def test_odd_and_long_names_are_rebuilt_and_parents_are_not_touched(db: Database) -> None:
    long = "ö" * 31
    bloated(db, '"Odd ""T"""', '"Odd ""Key"" %s"')
    bloated(db, "long", f'"{long}"')
    db.run(
        "CREATE TABLE parts (id bigint PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100000)",
        "INSERT INTO parts SELECT generate_series(1, 40000)",
        "DELETE FROM parts WHERE id % 10 <> 0",
    )
    db.run("VACUUM parts_1")

    result = db.job("reindex", SMALL)

    assert {change.target for change in result.changes} == {
        'main: public.Odd "Key" %s',
        f"main: public.{long}",
        "main: public.parts_1_pkey",
    }
    assert {check.observed for check in result.named("rebuild of")} == {"rebuilt"}, result.text()


@pytest.mark.server
def test_at_most_so_many_are_rebuilt_and_the_rest_is_counted(db: Database) -> None:
    bloated(db, "large", "large_pkey", rows=60_000)
    bloated(db, "small", "small_pkey")

    result = db.job("reindex", {**SMALL, "max_indexes": 1})

    assert [change.target for change in result.changes] == ["main: public.large_pkey"]
    left = result.check("main: indexes left for the next run")
    assert (left.observed, left.hint) == (1, "next: public.small_pkey")


@pytest.mark.server
def test_without_ownership_it_fails_and_names_the_grant(db: Database) -> None:
    bloated(db)

    result = db.job("reindex", SMALL, as_role=db.role("other", "pg_monitor"))

    check = result.check("main: rebuild of public.events_pkey")
    assert (check.status, check.hint) == (CheckStatus.FAIL, 'GRANT "postgres" TO the target\'s user')


@pytest.mark.server
def test_a_member_of_the_owner_with_pg_monitor_needs_nothing_else(db: Database) -> None:
    before = bloated(db)
    owner = db.role("owner")
    db.run(f'ALTER TABLE events OWNER TO "{owner}"')

    result = db.job("reindex", SMALL, as_role=db.role("op", "pg_monitor", f'"{owner}"'))

    assert result.check("main: rebuild of public.events_pkey").observed == "rebuilt", result.text()
    assert size(db, "events_pkey") < before / 4


@pytest.mark.server
def test_without_pgstattuple_an_estimate_warns_and_acts_only_when_it_is_trusted(db: Database) -> None:
    before = bloated(db)
    db.run("DROP EXTENSION pgstattuple")

    doubtful = db.job("reindex", SMALL)
    unchanged = size(db, "events_pkey")
    trusted = db.job("reindex", {**SMALL, "trust_estimate": True})

    assert doubtful.check("main: indexes that seem bloated").status is CheckStatus.WARN
    # A tenth of pages that were 90 % full.
    assert "public.events_pkey (9 %)" in doubtful.check("main: indexes that seem bloated").hint
    assert unchanged == before
    assert trusted.check("main: rebuild of public.events_pkey").observed == "rebuilt"


@pytest.mark.server
def test_what_can_neither_be_measured_nor_estimated_is_unknown(db: Database) -> None:
    bloated(db)
    db.run("DROP EXTENSION pgstattuple")

    result = db.job("reindex", SMALL, as_role=db.role("blind", "pg_monitor"))  # sees no row of pg_stats

    assert result.check("main: how full indexes are").status is CheckStatus.UNKNOWN


@pytest.mark.server
def test_an_old_transaction_puts_the_rebuild_off_and_is_named(db: Database) -> None:
    bloated(db)
    with db.session("SELECT 1", name="forgotten") as holder:
        pid = holder.info.backend_pid

        result = db.job("reindex", {**SMALL, "old_transaction": "1ms"})

    check = result.check("main: rebuild of public.events_pkey")
    assert check.status is CheckStatus.WARN
    assert f"postponed: a transaction has been open for too long: pid {pid} (forgotten" in str(check.observed)
    assert result.changes == []


@pytest.mark.server
def test_a_locked_table_and_an_inactive_slot_postpone_a_rebuild(own_postgres: PostgresServer) -> None:
    own_postgres.create("app")
    db = Database(own_postgres, "app")
    db.run("CREATE EXTENSION pgstattuple")
    bloated(db)
    with db.session("LOCK events IN ACCESS EXCLUSIVE MODE", name="migration"):
        locked = db.job("reindex", SMALL)
    db.run("SELECT pg_create_physical_replication_slot('standby_gone', true)")
    slot = db.job("reindex", SMALL)

    name = "main: rebuild of public.events_pkey"
    assert "postponed: another session has locked the table: pid" in str(locked.check(name).observed)
    assert 'inactive slot "standby_gone"' in str(slot.check(name).observed)


@pytest.mark.server
def test_a_disk_that_is_too_full_puts_it_off(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    bloated(db)
    monkeypatch.setattr("maintd.checks.postgres.reindex.MIN_FREE_SHARE", 1.0)  # no real disk is emptier

    result = db.job("reindex", SMALL)

    assert "postponed: the disk has" in str(result.check("main: rebuild of public.events_pkey").observed)


@pytest.mark.server
def test_a_rebuild_that_waits_too_long_is_stopped_and_leaves_nothing(db: Database) -> None:
    before = bloated(db)
    db.run("CREATE TABLE elsewhere (n int)")
    with db.session("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM elsewhere") as holder:
        pid = holder.info.backend_pid

        result = db.job("reindex", {**SMALL, "lock_timeout": "1500ms"})

        check = result.check("main: rebuild of public.events_pkey")
        assert check.status is CheckStatus.WARN, result.text()
        assert f"it waited for pid {pid}" in str(check.observed)
        assert result.check("main: leftover public.events_pkey_ccnew").observed == "dropped"
        assert (invalid(db), comment(db), size(db, "events_pkey")) == (set(), None, before)


@pytest.mark.server
@pytest.mark.parametrize(
    ("isolation", "statement", "limits", "leftover", "told"),
    [
        # A snapshot is waited for before the swap, a lock of a reader after it, that of a writer before anything.
        ("REPEATABLE READ", "SELECT count(*) FROM events", {}, "events_pkey_ccnew", "stopped: "),
        ("READ COMMITTED", "SELECT count(*) FROM events", {}, "events_pkey_ccold", "rebuilt"),
        ("READ COMMITTED", "INSERT INTO events VALUES (-1, 'open')", {}, "events_pkey_ccnew", "stopped: "),
        ("READ COMMITTED", "UPDATE events SET note = 'y' WHERE id = 10", {}, "events_pkey_ccnew", "stopped: "),
        ("READ COMMITTED", "SELECT * FROM events WHERE id = 10 FOR UPDATE", {}, "events_pkey_ccold", "rebuilt"),
        (
            "READ COMMITTED",
            "DELETE FROM events WHERE id = 10",
            {"budget": "2s", "lock_timeout": "4s"},
            "events_pkey_ccnew",
            "stopped: ",
        ),
    ],
)
def test_a_leftover_that_cannot_be_dropped_yet_fails_and_is_dropped_by_the_next_run(
    db: Database, isolation: str, statement: str, limits: dict[str, str], leftover: str, told: str
) -> None:
    before = bloated(db)
    db.run("COMMENT ON INDEX events_pkey IS 'mine'")
    with db.session(f"SET TRANSACTION ISOLATION LEVEL {isolation}", statement) as user:
        first = db.job("reindex", {**SMALL, **limits})
        pid = user.info.backend_pid
        kept = invalid(db)
        marked = comment(db)

    second = db.job("reindex", SMALL)

    check = first.check(f"main: leftover public.{leftover}")
    assert check.status is CheckStatus.FAIL
    assert f'DROP INDEX CONCURRENTLY "public"."{leftover}"' in check.hint
    assert f"in use by pid {pid} (app, user postgres, idle in transaction" in str(check.observed)
    assert str(first.check("main: rebuild of public.events_pkey").observed).startswith(told), first.text()
    assert kept == {leftover}
    assert str(marked).startswith("mine\n[maintd rebuilds this index since ")
    assert second.check(f"main: leftover public.{leftover}").observed == "dropped"
    assert second.outcome == "succeeded", second.text()
    assert (invalid(db), comment(db)) == (set(), "mine")
    assert size(db, "events_pkey") < before / 4


@pytest.mark.server
def test_the_leftovers_of_other_clients_are_reported_and_never_dropped(db: Database) -> None:
    bloated(db)
    interrupted(db)

    result = db.job("reindex", SMALL)

    assert invalid(db) == {"events_pkey_ccnew"}
    assert "public.events_pkey_ccnew" in result.check("main: invalid indexes").hint
    assert "an earlier rebuild has left public.events_pkey_ccnew" in str(
        result.check("main: rebuild of public.events_pkey").observed
    )
    assert result.changes == []


@pytest.mark.server
def test_the_server_names_leftovers_of_long_names_as_we_expect(db: Database) -> None:
    names = ["a" * 63, "ä" * 31, "x" + "€" * 20]
    for number, name in enumerate(names):
        db.run(f"CREATE TABLE t{number} (n int)", f'CREATE INDEX "{name}" ON t{number} (n)')
        interrupted(db, f'"{name}"')
        interrupted(db, f'"{name}"')  # its leftover has to be numbered

    left = db.ask(
        "SELECT array_agg(c.relname::text ORDER BY c.oid) FROM pg_index i JOIN pg_class c"
        " ON c.oid = indexrelid WHERE NOT indisvalid"
    )

    assert [[is_leftover_of(each, name) for each in left] for name in names] == [
        [True, True, False, False, False, False],
        [False, False, True, True, False, False],
        [False, False, False, False, True, True],
    ], left


RUN = """
import json, signal, sys
from support.job_runs import run_job

class Stopped(BaseException):
    pass

def stop(number, frame):
    raise Stopped

signal.signal(signal.SIGTERM, stop)  # as in an attempt's process
run_job("reindex", *json.loads(sys.argv[1]), at_report=lambda item: print(item, flush=True))
"""


@contextmanager
def waiting_rebuild(
    db: Database, folder: Path, holding: str = "SELECT count(*) FROM elsewhere"
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the middle of a rebuild, which waits for a transaction that is open until the end of the `with`."""
    db.run("CREATE TABLE elsewhere (n int)")
    order = json.dumps([{"min_size": "500kB", "lock_timeout": "60s"}, {"postgres": {"main": {"dsn": db.url}}}])
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    waiting = "SELECT current_locker_pid FROM pg_stat_progress_create_index WHERE datname = current_database()"
    with db.session("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", holding):
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, order],
            env=environ,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(lambda: db.ask(waiting), "the rebuild to wait for the snapshot")
            yield process
        finally:
            process.kill()
            process.communicate()
        gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'maintd:reindex'"
        wait_for(lambda: db.ask(f"{gone} AND datname = current_database()"), "the server to notice the end")


@pytest.mark.server
def test_after_a_kill_the_next_run_knows_and_drops_what_the_killed_one_left(db: Database, tmp_path: Path) -> None:
    before = bloated(db)
    db.run("COMMENT ON INDEX events_pkey IS 'mine'")
    with waiting_rebuild(db, tmp_path) as process:
        db.run("INSERT INTO events VALUES (-1, 'written while it waits')")
        process.send_signal(signal.SIGKILL)
        process.wait()
    left, marked = invalid(db), comment(db)

    result = db.job("reindex", SMALL)

    assert left == {"events_pkey_ccnew"}
    assert "[maintd rebuilds this index since" in str(marked)
    assert result.check("main: leftover public.events_pkey_ccnew").observed == "dropped"
    assert [change.action for change in result.changes] == ["drop index", "reindex"]
    assert (invalid(db), comment(db)) == (set(), "mine")
    assert size(db, "events_pkey") < before / 4


@pytest.mark.server
def test_a_rebuild_that_is_stopped_from_outside_leaves_nothing(db: Database, tmp_path: Path) -> None:
    bloated(db)
    db.run("COMMENT ON INDEX events_pkey IS 'mine'")

    with waiting_rebuild(db, tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        process.wait(10)

        assert (invalid(db), comment(db)) == (set(), "mine")


@pytest.mark.server
def test_a_rebuild_that_is_stopped_beside_a_writer_names_what_it_leaves_within_the_grace_period(
    db: Database, tmp_path: Path
) -> None:
    bloated(db)
    with waiting_rebuild(db, tmp_path, "INSERT INTO events VALUES (-1, 'open')") as process:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=100)  # less than the tries of a rebuild that is not stopped
        left = invalid(db)

    second = db.job("reindex", SMALL)

    assert left == {"events_pkey_ccnew"}
    assert 'DROP INDEX CONCURRENTLY "public"."events_pkey_ccnew"' in out.decode()
    assert Settings.model_fields["grace"].default > DROP_TRIES * STOPPED_LOCK_TIMEOUT
    assert second.check("main: leftover public.events_pkey_ccnew").observed == "dropped"
    assert (invalid(db), comment(db)) == (set(), None)


@pytest.mark.server
def test_a_dry_run_names_what_a_killed_run_has_left_and_drops_nothing(db: Database) -> None:
    bloated(db)
    mark = marked_comment(Marker("mine", frozenset()), datetime.now(UTC))
    db.run(f"COMMENT ON INDEX events_pkey IS '{mark}'")
    interrupted(db)

    result = db.job("reindex", SMALL, dry_run=True)

    assert [(c.action, c.target, c.done) for c in result.changes] == [
        ("drop index", "main: public.events_pkey_ccnew", False)
    ]
    assert (invalid(db), comment(db)) == ({"events_pkey_ccnew"}, mark)


@pytest.mark.server
def test_a_target_that_is_down_fails_and_the_other_is_done(db: Database) -> None:
    bloated(db)
    down = {"dsn": f"postgresql://postgres@127.0.0.1:{free_port()}/x"}

    result = run_job("reindex", SMALL, {"postgres": {"down": down, "main": {"dsn": db.url}}})

    assert str(result.check("down: maintained").observed).startswith("refused: down:")
    assert result.check("main: rebuild of public.events_pkey").observed == "rebuilt"
