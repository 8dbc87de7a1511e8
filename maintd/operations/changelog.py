"""The change log: one record for each run that changed or tried to change something, from its rows alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from shlex import quote
from typing import NamedTuple

from maintd.errors import UnknownNameError, UsageError
from maintd.model.changelog import (
    Box,
    BoxState,
    ChangeLog,
    ChangeLogRecord,
    LoggedChange,
    LoggedDecision,
    LoggedIssue,
)
from maintd.model.evidence import Change, ChangeState, Check, CheckStatus, Scalar
from maintd.model.finding import Finding, is_finding
from maintd.model.run import AttemptState, GateDecision, Note, Run, RunState, Step, StepState, Trigger
from maintd.operations.follow import observations
from maintd.operations.gates import MAINTD
from maintd.operations.service import OperatorService
from maintd.present import utc_minute
from maintd.store import Store
from maintd.units import value_text

MOST_RECORDS = 200
"""Most records of one page."""

_BEFORE = ("before", "old", "from", "was")
_AFTER = ("after", "new", "to", "now")

VALIDATION: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Health checks passed", ("health_check",)),
    ("Performance metrics normal", ("performance_report", "resource_usage")),
    ("No alerts triggered", ("alert_review",)),
)
"""The boxes of the runbook's template, and the jobs whose steps are the evidence: of the run, else of the next run
with one of them."""

_TYPES = {
    Trigger.SCHEDULE: "Scheduled",
    Trigger.CATCH_UP: "Scheduled",
    Trigger.MANUAL: "Manual",
    Trigger.ON_FAILURE: "Corrective",
    Trigger.RESUME: "Resumed",
    Trigger.UNDO: "Rollback",
}

_ENDED_BADLY = (StepState.FAILED, StepState.UNKNOWN, StepState.TIMED_OUT, StepState.CANCELLED, StepState.LOST)
_UNMADE = (ChangeState.REFUSED, ChangeState.FAILED, ChangeState.UNCERTAIN)


def changelog(
    service: OperatorService,
    *,
    entry: str | None = None,
    since: datetime | None = None,
    before: int | None = None,
    limit: int = 50,
    covers: Callable[[str], bool] = lambda entry: True,
) -> ChangeLog:
    """A page of the change log, newest first, of entries that `covers` accepts. Raises UnknownNameError for an entry
    without a history that is not in the calendar either."""
    store = service.store
    if entry is not None and not store.history.runs(entry=entry, limit=1):
        names = [known.name for known in service.calendar().entries]
        if entry not in names:
            raise UnknownNameError("entry", entry, names)
    page = store.changed_runs.page(entry=entry, since=since, before_id=before, limit=limit)
    found = tuple(record_of(store, run) for run in page if covers(run.entry) and is_logged(run))
    return ChangeLog(records=found, next_before=page[-1].id if len(page) == limit else None)


def add_note(service: OperatorService, run_id: int, *, text: str, by: str, origin: str = "") -> Note:
    """Add a person's note about a run: a further record, which no one can edit. Raises UnknownNameError, UsageError."""
    if not text.strip():
        raise UsageError("the note is empty", 'write for example: maintd note last "the disk was replaced"')
    store = service.store
    note = store.records.add_note(run_id, text=text, by=by or "an operator", origin=origin, now=store.now())
    if note is None:
        raise UnknownNameError("run", str(run_id))
    return note


def is_logged(run: Run) -> bool:
    """Whether a run changed something, tried to, or can have done so without a record of it."""
    if run.dry_run:
        return False
    return bool(run.decisions or _changes(run) or steps_without_changes(run))


def record_of(store: Store, run: Run) -> ChangeLogRecord:
    """The record of a run as its rows are now."""
    findings = _findings(store, run)
    made, unknown = decisions_at_gates(store, run)
    return ChangeLogRecord(
        run_id=run.id,
        entry=run.entry,
        title=run.title,
        type=type_of(run),
        why=run.why,
        performed_by=tuple(performers(run, made)),
        state=run.state,
        reason=run.reason,
        queued_at=run.queued_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        duration=run.duration,
        waited=run.waited,
        window=None if run.policy.window is None else run.policy.window.lasts,
        emergency=run.emergency,
        changes=tuple(_changes(run)),
        without_changes=tuple(steps_without_changes(run)),
        issues=tuple(issues(run, findings)),
        checks=sum(len(step.attempts[-1].checks) for step in run.steps if step.attempts),
        follows=run.follows,
        decisions=tuple(decisions(run, made)),
        unknown_gates=tuple(run.steps[step].name for step in unknown),
        validation=tuple(validation(store, run)),
        next_steps=tuple(next_steps(run, findings)),
        notes=run.notes,
    )


