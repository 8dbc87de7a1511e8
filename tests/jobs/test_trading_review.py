"""Review of a trading day: an HTTP service compared with a real Postgres; activity from Redis and Prometheus."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from support.http_services import Reply, http_service, json_reply, port_that_hangs
from support.job_runs import JobResult, run_job
from support.servers.postgres import PostgresServer
from support.servers.prometheus import prometheus
from support.servers.redis import RedisServer

from maintd.job.attempt_info import Point
from maintd.model.evidence import CheckStatus

DAY = {
    "table": "pnl_days",
    "sql": "SELECT realized, percent FROM pnl_days WHERE date = %(day)s",
    "same": {"realized": "realized", "percent": "percent"},
}
AUDIT = {
    "table": "audit_events",
    "sql": "SELECT type, severity, count(*) AS count FROM audit_events"
    " WHERE ts >= %(since)s AND ts < %(until)s GROUP BY type, severity",
}
SCHEMA = """
CREATE TABLE audit_events (id bigserial PRIMARY KEY, ts timestamptz NOT NULL, type text NOT NULL, severity text);
CREATE TABLE pnl_days (date date PRIMARY KEY, realized numeric NOT NULL, percent numeric NOT NULL);
"""


def figures(**changes: Any) -> dict[str, Any]:
    """What the service answers today."""
    today = datetime.now(UTC).date().isoformat()
    return {"date": today, "startEquity": 1000, "realized": 12.5, "percent": 0.4, "halted": False} | changes


@contextmanager
def service(body: Reply | Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Targets with one service that has these figures."""
    with http_service({"/pnl/status": body if isinstance(body, Reply) else json_reply(body)}) as url:
        yield {"http": {"orders": {"url": f"{url}/health", "timeout": "2s"}}}


def review(
    body: Reply | Mapping[str, Any], params: dict[str, Any] | None = None, more: Any = None, **how: Any
) -> JobResult:
    with service(body) as targets:
        return run_job("trading_review", params or {}, {**targets, **(more or {})}, **how)


# --- the figures ---


def test_a_sound_day_succeeds() -> None:
    result = review(figures(), {"figures": {"numbers": ["startEquity", "realized"], "positive": ["startEquity"]}})

    assert result.outcome == "succeeded", result.text()
    assert result.check("figures: startEquity").observed == 1000
    assert result.measure("figure_realized") == 12.5
    assert result.measure("halted") == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "n/a", True, [1]])
def test_a_figure_that_is_not_a_finite_number_fails(value: Any) -> None:
    result = review(figures(realized=value))

    assert result.check("figures: realized").status is CheckStatus.FAIL
    assert not [measure for measure in result.measures if measure.name == "figure_realized"]


def test_a_day_that_was_not_initialised_fails() -> None:
    result = review(figures(startEquity=0), {"figures": {"positive": ["startEquity"]}})

    assert result.check("figures: startEquity").status is CheckStatus.FAIL
    assert "not initialised" in result.check("figures: startEquity").hint


def test_figures_of_another_day_fail() -> None:
    result = review(figures(date="2020-01-01"))

    assert result.check("figures: day").status is CheckStatus.FAIL


@pytest.mark.parametrize(
    ("halted", "expected", "status"),
    [(True, False, "fail"), (True, True, "ok"), (False, True, "fail"), ("no", False, "fail")],
)
def test_the_halt_must_be_as_expected(halted: Any, expected: bool, status: str) -> None:
    result = review(figures(halted=halted), {"figures": {"expect_halted": expected}})

    assert result.check("figures: halted").status.value == status


@pytest.mark.parametrize(
    ("percent", "target", "status"),
    [
        (1.2, 1, "ok"),
        (1, 1, "ok"),
        (0.99, 1, "fail"),
        (-1.5, 1, "fail"),
        (0, 0, "fail"),
        (5, None, "fail"),
        (5, "n/a", "fail"),
    ],
)
def test_a_halt_because_the_daily_target_is_reached_is_no_failure(percent: float, target: Any, status: str) -> None:
    result = review(figures(halted=True, percent=percent, dailyTargetPct=target))

    assert result.check("figures: halted").status.value == status
    assert result.measure("halted") == 1


