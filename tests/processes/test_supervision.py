"""A run's steps: order, targets, locks, retries, what always runs, and when nothing is to run at all."""

from __future__ import annotations

import re
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from support.nodes import Node, only
from support.servers.base import wait_for

from maintd.model.entry import Entry, OnFailure, Policy
from maintd.model.run import RunState, SkipReason, StepState, Trigger
from maintd.model.target import FolderTarget, Targets

QUICK = Policy(retry_backoff=timedelta(milliseconds=50), lock_wait=timedelta(milliseconds=300))


def states(node: Node, run_id: int) -> list[str]:
    return [step.state.value for step in node.ended(run_id).steps]


def test_steps_run_in_order_and_stop_at_the_first_that_fails(here: Node) -> None:
    good, bad = here.step(here.job("pass")), here.step(here.job("raise ValueError('no')"))
    never = here.step(here.job("pass"))

    run = here.ended(here.queue(good, bad, never))

    assert [step.state for step in run.steps] == [StepState.SUCCEEDED, StepState.FAILED, StepState.SKIPPED]
    assert run.steps[2].reason == f'"{bad.name}" before it failed'
    assert (run.state, run.reason) == (RunState.FAILED, f"{bad.name}: {run.steps[1].reason}")


def test_a_failed_step_with_on_failure_continue_lets_the_others_run(here: Node) -> None:
    bad = here.step(here.job("raise ValueError('no')"), on_failure=OnFailure.CONTINUE)

    run = here.ended(here.queue(bad, here.step(here.job("pass"))))

    assert [step.state for step in run.steps] == [StepState.FAILED, StepState.SUCCEEDED]
    assert run.state is RunState.FAILED


@pytest.mark.parametrize("how", ["fails", "times out", "is cancelled"])
def test_steps_that_always_run_do_so_whatever_happened_before(here: Node, how: str) -> None:
    body = "raise ValueError('no')" if how == "fails" else "time.sleep(60)"
    work = here.step(here.job(body))
    always = here.step(here.job("time.sleep(0.4)"), always=True)
    policy = Policy(timeout=timedelta(milliseconds=300) if how == "times out" else timedelta(hours=1))
    run_id = here.queue(work, here.step(here.job("pass")), always, policy=policy)
    if how == "is cancelled":
        here.running(run_id)
        here.cancel(run_id)

    run = here.ended(run_id)

    assert run.state.value == {"fails": "failed", "times out": "timed_out", "is cancelled": "cancelled"}[how]
    assert [step.state for step in run.steps[1:]] == [StepState.SKIPPED, StepState.SUCCEEDED]


def test_a_repeatable_job_is_tried_again_with_growing_pauses(here: Node, tmp_path: Path) -> None:
    into = tmp_path / "tries"
    body = """
    with open(params.into, "a") as file:
        file.write(f"{time.monotonic()} ")
    if len(Path(params.into).read_text().split()) < 3:
        raise ValueError("not yet")
    """
    step = here.step(here.job(body, "repeatable=True"), {"into": str(into)})

    run = here.ended(here.queue(step, policy=QUICK.model_copy(update={"retries": 5})))

    first, second, third = (float(word) for word in into.read_text().split())
    assert (run.state, run.reason) == (RunState.SUCCEEDED, "succeeded at attempt 3")
    assert [attempt.number for attempt in run.steps[0].attempts] == [1, 2, 3]
    assert second - first >= 0.05
    assert third - second >= 0.1


def test_a_job_that_is_not_repeatable_is_tried_once(here: Node) -> None:
    step = here.step(here.job("raise ValueError('no')"))

    run = here.ended(here.queue(step, policy=QUICK.model_copy(update={"retries": 5})))

    assert (run.state, len(run.steps[0].attempts)) == (RunState.FAILED, 1)


def test_a_cancel_ends_the_wait_for_another_attempt(here: Node) -> None:
    step = here.step(here.job("raise ValueError('no')", "repeatable=True"))
    run_id = here.queue(step, policy=Policy(retries=3, retry_backoff=timedelta(minutes=10)))
    wait_for(lambda: here.run(run_id).steps[0].reason.startswith("attempt 2 of 4 at "), "it waits")

    here.cancel(run_id)
    run = here.ended(run_id)

    assert run.state is RunState.CANCELLED
    assert "while it waited for another attempt after: ValueError: no" in run.reason


