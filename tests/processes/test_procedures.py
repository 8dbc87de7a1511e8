"""Procedures: gates, undo, `always` steps with a condition, values from step to step, and holds after a crash."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from support.nodes import Node
from support.servers.base import wait_for

from maintd.model.entry import Gate, OnFailure, Policy, StepPlan, When
from maintd.model.run import DecisionKind, GateDecision, Run, RunState, SkipReason, StepState, Trigger
from maintd.model.status import LockHolder
from maintd.store.gates import end_wait

UNDO = Policy(on_failure=OnFailure.UNDO)

WRITES = 'Path(params.into).open("a").write(params.text + "\\n")'


def gate(name: str = "gate", **columns: object) -> StepPlan:
    values = {"ask": "Is it done?"} | columns
    return StepPlan(name=name, job="", gate=Gate.model_validate(values), mutates=False)


def waiting(node: Node, run_id: int) -> Run:
    """Wait until the run waits at a gate; return it."""

    def at_gate() -> Run | None:
        run = node.run(run_id)
        return run if run.state is RunState.WAITING else None

    return wait_for(at_gate, f"run {run_id} waits")


def decide(node: Node, run_id: int, state: StepState = StepState.SUCCEEDED, kind: str = "approved") -> bool:
    decision = GateDecision(step=0, kind=DecisionKind(kind), by="ada", at=node.store.now())
    done = node.store.write(lambda conn: end_wait(conn, run_id, decision, state, f"{kind} by ada"))
    node.executor.wake()
    return done


def decide_at(node: Node, run_id: int, step: int) -> bool:
    """Approve the gate with this index."""
    decision = GateDecision(step=step, kind=DecisionKind.APPROVED, by="ada", at=node.store.now())
    done = node.store.write(lambda conn: end_wait(conn, run_id, decision, StepState.SUCCEEDED, "approved by ada"))
    node.executor.wake()
    return done


def at_step(run: Run, name: str) -> Run | None:
    """The run, if it waits at the gate with this name."""
    return run if states(run)[name] == "waiting" else None


def states(run: Run) -> dict[str, str]:
    return {step.name: step.state.value for step in run.steps}


class Script:
    """Steps that append their names to a file."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node = node
        self.file = folder / "written"
        self.writes = node.job(WRITES)
        self.fails = node.job(f"{WRITES}; raise RuntimeError('broken')")

    def step(self, name: str, *, fails: bool = False, **columns: object) -> StepPlan:
        params = {"into": str(self.file), "text": name}
        return self.node.step(self.fails if fails else self.writes, params, name=name, **columns)

    @property
    def written(self) -> list[str]:
        return self.file.read_text().split() if self.file.exists() else []


@pytest.fixture
def script(here: Node, tmp_path: Path) -> Script:
    return Script(here, tmp_path)


def test_a_run_waits_at_a_gate_without_a_slot_and_goes_on_after_it(here: Node, script: Script) -> None:
    run_id = here.queue(script.step("before"), gate(), script.step("after"))
    at_gate = waiting(here, run_id)
    assert (at_gate.node, at_gate.lease_until, script.written) == (None, None, ["before"])
    assert states(at_gate) == {"before": "succeeded", "gate": "waiting", "after": "pending"}
    wait_for(lambda: not here.executor.held, "the claim is over")

    assert decide(here, run_id)
    assert not decide(here, run_id), "a gate is passed once"

    run = here.ended(run_id)
    assert (run.state, run.reason, script.written) == (RunState.SUCCEEDED, "", ["before", "after"])
    assert [(decision.kind, decision.step, decision.by) for decision in run.decisions] == [("approved", 1, "ada")]


NOT_CONFIGURED = 'from maintd.job import TargetError; raise TargetError("nothing to look at", cause="not_configured")'
DECIDES = {"decisions": "table.csv"}


def test_a_gate_about_a_table_waits_also_in_a_later_claim_if_a_step_has_saved_it(here: Node, script: Script) -> None:
    saves = here.step(here.job('ctx.save("table.csv", "a,b\\n", "text/csv")'), {}, name="saves")
    run_id = here.queue(saves, gate(), gate("decides", **DECIDES), script.step("after"))
    waiting(here, run_id)
    assert decide_at(here, run_id, 1)  # a second claim, which has not run the step itself

    at_gate = wait_for(lambda: at_step(here.run(run_id), "decides"), "the run waits at the second gate")
    assert states(at_gate) == {"saves": "succeeded", "gate": "succeeded", "decides": "waiting", "after": "pending"}


