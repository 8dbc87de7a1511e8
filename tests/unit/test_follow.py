"""What ended runs change about findings: tables and properties."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import NOON, at

from maintd.errors import TargetError
from maintd.job.criterion import Criterion
from maintd.model.evidence import Check, CheckStatus, Scalar
from maintd.model.finding import (
    RANK,
    Acknowledgement,
    ChangeKind,
    Finding,
    FindingChange,
    GoneReason,
    finding_key,
)
from maintd.model.run import Attempt, AttemptState, Run, RunState, Step, StepState, Trigger
from maintd.operations.follow import (
    MOST_OPEN,
    PlannedEntry,
    StoredEntry,
    follow,
    is_acknowledged,
    is_observed,
    last_checked,
    moved_away,
    problems,
    removed_from_calendar,
)

OK, WARN, FAIL, UNKNOWN = CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL, CheckStatus.UNKNOWN


def seen(name: str, status: CheckStatus, *, optional: bool = False, because: str = "") -> Check:
    return Check(
        name=name, observed=3, expected="at most 2", status=status, optional=optional, because=because, hint="look"
    )


def silent(name: str) -> Check:
    """A check of a target that did not answer, as the jobs report it."""
    return Criterion.from_error(name, TargetError("no route", cause="unreachable")).evaluate()


def step(
    *checks: Check,
    name: str = "vacuum",
    state: StepState = StepState.FAILED,
    attempt: AttemptState = AttemptState.FAILED,
    reason: str = 'check "x": observed 3',
    minutes: float = 1,
    complete: bool = False,
) -> Step:
    tried = Attempt(
        number=1,
        state=attempt,
        reason=reason,
        started_at=at(0),
        finished_at=at(minutes),
        complete=complete,
        checks=tuple(checks),
    )
    return Step(index=0, name=name, job=name, state=state, reason=reason, attempts=(tried,))


def run(
    *steps: Step,
    id: int = 1,  # noqa: A002
    state: RunState = RunState.FAILED,
    dry_run: bool = False,
    params: dict[str, object] | None = None,
) -> Run:
    return Run(
        id=id,
        entry="cleanup",
        title="Cleanup",
        trigger=Trigger.SCHEDULE,
        state=state,
        queued_at=at(0),
        not_before=at(0),
        started_at=at(0),
        finished_at=at(100),
        dry_run=dry_run,
        params=params or {},
        steps=steps,
    )


def finding(
    status: CheckStatus = FAIL,
    *,
    check: str = "x",
    gone: float | None = None,
    because: str = "",
    acknowledged: CheckStatus | None = None,
    until: float = 1000,
) -> Finding:
    acknowledgement = None
    if acknowledged is not None:
        acknowledgement = Acknowledgement(id=1, status=acknowledged, why="known", by="ada", at=at(-5), until=at(until))
    return Finding(
        key=finding_key("cleanup", "vacuum", "vacuum", check),
        entry="cleanup",
        step="vacuum",
        job="vacuum",
        check=check,
        status=status,
        observed=3,
        expected="at most 2",
        because=because,
        first_seen_at=at(-10),
        last_seen_at=at(-9),
        gone_at=None if gone is None else at(gone),
        first_run_id=-2,
        last_run_id=-1,
        seen_count=4,
        acknowledgement=acknowledgement,
    )


def changes(known: list[Finding], ended: Run, now: datetime = NOON) -> list[FindingChange]:
    return list(follow(known, ended, now).changes)


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (None, FAIL, ChangeKind.NEW),
        (None, WARN, ChangeKind.NEW),
        (None, UNKNOWN, ChangeKind.NEW),
        (None, OK, None),
        (WARN, FAIL, ChangeKind.WORSE),
        (WARN, UNKNOWN, ChangeKind.WORSE),
        (UNKNOWN, FAIL, ChangeKind.WORSE),
        (FAIL, FAIL, ChangeKind.SAME),
        (FAIL, UNKNOWN, ChangeKind.SAME),  # what is no longer observed is not better
        (FAIL, WARN, ChangeKind.BETTER),
        (UNKNOWN, WARN, ChangeKind.BETTER),
        (FAIL, OK, ChangeKind.GONE),
        (UNKNOWN, OK, ChangeKind.GONE),
    ],
)
def test_a_check_changes_its_finding(before: CheckStatus | None, after: CheckStatus, kind: ChangeKind | None) -> None:
    known = [] if before is None else [finding(before)]

    found = changes(known, run(step(seen("x", after))))

    assert [change.kind for change in found] == ([] if kind is None else [kind])


def test_a_finding_that_was_gone_returns_without_its_acknowledgement() -> None:
    (change,) = changes([finding(gone=-3, acknowledged=FAIL)], run(step(seen("x", FAIL))))

    assert change.kind is ChangeKind.RETURNED
    assert change.finding.first_seen_at == at(1)
    assert change.finding.seen_count == 1
    assert change.finding.open
    assert change.finding.acknowledgement is None
    assert change.notifies(NOON)


def test_a_finding_keeps_when_it_was_first_seen_and_counts_its_runs() -> None:
    (change,) = changes([finding()], run(step(seen("x", FAIL))))

    assert change.finding.first_seen_at == at(-10)
    assert change.finding.last_seen_at == at(1)
    assert change.finding.seen_count == 5
    assert change.finding.last_run_id == 1
    assert not change.notifies(NOON)


@pytest.mark.parametrize(
    ("ended", "why"),
    [
        (run(step(state=StepState.SUCCEEDED)), "the check is missing, and the job did not run to its end"),
        (run(Step(index=0, name="vacuum", job="vacuum", state=StepState.SKIPPED)), "the step was skipped"),
        (run(Step(index=0, name="vacuum", job="vacuum", state=StepState.PENDING)), "the step did not start"),
        (run(step(seen("x", OK), state=StepState.LOST), state=RunState.LOST), "the step was lost"),
        (run(step(seen("x", OK), attempt=AttemptState.LOST)), "the attempt was lost"),
        (run(step(seen("x", OK), state=StepState.CANCELLED), state=RunState.CANCELLED), "the step was cancelled"),
        (run(step(seen("x", OK)), state=RunState.CANCELLED), "the run was cancelled"),
        (run(step(seen("x", OK)), dry_run=True), "a dry run"),
        (run(step(seen("x", UNKNOWN, optional=True))), "an optional check was not observed"),
        (run(step(seen("y", FAIL), seen("x", UNKNOWN, because="y"))), "it was not observed because of another"),
        (run(step(seen("x", OK), minutes=-20)), "an earlier observation came late"),
        (run(step(seen("x", OK), name="other")), "another step has a check of that name"),
    ],
)
def test_a_finding_stays_as_it_is_when(ended: Run, why: str) -> None:
    assert [change for change in changes([finding()], ended) if change.finding.check == "x"] == [], why


OK_STEP = {"state": StepState.SUCCEEDED, "attempt": AttemptState.SUCCEEDED, "complete": True}
WARNED_STEP = {"state": StepState.WARNED, "attempt": AttemptState.WARNED, "complete": True}


def unanswered(cause: str) -> Check:
    """An optional check without an answer, as the jobs report it."""
    return Criterion("z", unknown=f"{cause}: no route", equals="yes", optional=True).evaluate()


@pytest.mark.parametrize(
    "ended",
    [
        run(step(**OK_STEP), state=RunState.SUCCEEDED),
        run(step(seen("y", OK), **OK_STEP), state=RunState.SUCCEEDED),
        run(step(seen("b: y", WARN), **WARNED_STEP)),
        run(step(seen("b: y", FAIL), complete=True)),
        run(step(seen("y", OK), seen("z", UNKNOWN, optional=True), **OK_STEP), state=RunState.SUCCEEDED),
        run(step(unanswered("not_configured"), **OK_STEP), state=RunState.SUCCEEDED),
        run(step(seen("y", OK), **OK_STEP), step(seen("x", FAIL), name="other"), state=RunState.FAILED),
        run(step(seen("y", OK), **OK_STEP), state=RunState.LOST),  # the step had ended before its node was lost
    ],
)
def test_a_finding_is_gone_when_a_later_run_observed_its_step_without_its_check(ended: Run) -> None:
    known = finding(acknowledged=FAIL)

    (change,) = [each for each in changes([known], ended) if each.finding.key == known.key]

    assert change.kind is ChangeKind.GONE
    assert change.finding.gone_reason is GoneReason.NOT_REPORTED
    assert (change.finding.gone_at, change.finding.last_run_id) == (at(1), 1)
    assert change.finding.acknowledgement is None
    assert change.ended is not None
    assert change.ended.ended_why == "gone: no longer reported"
    assert not change.notifies(NOON)


@pytest.mark.parametrize(
    ("ended", "why"),
    [
        (run(step(seen("y", FAIL))), "a required check or an exception stopped the job"),
        (run(step(seen("y", OK), state=StepState.TIMED_OUT, attempt=AttemptState.TIMED_OUT)), "its timeout"),
        (
            run(step(seen("y", UNKNOWN), state=StepState.UNKNOWN, attempt=AttemptState.UNKNOWN, complete=True)),
            "the step is unknown",
        ),
        (run(step(seen("y", FAIL), seen("z", UNKNOWN), complete=True)), "another check is unknown"),
        (run(step(silent("y"), complete=True)), "a target did not answer"),
        (run(step(silent("b: y"), complete=True)), "another target did not answer"),
        (run(step(seen("y", FAIL), complete=True)), "the job can have returned early because of a failed check"),
        (run(step(seen("y", WARN), **WARNED_STEP)), "or because of one that warns"),
        (run(step(unanswered("timed_out"), **OK_STEP)), "an optional answer timed out"),
        (run(step(unanswered("empty"), **OK_STEP)), "an optional answer had no data"),
        (run(step(**OK_STEP), params={"include": ["redis"]}), "the run had params of its own"),
        (run(step(**OK_STEP), dry_run=True), "a dry run"),
        (run(step(**OK_STEP), state=RunState.CANCELLED), "the run was cancelled"),
        (run(step(**OK_STEP, name="other")), "another step"),
        (run(Step(index=0, name="vacuum", job="vacuum", state=StepState.SKIPPED)), "the step was skipped"),
        (run(step(state=StepState.LOST, attempt=AttemptState.LOST)), "the step was lost"),
        (run(step(**OK_STEP, minutes=-20)), "an earlier observation came late"),
        (run(step(seen("x", UNKNOWN, optional=True), **OK_STEP)), "the check is there, and optional"),
    ],
)
def test_a_finding_whose_check_is_missing_stays_open_when(ended: Run, why: str) -> None:
    assert [change for change in changes([finding()], ended) if change.finding.check == "x"] == [], why


@pytest.mark.parametrize(
    ("missing", "bad", "stays"),
    [
        ("host a: clock offset", "host a: clock synchronised", True),
        ("docker a: web: memory", "docker a: containers", True),
        ("docker a: containers", "docker a: web: memory", False),
        ("host a: clock offset", "host b: clock synchronised", False),
        ("host a: clock offset", "host: clock synchronised", False),
        ("host a: clock offset", "clock", True),  # of the whole job
    ],
)
def test_a_missing_check_stays_open_while_another_of_its_subject_is_not_ok(missing: str, bad: str, stays: bool) -> None:
    known = finding(check=missing, acknowledged=FAIL)

    found = changes([known], run(step(seen(bad, WARN), seen("host c: memory", OK), **WARNED_STEP)))

    assert [change.finding.check for change in found if change.kind is ChangeKind.GONE] == ([] if stays else [missing])


def test_only_the_last_attempt_decides_whether_a_check_is_missing() -> None:
    complete = step(seen("y", FAIL), complete=True)
    aborted = complete.attempts[0].model_copy(update={"number": 2, "complete": False})

    ended = run(complete.model_copy(update={"attempts": (*complete.attempts, aborted)}))

    assert [change.finding.check for change in changes([finding()], ended)] == ["y"]


def test_a_finding_that_passed_has_that_reason_and_a_returned_one_none() -> None:
    (passed,) = changes([finding()], run(step(seen("x", OK))))
    (returned,) = changes([passed.finding], run(step(seen("x", FAIL), minutes=5), id=2))

    assert passed.finding.gone_reason is GoneReason.PASSED
    assert (returned.kind, returned.finding.gone_reason) == (ChangeKind.RETURNED, None)


STEPS = frozenset({("vacuum", "vacuum")})


@pytest.mark.parametrize(
    ("calendar", "stored", "gone"),
    [
        ({}, {"cleanup": StoredEntry(False, "1")}, True),  # the entry was removed
        ({"cleanup": PlannedEntry("1")}, {"cleanup": StoredEntry(True, "1")}, True),  # the step was removed
        (
            {"cleanup": PlannedEntry("1", frozenset({("vacuum", "reindex")}))},
            {"cleanup": StoredEntry(True, "1")},
            True,  # the step has another job
        ),
        ({"cleanup": PlannedEntry("1", STEPS)}, {"cleanup": StoredEntry(True, "1")}, False),
        ({"cleanup": PlannedEntry("")}, {"cleanup": StoredEntry(False, "1")}, False),  # not enabled
        ({}, {"cleanup": StoredEntry(True, "1")}, False),  # in the calendar of another node
        (
            {"cleanup": PlannedEntry("1")},
            {"cleanup": StoredEntry(True, "2")},
            False,
        ),  # another node has another version
        ({}, {}, False),  # a job that was run under its own name
    ],
)
def test_a_finding_is_gone_when_its_entry_or_step_is_no_longer_in_the_calendar(
    calendar: dict[str, PlannedEntry], stored: dict[str, StoredEntry], gone: bool
) -> None:
    found = removed_from_calendar([finding(acknowledged=FAIL), finding(check="y", gone=-3)], calendar, stored, NOON)

    assert [(each.finding.check, each.finding.gone_reason) for each in found] == (
        [("x", GoneReason.NOT_IN_CALENDAR)] if gone else []
    )
    assert all(each.finding.gone_at == NOON and each.ended is not None for each in found)


def test_a_check_that_was_ok_in_a_step_before_the_run_was_lost_ends_the_finding() -> None:
    lost = run(step(seen("x", OK), state=StepState.SUCCEEDED, attempt=AttemptState.SUCCEEDED), state=RunState.LOST)

    assert [change.kind for change in changes([finding()], lost)] == [ChangeKind.GONE]


def test_only_the_last_attempt_of_a_step_counts() -> None:
    tried = step(seen("x", FAIL))
    again = tried.attempts[0].model_copy(update={"number": 2, "checks": (seen("x", OK),)})

    assert changes([], run(tried.model_copy(update={"attempts": (*tried.attempts, again)}))) == []


def test_the_worst_of_several_checks_with_one_name_counts() -> None:
    (change,) = changes([], run(step(seen("x", OK), seen("x", FAIL), seen("x", WARN))))

    assert change.finding.status is FAIL


def test_what_follows_from_another_check_is_a_finding_that_does_not_notify() -> None:
    found = changes([], run(step(seen("y", FAIL), seen("x", UNKNOWN, because="y"))))

    assert [(change.finding.check, change.notifies(NOON)) for change in found] == [("y", True), ("x", False)]


def test_a_finding_that_no_longer_follows_from_another_check_is_news() -> None:
    (change,) = changes([finding(UNKNOWN, because="y")], run(step(seen("x", UNKNOWN))))

    assert change.kind is ChangeKind.WORSE
    assert change.notifies(NOON)


@pytest.mark.parametrize("by", [WARN, UNKNOWN])
def test_an_acknowledgement_ends_when_the_finding_becomes_worse_than_it_was(by: CheckStatus) -> None:
    (change,) = changes([finding(by, acknowledged=by)], run(step(seen("x", FAIL))))

    assert change.ended is not None
    assert change.ended.ended_why == f"worse: fail, acknowledged as {by}"
    assert change.finding.acknowledgement is None
    assert change.notifies(NOON)


def value(
    observed: Scalar, limit: float | None, *, unit: str = "", status: CheckStatus = FAIL, name: str = "x"
) -> Check:
    return Check(name=name, observed=observed, expected="a limit", unit=unit, status=status, missed_limit=limit)


HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.mark.parametrize(
    ("then", "check", "elapsed", "worse"),
    [
        # At most 80 %: a quarter of the distance is 2.75, 5 % of the limit 4, half of the room until 100 4.5.
        (91, value(95, 80, unit="%"), DAY, False),
        (91, value(95.1, 80, unit="%"), DAY, True),
        (91, value(85, 80, unit="%"), DAY, False),  # closer to its limit
        (80.2, value(83, 80, unit="%"), DAY, False),  # a quarter of 0.2 is no change
        (98, value(99, 80, unit="%"), DAY, False),  # half of the room until 100 is 1
        (98, value(100, 80, unit="%"), DAY, True),
        (250, value(285, 100, unit="%"), DAY, False),  # of several processors: a quarter of 150 is 37.5
        (250, value(290, 100, unit="%"), DAY, True),
        # At least 20 %: a quarter of the distance is 2.75, half of the room until 0 4.5.
        (9, value(6.5, 20, unit="%"), DAY, False),
        (9, value(6, 20, unit="%"), DAY, True),
        (9, value(15, 20, unit="%"), DAY, False),
        # Counts that are to be 0.
        (2, value(2, 0), DAY, False),
        (2, value(3, 0), DAY, True),
        (1000, value(1200, 0), DAY, False),
        (1000, value(1251, 0), DAY, True),
        # It was too small and is too large now.
        (5, value(25, 20), DAY, True),
        # An age, at most 26 h: a quarter of the distance is 1 h, 5 % of the limit 1.3 h.
        (30 * 3600, value(54 * 3600, 26 * 3600, unit="s"), DAY, False),
        (30 * 3600, value(55 * 3600, 26 * 3600, unit="s"), DAY, False),
        (30 * 3600, value(78 * 3600, 26 * 3600, unit="s"), DAY, True),
        (10, value(9, 14, unit="day"), DAY, False),  # a certificate
        (10, value(3, 14, unit="day"), 7 * DAY, False),
        (10, value(3, 14, unit="day"), HOUR, True),
        # A response time, at most 500 ms.
        (0.9, value(0.95, 0.5, unit="s"), DAY, False),
        (0.9, value(5, 0.5, unit="s"), DAY, True),
        # What is not compared.
        ("3 of 5", value("1 of 5", None), DAY, False),
        (True, value(False, None), DAY, False),
        (3, value(9, None), DAY, False),
        (None, value(9, 2), DAY, False),
        ("refused: no", value(9, 2), DAY, False),
        (3, value(math.nan, 2), DAY, False),
        (3, value(math.inf, 2), DAY, False),
        (3, value(10**400, 2), DAY, False),
    ],
)
def test_a_value_is_worse_when_it_moved_noticeably_away_from_its_limit(
    then: Scalar, check: Check, elapsed: timedelta, worse: bool
) -> None:
    assert moved_away(then, check, elapsed) is worse


@given(
    then=st.floats(-1e9, 1e9),
    limit=st.floats(-1e9, 1e9),
    part=st.floats(0, 0.249),
    unit=st.sampled_from(["", "B", "s", "row"]),
)
def test_a_value_that_varies_by_less_than_a_quarter_of_its_distance_is_not_worse(
    then: float, limit: float, part: float, unit: str
) -> None:
    assert not moved_away(then, value(then + (then - limit) * part, limit, unit=unit), DAY)


def test_an_acknowledgement_ends_when_a_failed_value_moved_away_since_then() -> None:
    known = acknowledged_at(91)
    (same,) = changes([known], run(step(value(94, 80, unit="%"))))
    (crept,) = changes([same.finding], run(step(value(96, 80, unit="%"), minutes=2), id=2))

    assert (same.kind, same.ended, same.notifies(NOON)) == (ChangeKind.SAME, None, False)
    assert crept.kind is ChangeKind.WORSE
    assert crept.ended is not None
    assert crept.ended.ended_why == "worse: 96 %, acknowledged at 91 %"
    assert crept.finding.acknowledgement is None
    assert crept.notifies(NOON)


def test_a_value_that_warns_ends_an_acknowledgement_when_it_moved_away_within_its_status() -> None:
    (change,) = changes([acknowledged_at(81, WARN)], run(step(value(94, 80, unit="%", status=WARN))))

    assert change.ended is not None
    assert change.notifies(NOON)


def test_a_failure_that_was_acknowledged_before_values_were_recorded_stays_acknowledged() -> None:
    known = finding(acknowledged=FAIL)

    (change,) = changes([known], run(step(value(400, 2))))

    assert change.ended is None


def acknowledged_at(observed: Scalar, status: CheckStatus = FAIL) -> Finding:
    known = finding(status, acknowledged=status)
    assert known.acknowledgement is not None
    acknowledgement = known.acknowledgement.model_copy(update={"observed": observed, "observed_at": at(-9)})
    return known.model_copy(update={"acknowledgement": acknowledgement, "observed": observed})


def test_a_finding_that_was_better_in_between_is_as_bad_as_when_it_was_acknowledged() -> None:
    (change,) = changes([finding(WARN, acknowledged=FAIL)], run(step(seen("x", FAIL))))

    assert change.kind is ChangeKind.WORSE
    assert change.ended is None
    assert not change.notifies(NOON)


def test_an_acknowledgement_ends_when_the_finding_is_gone() -> None:
    (change,) = changes([finding(acknowledged=FAIL)], run(step(seen("x", OK))))

    assert change.ended is not None
    assert change.ended.ended_why == "gone"


def test_after_its_time_an_acknowledgement_covers_nothing() -> None:
    known = finding(acknowledged=FAIL, until=-1)

    assert not known.acknowledged(NOON)
    assert known.acknowledged(at(-2))


def test_a_new_finding_of_a_late_run_is_left_out_when_the_step_was_checked_since() -> None:
    late, later = run(step(seen("x", FAIL), minutes=1)), run(step(minutes=5), step(seen("z", OK), minutes=5), id=2)

    assert last_checked([later]) == {"vacuum": at(5)}
    assert follow([], late, NOON, last_checked([later])).changes == ()
    assert follow([], late, NOON, {"other": at(5)}).changes != ()


def test_an_entry_has_a_most_number_of_open_findings() -> None:
    checks = [seen(f"c{number}", FAIL) for number in range(MOST_OPEN + 3)]

    followed = follow([], run(step(*checks)), NOON)

    assert len(followed.changes) == MOST_OPEN
    assert followed.left_out == 3
    assert followed.forgotten == ()


def test_a_new_finding_takes_the_place_of_one_that_is_no_longer_checked() -> None:
    known = [finding(check=f"c{number}") for number in range(MOST_OPEN - 1)] + [finding(check="k", acknowledged=FAIL)]

    followed = follow(known, run(step(seen("c0", FAIL), seen("new", FAIL))), NOON)

    assert [change.finding.check for change in followed.changes] == ["c0", "new"]
    assert [forgotten.check for forgotten in followed.forgotten] == ["c1"]
    assert followed.left_out == 0


def test_a_finding_that_is_gone_makes_room_for_another() -> None:
    known = [finding(check=f"c{number}") for number in range(MOST_OPEN)]
    ended = run(step(seen("c0", OK), seen("new", FAIL)))

    assert [change.kind for change in follow(known, ended, NOON).changes] == [ChangeKind.GONE, ChangeKind.NEW]


# --- what of a run is acknowledged ----------------------------------------------------------------------------------


def test_a_run_is_acknowledged_when_all_its_findings_are() -> None:
    ended = run(step(seen("x", FAIL), seen("y", UNKNOWN, because="x"), seen("z", OK)))

    assert is_acknowledged(ended, [finding(acknowledged=FAIL)], NOON)
    assert not is_acknowledged(ended, [finding(acknowledged=WARN)], NOON)
    assert not is_acknowledged(ended, [finding(acknowledged=FAIL, until=-1)], NOON)
    assert not is_acknowledged(ended, [finding()], NOON)
    assert not is_acknowledged(run(step(seen("x", FAIL), seen("y", FAIL))), [finding(acknowledged=FAIL)], NOON)


@pytest.mark.parametrize(
    "ended",
    [
        run(step(seen("x", FAIL), reason="KeyError: 'a' (vacuum.py:3)")),
        run(step(seen("x", FAIL), state=StepState.TIMED_OUT, attempt=AttemptState.TIMED_OUT), state=RunState.TIMED_OUT),
        run(step(seen("x", FAIL)), step(name="other", reason="the process was killed by signal 9")),
        run(step(seen("x", FAIL)), state=RunState.LOST),
    ],
)
def test_an_error_of_a_job_is_not_acknowledged_by_its_checks(ended: Run) -> None:
    assert not is_acknowledged(ended, [finding(acknowledged=FAIL)], NOON)


def test_problems_are_what_is_not_acknowledged() -> None:
    tried = step(seen("x", FAIL), seen("y", WARN), seen("z", OK), seen("o", UNKNOWN, optional=True))

    found = problems(run(tried), tried, [finding(acknowledged=FAIL)], NOON)

    assert [check.name for check in found] == ["y"]


# --- properties -----------------------------------------------------------------------------------------------------

statuses = st.sampled_from(list(CheckStatus))
checks = st.builds(
    seen,
    st.sampled_from(["a", "b", "c"]),
    statuses,
    optional=st.booleans(),
    because=st.sampled_from(["", "", "a"]),
)


def steps_named(name: str) -> st.SearchStrategy[Step]:
    return st.builds(
        step,
        checks,
        checks,
        name=st.just(name),
        state=st.sampled_from(list(StepState)),
        attempt=st.sampled_from(list(AttemptState)),
        minutes=st.integers(0, 60),
        complete=st.booleans(),
    )


runs = st.builds(
    run,
    steps_named("vacuum"),
    steps_named("other"),  # the names of an entry's steps differ
    id=st.integers(1, 50),
    state=st.sampled_from([state for state in RunState if state.final]),
    dry_run=st.booleans(),
    params=st.sampled_from([None, None, {"only": "a"}]),
)


def apply(known: dict[str, Finding], ended: Run, now: datetime = NOON) -> list[FindingChange]:
    found = follow(list(known.values()), ended, now).changes
    for change in found:
        known[change.finding.key] = change.finding
    return list(found)


@settings(max_examples=60)
@given(st.lists(runs, max_size=6))
def test_findings_are_consistent_after_any_runs(ended: list[Run]) -> None:
    known: dict[str, Finding] = {}
    for one in ended:
        before = dict(known)
        for change in apply(known, one):
            was = before.get(change.finding.key)
            assert (was is None) == (change.kind is ChangeKind.NEW)
            assert change.finding.open == (change.kind is not ChangeKind.GONE)
            if was is not None and was.open and change.kind is not ChangeKind.GONE:
                assert change.finding.first_seen_at == was.first_seen_at
                worse = RANK[change.finding.status] > RANK[was.status]
                assert not worse or change.kind is ChangeKind.WORSE
            assert change.finding.status is not OK
            assert not one.dry_run
            assert (change.finding.gone_reason is None) == change.finding.open
            if change.finding.gone_reason is GoneReason.NOT_REPORTED:
                own = [each for each in one.steps if each.name == change.finding.step]
                assert any(is_observed(one, each) for each in own)
                assert all(change.finding.check != check.name for each in own for check in each.attempts[-1].checks)


@settings(max_examples=60)
@given(st.lists(runs, max_size=4), runs)
def test_reviewing_the_same_end_again_changes_nothing(ended: list[Run], last: Run) -> None:
    known: dict[str, Finding] = {}
    for one in (*ended, last):
        apply(known, one)
    before = dict(known)

    again = apply(known, last)

    assert again == [] or {change.kind for change in again} == {ChangeKind.NEW}
    assert {key: known[key] for key in before} == before


@settings(max_examples=60)
@given(st.lists(runs, max_size=5), runs)
def test_a_job_that_was_stopped_before_its_end_makes_no_missing_check_gone(ended: list[Run], last: Run) -> None:
    known: dict[str, Finding] = {}
    for one in ended:
        apply(known, one)
    aborted = tuple(
        each.model_copy(
            update={"attempts": tuple(tried.model_copy(update={"complete": False}) for tried in each.attempts)}
        )
        for each in last.steps
    )

    found = apply(known, last.model_copy(update={"steps": aborted}))

    assert GoneReason.NOT_REPORTED not in [change.finding.gone_reason for change in found]


@settings(max_examples=60)
@given(st.lists(runs, max_size=4), runs, st.integers(1, 500))
def test_an_older_observation_never_changes_a_finding(ended: list[Run], late: Run, minutes: int) -> None:
    known: dict[str, Finding] = {}
    for one in ended:
        apply(known, one)
    before = dict(known)
    shifted = tuple(
        each.model_copy(
            update={
                "attempts": tuple(
                    tried.model_copy(update={"finished_at": at(-1) - timedelta(minutes=minutes)})
                    for tried in each.attempts
                )
            }
        )
        for each in late.steps
    )

    apply(known, late.model_copy(update={"steps": shifted}))

    assert {key: known[key] for key in before} == before


@settings(max_examples=60)
@given(st.lists(runs, max_size=5), statuses.filter(lambda status: status is not OK))
def test_a_finding_that_notifies_is_never_acknowledged_and_a_worse_one_loses_its_acknowledgement(
    ended: list[Run], status: CheckStatus
) -> None:
    acknowledged = finding(status, check="a", acknowledged=status)
    known = {acknowledged.key: acknowledged}
    for one in ended:
        for change in apply(known, one):
            assert not (change.notifies(NOON) and change.finding.acknowledged(NOON))
            acknowledgement = change.finding.acknowledgement
            assert acknowledgement is None or RANK[change.finding.status] <= RANK[acknowledgement.status]
