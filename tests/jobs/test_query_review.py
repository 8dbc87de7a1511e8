"""`query_review` on real servers with pg_stat_statements: known workloads, resets, missing rights, each rule twice."""

from __future__ import annotations

import json
import socket
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.databases import Database, database
from support.job_runs import JobResult, run_job
from support.servers.postgres import BIN, PostgresServer

from maintd.job import Point
from maintd.model.evidence import CheckStatus

pytestmark = pytest.mark.server

FAST, SLOW = "SELECT count(*) FROM fast WHERE id = $1", "SELECT pg_sleep($1)"
PASSWORD = "correct-horse-battery"


@pytest.fixture
def db(postgres_server: PostgresServer) -> Iterator[Database]:
    with database(postgres_server) as made:
        made.run("CREATE EXTENSION pg_stat_statements", "CREATE TABLE fast (id int PRIMARY KEY)", "ANALYZE fast")
        yield made


def review(db: Database, before: Sequence[JobResult] = (), **params: Any) -> JobResult:
    """A run of the job after others, whose measures it knows."""
    return db.job("query_review", params, series=series(before))


def series(before: Sequence[JobResult]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for number, result in enumerate(before):
        at = datetime.now(UTC) - timedelta(days=90 * (len(before) - number))
        for item in result.measures:
            found.setdefault(item.name, []).append(Point(at, item.value, item.labels))
    return found


def execute(db: Database, query: str, times: int, value: Any = 1) -> None:
    with psycopg.connect(db.url, autocommit=True) as conn:
        for _ in range(times):
            conn.execute(query.replace("$1", "%s").encode(), (value,))


def statements(result: JobResult) -> dict[str, dict[str, Any]]:
    """What was executed, by text, of the superuser that ran the workload."""
    path = next(item.path for item in result.artifacts if item.name.endswith("statements.json"))
    return {item["text"]: item for item in json.loads(Path(path).read_text())}


def report(result: JobResult) -> dict[str, Any]:
    path = next(item.path for item in result.artifacts if item.name.startswith("queries-") and "json" in item.name)
    found: dict[str, Any] = json.loads(Path(path).read_text())
    return found


def test_a_thousand_calls_between_two_runs_rank_first_by_calls_and_a_slow_one_by_mean(db: Database) -> None:
    execute(db, FAST, 10)
    first = review(db)

    execute(db, FAST, 1000)
    execute(db, SLOW, 1, 0.3)
    second = review(db, [first])

    assert statements(second)[FAST]["calls"] == 1000  # not the 10 before
    by_calls, by_mean = (table(second, f"Queries by {title}") for title in ("calls", "mean time"))
    assert by_calls[0][-1] == FAST
    assert by_mean[0][-1] == SLOW
    query_id = statements(second)[SLOW]["queryid"]
    assert second.measure("pg_query_mean_ms", queryid=query_id) >= 300
    assert second.check("main: statements counted").status is CheckStatus.OK, second.text()
    assert second.changes == []


def table(result: JobResult, title: str) -> list[list[str]]:
    """The rows of a table of the report, as texts."""
    text = next(Path(item.path).read_text() for item in result.artifacts if item.name.endswith(".md"))
    part = text[text.index(title) :].split("\n\n")[1]
    lines = [line for line in part.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().replace("\\", "") for cell in line.strip("|").split("|")] for line in lines]


def test_a_reset_between_two_runs_is_reported_and_no_number_is_negative(db: Database) -> None:
    execute(db, FAST, 500)
    first = review(db)

    db.run("SELECT pg_stat_statements_reset()")
    execute(db, FAST, 20)
    second = review(db, [first])

    check = second.check("main: statements counted")
    assert check.status is CheckStatus.WARN
    assert str(check.observed).startswith("reset at ")
    assert "pg_stat_statements_info" in check.rule
    assert statements(second)[FAST]["calls"] == 20
    assert all(
        value >= 0 for item in statements(second).values() for value in item.values() if isinstance(value, float)
    )


def test_a_reset_is_also_seen_where_the_extension_does_not_record_it(db: Database) -> None:
    db.run("DROP EXTENSION pg_stat_statements", "CREATE EXTENSION pg_stat_statements VERSION '1.8'")
    execute(db, FAST, 500)
    first = review(db)

    db.run("SELECT pg_stat_statements_reset()")
    execute(db, FAST, 20)
    second = review(db, [first])

    assert statements(second)[FAST]["calls"] == 20
    assert min(item.value for item in second.measures if item.name.startswith("pg_statement_")) >= 0
    assert second.check("main: statements evicted").status is CheckStatus.UNKNOWN