def test_a_gate_about_a_table_that_no_step_could_make_is_skipped_with_what_follows(here: Node, script: Script) -> None:
    looks = here.step(here.job(NOT_CONFIGURED), {}, name="looks")
    always = here.step(here.job(NOT_CONFIGURED), {}, name="last", always=True)
    run = here.ended(here.queue(looks, gate(**DECIDES), script.step("after"), always))

    assert states(run) == {"looks": "skipped", "gate": "skipped", "after": "skipped", "last": "skipped"}
    assert (run.state, run.skip_reason) == (RunState.SKIPPED, SkipReason.NOT_CONFIGURED)
    assert "table.csv" in run.steps[1].reason
    assert script.written == []


def test_a_gate_about_a_table_that_no_step_is_before_fails(here: Node, script: Script) -> None:
    run = here.ended(here.queue(gate(**DECIDES), script.step("after")))

    assert (run.state, states(run)) == (RunState.FAILED, {"gate": "failed", "after": "skipped"})


@pytest.mark.parametrize("fails", [False, True])
def test_a_gate_about_a_table_that_a_step_did_not_save_fails_at_once(here: Node, script: Script, fails: bool) -> None:
    looks = script.step("looks", fails=fails, on_failure=OnFailure.CONTINUE)
    run = here.ended(here.queue(looks, gate(**DECIDES), script.step("after"), script.step("last", always=True)))

    assert states(run) == {
        "looks": "failed" if fails else "succeeded",
        "gate": "failed",
        "after": "skipped",
        "last": "succeeded",
    }
    assert run.state is RunState.FAILED
    assert "no step before it has saved table.csv" in run.reason
    assert script.written == ["looks", "last"]


def test_a_rejected_gate_fails_the_run_with_undo_in_reverse_order_and_its_always_steps(
    here: Node, script: Script
) -> None:
    run_id = here.queue(
        script.step("one"),
        script.step("two"),
        gate(),
        script.step("three"),
        script.step("undo-three", undoes="three"),
        script.step("undo-two", undoes="two"),
        script.step("undo-one", undoes="one"),
        script.step("last", always=True),
        script.step("if-good", always=True, when=When.SUCCEEDED),
        script.step("if-bad", always=True, when=When.FAILED),
        policy=UNDO,
    )
    waiting(here, run_id)
    decide(here, run_id, StepState.FAILED, "rejected")

    run = here.ended(run_id)
    assert script.written == ["one", "two", "undo-two", "undo-one", "last", "if-bad"]
    assert run.state is RunState.FAILED
    assert run.reason == "gate: rejected by ada; undone: two, one"
    assert states(run)["undo-three"] == states(run)["if-good"] == "skipped"


def test_a_gate_whose_time_is_over_ends_the_run_as_timed_out(here: Node, script: Script) -> None:
    run_id = here.queue(gate(timeout=timedelta(minutes=5)), script.step("work"), script.step("last", always=True))
    assert waiting(here, run_id).waiting_until is not None
    decide(here, run_id, StepState.TIMED_OUT, "timed_out")
    run = here.ended(run_id)
    assert (run.state, script.written) == (RunState.TIMED_OUT, ["last"])


def test_a_run_that_is_cancelled_at_a_gate_still_runs_its_always_steps(here: Node, script: Script) -> None:
    run_id = here.queue(script.step("work"), gate(), script.step("last", always=True))
    waiting(here, run_id)
    here.store.runs.request_cancel(run_id, "ada", "not today", here.store.now())
    here.executor.wake()
    run = here.ended(run_id)
    assert (run.state, script.written) == (RunState.CANCELLED, ["work", "last"])
    assert run.decisions[0].kind is DecisionKind.CANCELLED


def test_a_failed_step_is_undone_too_and_one_that_never_started_is_not(here: Node, script: Script) -> None:
    run_id = here.queue(
        script.step("one"),
        script.step("two", fails=True),
        script.step("three"),
        script.step("undo-three", undoes="three"),
        script.step("undo-two", undoes="two"),
        script.step("undo-one", undoes="one", fails=True),
        script.step("if-good", always=True, when=When.SUCCEEDED),
        policy=UNDO,
    )
    run = here.ended(run_id)
    assert script.written == ["one", "two", "undo-two", "undo-one"]
    assert run.state is RunState.FAILED
    assert run.reason.endswith("NOT undone: one")


