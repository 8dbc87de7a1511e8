"""`database_size` on a real Postgres: true sizes, and each thing that will hurt one day made for real."""

from __future__ import annotations

import csv
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.databases import Database, database
from support.job_runs import run_job
from support.servers.base import free_port
from support.servers.postgres import PostgresServer

from maintd.checks.postgres.amcheck import Amcheck, compares_with_heap
from maintd.checks.postgres.database import Sequence
from maintd.checks.postgres.indexes import indexes
from maintd.clients.postgres import connect
from maintd.job import Point
from maintd.model.evidence import CheckStatus
from maintd.model.target import PostgresTarget


@pytest.fixture
def db(postgres_server: PostgresServer) -> Iterator[Database]:
    with database(postgres_server) as made:
        yield made


def watched(db: Database, days: int) -> dict[str, list[Point]]:
    """A history that begins so many days ago."""
    size = float(db.ask("SELECT pg_database_size(current_database())"))
    return {"pg_database_bytes": [Point(datetime.now(UTC) - timedelta(days=days), size, {"target": "main"})]}


@pytest.mark.parametrize(
    ("sequence", "used"),
    [
        (Sequence("s", "a", 1, 1, 2**63 - 1, False, "bigint", True, None), 0.0),
        (Sequence("s", "a", 1, 1, 2**63 - 1, False, "integer", True, 2**31 - 1), 1.0),  # the column ends first
        (Sequence("s", "a", 1, 1, 100, False, None, True, 75), 0.75),
        (Sequence("s", "a", 1, 1, 100, True, None, True, 99), 0.0),  # begins again by itself
        (Sequence("s", "a", -1, -100, -1, False, None, True, -90), 0.9),
    ],
)
def test_a_sequence_is_as_full_as_the_smaller_of_itself_and_its_column(sequence: Sequence, used: float) -> None:
    assert sequence.used == pytest.approx(used)


@pytest.mark.server
def test_sizes_are_those_of_the_server_also_for_odd_names(db: Database) -> None:
    db.run(
        'CREATE TABLE "Orders ""2026""" (id int PRIMARY KEY, note text)',
        'INSERT INTO "Orders ""2026""" SELECT n, repeat(md5(n::text), 200) FROM generate_series(1, 2000) n',
    )

    result = db.job("database_size")

    name = 'public.Orders "2026"'
    relation = f"(SELECT oid FROM pg_class WHERE relname = '{name.removeprefix('public.')}')"
    for part, function in (("heap", "pg_relation_size"), ("index", "pg_indexes_size")):
        assert result.measure("pg_relation_bytes", table=name, part=part) == db.ask(f"SELECT {function}({relation})")
    toast = db.ask(f"SELECT pg_total_relation_size(reltoastrelid) FROM pg_class WHERE oid IN {relation}")
    assert result.measure("pg_relation_bytes", table=name, part="toast") == toast
    assert result.measure("pg_database_bytes") == db.ask("SELECT pg_database_size(current_database())")
    assert result.measure("pg_wal_bytes") >= 16 << 20
    rows = list(csv.DictReader(Path(result.artifacts[0].path).read_text().splitlines()))
    assert name in {f"{row['schema']}.{row['name']}" for row in rows}
    assert result.outcome == "succeeded", result.text()
    assert result.changes == []


@pytest.mark.server
def test_growth_is_compared_with_the_last_run_of_the_same_target(db: Database) -> None:
    size = db.ask("SELECT pg_database_size(current_database())")
    history = [Point(datetime.now(UTC), size / 3, {"target": "main"}), Point(datetime.now(UTC), 1.0, {"target": "x"})]

    result = db.job("database_size", {"growth_floor": "1MB"}, series={"pg_database_bytes": history})

    check = result.check("main: growth since the last run")
    assert check.status is CheckStatus.WARN
    assert check.observed == pytest.approx(size * 2 / 3, rel=0.05)


@pytest.mark.server
def test_an_int4_key_that_is_nearly_used_up_fails_before_its_sequence_would(db: Database) -> None:
    db.run(
        "CREATE TABLE old (id serial PRIMARY KEY)",
        "ALTER SEQUENCE old_id_seq AS bigint",
        "SELECT setval('old_id_seq', 2000000000)",
        "CREATE TABLE fine (id bigserial PRIMARY KEY)",
        "SELECT setval('fine_id_seq', 2000000000)",
    )

    check = db.job("database_size").check("main: fullest sequence")

    assert (check.status, check.observed) == (CheckStatus.FAIL, 0.9313)  # 2e9 of 2^31
    assert "public.old_id_seq (integer)" in check.hint


