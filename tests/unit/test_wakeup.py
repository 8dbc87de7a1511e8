"""When the alarm rings: a little before each due time, strictly later each time."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from maintd.model.entry import Rule, ScheduleKind
from maintd.scheduler.alarm import FARTHEST, Alarm, NextDue
from maintd.scheduler.approach import EARLY

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
A_LITTLE = timedelta(milliseconds=10)


def rule(text: str, kind: ScheduleKind = ScheduleKind.CRON) -> Rule:
    return Rule(kind=kind, text=text, timezone="UTC")


def rings(trigger: NextDue, now: datetime, count: int, late: timedelta = timedelta(0)) -> list[datetime]:
    """Fire times, each fired so late."""
    found: list[datetime] = []
    for _ in range(count):
        at = trigger.get_next_fire_time(found[-1] if found else None, now)
        found.append(at)
        now = at + late
    return found


def test_it_rings_early_for_every_instant() -> None:
    trigger = NextDue([rule("* * * * *"), rule("*/2 * * * *")], NOON, A_LITTLE)
    minutes = [NOON + timedelta(minutes=n) - A_LITTLE for n in (1, 2, 3, 4)]
    assert rings(trigger, NOON, 4) == minutes


def test_a_late_ring_is_not_followed_by_one_for_what_is_over() -> None:
    trigger = NextDue([rule("* * * * *")], NOON, A_LITTLE)
    found = rings(trigger, NOON, 3, late=timedelta(seconds=61))
    assert found == [NOON + timedelta(minutes=n) - A_LITTLE for n in (1, 3, 5)]


def test_what_is_due_at_once_after_the_start_is_rung_for() -> None:
    trigger = NextDue([rule("* * * * *")], NOON - A_LITTLE / 2, A_LITTLE)
    assert rings(trigger, NOON - A_LITTLE / 2, 2) == [NOON - A_LITTLE, NOON + timedelta(minutes=1) - A_LITTLE]


def test_instants_closer_together_than_that_are_rung_for_one_by_one() -> None:
    wide = timedelta(minutes=5)
    found = rings(NextDue([rule("* * * * *")], NOON, wide), NOON, 4)
    assert found == sorted(set(found))
    assert found[-1] - found[0] == timedelta(minutes=3)


def test_without_anything_due_soon_it_rings_each_minute() -> None:
    trigger = NextDue([rule("0 3 1 1 *")], NOON, A_LITTLE)
    found = rings(trigger, NOON, 3)
    assert [later - earlier for earlier, later in pairwise(found)] == [FARTHEST, FARTHEST]


def test_the_alarm_itself_rings_before_the_second() -> None:
    rang: list[float] = []
    enough = threading.Event()

    def ring() -> None:
        rang.append(time.time())
        if len(rang) == 3:
            enough.set()

    alarm = Alarm(ring)
    alarm.start([rule("1s", ScheduleKind.EVERY)])
    try:
        assert enough.wait(10)
    finally:
        alarm.stop()
    # A machine with much to do may be late, but not each time.
    assert min((-at) % 1 for at in rang) <= EARLY