def type_of(run: Run) -> str:
    """The type of maintenance: `Emergency` if a rule was passed in an emergency, `Planned` for a window."""
    if run.emergency:
        return "Emergency"
    if run.trigger is Trigger.MANUAL and run.policy.window is not None:
        return "Planned"
    return _TYPES[run.trigger]


class Made(NamedTuple):
    """A decision at a gate, and the run in which it was made."""

    decision: GateDecision
    run_id: int


def decisions_at_gates(store: Store, run: Run) -> tuple[list[Made], list[int]]:
    """What happened at the gates of a run, oldest first, with that of the gates that it took over from earlier runs;
    and the gates of which that is unknown, since the earlier run was pruned."""
    own = [Made(decision, run.id) for decision in run.decisions]
    taken = {
        step.index for step in run.steps if step.gate is not None and step.state.is_success and run.took_over(step)
    }
    earlier = store.history.run(run.follows) if taken and run.follows is not None else None
    if earlier is None:
        return own, sorted(taken)
    before, unknown = decisions_at_gates(store, earlier)
    found = [made for made in before if made.decision.step in taken]
    return [*found, *own], [step for step in unknown if step in taken]


def performers(run: Run, made: Sequence[Made]) -> Iterator[str]:
    """Who asked for the run, which node executed it, and who decided at its gates."""
    if run.requested_by:
        yield f"{run.requested_by} (requested it)"
    if run.node:
        yield f"the daemon on {run.node}" + ("" if run.requested_by else f" ({run.trigger.replace('_', ' ')})")
    persons = dict.fromkeys((each.decision.by, each.run_id) for each in made)
    for person, run_id in persons:
        if person not in ("", MAINTD.name):
            yield f"{person} ({'at its gates' if run_id == run.id else f'at gates of run {run_id}'})"


def decisions(run: Run, made: Sequence[Made]) -> Iterator[LoggedDecision]:
    """What happened at the gates of a run, oldest first."""
    for decision, run_id in made:
        step = run.steps[decision.step] if decision.step < len(run.steps) else None
        items = () if step is None or step.gate is None else step.gate.checklist
        item = items[decision.item - 1].text if decision.item and decision.item <= len(items) else ""
        values = {name: getattr(decision, name) for name in ("kind", "by", "origin", "at", "note", "emergency")}
        values["run_id"] = None if run_id == run.id else run_id
        yield LoggedDecision(gate="" if step is None else step.name, item=item, **values)


def _changes(run: Run) -> list[LoggedChange]:
    return [
        _change(step, change)
        for step in run.steps
        for attempt in step.attempts
        for change in attempt.changes
        if change.state is not ChangeState.PLANNED
    ]


def _change(step: Step, change: Change) -> LoggedChange:
    before, after = _detail(change.details, _BEFORE), _detail(change.details, _AFTER)
    taken = {before[0], after[0]}
    return LoggedChange(
        step=step.name,
        action=change.action,
        target=change.target,
        state=change.state,
        before=before[1],
        after=after[1],
        details={name: value for name, value in change.details.items() if name not in taken},
        cause=change.cause,
    )


def _detail(details: dict[str, Scalar], names: Sequence[str]) -> tuple[str, Scalar]:
    """The first detail with one of these names, or that begins with one: `before`, `before_bytes`."""
    for wanted in names:
        for name, value in details.items():
            if name == wanted or name.startswith(f"{wanted}_"):
                return name, value
    return "", None


def steps_without_changes(run: Run) -> list[str]:
    """Steps that may change things and ended badly, without a record of a change: what they did is not known."""
    mutating = {plan.name for plan in run.plan if plan.mutates and plan.gate is None}
    return [
        step.name
        for step in run.steps
        if step.name in mutating
        and step.state in _ENDED_BADLY
        and step.attempts
        and not any(attempt.changes for attempt in step.attempts)
    ]