def test_a_halt_that_is_expected_stays_expected_on_a_day_with_its_target() -> None:
    result = review(figures(halted=True, percent=2, dailyTargetPct=1), {"figures": {"expect_halted": True}})

    assert result.check("figures: halted").observed is True


# The limits themselves count: -1 % warns, -2 % fails.
@pytest.mark.parametrize(
    ("percent", "status"), [(0.4, "ok"), (-0.99, "ok"), (-1, "warn"), (-1.99, "warn"), (-2, "fail"), (-7, "fail")]
)
def test_a_loss_warns_and_then_fails(percent: float, status: str) -> None:
    result = review(figures(percent=percent))

    assert result.check("figures: result of the day").status.value == status


@pytest.mark.parametrize(
    ("reply", "status", "words"),
    [
        (Reply(b"<html>Sign in", content_type="text/html"), "fail", "a web page"),
        (Reply(b"[]"), "fail", "did not answer a JSON object"),
        (Reply(b"{}", status=500), "fail", "500"),
        (Reply(b"{}", status=403), "unknown", "403"),
    ],
)
def test_a_response_without_figures_is_described(reply: Reply, status: str, words: str) -> None:
    result = review(reply)

    assert result.check("figures: answer").status.value == status
    assert words in str(result.check("figures: answer").observed)


def test_a_service_that_hangs_fails_and_the_rest_is_still_reviewed(free_port: int) -> None:
    with port_that_hangs() as port:
        targets = {
            "http": {"main": {"url": f"http://127.0.0.1:{port}/", "timeout": "1s"}},
            "postgres": {"main": {"dsn": f"postgresql://postgres@127.0.0.1:{free_port}/x"}},
        }

        result = run_job("trading_review", {"day": DAY, "streams": ["x"], "metrics": {"orders": "up"}}, targets)

    assert "timed_out" in str(result.check("figures: answer").observed)
    assert result.check("postgres: answers").status is CheckStatus.FAIL
    assert result.check("redis: answers").status is CheckStatus.UNKNOWN
    assert result.check("prometheus: answers").status is CheckStatus.UNKNOWN


# --- Postgres ---


@pytest.fixture
def dsn(postgres_server: PostgresServer) -> Iterator[str]:
    name = f"trading_{uuid.uuid4().hex[:8]}"
    url = postgres_server.create(name)
    with psycopg.connect(url) as session:
        session.execute(SCHEMA)
    yield url
    postgres_server.drop(name)


def write(dsn: str, *, days: Mapping[int, float] = {}, events: Mapping[int, int] = {}) -> None:
    """Rows of pnl_days (days ago → realized), and numbers of audit events (days ago → how many), an hour before now."""
    now = datetime.now(UTC)
    with psycopg.connect(dsn) as session:
        for ago, realized in days.items():
            session.execute("INSERT INTO pnl_days VALUES (%s, %s, 0.4)", [now.date() - timedelta(days=ago), realized])
        for ago, count in events.items():
            at = now - timedelta(days=ago, hours=1)
            rows = "SELECT %s, 'order_submitted', 'info' FROM generate_series(1, %s)"
            session.execute(f"INSERT INTO audit_events (ts, type, severity) {rows}", [at, count])


def postgres(dsn: str) -> dict[str, Any]:
    return {"postgres": {"main": {"dsn": dsn}}}


@pytest.mark.server
def test_figures_that_agree_with_the_days_row_are_reconciled(dsn: str) -> None:
    write(dsn, days={0: 12.505, 1: 3})

    result = review(figures(), {"day": DAY}, postgres(dsn))

    assert result.outcome == "succeeded", result.text()
    assert result.check("reconciled: realized").observed == 0.005


