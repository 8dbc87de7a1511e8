"""Procedures that silence alerts and halt a service, broken at each boundary, by a real executor.

Whatever happens: the service is never unhalted unless it was verified or nothing was changed, and no silence is left.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from support.halting import TradingService, trading_service
from support.job_runs import JOBS
from support.nodes import Node, node
from support.servers.base import wait_for
from support.servers.prometheus import WebServer
from support.servers.redis import RedisServer

from maintd.clients.alertmanager import connect
from maintd.job.description import load_job
from maintd.model.entry import Gate, OnFailure, Policy, StepPlan, When
from maintd.model.run import DecisionKind, GateDecision, Run, RunState, StepState
from maintd.model.target import Targets
from maintd.store.gates import end_wait

pytestmark = pytest.mark.server

UNDO = Policy(on_failure=OnFailure.UNDO, lock_wait=timedelta(seconds=60))
SHIPPED = ("service_halt", "service_unhalt", "alerts_silence", "alerts_unsilence", "window_watch")


@dataclass
class Window:
    """A node, a service and an Alertmanager, and the steps of a procedure that works on them."""

    node: Node
    service: TradingService
    server: WebServer

    def steps(self, *middle: StepPlan) -> list[StepPlan]:
        """Silence and halt, then these, then unhalt and unsilence; `work` changes something, `verify` verifies."""
        halted: dict[str, Any] = {
            "verified_by": ["verify"],
            "unchanged_before": ["work"],
            "pause": "0s",
            "within": "2s",
        }
        silenced = {"prove": False, "grace": "0s"}
        step = self.node.step
        return [
            step("alerts_silence", {"matchers": ['service="orders"'], "lasts": "10m", "grace": "0s"}),
            step("service_halt", {"within": "2s"}),
            *middle,
            step("service_unhalt", halted, name="undo-halt", undoes="service_halt"),
            step("alerts_unsilence", silenced, name="undo-silence", undoes="alerts_silence"),
            step("service_unhalt", halted, name="unhalt", always=True, when=When.SUCCEEDED),
            step("alerts_unsilence", silenced, name="unsilence", always=True),
        ]

    def plain(self, name: str, body: str = "ctx.check('done', 1, equals=1)") -> StepPlan:
        return self.node.step(self.node.job(body), name=name)

    def run(self, *middle: StepPlan) -> Run:
        return self.node.ended(self.node.queue(*self.steps(*middle), policy=UNDO))

    def watch(self) -> Run:
        return self.node.ended(self.node.queue(self.node.step("window_watch", {"grace": "0s", "within": "2s"})))

    @property
    def silences(self) -> list[str]:
        server = connect(Targets.model_validate(self.targets()).alertmanager["main"])
        return [silence.comment for silence in server.silences() if silence.state == "active"]

    def targets(self, **columns: Any) -> dict[str, Any]:
        return self.service.targets(**columns) | {"alertmanager": {"main": {"url": self.server.url}}}

    def waiting(self, run_id: int) -> None:
        wait_for(lambda: self.node.run(run_id).state is RunState.WAITING, f"run {run_id} waits")

    def approve(self, run_id: int) -> None:
        decision = GateDecision(step=0, kind=DecisionKind.APPROVED, by="ada", at=self.node.store.now())
        assert self.node.store.write(lambda conn: end_wait(conn, run_id, decision, StepState.SUCCEEDED, "by ada"))
        self.node.executor.wake()


@pytest.fixture(scope="module")
def window_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("window")) as made:
        made.jobs.update({name: load_job(JOBS / f"{name}.py").description for name in SHIPPED})
        yield made


@pytest.fixture
def window(window_node: Node, redis_server: RedisServer, alertmanager_server: WebServer) -> Iterator[Window]:
    with trading_service(redis_server) as service:
        found = Window(window_node, service, alertmanager_server)
        window_node.targets = Targets.model_validate(found.targets())
        yield found


BROKEN = "raise RuntimeError('broken')"


def gate() -> StepPlan:
    return StepPlan(name="gate", job="", gate=Gate(ask="Is it done?"), mutates=False)


def states(run: Run) -> dict[str, str]:
    return {step.name: step.state.value for step in run.steps}


def test_a_clean_window_is_halted_and_silenced_at_its_gate_over_midnight_and_verified_before_it_runs_again(
    window: Window,
) -> None:
    run_id = window.node.queue(*window.steps(gate(), window.plain("work"), window.plain("verify")), policy=UNDO)
    window.waiting(run_id)
    assert (window.service.halted, [text.partition(":")[0] for text in window.silences]) == (
        True,
        [f"maintd, run {run_id}"],
    )
    window.service.pass_midnight()
    assert not window.service.halted

    watched = window.watch()

    assert (watched.state, window.service.halted, len(window.silences)) == (RunState.WARNED, True, 1)
    window.approve(run_id)
    run = window.node.ended(run_id)
    assert (run.state, window.service.halted, window.silences) == (RunState.SUCCEEDED, False, []), run.reason
    assert window.service.requests == ["/admin/halt", "/admin/halt", "/admin/unhalt"]
    assert window.watch().state is RunState.SUCCEEDED
    assert not window.service.halted, "what has ended is not halted again"


def test_a_failure_before_anything_was_changed_is_undone_and_the_service_runs_again(window: Window) -> None:
    run = window.run(window.plain("backup", BROKEN), window.plain("work"), window.plain("verify"))

    assert run.state is RunState.FAILED
    assert run.reason.endswith("undone: service_halt, alerts_silence")
    assert (window.service.halted, window.silences) == (False, [])


@pytest.mark.parametrize("broken", ["work", "verify"])
def test_a_failure_after_a_change_leaves_it_halted_with_the_reason_without_a_silence(
    window: Window, broken: str
) -> None:
    work, verify = (window.plain(name, BROKEN if name == broken else "pass") for name in ("work", "verify"))
    run = window.run(work, verify)

    assert run.state is RunState.FAILED
    assert run.reason.endswith("NOT undone: service_halt")
    assert states(run)["unhalt"] == "skipped"
    assert (window.service.halted, window.silences) == (True, [])


def test_a_verification_that_is_unknown_leaves_it_halted(window: Window) -> None:
    verify = window.plain("verify", "ctx.unknown('answers', 'no answer')")
    run = window.run(window.plain("work"), verify)

    assert (run.state, states(run)["unhalt"]) == (RunState.UNKNOWN, "skipped")
    assert (window.service.halted, window.silences) == (True, [])


def test_a_service_that_was_halted_before_the_window_is_halted_after_it(window: Window) -> None:
    window.service.set(halted=True)
    run = window.run(window.plain("work"), window.plain("verify"))

    assert (run.state, window.service.halted, window.service.requests) == (RunState.WARNED, True, [])
    assert window.silences == []


@pytest.mark.parametrize("fault", ["error before", "nothing", "denied"])
def test_a_service_that_does_not_halt_keeps_the_work_from_being_done(window: Window, fault: str) -> None:
    window.service.fault = fault
    run = window.run(window.plain("work"), window.plain("verify"))

    assert (run.state, states(run)["work"], window.silences) == (RunState.FAILED, "skipped", [])
    assert run.reason.endswith("undone: service_halt, alerts_silence"), "there is nothing to take back"


@pytest.mark.parametrize("fault", ["error before", "nothing", "denied"])
def test_a_service_that_does_not_unhalt_is_a_failed_run(window: Window, fault: str) -> None:
    run_id = window.node.queue(*window.steps(gate(), window.plain("work"), window.plain("verify")), policy=UNDO)
    window.waiting(run_id)
    window.service.fault = fault
    window.approve(run_id)
    run = window.node.ended(run_id)

    assert (run.state, states(run)["unhalt"]) == (RunState.FAILED, "failed")
    assert (window.service.halted, window.silences) == (True, [])


def killed(window: Window, run_id: int, index: int) -> None:
    """Kill the process of this step with SIGKILL."""

    def pid() -> int | None:
        attempts = window.node.run(run_id).steps[index].attempts
        return attempts[-1].pid if attempts else None

    os.kill(wait_for(pid, "the step has a process"), signal.SIGKILL)


def test_a_job_that_is_killed_after_it_halted_is_undone(window: Window) -> None:
    window.node.targets = Targets.model_validate(window.targets(timeout="5m"))
    window.service.fault = "hang after"
    run_id = window.node.queue(*window.steps(window.plain("work"), window.plain("verify")), policy=UNDO)
    wait_for(lambda: window.service.requests, "the request was sent")
    wait_for(lambda: window.service.halted, "it has its effect")
    wait_for(lambda: window.node.run(run_id).handed, "what it was before is recorded")
    window.service.fault = ""

    killed(window, run_id, 1)

    run = window.node.ended(run_id)
    assert run.reason.endswith("undone: service_halt, alerts_silence"), run.reason
    assert (window.service.halted, window.silences) == (False, [])


def test_a_job_that_is_killed_after_it_unhalted_is_a_failed_run_that_is_known_to_be_running(window: Window) -> None:
    run_id = window.node.queue(*window.steps(gate(), window.plain("work"), window.plain("verify")), policy=UNDO)
    window.waiting(run_id)
    window.node.targets = Targets.model_validate(window.targets(timeout="5m"))
    window.service.fault = "hang after"
    window.approve(run_id)
    wait_for(lambda: "/admin/unhalt" in window.service.requests, "the request was sent")
    wait_for(lambda: not window.service.halted, "it has its effect")

    killed(window, run_id, -2)

    run = window.node.ended(run_id)
    assert (run.state, states(run)["verify"], window.silences) == (RunState.FAILED, "succeeded", [])
    change = run.steps[-2].attempts[-1].changes[0]
    assert (change.action, change.state.value) in {("unhalt", "uncertain"), ("unhalt", "intended")}


def test_a_lost_run_keeps_its_service_halted_and_its_silence_is_ended(window: Window) -> None:
    run_id = window.node.queue(
        *window.steps(window.plain("work", "time.sleep(600)"), window.plain("verify")), policy=UNDO
    )
    window.node.running(run_id)
    wait_for(lambda: window.node.run(run_id).steps[2].state is StepState.RUNNING, "the work has begun")
    run = window.node.run(run_id)
    assert window.node.store.runs.mark_lost(run_id, run.fence, "the node is gone", window.node.store.now())
    window.service.pass_midnight()

    try:
        watched = window.watch()

        assert watched.state is RunState.WARNED, watched.reason
        assert (window.service.halted, window.silences) == (True, [])
        assert window.node.run(run_id).held
    finally:  # it holds the locks of the others, too
        now = window.node.store.now()
        assert window.node.store.successors.release(run_id, by="ada", origin="", why="test", now=now)
