"""What silences hide, and which of them are to be looked at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from maintd.checks.limits import Limits
from maintd.clients.alertmanager import Alert, Silence
from maintd.units import Duration

# Values that no label has. An expression that matches both names nothing in particular.
_PROBES = ("maintd-probe", "Zq8 ~ 0x/3f")


class SilenceLimits(Limits):
    """When a silence is to be looked at."""

    ends_within: Duration = timedelta(hours=24)
    """A silence that hides an alert and ends so soon: the alert comes back."""
    old: Duration = timedelta(days=7)
    """A silence that lasts for so long is a rule to correct."""


@dataclass(frozen=True)
class SilenceReview:
    """The silences in force or to come, by what is wrong with them."""

    hides_too_much: tuple[Silence, ...]
    ends_soon: tuple[Silence, ...]  # and hides an alert now
    old: tuple[Silence, ...]
    without_author: tuple[Silence, ...]


def in_force(silences: Iterable[Silence]) -> list[Silence]:
    """Those that hide now or will."""
    return [silence for silence in silences if silence.state in ("active", "pending")]


def review(
    silences: Iterable[Silence], alerts: Iterable[Alert], severity_label: str, limits: SilenceLimits, now: datetime
) -> SilenceReview:
    """Judge the silences that are in force."""
    hiding = {silence_id for alert in alerts for silence_id in alert.silenced_by}
    kept = in_force(silences)
    return SilenceReview(
        hides_too_much=tuple(silence for silence in kept if hides_too_much(silence, severity_label)),
        ends_soon=tuple(s for s in kept if s.id in hiding and s.ends_at - now < limits.ends_within),
        old=tuple(silence for silence in kept if now - silence.starts_at > limits.old),
        without_author=tuple(silence for silence in kept if not silence.created_by.strip()),
    )


def hides_too_much(silence: Silence, severity_label: str) -> bool:
    """No matcher names anything: each matches every value, rules some out, or is only about how bad an alert is."""
    return not any(_names_something(matcher) for matcher in silence.matchers if matcher.get("name") != severity_label)


def _names_something(matcher: Mapping[str, Any]) -> bool:
    value = str(matcher.get("value", ""))
    if not matcher.get("isEqual", True):
        return False  # "not this one" is nearly all
    if not matcher.get("isRegex"):
        return bool(value)
    try:
        return not all(re.fullmatch(value, probe) for probe in _PROBES)
    except re.error:
        return True  # of another dialect: too elaborate to be a mere `.*`


def wording(silence: Silence) -> str:
    """A silence for a person: `alertname=~"Disk.*", host="a" by ann until 2026-11-24 12:00 UTC`."""
    said = ", ".join(
        f"{matcher.get('name')}{_OPERATORS[bool(matcher.get('isEqual', True)), bool(matcher.get('isRegex'))]}"
        f'"{matcher.get("value")}"'
        for matcher in silence.matchers
    )
    return f"{said} by {silence.created_by.strip() or 'nobody'} until {silence.ends_at:%Y-%m-%d %H:%M} UTC"


_OPERATORS = {(True, False): "=", (False, False): "!=", (True, True): "=~", (False, True): "!~"}
