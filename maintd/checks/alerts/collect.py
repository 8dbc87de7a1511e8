"""Those who tell of alerts: Prometheus, Alertmanager, and Grafana with rules of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx

from maintd.checks.alerts.firing import AlertLimits, Firing
from maintd.checks.alerts.history import Alerts, fired
from maintd.checks.collection import value_or_error
from maintd.clients import alertmanager, prometheus
from maintd.clients.alertmanager import Alert, Silence
from maintd.clients.exposition import counted
from maintd.clients.http import fetch
from maintd.clients.prometheus import FiringAlert, Rule
from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.target import AlertmanagerTarget, HttpTarget, PrometheusTarget

DAY = timedelta(days=1)


@dataclass(frozen=True)
class PrometheusFacts:
    """Its rules, what fires, where it sends that, what it could not send, and what fired within the last day."""

    rules: list[Rule]
    firing: list[FiringAlert]
    alertmanagers: list[str]
    dropped: float | TargetError
    day: Alerts | TargetError


@dataclass(frozen=True)
class AlertmanagerFacts:
    """Its alerts and silences; how many notifications it tried and how many failed, by integration."""

    alerts: list[Alert]
    silences: list[Silence]
    tried: Mapping[str, float] | TargetError
    failed: Mapping[str, float] | TargetError


@dataclass(frozen=True)
class GrafanaFacts:
    """What fires by Grafana's own rules, and which of them do not work."""

    rules: int
    firing: list[Firing]
    broken: list[str]


def look_at_prometheus(target: PrometheusTarget, name: str, now: datetime) -> PrometheusFacts:
    """Raises TargetError when its rules or alerts cannot be had."""
    server = prometheus.connect(target, name=name)
    rules = server.rules()
    return PrometheusFacts(
        rules=rules,
        firing=server.firing(),
        alertmanagers=server.alertmanagers(),
        dropped=value_or_error(lambda: counted(server.own_metrics(), "prometheus_notifications_dropped_total")[""]),
        day=value_or_error(lambda: fired(server, now - DAY, now)),
    )


def look_at_alertmanager(target: AlertmanagerTarget, name: str) -> AlertmanagerFacts:
    """Raises TargetError when its alerts or silences cannot be had."""
    server = alertmanager.connect(target, name=name)
    alerts, silences = server.alerts(), server.silences()
    text = value_or_error(server.own_metrics)

    def of(metric: str) -> Mapping[str, float] | TargetError:
        return text if isinstance(text, TargetError) else value_or_error(lambda: counted(text, metric, "integration"))

    return AlertmanagerFacts(
        alerts, silences, of("alertmanager_notifications_total"), of("alertmanager_notifications_failed_total")
    )


def look_at_grafana(target: HttpTarget, name: str, path: str, limits: AlertLimits) -> GrafanaFacts:
    """Its rules in the form of Prometheus, which Grafana keeps for the sake of others. Raises TargetError."""
    target = resolved(target)
    answer = fetch(
        "GET",
        str(httpx.URL(target.url).copy_with(path=path, query=None)),
        timeout=target.timeout,
        headers=target.headers,
        ca_file=target.ca_file,
        verify=target.verify,
    )
    if answer.status in (401, 403):
        hint = "give the target a header with a service account's token of role viewer"
        raise TargetError(f"{answer.url} answered {answer.status}", hint, cause="denied")
    if 300 <= answer.status < 400:
        hint = "is there a login page or a proxy before it?"
        raise TargetError(f"{answer.url} sends on to {answer.location or 'nowhere'}", hint, cause="malformed")
    if answer.status != 200:
        raise TargetError(f"{answer.url} answered {answer.status}")
    try:
        return _grafana(answer.json(), f"grafana {name}", limits)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TargetError(f"{answer.url}: not an answer of Grafana", cause="malformed") from error


def _grafana(body: Any, told_by: str, limits: AlertLimits) -> GrafanaFacts:
    rules = [rule for group in body["data"]["groups"] for rule in group["rules"] if rule["type"] == "alerting"]
    broken = [
        f"{rule['name']}: {rule.get('lastError') or rule['health']}"
        for rule in rules
        if rule["health"] not in ("ok", "unknown")
    ]
    firing = [
        Firing(
            labels={"alertname": rule["name"], **alert["labels"]},
            severity=limits.severity(alert["labels"]),
            since=datetime.fromisoformat(alert["activeAt"]) + timedelta(seconds=float(rule.get("duration") or 0)),
            told_by=told_by,
            annotations=alert.get("annotations") or {},
        )
        for rule in rules
        for alert in rule.get("alerts") or ()
        # "Alerting" may stand with its reason: "Alerting (NoData)"; elsewhere Grafana says "firing" as Prometheus does.
        if str(alert["state"]).lower().split(" ")[0] in ("alerting", "firing", "nodata", "error")
    ]
    return GrafanaFacts(len(rules), firing, broken)
