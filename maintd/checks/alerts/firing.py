"""What fires, from all who tell, each alert once; whether it was delivered, and who took note of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field

from maintd.checks.alerts.silences import hides_too_much
from maintd.checks.limits import Limits
from maintd.clients.alertmanager import Alert, Silence
from maintd.clients.prometheus import FiringAlert
from maintd.model.evidence import Scalar
from maintd.units import Duration, Instant, format_duration, utc_text


@dataclass(frozen=True)
class Firing:
    """An alert that fires. `taken_by` says who took note of it and why; empty: nobody did."""

    labels: Mapping[str, str]
    severity: str
    since: datetime
    told_by: str
    taken_by: str = ""
    inhibited: bool = False  # another alert that fires speaks for it
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its rule."""
        return self.labels.get("alertname", "")

    @property
    def open(self) -> bool:
        """Nobody took note of it."""
        return not self.taken_by and not self.inhibited

    def wording(self, now: datetime) -> str:
        """For a person: `RedisDown (instance=redis:6379) for 2h`."""
        kept = {k: v for k, v in sorted(self.labels.items()) if k not in ("alertname", "severity")}
        said = ", ".join(f"{key}={value}" for key, value in kept.items())
        age = max(timedelta(), now - self.since)
        lasts = format_duration(timedelta(seconds=age.total_seconds() // 60 * 60)) if age >= _MINUTE else "under 1m"
        return f"{self.name}{f' ({said})' if said else ''} for {lasts}"

    def evidence(self) -> dict[str, Scalar | dict[str, str]]:
        """Plain data for an artifact."""
        return {
            "alert": self.name,
            "severity": self.severity,
            "since": utc_text(self.since),
            "told_by": self.told_by,
            "taken_by": self.taken_by,
            "inhibited": self.inhibited,
            "labels": dict(self.labels),
            "annotations": dict(self.annotations),
        }


_MINUTE = timedelta(minutes=1)


def known_to_alertmanager(
    alerts: Iterable[Alert], silences: Iterable[Silence], told_by: str, limits: AlertLimits
) -> list[Firing]:
    """Its alerts. A silence takes note of an alert when it has an author and does not hide everything."""
    by_id = {silence.id: silence for silence in silences}
    found = []
    for alert in alerts:
        taking = [
            f"{silence.created_by.strip()}: {silence.comment}"
            for silence in (by_id[one] for one in alert.silenced_by if one in by_id)
            if silence.created_by.strip() and not hides_too_much(silence, limits.severity_label)
        ]
        found.append(
            Firing(
                labels=alert.labels,
                severity=limits.severity(alert.labels),
                since=alert.starts_at,
                told_by=told_by,
                taken_by="; ".join(taking),
                inhibited=bool(alert.inhibited_by),
                annotations=alert.annotations,
            )
        )
    return found


def known_to_prometheus(alerts: Iterable[FiringAlert], told_by: str, limits: AlertLimits) -> list[Firing]:
    """What its rules say, before anybody could take note."""
    return [
        Firing(
            labels=alert.labels,
            severity=limits.severity(alert.labels),
            since=alert.since,
            told_by=told_by,
            annotations=alert.annotations,
        )
        for alert in alerts
    ]


def absent(sent: Iterable[Firing], arrived: Sequence[Firing], limits: AlertLimits, now: datetime) -> list[Firing]:
    """What fires for longer than the grace and did not arrive. What arrives has all labels that were sent, and more:
    those that Prometheus adds of itself."""
    known = _Known(limits)
    known.add(arrived)
    return [alert for alert in sent if now - alert.since > limits.delivery_grace and alert not in known]


def together(groups: Iterable[Sequence[Firing]], limits: AlertLimits) -> list[Firing]:
    """Every alert once: one that several tell of is taken from the first of them."""
    made: list[Firing] = []
    known = _Known(limits)
    for group in groups:
        new = [alert for alert in group if alert not in known]
        known.add(new)
        made += new
    return sorted(made, key=lambda alert: (alert.since, alert.name))


def acknowledged(alerts: Iterable[Firing], notes: Sequence[Acknowledgement], now: datetime) -> list[Firing]:
    """The alerts, with who took note of them here."""
    made = []
    for alert in alerts:
        here = [f"{one.by}: {one.why}" for one in notes if one.covers(alert.labels, now)]
        made.append(replace(alert, taken_by="; ".join(filter(None, [alert.taken_by, *here]))))
    return made


def waiting(alerts: Iterable[Firing], limits: AlertLimits, now: datetime) -> tuple[list[Firing], list[Firing]]:
    """Of the alerts that nobody took note of, the critical ones and the others that have waited for too long."""
    left = [alert for alert in alerts if alert.open and alert.severity not in limits.info]
    critical = [alert for alert in left if alert.severity in limits.critical]
    others = [alert for alert in left if alert.severity not in limits.critical]
    return (
        [alert for alert in critical if now - alert.since > limits.critical_within],
        [alert for alert in others if now - alert.since > limits.warning_within],
    )


class _Known:
    """Alerts, to ask whether one is among them; thousands of each are quick."""

    def __init__(self, limits: AlertLimits) -> None:
        self._changed = frozenset(limits.changed_labels)
        self._same: set[frozenset[tuple[str, str]]] = set()
        self._by_name: dict[str, list[Firing]] = {}

    def add(self, alerts: Iterable[Firing]) -> None:
        for alert in alerts:
            self._same.add(frozenset(alert.labels.items()))
            self._by_name.setdefault(alert.name, []).append(alert)

    def __contains__(self, alert: Firing) -> bool:
        if frozenset(alert.labels.items()) in self._same:
            return True
        wanted = {key: value for key, value in alert.labels.items() if key not in self._changed}.items()
        return any(wanted <= other.labels.items() for other in self._by_name.get(alert.name, ()))


NO_SEVERITY = "none"


class AlertLimits(Limits):
    """When alerts need somebody. An alert of any other severity, or of none, is judged as a warning."""

    severity_label: str = "severity"
    """The label that says how bad an alert is."""
    critical: tuple[str, ...] = ("critical", "page", "emergency")
    """Severities that fail when nobody took note."""
    info: tuple[str, ...] = ("info",)
    """Severities that are counted only."""
    critical_within: Duration = timedelta(minutes=15)
    """How long a critical alert may wait for somebody to take note."""
    warning_within: Duration = timedelta(hours=24)
    """How long another alert may."""
    delivery_grace: Duration = timedelta(minutes=5)
    """How long an alert may fire in Prometheus before Alertmanager must know it."""
    changed_labels: tuple[str, ...] = ()
    """Labels that Prometheus changes or drops on the way to Alertmanager, by `alert_relabel_configs`."""
    flaps: int = Field(5, ge=1)
    """So many times in a day is flapping."""
    longest_acknowledgement: Duration = timedelta(days=90)
    """An acknowledgement that ends later than this is no decision any more."""

    def severity(self, labels: Mapping[str, str]) -> str:
        """Of an alert, in lower case."""
        return labels.get(self.severity_label, "").lower() or NO_SEVERITY


class Acknowledgement(BaseModel):
    """Somebody took note of an alert: its name, further labels it must have, who, why and until when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alert: str = Field(min_length=1)
    labels: dict[str, str] = {}
    by: str = Field(min_length=1)
    why: str = Field(min_length=1)
    until: Instant

    def covers(self, labels: Mapping[str, str], now: datetime) -> bool:
        """Whether it is about this alert and still holds."""
        return now < self.until and labels.get("alertname") == self.alert and self.labels.items() <= labels.items()