def test_nothing_is_undone_after_a_success(here: Node, script: Script) -> None:
    run_id = here.queue(
        script.step("one"),
        script.step("undo-one", undoes="one"),
        script.step("if-good", always=True, when=When.SUCCEEDED),
        script.step("if-bad", always=True, when=When.FAILED),
        policy=UNDO,
    )
    run = here.ended(run_id)
    assert (run.state, run.reason, script.written) == (RunState.SUCCEEDED, "", ["one", "if-good"])


def test_a_step_that_observed_too_little_is_no_success_for_an_always_step(here: Node, script: Script) -> None:
    blind = here.job('ctx.unknown("seen", "no answer")')
    run_id = here.queue(here.step(blind), script.step("if-good", always=True, when=When.SUCCEEDED))
    run = here.ended(run_id)
    assert (run.state, script.written) == (RunState.UNKNOWN, [])


def test_values_are_handed_over_across_a_gate_and_to_undo_steps(here: Node, script: Script) -> None:
    gives = here.job('ctx.hand_over("halted", {"services": ["a", "b"]}); ctx.hand_over("count", params.number)')
    takes = here.job(
        'Path(params.into).write_text(repr((ctx.handed("halted"), ctx.handed("count"), ctx.outcome_of("give"))))'
    )
    run_id = here.queue(
        here.step(gives, {"number": 3}, name="give"),
        gate(),
        here.step(takes, {"into": str(script.file)}, name="undo-give", undoes="give"),
        policy=UNDO,
    )
    waiting(here, run_id)
    decide(here, run_id, StepState.FAILED, "rejected")
    run = here.ended(run_id)
    assert script.file.read_text() == "({'services': ['a', 'b']}, 3, 'succeeded')"
    assert {value.name: value.value for value in run.handed} == {"halted": {"services": ["a", "b"]}, "count": 3}


def test_a_job_is_given_the_gates_that_persons_have_approved(here: Node, script: Script) -> None:
    tells = here.job("Path(params.into).write_text(repr((dict(ctx.approvals), ctx.in_foreground)))")
    run_id = here.queue(gate(), here.step(tells, {"into": str(script.file)}, name="tell"))
    name = waiting(here, run_id).plan[0].name
    decide(here, run_id)

    here.ended(run_id)

    assert script.file.read_text() == repr(({name: "approved by ada"}, False))


def test_a_dry_run_has_no_approvals_since_no_gate_asks_in_it(here: Node, script: Script) -> None:
    tells = here.job("Path(params.into).write_text(repr(dict(ctx.approvals)))")

    run_id = here.queue(gate(), here.step(tells, {"into": str(script.file)}, name="tell"), dry_run=True)

    here.ended(run_id)
    assert script.file.read_text() == "{}"


def test_a_value_that_is_no_json_or_too_large_fails_the_step(here: Node) -> None:
    assert "is not JSON" in here.make('ctx.hand_over("x", object())').reason
    assert "20002 bytes as JSON, and at most 16384" in here.make('ctx.hand_over("x", "y" * 20_000)').reason
    assert "a name has 1 to 100 characters, not 0" in here.make('ctx.hand_over("", 1)').reason


def test_locks_are_free_at_a_gate_unless_the_entry_holds_them(here: Node, script: Script) -> None:
    for hold in (False, True):
        run_id = here.queue(
            script.step("work", locks={"stack": "exclusive"}), gate(), policy=Policy(hold_locks=hold), entry=f"e{hold}"
        )
        waiting(here, run_id)
        holders = here.store.locks.holders(here.store.now())
        assert [holder.run_id for holder in holders if holder.lock == "stack"] == ([run_id] if hold else [])
        decide(here, run_id)
        here.ended(run_id)
        assert "stack" not in [holder.lock for holder in here.store.locks.holders(here.store.now())]


