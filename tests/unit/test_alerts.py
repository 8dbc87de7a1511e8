"""Silences that hide too much, and comparison of alerts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from maintd.checks.alerts import firing, silences
from maintd.checks.alerts.firing import AlertLimits, Firing
from maintd.checks.alerts.silences import SilenceLimits
from maintd.clients.alertmanager import Silence
from maintd.clients.exposition import sums
from maintd.errors import TargetError

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
LIMITS = AlertLimits()


def silence(*matchers: tuple[str, str, str], started: timedelta = timedelta(hours=1)) -> Silence:
    made: list[dict[str, Any]] = [
        {"name": name, "value": value, "isRegex": "~" in operator, "isEqual": "!" not in operator}
        for name, operator, value in matchers
    ]
    return Silence("1", "active", tuple(made), NOW - started, NOW + timedelta(days=2), "ann", "why")


def alert(since: timedelta = timedelta(hours=1), **labels: str) -> Firing:
    return Firing(labels, LIMITS.severity(labels), NOW - since, "prometheus main")


@pytest.mark.parametrize(
    "matchers",
    [
        [("alertname", "=~", ".*")],
        [("alertname", "=~", ".+")],
        [("alertname", "=~", "(?i).*")],
        [("instance", "=~", ".+|")],
        [("alertname", "!=", "Watchdog")],
        [("alertname", "!~", "Watch.*")],
        [("alertname", "!=", "")],
        [("severity", "=", "critical")],
        [("severity", "=~", "critical|warning"), ("alertname", "=~", ".+")],
        [],
    ],
)
def test_a_silence_that_selects_nothing_in_particular_hides_too_much(matchers: list[tuple[str, str, str]]) -> None:
    assert silences.hides_too_much(silence(*matchers), "severity")


@pytest.mark.parametrize(
    "matchers",
    [
        [("alertname", "=", "RedisDown")],
        [("alertname", "=~", "Redis.*")],
        [("alertname", "=~", ".*Down")],
        [("instance", "=", "redis:6379"), ("alertname", "=~", ".+")],
        [("alertname", "=~", r"\pL+\z")],  # of a dialect that is not Python's
    ],
)
def test_a_silence_that_selects_alerts_does_not(matchers: list[tuple[str, str, str]]) -> None:
    assert not silences.hides_too_much(silence(*matchers), "severity")


def test_a_silence_is_old_after_a_week() -> None:
    old, young = silence(started=timedelta(days=7, seconds=1)), silence(started=timedelta(days=6))

    found = silences.review([old, young], [], "severity", SilenceLimits(), NOW)

    assert found.old == (old,)


def test_delivered_alerts_may_have_more_labels_but_not_different_ones() -> None:
    sent = alert(alertname="Down", instance="a")

    def lost(**labels: str) -> bool:
        return bool(firing.undelivered([sent], [alert(**labels)], LIMITS, NOW))

    assert not lost(alertname="Down", instance="a")
    assert not lost(alertname="Down", instance="a", cluster="one")
    assert lost(alertname="Down", instance="b")
    assert lost(alertname="Down", cluster="one")
    assert lost(alertname="Up", instance="a")


def test_labels_that_are_changed_on_the_way_are_not_compared() -> None:
    limits = AlertLimits(changed_labels=("severity",))
    arrived = [alert(alertname="Down", severity="page")]

    assert firing.undelivered([alert(alertname="Down", severity="critical")], arrived, LIMITS, NOW)
    assert not firing.undelivered([alert(alertname="Down", severity="critical")], arrived, limits, NOW)


def test_no_alert_is_undelivered_within_the_grace() -> None:
    assert not firing.undelivered([alert(timedelta(minutes=5), alertname="Down")], [], LIMITS, NOW)
    assert firing.undelivered([alert(timedelta(minutes=5, seconds=1), alertname="Down")], [], LIMITS, NOW)


def test_ten_thousand_alerts_are_compared_at_once() -> None:
    sent = [alert(alertname="Down", instance=str(n)) for n in range(10_000)]

    assert not firing.undelivered(sent, sent, LIMITS, NOW)
    assert len(firing.merge([sent, sent], LIMITS)) == 10_000


@pytest.mark.parametrize(("severity", "which"), [("critical", 0), ("PAGE", 0), ("warning", 1), ("odd", 1), ("", 1)])
def test_alerts_of_unknown_severity_need_attention(severity: str, which: int) -> None:
    waiting = firing.overdue([alert(timedelta(days=2), alertname="A", severity=severity)], LIMITS, NOW)

    assert [len(found) for found in waiting] == [1 - which, which]


def test_an_info_alert_needs_no_acknowledgement() -> None:
    assert firing.overdue([alert(timedelta(days=2), alertname="A", severity="info")], LIMITS, NOW) == ([], [])


def test_counters_are_summed_by_a_label() -> None:
    text = '# TYPE n counter\nn_total{integration="a",reason="x"} 2\nn_total{integration="a",reason="y"} 3\n'

    assert sums(text, "n_total", "integration") == {"a": 5.0}
    with pytest.raises(TargetError, match="no metric m_total"):
        sums(text, "m_total")
    with pytest.raises(TargetError, match="not in Prometheus' text format"):
        sums("<html>Sign in {", "n_total")


@pytest.mark.parametrize(
    ("fires", "findings", "names"),
    [
        # The external labels of Prometheus are missing while Alertmanager is silent, and there while Prometheus is.
        ([{"a": "1"}], ["alert X (a=1, cluster=one)"], ["alert X (a=1, cluster=one)"]),
        ([{"a": "1", "cluster": "one"}], ["alert X (a=1)"], ["alert X (a=1)"]),
        ([{}], ["alert X (cluster=one)"], ["alert X (cluster=one)"]),
        ([{"a": "1"}], ["alert X (a=1)", "alert X (a=1, cluster=one)"], ["alert X (a=1)"]),
        ([{"a": "1"}], ["alert X (a=2, cluster=one)", "alert Y (a=1)", "alert XY", "disk"], ["alert X (a=1)"]),
        ([{"a": "1"}], [], ["alert X (a=1)"]),
        (
            [{"a": "1"}, {"a": "2"}],
            ["alert X (a=2, cluster=one)", "alert X (a=1, cluster=one)"],
            ["alert X (a=1, cluster=one)", "alert X (a=2, cluster=one)"],
        ),
        # A finding is one alert: the one with the fewest other labels.
        (
            [{"a": "1", "b": "2", "cluster": "one"}, {"a": "1", "cluster": "one"}],
            ["alert X (a=1)"],
            ["alert X (a=1, b=2, cluster=one)", "alert X (a=1)"],
        ),
    ],
)
def test_an_alert_has_the_name_of_its_finding(
    fires: list[dict[str, str]], findings: list[str], names: list[str]
) -> None:
    alerts = [alert(alertname="X", severity="critical", **labels) for labels in fires]

    found = firing.name_as_known(alerts, findings)

    assert [one.check for one in found] == names
