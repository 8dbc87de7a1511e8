"""Why an entry is not green, and what to type next. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from shlex import quote
from typing import NamedTuple

from maintd.model.entry import Entry
from maintd.model.evidence import Check, CheckStatus
from maintd.model.run import Run, RunState, RunSummary, SkipReason, StepState
from maintd.present import value_text
from maintd.store import LastRuns
from maintd.units import format_duration

SEVERITY = {CheckStatus.FAIL: 0, CheckStatus.UNKNOWN: 1, CheckStatus.WARN: 2, CheckStatus.OK: 3}
"""Worst first. What could not be seen is worse than what was seen to be near its limit."""

WANTED_SKIPS = frozenset({SkipReason.PAUSED, SkipReason.FROZEN, SkipReason.BLACKOUT, SkipReason.COALESCED})
"""Skipped because somebody wanted it so: how the entry stands is what its last work says."""

STUCK = timedelta(minutes=5)
"""A run that may start and that no node has started for so long needs somebody."""


class Verdict(NamedTuple):
    """`why` is empty when there is nothing to say; `next_step` is a command to type, or empty."""

    why: str
    next_step: str


GREEN = Verdict("", "")


def verdict_of(entry: Entry, last: LastRuns, worked: Run | None, now: datetime, disabled: str = "") -> Verdict:
    """How an entry stands. `worked` is `last.last_worked` with its evidence, needed unless that succeeded."""
    if disabled:
        return Verdict(f"disabled: {disabled}", "maintd validate")
    if not entry.enabled:
        return GREEN  # switched off in the calendar, which is nobody's trouble
    stuck = _stuck(last.active, now)
    if stuck is not None:
        return stuck
    run = last.last_run
    if run is not None and run.state is RunState.SKIPPED and run.skip_reason not in WANTED_SKIPS:
        return _skipped(entry, run)
    if last.last_worked is None or last.last_worked.state is RunState.SUCCEEDED:
        return GREEN
    return _ended(worked if worked is not None else last.last_worked)


def worst_check(run: Run) -> Check | None:
    """The worst check of the last attempt of each step, the first of several; None when all are met."""
    checks = [check for step in run.steps if step.attempts for check in step.attempts[-1].checks]
    bad = [check for check in checks if check.status is not CheckStatus.OK]
    return min(bad, key=lambda check: SEVERITY[check.status], default=None)


def told(check: Check) -> str:
    """A check in words: `dead tuples: 31 %, expected at most 20 %`."""
    expected = f", expected {check.expected}" if check.expected else ""
    return f"{check.name}: {value_text(check.observed, check.unit)}{expected}"


def _stuck(active: RunSummary | None, now: datetime) -> Verdict | None:
    if active is None or active.state is not RunState.QUEUED or now - active.not_before < STUCK:
        return None
    waits = format_duration(timedelta(seconds=int((now - active.not_before).total_seconds())))
    reason = active.reason or "no node has started it"
    return Verdict(f"run {active.id} has been queued for {waits}: {reason}", f"maintd show {active.id}")


def _skipped(entry: Entry, run: RunSummary) -> Verdict:
    why = f"{str(run.skip_reason).replace('_', ' ')}: {run.reason}" if run.reason else f"skipped: {run.skip_reason}"
    if run.skip_reason in (SkipReason.MISSED, SkipReason.MISFIRE):
        return Verdict(why, f"maintd trigger {quote(entry.name)} --wait")
    if run.skip_reason is SkipReason.DEPENDENCY and entry.policy.after is not None:
        return Verdict(why, f"maintd status {quote(entry.policy.after.entry)}")
    return Verdict(why, f"maintd show {run.id}")


def _ended(run: Run | RunSummary) -> Verdict:
    check = worst_check(run) if isinstance(run, Run) else None
    if run.state in (RunState.FAILED, RunState.WARNED) and check is not None:
        return Verdict(told(check), f"maintd show {run.id}")
    reason = run.reason or _step_reason(run) or "no reason was recorded"
    said = str(run.state).replace("_", " ")
    command = "show" if run.state in (RunState.CANCELLED, RunState.WARNED) else "logs"
    return Verdict(reason if reason.startswith(said) else f"{said}: {reason}", f"maintd {command} {run.id}")


def _step_reason(run: Run | RunSummary) -> str:
    steps = run.steps if isinstance(run, Run) else ()
    reasons = [f"{step.name}: {step.reason}" for step in steps if step.reason and step.state != StepState.SKIPPED]
    return reasons[0] if reasons else ""
