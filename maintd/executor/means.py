"""What supervisors work with, the same for all runs of a node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from maintd.config.settings import Settings
from maintd.executor.fork_client import Warm
from maintd.job.context import Point
from maintd.model.entry import LockMode
from maintd.model.job import BrokenJob, JobDescription
from maintd.model.run import Run, RunSummary
from maintd.model.run_updates import RunUpdate
from maintd.model.status import LockHolder
from maintd.model.target import Targets
from maintd.store import Store

Jobs = Mapping[str, JobDescription | BrokenJob]


def imports_of(jobs: Jobs, names: Iterable[str]) -> set[str]:
    """What the jobs of these names import, for a template to load in advance."""
    wanted = [jobs.get(name) for name in names]
    return {module for job in wanted if isinstance(job, JobDescription) for module in job.imports}


class Writes(Protocol):
    """Where a supervisor's writes go. Neither of these blocks."""

    @property
    def full(self) -> bool:
        """So much waits to be recorded that the child should wait too."""
        ...

    def add(self, *writes: RunUpdate, soon: bool = True) -> None:
        """Record these after all earlier ones."""
        ...


@dataclass(frozen=True)
class Means:
    """Handed to each supervisor. Without a store there are no locks, no dependencies and no earlier measures."""

    settings: Settings
    warm: Warm
    store: Store | None
    now: Callable[[], datetime]  # the time that the store's nodes go by
    jobs: Callable[[], Jobs]
    targets: Callable[[], Targets]
    draining: Callable[[], bool] = lambda: False  # this node is about to stop

    def acquire(self, run: Run, step: str, wanted: Mapping[str, LockMode]) -> list[LockHolder]:
        """Empty: the locks are had; else who is in the way. Raises RefusedError when the claim is over."""
        if self.store is None or not wanted:
            return []
        return self.store.locks.acquire(run.id, run.fence, step, wanted, self.store.now())

    def release(self, run: Run, step: str) -> None:
        """Give the step's locks back. Raises StoreUnavailableError; the run's end gives back whatever it holds."""
        if self.store is not None:
            self.store.locks.release(run.id, step)

    def success_within(self, entry: str, within: timedelta) -> tuple[RunSummary | None, RunSummary | None]:
        """The entry's last success if it is that recent, and its last one whenever that was."""
        if self.store is None:
            return None, None
        recent = self.store.history.last_success_since(entry, self.now() - within)
        if recent is not None:
            return recent, recent
        return None, self.store.history.last_per_entry([entry])[entry].last_success

    def series(self, entry: str, job: JobDescription) -> dict[str, tuple[Point, ...]]:
        """Earlier measures that the job is handed, by name, oldest first."""
        if self.store is None:
            return {}
        points: dict[str, list[Point]] = {}
        of_entry = entry if job.history_of == "entry" else None
        for point in self.store.history.series(of_entry, job.name, limit=job.history):
            points.setdefault(point.name, []).append(Point(point.at, point.value, point.labels))
        return {name: tuple(of_name) for name, of_name in points.items()}