def test_a_step_without_its_target_is_skipped_with_the_setting_to_set(here: Node) -> None:
    step = here.step(here.job("pass", 'needs=("redis",)'))

    run = here.ended(here.queue(step))

    assert (run.state, run.skip_reason) == (RunState.SKIPPED, SkipReason.NOT_CONFIGURED)
    assert run.reason == "not configured: it needs a redis target; set targets.redis in the calendar"


def test_steps_that_have_their_target_run_beside_one_that_has_not(here: Node) -> None:
    lame = here.step(here.job("pass", 'needs=("redis",)'))

    run = here.ended(here.queue(here.step(here.job("pass")), lame))

    assert (run.state, run.reason) == (RunState.SUCCEEDED, f"not configured: {lame.name}")


def test_nothing_runs_while_a_required_step_has_no_target(here: Node, tmp_path: Path) -> None:
    lame = here.step(here.job("pass", 'needs=("redis",)'), required=True)
    first = here.step(here.job(f"Path({str(tmp_path / 'ran')!r}).touch()"))

    run = here.ended(here.queue(first, lame))

    assert (run.state, run.skip_reason) == (RunState.SKIPPED, SkipReason.NOT_CONFIGURED)
    assert run.reason == f"{lame.name}: it needs a redis target; set targets.redis in the calendar"
    assert not (tmp_path / "ran").exists()


def test_a_target_that_the_job_finds_missing_is_not_configured_either(here: Node) -> None:
    run = here.make('ctx.target("redis")')

    assert (run.state, run.skip_reason) == (RunState.SKIPPED, SkipReason.NOT_CONFIGURED)
    assert "set targets.redis" in run.reason


def test_a_step_runs_once_its_target_is_there(here: Node, tmp_path: Path) -> None:
    here.targets = Targets(folders={"x": FolderTarget(path=tmp_path)})

    run = here.make('ctx.log(str(ctx.target("folders").path))', traits='needs=("folders",)')
    here.targets = Targets()

    assert here.log(run.id) == [str(tmp_path)]


def test_a_lock_that_is_not_free_in_time_fails_the_step_and_names_its_holder(here: Node, tmp_path: Path) -> None:
    go, lock = tmp_path / "go", f"lock-{uuid.uuid4().hex}"
    holding = here.job("while not Path(params.into).exists():\n    time.sleep(0.01)")
    holder = here.queue(here.step(holding, {"into": str(go)}, locks={lock: "exclusive"}))
    here.running(holder)

    waiting = here.queue(here.step(here.job("pass"), locks={lock: "shared"}), policy=QUICK)
    run = here.ended(waiting)
    go.touch()

    assert run.state is RunState.FAILED
    assert f'lock "{lock}" is held by run {holder} (' in run.reason
    assert run.reason.endswith("waited 300ms")
    assert here.ended(holder).state is RunState.SUCCEEDED


def test_a_step_that_waits_for_a_lock_records_it_and_runs_when_it_is_free(here: Node, tmp_path: Path) -> None:
    go, lock = tmp_path / "go", f"lock-{uuid.uuid4().hex}"
    holding = here.job("while not Path(params.into).exists():\n    time.sleep(0.01)")
    holder = here.queue(here.step(holding, {"into": str(go)}, locks={lock: "exclusive"}))
    here.running(holder)
    waiting = here.queue(here.step(here.job("pass"), locks={lock: "exclusive"}))

    reason = wait_for(lambda: here.run(waiting).steps[0].reason, "the reason is there")
    go.touch()
    run = here.ended(waiting)

    assert reason.startswith(f'waits up to 10m: lock "{lock}" is held by run {holder}')
    assert (run.state, run.steps[0].reason) == (RunState.SUCCEEDED, "")
    assert not [held for held in here.store.locks.holders(here.store.now()) if held.lock == lock]


def test_shared_locks_are_held_together(here: Node, tmp_path: Path) -> None:
    lock = f"lock-{uuid.uuid4().hex}"
    body = """
    Path(params.into, params.text).touch()
    while len(list(Path(params.into).iterdir())) < 2:
        time.sleep(0.01)
    """
    name = here.job(body, 'timeout="10s"')

    runs = [here.queue(here.step(name, {"into": str(tmp_path), "text": text}, locks={lock: "shared"})) for text in "ab"]

    assert [here.ended(run_id).state for run_id in runs] == [RunState.SUCCEEDED] * 2


