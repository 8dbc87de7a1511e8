"""The alarm fires shortly before each due time, and its fire times increase."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from maintd.model.entry import Rule, ScheduleKind
from maintd.scheduler.alarm import EARLY, MAX_INTERVAL, Alarm, NextDueTrigger

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def rule(text: str, kind: ScheduleKind = ScheduleKind.CRON) -> Rule:
    return Rule(kind=kind, text=text, timezone="UTC")


def fire_times(trigger: NextDueTrigger, now: datetime, count: int, late: timedelta = timedelta(0)) -> list[datetime]:
    """The first fire times when each firing is this late."""
    found: list[datetime] = []
    for _ in range(count):
        at = trigger.get_next_fire_time(found[-1] if found else None, now)
        found.append(at)
        now = at + late
    return found


def test_the_trigger_fires_at_every_due_time() -> None:
    trigger = NextDueTrigger([rule("* * * * *"), rule("*/2 * * * *")], NOON)
    assert fire_times(trigger, NOON, 4) == [NOON + timedelta(minutes=n) for n in (1, 2, 3, 4)]


def test_after_a_late_firing_past_due_times_are_left_out() -> None:
    trigger = NextDueTrigger([rule("* * * * *")], NOON)
    found = fire_times(trigger, NOON, 3, late=timedelta(seconds=61))
    assert found == [NOON + timedelta(minutes=n) for n in (1, 3, 5)]


def test_with_nothing_due_soon_the_trigger_fires_every_minute() -> None:
    trigger = NextDueTrigger([rule("0 3 1 1 *")], NOON)
    found = fire_times(trigger, NOON, 3)
    assert [later - earlier for earlier, later in pairwise(found)] == [MAX_INTERVAL, MAX_INTERVAL]


def test_the_trigger_fires_early_and_once_for_each_due_time() -> None:
    early = timedelta(milliseconds=10)
    trigger = NextDueTrigger([rule("* * * * *"), rule("*/2 * * * *")], NOON, early)
    assert fire_times(trigger, NOON, 3) == [NOON + timedelta(minutes=n) - early for n in (1, 2, 3)]


def test_the_alarm_wakes_shortly_before_every_second() -> None:
    woken_at: list[float] = []
    enough = threading.Event()

    def wake() -> None:
        woken_at.append(time.time())
        if len(woken_at) == 3:
            enough.set()

    alarm = Alarm(wake)
    started_at = time.time()
    alarm.start([rule("1s", ScheduleKind.EVERY)])
    try:
        assert enough.wait(30)
    finally:
        alarm.stop()
    early = EARLY.total_seconds() + 0.001  # the operating system's timers are exact to less than that
    assert int(woken_at[0] + early) > int(started_at)
    assert len({int(at + early) for at in woken_at}) == 3
