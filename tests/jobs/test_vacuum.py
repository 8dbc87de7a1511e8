"""`vacuum` on a real Postgres: what is over its threshold, what cannot be done and who is to blame."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from support.databases import Database, database
from support.job_runs import JobResult, run_job
from support.servers.base import free_port, wait_for
from support.servers.postgres import PostgresServer

from maintd.checks.postgres.autovacuum import Autovacuum, need
from maintd.checks.postgres.indexes import indexes
from maintd.checks.postgres.tables import Bloat, Table, tables
from maintd.checks.postgres.wraparound import age_limits
from maintd.clients.postgres import Postgres, connect
from maintd.model.evidence import ChangeState, CheckStatus
from maintd.model.target import PostgresTarget

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
PLAIN = "WITH (autovacuum_enabled = false)"  # so that only the job vacuums it


@pytest.fixture
def db(postgres_server: PostgresServer) -> Iterator[Database]:
    with database(postgres_server) as made:
        yield made


def bloated(db: Database, name: str = "events", rows: int = 50_000, keep_each: int = 10) -> None:
    """A table with most of its rows dead: 90 % by default."""
    db.run(
        f"CREATE TABLE {name} (id bigint PRIMARY KEY, payload text) {PLAIN}",
        f"INSERT INTO {name} SELECT n, md5(n::text) FROM generate_series(1, {rows}) n",
        f"ANALYZE {name}",
        f"DELETE FROM {name} WHERE id % {keep_each} <> 0",
    )


def dead(db: Database, name: str = "events") -> int:
    return int(db.ask(f"SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = '{name}'::regclass"))


# --- the decision -------------------------------------------------------------------------------------------------

SERVER = Autovacuum(
    {
        "autovacuum": "on",
        "track_counts": "on",
        "autovacuum_max_workers": "3",
        "autovacuum_vacuum_threshold": "50",
        "autovacuum_vacuum_scale_factor": "0.2",
        "autovacuum_vacuum_insert_threshold": "1000",
        "autovacuum_vacuum_insert_scale_factor": "0.2",
        "autovacuum_analyze_threshold": "50",
        "autovacuum_analyze_scale_factor": "0.1",
        "autovacuum_freeze_max_age": "200000000",
        "autovacuum_multixact_freeze_max_age": "400000000",
    },
    workers=0,
)
QUIET = Table(
    oid=1,
    schema="public",
    name="t",
    owner="app",
    permitted=True,
    rows=1000,
    size_bytes=1_000_000,
    dead=0,
    live=1000,
    mods=0,
    inserts=0,
    vacuumed_at=None,
    analyzed_at=NOW - timedelta(days=1),
    xid_age=10,
    mxid_age=0,
)


@pytest.mark.parametrize(
    ("changes", "vacuum", "analyze", "freeze"),
    [
        ({}, False, False, False),
        ({"dead": 250}, False, False, False),  # 50 + 0.2 × 1000: at the threshold is not over it
        ({"dead": 251}, True, False, False),
        ({"dead": 51, "options": {"autovacuum_vacuum_scale_factor": "0"}}, True, False, False),
        ({"dead": 9000, "options": {"autovacuum_vacuum_threshold": "10000"}}, False, False, False),
        ({"rows": -1.0, "dead": 51}, True, False, False),  # never counted: the base alone
        ({"inserts": 1201}, True, False, False),
        ({"inserts": 9999, "options": {"autovacuum_vacuum_insert_threshold": "-1"}}, False, False, False),
        ({"mods": 150}, False, False, False),
        ({"mods": 151}, False, True, False),
        ({"mods": 1, "analyzed_at": NOW - timedelta(days=8)}, False, True, False),
        ({"mods": 1, "analyzed_at": None}, False, True, False),
        ({"analyzed_at": None}, False, False, False),  # nothing has changed since it was made
        ({"xid_age": 200_000_001}, True, False, True),
        ({"mxid_age": 400_000_001}, True, False, True),
        ({"xid_age": 100_001, "options": {"autovacuum_freeze_max_age": "100000"}}, True, False, True),
    ],
)
def test_a_table_is_due_by_autovacuums_own_rules(
    changes: Mapping[str, Any], vacuum: bool, analyze: bool, freeze: bool
) -> None:
    owed = need(replace(QUIET, **changes), SERVER, NOW)

    assert (owed.vacuum, owed.analyze, owed.freeze) == (vacuum, analyze, freeze)
    assert bool(owed.why) == (vacuum or analyze)


def test_a_table_near_wraparound_comes_before_any_size() -> None:
    old = need(replace(QUIET, xid_age=200_000_001), SERVER, NOW)
    large = need(replace(QUIET, size_bytes=10**13, dead=10**9), SERVER, NOW)

    assert old.gain > large.gain


def test_ages_warn_at_110_and_fail_at_125_percent_and_never_beyond_a_thousand_million() -> None:
    assert age_limits(200_000_000) == (220_000_000, 250_000_000)
    assert age_limits(2_000_000_000) == (1_000_000_000, 1_000_000_000)


@pytest.mark.parametrize(
    ("size", "free", "much"),
    [(20 << 20, 10 << 20, True), (4 << 20, 4 << 20, False), (4 << 30, 1 << 30, True), (100 << 20, 30 << 20, False)],
)
def test_bloat_is_half_of_ten_megabytes_or_a_quarter_of_a_gigabyte(size: int, free: int, much: bool) -> None:
    assert Bloat(size, free, "pgstattuple").excessive is much


# --- on a real server ---------------------------------------------------------------------------------------------


@pytest.mark.server
def test_dead_rows_are_removed_and_the_file_keeps_its_size(db: Database) -> None:
    bloated(db)
    db.run("CREATE EXTENSION pgstattuple")
    size = db.ask("SELECT pg_relation_size('events')")
    assert dead(db) == 45_000

    result = db.job("vacuum", {"bloat_from": "1MB"})

    assert result.check("main: vacuum of public.events").status is CheckStatus.OK, result.text()
    assert result.check("main: dead rows kept in public.events").observed == 0
    assert dead(db) == 0
    assert db.ask("SELECT pg_relation_size('events')") == size
    assert result.measure("pg_vacuum_tuples_removed", table="public.events") == 45_000
    assert result.measure("pg_table_free_ratio", table="public.events", source="pgstattuple") > 0.8
    assert db.ask("SELECT last_analyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'events'")
    assert [(c.action, c.target, c.done) for c in result.changes] == [("vacuum", "main: public.events", True)]


@pytest.mark.server
def test_a_healthy_database_is_proven_so_and_not_touched(db: Database) -> None:
    db.run("CREATE TABLE t (n int)", "INSERT INTO t SELECT generate_series(1, 100)")
    db.run("VACUUM ANALYZE t")  # in another session: this one's counts are flushed when it ends

    result = db.job("vacuum")

    assert result.outcome == "succeeded", result.text()
    assert result.changes == []
    assert result.check("main: autovacuum").observed == "on"
    assert result.measure("pg_xid_age", database=db.name) > 0


@pytest.mark.server
def test_a_dry_run_plans_and_touches_nothing(db: Database) -> None:
    bloated(db, rows=5000)
    owner = db.role("owner")
    db.run(f'ALTER TABLE events OWNER TO "{owner}"')
    other = db.role("other", "pg_monitor")

    as_owner = db.job("vacuum", as_role=owner, dry_run=True)
    as_other = db.job("vacuum", as_role=other, dry_run=True)

    assert dead(db) == 4500
    assert [(c.target, c.done) for c in as_owner.changes] == [("main: public.events", False)]
    assert "4,500 dead rows" in str(as_owner.changes[0].details["why"])
    assert as_other.check("main: vacuum of public.events").observed == "not allowed"


@pytest.mark.server
def test_a_vacuum_that_is_silently_skipped_without_ownership_fails(db: Database) -> None:
    bloated(db, rows=5000)
    other = db.role("other", "pg_monitor")

    result = db.job("vacuum", as_role=other)

    check = result.check("main: vacuum of public.events")
    assert check.status is CheckStatus.FAIL
    # The words of Postgres 15 and 17.
    assert re.search("only table or database owner can vacuum it|permission denied to vacuum", str(check.observed))
    assert check.hint.startswith("GRANT postgres TO")
    assert dead(db) == 4500


@pytest.mark.server
def test_a_member_of_the_owner_with_nothing_else_succeeds(db: Database) -> None:
    owner = db.role("owner")
    bloated(db, rows=5000)
    db.run(f'ALTER TABLE events OWNER TO "{owner}"')
    operator = db.role("op", "pg_monitor", f'"{owner}"')

    result = db.job("vacuum", as_role=operator)

    assert result.check("main: vacuum of public.events").status is CheckStatus.OK, result.text()
    assert {check.status for check in result.checks} <= {CheckStatus.OK, CheckStatus.WARN}, result.text()


@pytest.mark.server
def test_rows_kept_alive_by_a_snapshot_warn_and_name_its_holder(db: Database) -> None:
    db.run(f"CREATE TABLE events (id int) {PLAIN}", "INSERT INTO events SELECT generate_series(1, 20000)")
    with db.session(
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM events", name="long report"
    ) as holder:
        pid = holder.info.backend_pid
        db.run("DELETE FROM events")

        result = db.job("vacuum")

    check = result.check("main: dead rows kept in public.events")
    assert (check.status, check.observed) == (CheckStatus.WARN, 20_000), result.text()
    assert f"pid {pid} (long report, user postgres, idle in transaction" in check.hint
    assert result.check("main: vacuum of public.events").status is CheckStatus.OK
    assert result.measure("pg_oldest_xmin_age_seconds") > 0
    assert result.outcome == "warned"


@pytest.mark.server
def test_without_the_right_to_see_others_the_holder_is_named_but_not_for_how_long(db: Database) -> None:
    owner = db.role("owner")
    db.run(
        f"CREATE TABLE events (id int) {PLAIN}",
        "INSERT INTO events SELECT generate_series(1, 5000)",
        f'ALTER TABLE events OWNER TO "{owner}"',
    )
    with db.session("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM events") as holder:
        pid = holder.info.backend_pid
        db.run("DELETE FROM events")

        result = db.job("vacuum", as_role=owner)

    snapshot = result.check("main: oldest snapshot")
    assert (snapshot.status, snapshot.hint) == (CheckStatus.UNKNOWN, "GRANT pg_monitor TO the target's user")
    assert f"held by pid {pid} (app, user postgres)" in result.check("main: dead rows kept in public.events").hint


@pytest.mark.server
@pytest.mark.parametrize("mode", ["SHARE", "ACCESS EXCLUSIVE"])
def test_a_locked_table_is_skipped_and_the_others_are_done(db: Database, mode: str) -> None:
    bloated(db, "busy", rows=5000)
    bloated(db, "free", rows=5000)
    with db.session(f"LOCK TABLE busy IN {mode} MODE", name="migration") as holder:
        pid = holder.info.backend_pid
        result = db.job("vacuum")

    check = result.check("main: vacuum of public.busy")
    assert check.status is CheckStatus.WARN
    assert "lock not available" in str(check.observed)
    assert f"held by pid {pid} (migration" in str(check.observed)
    assert result.check("main: vacuum of public.free").status is CheckStatus.OK
    assert (dead(db, "busy"), dead(db, "free")) == (4500, 0)


@pytest.mark.server
def test_odd_names_are_vacuumed_partition_parents_analyzed_and_temporary_tables_left(db: Database) -> None:
    db.run(
        'CREATE SCHEMA "Odd.Schema"',
        f'CREATE TABLE "Odd.Schema"."Select ""it"" %s" (n int) {PLAIN}',
        'INSERT INTO "Odd.Schema"."Select ""it"" %s" SELECT generate_series(1, 1000)',
        'DELETE FROM "Odd.Schema"."Select ""it"" %s"',
        "CREATE TABLE parts (n int) PARTITION BY RANGE (n)",
        f"CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (5000) {PLAIN}",
        "INSERT INTO parts SELECT generate_series(1, 1000)",
        "DELETE FROM parts",
    )
    with db.session() as other:
        other.execute("CREATE TEMPORARY TABLE mine (n int)")
        other.execute("INSERT INTO mine SELECT generate_series(1, 1000)")
        other.commit()

        result = db.job("vacuum")

    assert {c.target for c in result.changes} == {
        'main: Odd.Schema.Select "it" %s',
        "main: public.parts",
        "main: public.parts_1",
    }
    assert [c.action for c in result.changes if c.target == "main: public.parts"] == ["analyze"]
    assert {c.status for c in result.named("vacuum of")} == {CheckStatus.OK}, result.text()


PARTS = "CREATE TABLE log (id bigint, at date) PARTITION BY RANGE (at)"
HALVES = (
    "CREATE TABLE log_a PARTITION OF log FOR VALUES FROM ('2026-01-01') TO ('2026-07-01')",
    "CREATE TABLE log_b PARTITION OF log FOR VALUES FROM ('2026-07-01') TO ('2027-01-01')",
)
ROWS = "INSERT INTO log SELECT n, date '2026-01-01' + n % 365 FROM generate_series(1, 5000) n"


@pytest.mark.server
@pytest.mark.parametrize(
    "made",
    [
        (PARTS, *HALVES, ROWS),
        (PARTS, *HALVES, ROWS, "ANALYZE log_a", "ANALYZE log_b"),
        (
            PARTS,
            HALVES[0],
            f"{HALVES[1]} PARTITION BY HASH (id)",
            "CREATE TABLE log_b1 PARTITION OF log_b FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
            ROWS,
        ),
        (PARTS, *HALVES, ROWS, "ANALYZE log", ROWS, ROWS),
    ],
    ids=["new", "its partitions analyzed", "two levels", "grown"],
)
def test_a_partitioned_table_has_statistics_of_its_own_afterwards_and_is_then_left_alone(
    db: Database, made: tuple[str, ...]
) -> None:
    db.run(*made)

    result = db.job("vacuum")
    again = db.job("vacuum")

    assert ("analyze", "main: public.log") in {(c.action, c.target) for c in result.changes}, result.text()
    assert {c.state for c in result.changes} == {ChangeState.DONE}
    assert db.ask("SELECT count(*) FROM pg_stats WHERE tablename = 'log' AND inherited") == 2
    assert again.changes == []


@pytest.mark.server
@pytest.mark.parametrize("read", [tables, indexes], ids=["tables", "indexes"])
def test_what_a_list_costs_grows_with_the_number_of_tables_and_no_faster(
    db: Database, read: Callable[[Postgres], Sequence[object]]
) -> None:
    def add(first: int, after: int) -> None:
        for start in range(first, after, 50):
            db.run(
                "".join(
                    f"CREATE TABLE p{n} (id int PRIMARY KEY) PARTITION BY RANGE (id);"
                    f"CREATE TABLE p{n}_1 PARTITION OF p{n} FOR VALUES FROM (0) TO (9);"
                    for n in range(start, start + 50)
                )
            )
        db.run("ANALYZE")

    def fastest() -> float:
        took = []
        with connect(PostgresTarget(dsn=db.url), "test", name="main") as session:
            for _ in range(5):
                began = time.perf_counter()
                assert read(session)
                took.append(time.perf_counter() - began)
        return min(took)

    add(0, 50)
    few = fastest()
    add(50, 800)
    many = fastest()

    assert many < 16 * few * 5  # 16 times as many; what is quadratic takes 256 times as long


@pytest.mark.server
def test_an_empty_partitioned_table_needs_nothing(db: Database) -> None:
    db.run(PARTS, *HALVES)

    assert db.job("vacuum").changes == []


@pytest.mark.server
def test_a_vacuum_that_waits_for_a_pinned_page_is_stopped_and_the_next_table_goes_on(db: Database) -> None:
    bloated(db, "pinned", rows=20_000)
    bloated(db, "other", rows=2_000)
    scan = "DECLARE c CURSOR FOR SELECT id FROM pinned ORDER BY id"
    off = ("SET enable_seqscan = off", "SET enable_bitmapscan = off")

    with db.session(*off, scan, "FETCH 1 FROM c", name="left open"):
        result = db.job("vacuum", {"pin_timeout": "1s"})

    states = {change.target: change.state for change in result.changes}
    assert states == {"main: public.pinned": ChangeState.FAILED, "main: public.other": ChangeState.DONE}, result.text()
    check = result.check("main: vacuum of public.pinned")
    assert check.status is CheckStatus.WARN
    assert "left open" in str(check.observed)


@pytest.mark.server
def test_only_the_included_tables_are_checked(db: Database) -> None:
    for name in ("a_one", "a_two", "b_one"):
        bloated(db, name, rows=2000)

    result = db.job("vacuum", {"tables": ["public.a_*"], "exclude": ["a_two"]})

    assert [change.target for change in result.changes] == ["main: public.a_one"]


@pytest.mark.server
def test_what_the_limit_leaves_is_counted_and_named(db: Database) -> None:
    bloated(db, "large", rows=5000)
    bloated(db, "small", rows=1000)

    result = db.job("vacuum", {"max_tables": 1})

    left = result.check("main: tables left for the next run")
    assert (left.observed, left.status) == (1, CheckStatus.WARN)
    assert "public.small" in left.hint
    assert [change.target for change in result.changes] == ["main: public.large"]


@pytest.mark.server
def test_a_vacuum_that_outlasts_the_budget_is_stopped_and_fails(db: Database) -> None:
    bloated(db, rows=20_000)

    # 1 unit of cost between pauses of 100 ms: minutes for a few hundred pages.
    result = db.job("vacuum", {"budget": "2s", "cost_delay": "100ms", "cost_limit": 1})

    check = result.check("main: vacuum of public.events")
    assert check.status is CheckStatus.FAIL
    assert "stopped after" in str(check.observed)
    assert [change.state for change in result.changes] == [ChangeState.FAILED]
    assert result.progress
    assert db.ask("SELECT count(*) FROM pg_stat_progress_vacuum") == 0


@pytest.mark.server
def test_changed_rows_alone_are_analyzed_and_not_vacuumed(db: Database) -> None:
    db.run("CREATE TABLE t (n int)", "INSERT INTO t SELECT generate_series(1, 500)")

    result = db.job("vacuum")

    assert [(change.action, change.target) for change in result.changes] == [("analyze", "main: public.t")]
    assert result.check("main: vacuum of public.t").observed == "done"
    assert db.ask("SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 't'") == 0


@pytest.mark.server
def test_a_second_maintd_on_the_same_database_is_refused_by_name(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maintd.checks.postgres.blockers.ADVISORY_LOCK_TIMEOUT", timedelta(0))
    with db.session("SELECT pg_advisory_lock(hashtext('maintd')::bigint)", name="maintd:reindex") as other:
        pid = other.info.backend_pid
        result = db.job("vacuum")

    check = result.check("main: maintained")
    assert check.status is CheckStatus.FAIL
    assert f"pid {pid} (maintd:reindex from 127.0.0.1" in str(check.observed)


@pytest.mark.server
def test_each_target_has_its_own_verdict_when_one_is_down_and_another_unknown(db: Database) -> None:
    bloated(db, rows=2000)
    targets = {
        "gone": {"dsn": f"postgresql://postgres@127.0.0.1:{free_port()}/x"},
        "main": {"dsn": db.url},
        "wrong": {"dsn": db.server.url("no_such_database")},
    }

    result = run_job("vacuum", {}, {"postgres": targets})

    gone, wrong = result.check("gone: maintained"), result.check("wrong: maintained")
    assert (gone.status, wrong.status) == (CheckStatus.FAIL, CheckStatus.FAIL)
    assert str(gone.observed).startswith("refused: gone:")
    assert gone.hint == "check that it is running and that the port is right"
    assert 'database "no_such_database" does not exist' in str(wrong.observed)
    assert result.check("main: vacuum of public.events").status is CheckStatus.OK


def test_without_any_target_it_is_not_configured() -> None:
    result = run_job("vacuum")

    check = result.check("main: maintained")
    assert check.status is CheckStatus.FAIL
    assert "no postgres target is configured" in str(check.observed)


@pytest.mark.server
def test_a_target_that_does_not_exist_fails_and_the_next_is_maintained(db: Database) -> None:
    result = run_job("vacuum", {"targets": ["gone", "main"]}, {"postgres": {"main": {"dsn": db.url}}})

    assert result.error is None, result.text()
    assert 'no postgres target named "gone"' in str(result.check("gone: maintained").observed)
    assert result.check("main: tables left for the next run").status is CheckStatus.OK


@pytest.mark.server
def test_a_wrong_password_is_reported_without_the_password(own_postgres: PostgresServer) -> None:
    hba = own_postgres.folder / "data" / "pg_hba.conf"
    hba.write_text("host all app 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n")
    db = Database(own_postgres, "postgres")
    db.run("CREATE ROLE app LOGIN PASSWORD 'right'", "SELECT pg_reload_conf()")
    target = {"dsn": db.url_of("app"), "password": "not-the-right-one"}

    def refused() -> Any:
        result = run_job("vacuum", {}, {"postgres": {"main": target}})
        check = result.check("main: maintained") if result.named("main: maintained") else None
        return check if check and "password" in str(check.observed) else None

    check = wait_for(refused, "the new pg_hba.conf")

    assert str(check.observed).startswith("denied: main:")
    assert check.hint == "check the target's user and password"
    assert "not-the-right-one" not in check.model_dump_json()


@pytest.mark.server
def test_a_standby_is_refused_and_the_hint_names_the_primary(own_postgres: PostgresServer) -> None:
    own_postgres.stop()
    signal = own_postgres.folder / "data" / "standby.signal"
    signal.touch()
    own_postgres.start()

    result = Database(own_postgres, "postgres").job("vacuum")

    check = result.check("main: maintained")
    assert (check.observed, check.hint) == ("refused: main: is a standby", "use its primary as the target")


@pytest.mark.server
def test_a_server_that_goes_away_in_the_middle_fails_at_once(own_postgres: PostgresServer) -> None:
    own_postgres.create("app")
    db = Database(own_postgres, "app")
    bloated(db, rows=20_000)
    results: list[JobResult] = []
    # 1 unit of cost between pauses of 100 ms: minutes for a few hundred pages.
    slow = {"cost_delay": "100ms", "cost_limit": 1}
    job = threading.Thread(target=lambda: results.append(db.job("vacuum", slow)))
    job.start()
    wait_for(lambda: db.ask("SELECT count(*) FROM pg_stat_progress_vacuum"), "the vacuum to begin")

    own_postgres.stop("immediate")
    job.join(10)

    check = results[0].check("main: maintained")
    assert check.status is CheckStatus.FAIL
    assert str(check.observed).startswith("partial: main:")


@pytest.mark.server
def test_tables_that_near_wraparound_are_frozen_and_old_databases_fail(own_postgres: PostgresServer) -> None:
    db = Database(own_postgres, "postgres")
    db.run(
        "ALTER SYSTEM SET autovacuum = off",  # else it would freeze them itself, at once
        "ALTER SYSTEM SET autovacuum_freeze_max_age = 2000000000",
        "CREATE TABLE old (n int) WITH (autovacuum_freeze_max_age = 100000)",
        "INSERT INTO old SELECT generate_series(1, 100)",
        "ANALYZE old",
    )
    own_postgres.stop()
    # 1,050 segments of 2^20 transactions further: at the start of a segment the server makes its own commit log.
    own_postgres._run("pg_resetwal", "-x", str(1050 << 20), str(own_postgres.folder / "data"))
    own_postgres.start()

    result = db.job("vacuum")

    assert db.ask("SELECT age(relfrozenxid) FROM pg_class WHERE relname = 'old'") < 100
    assert result.check("main: vacuum of public.old").status is CheckStatus.OK, result.text()
    assert result.check("main: oldest transaction id of a table").status is CheckStatus.OK
    assert result.check("main: oldest transaction id of a database").status is CheckStatus.FAIL
    assert result.check("main: autovacuum").status is CheckStatus.WARN


def test_a_database_without_an_encoding_is_vacuumed_too(postgres_server: PostgresServer) -> None:
    name = "ascii_only"
    with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    db = Database(postgres_server, name)
    try:
        bloated(db, rows=20_000)

        result = db.job("vacuum")

        assert result.outcome in ("succeeded", "warned"), result.text()
        assert any("events" in change.target for change in result.changes), result.text()
    finally:
        postgres_server.drop(name)
