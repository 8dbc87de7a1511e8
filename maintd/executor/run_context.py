"""What supervises one run shares: the run, where its updates go, and the services of the node."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import structlog

from maintd.config.settings import Settings
from maintd.errors import StoreError
from maintd.executor.cancellation import CancelToken
from maintd.executor.child_protocol import AttemptRequest
from maintd.executor.fork_client import ForkClient
from maintd.executor.job_user import JobUser, root_jobs_of
from maintd.job.attempt_info import AttemptInfo, KnownFinding, Point, UnfinishedRun
from maintd.model.access import Token
from maintd.model.entry import Freeze, LockMode, is_procedure
from maintd.model.finding import Finding
from maintd.model.job import BrokenJob, JobDescription
from maintd.model.run import DecisionKind, GateDecision, LinkKind, Run, RunSummary, SkipReason, StepState
from maintd.model.run_updates import RunUpdate
from maintd.model.status import LockHolder
from maintd.model.target import Targets
from maintd.secret_params import used_secrets
from maintd.store import Store
from maintd.units import utc_text

log = structlog.get_logger()

_NO_TARGETS = Targets()
_NO_TARGETS_PICKLED = pickle.dumps(_NO_TARGETS)

Jobs = Mapping[str, JobDescription | BrokenJob]


def imports_of(jobs: Jobs, names: Iterable[str]) -> frozenset[str]:
    """Return the libraries' modules that the jobs of these names import, for a template to import in advance."""
    wanted = [jobs.get(name) for name in names]
    return frozenset(module for job in wanted if isinstance(job, JobDescription) for module in job.imports)


class RunUpdates(Protocol):
    """Where a supervisor's updates of its run go. Only `wait_stored` blocks."""

    @property
    def full(self) -> bool:
        """Whether so much waits to be recorded that the child should wait too."""
        ...

    def add(self, *updates: RunUpdate, soon: bool = True) -> None:
        """Record these after all earlier ones; with `soon` False they may wait a moment for more."""
        ...

    def wait_stored(self, seconds: float) -> bool:
        """Wait until the store has all that was added, at most that long; whether it has, or there is no store."""
        ...

    def wait_durable(self, seconds: float) -> bool:
        """Wait until all that was added survives this process, in the store or the spool, at most that long."""
        ...