@pytest.mark.parametrize("version", ["1.7", "1.8", "1.9", "1.10"])  # of Postgres 12, 13, 14 and 15
def test_each_version_of_the_view_is_read_by_the_columns_that_it_has(db: Database, version: str) -> None:
    db.run("DROP EXTENSION pg_stat_statements", f"CREATE EXTENSION pg_stat_statements VERSION '{version}'")
    execute(db, FAST, 7)

    result = review(db)

    assert statements(result)[FAST]["calls"] == 7
    assert (statements(result)[FAST]["wal_bytes"] is None) == (version == "1.7")
    assert result.check("main: statements").status is CheckStatus.OK, result.text()


def test_a_statement_whose_mean_has_doubled_is_named_and_a_fast_one_is_not(db: Database) -> None:
    execute(db, SLOW, 6, 0.002)
    execute(db, FAST, 6)
    first = review(db)

    execute(db, SLOW, 6, 0.05)
    execute(db, FAST, 6)
    slower, second = review(db, [first]), review(db, [first], slower_from="10m")

    check = slower.check("main: queries slower than before")
    assert (check.status, check.observed) == (CheckStatus.WARN, 1), slower.text()
    assert SLOW in check.hint
    assert first.check("main: queries slower than before").status is CheckStatus.UNKNOWN
    assert second.check("main: queries slower than before").status is CheckStatus.OK


def test_no_literal_of_a_utility_statement_is_in_any_output(db: Database) -> None:
    role = db.role("app")
    db.run(f"ALTER ROLE \"{role}\" PASSWORD '{PASSWORD}'", f'ALTER ROLE "{role}" PASSWORD $x${PASSWORD}$x$')

    result = review(db)

    texts = [Path(item.path).read_text() for item in result.artifacts]
    assert any(f'ALTER ROLE "{role}" PASSWORD ?' in text for text in texts)
    assert PASSWORD not in "".join(texts) + result.text()


def test_a_role_that_may_not_read_statements_of_others_is_shown_what_to_grant(db: Database) -> None:
    result = db.job("query_review", as_role=db.role("blind"))

    check = result.check("main: statements")
    assert check.status is CheckStatus.UNKNOWN
    assert "denied" in str(check.observed)
    assert "pg_read_all_stats" in check.hint
    assert result.outcome == "unknown"
    assert result.named("unused indexes")  # the other parts are reviewed


def test_an_extension_that_is_loaded_but_not_created_is_named(db: Database) -> None:
    db.run("DROP EXTENSION pg_stat_statements")

    check = review(db).check("main: statements")

    assert check.status is CheckStatus.UNKNOWN
    assert "loaded, but not created in this database" in str(check.observed)
    assert "CREATE EXTENSION pg_stat_statements;" in check.hint


def test_an_extension_that_is_not_loaded_is_named_with_all_steps(own_postgres: PostgresServer) -> None:
    url = own_postgres.create("plain")
    own_postgres.stop()
    own_postgres.libraries = ("auto_explain",)
    own_postgres.start()

    result = run_job("query_review", {}, {"postgres": {"main": {"dsn": url}}})

    check = result.check("main: statements")
    assert check.status is CheckStatus.UNKNOWN
    assert "not loaded" in str(check.observed)
    for step in (
        "ALTER SYSTEM SET shared_preload_libraries = 'auto_explain', 'pg_stat_statements';",
        "restart",
        "CREATE EXTENSION pg_stat_statements;",
    ):
        assert step in check.hint


def large(db: Database, name: str = "orders") -> None:
    db.run(
        f"CREATE TABLE {name} (id int PRIMARY KEY, customer int, note text)",
        f"INSERT INTO {name} SELECT n, n % 5000, repeat('x', 100) FROM generate_series(1, 20000) n",
        f"ANALYZE {name}",
    )


BY_CUSTOMER = "SELECT count(*) FROM orders WHERE customer = $1"


def test_a_table_that_is_read_as_a_whole_lacks_an_index_and_one_with_it_does_not(db: Database) -> None:
    large(db)
    execute(db, BY_CUSTOMER, 110)

    before = review(db, large_from="1MB")
    db.run("CREATE INDEX ON orders (customer)", "SELECT pg_stat_reset()", "ANALYZE orders")
    execute(db, BY_CUSTOMER, 110)
    after = review(db, large_from="1MB")

    check = before.check("main: tables read mostly as a whole")
    assert (check.status, check.observed) == (CheckStatus.WARN, 1), before.text()
    assert 'CREATE INDEX CONCURRENTLY ON "public"."orders" ("customer");' in check.hint
    assert before.measure("pg_seq_scan_share", table="public.orders") > 0.9
    assert after.check("main: tables read mostly as a whole").status is CheckStatus.OK
    assert review(db).check("main: tables read mostly as a whole").status is CheckStatus.OK  # below 10 MB


