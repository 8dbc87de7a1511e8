"""Forecasts of generated histories with a known truth."""

from __future__ import annotations

import math
import random
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maintd.reports.forecast import MIN_DAYS, Forecast, Insufficient, daily, forecast, slope_interval

NOW = datetime(2026, 11, 24, 4, tzinfo=UTC)
Points = list[tuple[datetime, float]]


def made(
    seed: int = 1,
    *,
    days: int = 60,
    slope: float = 1.0,
    noise: float = 2.0,
    saw: float = 0.0,
    wild: int = 0,
    reset: int | None = None,
    level: float = 100.0,
) -> Points:
    """A line with noise; a saw by weekday; wild days; until the day `reset` everything is 40 higher."""
    chance = random.Random(seed)
    points = []
    for index in range(days):
        at = NOW - timedelta(days=days - 1 - index)
        value = level + slope * index + chance.gauss(0, noise) + saw * (at.weekday() / 6 - 0.5)
        points.append((at, value + (40 if reset is not None and index < reset else 0)))
    for index in chance.sample(range(days), wild):
        points[index] = (points[index][0], points[index][1] + chance.choice([-30, 30]))
    return points


def fitted(points: Points) -> Forecast:
    found = forecast(points, NOW)
    assert isinstance(found, Forecast), found
    return found


@pytest.mark.parametrize(
    "shape",
    [
        {"days": 60},
        {"days": 60, "noise": 6.0},
        {"days": 60, "wild": 4},
        {"days": 60, "saw": 12.0},
        {"days": 60, "reset": 25},
        {"days": 90, "saw": 12.0, "wild": 5, "reset": 30},
    ],
    ids=["noise", "much noise", "wild days", "weekly saw", "reset", "all of them"],
)
def test_the_true_date_is_inside_the_band_in_nine_of_ten_histories(shape: dict[str, float]) -> None:
    days = int(shape["days"])
    # The line stands at 100 + days − 1 today and meets this limit in 20 days, on the highest weekday.
    limit = 100 + (days - 1) + 20 + shape.get("saw", 0.0) / 2
    inside = 0
    for seed in range(100):
        found = forecast(made(seed, **shape), NOW)  # type: ignore[arg-type]
        if isinstance(found, Insufficient):
            assert "since the jump on" in found.reason  # wild days side by side near the end may look like a jump
            inside += 1
            continue
        reach = found.reach(limit)
        inside += reach is not None and reach.earliest <= 20 <= (math.inf if reach.latest is None else reach.latest)

    assert inside >= 90


@pytest.mark.parametrize("days", [0, 1, 3, MIN_DAYS - 1])
def test_less_than_two_weeks_of_history_give_no_forecast(days: int) -> None:
    found = forecast(made(days=days) if days else [], NOW)

    assert isinstance(found, Insufficient)
    assert found.reason == f"{days} of 14 days of history"


def test_two_weeks_are_enough() -> None:
    assert fitted(made(days=MIN_DAYS, noise=0.1)).trend == "growing"


def test_many_readings_of_one_day_are_one_day_of_history() -> None:
    points = [(NOW - timedelta(seconds=index), float(index)) for index in range(500)]

    found = forecast(points, NOW)

    assert isinstance(found, Insufficient)
    assert found.days == 1


def test_no_date_is_given_when_nothing_grows_significantly() -> None:
    steady = [fitted(made(seed, slope=0.0)) for seed in range(100)]

    assert sum(item.trend == "steady" for item in steady) >= 90
    assert all(item.reach(1000) is None for item in steady if item.trend != "growing")


def test_a_shrinking_value_never_reaches_a_limit_above_it() -> None:
    found = fitted(made(slope=-1.0, level=500))

    assert found.trend == "shrinking"
    assert found.reach(600) is None


def test_a_limit_that_is_already_reached_is_reached_now() -> None:
    reach = fitted(made()).reach(50)

    assert reach is not None
    assert (reach.earliest, reach.likely, reach.latest) == (0, 0, 0)


