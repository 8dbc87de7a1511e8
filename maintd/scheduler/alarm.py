"""An alarm that wakes the daemon's loop shortly before each due time, by APScheduler.

APScheduler's own triggers, job stores and pools are not used. It has one job, which runs in the scheduler's thread and
only calls a function. The planner handles lateness, catch-up and history, so a late or repeated call does no harm.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.executors.debug import DebugExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from maintd.model.entry import Rule
from maintd.schedule import Schedule, compile_rule

EARLY = timedelta(milliseconds=10)
"""How long before a due time the alarm wakes the loop, which waits for the rest itself: APScheduler's thread has then
finished its own work, which at the due time would delay the loop by half a millisecond."""

MAX_INTERVAL = timedelta(minutes=1)
"""The longest time between two calls, and so the longest delay after a suspend or a step of the clock."""


class NextDueTrigger(BaseTrigger):  # type: ignore[misc]
    """Fires `early` before the next due time of any rule, at the latest after MAX_INTERVAL.

    Fire times are UTC and increase.
    """

    def __init__(self, rules: Iterable[Rule], now: datetime, early: timedelta = timedelta(0)) -> None:
        self._early = early
        self._heap: list[tuple[datetime, int, Schedule]] = []
        for number, rule in enumerate(rules):
            schedule = compile_rule(rule)
            at = schedule.next_after(now)
            if at is not None:
                self._heap.append((at, number, schedule))
        heapq.heapify(self._heap)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the next fire time; APScheduler calls this after each firing."""
        now = now.astimezone(UTC)
        if previous_fire_time is not None:
            now = max(now, previous_fire_time.astimezone(UTC))
        after = now + self._early
        while self._heap and self._heap[0][0] <= after:
            _, number, schedule = self._heap[0]
            at = schedule.next_after(after)
            if at is None:
                heapq.heappop(self._heap)
            else:
                assert at > after, "due times must increase"
                heapq.heapreplace(self._heap, (at, number, schedule))
        latest = now + MAX_INTERVAL
        return min(self._heap[0][0] - self._early, latest) if self._heap else latest


class Alarm:
    """Calls `wake` EARLY before every due time, in APScheduler's thread. `wake` must return at once."""

    _JOB = "next due"

    def __init__(self, wake: Callable[[], Any]) -> None:
        self._wake = wake
        self._scheduler = BackgroundScheduler(
            jobstores={"default": MemoryJobStore()},
            executors={"default": DebugExecutor()},
            timezone=UTC,
            daemon=True,
        )

    def start(self, rules: Iterable[Rule]) -> None:
        """Start the scheduler's thread."""
        self._scheduler.start(paused=False)
        self.set_rules(rules)

    def set_rules(self, rules: Iterable[Rule]) -> None:
        """Replace the rules."""
        # Late calls must happen too: APScheduler may not drop or merge any.
        self._scheduler.add_job(
            self._wake,
            NextDueTrigger(rules, datetime.now(UTC), EARLY),
            id=self._JOB,
            replace_existing=True,
            misfire_grace_time=None,
            coalesce=False,
            max_instances=1000,
        )

    def stop(self) -> None:
        """Stop the scheduler; `wake` is not called any more."""
        self._scheduler.shutdown(wait=False)
