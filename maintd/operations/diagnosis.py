"""Whether an entry needs attention, why, since when, and what to type next. Pure.

This is the only place that decides it. Exit codes, `maintd status`, the page and the metrics render the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from shlex import quote
from typing import NamedTuple

from maintd.model.entry import Entry, Pause
from maintd.model.evidence import Check, CheckStatus
from maintd.model.finding import Finding, is_finding
from maintd.model.run import Run, RunState, RunSummary, SkipReason, Step, StepState, Trigger
from maintd.model.status import Diagnosis, Severity
from maintd.operations.follow import acknowledged_in, is_explained, problems, worst_left
from maintd.operations.successor_plan import NOT_STARTED, decisions_about
from maintd.present import acknowledgement_text, skip_text, utc_minute
from maintd.store import LastRuns
from maintd.units import format_duration, plural, value_text

CHECK_ORDER = (CheckStatus.FAIL, CheckStatus.UNKNOWN, CheckStatus.WARN, CheckStatus.OK)
"""Worst first. A value that was not observed is worse than one that is near its limit."""

OF_STATE: Mapping[RunState, Severity] = {
    RunState.WAITING: Severity.WARNING,  # a person has to decide, but nothing is wrong
    RunState.QUEUED: Severity.OK,  # an error once it is older than STUCK
    RunState.RUNNING: Severity.OK,
    RunState.SUCCEEDED: Severity.OK,
    RunState.WARNED: Severity.WARNING,
    RunState.UNKNOWN: Severity.UNKNOWN,
    RunState.FAILED: Severity.ERROR,
    RunState.TIMED_OUT: Severity.ERROR,
    RunState.LOST: Severity.ERROR,
    RunState.CANCELLED: Severity.WARNING,
    RunState.SKIPPED: Severity.OK,  # refined by OF_SKIP_REASON
}
"""How severe the last run's state is."""

OF_SKIP_REASON: Mapping[SkipReason, Severity] = {
    # Skipped as an operator or the calendar wanted: the last run that was not skipped decides.
    SkipReason.PAUSED: Severity.OK,
    SkipReason.FROZEN: Severity.OK,
    SkipReason.BLACKOUT: Severity.OK,
    SkipReason.COALESCED: Severity.OK,
    # Skipped by a rule of the calendar, but the work was not done.
    SkipReason.OVERLAP: Severity.WARNING,
    SkipReason.NOT_CONFIGURED: Severity.WARNING,
    SkipReason.WINDOW: Severity.WARNING,
    # The work was not done although it had to be.
    SkipReason.MISSED: Severity.ERROR,
    SkipReason.MISFIRE: Severity.ERROR,
    SkipReason.DEPENDENCY: Severity.ERROR,
}
"""How severe it is that the last due time was skipped."""

STUCK = timedelta(minutes=5)
"""A queued run that could have started this long ago needs attention."""


class Held(NamedTuple):
    """A lost run that is held: its locks, and why maintd does not resume or undo it by itself."""

    run: Run
    locks: tuple[str, ...]
    why: str

    @property
    def text(self) -> str:
        """`run 12 was lost in step "restart" and is held: it keeps the locks stack until a person decides; …`."""
        lost = next((step.name for step in reversed(self.run.steps) if step.state is StepState.LOST), "")
        where = f' in step "{lost}"' if lost else ""
        locks = f"it keeps the locks {', '.join(self.locks)}" if self.locks else "its entry does not run"
        return f"run {self.run.id} was lost{where} and is held: {locks} until a person decides; {self.why}"


def diagnose(
    entry: Entry,
    last: LastRuns,
    finished: Run | None,
    now: datetime,
    *,
    pause: Pause | None = None,
    broken: str = "",
    findings: Sequence[Finding] = (),
    held: Held | None = None,
    undone_by: RunSummary | None = None,
) -> Diagnosis:
    """The diagnosis of an entry. A held run is what it is about, whatever came later.

    `finished` is `last.last_finished` with its evidence; it is not needed if that run succeeded. `pause` is the active
    pause. `broken` is the reason why its runs fail: a job that cannot be used. `findings` are its acknowledged ones.
    `undone_by` is the run that undoes `finished`.
    """
    if held is not None:
        found = _of_held(held)
    else:
        found = _decide(entry, last, finished, now, pause, broken, findings)
        if undone_by is not None and finished is not None and found.why_run_id == finished.id:
            found = _of_undone(found, undone_by)
    return found if last.active is None else found.model_copy(update={"state": last.active.state.value})