@pytest.mark.server
def test_invalid_duplicate_and_unused_indexes_are_named(db: Database) -> None:
    db.run(
        "CREATE TABLE t (id int PRIMARY KEY, a int, b text)",
        "INSERT INTO t SELECT n, n % 50, md5(n::text) FROM generate_series(1, 20000) n",
        "CREATE INDEX t_again ON t (id)",
        "CREATE INDEX t_partial ON t (a) WHERE a > 3",
        "CREATE INDEX t_partial_too ON t (a) WHERE a > 4",  # another condition: no duplicate
        "CREATE INDEX t_b ON t (b)",
    )
    with psycopg.connect(db.url, autocommit=True) as conn, pytest.raises(psycopg.errors.UniqueViolation):
        conn.execute("CREATE UNIQUE INDEX CONCURRENTLY t_broken ON t (a)")

    young = db.job("database_size", {"unused_from": "100kB"})
    old = db.job("database_size", {"unused_from": "100kB"}, series=watched(db, days=31))

    assert "public.t_broken" in young.check("main: invalid indexes").hint
    assert young.measure("pg_invalid_indexes") == 1
    double = young.check("main: duplicate indexes")
    assert (double.observed, double.status) == (1, CheckStatus.WARN)
    assert "public.t_again (as t_pkey" in double.hint
    assert young.named("unused") == []
    assert any("0 of 30 days of statistics" in line for line in young.logs)
    unused = old.check("main: unused indexes")
    assert "public.t_b" in unused.hint
    assert "t_pkey" not in unused.hint


@pytest.mark.server
def test_a_foreign_key_without_an_index_on_a_large_table_is_named(db: Database) -> None:
    db.run(
        "CREATE TABLE parent (a int, b int, PRIMARY KEY (a, b))",
        "INSERT INTO parent SELECT n, n FROM generate_series(1, 100) n",
        "CREATE TABLE good (x int, a int, b int, CONSTRAINT good_fk FOREIGN KEY (a, b) REFERENCES parent)",
        "CREATE INDEX ON good (b, a, x)",
        "CREATE TABLE bad (x int, a int, b int, CONSTRAINT bad_fk FOREIGN KEY (a, b) REFERENCES parent)",
        "CREATE INDEX ON bad (x, a, b)",  # does not begin with the key
        "CREATE TABLE small (a int, b int, CONSTRAINT small_fk FOREIGN KEY (a, b) REFERENCES parent)",
        "INSERT INTO bad SELECT n, 1 + n % 100, 1 + n % 100 FROM generate_series(1, 5000) n",
        "INSERT INTO good SELECT * FROM bad",
    )

    check = db.job("database_size", {"foreign_key_from": "100kB"}).check("main: foreign keys without an index")

    assert check.observed == 1
    assert check.hint.endswith(": public.bad.bad_fk")


@pytest.mark.server
def test_a_collation_whose_library_has_changed_fails(db: Database) -> None:
    db.run(
        "CREATE COLLATION german (provider = icu, locale = 'de')",
        "CREATE COLLATION unused (provider = icu, locale = 'fr')",
        "CREATE TABLE t (name text COLLATE german)",
        "UPDATE pg_collation SET collversion = '1.0' WHERE collname IN ('german', 'unused')",
    )

    check = db.job("database_size").check("main: collations of another version")

    assert (check.status, check.observed) == (CheckStatus.FAIL, 1)
    assert "german (1.0 when built, " in check.hint


@pytest.mark.server
def test_deadlocks_since_the_last_run_warn(db: Database) -> None:
    db.run("CREATE TABLE a (n int)", "CREATE TABLE b (n int)")
    with db.session("LOCK a") as first, db.session("LOCK b") as second:
        victims: list[Any] = []

        def lock(session: Any, table: str) -> None:
            try:
                session.execute(f"LOCK {table}")
            except psycopg.errors.DeadlockDetected:
                victims.append(session)
            session.rollback()  # lets the other have its lock

        waits = threading.Thread(target=lock, args=(first, "b"))
        waits.start()
        lock(second, "a")
        waits.join()
        for session in (first, second):
            session.execute("SELECT pg_stat_force_next_flush()")
            session.commit()
    assert len(victims) == 1
    last = {"pg_deadlocks": [Point(datetime.now(UTC), 0.0, {"target": "main"})]}

    result = db.job("database_size", series=last)

    assert result.check("main: deadlocks since the last run").observed == 1
    assert result.outcome == "warned"


