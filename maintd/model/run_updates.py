"""What a supervisor writes about a run: in order, each once however often it is sent, maybe after a wait on disk."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from maintd.model.evidence import Model, Report
from maintd.model.run import AttemptState, RunState, SkipReason, StepState
from maintd.units import Instant


class StepBegan(Model):
    type: Literal["step_began"] = "step_began"
    step: int
    at: Instant


class StepWaits(Model):
    """A step that has begun waits for something; an empty reason: no longer."""

    type: Literal["step_waits"] = "step_waits"
    step: int
    at: Instant
    reason: str = ""


class AttemptBegan(Model):
    type: Literal["attempt_began"] = "attempt_began"
    step: int
    attempt: int
    at: Instant
    pid: int | None = None


class Reported(Model):
    type: Literal["reported"] = "reported"
    step: int
    attempt: int
    items: tuple[Report, ...]


class AttemptEnded(Model):
    type: Literal["attempt_ended"] = "attempt_ended"
    step: int
    attempt: int
    state: AttemptState
    at: Instant
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None


class StepEnded(Model):
    type: Literal["step_ended"] = "step_ended"
    step: int
    state: StepState
    at: Instant
    reason: str = ""


class RunEnded(Model):
    type: Literal["run_ended"] = "run_ended"
    state: RunState
    at: Instant
    reason: str = ""
    skip_reason: SkipReason | None = None


class RunRequeued(Model):
    """Running → queued again: the node is shutting down before a step had begun, or a lock was not to be had."""

    type: Literal["run_put_back"] = "run_put_back"
    at: Instant
    not_before: Instant
    reason: str


RunUpdate = Annotated[
    StepBegan | StepWaits | AttemptBegan | Reported | AttemptEnded | StepEnded | RunEnded | RunRequeued,
    Field(discriminator="type"),
]
"""One thing that happened to a run. Writes of a run are numbered from 1 per claim and applied in order, each once."""
