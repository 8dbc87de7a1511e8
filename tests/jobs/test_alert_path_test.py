"""The path of an alert, from Alertmanager to a webhook of the job and back to nothing; by a real Alertmanager."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.job_runs import JobResult, run_job
from support.servers.base import free_port
from support.servers.prometheus import WebServer, alertmanager, routed_to

from maintd.checks.alerts.flow import LABEL
from maintd.checks.alerts.silencing import parse_matcher
from maintd.clients.alertmanager import Alertmanager, connect
from maintd.model.evidence import Change, CheckStatus
from maintd.model.target import AlertmanagerTarget

pytestmark = pytest.mark.server

FAIL, UNKNOWN = CheckStatus.FAIL, CheckStatus.UNKNOWN
ARRIVES, GONE, ENDS = "main: alerts flow", "main: the test alert is gone", "main: the end of an alert is notified"


@pytest.fixture(scope="module")
def routes() -> Iterator[tuple[WebServer, int]]:
    """A server whose test alerts arrive at this port."""
    port = free_port()
    with alertmanager(routed_to(port)) as server:
        yield server, port


def path_test(url: str, listen: str | None, **more: Any) -> JobResult:
    params = more.pop("params", {})
    targets = {"alertmanager": {"main": {"url": url, "timeout": "10s"}}}
    return run_job("alert_path_test", {"listen": listen, **params}, targets, **more)


def client(url: str) -> Alertmanager:
    return connect(AlertmanagerTarget(url=url))


def states(result: JobResult) -> list[tuple[str, str]]:
    return [(change.action, change.state.value) for change in result.changes]


def test_a_test_alert_arrives_and_is_gone_afterwards(routes: tuple[WebServer, int]) -> None:
    server, port = routes

    result = path_test(server.url, f"127.0.0.1:{port}")

    assert (result.outcome, len(result.checks)) == ("succeeded", 3), result.text()
    assert states(result) == [("send test alert", "done"), ("send test alert", "done")]
    assert result.measure("alert_delay_seconds", alertmanager="main") >= 1, "its group_wait"
    assert result.measure("alert_end_delay_seconds", alertmanager="main") >= 0
    assert not [alert for alert in client(server.url).alerts() if LABEL in alert.labels]


def test_a_notification_that_does_not_arrive_fails_and_the_end_is_unknown(routes: tuple[WebServer, int]) -> None:
    result = path_test(routes[0].url, f"127.0.0.1:{free_port()}", params={"margin": "500ms"})

    assert result.check(ARRIVES).status is FAIL, result.text()
    assert result.check(ENDS).status is UNKNOWN
    assert result.check(GONE).status is CheckStatus.OK


def test_an_end_that_is_not_notified_fails(routes: tuple[WebServer, int]) -> None:
    server, port = routes
    api, made = client(server.url), []

    def silence_the_end(change: Change) -> None:
        if change.details.get("ends"):
            now, matcher = datetime.now(UTC), parse_matcher(f'{LABEL}=~".+"')
            made.append(api.silence([matcher], now, now + timedelta(hours=1), "ann", "hides the end"))

    try:
        result = path_test(server.url, f"127.0.0.1:{port}", params={"margin": "6s"}, at_intent=silence_the_end)
    finally:
        for silence_id in made:
            api.expire(silence_id)

    assert (result.check(ARRIVES).status, result.check(ENDS).status) == (CheckStatus.OK, FAIL), result.text()
    assert "send_resolved: true" in result.check(ENDS).hint


def test_a_webhook_without_ends_is_unknown_with_what_to_configure() -> None:
    port = free_port()
    with alertmanager(routed_to(port, sends_end=False)) as server:
        result = path_test(server.url, f"127.0.0.1:{port}")

    assert result.outcome == "unknown", result.text()
    assert "not_configured" in str(result.check(ENDS).observed)
    assert "send_resolved: true" in result.check(ENDS).hint


def test_without_time_to_wait_for_the_end_it_is_unknown() -> None:
    port = free_port()
    with alertmanager(routed_to(port, interval="1h")) as server:
        result = path_test(server.url, f"127.0.0.1:{port}", timeout=timedelta(seconds=6))

    assert result.check(ENDS).status is UNKNOWN, result.text()
    # On a machine so busy that the alert itself does not arrive in time, that is the cause.
    causes = ("no time for 1h", "no notification of the alert itself")
    assert any(cause in str(result.check(ENDS).observed) for cause in causes)


def test_without_a_route_to_a_webhook_it_is_unknown_with_what_to_configure(alertmanager_server: WebServer) -> None:
    result = path_test(alertmanager_server.url, f"127.0.0.1:{free_port()}")

    assert result.outcome == "unknown", result.text()
    assert "webhook_configs" in result.check(ARRIVES).hint


def test_without_an_address_to_listen_on_it_is_not_configured(routes: tuple[WebServer, int]) -> None:
    result = path_test(routes[0].url, None)

    assert getattr(result.error, "cause", "") == "not_configured"
    assert states(result) == []


def test_a_dry_run_sends_nothing(routes: tuple[WebServer, int]) -> None:
    result = path_test(routes[0].url, f"127.0.0.1:{routes[1]}", dry_run=True)
    assert states(result) == [("send test alert", "planned")]


def test_an_alertmanager_that_is_down_hides_no_other(routes: tuple[WebServer, int]) -> None:
    server, port = routes
    targets = {"down": {"url": f"http://127.0.0.1:{free_port()}"}, "main": {"url": server.url, "timeout": "10s"}}

    result = run_job("alert_path_test", {"listen": f"127.0.0.1:{port}"}, {"alertmanager": targets})

    assert result.check("down: alerts flow").status is FAIL
    assert [result.check(name).status for name in (ARRIVES, GONE, ENDS)] == [CheckStatus.OK] * 3, result.text()


def test_two_alertmanagers_of_a_cluster_are_tested_one_after_the_other() -> None:
    """Either of them may send the notification."""
    port, first = free_port(), free_port()
    with ExitStack() as opened:
        flags = ("--cluster.settle-timeout=0s", "--cluster.pushpull-interval=1s", "--cluster.peer-timeout=1s")
        address = f"--cluster.listen-address=127.0.0.1:{first}"
        a = opened.enter_context(alertmanager(routed_to(port), (address, *flags)))
        other = f"--cluster.listen-address=127.0.0.1:{free_port()}"
        b = opened.enter_context(alertmanager(routed_to(port), (other, f"--cluster.peer=127.0.0.1:{first}", *flags)))
        targets = {"a": {"url": a.url, "timeout": "10s"}, "b": {"url": b.url, "timeout": "10s"}}

        result = run_job("alert_path_test", {"listen": f"127.0.0.1:{port}"}, {"alertmanager": targets})

    assert (result.outcome, len(result.checks)) == ("succeeded", 6), result.text()
