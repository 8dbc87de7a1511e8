"""When alerts, silences and their delivery need somebody; and who took note of an alert."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field

from maintd.checks.limits import Limits
from maintd.units import Duration, Instant

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


class SilenceLimits(Limits):
    """When a silence is to be looked at."""

    ends_within: Duration = timedelta(hours=24)
    """A silence that hides an alert and ends so soon: the alert comes back."""
    old: Duration = timedelta(days=7)
    """A silence that lasts for so long is a rule to correct."""


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
