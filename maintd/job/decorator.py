"""The `@job` decorator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from maintd.units import parse_duration, parse_size

if TYPE_CHECKING:
    from maintd.model.entry import LockMode

MARK = "__maintd_job__"

JobFunction = Callable[..., None]
F = TypeVar("F", bound=JobFunction)


@dataclass(frozen=True)
class JobTraits:
    """The arguments of the decorator; see `job`."""

    timeout: timedelta
    repeatable: bool
    mutates: bool
    locks: Mapping[str, LockMode] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    budget: Mapping[str, int] = field(default_factory=dict)
    history: int = 60
    history_of: Literal["entry", "job"] = "entry"
    fresh: bool = False
    requires: Callable[..., Iterable[Any]] | None = None
    reads_calendar: bool = False
    only_in_window: bool = False
    admin_params: bool = False
    reads_findings: bool = False
    reads_unfinished: bool = False
    reads_tokens: bool = False
    reads_measures_of: tuple[str, ...] = ()
    watches: tuple[str, ...] = ()


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
    requires: Callable[..., Iterable[Any]] | None = None,
    reads_calendar: bool = False,
    reads_findings: bool = False,
    reads_unfinished: bool = False,
    reads_tokens: bool = False,
    reads_measures_of: Sequence[str] = (),
    only_in_window: bool = False,
    admin_params: bool = False,
    watches: Sequence[str] = (),
) -> Callable[[F], F]:
    """Make a function the job of its module.

    timeout: limit of one attempt, for example "30m".
    repeatable: an attempt can be retried after a failure.
    mutates: the job changes something outside of maintd.
    locks: names of locks that are held while it runs, "shared" or "exclusive".
    needs: kinds of target; without one of them the step is skipped as not configured. `a or b`: either will do.
    budget: maximum number of changes per action in one attempt; "bytes" is the maximum of all actions together.
    history: number of earlier points of each measure in `ctx.series`.
    history_of: points of the same entry only, or of the job in any entry if the labels identify what was measured.
    fresh: import the module in each attempt. For a module whose import has side effects: it reads the clock, a file or
    the environment, opens a connection or starts a thread. Other modules are imported once, before the fork.
    requires: the job's requirements by targets and params, see `maintd.checks.requirements`; `maintd doctor` exercises
    them. By default, the targets that it needs answer.
    reads_calendar: the job has a param `calendar`, which maintd sets to the steps of the active calendar.
    reads_findings: `ctx.findings` has the open findings of this step.
    reads_unfinished: `ctx.unfinished` has the runs that have not ended, with what they have handed over.
    reads_tokens: `ctx.tokens` has the tokens of maintd's API, without the tokens themselves.
    reads_measures_of: names of jobs whose measures, of any entry, `ctx.series_of` has.
    admin_params: params name programs or files used with the rights of maintd; only an admin may give them.
    watches: names of values that runs hand over. A due time of an entry whose jobs all watch counts only while a run
    that has not ended, or is held, has handed over one of them, and for some minutes after it.
    only_in_window: the job is refused outside the window of an entry, by whatever way it is requested.
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
        requires=requires,
        reads_calendar=reads_calendar,
        reads_findings=reads_findings,
        reads_unfinished=reads_unfinished,
        reads_tokens=reads_tokens,
        reads_measures_of=tuple(reads_measures_of),
        only_in_window=only_in_window,
        admin_params=admin_params,
        watches=tuple(watches),
    )

    def mark(function: F) -> F:
        setattr(function, MARK, traits)
        return function

    return mark