def test_nothing_is_forecast_beyond_twice_the_history() -> None:
    found = fitted(made(days=20, noise=0.1))

    assert found.horizon == 40
    assert found.reach(100 + 19 + 30) is not None  # in 30 days
    assert found.reach(100 + 19 + 50) is None  # in 50


def test_gaps_and_values_that_are_not_finite_do_not_matter() -> None:
    points = [
        (at, math.nan if index % 5 == 0 else math.inf if index % 7 == 0 else value)
        for index, (at, value) in enumerate(made(days=60, noise=0.1))
        if index % 3
    ]

    assert fitted(points).slope == pytest.approx(1.0, abs=0.02)


def test_order_and_duplicates_do_not_matter() -> None:
    points = made()
    mixed = points + points
    random.Random(5).shuffle(mixed)

    assert fitted(mixed) == fitted(points)


def test_readings_with_a_future_time_are_ignored() -> None:
    jumped = [*made(), (NOW + timedelta(days=4000), 1e12), (datetime(1970, 1, 1, tzinfo=UTC), 1e12)]

    assert fitted(jumped) == fitted(made())


def test_only_the_days_after_a_clean_up_are_fitted() -> None:
    found = fitted(made(reset=35, noise=0.5))

    assert found.changed_on == (NOW - timedelta(days=24)).date()
    assert found.slope == pytest.approx(1.0, abs=0.05)
    assert found.horizon == 2 * 25


def test_soon_after_a_jump_there_is_no_forecast() -> None:
    found = forecast(made(reset=55, noise=0.5), NOW)

    assert isinstance(found, Insufficient)
    assert found.reason == "5 of 7 days of history since the jump on 2026-11-20"


def test_weekly_growth_is_not_a_jump() -> None:
    points = [(NOW - timedelta(days=69 - index), 100.0 + 16 * (index // 7)) for index in range(70)]

    found = fitted(points)

    assert found.changed_on is None
    assert found.slope == pytest.approx(16 / 7, rel=0.1)


def test_a_larger_capacity_moves_the_date_and_nothing_else() -> None:
    found = fitted(made(noise=0.1))
    small, large = found.reach(170), found.reach(200)

    assert small is not None and large is not None
    assert small.likely is not None and large.likely is not None
    assert large.likely - small.likely == pytest.approx(30, abs=1)


def test_the_same_history_gives_the_same_forecast() -> None:
    assert fitted(made(7)) == fitted(made(7))


def test_only_the_last_half_year_counts() -> None:
    points = [(NOW - timedelta(days=index), float(-index)) for index in range(400)]

    assert len(fitted(points).history) == 180


def test_a_day_is_the_median_of_its_readings() -> None:
    noon = datetime(2026, 11, 1, 12, tzinfo=UTC)

    assert daily([(noon, 1.0), (noon, 5.0), (noon, 900.0)], NOW) == ((date(2026, 11, 1), 5.0),)


def test_the_slope_of_any_series_has_an_interval() -> None:
    low, slope, high = slope_interval([float(day) for day in range(30)], [2.0 * day + day % 3 for day in range(30)])

    assert low <= slope <= high
    assert slope == pytest.approx(2.0, abs=0.05)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 200),
            st.floats(allow_nan=True, allow_infinity=True, width=32),
        ),
        max_size=60,
    )
)
def test_any_history_gives_ordered_quantiles_or_a_reason(pairs: list[tuple[int, float]]) -> None:
    found = forecast([(NOW - timedelta(days=day), value) for day, value in pairs], NOW)

    if isinstance(found, Forecast):
        assert found.low <= found.slope <= found.high or math.isclose(found.low, found.high)
        reach = found.reach(found.level + 1000)
        if reach is not None and reach.likely is not None:
            assert reach.earliest <= reach.likely
            assert reach.latest is None or reach.likely <= reach.latest <= found.horizon
