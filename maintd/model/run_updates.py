"""The updates that a supervisor writes about a run, in order and each once, possibly after a time in the spool.

Of the two values of a `type`, the second is read from spools of earlier versions and never written.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from maintd.model.base import Model
from maintd.model.evidence import Report
from maintd.model.run import AttemptState, RunState, SkipReason, StepState
from maintd.units import Instant


class StepStarted(Model):
    type: Literal["step_started", "step_began"] = "step_started"
    step: int
    at: Instant


class StepWaiting(Model):
    """A step that has started waits for a lock or a retry; an empty reason: it no longer waits."""

    type: Literal["step_waiting", "step_waits"] = "step_waiting"
    step: int
    at: Instant
    reason: str = ""


class AttemptStarted(Model):
    type: Literal["attempt_started", "attempt_began"] = "attempt_started"
    step: int
    attempt: int
    at: Instant
    pid: int | None = None


class AttemptReported(Model):
    """Evidence that an attempt's process reported."""

    type: Literal["attempt_reported", "reported"] = "attempt_reported"
    step: int
    attempt: int
    items: tuple[Report, ...]


class AttemptFinished(Model):
    type: Literal["attempt_finished", "attempt_ended"] = "attempt_finished"
    step: int
    attempt: int
    state: AttemptState
    at: Instant
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    complete: bool = False  # see `Attempt.complete`; spools of earlier versions do not have it


class StepFinished(Model):
    type: Literal["step_finished", "step_ended"] = "step_finished"
    step: int
    state: StepState
    at: Instant
    reason: str = ""


class RunWaiting(Model):
    """The run has reached a gate. Its claim is over."""

    type: Literal["run_waiting"] = "run_waiting"
    step: int
    at: Instant
    until: Instant
    reason: str = ""


class RunFinished(Model):
    type: Literal["run_finished", "run_ended"] = "run_finished"
    state: RunState
    at: Instant
    reason: str = ""
    skip_reason: SkipReason | None = None


class RunRequeued(Model):
    """Running → queued: the node shut down before a step had started, or a lock was not free in time."""

    type: Literal["run_requeued", "run_put_back"] = "run_requeued"
    at: Instant
    not_before: Instant
    reason: str


RunUpdate = Annotated[
    StepStarted
    | StepWaiting
    | AttemptStarted
    | AttemptReported
    | AttemptFinished
    | StepFinished
    | RunWaiting
    | RunFinished
    | RunRequeued,
    Field(discriminator="type"),
]
"""One change of a run. The updates of a claim are numbered from 1."""
