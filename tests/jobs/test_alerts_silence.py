"""Silences of a run: narrow, short, renewed, ended, with a proof that alerts flow; by a real Alertmanager."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from support.http_services import interposed
from support.job_runs import JobResult, run_job
from support.servers.base import free_port, wait_for
from support.servers.prometheus import WebServer, alertmanager, routed_to

from maintd.checks.alerts.flow import LABEL
from maintd.checks.alerts.silencing import parse_matcher, require_narrow
from maintd.clients.alertmanager import Alertmanager, Silence, connect
from maintd.job.attempt_info import UnfinishedRun
from maintd.model.target import AlertmanagerTarget

pytestmark = pytest.mark.server

ORDERS = {"matchers": ['service=~"orders|quotes"'], "lasts": "5m", "grace": "0s"}


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    with alertmanager() as found:
        yield found


@pytest.fixture
def api(server: WebServer) -> Alertmanager:
    """The server without alerts and silences of an earlier test."""
    found = client(server.url)
    for silence in found.silences():
        if silence.state != "expired":
            found.expire(silence.id)
    for alert in found.alerts():
        found.send_alert(alert.labels, {}, alert.starts_at, datetime.now(UTC))
    wait_for(lambda: not len(found.alerts()), "no alert is left")
    return found


def client(url: str) -> Alertmanager:
    return connect(AlertmanagerTarget(url=url))


def targets(url: str, **columns: Any) -> dict[str, Any]:
    return {"alertmanager": {"main": {"url": url, "timeout": "2s", **columns}}}


def silence(url: str, params: Mapping[str, Any] | None = None, **attempt: Any) -> JobResult:
    return run_job("alerts_silence", {**ORDERS, **(params or {})}, targets(url), **attempt)


def unsilence(url: str, handed: Mapping[str, Any], params: Mapping[str, Any] | None = None, **more: Any) -> JobResult:
    return run_job(
        "alerts_unsilence", {"prove": False, "grace": "0s", **(params or {})}, targets(url), handed=handed, **more
    )


def watch(url: str, *unfinished: UnfinishedRun, **attempt: Any) -> JobResult:
    return run_job("window_watch", {"grace": "0s"}, targets(url), unfinished=unfinished, run_id=99, **attempt)


def active(api: Alertmanager) -> list[Silence]:
    return [found for found in api.silences() if found.state == "active"]


def fire(api: Alertmanager, **labels: str) -> None:
    now = datetime.now(UTC)
    api.send_alert(labels, {}, now, now + timedelta(hours=1))
    wait_for(lambda: any(alert.labels == labels for alert in api.alerts()), "the alert is there")


def states(result: JobResult) -> list[tuple[str, str]]:
    return [(change.action, change.state.value) for change in result.changes]


# --- silence ----------------------------------------------------------------------------------------------------------


def test_a_silence_hides_what_it_names_leaves_the_canary_and_has_the_run_in_its_comment(
    api: Alertmanager, server: WebServer
) -> None:
    fire(api, alertname="HighLatency", service="orders")
    fire(api, alertname="Watchdog")

    result = silence(server.url)

    assert (result.outcome, states(result)) == ("succeeded", [("silence", "done")]), result.text()
    (found,) = active(api)
    assert (found.created_by, found.comment) == ("maintd", "maintd, run 1: alerts_silence: maintenance")
    assert found.ends_at - datetime.now(UTC) <= timedelta(minutes=5), "it ends by itself"
    assert {alert.labels["alertname"]: alert.state for alert in api.alerts()} == {
        "HighLatency": "suppressed",
        "Watchdog": "active",
    }
    assert result.handed["silences"]["main"]["tag"] == "1"


@pytest.mark.parametrize(
    "matchers",
    [
        [],
        ['alertname=~".*"'],
        ['alertname=~".+"'],
        ['alertname=~"[a-zA-Z]+"'],
        ['service=~"orders|.*"'],
        ['service=~"orders|"'],
        ['service!="orders"'],
        ['service!~"orders"'],
        ['severity="critical"'],
        ['severity="critical"', 'alertname=~".*"'],
        ['service=""'],
        ["service"],
        ['service=~"("'],
        ['alertname="Watchdog"'],
        ['alertname=~"Watch.*"'],
    ],
)
def test_matchers_that_hide_nearly_everything_or_the_canary_are_refused(matchers: list[str]) -> None:
    result = silence("http://127.0.0.1:1", {"matchers": matchers})
    assert isinstance(result.error, ValidationError), result.text()


@pytest.mark.parametrize(
    "matcher", ['service="orders"', "service=orders", 'alertname=~"Disk.*"', 'instance=~"10[.]1.*"']
)
def test_matchers_that_name_something_are_accepted(matcher: str) -> None:
    require_narrow([parse_matcher(matcher)], {"alertname": "Watchdog"})


@pytest.mark.parametrize("lasts", ["1s", "3h"])
def test_a_silence_is_neither_too_short_nor_without_an_end_in_sight(lasts: str) -> None:
    assert isinstance(silence("http://127.0.0.1:1", {"lasts": lasts}).error, ValidationError)


def test_a_silence_that_hides_too_many_alerts_is_ended_at_once(api: Alertmanager, server: WebServer) -> None:
    for number in range(3):
        fire(api, alertname=f"A{number}", service="orders")

    result = silence(server.url, {"max_hidden": 2})

    assert (result.outcome, active(api)) == ("failed", [])
    assert states(result) == [("silence", "done"), ("end silence", "done")]


def test_a_canary_by_other_labels_that_is_hidden_ends_the_silence(api: Alertmanager, server: WebServer) -> None:
    fire(api, alertname="Ping", service="orders", kind="canary")

    result = silence(server.url, {"canary": {"kind": "canary"}})

    assert (result.outcome, active(api)) == ("failed", []), result.text()


def test_a_second_attempt_renews_the_silence_instead_of_adding_one(api: Alertmanager, server: WebServer) -> None:
    first = silence(server.url)
    (before,) = active(api)

    again = silence(server.url, handed=first.handed, run_id=9)

    (after,) = active(api)
    assert (again.outcome, after.ends_at > before.ends_at) == ("succeeded", True)
    assert after.comment.startswith("maintd, run 1:"), "the run that it resumes has created it"


@pytest.mark.parametrize("fault", ["error after", "hang after"])
def test_an_error_after_the_silence_was_created_is_read_back_and_recorded_as_done(
    api: Alertmanager, server: WebServer, fault: str
) -> None:
    with interposed(server.url) as front:
        front.fault = fault
        result = silence(front.url)

        assert (result.outcome, states(result), len(active(api))) == ("succeeded", [("silence", "done")], 1)
        front.fault = ""
        again = silence(front.url, handed=result.handed)
    assert (again.outcome, len(active(api))) == ("succeeded", 1)


def test_a_silence_that_was_not_created_fails(api: Alertmanager, server: WebServer) -> None:
    with interposed(server.url) as front:
        front.fault = "error before"
        result = silence(front.url)
    assert (result.outcome, states(result), active(api)) == ("failed", [("silence", "failed")], [])


def test_a_dry_run_silences_nothing(api: Alertmanager, server: WebServer) -> None:
    result = silence(server.url, dry_run=True)
    assert (states(result), active(api), result.handed) == ([("silence", "planned")], [], {})


# --- renewal, and what runs that are over have left -------------------------------------------------------------------


def run_of(result: JobResult, *, held: bool = False) -> UnfinishedRun:
    return UnfinishedRun(1, "planned-maintenance", held, result.handed)


def test_a_watch_renews_a_silence_of_a_run_that_has_not_ended(api: Alertmanager, server: WebServer) -> None:
    first = silence(server.url, {"lasts": "10s"})
    (before,) = active(api)
    wait_for(lambda: before.ends_at - datetime.now(UTC) < timedelta(seconds=6), "it is due", every=0.2)

    result = watch(server.url, run_of(first))

    (after,) = active(api)
    assert (result.outcome, after.ends_at > before.ends_at) == ("succeeded", True), result.text()
    assert states(watch(server.url, run_of(first))) == [], "what has most of its time left is not renewed"


def test_an_alertmanager_that_lost_its_silences_in_a_restart_gets_them_again(
    api: Alertmanager, server: WebServer
) -> None:
    first = silence(server.url)
    with alertmanager() as restarted:  # as one without a disk of its own
        result = watch(restarted.url, run_of(first))

        found = active(client(restarted.url))
        assert (result.outcome, len(found)) == ("succeeded", 1), result.text()
        ended = unsilence(restarted.url, first.handed)
        assert (ended.outcome, active(client(restarted.url))) == ("succeeded", [])


def test_a_silence_of_a_run_that_is_over_is_ended_by_the_watch_and_by_the_next_run(
    api: Alertmanager, server: WebServer
) -> None:
    silence(server.url)
    assert watch(server.url).outcome == "succeeded"
    assert active(api) == []

    silence(server.url)
    result = silence(server.url, {"matchers": ['service="other"']}, run_id=2, unfinished=())
    assert result.outcome == "succeeded"
    assert [found.comment.partition(":")[0] for found in active(api)] == ["maintd, run 2"]


def test_a_silence_of_a_lost_run_that_is_held_is_ended_since_no_work_is_done(
    api: Alertmanager, server: WebServer
) -> None:
    first = silence(server.url)
    watch(server.url, run_of(first, held=True))
    assert active(api) == []


def test_a_young_silence_is_left_alone_since_its_run_may_not_be_known_yet(api: Alertmanager, server: WebServer) -> None:
    silence(server.url)
    result = run_job("window_watch", {"grace": "1h"}, targets(server.url), unfinished=(), run_id=99)
    assert (result.outcome, len(active(api))) == ("succeeded", 1)


def test_without_a_store_no_silence_is_taken_for_one_of_a_run_that_is_over(
    api: Alertmanager, server: WebServer
) -> None:
    silence(server.url)
    silence(server.url, {"matchers": ['service="other"']}, run_id=2)
    assert len(active(api)) == 2


def test_a_silence_of_a_run_without_a_number_ends_by_itself(api: Alertmanager, server: WebServer) -> None:
    result = silence(server.url, run_id=0)
    tag = result.handed["silences"]["main"]["tag"]
    watch(server.url)
    assert tag.startswith("here-")
    assert len(active(api)) == 1
    assert unsilence(server.url, result.handed, run_id=0).outcome == "succeeded"
    assert active(api) == []


# --- unsilence --------------------------------------------------------------------------------------------------------


def test_exactly_the_silences_of_this_run_are_ended(api: Alertmanager, server: WebServer) -> None:
    first = silence(server.url)
    now = datetime.now(UTC)
    matcher = [parse_matcher('service="orders"')]
    api.silence(matcher, now, now + timedelta(hours=1), "ann", "maintd, run 1: not maintd's")
    api.silence(matcher, now, now + timedelta(hours=1), "maintd", "maintd, run 12: of another run")

    result = unsilence(server.url, first.handed)

    assert (result.outcome, states(result)) == ("succeeded", [("end silence", "done")]), result.text()
    assert sorted(found.created_by for found in active(api)) == ["ann", "maintd"]
    assert result.handed["silences"]["main"]["state"] == "ended"


def test_an_undo_ends_a_silence_of_which_only_the_comment_is_known(api: Alertmanager, server: WebServer) -> None:
    silence(server.url)  # and the run was killed before its record was written
    result = unsilence(server.url, {}, run_id=5, undoes_run=1)
    assert (result.outcome, active(api)) == ("succeeded", [])


def test_a_silence_that_has_ended_or_was_never_created_leaves_nothing_to_do(
    api: Alertmanager, server: WebServer
) -> None:
    assert states(unsilence(server.url, {})) == []


@pytest.mark.parametrize("fault", ["error after", "hang after"])
def test_an_error_after_the_silence_was_ended_is_read_back_and_recorded_as_done(
    api: Alertmanager, server: WebServer, fault: str
) -> None:
    first = silence(server.url)
    with interposed(server.url) as front:
        front.fault = fault
        result = unsilence(front.url, first.handed)
    assert (result.outcome, states(result), active(api)) == ("succeeded", [("end silence", "done")], [])


def test_a_silence_that_cannot_be_ended_fails_the_step(api: Alertmanager, server: WebServer) -> None:
    first = silence(server.url)
    with interposed(server.url) as front:
        front.fault = "error before"
        result = unsilence(front.url, first.handed)
    assert (result.outcome, len(active(api))) == ("failed", 1)


# --- proof that alerts flow -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proven() -> Iterator[tuple[WebServer, int]]:
    port = free_port()
    with alertmanager(routed_to(port, sends_end=False)) as server:
        yield server, port


def prove(url: str, listen: str | None, **params: Any) -> JobResult:
    given = {"prove": True, "listen": listen, **params}
    return unsilence(url, {}, given)


def flows(result: JobResult) -> Any:
    return result.check("main: alerts flow")


def test_a_test_alert_is_seen_at_the_webhook_within_its_group_wait(proven: tuple[WebServer, int]) -> None:
    server, port = proven

    first, second = (prove(server.url, f"127.0.0.1:{port}") for _ in range(2))

    assert (first.outcome, second.outcome) == ("succeeded", "succeeded"), first.text()
    assert "within" not in str(flows(first).observed)
    assert second.measure("alert_delay_seconds") >= 1, "each test alert is in a group of its own"
    assert states(first) == [("send test alert", "done"), ("send test alert", "done")]
    wait_for(lambda: not len(client(server.url).alerts()), "the test alert is over")


def test_without_an_address_to_listen_on_it_is_unknown_with_what_to_configure(proven: tuple[WebServer, int]) -> None:
    result = prove(proven[0].url, None)
    assert (result.outcome, states(result)) == ("unknown", [])
    assert "set the param listen" in flows(result).hint
    assert LABEL in flows(result).hint


def test_without_a_route_to_a_webhook_it_is_unknown_with_what_to_configure(server: WebServer) -> None:
    result = prove(server.url, f"127.0.0.1:{free_port()}")
    assert result.outcome == "unknown"
    assert "goes to nobody" in str(flows(result).observed)
    assert "webhook_configs" in flows(result).hint


def test_a_notification_that_does_not_arrive_fails(proven: tuple[WebServer, int]) -> None:
    result = prove(proven[0].url, f"127.0.0.1:{free_port()}", margin="500ms")
    assert result.outcome == "failed"
    assert "none within" in str(flows(result).observed)


def test_without_time_to_wait_for_the_notification_it_is_unknown(proven: tuple[WebServer, int]) -> None:
    params = {"prove": True, "listen": f"127.0.0.1:{free_port()}", "margin": "1h"}
    result = unsilence(proven[0].url, {}, params, timeout=timedelta(seconds=5))

    assert (result.outcome, flows(result).status.value) == ("unknown", "unknown"), result.text()
    assert "no time to wait for 1h" in str(flows(result).observed)
    assert states(result) == [("send test alert", "done"), ("send test alert", "done")]


def test_a_silence_that_hides_the_test_alert_fails(proven: tuple[WebServer, int]) -> None:
    server, port = proven
    api, now = client(server.url), datetime.now(UTC)
    silence_id = api.silence([parse_matcher('alertname=~".+"')], now, now + timedelta(hours=1), "ann", "all of it")

    result = prove(server.url, f"127.0.0.1:{port}")

    api.expire(silence_id)
    assert result.outcome == "failed"
    assert silence_id in str(flows(result).observed)


@pytest.mark.parametrize("address", ["in use", "nonsense", "127.0.0.1:99999", "192.0.2.1:9099"])
def test_an_address_that_cannot_be_listened_on_is_no_success(proven: tuple[WebServer, int], address: str) -> None:
    server, _ = proven
    result = prove(server.url, f"127.0.0.1:{server.port}" if address == "in use" else address)
    assert (result.outcome, states(result)) == ("failed", [])


def test_an_alertmanager_that_is_down_is_no_success() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert unsilence(url, {}, {"prove": True, "listen": f"127.0.0.1:{free_port()}"}).outcome == "failed"
    assert silence(url).outcome == "failed"
    assert watch(url).outcome != "succeeded"
