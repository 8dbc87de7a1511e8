"""What a run that resumes or undoes another one takes over, runs again, or refuses to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from maintd.errors import MaintdError, RefusedError, UnknownNameError, UsageError
from maintd.model.entry import Gate, Policy, StepPlan, Window
from maintd.model.evidence import Change, ChangeState
from maintd.model.run import Attempt, AttemptState, LinkKind, Run, RunLink, RunState, Step, StepState, Trigger
from maintd.operations.successor_plan import Request, decisions_about, plan_resume, plan_undo
from maintd.store.successors import Successor

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)

PLAN = (
    StepPlan(name="look", job="look", mutates=False),
    StepPlan(name="ask", job="", gate=Gate(ask="Now?"), mutates=False),
    StepPlan(name="halt", job="halt"),
    StepPlan(name="copy", job="copy", repeatable=True),
    StepPlan(name="work", job="work"),
    StepPlan(name="undo-work", job="back", undoes="work"),
    StepPlan(name="undo-halt", job="unhalt", undoes="halt"),
    StepPlan(name="tell", job="tell", always=True, mutates=False),
    StepPlan(name="unlock", job="unlock", always=True),
)


def run(states: str, state: RunState = RunState.LOST, *, uncertain: str = "", **columns: Any) -> Run:
    """A run of PLAN. A letter for each step, see below."""
    words = {
        "s": "succeeded",
        "w": "warned",
        "f": "failed",
        "l": "lost",
        "u": "unknown",
        "-": "skipped",
        ".": "pending",
    }
    words |= {"t": "timed_out", "c": "cancelled"}
    steps = []
    for index, (letter, plan) in enumerate(zip(states, PLAN, strict=True)):
        change = Change(action="set", target="x", state=ChangeState.UNCERTAIN)
        tried = Attempt(number=1, state=AttemptState.FAILED, started_at=NOON, changes=(change,))
        steps.append(
            Step(
                index=index,
                name=plan.name,
                job=plan.job,
                always=plan.always,
                gate=plan.gate,
                undoes=plan.undoes,
                state=StepState(words[letter]),
                started_at=None if letter in ".-" else NOON,
                attempts=(tried,) if plan.name == uncertain else (),
            )
        )
    values = {"id": 12, "entry": "upgrade", "title": "Upgrade", "trigger": Trigger.MANUAL, "state": state}
    values |= {"queued_at": NOON, "not_before": NOON, "plan": PLAN, "steps": tuple(steps), **columns}
    return Run.model_validate(values)


def kept(successor: Successor) -> str:
    """The steps that are taken over, by name."""
    return " ".join(PLAN[step.step].name for step in successor.steps if step.left_by is None)


def left(successor: Successor) -> str:
    """The undo steps of what an earlier run left in effect, each with that run."""
    return " ".join(f"{PLAN[step.step].name}:{step.left_by}" for step in successor.steps if step.left_by is not None)


@pytest.mark.parametrize(
    ("states", "request_", "expected"),
    [
        #  the steps are: look ask halt copy work | undo-work undo-halt | tell unlock
        ("sssl.....", Request(), "look ask halt"),  # a repeatable step that was lost runs again
        ("sssf.----", Request(), "look ask halt"),
        ("ssst.----", Request(), "look ask halt"),
        ("swsu.----", Request(), "look ask halt"),  # what observed too little is no success
        ("s........", Request(), "look"),
        (".........", Request(), ""),
        ("sf-------", Request(), "look"),  # a rejected gate is asked again
        ("sssf.----", Request(from_step="ask", redo=("halt",), why="x"), "look"),
        ("-sssl----", Request(redo=("work",), why="x"), "look ask halt copy"),  # look had no target
        ("ss-----s.", Request(), "look ask"),  # what was not reached runs
        ("sssfl....", Request(redo=("work",), why="x"), "look ask halt"),
        ("sssssss-s", Request(), "look ask"),  # halt and work were undone, so both run again
        ("ssssf-ssf", Request(), "look ask"),  # halt was undone, so it is the first
        ("sssss--sf", Request(), "look ask halt copy work tell"),  # only an `always` step failed
        ("ssssf--ss", Request(), "look ask halt copy"),  # `always` steps run again
    ],
)
def test_a_resumed_run_takes_over_what_is_before_the_first_step_that_did_not_succeed(
    states: str, request_: Request, expected: str
) -> None:
    assert kept(plan_resume(run(states, RunState.FAILED), request_, NOON)) == expected


@pytest.mark.parametrize(
    ("states", "request_", "error", "message"),
    [
        ("ssssl....", Request(), RefusedError, 'step "work" was lost; it mutates and is not repeatable'),
        ("ssl......", Request(why="x"), RefusedError, 'step "halt" was lost'),
        ("sssf.----", Request(from_step="halt"), RefusedError, 'step "halt" succeeded'),
        ("sssf.----", Request(from_step="work"), RefusedError, 'step "work" is after "copy", which did not succeed'),
        ("sssss--sl", Request(), RefusedError, 'step "unlock" was lost'),
        ("sssf.----", Request(from_step="tell"), UsageError, 'cannot be resumed from "tell"'),
        ("sssf.----", Request(from_step="wrk"), UnknownNameError, 'no step named "wrk"; did you mean "work"?'),
        ("sssf.----", Request(redo=("halt",)), UsageError, 'step "halt" would not run again'),
        # Without a person, none that had started and changes something runs again, and nothing after a part of an undo.
        ("ssssf....", Request(automatic=True), RefusedError, 'step "work" failed'),
        ("sssl..s..", Request(automatic=True), RefusedError, "undone in part"),
    ],
)
def test_a_resume_is_refused(states: str, request_: Request, error: type[MaintdError], message: str) -> None:
    with pytest.raises(error) as refused:
        plan_resume(run(states), request_, NOON)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("states", "columns", "expected"),
    [
        #  the steps are: look ask halt copy work | undo-work undo-halt | tell unlock
        ("ssssf....", {}, ["maintd resume 12", "maintd undo 12 --why TEXT"]),
        ("ssssl....", {}, ["maintd resume 12 --redo work --why TEXT", "maintd undo 12 --why TEXT"]),
        (
            "ssssll...",
            {},
            ["maintd resume 12 --redo work --why TEXT", "maintd undo 12 --redo undo-work --why TEXT"],
        ),
        (
            "sssssll.l",
            {},
            [
                "maintd resume 12 --redo halt --redo work --redo unlock --why TEXT",
                "maintd undo 12 --redo undo-work --redo undo-halt --redo unlock --why TEXT",
            ],
        ),
        ("s--------", {}, ["maintd resume 12"]),  # nothing to undo
        ("ssssf....", {"trigger": Trigger.UNDO}, ["maintd undo 12 --why TEXT"]),
        ("ssssf....", {"links": [RunLink(run_id=13, kind=LinkKind.RESUMES, other_run_id=12)]}, []),
        ("sssssssss", {"state": RunState.SUCCEEDED}, []),
    ],
)
def test_what_a_person_can_type_is_complete_and_not_refused(
    states: str, columns: dict[str, Any], expected: list[str]
) -> None:
    found = run(states, **{"state": RunState.LOST, **columns})

    assert decisions_about(found) == expected
    release = ["maintd release 12 --why TEXT"]
    assert decisions_about(found.model_copy(update={"held": True})) == [*expected, *release]
    for command in expected:
        _, verb, _, *options = command.split()
        redo = tuple(name for option, name in pairwise(options) if option == "--redo")
        plan = plan_resume if verb == "resume" else plan_undo
        assert plan(found, Request(redo=redo, why="TEXT"), NOON)


def test_the_next_step_of_a_lost_run_without_undo_and_gates_may_have_started() -> None:
    plan = (StepPlan(name="one", job="one"), StepPlan(name="two", job="two"))
    values = {"entry": "e", "title": "E", "trigger": "manual", "queued_at": NOON, "not_before": NOON, "plan": plan}
    states = (StepState.SUCCEEDED, StepState.PENDING)
    steps = [
        Step(index=index, name=step.name, job=step.job, state=state)
        for index, (step, state) in enumerate(zip(plan, states, strict=True))
    ]
    lost = Run.model_validate({**values, "id": 3, "state": RunState.LOST, "steps": tuple(steps)})
    with pytest.raises(RefusedError, match='step "two" may have started'):
        plan_resume(lost, Request(), NOON)
    assert len(plan_resume(lost, Request(redo=("two",), why="looked"), NOON).steps) == 1
    stopped = lost.model_copy(update={"state": RunState.CANCELLED})
    assert len(plan_resume(stopped, Request(), NOON).steps) == 1


def test_a_step_with_an_uncertain_change_runs_again_only_if_a_person_allows_it() -> None:
    failed = run("ssssf--ss", RunState.FAILED, uncertain="work")
    with pytest.raises(RefusedError, match="uncertain"):
        plan_resume(failed, Request(), NOON)
    assert kept(plan_resume(failed, Request(redo=("work",), why="looked"), NOON)) == "look ask halt copy"


@pytest.mark.parametrize("plan", [plan_resume, plan_undo])
@pytest.mark.parametrize("state", [state for state in RunState if state not in (RunState.LOST, RunState.FAILED)])
def test_only_a_run_that_is_over_and_did_not_succeed_can_be_followed(plan: Any, state: RunState) -> None:
    allowed = state in (RunState.UNKNOWN, RunState.TIMED_OUT, RunState.CANCELLED)
    asked = run("sssf.----", state)
    if allowed or (plan is plan_undo and state is RunState.SKIPPED):
        assert plan(asked, Request(why="x"), NOON).run.state is RunState.QUEUED
        return
    with pytest.raises(RefusedError):
        plan(asked, Request(why="x"), NOON)


@pytest.mark.parametrize("plan", [plan_resume, plan_undo])
@pytest.mark.parametrize(("kind", "word"), [(LinkKind.RESUMES, "resumed"), (LinkKind.UNDOES, "undone")])
def test_a_run_is_followed_once(plan: Any, kind: LinkKind, word: str) -> None:
    followed = run("sssl.....", links=(RunLink(run_id=15, kind=kind, other_run_id=12),))
    with pytest.raises(RefusedError, match=f"run 12 was {word} by run 15 already"):
        plan(followed, Request(why="x"), NOON)


def test_a_run_that_follows_another_can_be_followed_itself() -> None:
    resumed = run("sssl.....", links=(RunLink(run_id=12, kind=LinkKind.RESUMES, other_run_id=7),))
    assert kept(plan_resume(resumed, Request(), NOON)) == "look ask halt"


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ("ssl......", "look ask halt"),  # the lost one too: it may have had its effect
        ("ssssf----", "look ask halt copy work"),
        ("ssssl.s..", "look ask halt copy work undo-halt"),  # what is undone already is not undone again
        ("ssssfsf-s", "look ask halt copy work undo-work unlock"),  # unlock changes something and has succeeded
        ("ssssfss..", "look ask halt copy work undo-work undo-halt"),  # only the `always` steps are left
        ("ssssfsfs.", "look ask halt copy work undo-work"),  # tell changes nothing, so it runs again
    ],
)
def test_an_undo_takes_over_all_steps_and_runs_the_undo_steps_that_are_left(states: str, expected: str) -> None:
    found = plan_undo(run(states), Request(why="stop"), NOON)
    assert kept(found) == expected
    assert (found.kind, found.run.trigger) == (LinkKind.UNDOES, Trigger.UNDO)


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ("ss.......", "nothing of run 12 is left to undo"),
        ("ssssfss--", "nothing of run 12 is left to undo"),
        ("ssssfl...", 'step "undo-work" was lost'),
        ("ssssf...l", 'step "unlock" was lost'),
    ],
)
def test_an_undo_is_refused(states: str, message: str) -> None:
    with pytest.raises(RefusedError) as refused:
        plan_undo(run(states), Request(why="stop"), NOON)
    assert message in str(refused.value)


def test_a_held_run_of_which_nothing_is_left_to_undo_names_the_command_that_ends_its_hold() -> None:
    held = run("ss.......").model_copy(update={"held": True})
    with pytest.raises(RefusedError, match="maintd release 12 --why TEXT"):
        plan_undo(held, Request(why="stop"), NOON)


def test_an_undo_step_that_was_lost_runs_again_if_a_person_allows_it() -> None:
    found = plan_undo(run("ssssfl..."), Request(why="looked", redo=("undo-work",)), NOON)
    assert kept(found) == "look ask halt copy work"


@pytest.mark.parametrize(
    ("states", "request_", "expected"),
    [
        ("sssl.....", Request(), ""),  # halt is taken over
        ("ssssl....", Request(redo=("work",), why="x"), "undo-work:12"),
        ("sssfl....", Request(redo=("work",), why="x"), "undo-work:12"),
        ("ssssl....", Request(from_step="look", redo=("halt", "work"), why="x"), "undo-work:12 undo-halt:12"),
        ("ssssls...", Request(from_step="look", redo=("halt",), why="x"), "undo-halt:12"),  # work was undone
        ("ssssf-s-s", Request(), "undo-work:12"),
        ("ssssfl...", Request(), "undo-work:12"),  # whether it was undone is not known
    ],
)
def test_what_an_earlier_run_left_in_effect_stays_to_be_undone(states: str, request_: Request, expected: str) -> None:
    assert left(plan_resume(run(states), request_, NOON)) == expected


def test_what_an_earlier_run_left_in_effect_is_handed_on_and_can_be_undone() -> None:
    resumed = run("f----....", RunState.FAILED)
    steps = [step.model_copy(update={"left_by": 7 if step.name == "undo-halt" else None}) for step in resumed.steps]
    resumed = resumed.model_copy(update={"steps": tuple(steps)})
    assert left(plan_resume(resumed, Request(), NOON)) == "undo-halt:7"
    assert left(plan_undo(resumed, Request(why="x"), NOON)) == "undo-halt:7"
    steps[6] = steps[6].model_copy(update={"state": StepState.SUCCEEDED})
    undone = resumed.model_copy(update={"steps": tuple(steps)})
    assert left(plan_resume(undone, Request(), NOON)) == ""


def test_what_is_taken_over_keeps_its_state_and_names_its_run() -> None:
    found = plan_undo(run("sswl....."), Request(why="stop"), NOON)
    assert [(step.state, step.reason) for step in found.steps] == [
        ("succeeded", "taken over from run 12: succeeded"),
        ("succeeded", "taken over from run 12: succeeded"),
        ("warned", "taken over from run 12: warned"),
        ("lost", "taken over from run 12: lost"),
    ]
    assert all(step.started_at == NOON for step in found.steps)


def test_a_follower_has_the_plan_and_the_policy_of_its_run() -> None:
    policy = Policy(timeout=timedelta(minutes=7))
    lost = run("sssl.....", policy=policy, params={"a": 1}, dry_run=True, emergency="ada: outage")
    made = plan_resume(lost, Request("bob", "go on"), NOON).run
    assert (made.plan, made.policy, made.params, made.dry_run) == (PLAN, policy, {"a": 1}, True)
    assert (made.requested_by, made.why, made.emergency, made.not_before) == ("bob", "go on", "ada: outage", NOON)
    assert (made.due_at, made.idempotency_key, made.reason) == (None, None, 'resumes run 12 from step "copy"')


def test_only_a_person_begins_a_new_window() -> None:
    policy = Policy(window=Window(lasts=timedelta(hours=2)))
    lost = run("sssl.....", policy=policy, started_at=NOON - timedelta(hours=1))
    assert plan_resume(lost, Request(automatic=True), NOON).started_at == NOON - timedelta(hours=1)
    assert plan_resume(lost, Request(), NOON).started_at is None