@pytest.mark.server
def test_missing_checksums_warn_only_when_they_are_required(db: Database) -> None:
    assert db.job("database_size").named("data checksums") == []
    assert db.job("database_size", {"require_checksums": True}).check("main: data checksums").observed == "off"


@pytest.mark.server
def test_with_pg_monitor_alone_all_is_seen_but_sequences_which_are_unknown(db: Database) -> None:
    db.run("CREATE TABLE t (id serial PRIMARY KEY)", "CREATE EXTENSION amcheck")
    reader = db.role("ro", "pg_monitor")

    result = db.job("database_size", as_role=reader)

    assert {c.name for c in result.checks if c.status is not CheckStatus.OK} == {"main: sequences read"}, result.text()
    assert any("may not call amcheck" in line for line in result.logs)


@pytest.mark.server
def test_without_pg_monitor_the_wal_is_unknown_and_the_grant_is_named(db: Database) -> None:
    result = db.job("database_size", as_role=db.role("nobody"))

    check = result.check("main: write-ahead log")
    assert (check.status, check.hint) == (CheckStatus.UNKNOWN, "GRANT pg_monitor TO the target's user")


@pytest.mark.server
def test_a_required_amcheck_that_is_not_available_is_unknown(db: Database) -> None:
    result = db.job("database_size", {"amcheck": "yes"})

    check = result.check("main: damaged relations")
    assert check.status is CheckStatus.UNKNOWN
    assert "not installed" in str(check.observed)


@pytest.mark.server
def test_a_sound_database_is_proven_so_with_only_execute_on_amcheck(db: Database) -> None:
    reader = db.role("ro", "pg_monitor")
    db.run(
        "CREATE SCHEMA ext",
        "CREATE EXTENSION amcheck SCHEMA ext",
        f'GRANT USAGE ON SCHEMA ext TO "{reader}"',
        f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA ext TO "{reader}"',
        'CREATE TABLE "T" (id int PRIMARY KEY)',
        'INSERT INTO "T" SELECT generate_series(1, 1000)',
    )

    result = db.job("database_size", {"amcheck": "yes"}, as_role=reader)

    assert result.check("main: damaged relations").status is CheckStatus.OK, result.text()
    assert result.measure("pg_relations_checked") > 60  # the catalog's tables are looked at too


@pytest.mark.server
def test_a_damaged_index_and_a_damaged_table_are_found(own_postgres: PostgresServer) -> None:
    db = Database(own_postgres, "postgres")
    db.run(
        "CREATE EXTENSION amcheck",
        "CREATE TABLE rows (id int)",
        "INSERT INTO rows SELECT generate_series(1, 5000)",
        "CREATE TABLE keys (id int PRIMARY KEY)",
        "INSERT INTO keys SELECT generate_series(1, 5000)",
        "CHECKPOINT",
    )
    paths = [db.ask(f"SELECT pg_relation_filepath('{name}')") for name in ("rows", "keys_pkey")]
    own_postgres.stop()
    for file in (own_postgres.folder / "data" / path for path in paths):
        page = bytearray(file.read_bytes())
        # Line pointers of the second page begin at byte 24: these now point outside of the page or at each other.
        page[8192 + 24 : 8192 + 64] = b"\xff\x7f\x01\x00" * 10
        file.write_bytes(bytes(page))
    own_postgres.start()

    result = db.job("database_size")

    check = result.check("main: damaged relations")
    assert check.status is CheckStatus.FAIL
    damaged = {line.split()[2].rstrip(":") for line in result.logs if "DAMAGED" in line}
    assert damaged == {"public.rows", "public.keys_pkey"}, result.text()