@pytest.mark.server
def test_figures_that_differ_from_the_days_row_fail_with_both_values(dsn: str) -> None:
    write(dsn, days={0: 11, 1: 3})

    result = review(figures(), {"day": DAY}, postgres(dsn))

    failed = result.check("reconciled: realized")
    assert (failed.status, failed.observed) == (CheckStatus.FAIL, 1.5)
    assert "12.5" in failed.hint
    assert "11" in failed.hint


@pytest.mark.server
def test_a_day_without_a_row_is_unknown_and_not_zero(dsn: str) -> None:
    result = review(figures(), {"day": DAY}, postgres(dsn))

    assert result.check("the day's row").status is CheckStatus.UNKNOWN
    assert result.check("the row of the day before").status is CheckStatus.UNKNOWN
    assert result.outcome == "unknown"


@pytest.mark.server
def test_a_missing_table_is_a_missing_source(dsn: str) -> None:
    trades = {"table": "trades", "sql": "SELECT count(*) AS count FROM trades WHERE created_at >= %(since)s"}

    result = review(figures(), {"queries": {"trades": trades}}, postgres(dsn))

    unseen = result.check("activity: trades")
    assert unseen.status is CheckStatus.UNKNOWN
    assert "source missing" in str(unseen.observed)


@pytest.mark.server
@pytest.mark.parametrize(("today", "status"), [(20, "ok"), (5, "warn"), (100, "warn"), (0, "warn")])
def test_activity_is_compared_with_the_same_weekday(dsn: str, today: int, status: str) -> None:
    # The median of 20, 22, 18, 500 is 21: usual is 7 to 63. Yesterday is another weekday.
    write(dsn, events={0: today, 1: 999, 7: 20, 14: 22, 21: 18, 28: 500})

    result = review(figures(), {"queries": {"audit": AUDIT}}, postgres(dsn))

    assert result.check("activity: audit").status.value == status, result.text()
    if today:
        assert result.measure("activity_audit", type="order_submitted", severity="info") == today


@pytest.mark.server
def test_without_earlier_weeks_activity_is_not_compared(dsn: str) -> None:
    result = review(figures(), {"queries": {"audit": AUDIT}}, postgres(dsn))

    check = result.check("activity: audit")
    assert (check.status, check.optional) == (CheckStatus.UNKNOWN, True)
    assert "no data in earlier weeks to compare with; now 0" in str(check.observed)
    assert result.outcome == "succeeded"


@pytest.mark.server
@pytest.mark.parametrize(
    ("events", "status"),
    [
        ({0: 0, 7: 186}, "warn"),  # the only week there is had 186
        ({0: 150, 7: 186}, "ok"),
        ({0: 0, 7: 186, 14: 170}, "warn"),
        ({0: 0, 7: 0, 14: 186, 21: 100, 28: 100}, "warn"),  # a week without any, after the first data, counts
        ({0: 40, 7: 3}, "ok"),  # too little to compare, but not none
        ({0: 0, 7: 3}, "warn"),
    ],
)
def test_weeks_before_the_first_data_are_not_weeks_without_activity(
    dsn: str, events: dict[int, int], status: str
) -> None:
    write(dsn, events=events)

    result = review(figures(), {"queries": {"audit": AUDIT}}, postgres(dsn))

    assert result.check("activity: audit").status.value == status, result.text()


@pytest.mark.server
def test_a_number_that_may_be_anything_is_not_compared(dsn: str) -> None:
    write(dsn, events={0: 7, 28: 20})  # the median of 0, 0, 0 and 20 is none

    result = review(figures(), {"queries": {"audit": AUDIT}}, postgres(dsn))

    assert result.check("activity: audit").observed == "unknown: no activity in earlier weeks to compare with; now 7"
    assert all("at least 0" not in check.expected.split(", ") for check in result.checks if "activity" in check.name)


@pytest.mark.server
def test_rows_with_a_time_in_the_future_warn(dsn: str) -> None:
    write(dsn, events={-2: 3})

    result = review(figures(), {"queries": {"audit": AUDIT}}, postgres(dsn))

    ahead = result.check("activity: audit of the future")
    assert (ahead.status, ahead.observed) == (CheckStatus.WARN, 3)


