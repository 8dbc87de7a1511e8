"""Answers of servers that speak Prometheus' API in their own manner, and reloads that were refused."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.http_services import Reply, http_service, json_reply
from support.job_runs import JobResult, run_job
from support.servers.prometheus import alertmanager, prometheus

from maintd.model.evidence import CheckStatus
from maintd.units import utc_text

SINCE = utc_text(datetime.now(UTC) - timedelta(hours=3))
FIRING = {"labels": {"alertname": "Down", "severity": "critical"}, "state": "firing", "activeAt": SINCE, "value": "1"}
RULE = {"name": "Down", "type": "alerting", "health": "ok", "duration": 60, "labels": {}, "alerts": [FIRING]}
GROUP = {"name": "sound", "rules": [RULE]}
VECTOR = {"resultType": "vector", "result": [{"metric": {}, "value": [1e9, "0"]}]}
MATRIX = {"resultType": "matrix", "result": [{"metric": {}, "values": [[1e9, "0"]]}]}


def success(data: Any, **more: Any) -> Reply:
    return json_reply({"status": "success", "data": data, **more})


def prometheus_like(**changed: Reply) -> dict[str, Reply]:
    """The answers of a server with one critical alert that fires; a key is a path's last word."""
    answers = {
        "rules": success({"groups": [GROUP]}),
        "alertmanagers": success({"activeAlertmanagers": [{"url": "http://a/api/v2/alerts"}]}),
        "query": success(VECTOR),
        "query_range": success(MATRIX),
        "runtimeinfo": success({"reloadConfigSuccess": True}),
        **changed,
    }
    paths = {f"/api/v1/{name}": reply for name, reply in answers.items() if name != "runtimeinfo"}
    return {
        **paths,
        "/api/v1/status/runtimeinfo": answers["runtimeinfo"],
        "/metrics": Reply(b"prometheus_notifications_dropped_total 0\n", content_type="text/plain"),
    }


def review(*servers: dict[str, Reply], kind: str = "prometheus") -> JobResult:
    with ExitStack() as stack:
        urls = [stack.enter_context(http_service(server)) for server in servers]
        targets = {kind: {f"s{index}": {"url": url, "timeout": "3s"} for index, url in enumerate(urls)}}
        return run_job("alert_review", None, targets)


# --- shapes of the answers ---

ODD_GROUPS: list[Any] = [
    {"name": "odd", "rules": None},
    {"name": "odd"},
    {"name": "odd", "rules": [{"name": "x:y", "type": "recording", "health": "ok"}]},
    {"name": "odd", "rules": [{**RULE, "alerts": None}]},
]
"""Groups that are understood."""
FOREIGN_GROUPS: list[Any] = [
    "a text",
    None,
    {"name": "odd", "rules": "none"},
    {"name": "odd", "rules": [7]},
    {"name": "odd", "rules": [{**RULE, "alerts": {"a": 1}}]},
    {"name": "odd", "rules": [{**RULE, "alerts": [[]]}]},
    {"name": "odd", "rules": [{**RULE, "duration": "long"}]},
    {"name": "odd", "rules": [{**RULE, "alerts": [{**FIRING, "labels": "none"}]}]},
    {"name": "odd", "rules": [{**RULE, "alerts": [{**FIRING, "activeAt": 10**30}]}]},
]
"""Groups of which something is not understood."""


@pytest.mark.parametrize("group", ODD_GROUPS)
def test_missing_and_null_lists_of_rules_are_empty(group: Any) -> None:
    result = review(prometheus_like(rules=success({"groups": [group, GROUP]})))

    assert result.error is None, result.text()
    assert not result.named("understood"), result.text()
    assert result.check("alerts: unacknowledged critical").observed == 1


@pytest.mark.parametrize("group", FOREIGN_GROUPS)
def test_what_is_not_understood_of_the_rules_is_unknown_and_hides_no_alert(group: Any) -> None:
    result = review(prometheus_like(rules=success({"groups": [group, GROUP]})))

    assert result.error is None, result.text()
    assert result.check("prometheus s0: rules and alerts understood").status is CheckStatus.UNKNOWN
    assert result.check("alerts: unacknowledged critical").observed == 1


