"""Windows with real processes: the hard end, the start at the first claim, and confined jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from support.nodes import Node
from support.servers.base import wait_for

from maintd.model.entry import Freeze, Gate, OnFailure, Policy, StepPlan, Window
from maintd.model.run import DecisionKind, GateDecision, Run, RunState, SkipReason, StepState
from maintd.operations.successor_plan import Request, plan_resume
from maintd.store.gates import end_wait

SECOND = timedelta(seconds=1)
WORK = 20 * SECOND
ENDED = "its window's last moment for work, 10m before its end"
POLICY = Policy(
    on_failure=OnFailure.UNDO, window=Window(lasts=WORK + timedelta(minutes=10), rollback_by=60 * 10 * SECOND)
)


def writes(node: Node, path: Path, name: str, body: str = "", **columns: object) -> StepPlan:
    job = node.job(f'Path(params.into).open("a").write(params.text + "\\n"); {body}')
    return node.step(job, {"into": str(path), "text": name}, name=name, **columns)


def at_gate(node: Node, run_id: int) -> Run:
    def waiting() -> Run | None:
        run = node.run(run_id)
        return run if run.state is RunState.WAITING else None

    return wait_for(waiting, f"run {run_id} waits")


def test_undo_begins_rollback_by_before_the_end_even_if_the_work_seems_nearly_done(here: Node, tmp_path: Path) -> None:
    path = tmp_path / "written"
    gate = StepPlan(name="gate", job="", gate=Gate(ask="Go on?", timeout=timedelta(days=1)), mutates=False)
    run_id = here.queue(
        gate,
        writes(here, path, "work", "time.sleep(600)"),
        writes(here, path, "undo-work", undoes="work"),
        policy=POLICY,
    )
    waiting = at_gate(here, run_id)
    start = waiting.started_at
    assert start is not None
    assert waiting.waiting_until == start + WORK, "the time of the gate ends with the work"

    decision = GateDecision(step=0, kind=DecisionKind.APPROVED, by="ada", at=here.store.now())
    here.store.write(lambda conn: end_wait(conn, run_id, decision, StepState.SUCCEEDED, ""))
    here.executor.wake()
    run = here.ended(run_id)

    assert run.started_at == start, "the window begins at the first claim"
    assert (run.state, path.read_text().split()) == (RunState.TIMED_OUT, ["work", "undo-work"])
    assert ENDED in run.reason and "undone: work" in run.reason
    undo = next(step for step in run.steps if step.undoes)
    assert undo.started_at is not None and undo.started_at >= start + WORK


def test_a_run_whose_window_would_contain_a_time_that_it_must_not_is_skipped_at_the_claim(
    here: Node, tmp_path: Path
) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=30)
    policy = Policy(window=Window(lasts=timedelta(hours=1), not_across=f"{soon:%H:%M} UTC"))

    run = here.ended(here.queue(writes(here, tmp_path / "written", "work"), policy=policy))

    assert (run.state, run.skip_reason) == (RunState.SKIPPED, SkipReason.WINDOW)
    assert run.reason.startswith("its window of 1h from ") and not (tmp_path / "written").exists()


def test_a_confined_job_is_refused_without_a_window_and_after_its_end(here: Node, tmp_path: Path) -> None:
    path = tmp_path / "written"
    confined = here.job('Path(params.into).open("a").write("confined\\n")', 'timeout="1m", only_in_window=True')
    step = here.step(confined, {"into": str(path)}, name="confined")
    short = Policy(window=Window(lasts=SECOND))

    without = here.ended(here.queue(step))
    late = here.ended(
        here.queue(here.step(here.job("time.sleep(1.5)")), step.model_copy(update={"always": True}), policy=short)
    )
    within = here.ended(here.queue(step, policy=Policy(window=Window(lasts=timedelta(hours=1)))))

    assert without.state is RunState.FAILED and "runs only in a window, and the run has none" in without.reason
    assert "that of the run ended" in next(each.reason for each in late.steps if each.name == "confined")
    assert (within.state, path.read_text().split()) == (RunState.SUCCEEDED, ["confined"])


def test_a_run_that_resumes_another_one_waits_for_the_end_of_a_freeze_that_came_in_between(
    here: Node, tmp_path: Path
) -> None:
    path = tmp_path / "written"
    broken = writes(here, path, "broken", f'assert Path("{tmp_path}/mended").exists()')
    first = here.ended(
        here.queue(broken, entry="frozen-resumed", policy=Policy(window=Window(lasts=timedelta(hours=1))))
    )
    assert first.state is RunState.FAILED
    (tmp_path / "mended").touch()
    now = here.store.now()
    until = now + timedelta(seconds=3)
    here.store.freezes.add("frozen-*", why="audit", by="ada", until=until, now=now)
    add = partial(here.store.successors.add, event="run_resumed", by="ada", origin="", now=now)
    second = add(first.id, lambda run: plan_resume(run, Request("ada", "mended"), now))
    assert second is not None
    here.executor.wake()

    run = here.ended(second)

    assert run.state is RunState.SUCCEEDED
    assert run.started_at is not None and run.started_at >= until, "its window has not begun before that"
    assert path.read_text().split() == ["broken", "broken"]


def test_a_queued_run_is_not_started_in_a_freeze_but_a_run_at_a_gate_goes_on(here: Node, tmp_path: Path) -> None:
    path = tmp_path / "written"
    gate = StepPlan(name="gate", job="", gate=Gate(ask="Go on?"), mutates=False)
    begun = here.queue(gate, writes(here, path, "begun"), entry="frozen-begun")
    at_gate(here, begun)
    now = here.store.now()
    until = now + timedelta(hours=1)
    assert here.store.freezes.add("frozen-*", why="audit", by="ada", until=until, now=now) == Freeze(
        entries="frozen-*", why="audit", by="ada", since=now, until=until
    )

    refused = here.ended(here.queue(writes(here, path, "queued"), entry="frozen-queued"))
    reads = here.ended(here.queue(here.step(here.job("pass"), mutates=False), entry="frozen-reads"))
    urgent = here.ended(here.queue(writes(here, path, "urgent"), entry="frozen-urgent", emergency="by ada: fire"))
    decision = GateDecision(step=0, kind=DecisionKind.APPROVED, by="ada", at=here.store.now())
    here.store.write(lambda conn: end_wait(conn, begun, decision, StepState.SUCCEEDED, ""))
    here.executor.wake()
    assert here.ended(begun).state is RunState.SUCCEEDED
    assert here.store.freezes.end("frozen-*", by="ada", now=here.store.now())

    assert (refused.state, refused.skip_reason) == (RunState.SKIPPED, SkipReason.FROZEN)
    assert refused.reason.startswith("frozen by ada until ") and refused.reason.endswith(": audit")
    assert {reads.state, urgent.state} == {RunState.SUCCEEDED}
    assert path.read_text().split() == ["urgent", "begun"]
