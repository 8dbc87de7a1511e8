"""The types that the store returns, the API serves and the CLI parses. All frozen; all times aware UTC."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from maintd.model.entry import LockMode, Policy, Rule, StepPlan
from maintd.model.evidence import (
    Artifact,
    Change,
    Check,
    Measure,
    Model,
    Progress,
)
from maintd.units import Duration, Instant

# --- states -------------------------------------------------------------------------------------------------------


class RunState(StrEnum):
    """Where a run stands. `TRANSITIONS` says what may follow."""

    WAITING = "waiting"  # at a gate: a person must act
    QUEUED = "queued"  # may be claimed once not_before has passed
    RUNNING = "running"  # claimed by a node that renews its lease
    SUCCEEDED = "succeeded"  # every criterion was observed and met
    WARNED = "warned"  # nothing failed, but a check warns or could not be observed
    FAILED = "failed"  # a check failed or a job raised
    TIMED_OUT = "timed_out"  # stopped at its deadline
    CANCELLED = "cancelled"  # stopped by an operator or by shutdown
    LOST = "lost"  # its node stopped renewing the lease; what it did is unknown
    SKIPPED = "skipped"  # never started; skip_reason says why

    @property
    def final(self) -> bool:
        """Nothing more will happen to it."""
        return self not in (RunState.WAITING, RunState.QUEUED, RunState.RUNNING)


_ENDS = frozenset({RunState.SUCCEEDED, RunState.WARNED, RunState.FAILED, RunState.TIMED_OUT, RunState.CANCELLED})

TRANSITIONS: Mapping[RunState, frozenset[RunState]] = MappingProxyType(
    {
        RunState.WAITING: frozenset({RunState.QUEUED, RunState.CANCELLED, RunState.SKIPPED}),
        RunState.QUEUED: frozenset({RunState.RUNNING, RunState.CANCELLED, RunState.SKIPPED}),
        RunState.RUNNING: _ENDS | {RunState.QUEUED, RunState.WAITING, RunState.LOST, RunState.SKIPPED},
        # Its node came back with the evidence that it kept on its own disk, and nobody had started it again.
        RunState.LOST: _ENDS,
        RunState.SUCCEEDED: frozenset(),
        RunState.WARNED: frozenset(),
        RunState.FAILED: frozenset(),
        RunState.TIMED_OUT: frozenset(),
        RunState.CANCELLED: frozenset(),
        RunState.SKIPPED: frozenset(),
    }
)
"""Every allowed change of a run's state; the store refuses any other."""


class SkipReason(StrEnum):
    """Why an instant that was due has a row but no work."""

    PAUSED = "paused"  # an operator paused the entry
    FROZEN = "frozen"  # all mutating entries are frozen
    BLACKOUT = "blackout"  # the calendar forbids this time
    OVERLAP = "overlap"  # an earlier run of the entry was not finished
    MISSED = "missed"  # maintd was not running and the catch-up window has passed
    COALESCED = "coalesced"  # missed, and a later missed one runs for all
    MISFIRE = "misfire"  # could not be started soon enough after it was due
    DEPENDENCY = "dependency"  # the entry named by `after` has no success that is recent enough
    NOT_CONFIGURED = "not_configured"  # no step has the target it works on


class StepState(StrEnum):
    """Where a step stands."""

    PENDING = "pending"  # not reached yet
    RUNNING = "running"  # an attempt is under way, or the next one is due
    SUCCEEDED = "succeeded"
    WARNED = "warned"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"
    SKIPPED = "skipped"  # not run; the reason says why (an earlier step failed, a target is not configured)


