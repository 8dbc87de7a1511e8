"""A planner with a store and a clock that the test advances."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from maintd.model.entry import CatchUp, Entry, Overlap, Policy, Rule, ScheduleKind, StepPlan
from maintd.model.run import RunSummary
from maintd.scheduler.planner import Planner
from maintd.store import Store, open_store
from support.clock import ManualClock

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def entry(name: str = "tidy", cron: str = "*/10 * * * *", *, formerly: str | None = None, **policy: object) -> Entry:
    """Return an entry that is due every ten minutes by default."""
    return Entry(
        name=name,
        title=name.title(),
        rule=Rule(kind=ScheduleKind.CRON, text=cron, timezone="UTC"),
        steps=(StepPlan(name="vacuum", job="vacuum"),),
        policy=Policy.model_validate({"overlap": Overlap.QUEUE, "catch_up": CatchUp.ALL, **policy}),
        formerly=formerly,
    )


class PlanningNode:
    """A planner with its own connection to the store, as in a daemon."""

    def __init__(self, url: str, clock: ManualClock, *entries: Entry) -> None:
        self.clock = clock
        self.store: Store = open_store(url, clock=clock, migrate=True)
        self.planner = Planner(self.store, clock, on_planned=lambda: None)
        self.planner.load(entries)

    def pass_time(self, by: timedelta, every: timedelta = MINUTE) -> None:
        """Advance the clock, with a sweep after each interval."""
        end = self.clock.now() + by
        while self.clock.now() < end:
            self.clock.advance(min(every, end - self.clock.now()))
            self.planner.sweep()

    def rows(self, name: str = "tidy") -> dict[datetime, RunSummary]:
        """Return rows by due time; fail when a due time has two."""
        found = [run for run in self.store.history.runs(entry=name, limit=5000) if run.due_at is not None]
        by_due_time = {run.due_at: run for run in found if run.due_at is not None}
        assert len(by_due_time) == len(found), "a due time has two rows"
        return dict(sorted(by_due_time.items()))

    def times(self, name: str = "tidy") -> list[str]:
        """Return the due times that have a row, as HH:MM."""
        return [f"{at:%H:%M}" for at in self.rows(name)]

    def states(self, name: str = "tidy") -> list[str]:
        """Return the states of the rows in order; of skipped ones the reason."""
        return [str(run.skip_reason or run.state) for run in self.rows(name).values()]


@contextmanager
def node(folder: Path, clock: ManualClock, *entries: Entry) -> Iterator[PlanningNode]:
    """Yield a node on the SQLite store in this folder; close its store at the end, like a daemon that stops."""
    made = PlanningNode(f"sqlite:///{folder}/maintd.db", clock, *entries)
    try:
        yield made
    finally:
        made.store.close()
