"""An entry of the calendar as values: when, what, how it is treated; and the jobs that it can name."""

from __future__ import annotations

from datetime import date as Day  # noqa: N812 - "date" is a field below
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from maintd.model.evidence import Model
from maintd.units import Duration


class ScheduleKind(StrEnum):
    """How a schedule was written."""

    PHRASE = "phrase"  # every sunday at 02:00
    CRON = "cron"
    ONCALENDAR = "oncalendar"
    EVERY = "every"  # multiples of a duration since 1970-01-01T00:00Z
    AT = "at"  # once


class Rule(Model):
    """A schedule as it was written; `maintd.schedule` compiles it. Plain data, so that a store row can hold it."""

    kind: ScheduleKind
    text: str
    timezone: str
    jitter: Duration = timedelta(0)  # start up to this much later, by hash of entry and due time


class CatchUp(StrEnum):
    """What to do about instants that fell due while maintd was away."""

    LATEST = "latest"  # run the last one, the others are coalesced
    ALL = "all"  # run each
    NONE = "none"  # run none; each is recorded as missed


class Overlap(StrEnum):
    """What to do when an entry is due while its earlier run is unfinished."""

    SKIP = "skip"
    QUEUE = "queue"


class OnFailure(StrEnum):
    """Whether the steps after a failed one run."""

    STOP = "stop"
    CONTINUE = "continue"


LockMode = Literal["shared", "exclusive"]


class After(Model):
    """Needs a success of another entry that finished within this long before the start."""

    entry: str
    within: Duration


class Blackout(Model):
    """A time in which nothing of an entry starts. Exactly one of date, first+last, holidays or cron+lasting is set.
    Dates are in the entry's time zone, both ends included."""

    name: str = ""
    date: Day | None = None
    first: Day | None = None
    last: Day | None = None
    holidays: str | None = None  # a calendar of the holidays library: DE, US, US-NY, XNYS
    cron: str | None = None
    lasting: Duration | None = None


class Policy(Model):
    """How an entry's runs are treated. Copied into each run, so that an edit does not change what is under way."""

    timeout: Duration = timedelta(hours=1)  # of the whole run
    retries: int = Field(default=0, ge=0, le=20)  # more attempts per step, for repeatable jobs only
    retry_backoff: Duration = timedelta(seconds=30)  # before the first retry, doubled for each further, at most 15 min
    on_failure: OnFailure = OnFailure.STOP
    overlap: Overlap = Overlap.SKIP
    catch_up: CatchUp = CatchUp.LATEST
    catch_up_window: Duration = timedelta(hours=12)
    misfire: Duration | None = None  # not started this long after due: skipped
    lock_wait: Duration = timedelta(minutes=10)
    after: After | None = None
    blackout: tuple[Blackout, ...] = ()


class StepPlan(Model):
    """One step as the calendar has it. `name` is the job's name, with -2, -3 where a job stands twice."""

    name: str
    job: str
    params: dict[str, Any] = {}
    locks: dict[str, LockMode] = {}  # the job's own and the calendar's together
    timeout: Duration | None = None  # of one attempt; None: the job's own
    retries: int | None = None  # None: the policy's
    on_failure: OnFailure | None = None
    always: bool = False  # runs at the end whatever happened before
    mutates: bool = True
    repeatable: bool = False


class Entry(Model):
    """One named line of the calendar, checked."""

    name: str
    title: str
    runbook: str = ""
    rule: Rule | None = None  # None: only by hand
    steps: tuple[StepPlan, ...]
    policy: Policy = Policy()
    enabled: bool = True
    formerly: str | None = None  # the name it had before: history and planning go on
    line: int = 0  # where it stands in the calendar file

    @property
    def jobs(self) -> tuple[str, ...]:
        """Names of its jobs in order, each once."""
        return tuple(dict.fromkeys(step.job for step in self.steps))

    @property
    def mutates(self) -> bool:
        """Whether any of its steps changes something outside."""
        return any(step.mutates for step in self.steps)


class ParamDescription(Model):
    """One parameter of a job, for `maintd jobs show` and the shell."""

    name: str
    type: str  # as a person writes it: duration, size, path, one of a|b, list of text, …
    required: bool
    default: Any = None
    description: str = ""
    choices: tuple[str, ...] = ()


class JobDescription(Model):
    """What is known about a job without running it."""

    name: str
    path: Path
    summary: str  # first line of the module's docstring
    doc: str
    runbook: str = ""
    timeout: Duration
    repeatable: bool
    mutates: bool
    locks: dict[str, LockMode] = {}
    needs: tuple[str, ...] = ()  # kinds of target it cannot do without
    budget: dict[str, int] = {}  # most changes per action, and most bytes, of one attempt
    history: int = 60  # earlier points of each measure that it is handed
    history_of: Literal["entry", "job"] = "entry"  # whose measures: of the same entry, or of the job under any
    params: tuple[ParamDescription, ...] = ()
    params_schema: dict[str, Any] = {}
    imports: tuple[str, ...] = ()  # what a process that is going to load it may load in advance


class BrokenJob(Model):
    """A job module that cannot be used; its entries are disabled."""

    name: str
    path: Path
    error: str  # file:line: what
