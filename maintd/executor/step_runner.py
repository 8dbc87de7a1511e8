"""One step of a run: its target, its locks, its attempts."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import structlog

from maintd.errors import RefusedError, StoreError
from maintd.executor.attempt import AttemptProcess, Sinks
from maintd.executor.cancellation import CancelToken
from maintd.executor.fork_client import TemplateError
from maintd.executor.means import Means, Writes
from maintd.executor.orders import order_for
from maintd.executor.outcome import (
    AttemptEvidence,
    AttemptVerdict,
    StepOutcome,
    StopKind,
    Stopped,
    judge_attempt,
    judge_step,
    retry_delay,
)
from maintd.model.entry import StepPlan
from maintd.model.evidence import Report
from maintd.model.job import JobDescription
from maintd.model.run import AttemptState, Run, StepState
from maintd.model.run_updates import (
    AttemptFinished,
    AttemptReported,
    AttemptStarted,
    StepFinished,
    StepStarted,
    StepWaiting,
)
from maintd.model.status import LockHolder
from maintd.units import format_duration, utc_text

log = structlog.get_logger()

LOCK_LOOKS = timedelta(seconds=0.5)
"""How often a lock that is taken is asked for again."""


class StepRun:
    """Runs one step. Afterwards `begun` tells whether an attempt was made, and `stopped` what stopped it."""

    def __init__(
        self,
        run: Run,
        index: int,
        plan: StepPlan,
        means: Means,
        writes: Writes,
        stop: CancelToken,
        *,
        folder: str,
        started: Callable[[], None],
        ends_at: float | None,
        may_give_back: bool,
    ) -> None:
        """`ends_at` is the run's end on the monotonic clock, None for a step with its own time only."""
        self._run = run
        self._index = index
        self._plan = plan
        self._means = means
        self._writes = writes
        self._stop = stop
        self._folder = folder
        self._started = started
        self._ends_at = ends_at
        self._may_give_back = may_give_back
        self._not_configured = False
        self._lapsed = False
        self.begun = False
        self.stopped: Stopped | None = None

    def make(self) -> StepOutcome | None:
        """How the step ended, as it was written; None: given back, since the node stops and nothing had begun."""
        job = self._means.jobs().get(self._plan.job)
        if not isinstance(job, JobDescription):
            why = f'there is no job named "{self._plan.job}"' if job is None else f"its job cannot be used: {job.error}"
            return self._ended(StepState.FAILED, why)
        missing = self._missing(job)
        if missing:
            self._not_configured = True
            return self._ended(StepState.SKIPPED, missing)
        self._writes.add(StepStarted(step=self._index, at=self._means.now()), soon=False)
        try:
            refusal = self._take_locks()
            if refusal is None:
                return None
            if refusal:
                return self._ended(*self._stopped_or_failed(refusal))
            return self._attempts(job)
        finally:
            self._release_locks()

    # --- what it needs ---

    def _missing(self, job: JobDescription) -> str:
        """What it cannot do without and is not there, with the setting to set; empty: nothing."""
        for kind in job.needs:
            try:
                found = self._means.targets().of(kind)
            except KeyError:
                return f'its job needs a target of the kind "{kind}", which does not exist'
            if not found:
                return f"not configured: it needs a {kind} target; set targets.{kind} in the calendar"
        return ""

    def _take_locks(self) -> str | None:
        """Empty: it has them; a text: why not; None: the node stops, and nothing of the run has begun."""
        wanted = self._plan.locks
        if not wanted or self._means.store is None:
            return ""
        began = time.monotonic()
        told = ""
        while True:
            try:
                in_the_way = self._means.acquire(self._run, self._plan.name, wanted)
                why = _holders_text(in_the_way)
            except RefusedError as error:
                self._stop.ask(StopKind.LOST, f"the claim of the run is over: {error.message}")
                why = error.message
            except StoreError as error:
                why = f"whether its locks are free is unknown: {error}"
            if not why:
                if told:
                    self._wait_for("")
                return ""
            if why != told:
                told = why
                self._wait_for(f"waits up to {format_duration(self._run.policy.lock_wait)}: {why}")
            if self._may_be_given_back():
                return None
            if self._is_stopped():
                return why
            waited = timedelta(seconds=time.monotonic() - began)
            if waited >= self._run.policy.lock_wait:
                return f"{why}; waited {format_duration(self._run.policy.lock_wait)}"
            self._stop.wait(min(LOCK_LOOKS, self._run.policy.lock_wait - waited))

    def _wait_for(self, reason: str) -> None:
        self._started()
        self._writes.add(StepWaiting(step=self._index, at=self._means.now(), reason=reason))

    def _release_locks(self) -> None:
        if not self._plan.locks:
            return
        try:
            self._means.release(self._run, self._plan.name)
        except StoreError as error:
            log.warning("locks_not_released", run=self._run.id, step=self._plan.name, error=str(error))

    def _is_stopped(self) -> bool:
        if self._stop.asked is not None:
            self.stopped = self._stop.asked
        elif self._ends_at is not None and time.monotonic() >= self._ends_at:
            self.stopped = Stopped(StopKind.TIMED_OUT, self._run_timeout_words())
        return self.stopped is not None

    def _may_be_given_back(self) -> bool:
        """The node is shutting down, nothing else stops the run, and nothing of it has begun."""
        asked = self._stop.asked
        return self._may_give_back and self._means.draining() and (asked is None or asked.kind is StopKind.SHUTDOWN)

    def _run_timeout_words(self) -> str:
        return f"the run's {format_duration(self._run.policy.timeout)} timeout"

    def _stopped_or_failed(self, why: str) -> tuple[StepState, str]:
        if self.stopped is None:
            return StepState.FAILED, why
        verdict = judge_attempt(AttemptEvidence(stopped=self.stopped))
        state, reason = judge_step(verdict, 1)
        return state, f"{reason}; until then: {why}"

    # --- attempts ---

    def _attempts(self, job: JobDescription) -> StepOutcome | None:
        retries = self._run.policy.retries if self._plan.retries is None else self._plan.retries
        before = self._run.steps[self._index].attempts if self._index < len(self._run.steps) else ()
        first = before[-1].number + 1 if before else 1
        number = first
        while True:
            if not self.begun and self._may_be_given_back():
                return None
            verdict = self._attempt(job, number)
            if self._not_configured:
                return self._ended(StepState.SKIPPED, verdict.reason)
            made = number - first + 1
            state, reason = judge_step(verdict, made)
            delay = retry_delay(
                verdict.state,
                attempt=made,
                retries=retries,
                backoff=self._run.policy.retry_backoff,
                repeatable=job.repeatable,
            )
            if delay is None or self._lapsed or self.stopped is not None or self._is_stopped():
                return self._ended(state, reason)
            if self._ends_at is not None and time.monotonic() + delay.total_seconds() >= self._ends_at:
                return self._ended(state, f"{reason}; no time is left for another attempt")
            at = (self._means.now() + delay).replace(microsecond=0)
            self._wait_for(f"attempt {made + 1} of {retries + 1} at {utc_text(at)}, after: {verdict.reason}")
            if self._stop.wait(delay) is not None:
                self.stopped = self._stop.asked
                stopped, why = judge_step(judge_attempt(AttemptEvidence(stopped=self.stopped)), 1)
                return self._ended(stopped, f"{why}, while it waited for another attempt after: {verdict.reason}")
            self._wait_for("")
            number += 1

    def _attempt(self, job: JobDescription, number: int) -> AttemptVerdict:
        self.begun = True
        own = self._plan.timeout or job.timeout
        timeout, words = own, f"its {format_duration(own)} timeout"
        if self._ends_at is not None:
            left = timedelta(seconds=max(0.0, self._ends_at - time.monotonic()))
            if left < own:
                timeout, words = left, self._run_timeout_words()
        now = self._means.now()
        tell = _Telling(self._writes, self._index, number, now)
        order = order_for(
            self._run, self._index, job, self._means, attempt=number, deadline_at=now + timeout, folder=self._folder
        )
        process = AttemptProcess(
            order,
            warm=self._means.warm,
            stop=self._stop,
            sinks=Sinks(self._started, tell.began, tell.report, lambda: self._writes.full),
            artifacts_root=self._means.settings.artifacts_dir,
            log_limit=self._means.settings.log_limit,
            grace=self._means.settings.grace,
            timeout=timeout,
            timeout_words=words,
            holds_locks=bool(self._plan.locks),
        )
        try:
            seen = process.make()
            verdict = judge_attempt(seen)
        except TemplateError as error:
            seen = AttemptEvidence()
            verdict = AttemptVerdict(AttemptState.FAILED, str(error))
        finally:
            shutil.rmtree(order.standing.work_dir, ignore_errors=True)
        self._lapsed = seen.stopped is not None and seen.stopped.kind is StopKind.LAPSED
        if (
            seen.stopped is not None
            and not self._lapsed
            and (seen.stopped.kind is not StopKind.TIMED_OUT or words == self._run_timeout_words())
        ):
            self.stopped = seen.stopped
        ended = process.evidence.ended
        if ended is not None and ended.not_configured and not process.evidence.saw_or_did:
            self._not_configured = True
        tell.ended(
            AttemptFinished(
                step=self._index,
                attempt=number,
                state=verdict.state,
                at=self._means.now(),
                reason=verdict.reason,
                exit_code=seen.exit.code,
                signal=seen.exit.signal,
            )
        )
        return verdict

    def _ended(self, state: StepState, reason: str) -> StepOutcome:
        ended = StepFinished(step=self._index, state=state, at=self._means.now(), reason=reason)
        self._writes.add(ended, soon=False)
        return StepOutcome(self._plan.name, state, reason, self._not_configured)


class _Telling:
    """Writes about one attempt: its beginning first, with the pid once that is known."""

    def __init__(self, writes: Writes, step: int, number: int, began_at: datetime) -> None:
        self._writes = writes
        self._step = step
        self._number = number
        self._began_at = began_at
        self._told = False

    def began(self, pid: int | None) -> None:
        if not self._told:
            self._told = True
            self._writes.add(
                AttemptStarted(step=self._step, attempt=self._number, at=self._began_at, pid=pid), soon=False
            )

    def report(self, items: Sequence[Report]) -> None:
        self.began(None)
        self._writes.add(AttemptReported(step=self._step, attempt=self._number, items=tuple(items)), soon=False)

    def ended(self, ended: AttemptFinished) -> None:
        self.began(None)
        self._writes.add(ended, soon=False)


def _holders_text(holders: Sequence[LockHolder]) -> str:
    """`lock "postgres" is held by run 12 (vacuum, step vacuum) since …`; empty for nobody."""
    return "; ".join(
        f'lock "{holder.lock}" is held by run {holder.run_id} ({holder.entry}, step {holder.step},'
        f" node {holder.node}) since {utc_text(holder.since.replace(microsecond=0))}"
        for holder in holders
    )
