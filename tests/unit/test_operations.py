"""The diagnosis of an entry, and the assignment of params to its steps."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.web_services import JOBS, NOON, at, check, entry, job

from maintd.errors import UsageError
from maintd.model.entry import After, Entry, Gate, Pause, Policy, StepPlan
from maintd.model.evidence import Check, CheckStatus
from maintd.model.run import (
    Attempt,
    AttemptState,
    Run,
    RunState,
    RunSummary,
    SkipReason,
    Step,
    StepState,
    Trigger,
)
from maintd.model.status import Diagnosis, Severity
from maintd.operations.diagnosis import OF_SKIP_REASON, OF_STATE, diagnose, worst_check
from maintd.operations.params import with_params
from maintd.store import LastRuns

MADE = {name: known for name, known in JOBS.items() if name != "wrecked"}


def ended(state: RunState, *checks: Check, **fields: object) -> Run:
    attempt = Attempt(number=1, state=AttemptState.SUCCEEDED, started_at=NOON, checks=checks)
    step = Step(index=0, name="vacuum", job="vacuum", state=StepState.FAILED, attempts=(attempt,))
    return Run.model_validate(
        {
            "id": 42,
            "entry": "nightly",
            "title": "Nightly",
            "trigger": Trigger.SCHEDULE,
            "state": state,
            "queued_at": NOON,
            "not_before": NOON,
            "steps": (step,),
            **fields,
        }
    )


def queued(minutes_ago: float, **fields: object) -> RunSummary:
    columns = {"id": 43, "entry": "nightly", "title": "Nightly", "trigger": Trigger.MANUAL, "state": RunState.QUEUED}
    return RunSummary.model_validate(
        {**columns, "queued_at": at(-minutes_ago), "not_before": at(-minutes_ago), **fields}
    )


def why(last: LastRuns, worked: Run | None = None, of: Entry | None = None) -> tuple[str, str]:
    found = diagnose(of or entry("nightly"), last, worked, NOON)
    return found.why, found.next_step


def severity(last: LastRuns) -> Severity:
    return diagnose(entry("nightly"), last, None, NOON).severity


def test_an_entry_that_succeeded_or_never_ran_has_no_diagnosis() -> None:
    good = ended(RunState.SUCCEEDED)

    assert why(LastRuns(last_run=good, last_finished=good), good) == ("", "")
    assert why(LastRuns()) == ("", "")


def test_a_failure_is_explained_by_its_worst_check_with_observed_and_expected_value() -> None:
    bad = ended(
        RunState.FAILED,
        check("free space", CheckStatus.WARN, 18),
        check("dead tuples", CheckStatus.FAIL, 31.25, unit="%"),
        check("lag", CheckStatus.FAIL, 7),
    )

    result = why(LastRuns(last_run=bad, last_finished=bad), bad)

    assert result == ("vacuum: dead tuples: 31.25 %, expected at most 20 (and 1 more)", "maintd show 42")


def test_a_check_that_was_not_observed_is_worse_than_a_warning() -> None:
    bad = ended(RunState.WARNED, check("a", CheckStatus.WARN), check("b", CheckStatus.UNKNOWN, None))

    result = why(LastRuns(last_run=bad, last_finished=bad), bad)

    assert result == ("vacuum: b: not observed, expected at most 20", "maintd show 42")


def step_with(name: str, state: StepState, *checks: Check, reason: str = "") -> Step:
    tried = Attempt(number=1, state=AttemptState.FAILED, started_at=NOON, checks=checks)
    return Step(index=0, name=name, job=name, state=state, attempts=(tried,), reason=reason)


def test_every_step_that_did_not_succeed_is_named_the_worst_first() -> None:
    steps = (
        step_with("log_cleanup", StepState.WARNED, check("age", CheckStatus.WARN, 31)),
        step_with("reindex", StepState.UNKNOWN, check("bloat", CheckStatus.UNKNOWN, None)),
        step_with("image_updates", StepState.FAILED, check("updates", CheckStatus.FAIL, 21)),
        step_with("redis_maintenance", StepState.FAILED, reason="ValueError: no"),
        step_with("backup_verify", StepState.FAILED, check("readable", CheckStatus.FAIL, "no")),
        step_with("vacuum", StepState.SUCCEEDED, check("dead", CheckStatus.OK, 1)),
    )
    bad = ended(RunState.FAILED, steps=steps)

    found = diagnose(entry("weekly"), LastRuns(last_run=bad, last_finished=bad), bad, NOON)

    names = [part.split(": ")[0] for part in found.why.split("; ")]
    assert names == ["image_updates", "redis_maintenance", "backup_verify", "reindex", "log_cleanup"]
    assert "redis_maintenance: ValueError: no" in found.why


def test_the_hint_of_the_worst_check_is_part_of_the_diagnosis() -> None:
    worst = check("readable", CheckStatus.FAIL, "no").model_copy(update={"hint": "make a new backup"})
    bad = ended(RunState.FAILED, steps=(step_with("backup_verify", StepState.FAILED, worst),))

    assert diagnose(entry("weekly"), LastRuns(last_run=bad, last_finished=bad), bad, NOON).hint == "make a new backup"


def test_a_cause_is_named_before_what_follows_from_it() -> None:
    symptoms = [
        check(name, CheckStatus.FAIL, "error").model_copy(update={"because": "postgres main: answers"})
        for name in ("http orders: db", "http risk: db")
    ]
    cause = check("postgres main: answers", CheckStatus.FAIL, "refused")
    bad = ended(RunState.FAILED, steps=(step_with("health_check", StepState.FAILED, *symptoms, cause),))

    text = why(LastRuns(last_run=bad, last_finished=bad), bad)[0]

    assert text.startswith("health_check: postgres main: answers: refused")
    assert text.endswith("(and 2 that follow from it)")
    assert worst_check(bad) == cause


def test_an_optional_check_that_is_unknown_is_not_the_reason() -> None:
    optional = check("history", CheckStatus.UNKNOWN, None).model_copy(update={"optional": True})
    bad = ended(RunState.WARNED, steps=(step_with("vacuum", StepState.WARNED, optional, check("a", CheckStatus.WARN)),))

    assert why(LastRuns(last_run=bad, last_finished=bad), bad)[0].startswith("vacuum: a:")


def test_only_the_last_attempt_of_a_step_counts() -> None:
    tries = tuple(
        Attempt(number=number, state=AttemptState.FAILED, started_at=NOON, checks=(check("lag", status),))
        for number, status in ((1, CheckStatus.FAIL), (2, CheckStatus.OK))
    )
    step = Step(index=0, name="vacuum", job="vacuum", state=StepState.SUCCEEDED, attempts=tries)

    assert worst_check(ended(RunState.SUCCEEDED, steps=(step,))) is None


@pytest.mark.parametrize(
    ("state", "reason", "result"),
    [
        (RunState.TIMED_OUT, "stopped after its 10m timeout", "timed out: stopped after its 10m timeout"),
        (RunState.LOST, "node n1 stopped renewing", "lost: node n1 stopped renewing"),
        (RunState.FAILED, "ValueError: no", "failed: ValueError: no"),
        (RunState.FAILED, "", "failed: no reason was recorded"),
    ],
)
def test_a_failure_without_a_failed_check_is_explained_by_its_reason_and_leads_to_the_log(
    state: RunState, reason: str, result: str
) -> None:
    bad = ended(state, reason=reason)

    assert why(LastRuns(last_run=bad, last_finished=bad), bad) == (result, "maintd logs 42")


def test_a_cancelled_run_is_explained_by_who_cancelled_it() -> None:
    over = ended(RunState.CANCELLED, reason="cancelled by ada: wrong day")

    assert why(LastRuns(last_run=over, last_finished=over), over) == ("cancelled by ada: wrong day", "maintd show 42")


@pytest.mark.parametrize(
    ("skipped", "next_step"),
    [
        (SkipReason.MISSED, "maintd trigger 'two words' --wait"),
        (SkipReason.MISFIRE, "maintd trigger 'two words' --wait"),
        (SkipReason.DEPENDENCY, "maintd status daily-backup"),
        (SkipReason.OVERLAP, "maintd show 42"),
        (SkipReason.NOT_CONFIGURED, "maintd show 42"),
    ],
)
def test_a_skipped_due_time_is_explained_with_the_command_that_helps(skipped: SkipReason, next_step: str) -> None:
    policy = Policy(after=After(entry="daily-backup", within=timedelta(hours=26)))
    run = ended(RunState.SKIPPED, skip_reason=skipped, reason="for a reason")
    good = ended(RunState.SUCCEEDED)

    result = why(LastRuns(last_run=run, last_finished=good), good, entry("two words", policy=policy))

    assert result == (f"{skipped.value.replace('_', ' ')}: for a reason", next_step)


@pytest.mark.parametrize("wanted", [SkipReason.PAUSED, SkipReason.BLACKOUT, SkipReason.FROZEN, SkipReason.COALESCED])
def test_a_due_time_skipped_on_purpose_does_not_hide_the_last_result(wanted: SkipReason) -> None:
    run = ended(RunState.SKIPPED, skip_reason=wanted)
    good, bad = ended(RunState.SUCCEEDED), ended(RunState.FAILED, check("lag", CheckStatus.FAIL))

    assert why(LastRuns(last_run=run, last_finished=good), good) == ("", "")
    assert why(LastRuns(last_run=run, last_finished=bad), bad)[0].startswith("vacuum: lag: 3")


def test_a_run_that_no_node_starts_comes_before_any_other_reason() -> None:
    good = ended(RunState.SUCCEEDED)

    assert why(LastRuns(active=queued(10), last_finished=good), good) == (
        "run 43 should have started 10m ago: no node has started it",
        "maintd show 43",
    )
    assert why(LastRuns(active=queued(4), last_finished=good), good) == ("", "")
    assert why(LastRuns(active=queued(-600), last_finished=good), good) == ("", "")


def test_a_broken_job_needs_attention_but_an_entry_disabled_in_the_calendar_does_not() -> None:
    bad = ended(RunState.FAILED, check("lag", CheckStatus.FAIL))
    last = LastRuns(last_run=bad, last_finished=bad)

    broken = diagnose(entry("x"), last, bad, NOON, broken="x.py:3: invalid syntax")
    off = diagnose(entry("x", enabled=False), last, bad, NOON)

    assert (broken.why, broken.next_step, broken.severity) == (
        "cannot run: x.py:3: invalid syntax",
        "maintd validate",
        Severity.ERROR,
    )
    assert (off.why, off.next_step, off.severity) == ("", "", Severity.OK)


@pytest.mark.parametrize("state", RunState)
def test_every_run_state_has_one_severity(state: RunState) -> None:
    reason = SkipReason.MISSED if state is RunState.SKIPPED else None
    run = ended(state, skip_reason=reason)
    last = LastRuns(last_run=run, last_finished=run) if state.final else LastRuns(active=run)

    expected = Severity.ERROR if reason else OF_STATE[state]

    assert severity(last) is expected


@pytest.mark.parametrize("reason", SkipReason)
def test_every_skip_reason_has_one_severity(reason: SkipReason) -> None:
    run = ended(RunState.SKIPPED, skip_reason=reason)

    assert severity(LastRuns(last_run=run)) is OF_SKIP_REASON[reason]


def test_an_entry_that_failed_needs_attention_until_it_succeeds_even_if_a_run_was_cancelled_since() -> None:
    over = ended(RunState.CANCELLED, reason="cancelled by ada")
    failing = LastRuns(last_run=over, last_finished=over, failing_since=at(-90), failures_in_a_row=2)

    found = diagnose(entry("nightly"), failing, over, NOON)

    assert (found.severity, found.since, found.why_run_id) == (Severity.ERROR, at(-90), 42)


def test_a_warning_does_not_make_a_queued_run_look_stuck() -> None:
    warned = ended(RunState.WARNED, check("lag", CheckStatus.WARN))

    found = diagnose(entry("nightly"), LastRuns(last_run=warned, last_finished=warned, active=queued(1)), warned, NOON)

    assert (found.state, found.severity, found.needs_attention) == ("queued", Severity.WARNING, False)


def test_a_run_that_was_undone_names_the_run_that_did_it() -> None:
    lost = ended(RunState.LOST, reason="the node is gone; what it did after that is unknown")
    last = LastRuns(last_run=lost, last_finished=lost, failures_in_a_row=1)

    def found(state: RunState) -> Diagnosis:
        undone_by = queued(1, trigger=Trigger.UNDO, state=state)
        return diagnose(entry("nightly"), last, lost, NOON, undone_by=undone_by)

    assert found(RunState.SUCCEEDED).why.endswith("is unknown; undone by run 43")
    assert found(RunState.RUNNING).why.endswith("is unknown; run 43 undoes it")
    assert found(RunState.FAILED).why.endswith("; run 43, which was to undo it: failed")
    assert {found(state).next_step for state in (RunState.SUCCEEDED, RunState.FAILED)} == {"maintd show 43"}


PROCEDURE = (
    StepPlan(name="halt", job="halt"),
    StepPlan(name="ask", job="", gate=Gate(ask="Now?"), mutates=False),
    StepPlan(name="undo-halt", job="unhalt", undoes="halt"),
)


def procedure(state: RunState, **states: str) -> Run:
    """A run of PROCEDURE with its steps in these states; a failed one has a failed check."""
    steps = []
    for index, plan in enumerate(PROCEDURE):
        ended_as = StepState(states[plan.name.replace("-", "_")])
        checks = (check("answer", CheckStatus.FAIL),) if ended_as is StepState.FAILED else ()
        attempt = Attempt(number=1, state=AttemptState.FAILED, started_at=NOON, checks=checks)
        columns = {"name": plan.name, "job": plan.job, "gate": plan.gate, "undoes": plan.undoes, "index": index}
        steps.append(Step(**columns, state=ended_as, attempts=() if plan.gate else (attempt,)))
    return ended(state, plan=PROCEDURE, steps=tuple(steps))


@pytest.mark.parametrize(
    ("states", "text", "next_step"),
    [
        (("failed", "skipped", "failed"), "; NOT undone: halt", "maintd undo 42 --why TEXT"),
        (("failed", "skipped", "lost"), "; NOT undone: halt", "maintd undo 42 --redo undo-halt --why TEXT"),
        (("failed", "skipped", "succeeded"), "; undone: halt", "maintd show 42"),
        (("succeeded", "timed_out", "succeeded"), "; undone: halt", "maintd resume 42"),
        (("succeeded", "failed", "succeeded"), "; undone: halt", "maintd show 42"),
    ],
)
def test_the_diagnosis_has_whether_a_run_was_undone(states: tuple[str, str, str], text: str, next_step: str) -> None:
    bad = procedure(RunState.FAILED, **dict(zip(("halt", "ask", "undo_halt"), states, strict=True)))
    found = diagnose(entry("nightly"), LastRuns(last_run=bad, last_finished=bad, failures_in_a_row=1), bad, NOON)
    assert found.why.endswith(text)
    assert found.next_step == next_step


def test_a_pause_is_explained_with_operator_reason_and_the_command_that_ends_it() -> None:
    pause = Pause(entry="nightly", why="new disk", by="ada", since=at(-60), until=at(60))

    found = diagnose(entry("nightly"), LastRuns(), None, NOON, pause=pause)

    assert found == Diagnosis(
        state="paused",
        severity=Severity.WARNING,
        why="paused by ada until Mon 2026-03-02 13:00 UTC: new disk",
        since=at(-60),
        next_step="maintd unpause nightly",
    )


def test_a_pause_does_not_hide_a_failure() -> None:
    pause = Pause(entry="nightly", why="new disk", by="ada", since=at(-60))
    bad = ended(RunState.FAILED, check("lag", CheckStatus.FAIL))

    found = diagnose(entry("nightly"), LastRuns(last_run=bad, last_finished=bad), bad, NOON, pause=pause)

    assert (found.state, found.severity, found.next_step) == ("failed", Severity.ERROR, "maintd show 42")


def test_params_go_to_the_only_step_or_to_the_step_that_is_named() -> None:
    one = with_params(entry("x", "vacuum"), {"keep": 3, "vacuum.tables": ["a"]}, MADE)  # type: ignore[arg-type]
    two = with_params(entry("x", "vacuum", "reindex"), {"reindex.keep": 3}, MADE)  # type: ignore[arg-type]

    assert one[0].params == {"keep": 3, "tables": ["a"]}
    assert [step.params for step in two] == [{}, {"keep": 3}]


def test_params_of_a_run_override_those_of_the_calendar() -> None:
    step = entry("x").steps[0].model_copy(update={"params": {"keep": 1, "tables": ["b"]}})

    made = with_params(entry("x", steps=(step,)), {"keep": 9}, MADE)  # type: ignore[arg-type]

    assert made[0].params == {"keep": 9, "tables": ["b"]}


@pytest.mark.parametrize(
    ("jobs", "given", "result"),
    [
        (("vacuum",), {"kep": 1}, 'job "vacuum" has no param "kep"; did you mean "keep"?'),
        (("vacuum",), {"zzz": 1}, 'job "vacuum" has no param "zzz"; it has keep, tables'),
        (("vacuum", "reindex"), {"keep": 1}, 'x has 2 steps; name one, for example "vacuum.keep"'),
        (("vacuum", "reindex"), {"vacum.keep": 1}, 'x has no step "vacum"; did you mean "vacuum.keep"?'),
        (("vacuum",), {"qq.keep": 1}, 'x has no step "qq"; its steps are vacuum'),
    ],
)
def test_an_unknown_param_is_refused_with_a_similar_name(
    jobs: tuple[str, ...], given: dict[str, object], result: str
) -> None:
    with pytest.raises(UsageError) as refused:
        with_params(entry("x", *jobs), given, MADE)  # type: ignore[arg-type]

    assert result in str(refused.value)


def test_all_unknown_params_are_named_at_once() -> None:
    with pytest.raises(UsageError) as refused:
        with_params(entry("x"), {"kep": 1, "tabels": 2}, MADE)  # type: ignore[arg-type]

    assert "kep" in str(refused.value)
    assert "tabels" in str(refused.value)


def test_an_unknown_param_of_a_job_without_params_is_refused() -> None:
    with pytest.raises(UsageError, match="it has none"):
        with_params(entry("x", "bare"), {"keep": 1}, {"bare": job("bare", params=())})