@pytest.mark.parametrize(
    "data",
    [None, [], "x", 7, {"groups": "x"}, {"groups": {"a": 1}}, {"groups": 5}],
)
def test_a_server_whose_rules_have_another_shape_does_not_stop_the_others(data: Any) -> None:
    result = review(prometheus_like(rules=success(data)), prometheus_like())

    assert result.error is None, result.text()
    assert result.check("prometheus s1: answers").status is CheckStatus.OK
    assert result.check("alerts: unacknowledged critical").observed == 1
    assert result.outcome == "failed"


@pytest.mark.parametrize(
    "data", [None, [], {"activeAlertmanagers": "x"}, {"activeAlertmanagers": [1]}, {"activeAlertmanagers": [{}]}]
)
def test_alertmanagers_of_another_shape_leave_the_alerts_in_sight(data: Any) -> None:
    result = review(prometheus_like(alertmanagers=success(data)))

    assert result.error is None, result.text()
    assert result.check("prometheus s0: Alertmanagers it sends to").status is not CheckStatus.OK
    assert result.check("alerts: unacknowledged critical").observed == 1


@pytest.mark.parametrize(
    "alert",
    [
        None,
        "text",
        {"labels": {"alertname": "Odd"}},
        {"labels": ["Odd"], "startsAt": SINCE, "status": {"state": "active"}},
        {"labels": {"alertname": "Odd"}, "startsAt": "yesterday", "status": {"state": "active"}},
        {"labels": {"alertname": "Odd"}, "startsAt": SINCE, "status": "active"},
        {"labels": {"alertname": "Odd"}, "startsAt": SINCE, "status": {"state": "active", "silencedBy": 5}},
    ],
)
def test_an_alert_of_another_shape_in_alertmanager_is_unknown_and_the_others_are_reviewed(alert: Any) -> None:
    sound = {"labels": FIRING["labels"], "startsAt": SINCE, "status": {"state": "active", "silencedBy": None}}
    answers = {"/api/v2/alerts": json_reply([alert, sound]), "/api/v2/silences": json_reply([])}

    result = review(answers, kind="alertmanager")

    assert result.error is None, result.text()
    assert result.check("alertmanager s0: alerts and silences understood").status is CheckStatus.UNKNOWN
    assert result.check("alerts: unacknowledged critical").observed == 1


def test_null_for_no_alerts_and_no_silences_is_read() -> None:
    answers = {"/api/v2/alerts": json_reply(None), "/api/v2/silences": json_reply(None)}

    result = review(answers, kind="alertmanager")

    assert not result.named("understood"), result.text()
    assert result.check("alerts: unacknowledged critical").observed == 0


def test_with_only_an_alertmanager_a_critical_alert_is_reported() -> None:
    sound = {"labels": FIRING["labels"], "startsAt": SINCE, "status": {"state": "active"}}
    answers = {"/api/v2/alerts": json_reply([sound]), "/api/v2/silences": json_reply([])}

    result = review(answers, kind="alertmanager")

    assert result.check("alerts: unacknowledged critical").status is CheckStatus.FAIL
    missing = result.check("prometheus: configured")
    assert (missing.status, missing.optional) == (CheckStatus.UNKNOWN, True)


@pytest.mark.parametrize(
    "answer",
    [
        success(VECTOR, isPartial=True),
        success(VECTOR, warnings=["a store did not answer"]),
        success({"resultType": "vector", "result": [{"metric": {}, "histogram": [1e9, {"count": "5"}]}]}),
        success({"resultType": "vector", "result": [{"metric": {}}]}),
        success({"resultType": "vector", "result": [{"metric": {}, "value": [1e9]}]}),
        success({"resultType": "vector", "result": [{"metric": {}, "value": [1e300, "1"]}]}),
        success({"resultType": "vector", "result": [{"metric": {}, "value": "1"}]}),
        success({"resultType": "vector", "result": {"a": 1}}),
        success({"resultType": ["vector"], "result": []}),
        success({"resultType": "scalar", "result": [1e9]}),
        success({"resultType": "string", "result": [1e9, "x"]}),
        success({"resultType": "vector", "result": None}),
        success([]),
        json_reply([]),
        json_reply({"status": "success"}),
        json_reply({"status": "error", "error": "too many samples"}),
    ],
)
def test_an_answer_without_a_whole_number_is_unknown(answer: Reply) -> None:
    with http_service({"/api/v1/query": answer, "/pnl/status": json_reply({})}) as url:
        targets = {"prometheus": {"main": {"url": url}}, "http": {"main": {"url": url}}}
        result = run_job("trading_review", {"metrics": {"orders": "sum(orders)"}}, targets)

    assert result.error is None, result.text()
    assert result.check("activity: orders").status is CheckStatus.UNKNOWN


