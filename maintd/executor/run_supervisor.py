"""One run from its claim to its end: which steps run, when to wait, when to stop, and what is recorded about it.

1. Started too late, or what it depends on has not succeeded: skipped.
2. The steps in order, until one fails (`on_failure`), the run's own time is over or a stop is requested.
3. The steps that always run, with their own time, whatever happened before.
4. The outcome.
"""

from __future__ import annotations

import time
from datetime import timedelta

import structlog

from maintd.errors import StoreError
from maintd.executor.outcome import BAD, RunOutcome, StepOutcome, StopKind, Stopped, evaluate_run
from maintd.executor.run_context import RunContext
from maintd.executor.step_runner import StepRunner
from maintd.model.entry import OnFailure, StepPlan
from maintd.model.run import RunState, SkipReason, StepState, Trigger
from maintd.model.run_updates import RunFinished, RunRequeued, StepFinished
from maintd.units import format_duration

log = structlog.get_logger()


class RunSupervisor:
    """Supervises one run that this process has claimed. `supervise` returns when the run's end is written."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._run = context.run
        self._ends_at = time.monotonic() + context.run.policy.timeout.total_seconds()
        self._stopped: Stopped | None = None
        self._outcomes: dict[int, StepOutcome] = {}
        self._started = False

    def supervise(self) -> RunFinished | RunRequeued | None:
        """Return the run's end as it was written; None when the claim was lost and there was no end to write."""
        try:
            end = self._supervise()
        except Exception as error:  # the border: an error here must end as a row, not as a thread that has died
            log.exception("supervisor_failed", run=self._run.id)
            reason = f"maintd itself failed: {type(error).__name__}: {error}"
            end = RunFinished(state=RunState.FAILED, at=self._context.now(), reason=reason)
        if end is not None:
            self._context.updates.add(end)
        return end

    def _supervise(self) -> RunFinished | RunRequeued | None:
        refusal = self._too_late() or self._without_dependency()
        if refusal is not None:
            return self._finished(refusal)
        plan = list(enumerate(self._run.plan))
        for index, step in plan:
            if not step.always and not self._run_step(index, step):
                break
        if self._stopped is not None and self._stopped.kind is StopKind.LOST:
            return None
        if not self._started and self._is_to_requeue():
            reason = f"node {self._context.settings.node} is shutting down"
            return RunRequeued(at=self._context.now(), not_before=self._context.now(), reason=reason)
        for index, step in plan:
            if not step.always and index not in self._outcomes:
                self._skip_step(index, step)
        self._context.cancel.start_cleanup()
        for index, step in plan:
            if step.always:
                self._run_step(index, step)
        requested = self._context.cancel.requested
        if requested is not None and requested.kind is StopKind.LOST:
            return None
        return self._finished(evaluate_run([self._outcomes[index] for index, _ in plan], self._stopped))

    def _finished(self, outcome: RunOutcome) -> RunFinished:
        return RunFinished(
            state=outcome.state, at=self._context.now(), reason=outcome.reason, skip_reason=outcome.skip_reason
        )

    # --- before the first step ---

    def _too_late(self) -> RunOutcome | None:
        run, most = self._run, self._run.policy.misfire
        if most is None or run.due_at is None or self._has_started_before():
            return None
        # One that is caught up is late by its nature; how late is what the catch-up window is about.
        since = run.queued_at if run.trigger is Trigger.CATCH_UP else max(run.due_at, run.not_before)
        late = self._context.now() - since
        if late <= most:
            return None
        text = f"could not be started until {_rough(late)} after it was due; misfire is {format_duration(most)}"
        return RunOutcome(RunState.SKIPPED, text, SkipReason.MISFIRE)

    def _without_dependency(self) -> RunOutcome | None:
        after = self._run.policy.after
        if after is None or self._context.store is None or self._has_started_before():
            return None
        try:
            recent, last = self._context.success_within(after.entry, after.within)
        except StoreError as error:
            text = f'whether "{after.entry}" succeeded within {format_duration(after.within)} is unknown: {error}'
            return RunOutcome(RunState.SKIPPED, text, SkipReason.DEPENDENCY)
        if recent is not None:
            return None
        when = "it never succeeded"
        if last is not None and last.finished_at is not None:
            when = f"its last success is run {last.id}, {_rough(self._context.now() - last.finished_at)} ago"
        text = f'needs a success of "{after.entry}" within {format_duration(after.within)}; {when}'
        return RunOutcome(RunState.SKIPPED, text, SkipReason.DEPENDENCY)

    def _has_started_before(self) -> bool:
        return any(step.state is not StepState.PENDING for step in self._run.steps)

    def _is_to_requeue(self) -> bool:
        if self._has_started_before() or self._outcomes:
            return False
        return self._context.draining() and (self._stopped is None or self._stopped.kind is StopKind.SHUTDOWN)

    # --- steps ---

    def _run_step(self, index: int, step: StepPlan) -> bool:
        """Run a step; whether the next one is to run too."""
        before = self._run.steps[index] if index < len(self._run.steps) else None
        if before is not None and before.state not in (StepState.PENDING, StepState.RUNNING):
            self._outcomes[index] = StepOutcome(step.name, before.state, before.reason)
            return before.state not in BAD
        if not step.always and self._is_over():
            return False
        runner = StepRunner(
            self._context,
            index,
            ends_at=None if step.always else self._ends_at,
            may_requeue=not step.always and not self._has_started_before() and not self._outcomes,
        )
        outcome = runner.run()
        self._started = self._started or runner.started
        if outcome is None:  # the run is to be requeued
            return False
        self._outcomes[index] = outcome
        if runner.stopped is not None and not step.always:
            self._stopped = runner.stopped
            return False
        on_failure = step.on_failure or self._run.policy.on_failure
        return step.always or outcome.state not in BAD or on_failure is OnFailure.CONTINUE

    def _is_over(self) -> bool:
        """Whether no further step may start."""
        if self._context.cancel.requested is not None:
            self._stopped = self._context.cancel.requested
        elif time.monotonic() >= self._ends_at:
            timeout = format_duration(self._run.policy.timeout)
            self._stopped = Stopped(StopKind.TIMED_OUT, f"the run's {timeout} timeout")
        return self._stopped is not None or (not self._started and self._context.draining() and not self._outcomes)

    def _skip_step(self, index: int, step: StepPlan) -> None:
        bad = next((outcome for outcome in self._outcomes.values() if outcome.state in BAD), None)
        if self._stopped is not None:
            how = "stopped after" if self._stopped.kind is StopKind.TIMED_OUT else "cancelled by"
            reason = f"the run was {how} {self._stopped.reason}"
        else:
            reason = f'"{bad.name}" before it {bad.state.replace("_", " ")}' if bad is not None else "not reached"
        finished = StepFinished(step=index, state=StepState.SKIPPED, at=self._context.now(), reason=reason)
        self._context.updates.add(finished, soon=False)
        self._outcomes[index] = StepOutcome(step.name, StepState.SKIPPED, reason)


def _rough(age: timedelta) -> str:
    return format_duration(timedelta(seconds=max(1, round(age.total_seconds()))))