def test_a_run_needs_a_success_that_is_recent_enough(here: Node) -> None:
    backup, name = f"backup-{uuid.uuid4().hex}", here.job("pass")
    policy = Policy.model_validate({"after": {"entry": backup, "within": "26h"}})

    before = here.ended(here.queue(here.step(name), policy=policy))
    here.ended(here.queue(here.step(name), entry=backup))
    after = here.ended(here.queue(here.step(name), policy=policy))

    assert (before.state, before.skip_reason) == (RunState.SKIPPED, SkipReason.DEPENDENCY)
    assert before.reason == f'needs a success of "{backup}" within 26h; it never succeeded'.replace("26h", "1d2h")
    assert after.state is RunState.SUCCEEDED


def test_a_success_is_not_needed_of_an_entry_that_is_not_in_use(here: Node) -> None:
    backup, name = f"backup-{uuid.uuid4().hex}", here.job("pass")
    policy = Policy.model_validate({"after": {"entry": backup, "within": "26h", "if_configured": True}})
    failing = here.step(here.job("raise ValueError"))
    unconfigured = here.step(here.job("ctx.target('postgres', 'nowhere')"))
    now = here.store.now()
    entry = Entry(name=backup, title="", rule=None, steps=(), policy=Policy(), enabled=True)

    def state() -> RunState:
        return here.ended(here.queue(here.step(name), policy=policy)).state

    disabled = state()
    here.store.entries.sync([entry], {backup: "1"}, now)
    never_ran = state()
    not_configured = here.ended(here.queue(unconfigured, entry=backup)), state()
    failed = here.ended(here.queue(failing, entry=backup)), state()

    assert (disabled, never_ran) == (RunState.SUCCEEDED, RunState.SUCCEEDED)
    assert (not_configured[0].skip_reason, not_configured[1]) == (SkipReason.NOT_CONFIGURED, RunState.SUCCEEDED)
    assert (failed[0].state, failed[1]) == (RunState.FAILED, RunState.SKIPPED)


def test_a_run_that_could_not_start_soon_enough_is_skipped(here: Node) -> None:
    due = here.store.now() - timedelta(minutes=10)
    policy = Policy(misfire=timedelta(minutes=5))
    step = here.step(here.job("pass"))

    late = here.ended(here.queue(step, policy=policy, due_at=due, not_before=due, trigger=Trigger.SCHEDULE))
    caught_up = here.ended(here.queue(step, policy=policy, due_at=due, not_before=due, trigger=Trigger.CATCH_UP))

    assert (late.state, late.skip_reason) == (RunState.SKIPPED, SkipReason.MISFIRE)
    assert re.fullmatch(r"could not be started until 1\dm(\d+s)? after it was due; misfire is 5m", late.reason or "")
    assert caught_up.state is RunState.SUCCEEDED


def test_two_runs_of_one_entry_do_not_overlap(here: Node, tmp_path: Path) -> None:
    body = """
    with open(params.into, "a") as file:
        file.write("in ")
        file.flush()
        time.sleep(0.1)
        file.write("out ")
    """
    into, entry = tmp_path / "trace", f"entry-{uuid.uuid4().hex}"
    step = here.step(here.job(body), {"into": str(into)})

    for run_id in [here.queue(step, entry=entry) for _ in range(3)]:
        here.ended(run_id)

    assert into.read_text() == "in out " * 3


def test_a_job_that_is_gone_fails_its_step(here: Node) -> None:
    run = here.ended(here.queue(here.step("vanished")))

    assert (run.state, run.reason) == (RunState.FAILED, 'there is no job named "vanished"')
    assert run.steps[0].attempts == ()


def test_a_run_whose_claim_was_taken_away_is_stopped_and_not_called_a_success(here: Node, tmp_path: Path) -> None:
    into = tmp_path / "pid"
    body = "Path(params.into).write_text(str(os.getpid()))\ntime.sleep(60)"
    run_id = here.queue(here.step(here.job(body), {"into": str(into)}))
    pid = here.running(run_id).pid
    assert pid is not None

    here.store.runs.mark_lost(run_id, here.run(run_id).fence, "settled by another node", here.store.now())
    here.executor.wake()

    from support.nodes import is_alive

    wait_for(lambda: not is_alive(pid), "it is stopped")
    wait_for(lambda: run_id not in here.executor.running, "it is let go")
    assert here.run(run_id).state is RunState.LOST
    assert only(here.run(run_id)).state.value == "lost"
