"""Statements of pg_stat_statements: no literal in their texts, and the columns of each version of the view."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maintd.checks.postgres.statement_history import Basis, Earlier, interval, regressions
from maintd.checks.postgres.statements import COUNTERS, Snapshot, Statement, columns_for, redacted

NOW = datetime(2026, 12, 12, 1, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ALTER ROLE a PASSWORD 'geheim'", "ALTER ROLE a PASSWORD ?"),
        ("ALTER ROLE a PASSWORD E'ge\\'heim'", "ALTER ROLE a PASSWORD ?"),
        ("ALTER ROLE a PASSWORD $$ge'heim$$", "ALTER ROLE a PASSWORD ?"),
        ("ALTER ROLE a PASSWORD $x$ge$$heim$x$ VALID UNTIL 'x'", "ALTER ROLE a PASSWORD ? VALID UNTIL ?"),
        ("ALTER ROLE a PASSWORD 'it''s'", "ALTER ROLE a PASSWORD ?"),
        ("ALTER ROLE a PASSWORD U&'ge\\0068eim'", "ALTER ROLE a PASSWORD ?"),
        ("ALTER ROLE a PASSWORD 'cut off", "ALTER ROLE a PASSWORD ?"),
        ("ALTER ROLE a PASSWORD $$cut off", "ALTER ROLE a PASSWORD ?"),
        ("ALTER ROLE a PASSWORD 'a\\' geheim' x", "ALTER ROLE a PASSWORD ? …"),  # where backslashes escape
        ("SELECT 1 /* key=geheim */ + 2 -- geheim", "SELECT ? + ?"),
        ("SELECT 1 /* a /* b */ geheim */ + 2 /* /* geheim */", "SELECT ? + ?"),  # comments contain comments
        ("SET app.token = geheim", "SET app.token = ?"),
        ('SET "app"."token" TO "ge heim"', 'SET "app"."token" TO ?'),
        ('ALTER ROLE a SET app.k="geheim"', "ALTER ROLE a SET app.k= ?"),
        ("alter database d set local_k to geheim, geheim", "alter database d set local_k to ?"),
        ("UPDATE t SET a = b WHERE c", "UPDATE t SET a = b WHERE c"),
        ("ALTER TABLE t SET (fillfactor = 70)", "ALTER TABLE t SET (fillfactor = ?)"),
        ('SELECT "Mixed 1".a1, $1 FROM t2 WHERE x = 5.5e3', 'SELECT "Mixed 1".a1, $1 FROM t2 WHERE x = ?'),
        ("SELECT  a\n FROM t", "SELECT a FROM t"),
        ("", ""),
    ],
)
def test_literals_and_comments_are_not_kept(text: str, expected: str) -> None:
    assert redacted(text) == expected


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=40))
def test_whatever_a_password_is_nothing_of_it_is_kept(password: str) -> None:
    quoted = password.replace("'", "''")

    text = redacted(f"ALTER ROLE a PASSWORD '{quoted}'")

    assert text in ("ALTER ROLE a PASSWORD ?", "ALTER ROLE a PASSWORD ? …")


NEWEST_IO = " + ".join(f"s.{kind}_blk_{act}_time" for kind in ("shared", "local", "temp") for act in ("read", "write"))
OLDER = {"calls", "rows", "temp_blks_read", "temp_blks_written"}


@pytest.mark.parametrize(
    ("columns", "exec_ms", "io_ms"),
    [
        (
            OLDER | {"total_time", "blk_read_time", "blk_write_time"},
            "s.total_time",
            "s.blk_read_time + s.blk_write_time",
        ),
        (
            OLDER | {"total_exec_time", "blk_read_time", "blk_write_time"},
            "s.total_exec_time",
            "s.blk_read_time + s.blk_write_time",
        ),
        (
            OLDER
            | {"total_exec_time", "total_plan_time", "wal_bytes", "stats_since", "minmax_stats_since"}
            | {"shared_blk_read_time", "shared_blk_write_time", "local_blk_read_time", "local_blk_write_time"}
            | {"temp_blk_read_time", "temp_blk_write_time"},
            "s.total_exec_time",
            NEWEST_IO,
        ),
        (OLDER | {"renamed"}, None, None),
    ],
    ids=["12", "13 and 14", "17", "a later one"],
)
def test_counters_are_read_from_the_columns_that_the_view_has(
    columns: set[str], exec_ms: str | None, io_ms: str | None
) -> None:
    found = columns_for(columns)

    assert (found["exec_ms"], found["io_ms"]) == (exec_ms, io_ms)
    assert set(found) == set(COUNTERS)


def statement(query_id: int, calls: float, exec_ms: float, since: datetime | None = None) -> Statement:
    counters = dict.fromkeys(COUNTERS, 0.0) | {"calls": calls, "exec_ms": exec_ms}
    return Statement("app", 10, 1, query_id, True, f"SELECT {query_id}", counters, since)


def snapshot(*statements: Statement, reset_at: datetime | None = None, total: int | None = None) -> Snapshot:
    return Snapshot(NOW, reset_at, 0, total or len(statements), statements, timed=True)


def before(*statements: Statement, complete: bool = True, reset_at: datetime | None = None) -> Earlier:
    counters = {item.key: {name: value or 0.0 for name, value in item.counters.items()} for item in statements}
    return Earlier(NOW - timedelta(days=90), reset_at, 0, complete, counters)


def test_only_what_was_executed_since_the_last_run_counts() -> None:
    found = interval(
        snapshot(statement(1, 30, 300), statement(2, 5, 5)), before(statement(1, 10, 100), statement(2, 5, 5))
    )

    assert [(item.statement.query_id, item.calls, item.mean_ms) for item in found.executed] == [(1, 20, 10)]
    assert found.basis is Basis.LAST_RUN


def test_a_statement_that_was_evicted_and_seen_again_counts_from_then_on() -> None:
    found = interval(
        snapshot(statement(1, 3, 30), statement(2, 9, 9)), before(statement(1, 10, 100), statement(2, 8, 8))
    )

    assert {item.statement.query_id: item.calls for item in found.executed} == {1: 3, 2: 1}
    assert (found.restarted, found.basis) == (1, Basis.LAST_RUN)


def test_from_postgres_17_on_a_statement_that_began_again_is_known_by_its_time() -> None:
    found = interval(snapshot(statement(1, 30, 300, since=NOW - timedelta(days=1))), before(statement(1, 10, 100)))

    assert found.executed[0].calls == 30


def test_a_statement_that_the_last_run_did_not_keep_is_only_known_at_most() -> None:
    known, cut = (interval(snapshot(statement(1, 3, 30)), before(complete=complete)) for complete in (True, False))

    assert [known.executed[0].at_most, cut.executed[0].at_most] == [False, True]


@pytest.mark.parametrize(
    ("calls", "exec_ms", "slower"),
    [
        (20, 10 * 10 + 10 * 20.0, True),  # 10 calls of 20 ms after 10 of 10 ms
        (20, 10 * 10 + 10 * 19.9, False),
        (12, 10 * 10 + 2 * 50.0, False),  # two calls are no mean
    ],
)
def test_a_mean_that_has_doubled_is_slower(calls: float, exec_ms: float, slower: bool) -> None:
    found = interval(snapshot(statement(1, calls, exec_ms)), before(statement(1, 10, 100)))

    assert bool(regressions(found.executed, 2.0, 10.0)) is slower


def test_a_fast_statement_is_never_slower() -> None:
    found = interval(snapshot(statement(1, 20, 10 + 10 * 9)), before(statement(1, 10, 10)))  # 1 ms, then 9 ms

    assert regressions(found.executed, 2.0, 10.0) == []
