"""The performance report of a stack that is new: the time before the first data is neither zero nor a gap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.job_runs import JobResult, run_job
from support.sample_weeks import end, history
from support.servers.prometheus import CONFIG, WebServer, prometheus

from maintd.checks.performance.figures import Query, query_figures
from maintd.checks.postgres.queries import Answer
from maintd.model.evidence import Check, CheckStatus

DAY = timedelta(days=1)
SELECTOR = 'instance="web:7001"'  # the other services of the history are slow or gone on purpose
START = datetime(2026, 11, 22, tzinfo=UTC)


@contextmanager
def collected_since(start: datetime, more: str = "") -> Iterator[WebServer]:
    """A server with the history of one service since then."""
    lines = [
        line
        for line in history().splitlines()
        if "web:7001" in line and float(line.rsplit(" ", 1)[1]) >= start.timestamp()
    ]
    with prometheus(CONFIG, "\n".join([*more.splitlines(), *lines, "# EOF\n"])) as server:
        yield server


def report(server: WebServer, folder: Path) -> JobResult:
    targets = {"prometheus": {"main": {"url": server.url}}}
    return run_job("performance_report", {"selector": SELECTOR, "latency_warn": "10s"}, targets, folder=folder)


def alarms(result: JobResult) -> list[Check]:
    """What is not ok, but for the alerts, errors and the leak that the history has on purpose."""
    return [
        check
        for check in result.checks
        if check.status is not CheckStatus.OK
        and not (check.status is CheckStatus.UNKNOWN and check.optional)
        and not check.name.startswith(("alerts", "errors", "memory growth"))
    ]


def text_of(result: JobResult) -> str:
    return next(Path(item.path).read_text() for item in result.artifacts if item.name.endswith("md"))


@pytest.mark.server
@pytest.mark.parametrize("age", [timedelta(hours=5), DAY, 3 * DAY, 6 * DAY])
def test_data_that_began_within_the_week_are_evaluated_without_an_alarm(tmp_path: Path, age: timedelta) -> None:
    with collected_since(end() - age + timedelta(minutes=5)) as server:
        result = report(server, tmp_path)

    assert alarms(result) == [], result.text()
    check = result.check("requests of web:7001")
    assert check.optional
    assert f"new since {end() - age:%Y-%m-%d}" in str(check.observed)
    assert result.check("latency p95 of web:7001").status is CheckStatus.OK
    assert result.check("errors of web:7001").status is CheckStatus.WARN  # 2 %, also on the first day
    assert not result.named("against the week before")


@pytest.mark.server
def test_a_week_that_is_compared_with_a_single_day_is_not_compared(tmp_path: Path) -> None:
    with collected_since(end() - 8 * DAY) as server:
        result = report(server, tmp_path)

    assert "on the week before" not in text_of(result)
    assert not result.named("against the week before")
    assert alarms(result) == [], result.text()


@pytest.mark.server
@pytest.mark.parametrize("hours", [60, 100])
def test_a_target_that_was_down_is_a_gap_also_in_its_first_week(tmp_path: Path, hours: int) -> None:
    first = end() - 7 * DAY
    down = "\n".join(
        f'up{{job="agents",instance="web:7001"}} 0.0 {(first + timedelta(minutes=10 * step)).timestamp():.0f}'
        for step in range(hours * 6)
    )
    with collected_since(first + timedelta(hours=hours), down) as server:
        result = report(server, tmp_path)

    check = result.check("requests of web:7001")
    assert (check.status, check.optional) == (CheckStatus.UNKNOWN, False)
    assert result.named("latency p95 of web:7001") == []


@pytest.mark.server
def test_a_server_whose_first_day_is_not_over_has_no_data_yet(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    scraped = f'up{{job="agents",instance="web:7001"}} 1 {now.timestamp() - 20:.0f}\n# EOF\n'
    with prometheus(CONFIG, scraped) as server:
        result = report(server, tmp_path)

    assert result.outcome == "succeeded", result.text()
    assert result.check("figures measured").optional
    assert "no data yet" in str(result.check("requests of all").observed)
    assert "no prometheus target is configured" not in text_of(result)


@pytest.mark.server
def test_a_server_that_scrapes_nothing_is_not_new(tmp_path: Path, prometheus_server: WebServer) -> None:
    result = report(prometheus_server, tmp_path)

    assert result.outcome == "failed"
    assert not result.check("requests of all").optional
    assert "no prometheus target is configured" not in text_of(result)


# --- answers of SQL ---


def figure(query: Query, windows: Sequence[Sequence[Mapping[str, Any]]]) -> Any:
    (found, *_), _ = query_figures(
        "orders", query, Answer(tuple(tuple(rows) for rows in windows)), START, START + 7 * DAY, "test"
    )
    return found


def days(week: int, count: int, value: float = 10.0, *, first: int = 0) -> list[dict[str, Any]]:
    """Rows of `count` days of a window, from its day `first` on; week 0 is the latest."""
    begin = START.date() - 7 * week * DAY
    return [{"day": begin + (first + index) * DAY, "n": value} for index in range(count)]


BY_DAY = Query(title="Orders", sql="")


@pytest.mark.parametrize(
    ("windows", "before"),
    [
        ([days(0, 7), days(1, 1, first=6), [], [], []], None),  # seven days are not compared with one
        ([days(0, 7), days(1, 3, first=4), [], [], []], None),
        ([days(0, 7), days(1, 7), [], [], []], 70.0),
        ([days(0, 5), days(1, 5), [], [], []], 50.0),  # nothing on weekends
        ([days(0, 7), days(1, 2), days(2, 7), [], []], 20.0),  # a bad week after the first data counts
        ([days(0, 7), [], [], [], []], None),
        ([[{"n": 70.0}], [{"n": 10.0}], [{"n": 0.0}], [{"n": 0.0}]], None),  # perhaps only a day of it
        ([[{"n": 70.0}], [{"n": 50.0}], [{"n": 10.0}], [{"n": 0.0}]], 50.0),
        ([[{"n": 70.0}], [{"n": 0.0}], [{"n": 0.0}]], None),
        ([[{"n": 70.0}], [{"n": 0.0}], [{"n": 60.0}]], 0.0),
        ([[{"n": 70.0}], [{"n": None}], [{"n": None}]], None),
    ],
)
def test_only_whole_windows_after_the_first_data_are_compared(
    windows: list[list[dict[str, Any]]], before: float | None
) -> None:
    assert figure(BY_DAY, windows).before == before


def test_windows_before_the_first_data_do_not_make_the_typical_number() -> None:
    found = figure(BY_DAY, [days(0, 7), days(1, 7), days(2, 7), days(3, 7), days(4, 1, first=6)])

    assert found.details["median"] == 70.0


@pytest.mark.parametrize(("count", "covered"), [(1, 1.0), (4, 1.0), (7, 1.0)])
def test_days_before_the_first_data_are_not_days_without_data(count: int, covered: float) -> None:
    assert figure(BY_DAY, [days(0, count, first=7 - count), [], [], []]).coverage == covered


def test_a_day_without_data_after_the_first_data_is_missing() -> None:
    rows = [row for row in days(0, 5, first=2) if row["day"] != date(2026, 11, 26)]

    assert figure(BY_DAY, [rows, [], []]).coverage == pytest.approx(4 / 5)
    assert figure(BY_DAY, [days(0, 5, first=2), days(1, 7), []]).coverage == pytest.approx(5 / 7)


@pytest.mark.parametrize("empty", [[], [{"n": None}], [{"day": date(2026, 11, 22), "n": None}]])
def test_without_any_value_in_any_window_there_are_no_data_yet(empty: list[dict[str, Any]]) -> None:
    found = figure(BY_DAY, [empty, empty, empty])

    assert found.value is None
    assert found.new_since is not None
    assert "no data yet" in found.cause


def test_a_week_without_rows_after_weeks_with_rows_is_unknown() -> None:
    found = figure(BY_DAY, [[], days(1, 7), days(2, 7)])

    assert (found.value, found.new_since) == (None, None)


def test_a_count_of_zero_stays_a_count_of_zero() -> None:
    found = figure(BY_DAY, [[{"n": 0.0}], [{"n": 0.0}], [{"n": 0.0}]])

    assert (found.value, found.before) == (0.0, None)
