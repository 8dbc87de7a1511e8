"""Collection of alerts, rules and silences from Prometheus and Alertmanager."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from maintd.checks.alerts.history import Alerts, fired
from maintd.checks.probes import value_or_error
from maintd.checks.prometheus.health import Reload, reload_in, reload_of
from maintd.clients import alertmanager, prometheus
from maintd.clients.alertmanager import Alert, Silence, Status
from maintd.clients.exposition import sums
from maintd.clients.prometheus import FiringAlert, Rule
from maintd.clients.shapes import Listing
from maintd.errors import TargetError
from maintd.model.target import AlertmanagerTarget, PrometheusTarget

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
