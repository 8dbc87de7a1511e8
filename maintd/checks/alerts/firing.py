"""Firing alerts of Prometheus, Alertmanager and Grafana: limits, delivery, acknowledgement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field

from maintd.checks.alerts.silences import hides_too_much
from maintd.checks.limits import Limits
from maintd.clients.alertmanager import Alert, Silence
from maintd.clients.prometheus import FiringAlert
from maintd.job.attempt_info import KnownFinding
from maintd.model.evidence import Scalar
from maintd.units import Duration, Instant, format_duration, utc_text

NO_SEVERITY = "none"
PREFIX = "alert "
LONGEST_NAME = 200  # characters of the name of a check
_MINUTE = timedelta(minutes=1)


class AlertLimits(Limits):
    """When an alert needs attention. An alert with another severity, or without one, is treated as a warning."""

    severity_label: str = "severity"
    """Label with the severity of an alert."""
    critical: tuple[str, ...] = ("critical", "page", "emergency")
    """Severities whose unacknowledged alerts fail."""
    info: tuple[str, ...] = ("info",)
    """Severities that are only counted."""
    critical_within: Duration = timedelta(minutes=15)
    """How long a critical alert may stay unacknowledged."""
    warning_within: Duration = timedelta(hours=24)
    """How long any other alert may stay unacknowledged."""
    delivery_grace: Duration = timedelta(minutes=5)
    """How long an alert may fire in Prometheus until Alertmanager must know it."""
    changed_labels: tuple[str, ...] = ()
    """Labels that `alert_relabel_configs` of Prometheus change or drop."""
    flaps: int = Field(5, ge=1)
    """An alert that fires this often in a day is flapping."""
    longest_acknowledgement: Duration = timedelta(days=90)
    """An acknowledgement that ends later than this warns."""

    def severity(self, labels: Mapping[str, str]) -> str:
        """The severity of an alert in lower case, `none` without one."""
        return labels.get(self.severity_label, "").lower() or NO_SEVERITY


class Acknowledgement(BaseModel):
    """An acknowledgement in the params: name of the alert, further labels that it must have, who, why, until when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alert: str = Field(min_length=1)
    labels: dict[str, str] = {}
    by: str = Field(min_length=1)
    why: str = Field(min_length=1)
    until: Instant

    def covers(self, labels: Mapping[str, str], now: datetime) -> bool:
        """Whether it applies to the alert with these labels and has not ended."""
        return now < self.until and labels.get("alertname") == self.alert and self.labels.items() <= labels.items()


