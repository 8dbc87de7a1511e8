"""The last milliseconds before an instant, by a clock in the test's hand."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from maintd.clock import ManualClock
from maintd.scheduler.approach import BREATH, EARLY, TOO_NEAR, approach

DUE = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


class Approach:
    """What happens from `before` seconds before the instant; a look takes 2 ms."""

    def __init__(self, before: float) -> None:
        self.clock = ManualClock(DUE - timedelta(seconds=before))
        self.event = threading.Event()
        self.looks: list[float] = []

    def left(self) -> float:
        return (DUE - self.clock.now()).total_seconds()

    def look(self) -> None:
        self.looks.append(self.left())
        self.clock.advance(timedelta(milliseconds=2))

    def make(self) -> None:
        approach(self.left, [self.look], self.clock, self.event)


def test_it_looks_again_and_again_and_returns_at_the_instant() -> None:
    seen = Approach(EARLY)
    seen.make()
    assert seen.left() == 0
    assert len(seen.looks) == 4
    assert all(earlier - later > 0.002 for earlier, later in zip(seen.looks, seen.looks[1:], strict=False))
    assert min(seen.looks) > 0.002


def test_too_near_it_only_waits() -> None:
    seen = Approach(TOO_NEAR)
    seen.make()
    assert (seen.looks, seen.left()) == ([], 0)


def test_a_look_that_takes_longer_than_what_is_left_is_the_last() -> None:
    seen = Approach(TOO_NEAR + 0.0002)
    seen.make()
    assert len(seen.looks) == 1
    assert seen.left() < 0


@pytest.mark.parametrize("at_look", [0, 2, 9])
def test_a_clock_that_is_set_back_meanwhile_ends_it(at_look: int) -> None:
    seen = Approach(EARLY)

    def look() -> None:
        if len(seen.looks) == at_look:
            seen.clock.step(-timedelta(hours=1))
        seen.look()

    approach(seen.left, [look], seen.clock, seen.event)
    assert len(seen.looks) <= at_look + 1
    assert seen.left() > 3599 if at_look < 4 else seen.left() == 0


def test_whoever_wants_something_ends_it() -> None:
    seen = Approach(EARLY)
    seen.event.set()
    seen.make()
    assert len(seen.looks) == 1
    assert seen.left() > EARLY - 0.002 - 2 * BREATH
