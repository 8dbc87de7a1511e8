"""One step of a run: its target, its locks, its attempts."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import structlog

from maintd.errors import RefusedError, StoreError
from maintd.executor.attempt import RECORD_SECONDS, AttemptSupervisor, TimeLimit
from maintd.executor.child_protocol import AttemptRequest
from maintd.executor.fork_client import TemplateError
from maintd.executor.job_user import provide_folders, remove_if_empty
from maintd.executor.outcome import (
    AttemptEvidence,
    AttemptOutcome,
    StepOutcome,
    StopKind,
    Stopped,
    evaluate_attempt,
    evaluate_step,
    retry_delay,
)
from maintd.executor.run_context import RunContext
from maintd.model.entry import AfterCrash, is_procedure, merged_locks
from maintd.model.job import JobDescription
from maintd.model.run import AttemptState, StepState
from maintd.model.run_updates import AttemptFinished, StepFinished, StepStarted, StepWaiting
from maintd.model.status import LockHolder
from maintd.model.target import Targets
from maintd.present.text import utc_second
from maintd.store.tables import HELD_BY_RUN
from maintd.units import format_duration, seconds_text

log = structlog.get_logger()

LOCK_INTERVAL = timedelta(seconds=0.5)
"""Time between two attempts to acquire a lock that is held."""


def missing_target(job: JobDescription, targets: Targets) -> str:
    """Return which target of the job is missing, with the setting to set; empty when none is."""
    try:
        missing = job.kinds_missing(targets)
    except KeyError as error:
        return f'its job needs a target of the kind "{error.args[0]}", which does not exist'
    for need in missing:
        settings = " or ".join(f"targets.{kind}" for kind in need.split(" or "))
        article = "an" if need.startswith(("a", "e", "i", "o", "u")) else "a"
        return f"not configured: it needs {article} {need} target; set {settings} in the calendar"
    return ""


class StepRunner:
    """Runs one step. Afterwards `started` is whether an attempt was made, and `stopped` what stopped the step.

    `handed_over` are its values for later steps, by name, and `saved` the names of its artifacts.

    Of a step that is a gate, only `hold_locks` is called.
    """

    def __init__(
        self,
        context: RunContext,
        index: int,
        *,
        ends_at: float | None,
        end_name: str,
        may_requeue: bool,
        handed: Mapping[str, Any],
        outcomes: Mapping[str, str],
    ) -> None:
        """`ends_at` is the end of the steps on the monotonic clock, None for a step with its own time only; `end_name`
        is the name of that limit.

        `may_requeue`: this claim has started no step, so the run may be requeued when the node shuts down.
        `handed` are values of earlier steps by name, `outcomes` the states of earlier steps by name.
        """
        self._context = context
        self._run = context.run
        self._index = index
        self._plan = context.run.plan[index]
        self._updates = context.updates
        self._cancel = context.cancel
        self._ends_at = ends_at
        self._end_name = end_name
        self._handed = handed
        self._outcomes = outcomes
        self.handed_over: dict[str, Any] = {}
        self.saved: set[str] = set()
        self._may_requeue = may_requeue
        self._not_configured = False
        self._lapsed = False
        self.started = False
        self.holds_locks = False
        self.stopped: Stopped | None = None

    def run(self) -> StepOutcome | None:
        """Run the step and record its end; None: nothing has started, and the run is to be requeued."""
        job = self._context.jobs().get(self._plan.job)
        if not isinstance(job, JobDescription):
            why = f'there is no job named "{self._plan.job}"' if job is None else f"its job cannot be used: {job.error}"
            return self._finish(StepState.FAILED, why)
        outside = self._outside_window(job)
        if outside:
            return self._finish(StepState.FAILED, outside)
        missing = missing_target(job, self._context.targets())
        if missing:
            self._not_configured = True
            return self._finish(StepState.SKIPPED, missing)
        self._updates.add(StepStarted(step=self._index, at=self._context.now()), soon=False)
        try:
            refusal = self._acquire_locks()
            if refusal is None:
                return None
            refusal = refusal or self._record_start()
            if refusal:
                return self._finish(*self._stopped_or_failed(refusal))
            return self._run_attempts(job)
        finally:
            self._release_locks()

    def hold_locks(self) -> StepOutcome | None:
        """Acquire the locks of the run for a gate, of an entry that holds them. Without `holds_locks` afterwards: the
        end of the gate, or None, since nothing has started and the run is to be requeued."""
        self._updates.add(StepStarted(step=self._index, at=self._context.now()), soon=False)
        refusal = self._acquire_locks()
        self.holds_locks = refusal == ""
        return self._finish(*self._stopped_or_failed(refusal)) if refusal else None

    # --- window, targets and locks ---

    def _outside_window(self, job: JobDescription) -> str:
        """Return why a job that runs only in a window must not run now; empty when it may."""
        if not job.only_in_window:
            return ""
        window, start = self._run.policy.window, self._run.window_began
        if window is None or start is None:
            return f'job "{job.name}" runs only in a window, and the run has none'
        end = start + window.lasts
        if self._context.now() >= end:
            return f'job "{job.name}" runs only in a window, and that of the run ended {utc_second(end)}'
        return ""

    def _acquire_locks(self) -> str | None:
        """Return an empty text once all are held, else why they are not; None: the run is to be requeued."""
        wanted, holder = self._plan.locks, self._plan.name
        if self._run.policy.hold_locks:
            wanted, holder = merged_locks(self._run.plan), HELD_BY_RUN
        if not wanted or self._context.store is None:
            return ""
        began = time.monotonic()
        recorded = ""
        lock_wait = self._run.policy.lock_wait
        while True:
            try:
                why = _holders_text(self._context.acquire_locks(holder, wanted))
            except RefusedError as error:
                self._cancel.request(StopKind.LOST, f"the claim of the run is over: {error.message}")
                why = error.message
            except StoreError as error:
                why = f"whether its locks are free is unknown: {error}"
            if not why:
                if recorded:
                    self._record_waiting("")
                return ""
            if why != recorded:
                recorded = why
                self._record_waiting(f"waits up to {format_duration(lock_wait)}: {why}")
            if self._is_to_requeue():
                return None
            if self._is_stopped():
                return why
            waited = timedelta(seconds=time.monotonic() - began)
            if waited >= lock_wait:
                return f"{why}; waited {format_duration(lock_wait)}"
            self._cancel.wait(min(LOCK_INTERVAL, lock_wait - waited))

    def _record_start(self) -> str:
        """Wait until the start of a step of a procedure is in the store; return why it is not, else an empty text.

        When the daemon is killed, the rows must have every step that may have had an effect: it is undone, and not
        repeated. An undo or `always` step does not wait long for a store that is unreachable.
        """
        if not is_procedure(self._run.plan) or self._context.store is None:
            return ""
        began, most = time.monotonic(), self._run.policy.lock_wait.total_seconds()
        if self._plan.always or self._plan.undoes:
            most = min(most, RECORD_SECONDS)
        while not self._updates.wait_stored(LOCK_INTERVAL.total_seconds()):
            if self._is_stopped():
                return "its start could not be recorded"
            if time.monotonic() - began >= most:
                cleanup = self._plan.always or self._plan.undoes
                return "" if cleanup else f"its start could not be recorded within {seconds_text(most)}"
        return ""

    def _record_waiting(self, reason: str) -> None:
        self._updates.add(StepWaiting(step=self._index, at=self._context.now(), reason=reason))

    def _release_locks(self) -> None:
        if not self._plan.locks or self._run.policy.hold_locks:
            return
        try:
            self._context.release_locks(self._plan.name)
        except StoreError as error:
            log.warning("locks_not_released", run=self._run.id, step=self._plan.name, error=str(error))

    def _is_stopped(self) -> bool:
        if self._cancel.requested is not None:
            self.stopped = self._cancel.requested
        elif self._ends_at is not None and time.monotonic() >= self._ends_at:
            self.stopped = Stopped(StopKind.TIMED_OUT, self._end_name)
        return self.stopped is not None

    def _is_to_requeue(self) -> bool:
        """Whether the node shuts down, nothing else stops the run, and nothing of it has started."""
        requested = self._cancel.requested
        return (
            self._may_requeue
            and self._context.draining()
            and (requested is None or requested.kind is StopKind.SHUTDOWN)
        )

    def _stopped_or_failed(self, why: str) -> tuple[StepState, str]:
        if self.stopped is None:
            return StepState.FAILED, why
        outcome = evaluate_attempt(AttemptEvidence(stopped=self.stopped))
        state, reason = evaluate_step(outcome, 1)
        return state, f"{reason}; until then: {why}"

    # --- attempts ---

    def _run_attempts(self, job: JobDescription) -> StepOutcome | None:
        policy = self._run.policy
        retries = policy.retries if self._plan.retries is None else self._plan.retries
        before = self._run.steps[self._index].attempts if self._index < len(self._run.steps) else ()
        first = before[-1].number + 1 if before else 1
        number = first
        while True:
            if not self.started and self._is_to_requeue():
                return None
            outcome = self._run_attempt(job, number)
            if self._not_configured:
                return self._finish(StepState.SKIPPED, outcome.reason)
            made = number - first + 1
            state, reason = evaluate_step(outcome, made)
            delay = retry_delay(
                outcome.state,
                attempt=made,
                retries=retries,
                backoff=policy.retry_backoff,
                repeatable=job.repeatable,
            )
            if delay is None or self._lapsed or self.stopped is not None or self._is_stopped():
                return self._finish(state, reason)
            if self._ends_at is not None and time.monotonic() + delay.total_seconds() >= self._ends_at:
                return self._finish(state, f"{reason}; no time is left for another attempt")
            at = (self._context.now() + delay).replace(microsecond=0)
            self._record_waiting(f"attempt {made + 1} of {retries + 1} at {utc_second(at)}, after: {outcome.reason}")
            if self._cancel.wait(delay) is not None:
                self.stopped = self._cancel.requested
                stopped, why = evaluate_step(evaluate_attempt(AttemptEvidence(stopped=self.stopped)), 1)
                return self._finish(stopped, f"{why}, while it waited for another attempt after: {outcome.reason}")
            self._record_waiting("")
            number += 1

    def _time_limit(self, job: JobDescription) -> TimeLimit:
        """Return the step's own timeout, or what is left of the run's if that is less."""
        own = self._plan.timeout or job.timeout
        if self._ends_at is not None:
            left = timedelta(seconds=max(0.0, self._ends_at - time.monotonic()))
            if left < own:
                return TimeLimit(left, self._end_name)
        return TimeLimit(own, f"its {format_duration(own)} timeout")

    @property
    def _is_followed(self) -> bool:
        """Whether another node may undo or resume the run by itself, once the lease is over."""
        followed = self._run.policy.after_crash is not AfterCrash.HOLD
        return followed and any(step.undoes for step in self._run.plan)

    def _provide_folders(self, order: AttemptRequest) -> None:
        if order.user is None:
            return
        info = order.info
        try:
            provide_folders(order.user, self._context.settings.state_dir, info.artifacts_dir, info.work_dir)
        except OSError as error:  # on a full disk, say; a job that leaves no file does not need them
            log.warning("job_folders_not_created", run=self._run.id, step=self._plan.name, error=str(error))

    def _run_attempt(self, job: JobDescription, number: int) -> AttemptOutcome:
        self.started = True
        limit, now = self._time_limit(job), self._context.now()
        order = self._context.order(
            self._index,
            job,
            attempt=number,
            deadline_at=now + limit.duration,
            handed={**self._handed, **self.handed_over},
            outcomes=self._outcomes,
        )
        attempt = AttemptSupervisor(
            self._context,
            order,
            step=self._index,
            started_at=now,
            limit=limit,
            holds_locks=bool(self._plan.locks) or self._run.policy.hold_locks or self._is_followed,
        )
        try:
            self._provide_folders(order)
            evidence = attempt.run()
            outcome = evaluate_attempt(evidence)
        except TemplateError as error:
            evidence = AttemptEvidence()
            outcome = AttemptOutcome(AttemptState.FAILED, str(error))
        finally:
            shutil.rmtree(order.info.work_dir, ignore_errors=True)
            if order.user is not None:
                remove_if_empty(order.info.artifacts_dir, self._context.settings.state_dir)
        self._lapsed = evidence.stopped is not None and evidence.stopped.kind is StopKind.LAPSED
        if (
            evidence.stopped is not None
            and not self._lapsed
            and (evidence.stopped.kind is not StopKind.TIMED_OUT or limit.name == self._end_name)
        ):
            self.stopped = evidence.stopped
        ended = attempt.reports.ended
        if ended is not None and ended.not_configured and not attempt.reports.has_effects:
            self._not_configured = True
        attempt.record_start()
        self.handed_over.update(attempt.reports.handed)
        self.saved |= attempt.reports.saved
        self._updates.add(
            AttemptFinished(
                step=self._index,
                attempt=number,
                state=outcome.state,
                at=self._context.now(),
                reason=outcome.reason,
                exit_code=evidence.exit.code,
                signal=evidence.exit.signal,
                complete=evidence.complete,
            ),
            soon=False,
        )
        return outcome

    def _finish(self, state: StepState, reason: str) -> StepOutcome:
        finished = StepFinished(step=self._index, state=state, at=self._context.now(), reason=reason)
        self._updates.add(finished, soon=False)
        return StepOutcome(self._plan.name, state, reason, self._not_configured)


def _holders_text(holders: Sequence[LockHolder]) -> str:
    """Return `lock "postgres" is held by run 12 (vacuum, step vacuum) since …`; empty when no run holds any."""
    return "; ".join(
        f'lock "{holder.lock}" is held by run {holder.run_id} ({holder.entry}{holder.at_step}'
        f"{f', node {holder.node}' if holder.node else ''}) since {utc_second(holder.since)}"
        for holder in holders
    )