@pytest.mark.server
def test_a_locked_table_does_not_delay_the_job(db: Database) -> None:
    db.run(
        "CREATE EXTENSION amcheck", "CREATE TABLE busy (id int PRIMARY KEY)", "CREATE TABLE free (id int PRIMARY KEY)"
    )
    db.run("INSERT INTO busy SELECT generate_series(1, 5000)", "INSERT INTO free SELECT generate_series(1, 5000)")
    db.run("VACUUM ANALYZE")
    pages = db.ask("SELECT pg_relation_size('busy')")
    keys = db.ask("SELECT pg_relation_size('busy_pkey')")
    with db.session("LOCK TABLE busy", name="migration"):
        result = db.job("database_size")

    assert result.outcome == "succeeded", result.text()
    assert result.measure("pg_relation_bytes", table="public.busy", part="heap") == pages
    assert result.measure("pg_relation_bytes", table="public.busy", part="index") == keys
    assert any("locked by another session: public.busy" in line for line in result.logs)


@pytest.mark.server
def test_when_the_amcheck_budget_is_spent_the_rest_is_reported_as_unfinished(db: Database) -> None:
    db.run("CREATE EXTENSION amcheck")

    result = db.job("database_size", {"amcheck_budget": "500ms"})

    assert result.check("main: damaged relations, unfinished").status is CheckStatus.WARN
    assert result.named("damaged relations") == result.named("unfinished")


@pytest.mark.server
def test_a_target_that_is_down_fails_and_the_other_is_measured(db: Database) -> None:
    targets: dict[str, Any] = {
        "down": {"dsn": f"postgresql://postgres@127.0.0.1:{free_port()}/x"},
        "main": {"dsn": db.url},
    }

    result = run_job("database_size", {}, {"postgres": targets})

    check = result.check("down: measured")
    assert check.status is CheckStatus.FAIL
    assert str(check.observed).startswith("refused: down:")
    assert result.measure("pg_database_bytes", target="main") > 0


def test_a_server_that_accepts_and_never_answers_fails_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = {"dsn": f"postgresql://app@127.0.0.1:{silent.getsockname()[1]}/x", "timeout": "1s"}
        began = time.monotonic()

        result = run_job("database_size", {}, {"postgres": {"main": target}})

    assert str(result.check("main: measured").observed).startswith("timed_out: main:")
    assert time.monotonic() - began < 60  # without the timeout it never ends


@pytest.mark.server
@pytest.mark.parametrize("limited", ["ROLE", "DATABASE"])
def test_a_connection_limit_is_named_by_what_has_it(db: Database, limited: str) -> None:
    db.run("CREATE ROLE limited LOGIN CONNECTION LIMIT 0" if limited == "ROLE" else "CREATE ROLE limited LOGIN")
    try:
        if limited == "DATABASE":
            name = db.ask("SELECT current_database()")
            db.run(f'ALTER DATABASE "{name}" CONNECTION LIMIT 0')

        result = run_job("database_size", {}, {"postgres": {"main": {"dsn": db.url.replace("postgres@", "limited@")}}})
    finally:
        db.run("DROP ROLE limited")

    assert f"ALTER {limited} … CONNECTION LIMIT" in result.check("main: measured").hint


@pytest.mark.server
def test_every_index_is_compared_with_its_table_in_one_of_four_weeks(db: Database) -> None:
    db.run(*(f"CREATE TABLE t{number} (id int PRIMARY KEY, name text UNIQUE)" for number in range(5)))
    with connect(PostgresTarget(dsn=db.url), "test") as session:
        found = indexes(session)

    weeks = [[week for week in range(20, 24) if compares_with_heap(index, week)] for index in found]

    assert len(found) == 10
    assert {len(of_index) for of_index in weeks} == {1}


@pytest.mark.server
def test_a_row_that_an_index_lacks_is_found_in_the_index_week(db: Database) -> None:
    db.run("CREATE EXTENSION amcheck", "CREATE TABLE t (id int)", "CREATE INDEX t_id ON t (id)")
    # The index is not updated while the catalog says that it is not ready for writes.
    ready = "UPDATE pg_index SET indisready = {0}, indisvalid = {0} WHERE indexrelid = 't_id'::regclass"
    db.run(ready.format("false"), "INSERT INTO t SELECT generate_series(1, 100)", ready.format("true"))

    with connect(PostgresTarget(dsn=db.url), "test") as session:
        damage = {}
        for week in range(4):
            amcheck = Amcheck(session)
            list(amcheck.check_all([], indexes(session), timedelta(minutes=1), week))
            damage[week] = [item.label for item in amcheck.damage]

    assert sorted(damage.values()) == [[], [], [], ["public.t_id"]]
