"""Whole jobs against servers whose answers are valid, and of an unforeseen form: no target silences another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from support.http_services import Reply, http_service, json_reply, served
from support.job_runs import JobResult, run_job

from maintd.model.evidence import CheckStatus

DEEP = b"[" * 500_000
OK: dict[str, Any] = {"status": "success"}
# Bodies of status 200, for every request of a job to that server.
BODIES: dict[str, bytes] = {
    "a list": b"[]",
    "null": b"null",
    "a number": b"7",
    "half": b'{"status":"success","data":{"resultType":"vector","result":[{"met',
    "a page": b"<!DOCTYPE html><html>Sign in</html>",
    "deep": DEEP,
    "deep inside": b'{"status":"success","data":' + DEEP,
    "no data": json.dumps(OK).encode(),
    "data is a list": json.dumps(OK | {"data": [1]}).encode(),
    "result is a text": json.dumps(OK | {"data": {"resultType": "matrix", "result": "x"}}).encode(),
    "series is a number": json.dumps(OK | {"data": {"resultType": "matrix", "result": [3]}}).encode(),
    "values are pairs of nothing": json.dumps(
        OK | {"data": {"resultType": "matrix", "result": [{"metric": {}, "values": [[]]}]}}
    ).encode(),
    "metric is a list": json.dumps(
        OK | {"data": {"resultType": "vector", "result": [{"metric": ["a"], "value": [1, "2"]}]}}
    ).encode(),
    "streams of three": json.dumps(
        OK | {"data": {"resultType": "streams", "result": [{"stream": {"a": "b"}, "values": [["1"]]}]}}
    ).encode(),
    "time of another age": json.dumps(
        OK | {"data": {"resultType": "matrix", "result": [{"metric": {}, "values": [[1e300, "1"]]}]}}
    ).encode(),
    "a huge number": b'{"status":"success","data":' + b"9" * 5000 + b"}",
}


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """A server that answers everything with this body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:  # the client has seen enough
                self.close_connection = True

        def do_POST(self) -> None:
            self.do_GET()

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *words: object) -> None:
            pass

    with served(Handler) as url:
        yield url


def not_ok(result: JobResult) -> list[str]:
    return [check.name for check in result.checks if check.status in (CheckStatus.FAIL, CheckStatus.UNKNOWN)]


@pytest.fixture(params=BODIES.values(), ids=BODIES.keys())
def odd(request: pytest.FixtureRequest) -> Iterator[str]:
    with answering(request.param) as url:
        yield url


def test_a_performance_report_of_an_odd_prometheus_is_written_with_the_causes(odd: str, tmp_path: Path) -> None:
    result = run_job("performance_report", {}, {"prometheus": {"main": {"url": odd}}}, folder=tmp_path)

    assert result.error is None, result.text()
    assert result.outcome == "failed"  # nothing was measured
    assert {"requests of all", "paths of all", "memory of all", "cpu of all", "alerts of all"} <= set(not_ok(result))
    assert len(result.artifacts) == 3


def test_a_capacity_report_measures_the_others_beside_an_odd_target(odd: str, tmp_path: Path) -> None:
    targets = {
        "prometheus": {"main": {"url": odd}, "other": {"url": "http://127.0.0.1:1"}},
        "docker": {"main": {"url": odd.replace("http:", "tcp:")}},
        "folders": {"data": {"path": str(tmp_path)}},
    }

    result = run_job("capacity_report", {}, targets, folder=tmp_path)

    assert result.error is None, result.text()
    assert result.outcome == "unknown"
    assert "docker main measured" in not_ok(result)
    of_prometheus = {name for name in not_ok(result) if name.startswith(("requests ", "memory use "))}
    assert of_prometheus == {
        f"{kind} {name} measured" for kind in ("requests", "memory use") for name in ("main", "other")
    }
    assert result.measure("folder_bytes", folder="data") > 0
    assert len(result.artifacts) == 3


