"""One run from its claim to its end: which steps run, when to wait, when to stop, and what is recorded about it.

1. Started too late, frozen, with a window at the wrong time, or what it depends on has not succeeded: skipped.
2. The steps in order, until one fails (`on_failure`), the time of the run or of its window is over, or a stop is
   requested. At a gate the claim ends; after a decision, a later claim continues after the gate.
3. With `on_failure: undo` and a failure: the undo steps of the steps that had started, in reverse order.
4. The steps that always run, with their own time, if their `when` is met.
5. The outcome.

A later claim of the same run takes the steps that have ended from the store, and so does a run that resumes or undoes
another one.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from maintd.errors import StoreError
from maintd.executor.outcome import BAD, RunOutcome, StepOutcome, StopKind, Stopped, evaluate_run
from maintd.executor.procedure import always_steps, has_failed, main_steps, needs_undo, undo_steps, when_not_met
from maintd.executor.run_context import RunContext
from maintd.executor.step_runner import StepRunner, missing_target
from maintd.model.entry import Gate, OnFailure, StepPlan
from maintd.model.job import JobDescription
from maintd.model.run import Run, RunState, SkipReason, Step, StepState, Trigger
from maintd.model.run_updates import RunFinished, RunRequeued, RunWaiting, StepFinished
from maintd.operations.successor_plan import passes_freezes
from maintd.operations.windows import across_text
from maintd.present import utc_minute
from maintd.present.freezes import freeze_text
from maintd.schedule.freezes import freeze_covering, mutates
from maintd.units import format_duration

log = structlog.get_logger()

RunEnd = RunFinished | RunRequeued | RunWaiting
"""How a claim ends."""

FREEZE_POLL = timedelta(minutes=1)
"""After which a run that waits for the end of a freeze looks again: it can be ended early."""

_NOT_ENDED = frozenset({StepState.PENDING, StepState.RUNNING, StepState.WAITING})


class RunSupervisor:
    """Supervises one run that this process has claimed. `supervise` returns when the run's end is written."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._run = context.run
        self._window_ends_at = rollback_point(context.run, context.now())
        self._ends_at, self._end_name = self._end()
        self._handed = {value.name: value.value for value in context.run.handed}
        self._saved = {
            artifact.name for step in context.run.steps for attempt in step.attempts for artifact in attempt.artifacts
        }
        self._when_not_met: set[int] = set()
        self._stopped: Stopped | None = None
        self._outcomes: dict[int, StepOutcome] = {}
        self._started = False

    def supervise(self) -> RunEnd | None:
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

    def _end(self) -> tuple[float, str]:
        """When the steps must be over, on the monotonic clock, and the name of that limit.

        The time of the steps that ended before this claim counts. That of gates, and of steps that were taken over from
        another run, does not.
        """
        timeout = self._run.policy.timeout
        own = [step for step in self._run.steps if step.gate is None and not self._run.took_over(step)]
        spent = sum(map(_duration, own), timedelta(0))
        left, name = timeout - spent, f"the run's {format_duration(timeout)} timeout"
        if self._window_ends_at is not None:
            to_window = self._window_ends_at - self._context.now()
            if to_window < left:
                window = self._run.policy.window
                before = format_duration(window.rollback_by) if window is not None else ""
                left, name = to_window, f"its window's last moment for work, {before} before its end"
        return time.monotonic() + left.total_seconds(), name

    def _supervise(self) -> RunEnd | None:
        waits = self._waits_for_freeze()
        if waits is not None:
            return waits
        refusal = (
            self._not_configured() or self._too_late() or self._frozen() or self._across() or self._without_dependency()
        )
        if refusal is not None:
            return self._finished(refusal)
        plan = self._run.plan
        for index, step in main_steps(plan):
            if step.gate is not None:
                waiting = self._reach_gate(index, step.gate)
                if waiting is not None:
                    return waiting
            elif not self._run_step(index, step):
                break
            if self._is_decided_against(index):
                break
        if self._stopped is not None and self._stopped.kind is StopKind.LOST:
            return None
        if self._is_to_requeue():
            reason = f"node {self._context.settings.node} is shutting down"
            return RunRequeued(at=self._context.now(), not_before=self._context.now(), reason=reason)
        for index, step in main_steps(plan):
            if index not in self._outcomes and not self._take_over(index):
                self._skip_step(index, step)
        self._context.cancel.start_cleanup()
        undoes = self._undoes()
        for index, step in undo_steps(plan):
            before = self._before(index)
            left_by = None if before is None else before.left_by
            if undoes and needs_undo(step, plan, self._outcomes, left_by):
                self._run_step(index, step)
            else:
                self._skip(index, step, "nothing is to be undone")
        for index, step in always_steps(plan):
            why_not = when_not_met(step, index, plan, self._outcomes)
            if why_not:
                self._skip(index, step, why_not, when_not_met=True)
            else:
                self._run_step(index, step)
        requested = self._context.cancel.requested
        if requested is not None and requested.kind is StopKind.LOST:
            return None
        return self._finished(self._evaluate())

    def _evaluate(self) -> RunOutcome:
        plan = self._run.plan
        counted = [
            index
            for index in range(len(plan))
            if not (self._run.trigger is Trigger.UNDO and not plan[index].always and not plan[index].undoes)
        ]
        undone = {index for index, step in undo_steps(plan) if self._outcomes[index].state is not StepState.SKIPPED}
        left_out = {index for index, _ in undo_steps(plan)} - undone
        outcome = evaluate_run(
            [self._outcomes[index] for index in counted if index not in left_out | self._when_not_met], self._stopped
        )
        if not undone or self._run.trigger is Trigger.UNDO:
            return outcome
        failed = [plan[index].undoes for index in sorted(undone) if not self._outcomes[index].state.is_success]
        if failed:
            return replace(outcome, reason=f"{outcome.reason}; NOT undone: {', '.join(failed)}")
        return replace(outcome, reason=f"{outcome.reason}; undone: {', '.join(plan[i].undoes for i in sorted(undone))}")

    def _undoes(self) -> bool:
        """Whether the undo steps run."""
        if self._run.trigger is Trigger.UNDO:
            return True
        return self._run.policy.on_failure is OnFailure.UNDO and (
            self._stopped is not None or has_failed(self._run.plan, self._outcomes)
        )

    # --- gates ---

    def _reach_gate(self, index: int, gate: Gate) -> RunWaiting | None:
        """Note how a gate was decided; for one that is not yet, end the claim so that the run waits there."""
        if self._take_over(index):
            return None
        if self._is_over() or self._run.trigger is Trigger.UNDO:
            return None
        now = self._context.now()
        if self._run.dry_run:
            name, reason = self._run.plan[index].name, "not asked in a dry run"
            self._context.updates.add(StepFinished(step=index, state=StepState.SUCCEEDED, at=now, reason=reason))
            self._outcomes[index] = StepOutcome(name, StepState.SUCCEEDED)
            return None
        if self._ends_without_table(index, gate):
            return None
        if self._run.policy.hold_locks and not self._hold_locks(index):
            return None
        now = self._context.now()
        until = now + gate.timeout
        if self._window_ends_at is not None:
            until = min(until, self._window_ends_at)
        return RunWaiting(step=index, at=now, until=until, reason=gate_text(gate))

    def _ends_without_table(self, index: int, gate: Gate) -> bool:
        """End a gate at which nothing can be decided: no earlier step has saved the table that it is about.

        It is skipped where every step before it was, and fails otherwise. What a step saved in the run that this one
        resumes is not known here, so the gate then waits.
        """
        before = self._run.steps[:index]
        if not gate.decisions or gate.decisions in self._saved or any(map(self._run.took_over, before)):
            return False
        name = self._run.plan[index].name
        outcomes = [self._outcomes[place] for place, _ in main_steps(self._run.plan) if place < index]
        is_skipped = bool(outcomes) and all(outcome.not_configured for outcome in outcomes)
        state = StepState.SKIPPED if is_skipped else StepState.FAILED
        reason = f"no step before it has saved {gate.decisions}, so that there is nothing to decide"
        self._context.updates.add(StepFinished(step=index, state=state, at=self._context.now(), reason=reason))
        self._outcomes[index] = StepOutcome(name, state, reason, is_skipped)
        return True

    def _hold_locks(self, index: int) -> bool:
        """Acquire the locks of all steps before the run waits at a gate. False: the gate has failed, or the run is to
        be requeued."""
        runner = self._runner(index, cleanup=False)
        outcome = runner.hold_locks()
        self._stopped = runner.stopped or self._stopped
        if outcome is not None:
            self._outcomes[index] = outcome
        return runner.holds_locks

    def _is_decided_against(self, index: int) -> bool:
        """Whether the gate with this index was rejected, skipped, timed out or not reached."""
        if self._run.plan[index].gate is None:
            return False
        outcome = self._outcomes.get(index)
        return outcome is None or outcome.state in BAD or outcome.state is StepState.SKIPPED

    def _finished(self, outcome: RunOutcome) -> RunFinished:
        return RunFinished(
            state=outcome.state, at=self._context.now(), reason=outcome.reason, skip_reason=outcome.skip_reason
        )

    # --- before the first step ---

    def _not_configured(self) -> RunOutcome | None:
        """Why nothing of the run starts: a step without which the others prove nothing has no target."""
        if self._has_started_before():
            return None
        for step in self._run.plan:
            job = self._context.jobs().get(step.job) if step.required else None
            missing = missing_target(job, self._context.targets()) if isinstance(job, JobDescription) else ""
            if missing:
                reason = f"{step.name}: {missing.removeprefix('not configured: ')}"
                return RunOutcome(RunState.SKIPPED, reason, SkipReason.NOT_CONFIGURED)
        return None

    def _too_late(self) -> RunOutcome | None:
        run, most = self._run, self._run.policy.misfire
        if self._has_started_before():
            return None
        if run.window_from is not None and self._window_ends_at is not None:
            return self._without_time_for_work(run.window_from, self._window_ends_at)
        if most is None or run.due_at is None:
            return None
        # One that is caught up is late by its nature; how late is what the catch-up window is about.
        since = run.queued_at if run.trigger is Trigger.CATCH_UP else max(run.due_at, run.not_before)
        late = self._context.now() - since
        if late <= most:
            return None
        text = f"could not be started until {_rough(late)} after it was due; misfire is {format_duration(most)}"
        return RunOutcome(RunState.SKIPPED, text, SkipReason.MISFIRE)

    def _without_time_for_work(self, start: datetime, end: datetime) -> RunOutcome | None:
        """Why a run that was planned does not start: its window, which was announced, leaves no time for work."""
        now = self._context.now()
        if now < end:
            return None
        text = f"could not be started until {_rough(now - start)} after its planned start at {utc_minute(start)}; "
        return RunOutcome(RunState.SKIPPED, f"{text}its window left no time for work", SkipReason.MISFIRE)

    def _frozen(self) -> RunOutcome | None:
        """Why a run that would change something does not start now; one that has started goes on."""
        run = self._run
        if run.dry_run or run.emergency or self._has_started_before() or not mutates(run.plan):
            return None
        now = self._context.now()
        try:
            freeze = freeze_covering(self._context.freezes(now), run.entry, now)
        except StoreError as error:
            return RunOutcome(RunState.SKIPPED, f"whether it is frozen is unknown: {error}", SkipReason.FROZEN)
        return None if freeze is None else RunOutcome(RunState.SKIPPED, freeze_text(freeze), SkipReason.FROZEN)

    def _waits_for_freeze(self) -> RunRequeued | None:
        """A run that resumes another one and has run no step itself waits for the end of a freeze, with its locks."""
        run = self._run
        own = any(step.state is not StepState.PENDING and not run.took_over(step) for step in run.steps)
        if run.trigger is not Trigger.RESUME or own or run.cancel_requested or passes_freezes(run):
            return None
        now = self._context.now()
        try:
            freeze = freeze_covering(self._context.freezes(now), run.entry, now)
        except StoreError:
            return None  # as when it was requested: the store answered then
        if freeze is None:
            return None
        again = now + FREEZE_POLL if freeze.until is None else min(freeze.until, now + FREEZE_POLL)
        return RunRequeued(at=now, not_before=again, reason=f"resumes after the freeze: {freeze_text(freeze)}")

    def _across(self) -> RunOutcome | None:
        """Why the window of the run must not begin now; one that has begun goes on."""
        start = self._run.window_from or self._context.now()
        text = "" if self._has_started_before() else across_text(self._run.policy, start)
        return RunOutcome(RunState.SKIPPED, text, SkipReason.WINDOW) if text else None

    def _without_dependency(self) -> RunOutcome | None:
        after = self._run.policy.after
        if after is None or self._context.store is None or self._has_started_before():
            return None
        try:
            if after.if_configured and not self._context.is_in_use(after.entry):
                return None
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
        """Whether a step of it, or of the run that it follows, was started."""
        follows = self._run.trigger in (Trigger.RESUME, Trigger.UNDO)
        return follows or any(step.state is not StepState.PENDING for step in self._run.steps)

    def _is_to_requeue(self) -> bool:
        """Whether this claim has started nothing, and the node shuts down."""
        if self._started or any(step.state is StepState.RUNNING for step in self._run.steps):
            return False
        if len(self._outcomes) == len(main_steps(self._run.plan)):
            return False
        return self._context.draining() and (self._stopped is None or self._stopped.kind is StopKind.SHUTDOWN)

    def _before(self, index: int) -> Step | None:
        """The step as an earlier claim left it."""
        return self._run.steps[index] if index < len(self._run.steps) else None

    # --- steps ---

    def _take_over(self, index: int) -> bool:
        """Note the outcome of a step that ended before this claim; whether it did."""
        before = self._before(index)
        if before is None or before.state in _NOT_ENDED:
            return False
        skipped = before.state is StepState.SKIPPED
        # That a gate was approved, or a step taken over, is no remark about a success; that it was retried is one.
        remark = before.gate is None and not self._run.took_over(before)
        reason = before.reason if remark or before.state is not StepState.SUCCEEDED else ""
        self._outcomes[index] = StepOutcome(before.name, before.state, reason, skipped)
        return True

    def _run_step(self, index: int, step: StepPlan) -> bool:
        """Run a step; whether the next one is to run too."""
        if self._take_over(index):
            return self._outcomes[index].state not in BAD or self._continues_after(step)
        cleanup = step.always or bool(step.undoes)
        if not cleanup and self._run.trigger is Trigger.UNDO:
            return False
        if not cleanup and self._is_over():
            return False
        runner = self._runner(index, cleanup=cleanup)
        outcome = runner.run()
        self._started = self._started or runner.started
        if outcome is None:  # the run is to be requeued
            return False
        self._outcomes[index] = outcome
        self._handed.update(runner.handed_over)
        self._saved |= runner.saved
        if runner.stopped is not None and not cleanup:
            self._stopped = runner.stopped
            return False
        return cleanup or outcome.state not in BAD or self._continues_after(step)

    def _runner(self, index: int, *, cleanup: bool) -> StepRunner:
        return StepRunner(
            self._context,
            index,
            ends_at=None if cleanup else self._ends_at,
            end_name=self._end_name,
            may_requeue=not cleanup and not self._started,
            handed=self._handed,
            outcomes={outcome.name: outcome.state.value for outcome in self._outcomes.values()},
        )

    def _continues_after(self, step: StepPlan) -> bool:
        return (step.on_failure or self._run.policy.on_failure) is OnFailure.CONTINUE

    def _is_over(self) -> bool:
        """Whether no further step may start."""
        if self._context.cancel.requested is not None:
            self._stopped = self._context.cancel.requested
        elif time.monotonic() >= self._ends_at:
            self._stopped = Stopped(StopKind.TIMED_OUT, self._end_name)
        return self._stopped is not None or (not self._started and self._context.draining())

    def _skip_step(self, index: int, step: StepPlan) -> None:
        bad = next((outcome for outcome in self._outcomes.values() if outcome.state in BAD), None)
        skipped_gate = next(
            (each for place, each in self._outcomes.items() if self._run.plan[place].gate and each.not_configured), None
        )
        if self._stopped is not None:
            how = "stopped after" if self._stopped.kind is StopKind.TIMED_OUT else "cancelled by"
            reason = f"the run was {how} {self._stopped.reason}"
        elif bad is not None:
            reason = f'"{bad.name}" before it {bad.state.replace("_", " ")}'
        elif skipped_gate is not None:
            reason = f'"{skipped_gate.name}" before it was skipped'
        else:
            reason = "not reached"
        self._skip(index, step, reason, not_configured=skipped_gate is not None)

    def _skip(
        self, index: int, step: StepPlan, reason: str, *, when_not_met: bool = False, not_configured: bool = False
    ) -> None:
        finished = StepFinished(step=index, state=StepState.SKIPPED, at=self._context.now(), reason=reason)
        self._context.updates.add(finished, soon=False)
        self._outcomes[index] = StepOutcome(step.name, StepState.SKIPPED, reason, not_configured)
        if when_not_met:
            self._when_not_met.add(index)


def rollback_point(run: Run, now: datetime) -> datetime | None:
    """When the work of a run must be over, so that there is time for undoing it within the window."""
    window = run.policy.window
    return None if window is None else (run.window_began or now) + window.lasts - window.rollback_by


def gate_text(gate: Gate) -> str:
    """What a run at this gate waits for."""
    text = f"waits for approval by an {gate.approve.role}"
    return f"{text}: {gate.ask}" if gate.ask else text


def _duration(step: Step) -> timedelta:
    if step.started_at is None or step.finished_at is None:
        return timedelta(0)
    return max(timedelta(0), step.finished_at - step.started_at)


def _rough(age: timedelta) -> str:
    return format_duration(timedelta(seconds=max(1, round(age.total_seconds()))))
