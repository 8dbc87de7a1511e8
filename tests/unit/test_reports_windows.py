"""Quantiles, alert episodes, rates of counters and backtests, calculated by hand."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maintd.checks.alerts.history import Alerts, episodes_of
from maintd.checks.prometheus.histograms import Quantile, added, quantile
from maintd.checks.prometheus.promql_window import Coverage, Window, names_of, whole_days
from maintd.clients.prometheus import Series
from maintd.reports.figure import Figure
from maintd.reports.resource import backtest, rate, rates, resource

NOW = datetime(2026, 11, 24, 4, tzinfo=UTC)
INF = math.inf
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (0.5, 0.05),  # the 50th of 100 is the last of the first bucket
        (0.95, 0.1 + 0.2 * 5 / 6),  # the 5th of the six in (0.1, 0.3]
        (0.99, 0.3 + 0.2 * 3 / 4),
        (1.0, 0.5),
    ],
)
def test_a_quantile_is_interpolated_within_its_bucket(part: float, expected: float) -> None:
    found = quantile({0.05: 50, 0.1: 90, 0.3: 96, 0.5: 100, INF: 100}, part)

    assert found is not None
    assert found.value == pytest.approx(expected)
    assert not found.at_least


def test_a_quantile_above_the_highest_bound_is_a_lower_bound() -> None:
    assert quantile({1.0: 90, 5.0: 92, INF: 100}, 0.95) == Quantile(5.0, at_least=True)


@pytest.mark.parametrize("buckets", [{}, {1.0: 0.0, INF: 0.0}, {1.0: 5.0}])
def test_without_observations_there_is_no_quantile(buckets: dict[float, float]) -> None:
    assert quantile(buckets, 0.95) is None


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=8), st.floats(0, 1))
def test_a_quantile_is_never_outside_of_the_bounds(counts: list[float], part: float) -> None:
    """Also when rounding makes a higher bucket smaller."""
    buckets = {float(index): count for index, count in enumerate(counts[:-1])} | {INF: counts[-1]}

    found = quantile(buckets, part)

    assert found is None or 0 <= found.value <= len(counts)


def test_histograms_are_added_bound_by_bound() -> None:
    assert added([{1.0: 2, INF: 3}, {1.0: 1, INF: 1}]) == {1.0: 3, INF: 4}


def test_a_window_is_whole_utc_days() -> None:
    window = whole_days(NOW, 7)

    assert (window.start, window.end) == (datetime(2026, 11, 17, tzinfo=UTC), datetime(2026, 11, 24, tzinfo=UTC))
    assert window.count == 168
    assert window.times[-1] == window.end
    assert window.before.end == window.start
    assert str(window) == "7 days until 2026-11-24"


def test_a_window_of_too_many_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 11000"):
        Window(NOW - timedelta(days=400), NOW, timedelta(minutes=1))


def test_coverage_is_that_of_the_series_own_target() -> None:
    seen = Coverage({("a", "x"): 1.0, ("a", "y"): 0.5, ("b", "x"): 0.0}, present=1.0)

    assert seen.of({"job": "a", "instance": "y"}) == 0.5
    assert seen.of({"job": "a"}) == 0.75
    assert seen.of({}) == 0.5
    assert Coverage({}, 0.0).of({}) is None


def test_series_with_the_same_instance_have_different_names() -> None:
    same = [Series({"job": job, "instance": "x:1"}, ()) for job in ("a", "b")]

    assert names_of(same) == ["instance=x:1, job=a", "instance=x:1, job=b"]
    assert names_of([Series({"name": "redis", "instance": "x:1"}, ())]) == ["redis"]


def firing(*minutes: int) -> Series:
    labels = {"__name__": "ALERTS", "alertname": "Down", "severity": "critical", "alertstate": "firing"}
    return Series(labels, tuple((NOW + minute * MINUTE, 1.0) for minute in minutes))


def test_an_alert_is_an_episode_from_its_firing_to_its_end() -> None:
    found = episodes_of(firing(10, 11, 12, 30, 31), NOW, NOW + 60 * MINUTE, MINUTE)

    assert [(item.began_at, item.ended_at) for item in found] == [
        (NOW + 10 * MINUTE, NOW + 13 * MINUTE),
        (NOW + 30 * MINUTE, NOW + 32 * MINUTE),
    ]
    assert Alerts(tuple(found), 1, MINUTE).mean_time_to_resolution == timedelta(minutes=2.5)


def test_an_alert_that_goes_on_has_no_time_to_resolution() -> None:
    found = episodes_of(firing(*range(50, 61)), NOW, NOW + 60 * MINUTE, MINUTE)

    assert [item.ended_at for item in found] == [None]
    assert Alerts(tuple(found), 1, MINUTE).mean_time_to_resolution is None


def test_one_missed_scrape_does_not_split_an_alert() -> None:
    assert len(episodes_of(firing(10, 11, 13, 14), NOW, NOW + 60 * MINUTE, MINUTE)) == 1


def counter(*values: tuple[float, float]) -> tuple[Figure, list[tuple[datetime, float]]]:
    """A counter whose last value is now; the others are (days ago, value)."""
    *earlier, (_, last) = values
    figure = Figure("network", "eth0", last, "B", "/proc/net/dev", measure="m", counter=True)
    return figure, [(NOW - timedelta(days=days), value) for days, value in earlier]


def test_a_counter_becomes_a_rate_and_a_reboot_is_not_counted() -> None:
    day = 86400.0
    figure, earlier = counter((3, 1000 * day), (2, 1001 * day), (1, 5.0), (0, 5.0 + 3 * day))

    found = rate(resource(figure, earlier, NOW), NOW)

    assert found.value == pytest.approx(2.0)  # 1 B/s on one day, 3 B/s on another; the day of the reboot is not known
    assert found.unit == "B/s"
    assert found.coverage == pytest.approx(2 / 3)
    assert found.details["peak"] == pytest.approx(3.0)
    assert [value for _, value in rates(resource(figure, earlier, NOW))] == [pytest.approx(1), None, pytest.approx(3)]


def test_one_reading_of_a_counter_gives_no_rate() -> None:
    figure, earlier = counter((0, 5.0))

    found = rate(resource(figure, earlier, NOW), NOW)

    assert found.value is None
    assert "two readings" in found.cause


def test_forecasts_of_a_month_ago_are_compared_with_actual_values() -> None:
    then = [(NOW - timedelta(days=30), 90.0)], [(NOW - timedelta(days=30), 100.0)], [(NOW - timedelta(days=30), 110.0)]
    young = tuple([(NOW - timedelta(days=3), 1.0)] for _ in range(3))

    found = backtest({"a": then, "b": then, "c": young}, {"a": 105.0, "b": 200.0, "c": 1.0}, NOW)  # type: ignore[dict-item]

    assert found.count == 2
    assert found.inside == 0.5
    assert found.error == pytest.approx((5 / 105 + 100 / 200) / 2)
