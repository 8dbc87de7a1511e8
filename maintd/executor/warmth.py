"""When templates, and threads, are there: shortly before something is due, while work is under way, a little longer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeGuard

import structlog

from maintd.config.settings import Settings
from maintd.executor.crew import Crew
from maintd.executor.fork_client import TemplateError, Warm
from maintd.executor.means import Jobs
from maintd.model.job import JobDescription

log = structlog.get_logger()

LINGER = 10.0  # seconds that an unused template is kept for the next one


class Warmth:
    """Has templates made and let go. For one thread, but for `expect` and what only asks."""

    def __init__(self, warm: Warm, crew: Crew, settings: Settings, jobs: Callable[[], Jobs]) -> None:
        self._warm = warm
        self._crew = crew
        self._before = settings.warm_before.total_seconds()
        self._jobs = jobs
        self._next_due: datetime | None = None

    @property
    def is_ready(self) -> bool:
        """A template is there with its libraries loaded: what falls due starts within milliseconds."""
        return self._warm.is_ready

    def is_ready_for(self, job: str) -> bool:
        """The job's module is loaded too."""
        found = self._jobs().get(job)
        return _is_usable(found) and self._warm.is_ready_for(found.path)

    def expect(self, next_due: datetime | None) -> bool:
        """When runs are due next; whether that is news."""
        changed = next_due != self._next_due
        self._next_due = next_due
        return changed

    def keep(self, now: datetime, next_queued: datetime | None, *, unused: float | None) -> float:
        """Have templates when something is due soon, let them go when nothing is; seconds until the next look.

        `unused`: for how many seconds nothing has run; None: something runs.
        """
        self._warm.reap()
        due = float("inf") if self._next_due is None else (self._next_due - now).total_seconds()
        queued = float("inf") if next_queued is None else (next_queued - now).total_seconds()
        left = min(due, queued)
        if left <= self._before:
            self._start()
            return float("inf")
        if unused is not None and self._warm.pid is not None:
            if unused < LINGER:
                return min(left - self._before, LINGER - unused)
            self._warm.let_go()
        return left - self._before

    def _start(self) -> None:
        try:
            self._warm.start()
        except TemplateError as error:
            log.error("template_unavailable", error=str(error))


def _is_usable(job: object) -> TypeGuard[JobDescription]:
    return isinstance(job, JobDescription)
