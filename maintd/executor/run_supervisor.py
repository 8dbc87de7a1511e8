"""One run from its claim to its end: which steps run, when to wait, when to stop, and what is written about it.

1. Too late, or what it depends on has not succeeded: skipped.
2. The steps in order, until one fails (`on_failure`), the run's own time is over or somebody stops it.
3. The steps that always run, with their own time, whatever happened before.
4. The verdict.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from maintd.errors import StoreError
from maintd.executor.cancellation import CancelToken
from maintd.executor.means import Means, Writes
from maintd.executor.outcome import BAD, RunVerdict, StepOutcome, StopKind, Stopped, judge_run
from maintd.executor.step_runner import StepRun
from maintd.model.entry import OnFailure, StepPlan
from maintd.model.run import Run, RunState, SkipReason, Step, StepState, Trigger
from maintd.model.run_updates import RunFinished, RunRequeued, StepFinished
from maintd.units import format_duration

log = structlog.get_logger()


class Supervisor:
    """Supervises one run that this process has claimed. `supervise` returns when all is over and written down."""

    def __init__(
        self,
        run: Run,
        means: Means,
        writes: Writes,
        stop: CancelToken,
        *,
        folder: str,
        started: Callable[[], None] = lambda: None,
    ) -> None:
        """`folder` is the run's own below the artifacts and the work folder.

        `started` is called when an attempt has its process, or a step waits for something.
        """
        self._run = run
        self._means = means
        self._writes = writes
        self._stop = stop
        self._folder = folder
        self._started = started
        self._ends_at = time.monotonic() + run.policy.timeout.total_seconds()
        self._stopped: Stopped | None = None
        self._outcomes: dict[int, StepOutcome] = {}
        self._begun = False

    def supervise(self) -> RunFinished | RunRequeued | None:
        """The run's end as it was written; None when the claim was over and there was no end to write."""
        try:
            end = self._supervise()
        except Exception as error:  # the border: what goes wrong here must end as a row, not as a thread that is gone
            log.exception("supervisor_failed", run=self._run.id)
            reason = f"maintd itself failed: {type(error).__name__}: {error}"
            end = RunFinished(state=RunState.FAILED, at=self._means.now(), reason=reason)
        if end is not None:
            self._writes.add(end)
        return end

    def _supervise(self) -> RunFinished | RunRequeued | None:
        refusal = self._too_late() or self._without_dependency()
        if refusal is not None:
            return self._end(refusal)
        plan = list(enumerate(self._run.plan))
        for index, step in plan:
            if not step.always and not self._take_step(index, step, last=False):
                break
        if self._stopped is not None and self._stopped.kind is StopKind.LOST:
            return None
        if not self._begun and self._may_be_put_back():
            reason = f"node {self._means.settings.node} is shutting down"
            return RunRequeued(at=self._means.now(), not_before=self._means.now(), reason=reason)
        for index, step in plan:
            if not step.always and index not in self._outcomes:
                self._leave_out(index, step)
        self._stop.clean_up()
        for index, step in plan:
            if step.always:
                self._take_step(index, step, last=True)
        lost = self._stop.asked
        if lost is not None and lost.kind is StopKind.LOST:
            return None
        return self._end(judge_run([self._outcomes[index] for index, _ in plan], self._stopped))

    def _end(self, verdict: RunVerdict) -> RunFinished:
        return RunFinished(
            state=verdict.state, at=self._means.now(), reason=verdict.reason, skip_reason=verdict.skip_reason
        )

    # --- before the first step ---

    def _too_late(self) -> RunVerdict | None:
        run, most = self._run, self._run.policy.misfire
        if most is None or run.due_at is None or self._has_begun_before():
            return None
        # One that is caught up is late by its nature; how late is what the catch-up window is about.
        since = run.queued_at if run.trigger is Trigger.CATCH_UP else max(run.due_at, run.not_before)
        late = self._means.now() - since
        if late <= most:
            return None
        text = f"could not be started until {_rough(late)} after it was due; misfire is {format_duration(most)}"
        return RunVerdict(RunState.SKIPPED, text, SkipReason.MISFIRE)

    def _without_dependency(self) -> RunVerdict | None:
        after = self._run.policy.after
        if after is None or self._means.store is None or self._has_begun_before():
            return None
        try:
            recent, last = self._means.success_within(after.entry, after.within)
        except StoreError as error:
            text = f'whether "{after.entry}" succeeded within {format_duration(after.within)} is unknown: {error}'
            return RunVerdict(RunState.SKIPPED, text, SkipReason.DEPENDENCY)
        if recent is not None:
            return None
        when = "it never succeeded"
        if last is not None and last.finished_at is not None:
            when = f"its last success is run {last.id}, {_rough(self._means.now() - last.finished_at)} ago"
        text = f'needs a success of "{after.entry}" within {format_duration(after.within)}; {when}'
        return RunVerdict(RunState.SKIPPED, text, SkipReason.DEPENDENCY)

    def _has_begun_before(self) -> bool:
        return any(step.state is not StepState.PENDING for step in self._run.steps)

    def _may_be_put_back(self) -> bool:
        if self._has_begun_before() or self._outcomes:
            return False
        return self._means.draining() and (self._stopped is None or self._stopped.kind is StopKind.SHUTDOWN)

    # --- steps ---

    def _take_step(self, index: int, step: StepPlan, *, last: bool) -> bool:
        """Run a step; whether the next one is to run too."""
        before = self._known(index)
        if before is not None and before.state not in (StepState.PENDING, StepState.RUNNING):
            self._outcomes[index] = StepOutcome(step.name, before.state, before.reason)
            return before.state not in BAD
        if not last and self._is_over():
            return False
        running = StepRun(
            self._run,
            index,
            step,
            self._means,
            self._writes,
            self._stop,
            folder=self._folder,
            started=self._started,
            ends_at=None if last else self._ends_at,
            may_give_back=not last and not self._has_begun_before() and not self._outcomes,
        )
        outcome = running.make()
        self._begun = self._begun or running.begun
        if outcome is None:  # given back before it had begun
            return False
        self._outcomes[index] = outcome
        if running.stopped is not None and not last:
            self._stopped = running.stopped
            return False
        on_failure = step.on_failure or self._run.policy.on_failure
        return last or outcome.state not in BAD or on_failure is OnFailure.CONTINUE

    def _known(self, index: int) -> Step | None:
        return self._run.steps[index] if index < len(self._run.steps) else None

    def _is_over(self) -> bool:
        """Whether no further step may begin."""
        if self._stop.asked is not None:
            self._stopped = self._stop.asked
        elif time.monotonic() >= self._ends_at:
            timeout = format_duration(self._run.policy.timeout)
            self._stopped = Stopped(StopKind.TIMED_OUT, f"the run's {timeout} timeout")
        return self._stopped is not None or (not self._begun and self._means.draining() and not self._outcomes)

    def _leave_out(self, index: int, step: StepPlan) -> None:
        bad = next((outcome for outcome in self._outcomes.values() if outcome.state in BAD), None)
        if self._stopped is not None:
            how = "stopped after" if self._stopped.kind is StopKind.TIMED_OUT else "cancelled by"
            reason = f"the run was {how} {self._stopped.reason}"
        else:
            reason = f'"{bad.name}" before it {bad.state.replace("_", " ")}' if bad is not None else "not reached"
        ended = StepFinished(step=index, state=StepState.SKIPPED, at=self._means.now(), reason=reason)
        self._writes.add(ended, soon=False)
        self._outcomes[index] = StepOutcome(step.name, StepState.SKIPPED, reason)


def _rough(age: timedelta) -> str:
    return format_duration(timedelta(seconds=max(1, round(age.total_seconds()))))