def test_hypopg_estimates_the_gain_of_an_index_without_creating_one(db: Database) -> None:
    db.run("CREATE EXTENSION hypopg")
    large(db)
    execute(db, BY_CUSTOMER, 110)
    role = db.role("reader", "pg_monitor", "pg_read_all_data")

    result = db.job("query_review", {"large_from": "1MB"}, as_role=role)

    hint = result.check("main: tables read mostly as a whole").hint
    assert "planned cost of query" in hint, result.text()
    assert "−9" in hint  # a lookup of 4 rows of 20,000 costs less than a tenth
    assert table(result, "Indexes advised")[0][0] == 'CREATE INDEX CONCURRENTLY ON "public"."orders" ("customer");'
    assert db.ask("SELECT count(*) FROM pg_index WHERE indrelid = 'orders'::regclass") == 1


def test_foreign_keys_duplicate_and_covered_indexes_are_named_with_size_and_change(db: Database) -> None:
    db.run(
        "CREATE TABLE parent (id int PRIMARY KEY)",
        'CREATE TABLE "Child" (a int REFERENCES parent, b int REFERENCES parent, c int)',
        'CREATE INDEX one ON "Child" (a)',
        'CREATE INDEX same ON "Child" (a)',
        'CREATE INDEX wider ON "Child" (a, c)',
        'CREATE INDEX other_order ON "Child" (c DESC)',
        'CREATE INDEX c_first ON "Child" (c, a)',
    )

    result = review(db, large_from="0B")

    key = result.check("main: foreign keys without an index")
    assert (key.status, key.observed) == (CheckStatus.WARN, 1), result.text()
    assert 'CREATE INDEX CONCURRENTLY ON public."Child" (b);' in key.hint
    double = result.check("main: duplicate indexes")
    assert (double.observed, 'DROP INDEX CONCURRENTLY "public"."same";' in double.hint) == (1, True)
    within = result.check("main: indexes covered by another")
    assert within.observed == 2  # `one` and `same`, by `wider`; `other_order` sorts otherwise
    assert '"public"."wider" begins alike: DROP INDEX CONCURRENTLY' in within.hint
    db.run("DROP INDEX one, same", 'CREATE INDEX ON "Child" (b)')
    clean = review(db, large_from="0B")
    for name in ("foreign keys without an index", "duplicate indexes", "indexes covered by another"):
        assert clean.check(f"main: {name}").status is CheckStatus.OK, clean.text()


HOSTILE = ("apo'; DROP TABLE kept; --", 'quo"; DROP TABLE kept; --', "new\nDROP TABLE kept; --", "/* ' $$ ")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hint_does_only_what_it_shows_when_it_is_pasted_in_any_width(db: Database, name: str) -> None:
    quoted, one, spare = (sql.Identifier(name + suffix).as_string() for suffix in ("", " one", " spare"))
    db.run(
        "CREATE TABLE kept (a int PRIMARY KEY)",
        "CREATE TABLE parent (a int PRIMARY KEY)",
        f"CREATE TABLE {quoted} (a int REFERENCES parent, b int)",
        f"CREATE INDEX {one} ON {quoted} (b)",
        f"CREATE INDEX {spare} ON {quoted} (b)",
        f"INSERT INTO {quoted} (b) SELECT g FROM generate_series(1, 2000) g",
    )

    result = review(db, large_from="0B")

    hints = [check.hint for check in result.checks if check.hint and "ALTER SYSTEM" not in check.hint]
    assert sum("DROP INDEX" in hint or "CREATE INDEX" in hint or "cannot be shown" in hint for hint in hints) >= 2
    for width in range(40, 120):
        pasted = "\n".join("\n".join(textwrap.wrap(hint, width)) + "\n;" for hint in hints)
        subprocess.run([BIN / "psql", "-X", "-q", "-d", db.url], input=pasted, text=True, capture_output=True)
    assert tables(db) == {"fast", "kept", "parent", name}


