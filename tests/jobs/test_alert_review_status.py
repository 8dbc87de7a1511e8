"""Alertmanager's `/api/v2/status`: its cluster, version, start and configuration."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from support.http_services import Reply, http_service, json_reply
from support.job_runs import JobResult, run_job
from support.servers.base import free_port, wait_for
from support.servers.prometheus import ALERTMANAGER, WebServer, alertmanager

from maintd.job.attempt_info import Point
from maintd.model.evidence import CheckStatus

CLUSTER = "alertmanager main: cluster"


def review(url: str, before: JobResult | None = None) -> JobResult:
    series = {
        item.name: [Point(datetime.now(UTC) - timedelta(hours=1), item.value, item.labels)]
        for item in (before.measures if before else ())
    }
    return run_job("alert_review", None, {"alertmanager": {"main": {"url": url, "timeout": "3s"}}}, series=series)


def answering(status: Reply) -> JobResult:
    lists = {f"/api/v2/{name}": json_reply([]) for name in ("alerts", "silences")}
    with http_service({**lists, "/api/v2/status": status}) as url:
        return review(url)


def cluster_of(server: WebServer) -> str:
    return str(httpx.get(f"{server.url}/api/v2/status", timeout=3).json()["cluster"]["status"])


@pytest.mark.server
def test_the_status_of_an_alertmanager_without_a_cluster_is_ok() -> None:
    with alertmanager() as server:
        version = httpx.get(f"{server.url}/api/v2/status", timeout=3).json()["versionInfo"]["version"]
        result = review(server.url)

    assert (result.check(CLUSTER).observed, result.check(CLUSTER).status) == ("disabled", CheckStatus.OK)
    assert any(f"version {version}, 0 peers" in line for line in result.logs), result.text()
    assert not any("restarted" in line or "another" in line for line in result.logs)  # nothing to compare with


@pytest.mark.server
def test_a_cluster_is_ready_once_it_has_settled() -> None:
    with alertmanager(cluster=[f"--cluster.listen-address=127.0.0.1:{free_port()}"]) as server:
        wait_for(lambda: cluster_of(server) == "ready", "a settled cluster")
        ready = review(server.url)

    assert (ready.check(CLUSTER).observed, ready.check(CLUSTER).status) == ("ready", CheckStatus.OK)
    assert any(line.endswith(", 1 peer") for line in ready.logs), ready.text()


def test_a_cluster_that_settles_warns() -> None:
    result = answering(json_reply({"cluster": {"status": "settling", "peers": []}}))

    assert (result.check(CLUSTER).observed, result.check(CLUSTER).status) == ("settling", CheckStatus.WARN)


@pytest.mark.server
def test_a_restart_and_another_configuration_are_logged() -> None:
    with alertmanager() as server:
        first = review(server.url)
        same = review(server.url, first)
        server.config.write_text(ALERTMANAGER.replace("nobody", "somebody"))
        server.reload()
        changed = review(server.url, first)
    with alertmanager() as server:
        restarted = review(server.url, first)

    def notes(result: JobResult) -> list[bool]:
        return [any(word in line for line in result.logs) for word in ("restarted since", "configuration is another")]

    assert notes(same) == [False, False], same.text()
    assert notes(changed) == [False, True], changed.text()
    assert notes(restarted) == [True, False], restarted.text()


@pytest.mark.parametrize(
    "status",
    [
        json_reply({}),
        json_reply({"cluster": {}}),
        json_reply({"cluster": {"status": None, "peers": []}}),
        json_reply({"cluster": "ready"}),
        json_reply({"cluster": {"status": ["ready"]}}),
        json_reply({"cluster": {"status": "zombie\x1b[2J", "peers": []}}),
        json_reply({"cluster": {"status": "ready"}, "versionInfo": {"version": "1"}, "uptime": "since Monday"}),
        json_reply({"cluster": {"status": "ready"}, "config": {"original": 5}}),
        json_reply([]),
        json_reply(None),
        Reply(b'{"cluster":' + b"[" * 500_000),
        Reply(b'{"cluster": {"status": "rea'),
        Reply(b"<html>Sign in</html>", content_type="text/html"),
        Reply(b'"' + b"x" * 9_000_000 + b'"'),
        json_reply({}, 401),
        json_reply({}, 404),
        json_reply({}, 500),
    ],
    ids=lambda reply: f"{reply.status} {reply.body[:40].decode()}",
)
def test_a_status_without_a_known_state_of_the_cluster_is_unknown(status: Reply) -> None:
    result = answering(status)

    assert result.check(CLUSTER).status in (CheckStatus.UNKNOWN, CheckStatus.FAIL), result.text()
    assert result.check("alertmanager main: answers").status is CheckStatus.OK
    assert result.check("alerts: unacknowledged critical").status is CheckStatus.OK  # its alerts were read
    assert "\x1b" not in result.text()


def test_a_status_with_a_million_fields_and_peers_is_read() -> None:
    body: dict[str, Any] = {"cluster": {"status": "ready", "peers": [None] * 100_000}, "uptime": None}

    result = answering(json_reply(body | {f"x{number}": number for number in range(10_000)}))

    assert result.check(CLUSTER).status is CheckStatus.OK, result.text()
    assert any("version unknown, 100,000 peers" in line for line in result.logs)
