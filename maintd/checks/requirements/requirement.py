"""A requirement: one thing that a job needs of a target, and how to exercise it without an effect."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from maintd.model.target import Targets

Exercise = Callable[[Any], str]
"""Exercises a requirement on the open connection to its target; returns what was seen. Raises TargetError."""

Requirements = Callable[[Targets, Any], Iterable["Requirement | Unconfigured"]]
"""The requirements of a job, from the targets and its validated params; or what it does nothing without."""


@dataclass(frozen=True)
class Requirement:
    """One thing that a job needs.

    kind, target: of a target in the calendar; or `program`, `file` or `folder` with its name or path. `need` completes
    "the job can …". An `optional` one improves the job, which also works without it. Requirements of the same target
    and need are the same, whichever job has them.
    """

    kind: str
    target: str
    need: str
    exercise: Exercise = field(compare=False)
    optional: bool = field(default=False, compare=False)

    @property
    def place(self) -> tuple[str, str]:
        """Kind and name of the target."""
        return self.kind, self.target

    @property
    def name(self) -> str:
        """The name of its check."""
        return f"{self.kind} {self.target}: {self.need}"


@dataclass(frozen=True)
class Unconfigured:
    """What a site has not configured, and a job does nothing without: its step is skipped as not configured.

    subject: `postgres`, `folders backups` or `something to audit`, the beginning of the check's name.
    """

    subject: str
    hint: str


def answers(connection: Any) -> str:
    """The exercise of a target that only has to answer, which the connection has shown."""
    return "answers"


def default_requirements(needs: Sequence[str], targets: Targets, params: Any) -> Iterator[Requirement]:
    """Those of a job that declares none: the targets of the kinds that it needs answer.

    needs: as in the decorator, `prometheus or alertmanager`. A param `targets` selects some by name.
    """
    for need in needs:
        for kind in need.split(" or "):
            chosen = getattr(params, "targets", ()) if len(needs) == 1 else ()
            for name in chosen or targets.of(kind):
                yield Requirement(kind, name, "answers", answers)
