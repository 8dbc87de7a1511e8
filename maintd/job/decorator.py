"""The `@job` decorator and what it records about a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, TypeVar

from maintd.units import parse_duration, parse_size

if TYPE_CHECKING:
    from maintd.model.entry import LockMode

MARK = "__maintd_job__"

JobFunction = Callable[..., None]
F = TypeVar("F", bound=JobFunction)


@dataclass(frozen=True)
class JobTraits:
    """What the decorator says about a job."""

    timeout: timedelta
    repeatable: bool
    mutates: bool
    locks: Mapping[str, LockMode] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    budget: Mapping[str, int] = field(default_factory=dict)
    history: int = 60
    history_of: Literal["entry", "job"] = "entry"
    fresh: bool = False


def job(
    *,
    timeout: str = "30m",
    repeatable: bool = False,
    mutates: bool = False,
    locks: Mapping[str, LockMode] | None = None,
    needs: Sequence[str] = (),
    budget: Mapping[str, int | str] | None = None,
    history: int = 60,
    history_of: Literal["entry", "job"] = "entry",
    fresh: bool = False,
) -> Callable[[F], F]:
    """Make a function the job of its module.

    timeout: of one attempt. repeatable: may be tried again after a failure. mutates: changes something outside.
    locks: names held while it runs. needs: kinds of target without which the step is skipped as not configured.
    budget: the most changes of each action in one attempt; `bytes` is the most bytes of all together.
    history: how many earlier points of each measure `ctx.series` has. history_of: those of the same entry only, or of
    the job under whatever entry, for measures whose labels say what they are of.
    fresh: import the module anew in each attempt; for one whose import has side effects, such as reading the clock, a
    file or the environment, opening a connection or starting a thread. Others are imported once, before the fork.
    """
    traits = JobTraits(
        timeout=parse_duration(timeout),
        repeatable=repeatable,
        mutates=mutates,
        locks=dict(locks or {}),
        needs=tuple(needs),
        budget={key: parse_size(value) if isinstance(value, str) else value for key, value in (budget or {}).items()},
        history=history,
        history_of=history_of,
        fresh=fresh,
    )

    def mark(function: F) -> F:
        setattr(function, MARK, traits)
        return function

    return mark
