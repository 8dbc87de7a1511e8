"""Random sequences of calls that change a run's state, against the table of allowed transitions."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule
from support.clock import ManualClock
from support.stores import NOON, at, ended, evidence, manual_run

from maintd.model.run import TRANSITIONS, AttemptState, RunState, StepState
from maintd.model.run_updates import RunRequeued
from maintd.store import Store, open_store


class Runs(RuleBasedStateMachine):
    """A few runs of two entries, and the calls that change them, in any order."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "maintd.db"
        self.store: Store = open_store(f"sqlite:///{path}", clock=ManualClock(NOON), migrate=True)
        self.states: dict[int, RunState] = {}
        self.fences: dict[int, int] = {}
        self.ended: set[tuple[int, int]] = set()
        self.minute = 0

    def teardown(self) -> None:
        self.store.close()
        self._folder.cleanup()

    def now(self) -> float:
        self.minute += 1
        return self.minute

    @rule(target=ids, entry=st.sampled_from("ab"))
    def add(self, entry: str) -> object:
        if len(self.states) >= 5:
            return multiple()
        run_id, _ = self.store.runs.add(manual_run(entry), at(self.now()))
        self.states[run_id], self.fences[run_id] = RunState.QUEUED, 0
        return run_id

    @rule(run_id=ids)
    def claim(self, run_id: int) -> None:
        now = self.now()
        run = self.store.runs.claim(run_id, "n", "i", at(now + 5), at(now))
        if run is not None:
            assert run.fence == self.fences[run_id] + 1
            self.fences[run_id] = run.fence

    @rule(run_id=ids, state=st.sampled_from(list(RunState)), behind=st.integers(0, 1))
    def end(self, run_id: int, state: RunState, behind: int) -> None:
        fence = self.fences[run_id] - behind
        done = self.store.runs.apply(run_id, fence, 1, [*evidence(), ended(state, self.now())])
        if (run_id, fence) in self.ended:
            assert done  # the same numbers were recorded before: acknowledged again, and nothing changes
        elif done:
            assert not behind and state in TRANSITIONS[self.states[run_id]] and state.final
            self.ended.add((run_id, fence))

    @rule(run_id=ids)
    def requeue(self, run_id: int) -> None:
        now = self.now()
        self.store.runs.apply(
            run_id, self.fences[run_id], 1, [RunRequeued(at=at(now), not_before=at(now), reason="busy")]
        )

    @rule(run_id=ids)
    def report(self, run_id: int) -> None:
        self.store.runs.apply(run_id, self.fences[run_id], 1, evidence()[:3])

    @rule(run_id=ids)
    def mark_lost(self, run_id: int) -> None:
        self.store.runs.mark_lost(run_id, self.fences[run_id], "silent", at(self.now()))

    @rule(run_id=ids)
    def cancel(self, run_id: int) -> None:
        self.store.runs.request_cancel(run_id, "ada", "", at(self.now()))

    @invariant()
    def every_change_is_in_the_table(self) -> None:
        running: list[str] = []
        for run_id, before in self.states.items():
            run = self.store.history.run(run_id)
            assert run is not None
            assert run.state is before or run.state in TRANSITIONS[before], f"{before} → {run.state}"
            assert run.state.final == (run.finished_at is not None)
            if run.state is not RunState.RUNNING:
                assert all(step.state is not StepState.RUNNING for step in run.steps)
                attempts = [attempt for step in run.steps for attempt in step.attempts]
                assert all(attempt.state is not AttemptState.RUNNING for attempt in attempts)
            else:
                running.append(run.entry)
            self.states[run_id] = run.state
        assert len(running) == len(set(running))


Runs.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
test_no_sequence_of_calls_makes_a_forbidden_transition = Runs.TestCase
