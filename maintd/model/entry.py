"""An entry of the calendar: its schedule, steps and policy, and its state in the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date as Day  # noqa: N812 - "date" is a field below
from datetime import timedelta
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from maintd.model.access import Role
from maintd.model.base import Model
from maintd.units import Duration, Instant


class ScheduleKind(StrEnum):
    """The notation of a schedule."""

    PHRASE = "phrase"  # every sunday at 02:00
    CRON = "cron"
    ONCALENDAR = "oncalendar"
    EVERY = "every"  # multiples of a duration since 1970-01-01T00:00Z
    AT = "at"  # once


class Rule(Model):
    """A schedule as written in the calendar. `maintd.schedule` compiles it; the store keeps it as JSON."""

    kind: ScheduleKind
    text: str
    timezone: str
    jitter: Duration = timedelta(0)  # upper limit of the start delay, derived from a hash of entry and due time


MANUAL = "manual only"
"""The schedule of an entry without a rule, in English."""


class CatchUp(StrEnum):
    """What happens to due times that passed while maintd was down."""

    LATEST = "latest"  # the last one runs, the others are coalesced into it
    ALL = "all"  # each one runs
    NONE = "none"  # none runs; each is recorded as missed


class Overlap(StrEnum):
    """What happens when an entry is due while its earlier run is unfinished."""

    SKIP = "skip"
    QUEUE = "queue"


class OnFailure(StrEnum):
    """What happens after a failed step."""

    STOP = "stop"  # the steps after it are skipped
    CONTINUE = "continue"  # the next step runs
    UNDO = "undo"  # the steps after it are skipped, and the undo steps run in reverse order


class AfterCrash(StrEnum):
    """What becomes of a lost run that has undo steps."""

    HOLD = "hold"  # it keeps the entry's locks until a person resumes, undoes or releases it
    UNDO = "undo"  # a new run undoes it
    RESUME = "resume"  # a new run resumes it, unless that would repeat a step that must not be repeated


class When(StrEnum):
    """After which outcome of the steps before it an `always` step runs."""

    ALWAYS = "always"
    SUCCEEDED = "succeeded"  # all of them succeeded or warned
    FAILED = "failed"  # any of them did not


LockMode = Literal["shared", "exclusive"]


class After(Model):
    """A dependency: `entry` must have succeeded, finishing at most `within` before this entry's start.

    With `if_configured`, not if that entry is not in use here: it is disabled, it never ran, or its last run was
    skipped since a target is not configured.
    """

    entry: str
    within: Duration
    if_configured: bool = False


class Blackout(Model):
    """A time in which no run of the entry starts. Exactly one of date, first+last, holidays or cron+lasting is set.
    Dates are in the entry's time zone, both ends included."""

    name: str = ""
    date: Day | None = None
    first: Day | None = None
    last: Day | None = None
    holidays: str | None = None  # a calendar of the holidays library: DE, US, US-NY, XNYS
    cron: str | None = None
    lasting: Duration | None = None


class Window(Model):
    """A maintenance window: from the start of a run, with a hard end."""

    lasts: Duration
    rollback_by: Duration = timedelta(0)  # this long before the end, work that is not finished is undone
    announce: tuple[Duration, ...] = ()  # notices, so long before the start of a run that is planned
    not_across: str = ""  # a time of day with its zone that the window must not contain: "00:00 UTC"
    rehearsal: str = ""  # an entry that proves how long a rollback takes, with which `rollback_by` is compared


class Freeze(Model):
    """A time in which no entry with a job that changes something runs. `since` None: from the start."""

    entries: str = "*"  # a name or a pattern
    why: str
    by: str
    since: Instant | None = None
    until: Instant | None = None
    replaces: str = ""  # in the answer to who froze: the freeze of the same entries that ended for this one


class Proof(Model):
    """What must have been observed for an item of a checklist. Exactly one of entry+within, step and check is set."""

    entry: str | None = None  # succeeded, and finished at most `within` ago
    within: Duration | None = None
    step: str | None = None  # of the same run; succeeded or warned
    check: str | None = None  # of the same run, as "STEP/CHECK NAME"; ok


class ChecklistItem(Model):
    """An item of a gate: one with a proof is evaluated by maintd, any other is ticked by a person."""

    text: str
    proof: Proof | None = None


class Approval(Model):
    """Who may approve a gate."""

    role: Role = Role.OPERATOR  # or one with more rights
    not_requester: bool = False  # not the person who requested the run


class Gate(Model):
    """A step that waits for a person."""

    ask: str = ""
    checklist: tuple[ChecklistItem, ...] = ()
    approve: Approval = Approval()
    timeout: Duration = timedelta(hours=24)
    remind: Duration | None = None  # interval of notices while it waits
    decisions: str = ""  # the table that an approval must have decided row by row: the name of an artifact