NEVER = datetime.min.replace(tzinfo=UTC)

MOST_PROBLEMS = 5
"""Steps that `why` names."""


def worst_check(run: Run) -> Check | None:
    """The worst check of the last attempts of all steps, the first of several; None if all passed."""
    return _worst(check for step in run.steps for check in _last_checks(step))


def _last_checks(step: Step) -> tuple[Check, ...]:
    return step.attempts[-1].checks if step.attempts else ()


def _worst(checks: Iterable[Check]) -> Check | None:
    """The worst one, and of several a cause before what follows from it. An optional one that is unknown is none."""
    bad = [check for check in checks if is_finding(check)]
    return min(bad, key=lambda check: (CHECK_ORDER.index(check.status), bool(check.because)), default=None)


def check_text(check: Check) -> str:
    """`dead tuples: 31 %, expected at most 20 %`."""
    expected = f", {check.expectation}" if check.expected else ""
    return f"{check.name}: {value_text(check.observed, check.unit)}{expected}"


def _decide(
    entry: Entry,
    last: LastRuns,
    finished: Run | None,
    now: datetime,
    pause: Pause | None,
    broken: str,
    findings: Sequence[Finding],
) -> Diagnosis:
    if not entry.enabled:
        return Diagnosis(state="disabled")
    if broken:
        state = Diagnosis().state if last.last_run is None else last.last_run.state
        return Diagnosis(state=state, severity=Severity.ERROR, why=f"cannot run: {broken}", next_step="maintd validate")
    found = (
        _of_active(last.active, now) or _of_skipped(entry, last.last_run) or _of_finished(last, finished, findings, now)
    )
    return found if pause is None or found.severity is Severity.ERROR else _paused(entry, found, pause)


def _of_held(held: Held) -> Diagnosis:
    run = held.run
    return Diagnosis(
        state=run.state,
        severity=Severity.ERROR,
        why=held.text,
        hint=decisions_text(run),
        since=run.finished_at,
        why_run_id=run.id,
        next_step=f"maintd show {run.id}",
    )


def _of_undone(found: Diagnosis, undone_by: RunSummary) -> Diagnosis:
    """The diagnosis of a run that another one undoes, or has undone."""
    if undone_by.state.final and undone_by.state not in (RunState.SUCCEEDED, RunState.WARNED):
        how = f"run {undone_by.id}, which was to undo it: {undone_by.state.replace('_', ' ')}"
    else:
        how = f"undone by run {undone_by.id}" if undone_by.state.final else f"run {undone_by.id} undoes it"
    columns = {"why": f"{found.why}; {how}", "hint": "", "next_step": f"maintd show {undone_by.id}"}
    return found.model_copy(update=columns)


def decisions_text(run: Run) -> str:
    """What a person types about a held run, or one that did not succeed."""
    commands = decisions_about(run)
    return f"type {'one of: ' if len(commands) > 1 else ''}{'; '.join(commands)}" if commands else ""


def _of_active(active: RunSummary | None, now: datetime) -> Diagnosis | None:
    """The diagnosis of an unfinished run that needs attention."""
    if active is None:
        return None
    severity = OF_STATE[active.state]
    if active.state is RunState.QUEUED and now - active.not_before >= STUCK:
        severity = Severity.ERROR
    if severity is Severity.OK:
        return None
    if active.state is RunState.WAITING:
        until = "" if active.waiting_until is None else f", until {utc_minute(active.waiting_until)}"
        why = f"run {active.id} {active.reason or 'waits at a gate'}{until}"
        return Diagnosis(state=active.state, severity=severity, why=why, why_run_id=active.id, next_step="maintd gates")
    late = format_duration(timedelta(seconds=max(0, int((now - active.not_before).total_seconds()))))
    reason = active.reason or ("no node has started it" if active.state is RunState.QUEUED else "")
    why = f"run {active.id} should have started {late} ago{f': {reason}' if reason else ''}"
    return Diagnosis(
        state=active.state,
        severity=severity,
        why=why,
        since=active.not_before,
        why_run_id=active.id,
        next_step=f"maintd show {active.id}",
    )


