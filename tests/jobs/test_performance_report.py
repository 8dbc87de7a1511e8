"""The performance report of a real Prometheus with two generated weeks, and of a real Postgres."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.job_runs import JobResult, run_job
from support.sample_weeks import HOSTILE, end, history
from support.servers.postgres import PostgresServer
from support.servers.prometheus import CONFIG, WebServer, prometheus

from maintd.model.evidence import CheckStatus

pytestmark = pytest.mark.server

HEADINGS = [
    "Against the week before",
    "Trading Metrics",
    "System Performance",
    "Alerts Summary",
    "Recommendations",
    "Method",
]
PLACEHOLDER = re.compile(r"\[(from|calculated|count|Performance|Capacity|Monitoring)|\bNone\b|\bnan\b|\binf\b|TODO")
BY_DAY = """
SELECT (ts AT TIME ZONE 'UTC')::date AS day, count(*) AS trades,
       sum((payload->>'profit')::numeric) AS pnl, avg((payload->>'profit')::numeric) AS mean_pnl
FROM audit_events WHERE type = 'order_filled' AND ts >= %(start)s AND ts < %(end)s GROUP BY 1 ORDER BY 1
"""
EXECUTION = """
SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY f.ts - s.ts) AS p95, sum(NULL::int) AS nothing
FROM audit_events s JOIN audit_events f USING (request_id)
WHERE s.type = 'order_submitted' AND f.type = 'order_filled' AND s.ts >= %(start)s AND s.ts < %(end)s
"""
QUERIES: dict[str, Any] = {
    "orders": {
        "title": "Orders",
        "needs": ["audit_events"],
        "sql": BY_DAY,
        "units": {"pnl": "USD", "mean_pnl": "USD"},
        "means": ["mean_pnl"],
    },
    "execution": {"title": "Execution", "needs": ["public.audit_events"], "sql": EXECUTION, "units": {"p95": "s"}},
    "trades": {"title": "Trades", "needs": ["trades"], "sql": "SELECT count(*) AS n FROM trades"},
}


@pytest.fixture(scope="module")
def two_weeks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    rules = tmp_path_factory.mktemp("rules") / "rules.yml"
    rules.write_text('groups: [{name: g, rules: [{alert: Never, expr: "vector(0) > 1"}]}]')
    with prometheus(f"rule_files: [{rules}]\n{CONFIG}", history()) as server:
        yield server


@pytest.fixture
def trading(postgres_server: PostgresServer) -> Iterator[str]:
    """Five weeks with ten orders a day that took 100, 110 … 190 ms; last week has one day without any."""
    url = postgres_server.create("trading")
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            "CREATE TABLE audit_events (id bigserial PRIMARY KEY, ts timestamptz NOT NULL, type text NOT NULL,"
            " severity text NOT NULL, payload jsonb NOT NULL DEFAULT '{}', request_id text)"
        )
        for age in range(1, 36):
            if age == 3:
                continue
            for number in range(10):
                # 23:50 UTC and later: in the zone of New York or Kathmandu it would be another day.
                at = end() - timedelta(days=age) + timedelta(hours=23, minutes=50 + number % 10)
                request = f"{age}-{number}"
                filled = json.dumps({"profit": "1.25"} if number else {})  # one has no profit
                conn.execute(
                    "INSERT INTO audit_events (ts, type, severity, payload, request_id) VALUES"
                    " (%s, 'order_submitted', 'info', '{}', %s), (%s, 'order_filled', 'info', %s, %s)",
                    (at, request, at + timedelta(milliseconds=100 + 10 * number), filled, request),
                )
        conn.execute("ALTER DATABASE trading SET timezone = 'Asia/Kathmandu'")
    yield url
    postgres_server.drop("trading")


def report(two_weeks: WebServer | None, dsn: str | None, folder: Path, **params: Any) -> JobResult:
    targets: dict[str, Any] = {"prometheus": {"main": {"url": two_weeks.url}}} if two_weeks else {}
    if dsn:
        targets["postgres"] = {"main": {"dsn": dsn}}
    return run_job("performance_report", params, targets, folder=folder, reports_dir=folder / "reports")


def written(result: JobResult, ending: str) -> str:
    path = next(item.path for item in result.artifacts if item.name.endswith(ending))
    return Path(path).read_text()


def figures(result: JobResult) -> dict[tuple[str, str], dict[str, Any]]:
    return {(item["kind"], item["name"]): item for item in json.loads(written(result, "json"))["figures"]}


def test_the_weekly_report_has_every_heading_of_the_runbook(two_weeks: WebServer, trading: str, tmp_path: Path) -> None:
    result = report(two_weeks, trading, tmp_path, title="Trading Metrics", queries=QUERIES)

    assert result.error is None, result.text()
    stamp = f"{end():%Y%m%d}"
    names = [f"performance-{stamp}.{ending}" for ending in ("md", "html", "json")]
    assert [item.name for item in result.artifacts] == names
    assert sorted(path.name for path in (tmp_path / "reports").glob("performance-*")) == sorted(names)
    text = written(result, "md")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    assert text.startswith(f"# Weekly Performance Report - {end():%Y-%m-%d}\n")
    for label in (
        "Average API Latency (P95)",
        "Error Rate",
        "Average Memory Usage",
        "Average CPU Usage",
        "Total Alerts",
        "Critical Alerts",
        "Mean Time to Resolution",
        "Performance optimization recommendations",
        "Capacity planning recommendations",
        "Monitoring improvements",
    ):
        assert f"- {label}:" in text
    for form in ("md", "html", "json"):
        assert not PLACEHOLDER.search(written(result, form)), form


def test_latency_errors_and_traffic_come_from_the_histogram(two_weeks: WebServer, tmp_path: Path) -> None:
    result = report(two_weeks, None, tmp_path)

    # Worked out by hand where the history is made: tests/jobs/made_weeks.py.
    found = figures(result)
    assert found["latency p50", "web:7001"]["value"] == pytest.approx(0.05)
    assert found["latency p95", "web:7001"]["value"] == pytest.approx(0.1 + 0.2 * 5 / 6)
    assert found["latency p99", "web:7001"]["value"] == pytest.approx(0.3 + 0.2 * 3 / 4)
    assert found["latency p95", "web:7001"]["before"] == pytest.approx(0.1, rel=0.01)
    assert found["requests", "web:7001"]["value"] == pytest.approx(7 * 144 * 100, rel=0.001)
    assert found["errors", "web:7001"]["value"] == pytest.approx(2.0, rel=0.001)
    assert found["errors", "slow:7002"]["value"] == 0  # not each of its errors divided by itself
    assert found["cpu", "web:7001"]["value"] == pytest.approx(0.25)
    assert result.check("errors of web:7001").status is CheckStatus.WARN
    assert result.check("latency p95 of web:7001 against the week before").status is CheckStatus.WARN


def test_a_quantile_above_the_highest_bucket_is_a_lower_bound_and_fails(two_weeks: WebServer, tmp_path: Path) -> None:
    result = report(two_weeks, None, tmp_path)

    assert figures(result)["latency p95", "slow:7002"]["at_least"] is True
    assert result.check("latency p95 of slow:7002").status is CheckStatus.FAIL
    assert "≥ 5 s" in written(result, "md")


def test_a_service_with_low_coverage_is_unknown(two_weeks: WebServer, tmp_path: Path) -> None:
    result = report(two_weeks, None, tmp_path)

    check = result.check("requests of gone:7003")
    assert check.status is CheckStatus.UNKNOWN
    assert re.search(r"only 4[23](\.\d)? % of its window is covered", str(check.observed))
    assert result.named("latency p95 of gone:7003") == []
    assert figures(result)["latency p95", "gone:7003"]["coverage"] == pytest.approx(3 / 7, abs=0.02)


def test_memory_that_grows_since_the_last_start_is_a_leak(two_weeks: WebServer, tmp_path: Path) -> None:
    result = report(two_weeks, None, tmp_path)

    check = result.check("memory growth of web:7001")
    assert check.status is CheckStatus.WARN
    assert check.observed == pytest.approx(2.85, abs=0.15)  # 3 MB a day of a mean of about 105 MB
    assert result.named("memory growth of slow:7002") == []


def test_alerts_are_counted_with_their_time_to_resolution(two_weeks: WebServer, tmp_path: Path) -> None:
    result = report(two_weeks, None, tmp_path)

    found = figures(result)
    assert found["alerts", "all"]["value"] == 8
    assert found["alerts", "critical"]["value"] == 1
    assert found["alert", "HighLatency"]["value"] == 6
    assert found["alert", "DiskFills"]["details"]["open"] == 1
    assert found["alert", "RedisDown"]["details"]["resolution"] == pytest.approx(1800, abs=600)
    assert result.check("alert HighLatency fired").status is CheckStatus.WARN
    assert result.check("critical alerts").status is CheckStatus.WARN


def test_hostile_names_are_escaped(two_weeks: WebServer, tmp_path: Path) -> None:
    result = report(two_weeks, None, tmp_path)

    assert ("slow path", HOSTILE) in figures(result)
    assert "<script>" not in written(result, "html")
    assert "<script>" not in written(result, "md")
    row = next(line for line in written(result, "md").splitlines() if "alert(1)" in line and line.startswith("|"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 7  # six cells


def test_sql_is_read_in_whole_utc_days_and_compared_with_earlier_weeks(trading: str, tmp_path: Path) -> None:
    result = report(None, trading, tmp_path, queries=QUERIES)

    found = figures(result)
    assert found["query orders", "trades"]["value"] == 60  # six of seven days, though Kathmandu is a day ahead
    assert found["query orders", "trades"]["before"] == 70
    assert found["query orders", "trades"]["coverage"] == pytest.approx(6 / 7)
    assert found["query orders", "pnl"]["value"] == pytest.approx(6 * 9 * 1.25)  # NULL is no profit of zero
    assert found["query orders", "mean_pnl"]["value"] == pytest.approx(1.25)
    assert found["query execution", "p95"]["value"] == pytest.approx(0.19, abs=0.001)
    assert found["query execution", "nothing"]["cause"] == "NULL in all rows"
    assert result.check("days of orders").status is CheckStatus.WARN
    assert "no data" in written(result, "md")
    assert result.measure("query_value", query="orders", column="trades") == 60


def test_a_relation_that_does_not_exist_is_a_source_that_is_missing(trading: str, tmp_path: Path) -> None:
    result = report(None, trading, tmp_path, queries=QUERIES)

    assert 'source missing: there is no relation "trades"' in str(result.check("query trades of trades").observed)
    assert result.check("query trades of trades").status is CheckStatus.UNKNOWN


@pytest.mark.parametrize(
    ("sql", "cause", "hint"),
    [
        ("SELECT no_such_column FROM audit_events WHERE ts > %(start)s", "does not exist", "correct the query"),
        (
            "DELETE FROM audit_events WHERE ts > %(start)s RETURNING 1 AS gone",
            "read-only transaction",
            "correct the SQL",
        ),
        ("SELECT 1 AS n WHERE %(start)s < now(); DROP TABLE audit_events", "multiple commands", "correct the SQL"),
        (
            "SELECT count(*) AS n FROM generate_series(1, 100000000) WHERE %(start)s < now()",
            "its planned cost of",
            "raise the param max_cost",
        ),
        ("SELECT 1 AS n WHERE %(start)s < now() - interval '10 days'", "no rows in this window", "wrote rows"),
        ("SELECT 1 AS n WHERE %(start)s > now()", "no data yet", ""),
        ("SELEC 1", "syntax error", "correct the SQL"),
    ],
    ids=["column", "writes", "two statements", "costly", "no rows", "never any rows", "syntax"],
)
def test_a_failing_query_does_not_affect_the_others(
    trading: str, tmp_path: Path, sql: str, cause: str, hint: str
) -> None:
    queries = {"bad": {"title": "Bad", "sql": sql}, "orders": QUERIES["orders"]}

    result = report(None, trading, tmp_path, queries=queries, max_cost=100_000)

    assert cause in str(result.check("query bad of bad").observed)
    assert hint in (result.check("query bad of bad").hint or "")
    assert result.measure("query_value", query="orders", column="trades") == 60
    with psycopg.connect(trading) as conn:
        assert conn.execute("SELECT count(*) FROM audit_events").fetchone() == (680,)  # 34 days of 20


def test_a_week_without_any_figure_is_reported_and_fails(prometheus_server: WebServer, tmp_path: Path) -> None:
    result = report(prometheus_server, "postgresql://postgres@127.0.0.1:1/x", tmp_path, queries=QUERIES)

    assert result.error is None, result.text()
    assert result.check("figures measured").status is CheckStatus.FAIL
    down = [check.hint or "" for check in result.checks if check.name.startswith("query ")]
    assert down
    assert all("check that it is running" in hint and "query" not in hint for hint in down)
    text = written(result, "md")
    assert text.count("not measured: ") > 10
    assert "no data for" in text
    assert "check that it is running" in text
    assert not PLACEHOLDER.search(text)
    assert not re.search(r": \**0\b", text)  # never a zero where nothing was seen


def test_without_alerting_rules_the_number_of_alerts_is_unknown(tmp_path: Path) -> None:
    only_up = "\n".join(line for line in history().splitlines() if line.startswith(("up{", "# EOF"))) + "\n"

    with prometheus(openmetrics=only_up) as server:
        result = report(server, None, tmp_path)

    assert "no alerting rules" in str(result.check("alerts of all").observed)


@pytest.mark.parametrize("queries", [{}, QUERIES], ids=["no queries", "queries without a database"])
def test_without_prometheus_and_queries_it_is_not_configured(tmp_path: Path, queries: dict[str, Any]) -> None:
    result = report(None, None, tmp_path, queries=queries)

    assert getattr(result.error, "cause", "") == "not_configured"


def test_queries_without_a_database_are_optional_beside_prometheus(
    prometheus_server: WebServer, tmp_path: Path
) -> None:
    result = report(prometheus_server, None, tmp_path, queries=QUERIES)

    check = result.check("queries")
    assert (str(check.observed).partition(": ")[2], check.optional) == ("not_configured: no postgres target", True)


def test_a_prometheus_that_does_not_answer_is_reported(trading: str, tmp_path: Path) -> None:
    targets = {"prometheus": {"main": {"url": "http://127.0.0.1:1"}}, "postgres": {"main": {"dsn": trading}}}

    result = run_job("performance_report", {"queries": QUERIES}, targets, folder=tmp_path)

    assert result.outcome == "unknown"
    assert "127.0.0.1:1" in str(result.check("requests of all").observed)
    assert result.measure("query_value", query="orders", column="trades") == 60


def test_the_name_of_the_metric_can_be_configured(two_weeks: WebServer, tmp_path: Path) -> None:
    result = report(two_weeks, None, tmp_path, histogram="no_such_seconds", memory=["no_such_bytes"])

    assert "no data for" in str(result.check("requests of all").observed)
    assert "no_such_bytes" in str(result.check("memory of all").observed)
    assert figures(result)["cpu", "web:7001"]["value"] == pytest.approx(0.25)


def test_reports_of_a_day_stay_and_a_dry_run_plans_what_the_run_does(
    prometheus_server: WebServer, tmp_path: Path
) -> None:
    targets = {"prometheus": {"main": {"url": prometheus_server.url}}}
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "performance-20200101.md").write_text("of an operator")

    def changes(*, dry_run: bool) -> list[tuple[str, str]]:
        result = run_job(
            "performance_report", {"keep": 1}, targets, folder=tmp_path, reports_dir=folder, dry_run=dry_run
        )
        return [(change.action, Path(change.target).name) for change in result.changes]

    first = changes(dry_run=False)
    content = {path: path.read_bytes() for path in folder.glob("performance-*")}
    planned = changes(dry_run=True)
    assert {path: path.read_bytes() for path in folder.glob("performance-*")} == content
    second = changes(dry_run=False)

    assert len(first) == 3
    assert planned == second
    assert sorted(action for action, _ in second) == ["delete"] * 3 + ["write"] * 3
    assert {name for action, name in second if action == "delete"} == {name for _, name in first}
    assert (folder / "performance-20200101.md").exists()