@pytest.mark.server
@pytest.mark.parametrize(
    "sql", ["SELECT nonsense", "SELECT 1 AS other", "DELETE FROM audit_events RETURNING 1 AS count"]
)
def test_an_unusable_query_is_unknown_and_changes_nothing(dsn: str, sql: str) -> None:
    write(dsn, events={0: 3})

    result = review(figures(), {"queries": {"audit": {"table": "audit_events", "sql": sql}}}, postgres(dsn))

    assert result.check("activity: audit").status is CheckStatus.UNKNOWN
    with psycopg.connect(dsn) as session:
        assert session.execute("SELECT count(*) FROM audit_events").fetchone() == (3,)


# --- Redis and Prometheus ---


@pytest.mark.server
def test_new_entries_of_streams_are_counted_from_the_last_run(redis_server: RedisServer) -> None:
    stream = f"trading:{uuid.uuid4().hex[:8]}"
    with closing(redis_server.client()) as client:
        for number in range(30):
            client.xadd(stream, {"n": number}, maxlen=5, approximate=False)
        yesterday = datetime.now(UTC) - timedelta(days=1)
        series = {
            "stream_entries_added": [Point(yesterday, 10, {"stream": stream})],
            "activity_stream": [Point(datetime.now(UTC) - timedelta(days=7), 25, {"stream": stream})],
        }
        params = {"streams": [stream, f"{stream}:none"]}
        try:
            result = review(figures(), params, {"redis": {"main": {"url": redis_server.url}}}, series=series)
        finally:
            client.delete(stream)

    assert result.check(f"activity: stream {stream}").observed == 20  # 30 were added, 10 of them before the last run
    assert "typical on this weekday: 25" in result.check(f"activity: stream {stream}").hint
    missing = result.check(f"activity: stream {stream}:none")
    assert missing.status is CheckStatus.UNKNOWN
    assert "source missing" in str(missing.observed)


@pytest.mark.server
def test_a_metric_is_compared_with_the_same_weekday_and_a_missing_one_is_unknown() -> None:
    now = datetime.now(UTC)
    history = [
        f"orders_made {value} {(now - timedelta(days=ago)).timestamp():.3f}"
        for ago, value in ((14, 40), (7, 44), (0, 10))
    ]
    with prometheus(openmetrics="\n".join(["# TYPE orders_made gauge", *history, "# EOF\n"])) as server:
        params = {
            "metrics": {"orders": "sum(orders_made)", "ghosts": "sum(trading_orders_total)"},
            "compare": {"weeks": 2},
        }

        result = review(figures(), params, {"prometheus": {"main": {"url": server.url}}})

    orders = result.check("activity: orders")
    assert (orders.status, orders.observed) == (CheckStatus.WARN, 10)  # usual is 42, a third of it 14
    assert "typical on this weekday: 42" in orders.hint
    missing = result.check("activity: ghosts")
    assert missing.status is CheckStatus.UNKNOWN
    assert "source missing" in str(missing.observed)


def test_the_figures_are_requested_without_secrets_of_other_targets() -> None:
    result = review(figures())

    assert "token" not in json.dumps([str(item) for item in result.items]).lower()


@pytest.mark.server
def test_a_login_that_may_not_read_the_table_is_unknown(dsn: str) -> None:
    login = f"blind_{uuid.uuid4().hex[:6]}"
    write(dsn, days={0: 12.5}, events={0: 3})
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(f"CREATE ROLE {login} LOGIN IN ROLE pg_monitor")
        try:
            target = postgres(dsn.replace("postgres@", f"{login}@"))
            result = review(figures(), {"day": DAY, "queries": {"audit": AUDIT}}, target)
        finally:
            session.execute(f"DROP ROLE {login}")

    for name in ("the day's row", "activity: audit"):
        assert result.check(name).status is CheckStatus.UNKNOWN
        assert "denied" in str(result.check(name).observed)
