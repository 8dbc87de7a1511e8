"""APScheduler as alarm clock: it calls one function at each due time and knows nothing else.

Its own triggers, stores and pools are not used. There is one job, run in the scheduler's own thread, that only sets an
event; lateness, catch-up and history are decided elsewhere, so a wake-up that comes late or twice does no harm.
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

FARTHEST = timedelta(minutes=1)
"""No sleep is longer: after a suspend or a step of the clock the next look comes this soon at the latest."""


class NextDue(BaseTrigger):  # type: ignore[misc]
    """Fires at the next due time of any of the rules, or after FARTHEST, in UTC and later each time."""

    def __init__(self, rules: Iterable[Rule], now: datetime) -> None:
        self._heap: list[tuple[datetime, int, Schedule]] = []
        for number, rule in enumerate(rules):
            schedule = compile_rule(rule)
            at = schedule.next_after(now)
            if at is not None:
                self._heap.append((at, number, schedule))
        heapq.heapify(self._heap)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Called by the scheduler after each firing."""
        now = now.astimezone(UTC)
        if previous_fire_time is not None:
            now = max(now, previous_fire_time.astimezone(UTC))
        while self._heap and self._heap[0][0] <= now:
            _, number, schedule = self._heap[0]
            at = schedule.next_after(now)
            if at is None:
                heapq.heappop(self._heap)
            else:
                assert at > now, "due times must grow"
                heapq.heapreplace(self._heap, (at, number, schedule))
        farthest = now + FARTHEST
        return min(self._heap[0][0], farthest) if self._heap else farthest


class Alarm:
    """Calls `ring` at every due time, in APScheduler's thread. `ring` must return at once."""

    _JOB = "next due"

    def __init__(self, ring: Callable[[], Any]) -> None:
        self._ring = ring
        self._scheduler = BackgroundScheduler(
            jobstores={"default": MemoryJobStore()},
            executors={"default": DebugExecutor()},
            timezone=UTC,
            daemon=True,
        )

    def start(self, rules: Iterable[Rule]) -> None:
        """Begin to ring."""
        self._scheduler.start(paused=False)
        self.set(rules)

    def set(self, rules: Iterable[Rule]) -> None:
        """Ring for the due times of these rules from now on."""
        # A late or doubled ring is as good as any other: APScheduler must drop and merge nothing.
        self._scheduler.add_job(
            self._ring,
            NextDue(rules, datetime.now(UTC)),
            id=self._JOB,
            replace_existing=True,
            misfire_grace_time=None,
            coalesce=False,
            max_instances=1000,
        )

    def stop(self) -> None:
        """No ring after this."""
        self._scheduler.shutdown(wait=False)
