"""A run with its steps and attempts, their states, and the allowed transitions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from maintd.model.base import Model
from maintd.model.entry import Gate, Policy, StepPlan
from maintd.model.evidence import Artifact, Change, Check, Measure, Progress
from maintd.units import Duration, Instant


class RunState(StrEnum):
    """The state of a run; `TRANSITIONS` lists the allowed changes."""

    WAITING = "waiting"  # at a gate, until a person decides or its time is over
    QUEUED = "queued"  # can be claimed once `not_before` has passed
    RUNNING = "running"  # claimed by a node that renews its lease
    SUCCEEDED = "succeeded"  # every criterion was observed and met
    WARNED = "warned"  # nothing failed and all was observed, but a check warned
    UNKNOWN = "unknown"  # nothing failed, but a required check could not be observed; not a success
    FAILED = "failed"  # a check failed or a job raised an exception
    TIMED_OUT = "timed_out"  # stopped at its deadline
    CANCELLED = "cancelled"  # stopped by an operator or by a shutdown
    LOST = "lost"  # its node stopped renewing the lease; what the run did after that is unknown
    SKIPPED = "skipped"  # never started; `skip_reason` has the reason

    @property
    def final(self) -> bool:
        """Whether the run is over. A lost run can still get its outcome, see `TRANSITIONS`."""
        return self not in (RunState.WAITING, RunState.QUEUED, RunState.RUNNING)


_FINISHED = frozenset(
    {
        RunState.SUCCEEDED,
        RunState.WARNED,
        RunState.UNKNOWN,
        RunState.FAILED,
        RunState.TIMED_OUT,
        RunState.CANCELLED,
    }
)

TRANSITIONS: Mapping[RunState, frozenset[RunState]] = MappingProxyType(
    {
        RunState.WAITING: frozenset({RunState.QUEUED}),
        RunState.QUEUED: frozenset({RunState.RUNNING, RunState.CANCELLED}),
        RunState.RUNNING: _FINISHED | {RunState.QUEUED, RunState.WAITING, RunState.LOST, RunState.SKIPPED},
        # Its node came back with the evidence that it had spooled to its own disk, and no other node had claimed it.
        RunState.LOST: _FINISHED,
        RunState.SUCCEEDED: frozenset(),
        RunState.WARNED: frozenset(),
        RunState.UNKNOWN: frozenset(),
        RunState.FAILED: frozenset(),
        RunState.TIMED_OUT: frozenset(),
        RunState.CANCELLED: frozenset(),
        RunState.SKIPPED: frozenset(),
    }
)
"""Every allowed change of a run's state; the store refuses all others."""


class SkipReason(StrEnum):
    """Why a due time has a row but its run never started."""

    PAUSED = "paused"  # an operator paused the entry
    FROZEN = "frozen"  # a freeze was active, and a job of the entry changes something
    BLACKOUT = "blackout"  # the due time is in a blackout of the calendar
    OVERLAP = "overlap"  # an earlier run of the entry was unfinished
    MISSED = "missed"  # maintd was not running, and the catch-up window has passed
    COALESCED = "coalesced"  # missed; a later missed run of the entry covers it
    MISFIRE = "misfire"  # could not be started soon enough after it was due
    WINDOW = "window"  # its maintenance window would contain a time that it must not
    DEPENDENCY = "dependency"  # the entry named by `after` has no recent success
    NOT_CONFIGURED = "not_configured"  # no step has the target that it requires


class StepState(StrEnum):
    """The state of a step."""

    PENDING = "pending"  # not started
    RUNNING = "running"  # an attempt is running, or waits for its retry
    WAITING = "waiting"  # a gate that waits for a person
    SUCCEEDED = "succeeded"
    WARNED = "warned"
    UNKNOWN = "unknown"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"
    SKIPPED = "skipped"  # did not run; the reason is an earlier failure or a target that is not configured

    @property
    def is_success(self) -> bool:
        """Whether what the step had to do is done. Unknown is no success."""
        return self in (StepState.SUCCEEDED, StepState.WARNED)