@dataclass(frozen=True)
class RunContext:
    """Shared by the supervisor of a run, its steps and its attempts.

    Without a store there are no locks, no dependencies and no earlier measures.
    """

    run: Run
    updates: RunUpdates
    cancel: CancelToken
    folder: str  # name of the run's own folder below the artifacts and the work folder
    settings: Settings
    fork_client: ForkClient
    store: Store | None
    now: Callable[[], datetime]  # the store's time
    jobs: Callable[[], Jobs]
    targets: Callable[[], Targets]
    draining: Callable[[], bool]  # whether this node is about to stop
    secrets: Callable[[], Mapping[str, str]] = dict  # of the active calendar, by name
    calendar: Callable[[], Mapping[str, Any]] = dict  # for a job that reads it
    freezes: Callable[[datetime], Sequence[Freeze]] = lambda at: ()  # at a time; raises StoreError
    job_user: JobUser | None = None  # whose rights the children take on
    in_foreground: bool = False  # by `maintd run --here`

    def acquire_locks(self, step: str, wanted: Mapping[str, LockMode]) -> list[LockHolder]:
        """Acquire all or none; return the holders that prevent it. Raises RefusedError when the claim is over."""
        if self.store is None or not wanted:
            return []
        return self.store.locks.acquire(self.run.id, self.run.fence, step, wanted, self.store.now())

    def release_locks(self, step: str) -> None:
        """Release the step's locks. Raises StoreUnavailableError; the end of the run releases what is left."""
        if self.store is not None:
            self.store.locks.release(self.run.id, step)

    def success_within(self, entry: str, within: timedelta) -> tuple[RunSummary | None, RunSummary | None]:
        """Return the entry's last success if it is that recent, and its last success of any age."""
        if self.store is None:
            return None, None
        recent = self.store.history.last_success_since(entry, self.now() - within)
        if recent is not None:
            return recent, recent
        return None, self.store.history.last_per_entry([entry])[entry].last_success

    def is_in_use(self, entry: str) -> bool:
        """Whether an entry is enabled, has run, and was not skipped the last time since a target is not configured."""
        if self.store is None:
            return False
        state = self.store.entries.states([entry]).get(entry)
        last = self.store.history.last_per_entry([entry])[entry].last_run
        is_enabled = state is not None and state.active
        return is_enabled and last is not None and last.skip_reason is not SkipReason.NOT_CONFIGURED

    def order(
        self,
        index: int,
        job: JobDescription,
        *,
        attempt: int,
        deadline_at: datetime,
        handed: Mapping[str, Any] | None = None,
        outcomes: Mapping[str, str] | None = None,
    ) -> AttemptRequest:
        """Return the order for an attempt at the step with this index; `handed` and `outcomes` are of earlier steps."""
        run, settings, plan = self.run, self.settings, self.run.plan[index]
        environ = {
            "MAINTD_RUN_ID": str(run.id),
            "MAINTD_ENTRY": run.entry,
            "MAINTD_STEP": plan.name,
            "MAINTD_ATTEMPT": str(attempt),
        }
        if run.due_at is not None:
            environ["MAINTD_DUE_AT"] = utc_text(run.due_at)
        info = AttemptInfo(
            run_id=run.id,
            entry=run.entry,
            step=plan.name,
            attempt=attempt,
            due_at=run.due_at,
            deadline_at=deadline_at,
            dry_run=run.dry_run,
            artifacts_dir=f"{settings.artifacts_dir.absolute()}/{self.folder}/{plan.name}/{attempt}",
            work_dir=f"{settings.state_dir.absolute()}/work/{self.folder}.{index}.{attempt}",
            budget=job.budget,
            series=self._series(plan.name, job),
            findings=self._findings(plan.name, job),
            handed=handed or {},
            outcomes=outcomes or {},
            approvals=self._approvals(),
            gate_decisions=self._gate_decisions(),
            tokens=self._tokens(plan.name, job),
            series_of={name: self._measures(plan.name, name, None, job.history) for name in job.reads_measures_of},
            in_foreground=self.in_foreground,
            undoes_run=self._undoes_run(),
            read_at=self.now(),  # before it is read, so that it is never taken for newer than it is
            unfinished=self._unfinished(plan.name, job),
            reports_dir=None if settings.reports_dir is None else os.fspath(settings.reports_dir),
        )
        targets = self.targets()
        none = targets == _NO_TARGETS
        has_secrets = not none or "${" in str(plan.params)
        params = {**plan.params, "calendar": self.calendar()} if job.reads_calendar else plan.params
        return AttemptRequest(
            os.fspath(job.path),
            params,
            info,
            _NO_TARGETS_PICKLED if none else pickle.dumps(targets),
            has_secrets,
            environ,
            used_secrets(plan.params, self.secrets()),
            None if job.name in root_jobs_of(settings) else self.job_user,
            confirms=self.store is not None and (run.policy.hold_locks or is_procedure(run.plan)),
        )

    def _findings(self, step: str, job: JobDescription) -> dict[str, KnownFinding]:
        """Return the open findings of the step, if the job reads them."""
        if self.store is None or not job.reads_findings:
            return {}
        try:
            found, now = self.store.findings.all(area=self.run.entry), self.now()
        except StoreError as error:
            log.warning("findings_unknown", run=self.run.id, step=step, error=str(error))
            return {}
        own = [each for each in found if (each.entry, each.step, each.job) == (self.run.entry, step, job.name)]
        return {each.check: _known_finding(each, now) for each in own}

    def _approvals(self) -> dict[str, str]:
        """By name, the gates that persons have approved, with what the run's record has about it."""
        if self.run.dry_run:  # where no gate asks
            return {}
        return {
            step.name: step.reason
            for step in self.run.steps
            if step.gate is not None and step.state is StepState.SUCCEEDED
        }

    def _gate_decisions(self) -> dict[str, GateDecision]:
        """By name, the decision that ended each gate."""
        if self.run.dry_run:
            return {}
        of_items = (DecisionKind.TICKED, DecisionKind.PROVED)
        ended = [decision for decision in self.run.decisions if decision.kind not in of_items]
        return {self.run.plan[decision.step].name: decision for decision in ended}

    def _tokens(self, step: str, job: JobDescription) -> tuple[Token, ...] | None:
        """Return the tokens of the API, if the job reads them; None without a store."""
        if self.store is None or not job.reads_tokens:
            return None
        try:
            return tuple(self.store.tokens.all())
        except StoreError as error:
            log.warning("tokens_unknown", run=self.run.id, step=step, error=str(error))
            return None

    def _undoes_run(self) -> int | None:
        links = (link for link in self.run.links if link.kind is LinkKind.UNDOES and link.run_id == self.run.id)
        return next((link.other_run_id for link in links), None)

    def _unfinished(self, step: str, job: JobDescription) -> tuple[UnfinishedRun, ...] | None:
        """Return the runs that have not ended or are held, if the job reads them; None without a store."""
        if self.store is None or not job.reads_unfinished:
            return None
        try:
            return tuple(UnfinishedRun(*each) for each in self.store.history.unfinished_with_values())
        except StoreError as error:
            log.warning("unfinished_runs_unknown", run=self.run.id, step=step, error=str(error))
            return None

    def _series(self, step: str, job: JobDescription) -> dict[str, tuple[Point, ...]]:
        """Return the earlier measures that the job gets, by name, oldest first."""
        of_entry = self.run.entry if job.history_of == "entry" else None
        return self._measures(step, job.name, of_entry, job.history)

    def _measures(self, step: str, job: str, of_entry: str | None, limit: int) -> dict[str, tuple[Point, ...]]:
        if self.store is None:
            return {}
        try:
            found = self.store.history.series(of_entry, job, limit=limit)
        except StoreError as error:
            log.warning("earlier_measures_unknown", run=self.run.id, step=step, error=str(error))
            return {}
        points: dict[str, list[Point]] = {}
        for point in found:
            points.setdefault(point.name, []).append(Point(point.at, point.value, point.labels))
        return {name: tuple(of_name) for name, of_name in points.items()}


def _known_finding(finding: Finding, now: datetime) -> KnownFinding:
    if finding.acknowledgement is None or not finding.acknowledged(now):
        return KnownFinding(finding.first_seen_at)
    known = finding.acknowledgement
    return KnownFinding(finding.first_seen_at, known.by, known.why, known.until)
