"""A node that plans, with its clock in the test's hand."""

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
    """An entry due every ten minutes, unless told otherwise."""
    return Entry(
        name=name,
        title=name.title(),
        rule=Rule(kind=ScheduleKind.CRON, text=cron, timezone="UTC"),
        steps=(StepPlan(name="vacuum", job="vacuum"),),
        policy=Policy.model_validate({"overlap": Overlap.QUEUE, "catch_up": CatchUp.ALL, **policy}),
        formerly=formerly,
    )


class PlanningNode:
    """A planner with its own connection to the store, as a daemon has one."""

    def __init__(self, url: str, clock: ManualClock, *entries: Entry) -> None:
        self.clock = clock
        self.store: Store = open_store(url, clock=clock, migrate=True)
        self.planner = Planner(self.store, clock, planned=lambda: None)
        self.planner.load(entries)

    def pass_time(self, by: timedelta, every: timedelta = MINUTE) -> None:
        """Let time pass as in a daemon that sweeps that often."""
        end = self.clock.now() + by
        while self.clock.now() < end:
            self.clock.advance(min(every, end - self.clock.now()))
            self.planner.sweep()

    def rows(self, name: str = "tidy") -> dict[datetime, RunSummary]:
        """Rows by the instant they stand for; fails when an instant has two."""
        found = [run for run in self.store.history.runs(entry=name, limit=5000) if run.due_at is not None]
        by_instant = {run.due_at: run for run in found if run.due_at is not None}
        assert len(by_instant) == len(found), "an instant has two rows"
        return dict(sorted(by_instant.items()))

    def times(self, name: str = "tidy") -> list[str]:
        """Hours and minutes that have a row."""
        return [f"{at:%H:%M}" for at in self.rows(name)]

    def states(self, name: str = "tidy") -> list[str]:
        """The rows' states in order, the reason of a skipped one instead."""
        return [str(run.skip_reason or run.state) for run in self.rows(name).values()]


@contextmanager
def node(folder: Path, clock: ManualClock, *entries: Entry) -> Iterator[PlanningNode]:
    """A node on the SQLite store in this folder, for as long as the `with`: leaving is a daemon that ends."""
    made = PlanningNode(f"sqlite:///{folder}/maintd.db", clock, *entries)
    try:
        yield made
    finally:
        made.store.close()
