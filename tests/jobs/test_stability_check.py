"""Stability after a change on real servers: what failed once is named with when, and nothing unseen is ok."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.databases import database
from support.http_services import http_service, json_reply
from support.job_runs import JobResult, run_job
from support.servers.postgres import PostgresServer
from support.servers.prometheus import CONFIG, WebServer, alertmanager, prometheus

from maintd.checks.stability import HealthHistory, RequestLimits, report_requests
from maintd.job.attempt_info import AttemptInfo
from maintd.job.context import Context
from maintd.model.evidence import Check, CheckStatus
from maintd.model.target import Targets

pytestmark = pytest.mark.server

SHORT = {"lasts": "400ms", "every": "100ms", "requests": None, "health": {"include": ["http"], "http": {"tries": 1}}}
OK = json_reply({"status": "ok"})


def watch(places: dict[str, Any], **more: Any) -> JobResult:
    handed = more.pop("handed", None)
    return run_job("stability_check", {**SHORT, **more}, places, handed=handed)


def service(url: str) -> dict[str, Any]:
    return {"http": {"api": {"url": f"{url}/health"}}}


# --- health -------------------------------------------------------------------------------------------------------


def test_a_healthy_system_is_stable() -> None:
    with http_service({"/health": OK}) as url:
        result = watch(service(url))

    assert result.outcome == "succeeded", result.text()
    assert result.check("http api: answers").observed == 200
    assert result.progress[-1].done == result.progress[-1].total == 5


def test_a_check_that_failed_once_fails_the_job_with_when() -> None:
    # Two answers in the first sample, whose facts are read once; the third sample is the bad one.
    answers = iter([OK, OK, json_reply({}, 503)])
    with http_service({"/health": lambda: next(answers, OK)}) as url:
        result = watch(service(url))

    check = result.check("http api: answers")
    assert result.outcome == "failed"
    assert check.status is CheckStatus.FAIL
    assert f"{check.observed}".startswith("503, in 1 of 5 samples, at ")
    assert f"{check.observed}".endswith(" UTC")


def test_a_target_that_may_not_be_read_is_unknown() -> None:
    with http_service({"/health": json_reply({}, 401)}) as url:
        result = watch(service(url))

    assert result.outcome == "unknown", result.text()
    assert "in 5 of 5 samples" in str(result.check("http api: answers").observed)


def test_nothing_to_check_is_unknown() -> None:
    result = watch({})

    assert result.outcome == "unknown", result.text()


def test_a_step_without_enough_time_fails_at_once() -> None:
    with http_service({"/health": OK}) as url:
        result = run_job("stability_check", {**SHORT, "lasts": "2h"}, service(url), timeout=timedelta(minutes=5))

    assert result.outcome == "failed"
    assert "raise the timeout" in result.check("time for the check").hint
    assert result.progress == []


def test_the_worst_of_several_looks_counts() -> None:
    history = HealthHistory()
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    for number, status in enumerate((CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL, CheckStatus.OK)):
        check = Check(name="disk", observed=number, expected="x", status=status)
        history.add(at + timedelta(seconds=number), [check])

    (found,) = history.checks()

    assert found.status is CheckStatus.FAIL
    assert found.observed == "2, in 2 of 4 samples, from 12:00:01 to 12:00:02 UTC"


# --- rows and alerts ----------------------------------------------------------------------------------------------


def test_fewer_rows_than_before_fail_and_a_missing_table_is_unknown(postgres_server: PostgresServer) -> None:
    with database(postgres_server) as db, http_service({"/health": OK}) as url:
        db.run("CREATE TABLE a (id int)", "CREATE TABLE b (id int)", "CREATE TABLE c (id int)")
        db.run(*(f"INSERT INTO {table} SELECT generate_series(1, 5)" for table in "abc"))
        places = {"postgres": {"main": {"dsn": db.url}}, **service(url)}
        tables = {"main": ["a", "public.b", "c"]}
        before = watch(places, tables=tables, baseline=True)
        db.run("DELETE FROM a WHERE id = 1", "INSERT INTO b VALUES (6)", "DROP TABLE c")

        result = watch(places, tables=tables, handed=before.handed)

    assert before.outcome == "succeeded", before.text()
    assert before.handed["stability_baseline"]["rows"] == {"main/a": 5, "main/public.b": 5, "main/c": 5}
    assert result.check("rows of main/a").status is CheckStatus.FAIL
    assert result.check("rows of main/public.b").status is CheckStatus.OK
    assert result.check("rows of main/c").status is CheckStatus.UNKNOWN


def fire(server: WebServer, name: str, severity: str = "critical") -> None:
    body = [{"labels": {"alertname": name, "severity": severity}}]
    httpx.post(f"{server.url}/api/v2/alerts", json=body, timeout=30).raise_for_status()


def test_a_new_critical_alert_fails_and_one_from_before_does_not() -> None:
    with alertmanager() as server, http_service({"/health": OK}) as url:
        places = {"alertmanager": {"main": {"url": server.url}}, **service(url)}
        fire(server, "OldProblem")
        before = watch(places, baseline=True)
        quiet = watch(places, handed=before.handed)
        fire(server, "Notice", severity="warning")
        fire(server, "NewProblem")

        result = watch(places, handed=before.handed)

    assert quiet.outcome == "succeeded", quiet.text()
    check = result.check("alertmanager main: new critical alerts")
    assert check.status is CheckStatus.FAIL
    assert "NewProblem" in str(check.observed)
    assert " UTC" in str(check.observed)
    assert "OldProblem" not in str(check.observed)
    assert "Notice" not in str(check.observed)


def test_alerts_that_cannot_be_read_are_unknown(free_port: int) -> None:
    with http_service({"/health": OK}) as url:
        places = {"prometheus": {"main": {"url": f"http://127.0.0.1:{free_port}"}}, **service(url)}

        result = watch(places)

    assert result.check("prometheus main: new critical alerts").status is CheckStatus.UNKNOWN
    assert result.outcome == "unknown"


# --- requests -----------------------------------------------------------------------------------------------------

CHANGED = datetime(2026, 3, 1, 12, tzinfo=UTC)
ENDED = CHANGED + timedelta(minutes=30)
STEP = 15
Rate = tuple[float, float, float]
"""Requests per second, the share of errors, and the share of requests that take longer than 0.1 s."""
SCENARIOS: dict[str, tuple[Rate, Rate]] = {
    "same": ((10, 0.001, 0.02), (10, 0.001, 0.02)),
    "errors": ((10, 0.001, 0.02), (10, 0.002, 0.02)),
    "many_errors": ((10, 0.1, 0.02), (10, 0.1, 0.02)),
    "slower": ((10, 0.001, 0.02), (10, 0.001, 0.3)),
    "far_slower": ((10, 0.001, 0.02), (10, 0.001, 1.0)),
    "few": ((10, 0.001, 0.02), (0.001, 0, 0)),
    "none_before": ((0.001, 0, 0), (10, 0.001, 0.02)),
}


def openmetrics() -> str:
    lines = []
    times = [CHANGED + timedelta(seconds=second) for second in range(-7200, 1860, STEP)]
    for name, (before, after) in SCENARIOS.items():
        totals, beyond = [0.0, 0.0, 0.0], 0.0  # all, errors, slow; above the highest bucket
        samples: dict[str, list[str]] = {"count": [], "bucket": []}
        for at in times:
            rate, errors, slow = before if at <= CHANGED else after
            steps = (rate * STEP, rate * STEP * errors, rate * STEP * slow)
            totals = [total + step for total, step in zip(totals, steps, strict=True)]
            for status, value in (("200", totals[0] - totals[1]), ("500", totals[1])):
                samples["count"].append(f'{name}_count{{status="{status}"}} {value} {at.timestamp():.0f}')
            beyond += steps[2] if name == "far_slower" and at > CHANGED else 0
            bounds = {"0.1": totals[0] - totals[2], "0.5": totals[0] - beyond, "+Inf": totals[0]}
            for bound, value in bounds.items():
                samples["bucket"].append(f'{name}_bucket{{le="{bound}"}} {value} {at.timestamp():.0f}')
        for kind, labels in (("count", ("200", "500")), ("bucket", ("0.1", "0.5", "+Inf"))):
            lines.append(f"# TYPE {name}_{kind} unknown")
            for label in labels:  # the samples of one series follow each other
                lines += [line for line in samples[kind] if f'"{label}"' in line]
    return "\n".join([*lines, "# EOF\n"])


@pytest.fixture(scope="module")
def metrics() -> Iterator[WebServer]:
    with prometheus(CONFIG, openmetrics()) as server:
        yield server


def compare(server: WebServer, name: str, folder: Path, **limits: Any) -> JobResult:
    """Compare the requests of a scenario before and after the change."""
    result = JobResult()
    info = AttemptInfo(1, "e", "s", 1, None, datetime.now(UTC) + timedelta(hours=1), False, folder, folder)
    targets = Targets.model_validate({"prometheus": {"main": {"url": server.url}}})
    ctx = Context(info, lambda: targets, result.items.append, result.logs.append)
    report_requests(ctx, "main", RequestLimits(metric=name, **limits), CHANGED, CHANGED, ENDED)
    return result


@pytest.mark.parametrize(
    ("name", "errors", "p95"),
    [
        ("same", "ok", "ok"),
        ("errors", "fail", "ok"),  # 0.2 % is twice as much, and below the absolute limit
        ("many_errors", "fail", "ok"),  # as before, and above the absolute limit
        ("slower", "ok", "fail"),
        ("few", "unknown", "unknown"),
        ("none_before", "unknown", "unknown"),
    ],
)
def test_requests_are_compared_with_before(
    metrics: WebServer, tmp_path: Path, name: str, errors: str, p95: str
) -> None:
    result = compare(metrics, name, tmp_path)

    seen = (result.check("requests: errors").status.value, result.check("requests: p95").status.value)
    assert seen == (errors, p95), result.text()


def test_a_latency_above_the_highest_bucket_is_no_measurement(metrics: WebServer, tmp_path: Path) -> None:
    lenient = compare(metrics, "far_slower", tmp_path).check("requests: p95")
    strict = compare(metrics, "far_slower", tmp_path, max_p95=timedelta(seconds=0.5)).check("requests: p95")

    assert lenient.status is CheckStatus.UNKNOWN  # above 0.5 s, and perhaps below the limit of 1 s
    assert strict.status is CheckStatus.FAIL


def test_a_metric_that_does_not_exist_is_unknown(metrics: WebServer, tmp_path: Path) -> None:
    result = compare(metrics, "no_such_metric", tmp_path)

    assert {check.status for check in result.checks} == {CheckStatus.UNKNOWN}


def test_a_label_that_does_not_exist_is_unknown(metrics: WebServer, tmp_path: Path) -> None:
    result = compare(metrics, "same", tmp_path, status="code")

    assert "no label" in str(result.check("requests: errors").observed)
    assert result.check("requests: errors").status is CheckStatus.UNKNOWN


def test_requests_are_measured_in_the_time_of_the_check(metrics: WebServer) -> None:
    with http_service({"/health": OK}) as url:
        places = {"prometheus": {"main": {"url": metrics.url}}, **service(url)}

        result = watch(places, requests={"metric": "same"})  # its data ended long ago

    assert result.error is None, result.text()
    for what in ("errors", "p95"):
        assert result.check(f"requests: {what}").status is CheckStatus.UNKNOWN
    assert result.outcome == "unknown"