class AttemptState(StrEnum):
    """The state of an attempt."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    WARNED = "warned"
    UNKNOWN = "unknown"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"


class Trigger(StrEnum):
    """What created a run."""

    SCHEDULE = "schedule"  # its due time
    CATCH_UP = "catch_up"  # its due time, planned late because maintd was down
    MANUAL = "manual"  # an operator's request
    ON_FAILURE = "on_failure"  # a run of another entry was not a success
    RESUME = "resume"  # it takes over what succeeded in an earlier run, and runs the rest
    UNDO = "undo"  # it undoes what a lost run did


class LinkKind(StrEnum):
    """How a run follows from an earlier one."""

    RESUMES = "resumes"
    UNDOES = "undoes"
    AFTER_FAILURE_OF = "after_failure_of"


class RunLink(Model):
    """A run that follows from another. `run_id` is the later one."""

    run_id: int
    kind: LinkKind
    other_run_id: int


class DecisionKind(StrEnum):
    """What happened at a gate."""

    TICKED = "ticked"  # an item of the checklist, by a person
    PROVED = "proved"  # an item of the checklist, by maintd when the gate was approved; `note` has what it observed
    APPROVED = "approved"
    REJECTED = "rejected"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"  # the run was cancelled while it waited


class GateDecision(Model):
    """An event at a gate: who, from where, when, and what."""

    step: int
    kind: DecisionKind
    item: int | None = None  # of the checklist, from 1
    by: str
    origin: str = ""
    at: Instant
    note: str = ""
    emergency: bool = False  # by the requester, although the gate does not allow that


class HandedValue(Model):
    """A value that a step handed over to the steps after it."""

    name: str
    value: Any
    step: int
    at: Instant


class Note(Model):
    """A remark of a person about a run. It is never edited."""

    id: int
    run_id: int
    at: Instant
    by: str
    origin: str = ""
    text: str


class RunEvent(Model):
    """A run got a state. Ids increase in the order of the changes and are never reused."""

    id: int
    run_id: int
    entry: str
    state: RunState
    at: Instant


class Attempt(Model):
    """One try of a step in its own process, with its evidence; log lines are read separately."""

    number: int
    state: AttemptState
    reason: str = ""
    started_at: Instant
    finished_at: Instant | None = None
    pid: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    complete: bool = False  # the job returned, and none of its evidence was left out
    phase: str = ""
    progress: Progress | None = None
    log_lines: int = 0
    log_bytes: int = 0
    log_lines_left_out: int = 0
    checks: tuple[Check, ...] = ()
    measures: tuple[Measure, ...] = ()
    changes: tuple[Change, ...] = ()
    artifacts: tuple[Artifact, ...] = ()


class Step(Model):
    """A step of a run with its attempts, oldest first."""

    index: int
    name: str
    job: str
    params: dict[str, Any] = {}
    always: bool = False
    gate: Gate | None = None
    undoes: str = ""
    state: StepState
    reason: str = ""
    started_at: Instant | None = None
    finished_at: Instant | None = None
    left_by: int | None = None  # of an undo step: the earlier run that left in effect what it undoes
    attempts: tuple[Attempt, ...] = ()


class RunSummary(Model):
    """A run without its steps: one line of the history."""

    id: int
    entry: str
    title: str
    trigger: Trigger
    state: RunState
    skip_reason: SkipReason | None = None
    reason: str = ""
    due_at: Instant | None = None
    queued_at: Instant
    not_before: Instant
    started_at: Instant | None = None
    finished_at: Instant | None = None
    node: str | None = None
    requested_by: str = ""
    why: str = ""
    dry_run: bool = False
    fence: int = 0  # number of claims so far; a write with an older fence is refused
    waiting_until: Instant | None = None  # the end of the time of the gate where it waits
    held: bool = False  # lost, and it keeps its locks until a person resumes, undoes or releases it
    emergency: str = ""  # who passed a rule in an emergency, which, and why
    waited: Duration = timedelta(0)  # at gates that were decided
    window_from: Instant | None = None  # the planned start of its window; None: that begins with the run

    @property
    def duration(self) -> timedelta | None:
        """From start to finish, without the time at gates; None when it is unfinished or never started."""
        if self.started_at is None or self.finished_at is None:
            return None
        return max(timedelta(0), self.finished_at - self.started_at - self.waited)

    @property
    def window_began(self) -> datetime | None:
        """The start of its window, if it has one: the planned time, however late the run started."""
        return self.window_from or self.started_at

    def is_planned(self, now: datetime) -> bool:
        """Whether it was requested for a later time, which has not come."""
        requested = self.state is RunState.QUEUED and self.due_at is None and self.started_at is None
        return requested and self.not_before > now


class Run(RunSummary):
    """A run with all its evidence."""

    params: dict[str, Any] = {}
    policy: Policy = Policy()
    plan: tuple[StepPlan, ...] = ()
    lease_until: Instant | None = None
    cancel_requested: str = ""  # by whom and why; empty: not requested
    idempotency_key: str | None = None
    steps: tuple[Step, ...] = ()
    decisions: tuple[GateDecision, ...] = ()  # at its gates, oldest first
    handed: tuple[HandedValue, ...] = ()
    links: tuple[RunLink, ...] = ()  # to earlier and to later runs
    notes: tuple[Note, ...] = ()

    def took_over(self, step: Step) -> bool:
        """Whether a step ended before this run was requested: in the run that it resumes or undoes."""
        return step.finished_at is not None and step.finished_at < self.queued_at

    @property
    def follows(self) -> int | None:
        """The run that it resumes or undoes, whose steps it takes over."""
        kinds = (LinkKind.RESUMES, LinkKind.UNDOES)
        return next((link.other_run_id for link in self.links if link.run_id == self.id and link.kind in kinds), None)


class NewRun(Model):
    """A run to insert: decided by the planner or requested by an operator."""

    entry: str
    title: str
    trigger: Trigger
    state: RunState
    skip_reason: SkipReason | None = None
    reason: str = ""
    due_at: Instant | None = None
    not_before: Instant
    plan: tuple[StepPlan, ...] = ()
    policy: Policy = Policy()
    params: dict[str, Any] = {}
    requested_by: str = ""
    why: str = ""
    dry_run: bool = False
    idempotency_key: str | None = None
    emergency: str = ""
    window_from: Instant | None = None


class RunsPage(Model):
    """A page of the history. `next_before` is the `before` of the next page; null on the last one."""

    runs: tuple[RunSummary, ...]
    next_before: int | None
