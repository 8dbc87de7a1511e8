"""Grafana's own alerting: its rules, and the alerts and silences of the Alertmanager that it contains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

import httpx
from pydantic import AwareDatetime, Field

from maintd.checks.alerts.firing import AlertLimits, Firing, from_alertmanager, merge
from maintd.checks.probes import value_or_error
from maintd.clients.alertmanager import Alert, Alertmanager, Silence
from maintd.clients.http import Api
from maintd.clients.shapes import Listing, Shape, read, read_each
from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.target import HttpTarget

T = TypeVar("T")

RULES_PATH = "/api/prometheus/grafana/api/v1/rules"
ALERTMANAGER_PATH = "/api/alertmanager/grafana"
# A rule without data or with an error fires under these names; the label `rulename` has its own.
_WITHOUT_DATA = ("DatasourceNoData", "DatasourceError")
# The state may have a reason, "Alerting (NoData)"; other versions of Grafana use "firing" as Prometheus does.
_FIRING = ("alerting", "firing", "nodata", "error")


@dataclass(frozen=True)
class GrafanaFacts:
    """Grafana's alerting rules, and its alerts and silences or the error of reading them."""

    rules: Listing[_Rule]
    alerts: Listing[Alert] | TargetError
    silences: Listing[Silence] | TargetError

    @property
    def broken(self) -> list[str]:
        """Rules that fail, with their errors."""
        bad = [rule for rule in self.rules if rule.health not in ("ok", "unknown", "nodata")]
        return [f"{rule.name}: {rule.last_error or rule.health}" for rule in bad]

    def firing(self, source: str, limits: AlertLimits) -> list[Firing]:
        """Each alert once: from the Alertmanager, which knows the silences, else from the rules."""
        by_rules = [alert for rule in self.rules for alert in _of_rule(rule, source, limits)]
        if isinstance(self.alerts, TargetError) or isinstance(self.silences, TargetError):
            return by_rules
        alerts = [replace(alert, labels=_own_name(alert)) for alert in self.alerts]
        return merge([from_alertmanager(alerts, self.silences, source, limits), by_rules], limits)


# --- shapes of the rules ---


class _RuleAlert(Shape):
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    state: str
    active_at: AwareDatetime = Field(alias="activeAt")


class _Rule(Shape):
    name: str
    type: str
    health: str
    last_error: str = Field("", alias="lastError")
    duration: float = Field(0.0, ge=0, le=timedelta.max.total_seconds() / 1e3)  # seconds; its `for`
    alerts: tuple[_RuleAlert, ...] = ()


class _Group(Shape):
    rules: list[object] = []


class _Groups(Shape):
    groups: tuple[_Group, ...] = ()


class _Answer(Shape):
    data: _Groups


def collect_grafana(target: HttpTarget, name: str, rules_path: str, alertmanager_path: str) -> GrafanaFacts:
    """Read Grafana's rules, alerts and silences. Raises TargetError when its rules cannot be read."""
    target = resolved(target)
    server = Alertmanager(_api(target, alertmanager_path), f"grafana {name}")
    return GrafanaFacts(
        _with_access(lambda: _rules(target, rules_path)),
        value_or_error(lambda: _with_access(server.alerts)),
        value_or_error(lambda: _with_access(server.silences)),
    )


def _with_access(read_from: Callable[[], T]) -> T:
    """What is read; an error of access names the access that is needed."""
    try:
        return read_from()
    except TargetError as error:
        if error.cause != "denied":
            raise
        hint = "set a header of the target with the token of a service account that may read rules, alerts and silences"
        raise TargetError(str(error), f"{hint}, as the role viewer may", cause="denied") from error


def _api(target: HttpTarget, path: str) -> Api:
    url = str(httpx.URL(target.url).copy_with(path=path, query=None))
    return Api.of(target, url=url)


def _rules(target: HttpTarget, path: str) -> Listing[_Rule]:
    found = read(_Answer, _api(target, path).get(""), "unexpected answer to rules")
    rules = read_each(_Rule, [rule for group in found.data.groups for rule in group.rules], "rules")
    return Listing(tuple(rule for rule in rules if rule.type == "alerting"), rules.not_understood)


def _of_rule(rule: _Rule, source: str, limits: AlertLimits) -> Iterator[Firing]:
    for alert in rule.alerts:
        if alert.state.lower().split(" ")[0] in _FIRING:
            yield Firing(
                labels={"alertname": rule.name, **alert.labels},
                severity=limits.severity(alert.labels),
                since=alert.active_at + timedelta(seconds=rule.duration),
                source=source,
                annotations=alert.annotations,
            )


def _own_name(alert: Alert) -> dict[str, str]:
    """The labels with the name of the rule, also of one that fires as it has no data."""
    labels = dict(alert.labels)
    if labels.get("alertname") in _WITHOUT_DATA and labels.get("rulename"):
        labels["alertname"] = labels["rulename"]
    return labels
