"""The checks of an endurance run can fail: each is shown books that balance, then the same with one thing wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from endurance import invariants, leftovers, truth
from endurance.audit import Planned
from endurance.invariants import Stretch
from endurance.journal import Line
from maintd.model.entry import EntryState
from maintd.model.evidence import Artifact, Check, CheckStatus, Measure
from maintd.model.run import Attempt, AttemptState, Run, RunState, SkipReason, Step, StepState, Trigger
from maintd.model.status import LockHolder

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PID = 4711
NOTHING_DONE = truth.Did(frozenset(), frozenset())
SAID = ("line 0", "line 1")


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
    """A run of one step with this attempt."""
    state = StepState(one.state.value)
    step = Step(index=0, name=job, job=job, state=state, reason=one.reason, attempts=(one,))
    final = {StepState.SUCCEEDED: RunState.SUCCEEDED, StepState.WARNED: RunState.WARNED}
    return run(1, 0, state=final.get(state, RunState.FAILED), reason=one.reason, steps=(step,), **changes)


def line(what: str, number: int = 1, seconds: float = 0.0, **changes: Any) -> Line:
    return Line(what, number, "steady", 1, "steady", PID, seconds)._replace(**changes)


ENDED = line("ended", seconds=2, returned=True, logs=SAID, checks=(("work done", 1),))
OTHER_CHECK = ENDED._replace(checks=(("work done", 2),))
BOOKS = [line("began"), ENDED]


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


def refused(found: Iterator[str]) -> str:
    return "; ".join(found)


# --- instants ---


@pytest.mark.parametrize(
    ("due", "planned", "said"),
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
def test_each_owed_instant_has_one_row(due: Sequence[float], planned: float, said: str) -> None:
    runs = [run(number, seconds) for number, seconds in enumerate(due, 1)]

    found = refused(invariants.owed_once({"e": entry(planned_through=at(planned))}, runs, {"e": {10}}, at(30)))

    assert (said in found) if said else not found


CHANGED = [Planned("e", 10, at(0), at(25)), Planned("e", 7, at(25), at(40))]
# Noon is 1,772,366,400 s after 1970, a multiple of both 10 and 7.
BY_SEVEN = (28, 35)


@pytest.mark.parametrize(
    ("planned", "due", "said"),
    [
        (CHANGED, [10, 20, *BY_SEVEN], ""),
        (CHANGED, [10, 20, 35], "no row for 1 of 4"),
        (CHANGED, [10, 20, *BY_SEVEN, 40], "rule in force did not owe"),
        ([CHANGED[0], CHANGED[1]._replace(seen=at(27))], [10, 20, *BY_SEVEN], "then from"),
        ([*CHANGED, Planned("e", 7, at(40), at(10))], [10, 20, *BY_SEVEN], ""),
        ([CHANGED[1], Planned("e", 7, at(40), at(1)), Planned("e", 7, at(1), at(40))], [5, 7, 14, 21, *BY_SEVEN], ""),
    ],
)
def test_an_entry_whose_schedule_changes_has_the_rows_of_the_rule_in_force(
    planned: Sequence[Planned], due: Sequence[float], said: str
) -> None:
    found = refused(invariants.moving(planned, [run(number, seconds) for number, seconds in enumerate(due, 1)]))

    assert (said in found) if said else not found


@pytest.mark.parametrize(
    ("due", "said"),
    [([28, 35], ""), ([28], "no row for 1 of 2"), ([28, 30, 35], "calendar 1 did not owe")],
)
def test_between_confirmed_reloads_the_rows_are_those_of_the_calendar(due: Sequence[float], said: str) -> None:
    rows = [run(number, seconds) for number, seconds in enumerate(due, 1)]

    found = refused(invariants.stretches([Stretch(1, at(25), at(40))], [{"e": 10}, {"e": 7}], rows))

    assert (said in found) if said else not found


# --- starts, locks, triggers ---


@pytest.mark.parametrize(("starts", "said"), [(1, ""), (2, "started 2 times")])
def test_a_mutating_step_starts_once(starts: int, said: str) -> None:
    found = refused(invariants.started_once([line("began", job="mutating")] * starts))

    assert (said in found) if said else not found


def test_a_step_that_does_not_mutate_may_be_tried_again() -> None:
    assert not refused(invariants.started_once([line("began"), line("began")]))


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([(1, 0, 5), (2, 6, 9)], ""),
        ([(1, 0, 5), (2, 4, 9)], "runs 1 and 2 held thing together for 1.00 s"),
        ([(1, 0, 20), (2, 3, 4), (3, 10, 11)], "runs 1 and 3 held thing together for 1.00 s"),
    ],
)
def test_a_lock_has_one_holder_at_a_time(spans: Sequence[tuple[int, float, float]], said: str) -> None:
    beats = [line("beat", number, seconds, lock="thing") for number, *ends in spans for seconds in ends]

    found = refused(invariants.held_alone(beats))

    assert (said in found) if said else not found


def test_two_locks_may_be_held_together() -> None:
    held = [line("beat", 1, 0, lock="a"), line("beat", 1, 5, lock="a"), line("beat", 2, 1, lock="b")]

    assert not refused(invariants.held_alone(held))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["k", None], ""),
        ([None, None], "which is another's"),
        (["k", "k"], "trigger k: 2 runs"),
        ([], "does not exist"),
    ],
)
def test_an_accepted_trigger_has_its_one_run(keys: Sequence[str | None], said: str) -> None:
    runs = [run(number, idempotency_key=key) for number, key in enumerate(keys, 1)]

    found = refused(invariants.triggered_once(runs, {"k": 1}))

    assert (said in found) if said else not found


# --- ends and evidence ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"state": RunState.RUNNING}, "is still running"),
        ({"state": RunState.FAILED}, "without a reason"),
        ({"state": RunState.FAILED, "reason": "a check failed"}, ""),
        ({"state": RunState.CANCELLED, "reason": "cancelled by adversary: endurance"}, ""),
        ({"state": RunState.CANCELLED, "reason": "cancelled by eve"}, "by nobody who cancels"),
        ({"state": RunState.TIMED_OUT, "reason": "too bad"}, "without a timeout"),
        ({"state": RunState.LOST, "reason": "node n1 stopped renewing the lease"}, ""),
        ({"state": RunState.LOST, "reason": "gone"}, "for an unknown reason"),
        (
            {"state": RunState.SKIPPED, "skip_reason": SkipReason.PAUSED, "reason": "paused by adversary: x"},
            "paused it",
        ),
        ({"state": RunState.SKIPPED, "skip_reason": SkipReason.FROZEN, "reason": "frozen"}, "can cause that"),
        (
            {"state": RunState.SKIPPED, "skip_reason": SkipReason.OVERLAP, "reason": "run 9 has been running"},
            "no other run",
        ),
        ({"state": RunState.SKIPPED, "skip_reason": SkipReason.OVERLAP, "reason": "run 2 has been running"}, ""),
        ({"state": RunState.SKIPPED, "skip_reason": SkipReason.COALESCED, "reason": "late"}, "no run supersedes it"),
        ({"state": RunState.SKIPPED, "skip_reason": SkipReason.MISSED, "reason": "late"}, "how late"),
    ],
)
def test_each_run_ends_for_a_true_reason(changes: dict[str, Any], said: str) -> None:
    found = refused(truth.endings([run(1, **changes), run(2)], NOTHING_DONE))

    assert (said in found) if said else not found


def test_a_success_with_a_step_that_failed_is_none() -> None:
    one = made(attempt(state=AttemptState.FAILED, reason="x")).model_copy(update={"state": RunState.SUCCEEDED})

    assert "succeeded with a step that is failed" in refused(truth.endings([one], NOTHING_DONE))


KILLED = truth.Did(frozenset({PID}), frozenset())
SET_BACK = truth.Did(frozenset(), frozenset(), frozenset({3.0, -3.0}))
BY_SIGNAL = "the process was killed by signal 9 (SIGKILL), which maintd did not send"


@pytest.mark.parametrize(
    ("one", "journal", "logs", "did", "said"),
    [
        (made(attempt()), BOOKS, SAID, NOTHING_DONE, ""),
        (made(attempt()), BOOKS[:1], SAID, NOTHING_DONE, "no process came to its end"),
        (made(attempt()), [BOOKS[0], ENDED._replace(returned=False)], SAID, NOTHING_DONE, "no process came to its end"),
        (made(attempt(), job="failing"), [], (), NOTHING_DONE, "which failing never does"),
        (made(attempt(pid=1)), BOOKS, SAID, NOTHING_DONE, "the store says pid 1"),
        (made(attempt(checks=())), BOOKS, SAID, NOTHING_DONE, "without a check"),
        (made(attempt(measures=())), BOOKS, SAID, NOTHING_DONE, "0 measures"),
        (made(attempt(artifacts=())), BOOKS, SAID, NOTHING_DONE, "0 artifacts"),
        (made(attempt()), BOOKS, SAID[:1], NOTHING_DONE, "it logged"),
        (made(attempt()), BOOKS, ("line 0", "line 2"), NOTHING_DONE, "it logged"),
        (made(attempt()), BOOKS, SAID[::-1], NOTHING_DONE, "it logged"),
        (made(attempt()), BOOKS, (*SAID, "x", "y"), NOTHING_DONE, "it logged"),
        (made(attempt()), [BOOKS[0], OTHER_CHECK], SAID, NOTHING_DONE, "made the checks"),
        (run(1, 0), BOOKS, (), NOTHING_DONE, "which the store does not know"),
        (run(2, 0), BOOKS, (), NOTHING_DONE, "it does not exist"),
        (made(attempt(state=AttemptState.FAILED, reason=BY_SIGNAL)), BOOKS[:1], (), KILLED, ""),
        (made(attempt(state=AttemptState.FAILED, reason="a check failed")), BOOKS[:1], (), KILLED, "was killed, and"),
        (made(attempt(state=AttemptState.FAILED)), BOOKS[:1], (), NOTHING_DONE, "failed without a reason"),
        (
            made(
                attempt(state=AttemptState.RUNNING),
            ).model_copy(),
            BOOKS[:1],
            (),
            NOTHING_DONE,
            "still running",
        ),
        (
            made(
                attempt(state=AttemptState.TIMED_OUT, reason="stopped after its 2s timeout", finished_at=at(0.5)),
                job="hanging",
            ),
            [],
            (),
            NOTHING_DONE,
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
    one: Run, journal: Sequence[Line], logs: Sequence[str], did: truth.Did, said: str
) -> None:
    found = refused(truth.evidence([one], journal, lambda run, step, number: logs, did))

    assert (said in found) if said else not found


def test_what_a_lost_attempt_reported_may_be_missing() -> None:
    lost = made(attempt(state=AttemptState.LOST, reason="lost"))

    assert not refused(truth.evidence([lost], BOOKS, lambda run, step, number: (), NOTHING_DONE))


# --- what is left ---


def test_a_process_of_a_job_is_found(tmp_path: Path) -> None:
    environ = {**os.environ, "ENDURANCE_JOURNAL": f"{tmp_path}/journal", "MAINTD_ATTEMPT": "1"}
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environ) as process:
        found = refused(leftovers.processes(tmp_path))
        other = refused(leftovers.processes(tmp_path / "elsewhere"))
        process.kill()

    assert f"a child lives: pid {process.pid}" in found
    assert not other


@pytest.mark.parametrize(
    ("name", "said"),
    [("spool/1-1.spool", "1 files left"), ("work/1.0.1/x", "1 files left"), ("spool/1-1.refused", ""), ("log", "")],
)
def test_a_file_of_a_run_is_found(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / name).touch()

    found = refused(leftovers.files([tmp_path]))

    assert (said in found) if said else not found


def test_a_lock_a_lease_and_a_session_are_found() -> None:
    holder = LockHolder(lock="thing", mode="exclusive", run_id=1, entry="e", step="s", node="n", since=NOON)

    assert "lock thing is held by run 1" in refused(leftovers.claims([run(1)], [holder], []))
    assert "run 1 has a lease, and is over" in refused(leftovers.claims([run(1)], [], [1]))
    assert "2 Postgres sessions left" in refused(leftovers.sessions(2))
    assert not refused(leftovers.claims([run(1)], [], [])) + refused(leftovers.sessions(0))