def test_a_trading_review_reads_the_figures_beside_an_odd_prometheus(odd: str) -> None:
    figures = {"realized": 1, "percent": 1, "date": "2026-01-01", "halted": False}
    with http_service({"/pnl/status": json_reply(figures)}) as url:
        targets = {"http": {"orders": {"url": f"{url}/health"}}, "prometheus": {"main": {"url": odd}}}
        result = run_job("trading_review", {"metrics": {"one": "up", "two": "down"}}, targets)

    assert result.error is None, result.text()
    assert result.check("figures: realized").status is CheckStatus.OK
    assert {"activity: one", "activity: two"} <= set(not_ok(result))


def test_a_trading_review_of_an_odd_service_still_reads_the_activity(odd: str) -> None:
    targets = {"http": {"orders": {"url": f"{odd}/health"}}, "prometheus": {"main": {"url": "http://127.0.0.1:1"}}}

    result = run_job("trading_review", {"metrics": {"one": "up"}}, targets)

    assert result.error is None, result.text()
    assert result.outcome == "failed"
    assert "activity: one" in not_ok(result)


def test_an_odd_loki_is_unknown_and_never_zero(odd: str) -> None:
    params = {"logins": False, "loki": "logs"}

    result = run_job("security_log_review", params, {"http": {"logs": {"url": odd}}})

    assert result.error is None, result.text()
    assert not_ok(result) == ["requests: logs"]
    assert result.outcome == "unknown"


def test_an_odd_engine_is_unknown_in_the_log_review_and_others_are_read(odd: str) -> None:
    url = odd.replace("http:", "tcp:")
    targets = {"docker": {"a": {"url": url}, "b": {"url": url}}}

    result = run_job("security_log_review", {"logins": False}, targets)

    assert result.error is None, result.text()
    assert result.outcome == "unknown"


def test_an_odd_alertmanager_and_prometheus_are_reported_one_by_one(odd: str) -> None:
    targets = {"prometheus": {"main": {"url": odd}}, "alertmanager": {"main": {"url": odd}}}

    result = run_job("alert_review", {}, targets)

    assert result.error is None, result.text()
    assert result.outcome in ("failed", "unknown")
    assert {name.split()[0] for name in not_ok(result)} >= {"prometheus", "alertmanager"}, result.text()


@pytest.mark.parametrize(
    "values",
    [
        [["1732000000000000000", '{"status":401,"path":"/admin"}', {"structuredMetadata": {"a": "b"}}]],
        [["1732000000000000000", '{"status":401,"path":"/admin"}']],
    ],
)
def test_lines_of_loki_are_read_with_and_without_metadata(values: list[list[Any]]) -> None:
    counted = json_reply(OK | {"data": {"resultType": "vector", "result": [{"metric": {}, "value": [0, "1"]}]}})
    lines = json_reply(OK | {"data": {"resultType": "streams", "result": [{"stream": {}, "values": values}]}})
    replies: dict[str, Any] = {"/loki/api/v1/query": counted, "/loki/api/v1/query_range": lines}
    with http_service(replies) as url:
        result = run_job("security_log_review", {"logins": False, "loki": "logs"}, {"http": {"logs": {"url": url}}})

    assert result.check("requests: logs").status is CheckStatus.OK, result.text()


def test_a_secret_that_is_missing_for_one_target_leaves_the_others_measured(tmp_path: Path) -> None:
    targets = {
        "redis": {"main": {"url": "redis://:${NO_SUCH_SECRET}@127.0.0.1:1"}},
        "folders": {"data": {"path": str(tmp_path)}},
    }

    result = run_job("capacity_report", {"report": False}, targets, folder=tmp_path)

    assert result.error is None, result.text()
    assert "redis memory main measured" in not_ok(result)
    assert result.measure("folder_bytes", folder="data") > 0


def test_a_body_of_half_a_million_brackets_from_a_service_is_malformed() -> None:
    targets = {"http": {"deep": {"url": ""}, "well": {"url": ""}}}
    with http_service({"/deep": Reply(b"[" * 60_000), "/well": json_reply({"status": "ok"})}) as url:
        targets["http"]["deep"] = {"url": f"{url}/deep", "expect": {"status": "ok"}}
        targets["http"]["well"] = {"url": f"{url}/well", "expect": {"status": "ok"}}
        result = run_job("health_check", {"include": ["http"]}, targets)

    assert result.check("http deep: body").status is CheckStatus.FAIL
    assert result.check("http well: status").status is CheckStatus.OK
