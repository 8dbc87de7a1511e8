"""Collection of alerts, rules and silences from Prometheus, Alertmanager and Grafana."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx

from maintd.checks.alerts.firing import AlertLimits, Firing
from maintd.checks.alerts.history import Alerts, fired
from maintd.checks.probes import value_or_error
from maintd.checks.prometheus.health import Reload, reload_in, reload_of
from maintd.clients import alertmanager, prometheus
from maintd.clients.alertmanager import Alert, Silence, Status
from maintd.clients.exposition import sums
from maintd.clients.http import fetch
from maintd.clients.prometheus import FiringAlert, Rule
from maintd.clients.shapes import Listing
from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.target import AlertmanagerTarget, HttpTarget, PrometheusTarget

DAY = timedelta(days=1)
DROPPED = "prometheus_notifications_dropped_total"


@dataclass(frozen=True)
class PrometheusFacts:
    """Rules, firing alerts, Alertmanagers, dropped notifications, and the alerts of the last day."""

    rules: Listing[Rule]
    firing: Listing[FiringAlert]
    alertmanagers: Listing[str] | TargetError
    dropped: float | TargetError
    day: Alerts | TargetError
    reload: Reload | TargetError


@dataclass(frozen=True)
class AlertmanagerFacts:
    """Alerts and silences; notifications tried and failed since its start, by integration."""

    alerts: Listing[Alert]
    silences: Listing[Silence]
    status: Status | TargetError
    reload: Reload | TargetError
    tried: Mapping[str, float] | TargetError
    failed: Mapping[str, float] | TargetError


@dataclass(frozen=True)
class GrafanaFacts:
    """Firing alerts of Grafana's own rules, and rules that fail."""

    rules: int
    firing: list[Firing]
    broken: list[str]


def collect_prometheus(target: PrometheusTarget, name: str, now: datetime) -> PrometheusFacts:
    """Raises TargetError when its rules or alerts cannot be read."""
    server = prometheus.connect(target, name=name)
    rules = server.rules()
    return PrometheusFacts(
        rules=rules,
        firing=server.firing(),
        alertmanagers=value_or_error(server.alertmanagers),
        dropped=value_or_error(
            lambda: sum(sums(server.own_metrics(), "prometheus_notifications_dropped_total").values())
        ),
        day=value_or_error(lambda: fired(server, now - DAY, now)),
        reload=value_or_error(lambda: reload_of(server)),
    )


def collect_alertmanager(target: AlertmanagerTarget, name: str) -> AlertmanagerFacts:
    """Raises TargetError when its alerts or silences cannot be read."""
    server = alertmanager.connect(target, name=name)
    alerts, silences = server.alerts(), server.silences()
    text = value_or_error(server.own_metrics)

    def of(metric: str) -> Mapping[str, float] | TargetError:
        return text if isinstance(text, TargetError) else value_or_error(lambda: sums(text, metric, "integration"))

    return AlertmanagerFacts(
        alerts,
        silences,
        value_or_error(server.status),
        text if isinstance(text, TargetError) else value_or_error(lambda: reload_in(text)),
        of("alertmanager_notifications_total"),
        of("alertmanager_notifications_failed_total"),
    )


def collect_grafana(target: HttpTarget, name: str, path: str, limits: AlertLimits) -> GrafanaFacts:
    """Read Grafana's rules from its Prometheus-compatible API. Raises TargetError."""
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
        hint = "set a header of the target with the token of a service account with the role viewer"
        raise TargetError(f"{answer.url} answered {answer.status}", hint, cause="denied")
    if 300 <= answer.status < 400:
        hint = "check whether it is behind a login page or a proxy"
        raise TargetError(f"{answer.url} redirects to {answer.location or 'nowhere'}", hint, cause="malformed")
    if answer.status != 200:
        raise TargetError(f"{answer.url} answered {answer.status}")
    try:
        return _grafana(answer.json(), f"grafana {name}", limits)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TargetError(f"{answer.url}: not a response of Grafana", cause="malformed") from error


def _grafana(body: Any, source: str, limits: AlertLimits) -> GrafanaFacts:
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
            source=source,
            annotations=alert.get("annotations") or {},
        )
        for rule in rules
        for alert in rule.get("alerts") or ()
        # The state may have a reason, "Alerting (NoData)"; other versions of Grafana use "firing" as Prometheus does.
        if str(alert["state"]).lower().split(" ")[0] in ("alerting", "firing", "nodata", "error")
    ]
    return GrafanaFacts(len(rules), firing, broken)
