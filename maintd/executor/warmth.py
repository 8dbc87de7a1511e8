"""When templates, and threads, are there: shortly before something is due, while work is under way, a little longer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TypeGuard

import structlog

from maintd.config.settings import Settings
from maintd.executor.crew import Crew
from maintd.executor.fork_client import TemplateError, Warm
from maintd.executor.means import Jobs
from maintd.model.entry import JobDescription

log = structlog.get_logger()

LINGER = 10.0  # seconds that an unused template is kept for the next one


class Warmth:
    """Has templates made and let go. For one thread, but for `expect` and what only asks."""

    def __init__(self, warm: Warm, crew: Crew, settings: Settings, jobs: Callable[[], Jobs]) -> None:
        self._warm = warm
        self._crew = crew
        self._before = settings.warm_before.total_seconds()
        self._slots = settings.slots
        self._jobs = jobs
        self._next_due: datetime | None = None
        self._next_jobs: dict[str, int] = {}

    @property
    def is_ready(self) -> bool:
        """A template is there with its libraries loaded: what falls due starts within milliseconds."""
        return self._warm.is_ready

    def is_ready_for(self, job: str) -> bool:
        """The job's module is loaded too."""
        found = self._jobs().get(job)
        return _is_usable(found) and self._warm.is_ready_for(found.path)

    def expect(self, next_due: datetime | None, jobs: Callable[[], Mapping[str, int]]) -> bool:
        """When runs are owed next, and how many of which job; whether that is news."""
        if next_due == self._next_due:
            return False
        self._next_jobs = dict(jobs())
        self._next_due = next_due
        return True

    def keep(self, now: datetime, next_queued: datetime | None, *, unused: float | None) -> float:
        """Have templates when something is due soon, let them go when nothing is; seconds until the next look.

        `unused`: for how many seconds nothing has run; None: something runs.
        """
        self._warm.reap()
        due = float("inf") if self._next_due is None else (self._next_due - now).total_seconds()
        queued = float("inf") if next_queued is None else (next_queued - now).total_seconds()
        left = min(due, queued)
        if left <= self._before:
            expected = self._next_jobs if due <= self._before else {}
            self._have(expected)
            self._crew.call(min(sum(expected.values()), self._slots), max(0.0, due))
            return float("inf")
        if unused is not None and self._warm.pid is not None:
            if unused < LINGER:
                return min(left - self._before, LINGER - unused)
            self._warm.let_go()
        return left - self._before

    def _have(self, expected: Mapping[str, int]) -> None:
        jobs = self._jobs()
        found = {job.path: min(expected[job.name], self._slots) for job in map(jobs.get, expected) if _is_usable(job)}
        try:
            self._warm.start(found)
        except TemplateError as error:
            log.error("template_unavailable", error=str(error))


def _is_usable(job: object) -> TypeGuard[JobDescription]:
    return isinstance(job, JobDescription)
