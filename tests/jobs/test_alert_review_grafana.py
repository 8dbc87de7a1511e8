"""Grafana's own alerting, without Grafana: no package registry has it. A real Alertmanager, whose API version 2 Grafana
contains, answers below Grafana's path; the answers of Grafana's rules follow its documentation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from support.http_services import Reply, http_service, json_reply
from support.job_runs import JobResult, run_job
from support.servers.prometheus import WebServer, alertmanager

from maintd.model.evidence import CheckStatus
from maintd.units import utc_text

RULES = "/api/prometheus/grafana/api/v1/rules"
ALERTMANAGER = "/api/alertmanager/grafana"
ALERTS, SILENCES = f"{ALERTMANAGER}/api/v2/alerts", f"{ALERTMANAGER}/api/v2/silences"
UID = {"name": "__alert_rule_uid__", "value": "ddr7f3x2a", "isRegex": False, "isEqual": True}
LOSS = {"alertname": "Loss", "grafana_folder": "Trading", "severity": "critical"}


def ago(hours: float) -> str:
    return utc_text(datetime.now(UTC) - timedelta(hours=hours))


def rule(name: str = "Loss", state: str = "Alerting", **more: Any) -> dict[str, Any]:
    alert = {"labels": {**LOSS, "alertname": name}, "annotations": {}, "state": state, "activeAt": ago(2), "value": ""}
    return {"name": name, "type": "alerting", "health": "ok", "duration": 60, "alerts": [alert], **more}


def rules(*found: Any) -> Reply:
    group = {"name": "g", "file": "Trading", "rules": list(found), "interval": 60}
    return json_reply({"status": "success", "data": {"groups": [group], "totals": {}}})


def silence(**changed: Any) -> dict[str, Any]:
    return {
        "id": "58b85ab2",
        "status": {"state": "active"},
        "updatedAt": ago(1),
        "comment": "known, see ticket 7",
        "createdBy": "ann",
        "startsAt": ago(1),
        "endsAt": ago(-72),
        "matchers": [UID],
        **changed,
    }


def alert(*silenced_by: str, **labels: str) -> dict[str, Any]:
    return {
        "labels": {**LOSS, "__alert_rule_uid__": "ddr7f3x2a", **labels},
        "annotations": {"__orgId__": "1", "__value_string__": ""},
        "startsAt": ago(2),
        "endsAt": ago(-1),
        "updatedAt": ago(0),
        "fingerprint": "c4c1f5d1",
        "generatorURL": "http://localhost:3000/alerting/grafana/ddr7f3x2a/view",
        "receivers": [{"name": "mail"}],
        "status": {"state": "suppressed" if silenced_by else "active", "silencedBy": silenced_by, "inhibitedBy": []},
    }


def review(answers: dict[str, Any], **params: Any) -> JobResult:
    with http_service(answers) as url:
        http = {"main": {"url": f"{url}/api/health", "timeout": "3s"}}
        return run_job("alert_review", {"grafana": "main", **params}, {"http": http})


def answers(silences: Any = (), alerts: Any = (), found: Reply | None = None) -> dict[str, Any]:
    return {
        RULES: rules(rule()) if found is None else found,
        SILENCES: silences if isinstance(silences, Reply) else json_reply(silences),
        ALERTS: alerts if isinstance(alerts, Reply) else json_reply(alerts),
    }


# --- a real Alertmanager below Grafana's path ---


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebServer]:
    with alertmanager() as server:
        body = [{"labels": alert()["labels"], "startsAt": ago(2), "endsAt": ago(-1)}]
        httpx.post(f"{server.url}/api/v2/alerts", json=body, timeout=3).raise_for_status()
        yield server


@contextmanager
def silenced(server: WebServer, **more: Any) -> Iterator[None]:
    body = {key: value for key, value in silence(**more).items() if key not in ("id", "status", "updatedAt")}
    answer = httpx.post(f"{server.url}/api/v2/silences", json=body, timeout=3).raise_for_status()
    try:
        yield
    finally:
        httpx.delete(f"{server.url}/api/v2/silence/{answer.json()['silenceID']}", timeout=3).raise_for_status()


def of(server: WebServer) -> dict[str, Any]:
    def forwarded(path: str) -> Reply:
        return Reply(httpx.get(f"{server.url}{path.removeprefix(ALERTMANAGER)}", timeout=3).content)

    return {RULES: rules(rule()), ALERTS: lambda: forwarded(ALERTS), SILENCES: lambda: forwarded(SILENCES)}


@pytest.mark.server
def test_an_alert_of_grafana_that_is_silenced_is_acknowledged(receiver: WebServer) -> None:
    with silenced(receiver):
        held = review(of(receiver))
    after = review(of(receiver))

    assert held.check("alerts: unacknowledged critical").observed == 0, held.text()
    assert any("acknowledged by ann: known, see ticket 7" in line for line in held.logs)
    assert held.measure("silences_active", server="grafana main") == 1
    assert after.check("alerts: unacknowledged critical").observed == 1, after.text()  # in both lists, counted once


@pytest.mark.server
@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"endsAt": ago(-2)}, "silences that end soon"),
        ({"endsAt": ago(-24 * 365 * 50)}, "silences without an end in sight"),
        ({"comment": ""}, "silences without a comment"),
        ({"comment": " \n"}, "silences without a comment"),
        ({"createdBy": ""}, "silences without an author"),
        ({"matchers": [{**UID, "value": ".*", "isRegex": True}, {**UID, "value": "", "isEqual": False}]}, "everything"),
    ],
    ids=["ends soon", "no end", "no comment", "blank comment", "no author", "everything"],
)
def test_silences_of_grafana_that_need_attention_are_named(
    receiver: WebServer, changed: dict[str, Any], what: str
) -> None:
    with silenced(receiver, **changed):
        result = review(of(receiver))

    warned = [check for check in result.checks if "silences" in check.name and check.status is not CheckStatus.OK]
    assert [what in check.name for check in warned] == [True], result.text()
    assert (warned[0].observed, warned[0].status) == (1, CheckStatus.WARN)
    assert "__alert_rule_uid__" in warned[0].hint


@pytest.mark.server
@pytest.mark.parametrize("changed", [{"comment": ""}, {"endsAt": ago(-24 * 365 * 50)}], ids=["no comment", "no end"])
def test_silences_of_alertmanager_are_reviewed_in_the_same_way(receiver: WebServer, changed: dict[str, Any]) -> None:
    with silenced(receiver, **changed):
        result = run_job("alert_review", None, {"alertmanager": {"main": {"url": receiver.url, "timeout": "3s"}}})

    warned = [check.name for check in result.checks if "silences" in check.name and check.status is CheckStatus.WARN]
    assert len(warned) == 1, result.text()
    assert warned[0].startswith("alertmanager main: silences without")


# --- answers of Grafana ---


def test_a_rule_without_data_is_one_alert_under_its_own_name() -> None:
    fired = alert("58b85ab2", alertname="DatasourceNoData", rulename="Loss")

    result = review(answers([silence()], [fired], rules(rule(state="Alerting (NoData)"))))

    assert result.measure("alerts_firing", severity="critical") == 1, result.text()
    assert result.check("alerts: unacknowledged critical").observed == 0


def test_grafana_that_is_not_named_is_logged_without_an_alarm() -> None:
    with http_service({"/api/v2/alerts": json_reply([]), "/api/v2/silences": json_reply([])}) as url:
        result = run_job("alert_review", None, {"alertmanager": {"main": {"url": url}}})

    assert any(line.startswith("grafana: not configured") for line in result.logs), result.text()
    assert not any("grafana" in check.name for check in result.checks)


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (json_reply({"message": "Unauthorized"}, 401), "denied"),
        (json_reply({"accessErrorId": "ACE1", "message": "You'll need additional permissions"}, 403), "denied"),
        (json_reply({"message": "Not found", "traceID": ""}, 404), "not_found"),  # without unified alerting
        (Reply(b"", 302, headers={"Location": "/login"}), "malformed"),
        (Reply(b"<!doctype html><title>Grafana</title>", content_type="text/html"), "malformed"),
        (json_reply({"silences": []}), "malformed"),
        (json_reply({"message": "Alertmanager is not ready yet"}, 503), "failed"),
    ],
    ids=["401", "403", "404", "redirect", "page", "other JSON", "503"],
)
def test_silences_that_cannot_be_read_are_unknown_and_acknowledge_nothing(reply: Reply, cause: str) -> None:
    result = review(answers(reply))

    silences = result.check("grafana main: silences")
    assert silences.status is CheckStatus.UNKNOWN, result.text()
    assert str(silences.observed).startswith(f"unknown: {cause}: ")
    assert result.check("alerts: unacknowledged critical").observed == 1
    assert ("token of a service account" in silences.hint) == (cause == "denied")


def test_alerts_that_cannot_be_read_leave_those_of_the_rules() -> None:
    result = review(answers([silence()], json_reply({}, 403)))

    assert result.check("grafana main: silences").status is CheckStatus.UNKNOWN, result.text()
    assert result.check("alerts: unacknowledged critical").observed == 1


@pytest.mark.parametrize(
    "odd",
    [
        silence(endsAt="0001-01-01T00:00:00"),  # without a zone
        silence(status=None),
        {"silence": silence()},
        [silence()],
        "58b85ab2",
    ],
    ids=["time", "no state", "another shape", "list", "text"],
)
def test_a_silence_of_another_shape_is_unknown_and_hides_no_other(odd: Any) -> None:
    result = review(answers([odd, silence(comment="")], [alert()]))

    assert result.check("grafana main: alerts and silences understood").status is CheckStatus.UNKNOWN, result.text()
    assert result.check("grafana main: silences without a comment").observed == 1


@pytest.mark.parametrize(
    "odd",
    [
        {"name": "Odd", "type": "alerting"},
        rule("Odd", alerts=[{"labels": {"a": 1}, "state": "Alerting", "activeAt": ago(1)}]),
        rule("Odd", alerts=[{"labels": {}, "state": "Alerting", "activeAt": "yesterday"}]),
        rule("Odd", duration=1e300),
        None,
    ],
    ids=["no health", "labels", "time", "duration", "null"],
)
def test_a_rule_of_another_shape_is_unknown_and_hides_no_other(odd: Any) -> None:
    result = review(answers(found=rules(odd, rule())))

    assert result.check("grafana main: rules understood").status is CheckStatus.UNKNOWN, result.text()
    assert result.check("alerts: unacknowledged critical").observed == 1


def test_null_for_no_silences_and_no_alerts_is_read() -> None:
    result = review(answers(json_reply(None), json_reply(None), rules()))

    assert result.check("grafana main: silences without a comment").status is CheckStatus.OK, result.text()
    assert result.check("alerts: unacknowledged critical").status is CheckStatus.OK


def test_paths_of_grafana_below_a_folder_are_set_by_params() -> None:
    moved = {path.replace("/api/", "/grafana/api/", 1): reply for path, reply in answers([silence(comment="")]).items()}

    result = review(moved, grafana_path=f"/grafana{RULES}", grafana_alertmanager=f"/grafana{ALERTMANAGER}")

    assert result.check("grafana main: silences without a comment").observed == 1, result.text()
