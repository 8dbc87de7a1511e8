"""When the alarm rings: at each due time, strictly later each time."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from maintd.model.entry import Rule, ScheduleKind
from maintd.scheduler.alarm import FARTHEST, Alarm, NextDue

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


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


def test_the_alarm_rings_at_every_due_time() -> None:
    trigger = NextDue([rule("* * * * *"), rule("*/2 * * * *")], NOON)
    assert rings(trigger, NOON, 4) == [NOON + timedelta(minutes=n) for n in (1, 2, 3, 4)]


def test_a_late_ring_is_not_followed_by_one_for_a_past_due_time() -> None:
    trigger = NextDue([rule("* * * * *")], NOON)
    found = rings(trigger, NOON, 3, late=timedelta(seconds=61))
    assert found == [NOON + timedelta(minutes=n) for n in (1, 3, 5)]


def test_without_anything_due_soon_the_alarm_rings_each_minute() -> None:
    trigger = NextDue([rule("0 3 1 1 *")], NOON)
    found = rings(trigger, NOON, 3)
    assert [later - earlier for earlier, later in pairwise(found)] == [FARTHEST, FARTHEST]


def test_the_alarm_rings_every_second_and_not_early() -> None:
    rang: list[float] = []
    enough = threading.Event()

    def ring() -> None:
        rang.append(time.time())
        if len(rang) == 3:
            enough.set()

    alarm = Alarm(ring)
    started_at = time.time()
    alarm.start([rule("1s", ScheduleKind.EVERY)])
    try:
        assert enough.wait(30)
    finally:
        alarm.stop()
    assert int(rang[0]) > int(started_at)
    assert len({int(at) for at in rang}) == 3
