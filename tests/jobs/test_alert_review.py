"""Firing alerts of a real Prometheus with a real Alertmanager; Grafana as a stub with its responses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.http_services import Reply, http_service, json_reply, port_that_hangs, served
from support.job_runs import JobResult, run_job
from support.servers.base import free_port, wait_for
from support.servers.prometheus import WebServer, alertmanager, prometheus

from maintd.job.attempt_info import KnownFinding, Point
from maintd.model.evidence import CheckStatus
from maintd.units import utc_text

RULES = """
groups:
- name: made
  rules:
  - {alert: Watchdog, expr: vector(1), labels: {severity: none}}
  - {alert: RedisDown, expr: vector(1), labels: {severity: critical, instance: "redis:6379"}}
  - {alert: DiskFull, expr: vector(1), labels: {severity: warning}, annotations: {summary: "<b>full</b>"}}
  - {alert: ParamChanged, expr: vector(1), labels: {severity: info}}
  - {alert: Held, expr: vector(1), for: 1h, labels: {severity: critical}}
"""
BROKEN = """
groups:
- name: made
  rules:
  - {alert: Twice, expr: 'label_replace(vector(1), "a", "b", "", "") + on () group_left () (vector(1) or label_replace(vector(1), "x", "y", "", ""))'}
"""  # noqa: E501
NOW = {"critical_within": "0s", "warning_within": "0s", "delivery_grace": "0s"}


@dataclass
class Wired:
    """A Prometheus with rules that fire, which sends to an Alertmanager."""

    prometheus: WebServer
    alertmanager: WebServer

    @property
    def targets(self) -> dict[str, Any]:
        return {
            "prometheus": {"main": {"url": self.prometheus.url, "timeout": "3s"}},
            "alertmanager": {"main": {"url": self.alertmanager.url, "timeout": "3s"}},
        }

    def review(self, params: dict[str, Any] | None = None, **more: Any) -> JobResult:
        return run_job("alert_review", params, self.targets, **more)

    def knows(self, name: str) -> bool:
        found = httpx.get(f"{self.alertmanager.url}/api/v2/alerts", timeout=3).json()
        return any(alert["labels"]["alertname"] == name for alert in found)


def config(folder: Path, alertmanager_port: int, rules: str = RULES) -> str:
    (folder / "rules.yml").write_text(rules)
    return f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s, external_labels: {{cluster: one}}}}
rule_files: ["{folder}/rules.yml"]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["127.0.0.1:{alertmanager_port}"]}}]}}]}}
scrape_configs: []
"""


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    """Shared by the module: leave its alerts as they are, and end what you silence."""
    # It finds its Alertmanagers after five seconds; what fired before is sent again after a minute, or as said here.
    again = ["--rules.alert.resend-delay=1s"]
    with (
        alertmanager() as receiver,
        prometheus(config(tmp_path_factory.mktemp("rules"), receiver.port), flags=again) as sender,
    ):
        pair = Wired(sender, receiver)
        wait_for(lambda: pair.knows("RedisDown") and pair.knows("Watchdog"), "alerts in Alertmanager")
        yield pair


@contextmanager
def silenced(server: WebServer, *matchers: dict[str, Any], by: str = "ann", **more: Any) -> Iterator[str]:
    """A silence for the length of a `with`; in force when it begins."""
    now = datetime.now(UTC)
    times = {"startsAt": utc_text(now - timedelta(seconds=1)), "endsAt": utc_text(now + timedelta(days=3))}
    body = {"matchers": list(matchers), "createdBy": by, "comment": "known, see ticket 7", **times, **more}
    answer = httpx.post(f"{server.url}/api/v2/silences", json=body, timeout=3).raise_for_status()
    silence = answer.json()["silenceID"]
    try:
        yield silence
    finally:
        httpx.delete(f"{server.url}/api/v2/silence/{silence}", timeout=3).raise_for_status()


def is_(name: str, value: str, **more: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "isRegex": False, "isEqual": True, **more}


def sent(server: WebServer, name: str, age: timedelta, severity: str = "critical") -> None:
    """Send an alert to Alertmanager from another sender; it ends in ten minutes."""
    now = datetime.now(UTC)
    alert = {
        "labels": {"alertname": name, "severity": severity},
        "startsAt": utc_text(now - age),
        "endsAt": utc_text(now + timedelta(minutes=10)),
    }
    httpx.post(f"{server.url}/api/v2/alerts", json=[alert], timeout=3).raise_for_status()


