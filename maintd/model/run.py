"""A run with its steps and attempts, their states, and the allowed transitions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from maintd.model.base import Model
from maintd.model.entry import Policy, StepPlan
from maintd.model.evidence import Artifact, Change, Check, Measure, Progress
from maintd.units import Instant


class RunState(StrEnum):
    """The state of a run; `TRANSITIONS` lists the allowed changes."""

    WAITING = "waiting"  # not used yet
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
        RunState.WAITING: frozenset(),
        RunState.QUEUED: frozenset({RunState.RUNNING, RunState.CANCELLED}),
        RunState.RUNNING: _FINISHED | {RunState.QUEUED, RunState.LOST, RunState.SKIPPED},
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
    FROZEN = "frozen"  # not used yet
    BLACKOUT = "blackout"  # the due time is in a blackout of the calendar
    OVERLAP = "overlap"  # an earlier run of the entry was unfinished
    MISSED = "missed"  # maintd was not running, and the catch-up window has passed
    COALESCED = "coalesced"  # missed; a later missed run of the entry covers it
    MISFIRE = "misfire"  # could not be started soon enough after it was due
    DEPENDENCY = "dependency"  # the entry named by `after` has no recent success
    NOT_CONFIGURED = "not_configured"  # no step has the target that it requires


class StepState(StrEnum):
    """The state of a step."""

    PENDING = "pending"  # not started
    RUNNING = "running"  # an attempt is running, or waits for its retry
    SUCCEEDED = "succeeded"
    WARNED = "warned"
    UNKNOWN = "unknown"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"
    SKIPPED = "skipped"  # did not run; the reason is an earlier failure or a target that is not configured


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
    state: StepState
    reason: str = ""
    started_at: Instant | None = None
    finished_at: Instant | None = None
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

    @property
    def duration(self) -> timedelta | None:
        """From start to finish; None when it is unfinished or never started."""
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at


class Run(RunSummary):
    """A run with all its evidence."""

    params: dict[str, Any] = {}
    policy: Policy = Policy()
    plan: tuple[StepPlan, ...] = ()
    lease_until: Instant | None = None
    cancel_requested: str = ""  # by whom and why; empty: not requested
    idempotency_key: str | None = None
    steps: tuple[Step, ...] = ()


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
