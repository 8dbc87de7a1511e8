"""Freezes: times in which no entry with a job that changes something starts a run. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from fnmatch import fnmatchcase

from maintd.model.entry import Freeze, StepPlan


def mutates(steps: Iterable[StepPlan]) -> bool:
    """Whether a step changes something; a gate by itself does not."""
    return any(step.mutates for step in steps if step.gate is None)


def freeze_covering(freezes: Sequence[Freeze], entry: str, at: datetime) -> Freeze | None:
    """The first freeze in which this time is for the entry; its end is not part of it."""
    for freeze in freezes:
        begun = freeze.since is None or freeze.since <= at
        if begun and (freeze.until is None or at < freeze.until) and fnmatchcase(entry, freeze.entries):
            return freeze
    return None