@contextmanager
def refusing() -> Iterator[str]:
    """A receiver of notifications that answers 400, which is no reason to try again."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(400)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with served(Handler) as url:
        yield f"{url}/"


# --- what fires ---


@pytest.mark.server
def test_an_unacknowledged_critical_alert_fails_and_is_named(wired: Wired) -> None:
    result = wired.review({"alerts": NOW, "watchdog": "Watchdog"})

    critical = result.check("alerts: unacknowledged critical")
    assert (critical.observed, critical.status) == (1, CheckStatus.FAIL), result.text()
    assert "RedisDown (cluster=one, instance=redis:6379)" in critical.hint
    assert result.check("alerts: unacknowledged others").observed == 1  # DiskFull; info is counted only
    assert result.measure("alerts_firing", severity="critical") == 1  # each once, though two tell of it
    assert result.measure("alerts_firing", severity="info") == 1
    assert result.measure("alerts_unacked", severity="warning") == 1
    assert result.check("alertmanager main: Watchdog").status is CheckStatus.OK
    assert result.check("prometheus main: alerts that Alertmanager does not know").observed == 0
    assert "<b>full</b>" not in result.text()


@pytest.mark.server
def test_a_recent_alert_is_within_its_acknowledgement_time(wired: Wired) -> None:
    result = wired.review()

    assert result.outcome == "succeeded", result.text()
    assert result.measure("alerts_unacked", severity="critical") == 1
    assert not any("Held" in line for line in result.logs)  # pending: its hour is not over


@pytest.mark.server
def test_a_critical_alert_older_than_a_quarter_of_an_hour_fails_by_default() -> None:
    with alertmanager() as receiver:
        sent(receiver, "Old", timedelta(minutes=16))
        sent(receiver, "Young", timedelta(minutes=14))
        sent(receiver, "OldWarning", timedelta(hours=25), "warning")
        targets = {"alertmanager": {"main": {"url": receiver.url}}}
        result = run_job("alert_review", None, targets)

    assert "Old for 16m" in result.check("alerts: unacknowledged critical").hint, result.text()
    assert result.check("alerts: unacknowledged critical").observed == 1
    assert result.check("alerts: unacknowledged others").status is CheckStatus.WARN


@pytest.mark.server
def test_a_silence_with_an_author_acknowledges(wired: Wired) -> None:
    with silenced(wired.alertmanager, is_("alertname", "RedisDown")):
        result = wired.review({"alerts": NOW})

    assert result.check("alerts: unacknowledged critical").status is CheckStatus.OK, result.text()
    assert any("RedisDown" in line and "acknowledged by ann: known, see ticket 7" in line for line in result.logs)
    assert result.measure("silences_active", server="main") == 1


@pytest.mark.server
def test_a_silence_that_hides_everything_acknowledges_nothing(wired: Wired) -> None:
    with silenced(wired.alertmanager, is_("alertname", ".+", isRegex=True)):
        result = wired.review({"alerts": NOW})

    assert result.check("alerts: unacknowledged critical").status is CheckStatus.FAIL, result.text()
    hiding = result.check("alertmanager main: silences that hide everything")
    assert hiding.status is CheckStatus.WARN
    assert 'alertname=~".+" by ann until' in hiding.hint


@pytest.mark.server
def test_a_silence_without_an_author_acknowledges_nothing(wired: Wired) -> None:
    with silenced(wired.alertmanager, is_("alertname", "RedisDown"), by=" "):
        result = wired.review({"alerts": NOW})

    assert result.check("alerts: unacknowledged critical").status is CheckStatus.FAIL, result.text()
    assert result.check("alertmanager main: silences without an author").status is CheckStatus.WARN


@pytest.mark.server
def test_a_silence_that_ends_soon_is_named_when_it_hides_an_alert(wired: Wired) -> None:
    soon = {"endsAt": utc_text(datetime.now(UTC) + timedelta(hours=2))}
    with (
        silenced(wired.alertmanager, is_("alertname", "DiskFull"), **soon),
        silenced(wired.alertmanager, is_("alertname", "Nothing"), by="bob", **soon),
    ):
        result = wired.review()

    ending = result.check("alertmanager main: silences that end soon")
    assert (ending.observed, ending.status) == (1, CheckStatus.WARN), result.text()
    assert "DiskFull" in ending.hint


SINCE = datetime(2026, 11, 20, tzinfo=UTC)
REDIS_DOWN = "alert RedisDown (cluster=one, instance=redis:6379)"


@pytest.mark.server
def test_an_alert_that_is_acknowledged_as_a_finding_is_logged_and_does_not_fail(wired: Wired) -> None:
    until = datetime.now(UTC) + timedelta(days=2)
    known = KnownFinding(SINCE, "ada", "new server on Monday", until)
    over = KnownFinding(SINCE, "ada", "new server on Monday", datetime.now(UTC) - timedelta(days=1))

    unknown = wired.review({"alerts": NOW})
    holds = wired.review({"alerts": NOW}, findings={REDIS_DOWN: known})
    again = wired.review({"alerts": NOW}, findings={REDIS_DOWN: over})
    of_another = wired.review({"alerts": NOW}, findings={"alert Other": known})

    assert unknown.check(REDIS_DOWN).status is CheckStatus.FAIL, unknown.text()
    assert unknown.check("alerts: unacknowledged critical").because == REDIS_DOWN
    kept = holds.check(REDIS_DOWN)  # it decides nothing: the finding stays open
    assert (kept.status, kept.optional) == (CheckStatus.UNKNOWN, True), holds.text()
    assert kept.observed == "unknown: acknowledged by ada: new server on Monday"
    assert holds.check("alerts: unacknowledged critical").status is CheckStatus.OK
    assert holds.measure("alerts_firing", severity="critical") == 1  # it still counts as firing
    assert holds.measure("alerts_unacked", severity="critical") == 0
    assert any("RedisDown" in line and "acknowledged by ada: new server on Monday" in line for line in holds.logs)
    assert again.check(REDIS_DOWN).status is CheckStatus.FAIL
    assert of_another.check(REDIS_DOWN).status is CheckStatus.FAIL


def without(wired: Wired, kind: str) -> dict[str, Any]:
    """The targets, of which those of a kind refuse connections."""
    down = {"main": {"url": f"http://127.0.0.1:{free_port()}", "timeout": "3s"}}
    return wired.targets | {kind: down}


@pytest.mark.server
@pytest.mark.parametrize("silent", ["alertmanager", "prometheus"])
@pytest.mark.parametrize("finding", [REDIS_DOWN, "alert RedisDown (instance=redis:6379)"])
def test_an_acknowledgement_holds_whichever_server_is_silent(wired: Wired, silent: str, finding: str) -> None:
    until = datetime.now(UTC) + timedelta(days=2)
    findings = {
        finding: KnownFinding(SINCE, "ada", "new server on Monday", until),
        "alert Gone (a=b)": KnownFinding(SINCE),
    }

    result = run_job("alert_review", {"alerts": NOW}, without(wired, silent), findings=findings)

    names = {check.name for check in result.checks if check.name.startswith("alert RedisDown")}
    assert names == {finding}, result.text()
    assert result.check(finding).observed == "unknown: acknowledged by ada: new server on Monday"
    gone = result.check("alert Gone (a=b)")
    assert (gone.status, gone.optional, "did not answer" in str(gone.observed)) == (CheckStatus.UNKNOWN, True, True)


@pytest.mark.server
@pytest.mark.parametrize("silent", ["alertmanager", "prometheus"])
def test_an_unacknowledged_alert_keeps_its_finding_whichever_server_is_silent(wired: Wired, silent: str) -> None:
    result = run_job(
        "alert_review", {"alerts": NOW}, without(wired, silent), findings={REDIS_DOWN: KnownFinding(SINCE)}
    )

    assert [check.name for check in result.checks if check.name.startswith("alert RedisDown")] == [REDIS_DOWN]
    assert result.check(REDIS_DOWN).status is CheckStatus.FAIL


@pytest.mark.server
def test_a_finding_of_an_alert_that_fires_for_a_short_time_only_stays(wired: Wired) -> None:
    limits = {"alerts": {**NOW, "critical_within": "7d"}}

    result = wired.review(limits, findings={REDIS_DOWN: KnownFinding(SINCE)})

    kept = result.check(REDIS_DOWN)
    assert (kept.status, kept.optional) == (CheckStatus.UNKNOWN, True), result.text()
    assert str(kept.observed).startswith("unknown: fires for ")


@pytest.mark.server
def test_a_finding_is_over_when_its_alert_no_longer_fires_or_is_silenced(wired: Wired) -> None:
    open_ones = {
        "alert Gone (instance=a)": KnownFinding(SINCE),
        REDIS_DOWN: KnownFinding(SINCE),
        "other": KnownFinding(SINCE),
    }
    with silenced(wired.alertmanager, is_("alertname", "RedisDown"), is_("instance", "redis:6379")):
        result = wired.review({"alerts": NOW}, findings=open_ones)

    assert result.check("alert Gone (instance=a)").status is CheckStatus.OK, result.text()
    assert result.check(REDIS_DOWN).status is CheckStatus.OK
    assert result.named("other") == result.named("alerts: unacknowledged others")


@pytest.mark.server
def test_an_acknowledgement_in_the_calendar_counts_until_it_ends(wired: Wired) -> None:
    def given(until: timedelta, **labels: str) -> dict[str, Any]:
        at = utc_text(datetime.now(UTC) + until)
        note = {"alert": "RedisDown", "labels": labels, "by": "ann", "why": "new server on Monday", "until": at}
        return {"alerts": NOW, "acknowledged": [note]}

    holds = wired.review(given(timedelta(days=2), instance="redis:6379"))
    ended = wired.review(given(timedelta(days=-1)))
    of_another = wired.review(given(timedelta(days=2), instance="other"))
    endless = wired.review(given(timedelta(days=100)))

    assert holds.check("alerts: unacknowledged critical").status is CheckStatus.OK, holds.text()
    assert holds.measure("alerts_firing", severity="critical") == 1  # it still counts as firing
    assert ended.check("alerts: unacknowledged critical").status is CheckStatus.FAIL
    assert of_another.check("alerts: unacknowledged critical").status is CheckStatus.FAIL
    assert endless.check("alerts: acknowledgements without an end in sight").status is CheckStatus.WARN


@pytest.mark.server
def test_an_inhibited_alert_needs_no_acknowledgement(tmp_path: Path) -> None:
    inhibit = "{source_matchers: [alertname=HostDown], target_matchers: [alertname=RedisDown]}"
    text = f"route: {{receiver: nobody}}\nreceivers: [{{name: nobody}}]\ninhibit_rules: [{inhibit}]\n"
    with alertmanager(text) as receiver:
        sent(receiver, "RedisDown", timedelta(hours=1))
        sent(receiver, "HostDown", timedelta(minutes=1), "info")
        url = f"{receiver.url}/api/v2/alerts?active=false"
        wait_for(lambda: len(httpx.get(url, timeout=3).json()) == 1, "inhibition")
        result = run_job("alert_review", None, {"alertmanager": {"main": {"url": receiver.url}}})

    assert result.check("alerts: unacknowledged critical").observed == 0, result.text()


# --- whether it reaches people ---


@pytest.mark.server
def test_alerts_that_are_not_delivered_fail(tmp_path: Path) -> None:
    with alertmanager() as receiver, prometheus(config(tmp_path, free_port())) as sender:
        pair = Wired(sender, receiver)
        url = f"{sender.url}/api/v1/alerts"
        fires = {"RedisDown", "firing"}
        wait_for(
            lambda: any(
                fires == {alert["labels"]["alertname"], alert["state"]}
                for alert in httpx.get(url, timeout=3).json()["data"]["alerts"]
            ),
            "an alert that fires",
        )
        broken = pair.review({"alerts": {"delivery_grace": "0s"}, "watchdog": "Watchdog"})
        too_early = pair.review()

    lost = broken.check("prometheus main: alerts that Alertmanager does not know")
    assert (lost.observed, lost.status) == (4, CheckStatus.FAIL), broken.text()
    assert "delivery is broken" in lost.hint
    assert broken.check("alertmanager main: Watchdog").status is CheckStatus.FAIL
    assert broken.check("prometheus main: Watchdog").status is CheckStatus.OK
    assert too_early.check(lost.name).status is CheckStatus.OK  # five minutes of grace


@pytest.mark.server
def test_an_alertmanager_that_is_down_is_never_no_alerts(wired: Wired) -> None:
    targets = wired.targets | {"alertmanager": {"main": {"url": f"http://127.0.0.1:{free_port()}"}}}

    result = run_job("alert_review", None, targets)

    assert result.check("alertmanager main: answers").status is CheckStatus.FAIL, result.text()
    assert str(result.check("alertmanager main: answers").observed).startswith("refused")
    for what in ("alerts: unacknowledged critical", "prometheus main: alerts that Alertmanager does not know"):
        assert result.check(what).status is CheckStatus.UNKNOWN


@pytest.mark.server
def test_without_an_alertmanager_delivery_is_unknown(wired: Wired) -> None:
    result = run_job("alert_review", {"alerts": NOW}, {"prometheus": wired.targets["prometheus"]})

    assert result.check("alertmanager: configured").status is CheckStatus.UNKNOWN, result.text()
    assert result.check("alerts: unacknowledged critical").status is CheckStatus.FAIL


@pytest.mark.server
def test_one_alertmanager_that_hangs_costs_its_timeout_and_hides_nothing(wired: Wired) -> None:
    with port_that_hangs() as port:
        both = {
            "main": wired.targets["alertmanager"]["main"],
            "other": {"url": f"http://127.0.0.1:{port}", "timeout": "500ms"},
        }
        result = run_job("alert_review", {"alerts": NOW}, wired.targets | {"alertmanager": both})

    assert str(result.check("alertmanager other: answers").observed).startswith("timed_out"), result.text()
    assert result.check("prometheus main: alerts that Alertmanager does not know").status is CheckStatus.OK
    assert result.check("alerts: unacknowledged critical").observed == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"<html><form>Sign in</form></html>", content_type="text/html"),
        Reply(b"", 302, headers={"Location": "http://login.example/?rd=secret"}),
        Reply(b"<html>Sign in</html>", 403, "text/html"),
        json_reply({"status": "success"}),
    ],
    ids=["page", "redirect", "denied", "other JSON"],
)
def test_a_login_page_is_not_an_answer(reply: Reply) -> None:
    paths = ("/api/v1/rules", "/api/v2/alerts", "/api/v2/silences")
    with http_service(dict.fromkeys(paths, reply)) as url:
        result = run_job(
            "alert_review", None, {kind: {"main": {"url": url}} for kind in ("prometheus", "alertmanager")}
        )

    assert result.outcome == "unknown", result.text()
    for what in ("prometheus main: answers", "alertmanager main: answers", "alerts: unacknowledged critical"):
        assert result.check(what).status is CheckStatus.UNKNOWN
    assert "secret" not in result.text()


@pytest.mark.server
def test_alerts_that_prometheus_could_not_send_are_counted_from_one_run_to_the_next(wired: Wired) -> None:
    so_far = wired.review().measure("prometheus_notifications_dropped", server="main")

    def again(before: float) -> JobResult:
        return wired.review(
            series={"prometheus_notifications_dropped": [Point(datetime.now(UTC), before, {"server": "main"})]}
        )

    assert so_far > 0  # before it found its Alertmanager
    assert again(so_far).check("prometheus main: alerts not sent").status is CheckStatus.OK
    assert again(so_far - 2).check("prometheus main: alerts not sent").observed == 2
    assert not again(so_far + 100).named("alerts not sent")  # it began anew


@pytest.mark.server
def test_notifications_that_all_fail_are_a_failure() -> None:
    with refusing() as url:
        hook = f'{{name: hook, webhook_configs: [{{url: "{url}"}}]}}'
        with alertmanager(f"route: {{receiver: hook, group_wait: 0s}}\nreceivers: [{hook}]\n") as receiver:
            sent(receiver, "RedisDown", timedelta(minutes=1))

            def failed() -> bool:
                metrics = httpx.get(f"{receiver.url}/metrics", timeout=3).text
                # Later versions have one for each reason.
                return re.search(r'notifications_failed_total\{integration="webhook"[^}]*\} 1', metrics) is not None

            wait_for(failed, "a notification that failed")
            targets = {"alertmanager": {"main": {"url": receiver.url}}}
            result = run_job("alert_review", None, targets)
            labels = {"server": "main", "integration": "webhook"}
            before = [Point(datetime.now(UTC), 1, labels)]
            later = run_job(
                "alert_review",
                None,
                targets,
                series={"alertmanager_notifications_failed": before, "alertmanager_notifications": before},
            )

    check = result.check("alertmanager main: notifications by webhook")
    assert (check.observed, check.status) == ("1 of 1 failed", CheckStatus.FAIL), result.text()
    assert not later.named("notifications by webhook")  # nothing new failed since the last review


# --- rules ---


@pytest.mark.server
def test_a_rule_that_fails_is_a_failure(tmp_path: Path) -> None:
    with alertmanager() as receiver, prometheus(config(tmp_path, receiver.port, BROKEN)) as sender:
        url = f"{sender.url}/api/v1/rules"
        wait_for(lambda: '"health":"err"' in httpx.get(url, timeout=3).text, "a rule that fails")
        result = Wired(sender, receiver).review()

    broken = result.check("prometheus main: rules that fail")
    assert broken.status is CheckStatus.FAIL, result.text()
    assert "made Twice" in broken.hint


@pytest.mark.server
def test_no_rules_at_all_is_not_no_alerts(prometheus_server: WebServer, alertmanager_server: WebServer) -> None:
    result = Wired(prometheus_server, alertmanager_server).review()

    assert result.check("prometheus main: alerting rules").status is CheckStatus.UNKNOWN, result.text()
    assert result.check("prometheus main: Alertmanagers it sends to").status is CheckStatus.FAIL


@pytest.mark.server
def test_a_flapping_alert_is_named(tmp_path: Path) -> None:
    now = int(datetime.now(UTC).timestamp())
    lines = ["# TYPE ALERTS gauge"]
    for episode in range(6):  # six times two minutes within the last day, an hour apart
        lines += [
            f'ALERTS{{alertname="Flapper",alertstate="firing",severity="warning"}} 1 {now - 3600 * episode - second}'
            for second in range(3480, 3600, 15)
        ]
    ordered = [lines[0], *sorted(lines[1:], key=lambda line: int(line.rsplit(" ", 1)[1])), "# EOF", ""]
    with alertmanager() as receiver:
        made = prometheus(config(tmp_path, receiver.port), openmetrics="\n".join(ordered))
        with made as sender:
            result = Wired(sender, receiver).review()

    flapping = result.check("prometheus main: alerts that flap")
    assert (flapping.observed, flapping.status) == (1, CheckStatus.WARN), result.text()
    assert "Flapper 6 times" in flapping.hint
    # Two minutes each, and the five for which Prometheus goes on showing a value that nobody said had ended.
    assert 400 <= result.measure("alert_mttr_seconds", server="main") <= 440


# --- Grafana, which cannot be had here ---


def grafana(*rules: dict[str, Any]) -> dict[str, Reply]:
    body = {"status": "success", "data": {"groups": [{"name": "g", "rules": list(rules)}]}}
    return {"/api/prometheus/grafana/api/v1/rules": json_reply(body)}


def of_grafana(name: str, state: str, health: str = "ok", **labels: str) -> dict[str, Any]:
    at = utc_text(datetime.now(UTC) - timedelta(hours=2))
    alert = {"labels": labels, "annotations": {}, "state": state, "activeAt": at, "value": ""}
    rule = {"name": name, "type": "alerting", "health": health, "duration": 60, "alerts": [alert]}
    return rule | {"state": "firing", "lastError": "no such datasource" if health == "error" else ""}


@pytest.mark.server
def test_rules_of_grafana_are_reviewed_with_the_others(wired: Wired) -> None:
    rules = [
        of_grafana("Loss", "Alerting", severity="critical"),
        of_grafana("Quiet", "Normal", severity="critical"),
        of_grafana("Blind", "Alerting (NoData)", severity="warning"),
        of_grafana("Broken", "Normal", "error"),
    ]
    with http_service(grafana(*rules)) as url:
        http = {"grafana": {"url": f"{url}/api/health"}}
        result = run_job("alert_review", {"grafana": "grafana"}, wired.targets | {"http": http})

    assert "Loss for 1h59m" in result.check("alerts: unacknowledged critical").hint, result.text()
    assert result.check("alerts: unacknowledged critical").observed == 1
    assert result.check("grafana grafana: rules that fail").hint == "Broken: no such datasource"
    assert any("Blind" in line for line in result.logs)
    assert not any("Quiet" in line for line in result.logs)


@pytest.mark.server
def test_a_grafana_behind_a_login_page_is_unknown(wired: Wired) -> None:
    page = Reply(b"<!doctype html><title>Grafana</title>", content_type="text/html")
    with http_service({"/api/prometheus/grafana/api/v1/rules": page}) as url:
        targets = wired.targets | {"http": {"grafana": {"url": url}}}
        result = run_job("alert_review", {"grafana": "grafana"}, targets)

    assert result.check("grafana grafana: answers").status is CheckStatus.UNKNOWN, result.text()
    assert result.check("alerts: unacknowledged critical").status is CheckStatus.UNKNOWN
