"""The change log of maintenance, in the headings of the runbook, and the checklist of a run."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

from maintd.model.base import Model
from maintd.model.evidence import ChangeState, CheckStatus, Scalar
from maintd.model.run import DecisionKind, Note, RunState
from maintd.units import Duration, Instant


class BoxState(StrEnum):
    """The state of a box of a checklist."""

    DONE = "done"  # observed by maintd, or ticked by a person
    FAILED = "failed"  # observed, and not so
    OPEN = "open"  # neither observed nor ticked


class Box(Model):
    """A box of a checklist, with its evidence or its person."""

    text: str
    state: BoxState
    evidence: str = ""  # what was observed; of an open box, what is missing
    by: str = ""  # the person who ticked it; empty when maintd observed it
    at: Instant | None = None


class LoggedChange(Model):
    """A change of a run. `before` and `after` are None where the job did not record them."""

    step: str
    action: str
    target: str
    state: ChangeState
    before: Scalar = None
    after: Scalar = None
    details: dict[str, Scalar] = {}  # the others
    cause: str = ""


class LoggedIssue(Model):
    """What went wrong or could not be observed. `status` is None for a step that ended otherwise than by a check."""

    step: str
    text: str
    status: CheckStatus | None = None
    hint: str = ""
    resolution: str = ""  # what became of its finding


class LoggedDecision(Model):
    """What happened at a gate of the run; with `run_id`, in the earlier run from which it took the gate over."""

    gate: str
    kind: DecisionKind
    item: str = ""  # the text of the item that was ticked
    by: str
    origin: str = ""
    at: Instant
    note: str = ""
    emergency: bool = False
    run_id: int | None = None


class ChangeLogRecord(Model):
    """One run that changed or tried to change something. All of it comes from rows."""

    run_id: int
    entry: str
    title: str
    type: str  # Scheduled, Planned, Manual, Emergency, Corrective, Resumed, Rollback
    why: str = ""
    performed_by: tuple[str, ...]
    state: RunState
    reason: str = ""
    queued_at: Instant
    started_at: Instant | None = None
    finished_at: Instant | None = None
    duration: Duration | None = None  # without the time at gates
    waited: Duration = timedelta(0)  # at gates
    window: Duration | None = None  # that the entry declares; None: it declares none
    emergency: str = ""
    changes: tuple[LoggedChange, ...] = ()
    without_changes: tuple[str, ...] = ()  # steps that may have changed something, but recorded no change
    issues: tuple[LoggedIssue, ...] = ()
    checks: int = 0  # that were made
    follows: int | None = None  # the run that it resumes or undoes, whose steps it took over
    decisions: tuple[LoggedDecision, ...] = ()
    unknown_gates: tuple[str, ...] = ()  # that were taken over from a run whose record was pruned
    validation: tuple[Box, ...] = ()
    next_steps: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()


class ChangeLog(Model):
    """A page of the change log, newest first. `next_before` is the `before` of the next page; None: there is none."""

    records: tuple[ChangeLogRecord, ...]
    next_before: int | None = None


class ChecklistPart(Model):
    """One list of a checklist."""

    title: str
    boxes: tuple[Box, ...]


class Checklist(Model):
    """The runbook's lists before, during and after maintenance, and the gates of a run."""

    run_id: int
    entry: str
    state: RunState
    emergency: str = ""
    parts: tuple[ChecklistPart, ...]

    @property
    def open(self) -> int:
        """The number of boxes that are not done."""
        return sum(box.state is not BoxState.DONE for part in self.parts for box in part.boxes)
