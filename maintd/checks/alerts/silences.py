"""Silences of Alertmanager and Grafana that need attention."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from maintd.checks.limits import Limits
from maintd.clients.alertmanager import Alert, Silence
from maintd.units import Duration

# Values that no label has. A regular expression that matches both selects nothing in particular.
_PROBES = ("maintd-probe", "Zq8 ~ 0x/3f")
_OPERATORS = {(True, False): "=", (False, False): "!=", (True, True): "=~", (False, True): "!~"}


class SilenceLimits(Limits):
    """When a silence needs attention."""

    ends_within: Duration = timedelta(hours=24)
    """A silence that hides an alert and ends this soon warns: the alert comes back."""
    old: Duration = timedelta(days=7)
    """A silence older than this warns: correct the rule instead."""
    longest: Duration = timedelta(days=90)
    """A silence that ends later than this has no end in sight and warns."""


@dataclass(frozen=True)
class SilenceReview:
    """Silences that need attention, by reason."""

    hides_too_much: tuple[Silence, ...]
    ends_soon: tuple[Silence, ...]  # and hides an alert now
    endless: tuple[Silence, ...]
    old: tuple[Silence, ...]
    without_author: tuple[Silence, ...]
    without_comment: tuple[Silence, ...]


def active(silences: Iterable[Silence]) -> list[Silence]:
    """Return the silences that are active or pending."""
    return [silence for silence in silences if silence.state in ("active", "pending")]


def review(
    silences: Iterable[Silence], alerts: Iterable[Alert], severity_label: str, limits: SilenceLimits, now: datetime
) -> SilenceReview:
    """Find the active and pending silences that need attention."""
    hiding = {silence_id for alert in alerts for silence_id in alert.silenced_by}
    kept = active(silences)
    return SilenceReview(
        hides_too_much=tuple(silence for silence in kept if hides_too_much(silence, severity_label)),
        ends_soon=tuple(s for s in kept if s.id in hiding and s.ends_at - now < limits.ends_within),
        endless=tuple(silence for silence in kept if silence.ends_at - now > limits.longest),
        old=tuple(silence for silence in kept if now - silence.starts_at > limits.old),
        without_author=tuple(silence for silence in kept if not silence.created_by.strip()),
        without_comment=tuple(silence for silence in kept if not silence.comment.strip()),
    )


def hides_too_much(silence: Silence, severity_label: str) -> bool:
    """Whether no matcher selects a value: each matches everything, excludes values, or is about severity only."""
    return not any(_selects(matcher) for matcher in silence.matchers if matcher.get("name") != severity_label)


def _selects(matcher: Mapping[str, Any]) -> bool:
    value = str(matcher.get("value", ""))
    if not matcher.get("isEqual", True):
        return False  # everything but one value
    if not matcher.get("isRegex"):
        return bool(value)
    try:
        return not all(re.fullmatch(value, probe) for probe in _PROBES)
    except re.error:
        return True  # RE2 syntax that Python does not know: more specific than `.*`


def matchers_text(matchers: Iterable[Mapping[str, Any]]) -> str:
    """Format as `alertname=~"Disk.*", host="a"`."""
    return ", ".join(
        f"{matcher.get('name')}{_OPERATORS[bool(matcher.get('isEqual', True)), bool(matcher.get('isRegex'))]}"
        f'"{matcher.get("value")}"'
        for matcher in matchers
    )


def silence_text(silence: Silence) -> str:
    """Format as `alertname=~"Disk.*", host="a" by ann until 2026-11-24 12:00 UTC`."""
    matchers = matchers_text(silence.matchers)
    author = silence.created_by.strip() or "an unknown author"
    return f"{matchers} by {author} until {silence.ends_at:%Y-%m-%d %H:%M} UTC"