@dataclass(frozen=True)
class Firing:
    """A firing alert. `source` is the server that reported it; `acknowledged_by` has who and why, or is empty."""

    labels: Mapping[str, str]
    severity: str
    since: datetime
    source: str
    acknowledged_by: str = ""
    inhibited: bool = False  # by another firing alert
    by_finding: bool = False  # acknowledged as a finding of an earlier run
    annotations: Mapping[str, str] = field(default_factory=dict)
    known_as: str = ""  # the check of an open finding that is this alert, see `name_as_known`

    @property
    def name(self) -> str:
        """The name of its rule."""
        return self.labels.get("alertname", "")

    @property
    def check(self) -> str:
        """The name of its own check: `alert RedisDown (instance=redis:6379)`. An open finding keeps its name."""
        return self.known_as or f"{PREFIX}{self.name}{self._labels}"[:LONGEST_NAME]

    @property
    def _labels(self) -> str:
        others = {key: value for key, value in sorted(self.labels.items()) if key not in ("alertname", "severity")}
        labels = ", ".join(f"{key}={value}" for key, value in others.items())
        return f" ({labels})" if labels else ""

    @property
    def unacknowledged(self) -> bool:
        """Neither acknowledged nor inhibited."""
        return not self.acknowledged_by and not self.inhibited

    def text(self, now: datetime) -> str:
        """Format as `RedisDown (instance=redis:6379) for 2h`."""
        return f"{self.name}{self._labels} for {self.lasted(now)}"

    def lasted(self, now: datetime) -> str:
        """For how long it has fired: `2h`."""
        age = max(timedelta(), now - self.since)
        return format_duration(timedelta(seconds=age.total_seconds() // 60 * 60)) if age >= _MINUTE else "under 1m"

    def evidence(self) -> dict[str, Scalar | dict[str, str]]:
        """Plain data for the artifact."""
        return {
            "alert": self.name,
            "severity": self.severity,
            "since": utc_text(self.since),
            "source": self.source,
            "acknowledged_by": self.acknowledged_by,
            "inhibited": self.inhibited,
            "labels": dict(self.labels),
            "annotations": dict(self.annotations),
        }


Alerts = Mapping[str, Sequence[Firing] | None]
"""Alerts by source; None: it did not answer."""


def from_alertmanager(
    alerts: Iterable[Alert], silences: Iterable[Silence], source: str, limits: AlertLimits
) -> list[Firing]:
    """The alerts of an Alertmanager. A silence acknowledges an alert if it has an author and does not hide too much."""
    by_id = {silence.id: silence for silence in silences}
    found = []
    for alert in alerts:
        acknowledgements = [
            f"{silence.created_by.strip()}: {silence.comment}"
            for silence in (by_id[silence_id] for silence_id in alert.silenced_by if silence_id in by_id)
            if silence.created_by.strip() and not hides_too_much(silence, limits.severity_label)
        ]
        found.append(
            Firing(
                labels=alert.labels,
                severity=limits.severity(alert.labels),
                since=alert.starts_at,
                source=source,
                acknowledged_by="; ".join(acknowledgements),
                inhibited=bool(alert.inhibited_by),
                annotations=alert.annotations,
            )
        )
    return found


def from_prometheus(alerts: Iterable[FiringAlert], source: str, limits: AlertLimits) -> list[Firing]:
    """The alerts of a Prometheus, which does not know silences or inhibitions."""
    return [
        Firing(
            labels=alert.labels,
            severity=limits.severity(alert.labels),
            since=alert.since,
            source=source,
            annotations=alert.annotations,
        )
        for alert in alerts
    ]


def undelivered(sent: Iterable[Firing], arrived: Sequence[Firing], limits: AlertLimits, now: datetime) -> list[Firing]:
    """Return the alerts that fire for longer than the grace and did not arrive.

    An alert that arrives has all labels that were sent, and possibly external labels of Prometheus.
    """
    index = _Index(limits)
    index.add(arrived)
    return [alert for alert in sent if now - alert.since > limits.delivery_grace and alert not in index]


def merge(groups: Iterable[Sequence[Firing]], limits: AlertLimits) -> list[Firing]:
    """Return every alert once, oldest first; one that is in several groups is taken from the first of them."""
    merged: list[Firing] = []
    index = _Index(limits)
    for group in groups:
        new = [alert for alert in group if alert not in index]
        index.add(new)
        merged += new
    return sorted(merged, key=lambda alert: (alert.since, alert.name))


def acknowledge(alerts: Iterable[Firing], acknowledgements: Sequence[Acknowledgement], now: datetime) -> list[Firing]:
    """Return the alerts with the acknowledgements of the params added."""
    found = []
    for alert in alerts:
        own = [f"{one.by}: {one.why}" for one in acknowledgements if one.covers(alert.labels, now)]
        found.append(replace(alert, acknowledged_by="; ".join(filter(None, [alert.acknowledged_by, *own]))))
    return found


def acknowledge_by_findings(
    alerts: Iterable[Firing], findings: Mapping[str, KnownFinding], now: datetime
) -> list[Firing]:
    """Return the alerts with the acknowledgements of the findings that their own checks were."""
    found = []
    for alert in alerts:
        known = findings.get(alert.check)
        if alert.unacknowledged and known is not None and known.until is not None and now < known.until:
            alert = replace(alert, acknowledged_by=f"{known.by}: {known.why}", by_finding=True)
        found.append(alert)
    return found


def name_as_known(alerts: Sequence[Firing], findings: Iterable[str]) -> list[Firing]:
    """Return the alerts, each under the name of the open finding that it is.

    The labels of an alert depend on which server answers: Alertmanager has the external labels of Prometheus, too.
    Without this, an alert would be another finding, without its acknowledgement, while one of them is silent. Two names
    are one alert when the labels of one include those of the other; of several, those with the fewest other labels.
    """
    known = {name: pieces for name in findings if (pieces := _pieces(name))}
    plain = [replace(alert, known_as="") for alert in alerts]
    taken = {alert.check for alert in plain} & known.keys()
    pairs = sorted(
        (len(own ^ pieces), number, name)
        for number, alert in enumerate(plain)
        if alert.check not in taken and (own := _pieces(alert.check))
        for name, pieces in known.items()
        if name not in taken and (own < pieces or pieces < own)
    )
    named: dict[int, str] = {}
    for _, number, name in pairs:
        if number not in named and name not in taken:
            named[number] = name
            taken.add(name)
    return [replace(alert, known_as=named.get(number, "")) for number, alert in enumerate(plain)]


def _pieces(check: str) -> frozenset[str]:
    """The rule and the labels in the name of an alert's check; nothing for another check, and a name that was cut."""
    if not check.startswith(PREFIX) or len(check) >= LONGEST_NAME:
        return frozenset()
    rule, _, labels = check.removesuffix(")").partition(" (")
    return frozenset({rule, *(f"{PREFIX}{label}" for label in labels.split(", ") if label)})


def overdue(alerts: Iterable[Firing], limits: AlertLimits, now: datetime) -> tuple[list[Firing], list[Firing]]:
    """Return the critical alerts and the others that have stayed unacknowledged for too long."""
    left = [alert for alert in alerts if alert.unacknowledged and alert.severity not in limits.info]
    critical = [alert for alert in left if alert.severity in limits.critical]
    others = [alert for alert in left if alert.severity not in limits.critical]
    return (
        [alert for alert in critical if now - alert.since > limits.critical_within],
        [alert for alert in others if now - alert.since > limits.warning_within],
    )


class _Index:
    """Alerts by labels and by name, so that comparing thousands of them is fast."""

    def __init__(self, limits: AlertLimits) -> None:
        self._changed = frozenset(limits.changed_labels)
        self._exact: set[frozenset[tuple[str, str]]] = set()
        self._by_name: dict[str, list[Firing]] = {}

    def add(self, alerts: Iterable[Firing]) -> None:
        for alert in alerts:
            self._exact.add(frozenset(alert.labels.items()))
            self._by_name.setdefault(alert.name, []).append(alert)

    def __contains__(self, alert: Firing) -> bool:
        if frozenset(alert.labels.items()) in self._exact:
            return True
        wanted = {key: value for key, value in alert.labels.items() if key not in self._changed}.items()
        return any(wanted <= other.labels.items() for other in self._by_name.get(alert.name, ()))
