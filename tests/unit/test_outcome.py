"""Outcomes as tables, and what must hold for every combination of evidence."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maintd.executor.outcome import (
    BAD,
    LONGEST_BACKOFF,
    AttemptEvidence,
    AttemptOutcome,
    JobResult,
    ProcessExit,
    StepOutcome,
    StopKind,
    Stopped,
    describe_signal,
    evaluate_attempt,
    evaluate_run,
    evaluate_step,
    retry_delay,
)
from maintd.model.evidence import Check, CheckStatus
from maintd.model.run import AttemptState, RunState, SkipReason, StepState

OK = JobResult(ok=True)
FAILED = Check(name="rows", observed=0, expected="at least 1", status=CheckStatus.FAIL, hint="look at the import")


@pytest.mark.parametrize(
    ("seen", "state", "reason"),
    [
        (AttemptEvidence(returned=OK, exit=ProcessExit(code=0)), "succeeded", ""),
        (
            AttemptEvidence(
                returned=OK, exit=ProcessExit(code=0), worst=CheckStatus.FAIL, failed=[FAILED], failed_count=3
            ),
            "failed",
            'check "rows": observed 0, expected at least 1 (and 2 more failed); look at the import',
        ),
        (
            AttemptEvidence(returned=OK, exit=ProcessExit(code=0), worst=CheckStatus.UNKNOWN, unobserved=["lag"]),
            "unknown",
            "1 check not observed: lag",
        ),
        (
            AttemptEvidence(returned=OK, exit=ProcessExit(code=0), worst=CheckStatus.WARN, warned=["a", "b"]),
            "warned",
            "2 warnings: a, b",
        ),
        (
            AttemptEvidence(
                returned=OK,
                exit=ProcessExit(code=0),
                worst=CheckStatus.UNKNOWN,
                warned=["a", "b"],
                unobserved=list("cdef"),
            ),
            "unknown",
            "4 checks not observed: c, d, e, …; 2 warnings: a, b",
        ),
        (AttemptEvidence(returned=JobResult(ok=False, reason="KeyError: 'x'")), "failed", "KeyError: 'x'"),
        (
            AttemptEvidence(exit=ProcessExit(code=3), phase="copy"),
            "failed",
            'the process ended with exit code 3 before the job returned (something called exit) in phase "copy"',
        ),
        (
            AttemptEvidence(exit=ProcessExit(signal=9, out_of_memory=True)),
            "failed",
            "the process was killed by signal 9 (SIGKILL): the kernel ran out of memory and chose it",
        ),
        (AttemptEvidence(), "failed", "the process ended before the job returned; its exit status is not known"),
        (
            AttemptEvidence(returned=OK, exit=ProcessExit(signal=11)),
            "failed",
            "the job returned, but then the process was killed by signal 11 (SIGSEGV): a crash in native code",
        ),
        (
            AttemptEvidence(
                exit=ProcessExit(signal=9), stopped=Stopped(StopKind.TIMED_OUT, "its 10m timeout"), phase="read x"
            ),
            "timed_out",
            'stopped after its 10m timeout in phase "read x"',
        ),
        (
            AttemptEvidence(stopped=Stopped(StopKind.CANCELLED, "ada: no", killed_after=timedelta(seconds=10))),
            "cancelled",
            "cancelled by ada: no; it did not end on SIGTERM and was killed 10s later",
        ),
        # It had returned before it was told to stop: what it did is done and proven.
        (
            AttemptEvidence(returned=OK, exit=ProcessExit(code=0), stopped=Stopped(StopKind.CANCELLED, "ada")),
            "succeeded",
            "",
        ),
        (
            AttemptEvidence(returned=OK, protocol_error="not a message"),
            "failed",
            "its report cannot be relied on: not a message",
        ),
    ],
)
def test_an_attempt_is_what_was_seen_of_it(seen: AttemptEvidence, state: str, reason: str) -> None:
    assert evaluate_attempt(seen) == AttemptOutcome(AttemptState(state), reason)


EVIDENCE = st.builds(
    AttemptEvidence,
    returned=st.none() | st.builds(JobResult, ok=st.booleans(), reason=st.sampled_from(["", "ValueError: x"])),
    exit=st.builds(ProcessExit, code=st.none() | st.integers(0, 255), signal=st.none() | st.integers(1, 64)),
    worst=st.sampled_from(CheckStatus),
    failed=st.sampled_from([(), (FAILED,)]),
    warned=st.lists(st.text(max_size=5), max_size=3),
    unobserved=st.lists(st.text(max_size=5), max_size=3),
    stopped=st.none()
    | st.builds(Stopped, kind=st.sampled_from(StopKind), reason=st.just("a reason"), killed_after=st.none()),
    protocol_error=st.sampled_from(["", "not a message"]),
    phase=st.sampled_from(["", "copy"]),
)


@given(EVIDENCE)
def test_an_attempt_succeeds_only_on_complete_and_good_evidence(seen: AttemptEvidence) -> None:
    verdict = evaluate_attempt(seen)

    if verdict.state is AttemptState.SUCCEEDED:
        assert seen.returned is not None
        assert seen.returned.ok
        assert seen.worst is CheckStatus.OK
        assert not seen.protocol_error
    else:
        assert verdict.reason
    assert verdict.state is not AttemptState.RUNNING


@pytest.mark.parametrize("number", range(1, 65))
def test_every_signal_has_words(number: int) -> None:
    assert describe_signal(number).startswith(f"killed by signal {number} (")


# --- trying again ---


def test_the_wait_doubles_up_to_a_quarter_of_an_hour() -> None:
    waits = [
        retry_delay(AttemptState.FAILED, attempt=n, retries=20, backoff=timedelta(seconds=30), repeatable=True)
        for n in range(1, 22)
    ]

    assert waits[:6] == [timedelta(seconds=seconds) for seconds in (30, 60, 120, 240, 480, 900)]
    assert waits[19] == LONGEST_BACKOFF
    assert waits[20] is None


@given(st.sampled_from(AttemptState), st.integers(1, 30), st.integers(0, 20), st.booleans())
def test_only_failures_of_repeatable_jobs_are_tried_again(
    state: AttemptState, attempt: int, retries: int, repeatable: bool
) -> None:
    delay = retry_delay(state, attempt=attempt, retries=retries, backoff=timedelta(seconds=1), repeatable=repeatable)

    may = repeatable and attempt <= retries and state in (AttemptState.FAILED, AttemptState.TIMED_OUT)
    assert (delay is not None) == may


# --- steps and runs ---


def step(name: str, state: StepState, reason: str = "", *, not_configured: bool = False) -> StepOutcome:
    return StepOutcome(name, state, reason, not_configured)


LAME = step("redis", StepState.SKIPPED, "not configured: …", not_configured=True)
GOOD = step("good", StepState.SUCCEEDED)
CANCELLED = Stopped(StopKind.CANCELLED, "ada")


@pytest.mark.parametrize(
    ("steps", "stopped", "state", "reason"),
    [
        ([GOOD], None, "succeeded", ""),
        ([GOOD, LAME], None, "succeeded", "not configured: redis"),
        ([LAME], None, "skipped", "not configured: …"),
        ([GOOD, step("bad", StepState.FAILED, "no")], None, "failed", "bad: no"),
        ([step("bad", StepState.FAILED, "no")], None, "failed", "no"),
        ([step("w", StepState.WARNED, "lag"), GOOD], None, "warned", "w: lag"),
        ([step("w", StepState.WARNED, "lag"), step("u", StepState.UNKNOWN, "denied")], None, "unknown", "u: denied"),
        (
            [step("a", StepState.UNKNOWN, "denied"), step("b", StepState.UNKNOWN, "hung"), GOOD],
            None,
            "unknown",
            "a: denied | b: hung",
        ),
        (
            [step("a", StepState.FAILED, "damaged"), GOOD, step("b", StepState.FAILED, "x" * 300)],
            None,
            "failed",
            f"a: damaged | b: {'x' * 200}…",
        ),
        ([step("w", StepState.WARNED, "lag"), step("t", StepState.TIMED_OUT, "slow")], None, "timed_out", "t: slow"),
        (
            [step("c", StepState.CANCELLED, "cancelled by ada"), step("rest", StepState.SKIPPED)],
            CANCELLED,
            "cancelled",
            "c: cancelled by ada",
        ),
        ([GOOD, step("rest", StepState.SKIPPED, "…")], CANCELLED, "cancelled", "cancelled by ada"),
        # All had ended by themselves, or by their own timeout, before the cancel could reach them.
        ([GOOD, GOOD], CANCELLED, "succeeded", ""),
        ([GOOD, step("t", StepState.TIMED_OUT, "slow")], CANCELLED, "timed_out", "t: slow"),
        (
            [step("t", StepState.TIMED_OUT, "slow"), step("rest", StepState.SKIPPED, "…")],
            CANCELLED,
            "cancelled",
            "cancelled by ada",
        ),
        (
            [step("t", StepState.TIMED_OUT, "slow"), step("rest", StepState.SKIPPED, "…")],
            Stopped(StopKind.TIMED_OUT, "the run's 1h timeout"),
            "timed_out",
            "t: slow",
        ),
        (
            [step("t", StepState.SKIPPED, "…")],
            Stopped(StopKind.TIMED_OUT, "the run's 1h timeout"),
            "timed_out",
            "stopped after the run's 1h timeout",
        ),
        ([step("pending", StepState.PENDING)], None, "failed", "pending: it was not run to its end"),
    ],
)
def test_a_run_is_what_its_steps_were(
    steps: Sequence[StepOutcome], stopped: Stopped | None, state: str, reason: str
) -> None:
    verdict = evaluate_run(steps, stopped)

    assert (verdict.state, verdict.reason) == (RunState(state), reason)
    assert (verdict.skip_reason is SkipReason.NOT_CONFIGURED) == (state == "skipped")


STEPS = st.lists(
    st.builds(
        StepOutcome,
        name=st.sampled_from(["a", "b"]),
        state=st.sampled_from(StepState),
        reason=st.sampled_from(["", "because"]),
        not_configured=st.just(False),
    ),
    min_size=1,
    max_size=5,
)


@given(STEPS, st.none() | st.builds(Stopped, kind=st.sampled_from(StopKind), reason=st.just("x")))
def test_a_run_never_succeeds_with_a_step_that_did_not(steps: list[StepOutcome], stopped: Stopped | None) -> None:
    verdict = evaluate_run(steps, stopped)

    assert verdict.state.final
    if verdict.state is RunState.SUCCEEDED:
        assert not {item.state for item in steps} & (
            BAD | {StepState.UNKNOWN, StepState.WARNED, StepState.PENDING, StepState.RUNNING}
        )
    if verdict.state is RunState.WARNED:
        assert not {item.state for item in steps} & (BAD | {StepState.UNKNOWN, StepState.PENDING, StepState.RUNNING})


@given(st.sampled_from(AttemptState), st.integers(1, 5))
def test_a_step_is_as_good_as_its_last_attempt(state: AttemptState, attempts: int) -> None:
    step_state, reason = evaluate_step(AttemptOutcome(state, "why"), attempts)

    assert (step_state is StepState.SUCCEEDED) == (state is AttemptState.SUCCEEDED)
    assert "why" in reason
