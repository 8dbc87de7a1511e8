"""The diagnosis and the text of an entry whose findings are acknowledged."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.stores import NOON, at

from maintd.model.entry import Entry
from maintd.model.evidence import Check, CheckStatus
from maintd.model.finding import Acknowledgement, Finding, finding_key
from maintd.model.run import Attempt, AttemptState, Run, RunState, Step, StepState, Trigger
from maintd.model.status import Diagnosis, EntryStatus, Severity, StatusReport
from maintd.operations.diagnosis import diagnose
from maintd.present import entry_text, status_text
from maintd.store import LastRuns

FAIL, WARN, UNKNOWN = CheckStatus.FAIL, CheckStatus.WARN, CheckStatus.UNKNOWN

STATES = {FAIL: StepState.FAILED, WARN: StepState.WARNED, UNKNOWN: StepState.UNKNOWN}


def seen(name: str, status: CheckStatus) -> Check:
    return Check(name=name, observed=91, unit="%", expected="at most 80", status=status, hint="free some")


def step(name: str, *checks: Check, reason: str = 'check "disk": observed 91 %') -> Step:
    worst = max(checks, key=lambda check: [WARN, UNKNOWN, FAIL].index(check.status))
    attempt = AttemptState(STATES[worst.status].value)
    tried = Attempt(number=1, state=attempt, reason=reason, started_at=NOON, finished_at=NOON, checks=checks)
    return Step(index=0, name=name, job=name, state=STATES[worst.status], reason=reason, attempts=(tried,))


def run(*steps: Step, state: RunState = RunState.FAILED) -> Run:
    return Run(
        id=7,
        entry="nightly",
        title="Nightly",
        trigger=Trigger.SCHEDULE,
        state=state,
        queued_at=NOON,
        not_before=NOON,
        started_at=NOON,
        finished_at=at(1),
        steps=steps,
    )


def known(check: str, status: CheckStatus = FAIL, job: str = "health") -> Finding:
    return Finding(
        key=finding_key("nightly", job, job, check),
        entry="nightly",
        step=job,
        job=job,
        check=check,
        status=status,
        observed=91,
        unit="%",
        expected="at most 80",
        first_seen_at=NOON,
        last_seen_at=NOON,
        first_run_id=7,
        last_run_id=7,
        seen_count=1,
        acknowledgement=Acknowledgement(
            id=1, status=status, why="a disk is ordered", by="ada", at=NOON, until=at(60 * 24)
        ),
    )


def diagnosed(ended: Run, findings: Sequence[Finding], now: float = 5, failures: int = 1) -> Diagnosis:
    entry = Entry(name="nightly", title="Nightly", steps=())
    last = LastRuns(last_run=ended, last_finished=ended, failing_since=NOON, failures_in_a_row=failures)
    return diagnose(entry, last, ended, at(now), findings=findings)


def test_a_run_whose_findings_are_all_acknowledged_needs_no_attention() -> None:
    found = diagnosed(run(step("health", seen("disk", FAIL))), [known("disk")])

    assert found.severity is Severity.WARNING
    assert not found.needs_attention
    assert found.why == "health: disk: 91 %, acknowledged by ada until Tue 2026-03-03 12:00 UTC: a disk is ordered"
    assert [finding.check for finding in found.acknowledged] == ["disk"]


@pytest.mark.parametrize(
    ("findings", "now"),
    [
        ([], 5),
        ([known("load")], 5),  # another check
        ([known("disk", job="other")], 5),  # of another job
        ([known("disk", WARN)], 5),  # worse than when it was acknowledged, before the run was reviewed
        ([known("disk")], 60 * 24 + 1),  # its time is over
    ],
)
def test_it_needs_attention_when_the_acknowledgement_does_not_cover_it(findings: list[Finding], now: float) -> None:
    found = diagnosed(run(step("health", seen("disk", FAIL))), findings, now)

    assert found.severity is Severity.ERROR
    assert found.why == "health: disk: 91 %, expected at most 80"
    assert found.acknowledged == ()


@pytest.mark.parametrize(
    ("left", "severity"), [(FAIL, Severity.ERROR), (UNKNOWN, Severity.UNKNOWN), (WARN, Severity.WARNING)]
)
def test_what_is_left_decides(left: CheckStatus, severity: Severity) -> None:
    ended = run(step("health", seen("disk", FAIL), seen("load", left)))

    found = diagnosed(ended, [known("disk")], failures=0)

    assert found.severity is severity
    assert found.why == "health: load: 91 %, expected at most 80"


def test_a_step_whose_findings_are_acknowledged_is_left_out_of_the_reason() -> None:
    ended = run(step("health", seen("disk", FAIL)), step("vacuum", seen("bloat", FAIL)))

    found = diagnosed(ended, [known("disk")])

    assert found.severity is Severity.ERROR
    assert found.why == "vacuum: bloat: 91 %, expected at most 80"
    assert [finding.check for finding in found.acknowledged] == ["disk"]


def test_a_crash_needs_attention_whatever_is_acknowledged() -> None:
    found = diagnosed(run(step("health", seen("disk", FAIL), reason="KeyError: 'a'")), [known("disk")])

    assert found.severity is Severity.ERROR
    assert found.why == "health: KeyError: 'a'"


def test_the_status_shows_who_acknowledged_it_until_when_and_why() -> None:
    ended = run(step("health", seen("disk", FAIL)))
    found = diagnosed(ended, [known("disk")])
    entry = EntryStatus(
        entry="nightly", title="Nightly", schedule="manual", enabled=True, last_finished=ended, **dict(found)
    )

    whole = status_text(StatusReport(at=at(5), entries=(entry,)), width=200)
    single = entry_text(entry, [], now=at(5), width=200)

    assert "needs attention" not in whole
    assert "acknowledged by ada until Tue 2026-03-03 12:00 UTC: a disk is ordered" in whole
    assert "  why       health: disk: 91 %, acknowledged by ada until" in single
    assert "  known  " not in single