def test_the_locks_are_held_from_a_gate_before_the_first_job_on(here: Node, script: Script) -> None:
    work = script.step("work", locks={"stack": "exclusive"})
    run_id = here.queue(gate(), work, gate("gate-2"), policy=Policy(hold_locks=True), entry="holds")
    for _ in range(2):
        waiting(here, run_id)
        assert [holder.run_id for holder in stack_holders(here)] == [run_id]
        quick = here.queue(work, policy=Policy(lock_wait=timedelta(milliseconds=1)), entry="other")
        assert f'lock "stack" is held by run {run_id}' in here.ended(quick).reason
        decide(here, run_id)
    here.ended(run_id)
    assert stack_holders(here) == []


def test_a_gate_fails_that_does_not_get_the_locks_of_its_run(here: Node, script: Script) -> None:
    holder = here.queue(
        script.step("work", locks={"stack": "exclusive"}), gate(), policy=Policy(hold_locks=True), entry="first"
    )
    waiting(here, holder)
    policy = Policy(hold_locks=True, lock_wait=timedelta(milliseconds=1))
    late = here.queue(
        gate(),
        script.step("late", locks={"stack": "exclusive"}),
        policy=policy,
        entry="second",
    )

    run = here.ended(late)

    assert (run.state, states(run)["gate"], script.written) == (RunState.FAILED, "failed", ["work"])
    assert f'lock "stack" is held by run {holder}' in run.steps[0].reason
    decide(here, holder)
    here.ended(holder)


def test_a_second_run_of_an_entry_begins_when_the_first_has_ended(here: Node, script: Script) -> None:
    first = here.queue(script.step("first-1"), gate(), script.step("first-2"), gate("gate-2"), entry="in-turn")
    waiting(here, first)
    second = here.queue(script.step("second"), entry="in-turn")
    for name in ("other-1", "other-2"):  # that the executor claims what is queued
        here.ended(here.queue(script.step(name), entry=name))
        assert here.run(second).state is RunState.QUEUED
        decide(here, first)
        if name == "other-1":
            wait_for(lambda: "first-2" in script.written, "the first run goes on")
            waiting(here, first)

    assert here.ended(second).state is RunState.SUCCEEDED
    assert here.run(first).state is RunState.SUCCEEDED
    assert script.written == ["first-1", "other-1", "first-2", "other-2", "second"]


def stack_holders(node: Node) -> list[LockHolder]:
    return [holder for holder in node.store.locks.holders(node.store.now()) if holder.lock == "stack"]


def test_a_lost_run_with_undo_is_held_and_keeps_its_locks(here: Node, script: Script) -> None:
    sleeps = here.job("time.sleep(600)")
    run_id = here.queue(
        here.step(sleeps, name="work", locks={"of-the-lost": "exclusive"}),
        script.step("undo-work", undoes="work"),
        policy=UNDO,
    )
    here.running(run_id)
    run = here.run(run_id)
    assert here.store.runs.mark_lost(run_id, run.fence, "the node is gone", here.store.now())
    lost = here.run(run_id)
    assert (lost.state, lost.held) == (RunState.LOST, True)
    assert "of-the-lost" in [holder.lock for holder in here.store.locks.holders(here.store.now())]


def test_a_run_that_undoes_a_lost_one_runs_the_undo_steps_only(here: Node, script: Script) -> None:
    run_id = here.queue(
        script.step("one"),
        script.step("undo-one", undoes="one"),
        script.step("last", always=True),
        script.step("if-good", always=True, when=When.SUCCEEDED),
        trigger=Trigger.UNDO,
    )
    assert here.ended(run_id).state is RunState.SUCCEEDED
    assert script.written == ["last"], "no step of the earlier run is known to have started"


def test_a_dry_run_does_not_wait_at_gates(here: Node, script: Script) -> None:
    run = here.ended(here.queue(script.step("one"), gate(), script.step("two"), dry_run=True))
    assert (run.state, states(run)["gate"]) == (RunState.SUCCEEDED, "succeeded")
    assert run.steps[1].reason == "not asked in a dry run"


def test_a_second_attempt_gets_what_the_first_one_handed_over(here: Node, script: Script) -> None:
    body = """
        before = ctx.handed("tries", 0)
        ctx.hand_over("tries", before + 1)
        ctx.require("tries", before, at_least=1)
    """
    policy = Policy(retries=1, retry_backoff=timedelta(0))
    job = here.job(body, 'timeout="1m", repeatable=True')
    run = here.ended(here.queue(here.step(job, repeatable=True), policy=policy))
    assert (run.state, [value.value for value in run.handed]) == (RunState.SUCCEEDED, [2]), run.reason