def _of_skipped(entry: Entry, run: RunSummary | None) -> Diagnosis | None:
    """The diagnosis of a due time that was skipped, if that is a problem."""
    if run is None or run.skip_reason is None or OF_SKIP_REASON[run.skip_reason] is Severity.OK:
        return None
    next_step = f"maintd show {run.id}"
    if run.skip_reason in (SkipReason.MISSED, SkipReason.MISFIRE):
        next_step = f"maintd trigger {quote(entry.name)} --wait"
    elif run.skip_reason is SkipReason.DEPENDENCY and entry.policy.after is not None:
        next_step = f"maintd status {quote(entry.policy.after.entry)}"
    return Diagnosis(
        state=RunState.SKIPPED,
        severity=OF_SKIP_REASON[run.skip_reason],
        why=skip_text(run.skip_reason, run.reason),
        since=run.due_at or run.queued_at,
        why_run_id=run.id,
        next_step=next_step,
    )


OF_STATUS: Mapping[CheckStatus, Severity] = {
    CheckStatus.FAIL: Severity.ERROR,
    CheckStatus.UNKNOWN: Severity.UNKNOWN,
    CheckStatus.WARN: Severity.WARNING,
    CheckStatus.OK: Severity.WARNING,  # all that was wrong has been acknowledged
}
"""How severe the worst check is that is not acknowledged."""


def _of_finished(last: LastRuns, finished: Run | None, findings: Sequence[Finding], now: datetime) -> Diagnosis:
    """The diagnosis of the last run that was not skipped."""
    run = finished or last.last_finished
    if run is None:
        return Diagnosis() if last.last_run is None else Diagnosis(state=last.last_run.state)
    severity = Severity.ERROR if last.failures_in_a_row else OF_STATE[run.state]
    if severity is Severity.OK:
        return Diagnosis(state=run.state)
    acknowledged = acknowledged_in(run, findings, now) if isinstance(run, Run) and findings else ()
    left = worst_left(run, acknowledged, now) if isinstance(run, Run) and acknowledged else None
    if left is not None and (left is not CheckStatus.UNKNOWN or not last.failures_in_a_row):
        severity = OF_STATUS[left]
    if left is CheckStatus.OK:
        why, hint, command = _acknowledged_text(acknowledged), "", "show"
    else:
        why, hint, command = run_reason(run, acknowledged, now)
    return Diagnosis(
        state=run.state,
        severity=severity,
        why=why,
        hint=hint,
        since=last.failing_since or run.finished_at,
        why_run_id=run.id,
        next_step=_decision_about(run) or f"maintd {command} {run.id}",
        acknowledged=acknowledged,
    )


def _decision_about(run: Run | RunSummary) -> str:
    """The command by which a person goes on after a run that left something in effect, or that no person approved."""
    if not isinstance(run, Run):
        return ""
    if undo_text(run).startswith(NOT_UNDONE):
        return next((command for command in decisions_about(run) if command.startswith("maintd undo")), "")
    gates = {step.state for step in run.steps if step.gate is not None}
    if StepState.FAILED in gates:  # the log has nothing about a rejection
        return f"maintd show {run.id}"
    return next(iter(decisions_about(run)), "") if StepState.TIMED_OUT in gates else ""


NOT_UNDONE = "NOT undone: "


def undo_text(run: Run) -> str:
    """`undone: two, one`, or `NOT undone: one`, by the undo steps that ran; empty if none did."""
    ran = [step for step in run.steps if step.undoes and step.state not in NOT_STARTED]
    left = [step.undoes for step in ran if not step.state.is_success and step.state is not StepState.RUNNING]
    if left:
        return f"{NOT_UNDONE}{', '.join(left)}"
    return f"undone: {', '.join(step.undoes for step in ran)}" if ran and run.trigger is not Trigger.UNDO else ""