class AttemptState(StrEnum):
    """How a try of a step ended, or that it runs."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    WARNED = "warned"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"


class Trigger(StrEnum):
    """Why a run exists."""

    SCHEDULE = "schedule"  # it fell due
    CATCH_UP = "catch_up"  # it fell due while maintd was away
    MANUAL = "manual"  # somebody asked for it


# --- runs ---------------------------------------------------------------------------------------------------------


class Attempt(Model):
    """One try of a step, with its evidence. Log lines are read apart."""

    number: int
    state: AttemptState
    reason: str = ""
    started_at: Instant
    finished_at: Instant | None = None
    pid: int | None = None
    exit_code: int | None = None
    signal: int | None = None
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
    """A step of a run as it went."""

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
    """A run without its steps: a line of the history."""

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
    fence: int = 0  # counts claims; a write with an older fence is refused

    @property
    def took(self) -> timedelta | None:
        """From start to end, None while unfinished or when it never started."""
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at


class Run(RunSummary):
    """A run with all its evidence."""

    params: dict[str, Any] = {}
    policy: Policy = Policy()
    plan: tuple[StepPlan, ...] = ()
    lease_until: Instant | None = None
    cancel_requested: str = ""  # by whom and why; empty: nobody
    idempotency_key: str | None = None
    steps: tuple[Step, ...] = ()


class NewRun(Model):
    """A run to be written: what the planner decided, or what somebody asked for."""

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


# --- read models --------------------------------------------------------------------------------------------------


class Pause(Model):
    """An operator stopped an entry."""

    entry: str
    why: str
    by: str
    since: Instant
    until: Instant | None = None


class EntryState(Model):
    """What the store knows about an entry of the calendar."""

    name: str
    title: str
    rule: Rule | None
    policy: Policy = Policy()
    fingerprint: str  # of rule and policy and steps; another one means that the calendar was edited
    planned_through: Instant
    first_seen_at: Instant
    active: bool  # still in the calendar
    pause: Pause | None = None


class LockHolder(Model):
    """Who holds a lock."""

    lock: str
    mode: LockMode
    run_id: int
    entry: str
    step: str
    node: str
    since: Instant


class NodeState(Model):
    """A maintd process, as its last heartbeat told."""

    name: str
    incarnation: str  # changes at each start
    pid: int
    started_at: Instant
    seen_at: Instant
    version: str
    slots: int


class Event(Model):
    """A line of the audit: what an operator or the daemon itself did."""

    at: Instant
    kind: str  # noun_verbed: calendar_loaded, entry_paused, clock_stepped, run_triggered
    subject: str = ""
    by: str = ""
    text: str = ""


class EntryStatus(Model):
    """A line of `maintd status`."""

    entry: str
    title: str
    runbook: str = ""
    schedule: str  # plain English
    enabled: bool
    jobs: tuple[str, ...] = ()
    next_due_at: Instant | None = None
    next_due_local: str = ""
    pause: Pause | None = None
    active_run: RunSummary | None = None  # queued or running
    last_run: RunSummary | None = None  # the last that ended, skipped ones included
    last_worked: RunSummary | None = None  # the last that ended and was not skipped
    last_success_at: Instant | None = None
    failing_since: Instant | None = None
    failures_in_a_row: int = 0
    usual: Duration | None = None  # median duration of the last successes
    why: str = ""  # why it is not green
    next_step: str = ""  # a command to type


class DueInstant(Model):
    """An instant at which an entry will owe a run."""

    entry: str
    title: str
    due_at: Instant
    local: str  # wall time in the entry's time zone, with the zone's name
    jobs: tuple[str, ...]
    note: str = ""  # paused, in a blackout: why it will be skipped


class StatusReport(Model):
    """All that `maintd status` says. `node` to `started_at` are empty when no daemon answers."""

    at: Instant
    node: str = ""
    version: str = ""
    pid: int | None = None
    started_at: Instant | None = None
    page: str | None = None  # URL of the page
    calendar: str = ""  # path
    store: str = ""  # URL, password masked
    problems: tuple[str, ...] = ()  # of maintd itself: no daemon, store away, clock jumped, broken job module
    remarks: tuple[str, ...] = ()  # on the calendar: it works, but may not be what was meant
    entries: tuple[EntryStatus, ...] = ()
    others: tuple[RunSummary, ...] = ()  # unfinished runs of jobs that are in no calendar
    locks: tuple[LockHolder, ...] = ()
    nodes: tuple[NodeState, ...] = ()