@pytest.mark.parametrize("more", [{"infos": ["PromQL info: x"]}, {"warnings": ["PromQL info: x"]}, {"warnings": None}])
def test_notes_about_a_query_do_not_make_its_answer_incomplete(more: dict[str, Any]) -> None:
    with http_service({"/api/v1/query": success(VECTOR, **more), "/pnl/status": json_reply({})}) as url:
        targets = {"prometheus": {"main": {"url": url}}, "http": {"main": {"url": url}}}
        result = run_job("trading_review", {"metrics": {"orders": "sum(orders)"}}, targets)

    assert result.measure("activity_orders") == 0


# --- reloads ---


@pytest.mark.parametrize("job", ["alert_review", "health_check"])
def test_a_configuration_that_prometheus_refused_at_its_reload_fails(job: str) -> None:
    with prometheus() as server:
        server.config.write_text("scrape_configs: [{job_name: 5, nonsense: true}]\n")
        assert httpx.post(f"{server.url}/-/reload", timeout=10).status_code == 500

        result = run_job(job, None, {"prometheus": {"main": {"url": server.url}}, "host": {}})

    check = result.check("prometheus main: last reload of its configuration")
    assert (check.status, check.observed) == (CheckStatus.FAIL, "refused")


@pytest.mark.parametrize("job", ["alert_review", "health_check"])
def test_a_rule_file_that_prometheus_refused_at_its_reload_fails(job: str, tmp_path: Path) -> None:
    (tmp_path / "r.yml").write_text("groups: []\n")
    with prometheus(f'rule_files: ["{tmp_path}/r.yml"]\nscrape_configs: []\n') as server:
        (tmp_path / "r.yml").write_text("groups: [{name: a, rules: [{alert: B, expr: 'sum('}]}]\n")
        httpx.post(f"{server.url}/-/reload", timeout=10)

        result = run_job(job, None, {"prometheus": {"main": {"url": server.url}}, "host": {}})

    assert result.check("prometheus main: last reload of its configuration").status is CheckStatus.FAIL


@pytest.mark.parametrize("job", ["alert_review", "health_check"])
def test_a_configuration_that_alertmanager_refused_at_its_reload_fails(job: str) -> None:
    with alertmanager() as server:
        server.config.write_text("route: {receiver: missing}\nreceivers: [{name: nobody}]\n")
        assert httpx.post(f"{server.url}/-/reload", timeout=10).status_code == 500

        result = run_job(job, None, {"alertmanager": {"main": {"url": server.url}}, "host": {}})

    check = result.check("alertmanager main: last reload of its configuration")
    assert (check.status, check.observed) == (CheckStatus.FAIL, "refused")


@pytest.mark.parametrize("job", ["alert_review", "health_check"])
def test_a_configuration_that_was_accepted_is_ok(job: str) -> None:
    with prometheus() as sender, alertmanager() as receiver:
        targets = {"prometheus": {"main": {"url": sender.url}}, "alertmanager": {"main": {"url": receiver.url}}}

        result = run_job(job, None, {**targets, "host": {}})

    assert [check.status for check in result.named("last reload")] == [CheckStatus.OK, CheckStatus.OK]


@pytest.mark.parametrize(
    ("runtimeinfo", "metrics", "status", "optional"),
    [
        (success({"reloadConfigSuccess": False}), b"", "fail", False),
        (Reply(status=404), b"vm_promscrape_config_last_reload_successful 0\n", "fail", False),
        (Reply(status=404), b'x_config_last_reload_successful{a="b"} 1\n', "ok", False),
        (success({}), b"prometheus_config_last_reload_successful 0\n", "fail", False),
        (Reply(status=404), b"up 1\n", "unknown", True),
        (Reply(status=403), b"prometheus_config_last_reload_successful 1\n", "unknown", False),
    ],
)
def test_a_reload_is_read_from_what_the_server_has(
    runtimeinfo: Reply, metrics: bytes, status: str, optional: bool
) -> None:
    answers = {**prometheus_like(runtimeinfo=runtimeinfo), "/metrics": Reply(metrics, content_type="text/plain")}

    result = review(answers)

    check = result.check("prometheus s0: last reload of its configuration")
    assert (check.status.value, check.optional) == (status, optional), result.text()