def tables(db: Database) -> set[str]:
    with psycopg.connect(db.url) as conn:
        return {row[0] for row in conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


def test_indexes_are_unused_only_after_thirty_days_and_unless_they_support_a_foreign_key(db: Database) -> None:
    large(db)
    db.run(
        "CREATE INDEX idle ON orders (note)",
        "CREATE UNIQUE INDEX enforcing ON orders (id, customer)",
        "ALTER TABLE orders ADD UNIQUE (customer, id), ADD owner int REFERENCES orders (id)",
        "CREATE INDEX supporting ON orders (owner)",
    )
    since = Point(datetime.now(UTC), datetime.now(UTC).timestamp() - 31 * 86400, {"target": "main"})

    young = review(db, large_from="8kB")
    old = db.job("query_review", {"large_from": "8kB"}, series={"pg_statistics_since": [since]})

    assert young.check("main: unused indexes").status is CheckStatus.UNKNOWN
    check = old.check("main: unused indexes")
    assert (check.status, check.observed) == (CheckStatus.WARN, 1), old.text()
    assert 'DROP INDEX CONCURRENTLY "public"."idle";' in check.hint


def test_stale_statistics_are_reported_and_analyzed_only_where_asked_and_allowed(db: Database) -> None:
    db.run("CREATE TABLE changed (id int) WITH (autovacuum_enabled = off)", "INSERT INTO changed SELECT 1")
    reader = db.role("reader", "pg_monitor")

    reported = review(db)
    refused = db.job("query_review", {"analyze": True}, as_role=reader)
    planned = db.job("query_review", {"analyze": True}, dry_run=True)
    done = review(db, analyze=True)

    for result in (reported, refused, planned):
        check = result.check("main: tables with stale statistics")
        assert (check.status, check.observed) == (CheckStatus.WARN, 1), result.text()
        assert 'ANALYZE "public"."changed";' in check.hint
    assert 'GRANT "postgres" TO' in refused.check("main: tables with stale statistics").hint
    assert (reported.changes, refused.changes) == ([], [])
    assert done.check("main: tables with stale statistics").status is CheckStatus.OK, done.text()
    assert [change.action for change in done.changes] == ["analyze"]


def test_a_locked_partition_hides_nothing(db: Database) -> None:
    db.run(
        "CREATE TABLE parent (id int PRIMARY KEY)",
        "CREATE TABLE parts (at int, parent int REFERENCES parent) PARTITION BY RANGE (at)",
        "CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (at)",
        "CREATE TABLE lowest PARTITION OF low FOR VALUES FROM (0) TO (5)",
        "CREATE TABLE high PARTITION OF parts FOR VALUES FROM (10) TO (20)",
        "INSERT INTO parts SELECT g % 20, NULL FROM generate_series(100, 5099) g WHERE g % 20 < 5 OR g % 20 >= 10",
        "ANALYZE parts",
    )
    free = review(db, large_from="0B", memory={"main": "512MiB"})
    with psycopg.connect(db.url) as conn:
        conn.execute("LOCK TABLE lowest, high IN ACCESS EXCLUSIVE MODE")
        locked = review(db, large_from="0B", memory={"main": "512MiB"})

    assert locked.outcome == free.outcome, locked.text()
    for name in ("foreign keys without an index", "tables with stale statistics", "shared_buffers of the memory limit"):
        assert locked.check(f"main: {name}").observed == free.check(f"main: {name}").observed, locked.text()
    assert '("parent")' in free.check("main: foreign keys without an index").hint.replace("(parent)", '("parent")')


def test_settings_are_compared_with_the_memory_and_name_their_rule(db: Database) -> None:
    small, fitting = review(db, memory={"main": "64MiB"}), review(db, memory={"main": "512MiB"})

    # 128 MB of shared_buffers and 100 sessions with 4 MB × 2 (hash_mem_multiplier of Postgres 15) are 928 MB.
    assert small.check("main: shared_buffers of the memory limit").status is CheckStatus.WARN
    assert fitting.check("main: shared_buffers of the memory limit").observed == 0.25
    assert fitting.check("main: memory if each session sorts or hashes once").observed == (128 + 800) << 20
    logged = fitting.check("main: slow statements logged")
    assert (logged.status, logged.observed) == (CheckStatus.WARN, "no")
    assert review(db).check("main: shared_buffers of the memory limit").status is CheckStatus.UNKNOWN
    assert all(check.rule for check in fitting.checks if check.name != "main: reviewed"), fitting.text()


def test_a_server_that_hangs_or_refuses_is_not_ok_and_hides_no_other(db: Database) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = f"postgresql://postgres@127.0.0.1:{silent.getsockname()[1]}/x"
        targets = {"a": {"dsn": hanging, "timeout": "1s"}, "b": {"dsn": db.url}}

        result = run_job("query_review", {}, {"postgres": targets})

    assert result.check("a: reviewed").status is CheckStatus.FAIL
    assert "timed_out" in str(result.check("a: reviewed").observed)
    assert result.check("b: statements").status is CheckStatus.OK
    assert "a: reviewed" in json.dumps(report(result))