def _acknowledged_text(findings: Sequence[Finding]) -> str:
    """`health_check: disk: 91 %, acknowledged by ada until …: a disk is ordered (and 2 more)`."""
    first = next((finding for finding in findings if not finding.because), findings[0])
    name = "" if first.step == first.entry else f"{first.step}: "
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    assert first.acknowledgement is not None
    observed = value_text(first.observed, first.unit)
    return f"{name}{first.check}: {observed}, {acknowledgement_text(first.acknowledgement)}{more}"


def _paused(entry: Entry, found: Diagnosis, pause: Pause) -> Diagnosis:
    if found.why:
        return found.model_copy(update={"state": "paused", "severity": Severity.WARNING})
    until = "" if pause.until is None else f" until {utc_minute(pause.until)}"
    return Diagnosis(
        state="paused",
        severity=Severity.WARNING,
        why=f"paused by {pause.by or 'an operator'}{until}: {pause.why}",
        since=pause.since,
        next_step=f"maintd unpause {quote(entry.name)}",
    )


class _Problem(NamedTuple):
    """Why one step did not succeed."""

    rank: int  # in CHECK_ORDER
    text: str
    hint: str
    command: str  # that shows more


def run_reason(
    run: Run | RunSummary, acknowledged: Sequence[Finding] = (), now: datetime = NEVER
) -> tuple[str, str, str]:
    """Why a run did not succeed, by all its steps that did not, the worst first; a hint, and the command to type.

    What is `acknowledged` at the time `now` is left out.
    """
    why, hint, command = _reason_of(run, acknowledged, now)
    undo = undo_text(run) if isinstance(run, Run) else ""
    return (f"{why}; {undo}" if undo and undo not in why else why), hint, command


def _reason_of(run: Run | RunSummary, acknowledged: Sequence[Finding], now: datetime) -> tuple[str, str, str]:
    steps = run.steps if isinstance(run, Run) else ()
    found = [problem for step in steps if isinstance(run, Run) and (problem := _problem(run, step, acknowledged, now))]
    if run.state in (RunState.FAILED, RunState.UNKNOWN, RunState.WARNED) and found:
        found.sort(key=lambda problem: problem.rank)
        texts = [problem.text for problem in found[:MOST_PROBLEMS]]
        if len(found) > MOST_PROBLEMS:
            texts.append(f"and {plural(len(found) - MOST_PROBLEMS, 'more step')}")
        return "; ".join(texts), found[0].hint, found[0].command
    reason = run.reason or _step_reason(run) or "no reason was recorded"
    word = run.state.replace("_", " ")
    command = "show" if run.state in (RunState.CANCELLED, RunState.UNKNOWN, RunState.WARNED) else "logs"
    return (reason if reason.startswith(word) else f"{word}: {reason}"), "", command


def _problem(run: Run, step: Step, acknowledged: Sequence[Finding], now: datetime) -> _Problem | None:
    """What was wrong in a step, by its worst check, or by its reason when it did not end by its checks."""
    name = "" if step.name == run.entry else f"{step.name}: "
    checks = problems(run, step, acknowledged, now)
    worst, of_all = _worst(checks), _worst(_last_checks(step))
    by_checks = of_all is not None and of_all.status is CheckStatus.FAIL and (worst is not None or is_explained(step))
    failed = step.state in (StepState.FAILED, StepState.TIMED_OUT, StepState.LOST, StepState.CANCELLED)
    if failed and step.reason and not by_checks:
        return _Problem(0, f"{name}{step.reason}", "", "logs")
    if worst is None:
        return None
    alike = sum(check.status is worst.status and not check.because for check in checks) - 1
    symptoms = sum(check.because == worst.name for check in checks)
    more = [f"{alike} more" if alike > 0 and worst.status is CheckStatus.FAIL else ""]
    more.append(f"{symptoms} that follow{'s' if symptoms == 1 else ''} from it" if symptoms else "")
    listed = " and ".join(filter(None, more))
    text = f"{name}{check_text(worst)}" + (f" (and {listed})" if listed else "")
    return _Problem(CHECK_ORDER.index(worst.status), text, worst.hint, "show")


def _step_reason(run: Run | RunSummary) -> str:
    steps = run.steps if isinstance(run, Run) else ()
    reasons = [f"{step.name}: {step.reason}" for step in steps if step.reason and step.state != StepState.SKIPPED]
    return reasons[0] if reasons else ""