def issues(run: Run, findings: dict[tuple[str, str, str], Finding]) -> Iterator[LoggedIssue]:
    """Checks of the last attempts that were not ok, steps that ended badly, and changes that were not made."""
    for step in run.steps:
        checks = step.attempts[-1].checks if step.attempts else ()
        wrong = [check for check in checks if is_finding(check)]
        for check in wrong:
            finding = findings.get((step.name, step.job, check.name))
            yield LoggedIssue(
                step=step.name,
                text=_check_text(check),
                status=check.status,
                hint=check.hint,
                resolution="" if finding is None else _resolution(finding),
            )
        if step.state in _ENDED_BADLY and not any(check.status is CheckStatus.FAIL for check in wrong):
            reason = step.reason or next((each.reason for each in reversed(step.attempts) if each.reason), "")
            yield LoggedIssue(step=step.name, text=f"{step.state.replace('_', ' ')}: {reason}".removesuffix(": "))
        earlier = [attempt for attempt in step.attempts[:-1] if attempt.state is not AttemptState.SUCCEEDED]
        for attempt in earlier:
            text = f"attempt {attempt.number} {attempt.state.replace('_', ' ')}: {attempt.reason}".removesuffix(": ")
            yield LoggedIssue(step=step.name, text=text, resolution=f"tried again: {step.state.replace('_', ' ')}")
        for attempt in step.attempts:
            for change in attempt.changes:
                if change.state in _UNMADE:
                    cause = f": {change.cause}" if change.cause else ""
                    yield LoggedIssue(step=step.name, text=f"{change.action} {change.target} {change.state}{cause}")


def _check_text(check: Check) -> str:
    expectation = f", {check.expectation}" if check.expected else ""
    return f"{check.name}: {check.status}, {value_text(check.observed, check.unit)}{expectation}"


def _resolution(finding: Finding) -> str:
    if finding.gone_at is None:
        return f"open, finding {finding.key}"
    reason = "" if finding.gone_reason is None else f": {finding.gone_reason.text}"
    return f"gone since {utc_minute(finding.gone_at)}{reason}"


def _findings(store: Store, run: Run) -> dict[tuple[str, str, str], Finding]:
    """The findings that a run reported, as they are now, by step, job and check."""
    if run.started_at is None:
        return {}
    names = {place.check for place, seen in observations(run).items() if is_finding(seen.check)}
    found = store.findings.of_checks(run.entry, names) if names else []
    return {(finding.step, finding.job, finding.check): finding for finding in found}


def validation(store: Store, run: Run) -> Iterator[Box]:
    """The boxes of the runbook's template: by a step of the run itself, else by the next run with such a step."""
    for text, jobs in VALIDATION:
        yield _validated(store, run, text, jobs)


def _validated(store: Store, run: Run, text: str, jobs: Sequence[str]) -> Box:
    own = [step for step in run.steps if step.job in jobs and step.finished_at is not None and step.attempts]
    if own:
        return _box_of_step(text, own[-1], run)
    if run.finished_at is None:
        return Box(text=text, state=BoxState.OPEN, evidence="the run has not ended")
    later = [found for job in jobs if (found := store.changed_runs.next_with_job(job, run.id, run.finished_at))]
    if not later:
        names = " or ".join(jobs)
        return Box(text=text, state=BoxState.OPEN, evidence=f"not known: no run with {names} has ended since")
    first = min(later, key=lambda found: found.id)
    step = next(step for step in reversed(first.steps) if step.job in jobs)
    return _box_of_step(text, step, first)


def _box_of_step(text: str, step: Step, run: Run) -> Box:
    checks = step.attempts[-1].checks if step.attempts else ()
    ok = sum(check.status is CheckStatus.OK for check in checks)
    state = step.state.replace("_", " ")
    evidence = f"{step.name} of run {run.id} ({run.entry}) {state}, {ok} of {len(checks)} checks ok"
    if step.state is StepState.SUCCEEDED:
        return Box(text=text, state=BoxState.DONE, evidence=evidence, at=step.finished_at)
    unknown = step.state in (StepState.UNKNOWN, StepState.PENDING, StepState.SKIPPED, StepState.RUNNING)
    return Box(text=text, state=BoxState.OPEN if unknown else BoxState.FAILED, evidence=evidence, at=step.finished_at)


def next_steps(run: Run, findings: dict[tuple[str, str, str], Finding]) -> Iterator[str]:
    """What is left to do: a gate, a held run, uncertain changes, and findings that are still open."""
    if run.state is RunState.WAITING:
        yield f"It waits at a gate: maintd checklist {run.id}"
    if run.held:
        yield f"The run was lost and keeps its locks; see: maintd show {run.id}"
    for change in _changes(run):
        if change.state in (ChangeState.UNCERTAIN, ChangeState.INTENDED) and run.state.final:
            yield f"Look whether {change.target} was changed ({change.action}): it is not known"
    for finding in sorted(findings.values(), key=lambda each: each.first_seen_at):
        if finding.open and not finding.because:
            hint = f": {finding.hint}" if finding.hint else ""
            yield f"{finding.check} is {finding.status} (finding {finding.key}){hint}"
    if run.emergency:
        yield f"Review the emergency afterwards, and write down the result: maintd note {run.id} {quote('TEXT')}"
