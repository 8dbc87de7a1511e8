"""The checks of an endurance run can fail: each gets correct data, then the same data with one fault."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from endurance import invariants, leftovers, run_checks
from endurance.invariants import ConfirmedPeriod
from endurance.journal import Line
from endurance.plan_audit import Planned
from endurance.procedures import WORK, success_violations
from maintd.model.entry import EntryState
from maintd.model.evidence import Artifact, Check, CheckStatus, Measure
from maintd.model.run import Attempt, AttemptState, Run, RunState, SkipReason, Step, StepState, Trigger
from maintd.model.status import LockHolder

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PID = 4711
NO_FAULTS = run_checks.KnownFaults(frozenset(), frozenset())
LOGGED = ("line 0", "line 1")


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def run(number: int, due: float | None = None, **changes: Any) -> Run:
    values: dict[str, Any] = {
        "id": number,
        "entry": "e",
        "title": "e",
        "trigger": Trigger.SCHEDULE,
        "state": RunState.SUCCEEDED,
        "due_at": None if due is None else at(due),
        "queued_at": at(due or 0),
        "not_before": at(due or 0),
    }
    return Run.model_validate(values | changes)


def attempt(**changes: Any) -> Attempt:
    values: dict[str, Any] = {
        "number": 1,
        "state": AttemptState.SUCCEEDED,
        "started_at": at(0),
        "finished_at": at(5),
        "pid": PID,
        "checks": (Check(name="work done", observed=1, expected="1", status=CheckStatus.OK),),
        "measures": (Measure(name="work", value=1.0),),
        "artifacts": (Artifact(name="note.txt", path="note.txt", size_bytes=4, sha256=""),),
    }
    return Attempt.model_validate(values | changes)


def made(one: Attempt, *, job: str = "steady", **changes: Any) -> Run:
    """Return a run of one step with this attempt."""
    state = StepState(one.state.value)
    step = Step(index=0, name=job, job=job, state=state, reason=one.reason, attempts=(one,))
    final = {StepState.SUCCEEDED: RunState.SUCCEEDED, StepState.WARNED: RunState.WARNED}
    return run(1, 0, state=final.get(state, RunState.FAILED), reason=one.reason, steps=(step,), **changes)


def line(what: str, number: int = 1, seconds: float = 0.0, **changes: Any) -> Line:
    return Line(what, number, "steady", 1, "steady", PID, seconds)._replace(**changes)


ENDED = line("ended", seconds=2, returned=True, logs=LOGGED, checks=(("work done", 1),))
OTHER_CHECK = ENDED._replace(checks=(("work done", 2),))
JOURNAL = [line("began"), ENDED]


def entry(**changes: Any) -> EntryState:
    values: dict[str, Any] = {
        "name": "e",
        "title": "e",
        "rule": None,
        "fingerprint": "",
        "planned_through": at(30),
        "first_seen_at": at(0),
        "active": True,
    }
    return EntryState.model_validate(values | changes)


def violations(found: Iterator[str]) -> str:
    return "; ".join(found)


# --- instants ---


@pytest.mark.parametrize(
    ("due", "planned", "expected"),
    [
        ([10, 20, 30], 30, ""),
        ([10, 30], 30, "no row for 1 of 3 instants"),
        ([10, 20, 20, 30], 30, "2 rows for"),
        ([10, 20, 25, 30], 30, "no calendar has"),
        ([10, 20], 20, "no row for 1 of 3"),
        ([10, 20, 30], 25, ""),
        ([-700, 10, 20, 30], 30, "before the entry was first seen"),
    ],
)
def test_each_due_time_has_one_row(due: Sequence[float], planned: float, expected: str) -> None:
    runs = [run(number, seconds) for number, seconds in enumerate(due, 1)]

    found = violations(
        invariants.one_row_per_due_time({"e": entry(planned_through=at(planned))}, runs, {"e": {10}}, at(30))
    )

    assert (expected in found) if expected else not found


CHANGED = [Planned("e", 10, at(0), at(25)), Planned("e", 7, at(25), at(40))]
# Noon is 1,772,366,400 s after 1970, a multiple of both 10 and 7.
BY_SEVEN = (28, 35)


@pytest.mark.parametrize(
    ("planned", "due", "expected"),
    [
        (CHANGED, [10, 20, *BY_SEVEN], ""),
        (CHANGED, [10, 20, 35], "no row for 1 of 4"),
        (CHANGED, [10, 20, *BY_SEVEN, 40], "which the active schedule does not have"),
        ([CHANGED[0], CHANGED[1]._replace(seen=at(27))], [10, 20, *BY_SEVEN], "then from"),
        ([*CHANGED, Planned("e", 7, at(40), at(10))], [10, 20, *BY_SEVEN], ""),
        ([CHANGED[1], Planned("e", 7, at(40), at(1)), Planned("e", 7, at(1), at(40))], [5, 7, 14, 21, *BY_SEVEN], ""),
    ],
)
def test_an_entry_whose_schedule_changes_has_the_rows_of_the_active_schedule(
    planned: Sequence[Planned], due: Sequence[float], expected: str
) -> None:
    found = violations(
        invariants.rows_follow_schedule(planned, [run(number, seconds) for number, seconds in enumerate(due, 1)])
    )

    assert (expected in found) if expected else not found


@pytest.mark.parametrize(
    ("due", "expected"),
    [([28, 35], ""), ([28], "no row for 1 of 2"), ([28, 30, 35], "which calendar 1 does not have")],
)
def test_between_confirmed_reloads_the_rows_are_those_of_the_calendar(due: Sequence[float], expected: str) -> None:
    rows = [run(number, seconds) for number, seconds in enumerate(due, 1)]

    found = violations(
        invariants.rows_match_calendar([ConfirmedPeriod(1, at(25), at(40))], [{"e": 10}, {"e": 7}], rows)
    )

    assert (expected in found) if expected else not found


# --- starts, locks, triggers ---


@pytest.mark.parametrize(("starts", "expected"), [(1, ""), (2, "started 2 times")])
def test_a_mutating_step_starts_once(starts: int, expected: str) -> None:
    found = violations(invariants.mutating_steps_start_once([line("began", job="mutating")] * starts))

    assert (expected in found) if expected else not found


def test_a_step_that_does_not_mutate_may_be_tried_again() -> None:
    assert not violations(invariants.mutating_steps_start_once([line("began"), line("began")]))


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(1, 0, 5), (2, 6, 9)], ""),
        ([(1, 0, 5), (2, 4, 9)], "runs 1 and 2 held thing together for 1.00 s"),
        ([(1, 0, 20), (2, 3, 4), (3, 10, 11)], "runs 1 and 3 held thing together for 1.00 s"),
    ],
)
def test_a_lock_has_one_holder_at_a_time(spans: Sequence[tuple[int, float, float]], expected: str) -> None:
    beats = [line("beat", number, seconds, lock="thing") for number, *ends in spans for seconds in ends]

    found = violations(invariants.locks_are_exclusive(beats))

    assert (expected in found) if expected else not found


def test_two_locks_may_be_held_together() -> None:
    held = [line("beat", 1, 0, lock="a"), line("beat", 1, 5, lock="a"), line("beat", 2, 1, lock="b")]

    assert not violations(invariants.locks_are_exclusive(held))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["k", None], ""),
        ([None, None], "which is another's"),
        (["k", "k"], "trigger k: 2 runs"),
        ([], "does not exist"),
    ],
)
def test_an_accepted_trigger_has_its_one_run(keys: Sequence[str | None], expected: str) -> None:
    runs = [run(number, idempotency_key=key) for number, key in enumerate(keys, 1)]

    found = violations(invariants.one_run_per_trigger(runs, {"k": 1}))

    assert (expected in found) if expected else not found


# --- ends and evidence ---


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"state": RunState.RUNNING}, "is still running"),
        ({"state": RunState.FAILED}, "without a reason"),
        ({"state": RunState.FAILED, "reason": "a check failed"}, ""),
        ({"state": RunState.CANCELLED, "reason": "cancelled by fault-injector: endurance"}, ""),
        ({"state": RunState.CANCELLED, "reason": "cancelled by eve"}, "without a cancel"),
        ({"state": RunState.TIMED_OUT, "reason": "too bad"}, "without a timeout"),
        ({"state": RunState.LOST, "reason": "node n1 stopped renewing the lease"}, ""),
        ({"state": RunState.LOST, "reason": "gone"}, "for an unknown reason"),
        (
            {"state": RunState.SKIPPED, "skip_reason": SkipReason.PAUSED, "reason": "paused by fault-injector: x"},
            "paused it",
        ),
        ({"state": RunState.SKIPPED, "skip_reason": SkipReason.FROZEN, "reason": "frozen"}, "not caused here"),
        (
            {"state": RunState.SKIPPED, "skip_reason": SkipReason.OVERLAP, "reason": "run 9 has been running"},
            "no other run",
        ),
        ({"state": RunState.SKIPPED, "skip_reason": SkipReason.OVERLAP, "reason": "run 2 has been running"}, ""),
        ({"state": RunState.SKIPPED, "skip_reason": SkipReason.COALESCED, "reason": "late"}, "no run supersedes it"),
        ({"state": RunState.SKIPPED, "skip_reason": SkipReason.MISSED, "reason": "late"}, "how late"),
    ],
)
def test_each_run_ends_for_a_true_reason(changes: dict[str, Any], expected: str) -> None:
    found = violations(run_checks.endings([run(1, **changes), run(2)], NO_FAULTS))

    assert (expected in found) if expected else not found


def test_a_success_with_a_step_that_failed_is_none() -> None:
    one = made(attempt(state=AttemptState.FAILED, reason="x")).model_copy(update={"state": RunState.SUCCEEDED})

    assert "succeeded with a step that is failed" in violations(run_checks.endings([one], NO_FAULTS))


KILLED = run_checks.KnownFaults(frozenset({PID}), frozenset())
SET_BACK = run_checks.KnownFaults(frozenset(), frozenset(), frozenset({3.0, -3.0}))
BY_SIGNAL = "the process was killed by signal 9 (SIGKILL), which maintd faults not send"


@pytest.mark.parametrize(
    ("one", "journal", "logs", "faults", "expected"),
    [
        (made(attempt()), JOURNAL, LOGGED, NO_FAULTS, ""),
        (made(attempt()), JOURNAL[:1], LOGGED, NO_FAULTS, "no process came to its end"),
        (
            made(attempt()),
            [JOURNAL[0], ENDED._replace(returned=False)],
            LOGGED,
            NO_FAULTS,
            "no process came to its end",
        ),
        (made(attempt(), job="failing"), [], (), NO_FAULTS, "which failing never is"),
        (made(attempt(pid=1)), JOURNAL, LOGGED, NO_FAULTS, "the store has pid 1"),
        (made(attempt(checks=())), JOURNAL, LOGGED, NO_FAULTS, "without a check"),
        (made(attempt(measures=())), JOURNAL, LOGGED, NO_FAULTS, "0 measures"),
        (made(attempt(artifacts=())), JOURNAL, LOGGED, NO_FAULTS, "0 artifacts"),
        (made(attempt()), JOURNAL, LOGGED[:1], NO_FAULTS, "it logged"),
        (made(attempt()), JOURNAL, ("line 0", "line 2"), NO_FAULTS, "it logged"),
        (made(attempt()), JOURNAL, LOGGED[::-1], NO_FAULTS, "it logged"),
        (made(attempt()), JOURNAL, (*LOGGED, "x", "y"), NO_FAULTS, "it logged"),
        (made(attempt()), [JOURNAL[0], OTHER_CHECK], LOGGED, NO_FAULTS, "made the checks"),
        (run(1, 0), JOURNAL, (), NO_FAULTS, "which the store does not know"),
        (run(2, 0), JOURNAL, (), NO_FAULTS, "it does not exist"),
        (made(attempt(state=AttemptState.FAILED, reason=BY_SIGNAL)), JOURNAL[:1], (), KILLED, ""),
        (made(attempt(state=AttemptState.FAILED, reason="a check failed")), JOURNAL[:1], (), KILLED, "was killed, and"),
        (made(attempt(state=AttemptState.FAILED)), JOURNAL[:1], (), NO_FAULTS, "failed without a reason"),
        (
            made(
                attempt(state=AttemptState.RUNNING),
            ).model_copy(),
            JOURNAL[:1],
            (),
            NO_FAULTS,
            "still running",
        ),
        (
            made(
                attempt(state=AttemptState.TIMED_OUT, reason="stopped after its 2s timeout", finished_at=at(0.5)),
                job="hanging",
            ),
            [],
            (),
            NO_FAULTS,
            "timed out after 0.5 s of 2",
        ),
        (
            made(
                attempt(state=AttemptState.TIMED_OUT, reason="stopped after its 2s timeout", finished_at=at(0.5)),
                job="hanging",
            ),
            [],
            (),
            SET_BACK,
            "",
        ),
    ],
)
def test_the_store_has_what_the_processes_did_and_no_more(
    one: Run, journal: Sequence[Line], logs: Sequence[str], faults: run_checks.KnownFaults, expected: str
) -> None:
    found = violations(run_checks.evidence([one], journal, lambda run, step, number: logs, faults))

    assert (expected in found) if expected else not found


def test_what_a_lost_attempt_reported_may_be_missing() -> None:
    lost = made(attempt(state=AttemptState.LOST, reason="lost"))

    assert not violations(run_checks.evidence([lost], JOURNAL, lambda run, step, number: (), NO_FAULTS))


# --- what is left ---


def test_a_process_of_a_job_is_found(tmp_path: Path) -> None:
    environ = {**os.environ, "ENDURANCE_JOURNAL": f"{tmp_path}/journal", "MAINTD_ATTEMPT": "1"}
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environ) as process:
        found = violations(leftovers.processes(tmp_path))
        other = violations(leftovers.processes(tmp_path / "elsewhere"))
        process.kill()

    assert f"a child lives: pid {process.pid}" in found
    assert not other


@pytest.mark.parametrize(
    ("name", "expected"),
    [("spool/1-1.spool", "1 files left"), ("work/1.0.1/x", "1 files left"), ("spool/1-1.refused", ""), ("log", "")],
)
def test_a_file_of_a_run_is_found(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / name).touch()

    found = violations(leftovers.files([tmp_path]))

    assert (expected in found) if expected else not found


def test_a_lock_a_lease_and_a_session_are_found() -> None:
    holder = LockHolder(lock="thing", mode="exclusive", run_id=1, entry="e", step="s", node="n", since=NOON)

    assert "lock thing is held by run 1" in violations(leftovers.claims([run(1)], [holder], []))
    assert "run 1 has a lease, and is over" in violations(leftovers.claims([run(1)], [], [1]))
    assert "2 Postgres sessions left" in violations(leftovers.sessions(2))
    assert not violations(leftovers.claims([run(1)], [], [])) + violations(leftovers.sessions(0))


GOOD = ("effect", "if-good", 1)
WORKED = [(kind, name, 1) for name in WORK for kind in ("start", "effect", "end")]


def test_what_follows_a_success_may_run_before_a_person_undoes_the_run() -> None:
    assert list(success_violations([*WORKED, GOOD, ("start", "undo-eight", 2), ("effect", "undo-eight", 2)])) == []


@pytest.mark.parametrize(
    ("lines", "said"),
    [([*WORKED[:-1], GOOD], "before the end of"), ([*WORKED, ("start", "undo-eight", 2), GOOD], "being undone")],
)
def test_what_follows_a_success_is_a_violation_elsewhere(lines: Sequence[tuple[str, str, int]], said: str) -> None:
    assert [said in violation for violation in success_violations(lines)] == [True]