class Policy(Model):
    """How the runs of an entry are executed. Each run keeps a copy, so an edit changes no queued or running run."""

    timeout: Duration = timedelta(hours=1)  # of the whole run
    retries: int = Field(default=0, ge=0, le=20)  # additional attempts per step, for repeatable jobs only
    retry_backoff: Duration = timedelta(seconds=30)  # before the first retry, doubled for each further, at most 15 min
    on_failure: OnFailure = OnFailure.STOP
    on_failure_run: str = ""  # an entry that is triggered when a run was not a success
    after_crash: AfterCrash = AfterCrash.HOLD  # for runs with undo steps
    hold_locks: bool = False  # the locks of all steps, from the first step to the end of the run, also at a gate
    window: Window | None = None
    overlap: Overlap = Overlap.SKIP
    catch_up: CatchUp = CatchUp.LATEST
    catch_up_window: Duration = timedelta(hours=12)
    misfire: Duration | None = None  # a run that has not started this long after its due time is skipped
    lock_wait: Duration = timedelta(minutes=10)
    after: After | None = None
    blackout: tuple[Blackout, ...] = ()


class StepPlan(Model):
    """One step of an entry: a job, or a gate.

    `name` is the job's name, with -2, -3 where an entry has several steps with one job. Of an undo step it is
    `undo-` and the name of the step that it undoes. The steps of an entry are in this order: those of `steps`, undo
    steps in reverse order, those of `always`.
    """

    name: str
    job: str  # empty for a gate
    gate: Gate | None = None
    undoes: str = ""  # the name of the step that this one undoes
    when: When = When.ALWAYS  # for an `always` step
    params: dict[str, Any] = {}
    overlaid: dict[str, str] = {}  # params from the overlay of the calendar, with `file:line`
    locks: dict[str, LockMode] = {}  # those of the job and those of the calendar
    timeout: Duration | None = None  # of one attempt; None: the job's
    retries: int | None = None  # None: the policy's
    on_failure: OnFailure | None = None
    always: bool = False  # runs at the end, whatever the outcome of earlier steps
    mutates: bool = True
    repeatable: bool = False
    only_in_window: bool = False  # refused outside the window of its run
    watches: tuple[str, ...] = ()  # values of other runs without which there is nothing to do
    required: bool = False  # without its target no step runs: the run is not configured


def is_procedure(steps: Sequence[StepPlan]) -> bool:
    """Whether an entry with these steps has undo steps or gates."""
    return any(step.undoes or step.gate is not None for step in steps)


def watched(steps: Sequence[StepPlan]) -> frozenset[str]:
    """The values of other runs without which an entry with these steps has nothing to do; empty if it has otherwise."""
    if not all(step.watches for step in steps):
        return frozenset()
    return frozenset(name for step in steps for name in step.watches)


def merged_locks(steps: Sequence[StepPlan]) -> dict[str, LockMode]:
    """The locks of all steps; exclusive if one of them needs it so."""
    found: dict[str, LockMode] = {}
    for step in steps:
        for name, mode in step.locks.items():
            found[name] = "exclusive" if "exclusive" in (mode, found.get(name)) else "shared"
    return found


def overlay_texts(steps: Sequence[StepPlan], keys: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """What is from the overlay, with its place: `vacuum: threshold=0.5 (schedules.local.yaml:4)`.

    `keys` are those of the entry. Secrets in params must be references already.
    """
    found = [f"{key} ({place})" for key, place in (keys or {}).items()]
    for step in steps:
        for param, place in step.overlaid.items():
            value = step.params.get(param)
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            found.append(f"{step.name}: {param}={text} ({place})")
    return tuple(found)


class Entry(Model):
    """One named item of the calendar, validated."""

    name: str
    title: str
    runbook: str = ""
    rule: Rule | None = None  # None: manual runs only
    timezone: str = ""  # of the entry, also without a rule; empty: that of the calendar
    steps: tuple[StepPlan, ...]
    policy: Policy = Policy()
    enabled: bool = True
    formerly: str | None = None  # its earlier name: history and planning continue
    line: int = 0  # in the calendar file
    overlaid: dict[str, str] = {}  # keys from the overlay of the calendar, with `file:line`

    @property
    def jobs(self) -> tuple[str, ...]:
        """Names of the steps' jobs in order, each once."""
        return tuple(dict.fromkeys(step.job for step in self.steps if step.job))

    @property
    def overlay(self) -> tuple[str, ...]:
        """What is from the overlay, see `overlay_texts`."""
        return overlay_texts(self.steps, self.overlaid)


class Pause(Model):
    """An operator paused an entry: its due times in [since, until) are recorded as skipped."""

    entry: str
    why: str
    by: str
    since: Instant
    until: Instant | None = None


class EntryState(Model):
    """An entry as the store knows it."""

    name: str
    title: str
    rule: Rule | None
    policy: Policy = Policy()
    fingerprint: str  # hash of rule, policy and steps; a different one means that the calendar was edited
    planned_through: Instant  # every due time up to here has its row
    first_seen_at: Instant
    active: bool  # in the calendar that was loaded last, and enabled
    pause: Pause | None = None
