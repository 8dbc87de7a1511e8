"""When a certificate warns and fails, by its lifetime; which names it covers."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maintd.checks.certificates.certificate import covers
from maintd.checks.certificates.validity import DAY, Limits, grace_of, limits_of


@pytest.mark.parametrize(
    ("lifetime", "warn", "fail"),
    [
        # L/3 - max(2, L/30), at most 25; max(3, L/9), at most 10. Below 20: L/4 and L/8.
        (90, 25, 10),
        (64, 19.2, 64 / 9),
        (45, 13, 5),
        (398, 25, 10),
        (3650, 25, 10),
        (20, 4 + 2 / 3, 3),
        (10, 2.5, 1.25),
        (6, 1.5, 0.75),
    ],
)
def test_limits_are_fractions_of_the_lifetime(lifetime: float, warn: float, fail: float) -> None:
    found = limits_of(timedelta(days=lifetime))

    assert found.warn / DAY == pytest.approx(warn)
    assert found.fail / DAY == pytest.approx(fail)


def test_an_authority_warns_half_a_year_before_its_end() -> None:
    assert limits_of(timedelta(days=3650), authority=True) == Limits(180 * DAY, 60 * DAY)
    assert limits_of(timedelta(days=90), authority=True) == Limits(30 * DAY, 10 * DAY)


@given(st.integers(1, 20_000), st.booleans())
def test_a_certificate_never_fails_before_it_warns_and_a_new_one_is_good(hours: int, authority: bool) -> None:
    lifetime = timedelta(hours=hours)
    limits = limits_of(lifetime, authority=authority)

    assert timedelta(0) < limits.fail < limits.warn < lifetime / 2
    if not authority and lifetime >= 20 * DAY:
        # What is renewed in time, at two thirds of its lifetime, and within the grace, never warns.
        assert limits.warn <= lifetime / 3 - grace_of(lifetime)


@pytest.mark.parametrize(
    ("names", "wanted", "covered"),
    [
        (("a.example",), "A.example.", True),
        (("*.example",), "a.example", True),
        (("*.example",), "a.b.example", False),
        (("*.example",), "example", False),
        (("*",), "example", False),
        (("10.0.0.1",), "10.0.0.1", True),
        (("*.0.0.1",), "10.0.0.1", False),
        (("::1",), "0:0:0:0:0:0:0:1", True),
        ((), "a.example", False),
    ],
)
def test_a_wildcard_covers_one_label(names: tuple[str, ...], wanted: str, covered: bool) -> None:
    assert covers(names, wanted) is covered
