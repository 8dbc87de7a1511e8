"""What a drill measures: the time of each phase of a recovery, and what a failure now would lose."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median

from maintd.job.context import Context
from maintd.job.criterion import Criterion

RESTORED = "restored_backup"
"""Name of the value that a drill hands over to later steps: the name of what it restored, and the seconds of that."""

_FEWEST = 3  # former drills whose median is typical
_NOISE = timedelta(minutes=1)  # a longer drill within this is no trend: machines are busy


@dataclass
class Stopwatch:
    """Seconds by phase. `recovery`: of the phases that a recovery has, too; `proof`: of those that only a drill has."""

    recovery: dict[str, float] = field(default_factory=dict)
    proof: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, ctx: Context, name: str, doing: str = "", *, proof: bool = False) -> Iterator[None]:
        """Measure a phase, also when it fails. doing: what the page shows; by default the name."""
        started = time.monotonic()
        try:
            with ctx.phase(doing or name):
                yield
        finally:
            found = self.proof if proof else self.recovery
            found[name] = found.get(name, 0.0) + time.monotonic() - started

    def report(self, ctx: Context) -> timedelta:
        """Record the seconds of each phase; return the recovery time."""
        for name, seconds in {**self.recovery, **self.proof}.items():
            ctx.measure("restore_phase_seconds", seconds, "s", phase=name)
        total = sum(self.recovery.values())
        ctx.measure("restore_proof_seconds", sum(self.proof.values()), "s")
        return timedelta(seconds=total)


def time_criteria(taken: timedelta, goal: timedelta, former: Sequence[float], max_slowdown: float) -> list[Criterion]:
    """The recovery time against its goal, and against the median of former drills. former: seconds, oldest first."""
    hint = "restore with more jobs, on a faster disk, or keep less in the database; or agree on another goal"
    criteria = [Criterion("recovery time", taken, at_most=goal, hint=hint)]
    if len(former) >= _FEWEST:
        typical = timedelta(seconds=median(former))
        limit = max(typical * max_slowdown, typical + _NOISE)
        hint = (
            f"former drills took {typical.total_seconds():.0f} s: see restore_phase_seconds for what has become slower"
        )
        criteria.append(Criterion("recovery time against former drills", taken, warn_above=limit, hint=hint))
    return criteria


def loss_criteria(age: timedelta | None, gap: timedelta | None, goal: timedelta) -> list[Criterion]:
    """What a failure now would lose, and what it could have lost at its worst in the last days, against the goal.

    age: of the newest backup; None for a drill of another one, which shows nothing about it. gap: see
    `maintd.checks.restore.sources.longest_gap`.
    """
    hint = "see the runs of the job that makes the backups, or make them more often"
    criteria = []
    if age is not None:
        criteria.append(Criterion("recovery point: age of the newest backup", age, at_most=goal, hint=hint))
    if gap is not None:
        criteria.append(Criterion("recovery point: longest gap between backups", gap, warn_above=goal, hint=hint))
    return criteria
