"""The context of a job: what it runs for, how it reports evidence, and whether it may change something.

Each report is sent at once as one item of evidence; the context itself keeps only counters. It exists in the child
process, which has no access to the store.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from maintd.errors import JobError, MaintdError, TargetError, UnknownNameError
from maintd.job.attempt_info import AttemptInfo, KnownFinding, Point, UnfinishedRun
from maintd.job.bounded import Bounded
from maintd.job.causes import Role
from maintd.job.criterion import Criterion, Number, Observed
from maintd.model.evidence import (
    Artifact,
    Change,
    ChangeState,
    Check,
    CheckStatus,
    Handed,
    Measure,
    Phase,
    Progress,
    Report,
    Scalar,
)
from maintd.redaction import MASK
from maintd.units import format_size, plural, value_text

if TYPE_CHECKING:
    from maintd.model.access import Token
    from maintd.model.run import GateDecision
    from maintd.model.target import Target, Targets

T = TypeVar("T")
_CHUNK = 1 << 20
MAX_HANDED_OVER = 16 * 1024
"""Bytes of one value for later steps, as JSON."""

MAX_HANDED_OVER_NAME = 100

PROGRESS_EVERY = 0.2  # seconds; a reader sees no more, and more would flood the pipe


class CheckFailedError(JobError):
    """A required check failed or is unknown; the job stops and the attempt fails with the text of the check."""

    code = "check_failed"


class BudgetSpentError(JobError):
    """A change would exceed the budget of the job."""

    code = "budget_spent"


class PendingChange:
    """A change within its `with` block: true if it is to be made."""

    def __init__(self, *, allowed: bool) -> None:
        self._allowed = allowed
        self.outcome: tuple[ChangeState, str] = (ChangeState.DONE, "")
        self.facts: dict[str, Scalar] = {}

    def __bool__(self) -> bool:
        return self._allowed

    def refused(self, cause: str) -> None:
        """Record that the target declined: nothing was changed."""
        self.outcome = (ChangeState.REFUSED, cause)

    def failed(self, cause: str) -> None:
        """Record that the target answered, and that the effect is not there."""
        self.outcome = (ChangeState.FAILED, cause)

    def uncertain(self, cause: str) -> None:
        """Record that it is not known whether the effect is there."""
        self.outcome = (ChangeState.UNCERTAIN, cause)

    def observed(self, **facts: Scalar) -> None:
        """Add what was seen of the effect to the record's details."""
        self.facts.update(facts)


class Context:
    """The first argument of `run(ctx, params)`. Safe to use from several threads of the job."""

    def __init__(
        self,
        attempt: AttemptInfo,
        targets: Callable[[], Targets],
        send: Callable[[Report], None],
        log: Callable[[str], None],
        secrets: Sequence[str] = (),
    ) -> None:
        """`secrets` are redacted in artifacts, see `maintd.redaction.forms_of`."""
        self._attempt = attempt
        self._targets = targets
        self._send = send
        self._log = log
        self._secrets = [secret.encode() for secret in secrets]
        self._budget = dict(attempt.budget)
        self._spent: dict[str, int] = {}
        self._change_numbers = itertools.count(1)
        self._phases: list[str] = []
        self._progress_at = -math.inf
        self.worst = CheckStatus.OK
        self.failed: list[Check] = []
        self.not_observed: list[Check] = []  # unknown, and not optional
        self.checks: list[Check] = []  # all that were recorded, in order
        self._cause_of: Callable[[Check], str] | None = None

    # --- the attempt ---

    @property
    def run_id(self) -> int:
        """The run's number; 0 in the foreground without a store."""
        return self._attempt.run_id

    @property
    def entry(self) -> str:
        """The name of the calendar entry, or of the job if it was triggered by its own name."""
        return self._attempt.entry

    @property
    def due_at(self) -> datetime | None:
        """The due time of the run, UTC; None for a manual run."""
        return self._attempt.due_at

    @property
    def dry_run(self) -> bool:
        """True if the job must not change anything; `change` then yields a false value."""
        return self._attempt.dry_run

    @property
    def targets(self) -> Targets:
        """All configured targets. References in them are resolved when a client is created."""
        return self._targets()

    @property
    def work_dir(self) -> Path:
        """A folder for this attempt only, empty at first and deleted afterwards."""
        folder = Path(self._attempt.work_dir)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def reports_dir(self) -> Path | None:
        """A folder outside of the state directory to which reports are also written; None: there is none."""
        return None if self._attempt.reports_dir is None else Path(self._attempt.reports_dir)

    @property
    def remaining(self) -> timedelta:
        """The time until this attempt is stopped, not negative."""
        return max(self._attempt.deadline_at - self.now(), timedelta(0))

    def now(self) -> datetime:
        """The current time in UTC."""
        return datetime.now(UTC)

    def target(self, kind: str, name: str | None = None) -> Any:
        """The target of this kind and name; without a name the only one of the kind, or the one called `main`.

        Raises UnknownNameError, and TargetError(cause="not_configured") if there is none of the kind.
        """
        found = self.targets.of(kind)
        if not found:
            raise TargetError(
                f"no {kind} target is configured", f"set targets.{kind} in the calendar", cause="not_configured"
            )
        if name is None:
            name = "main" if "main" in found or len(found) > 1 else next(iter(found))
        if name not in found:
            raise UnknownNameError(f"{kind} target", name, found)
        return found[name]

    def chosen(self, kind: str, names: Sequence[str]) -> dict[str, Target]:
        """The targets of a kind with these names; all of them without names. Raises UnknownNameError."""
        found = self.targets.of(kind)
        return {name: self.target(kind, name) for name in names} if names else dict(found)

    # --- progress ---

    def log(self, text: str) -> None:
        """Write a line to the log of the attempt."""
        self._log(text)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Name what the job does in this block; shown live, and in the reason if the job fails in it."""
        self._phases.append(name)
        self._send(Phase(name=name))
        yield
        self._phases.pop()
        if self._phases:
            self._send(Phase(name=self._phases[-1]))

    def progress(self, done: float, total: float | None = None, unit: str = "", *, rate: float | None = None) -> None:
        """Report progress. Can be called at any rate; sent at most five times a second.

        rate: units per second; with a total, the remaining time is computed from it.
        """
        now = time.monotonic()
        if now - self._progress_at < PROGRESS_EVERY and done != total:
            return
        self._progress_at = now
        left = timedelta(seconds=max(total - done, 0) / rate) if rate and total is not None else None
        self._send(Progress(done=done, total=total, unit=unit, rate=rate and round(rate, 3), left=left))

    def track(self, items: Iterable[T], unit: str = "", total: int | None = None) -> Iterator[T]:
        """Iterate over items and report progress, rate and remaining time."""
        if total is None and isinstance(items, Sequence):
            total = len(items)
        started = time.monotonic()
        done = 0
        for item in items:
            yield item
            done += 1
            now = time.monotonic()
            if now - self._progress_at >= PROGRESS_EVERY or done == total:
                self._progress_at = now
                rate = done / max(now - started, 1e-9)
                left = timedelta(seconds=(total - done) / rate) if total is not None else None
                self._send(Progress(done=done, total=total, unit=unit, rate=round(rate, 3), left=left))

    # --- evidence ---

    def check(
        self,
        name: str,
        observed: Observed,
        *,
        equals: Scalar = None,
        one_of: Sequence[Scalar] | None = None,
        at_most: Number | None = None,
        at_least: Number | None = None,
        warn_above: Number | None = None,
        warn_below: Number | None = None,
        severity: CheckStatus = CheckStatus.FAIL,
        unit: str = "",
        hint: str = "",
        rule: str = "",
        optional: bool = False,
        limited_by: Sequence[Bounded] = (),
    ) -> Check:
        """Record a success criterion and continue. The arguments are those of `Criterion`."""
        return self._record(
            Criterion(
                name,
                observed,
                equals=equals,
                one_of=one_of,
                at_most=at_most,
                at_least=at_least,
                warn_above=warn_above,
                warn_below=warn_below,
                severity=severity,
                unit=unit,
                hint=hint,
                rule=rule,
                optional=optional,
                limited_by=limited_by,
            ).evaluate()
        )

    def require(self, name: str, observed: Observed, **limits: Any) -> Check:
        """Record a success criterion; raise CheckFailedError when it is failed or unknown."""
        check = self.check(name, observed, **limits)
        if check.status in (CheckStatus.FAIL, CheckStatus.UNKNOWN):
            raise CheckFailedError(
                f'check "{name}": observed {value_text(check.observed, check.unit)}, {check.expectation}',
                check.hint or None,
            )
        return check

    def report(self, criteria: Iterable[Criterion], subject: str = "") -> None:
        """Record many criteria; with a subject, each check is named "subject: name"."""
        for criterion in criteria:
            named = replace(criterion, name=f"{subject}: {criterion.name}") if subject else criterion
            self._record(named.evaluate())

    def report_error(
        self,
        name: str,
        error: MaintdError,
        *,
        expected: str = "an answer",
        role: Role = Role.SUBJECT,
        rule: str = "",
    ) -> Check:
        """Record the criterion of a target that raised an error, see `Criterion.from_error`."""
        return self._record(Criterion.from_error(name, error, expected=expected, role=role, rule=rule).evaluate())

    def unknown(
        self,
        name: str,
        cause: str,
        *,
        expected: str = "an answer",
        hint: str = "",
        rule: str = "",
        optional: bool = False,
    ) -> Check:
        """Record that a criterion could not be observed, and why.

        The attempt cannot succeed any more, unless `optional` marks an answer that this site can do without.
        """
        criterion = Criterion(name, unknown=cause, equals=expected, hint=hint, rule=rule, optional=optional)
        return self._record(criterion.evaluate())

    def passed(self, name: str, observed: Scalar, *, expected: str, rule: str = "") -> Check:
        """Record a criterion that was observed and met, whose expectation is only text."""
        return self._record(Check(name=name, observed=observed, expected=expected, status=CheckStatus.OK, rule=rule))

    def fail(self, name: str, observed: Scalar, *, expected: str, hint: str = "", rule: str = "") -> Check:
        """Record a failed criterion whose expectation is only text."""
        return self._record(
            Check(name=name, observed=observed, expected=expected, status=CheckStatus.FAIL, hint=hint, rule=rule)
        )

    @contextmanager
    def symptoms(self, cause_of: Callable[[Check], str]) -> Iterator[None]:
        """Within this block, a check that is not ok follows from the failed check that `cause_of` names, if any."""
        self._cause_of = cause_of
        try:
            yield
        finally:
            self._cause_of = None

    def captured(self, earlier: Iterable[Measure] = ()) -> tuple[Context, list[Report]]:
        """A context of the same attempt whose reports are added to the list, and go nowhere else.

        For a job that observes the same several times, or decides by what a check of others would report. `earlier` are
        measures that count as earlier values of this step. What is to be recorded of it is sent by `pass_on`.
        """
        series: dict[str, list[Point]] = {}
        for item in earlier:
            series.setdefault(item.name, []).append(Point(self.now(), item.value, item.labels))
        known = {name: [*self._attempt.series.get(name, ()), *points] for name, points in series.items()}
        attempt = replace(self._attempt, series={**self._attempt.series, **known})
        reports: list[Report] = []
        inner = Context(attempt, self._targets, reports.append, lambda _: None)
        inner._secrets = self._secrets
        return inner, reports

    def pass_on(self, item: Report) -> None:
        """Record what a captured context reported; a check counts as one of this job's."""
        if isinstance(item, Check):
            self._record(item)
        else:
            self._send(item)

    def measure(self, name: str, /, value: float, unit: str = "", **labels: str) -> None:
        """Record a number for trends; a label can be called `name`. A value that is not finite is ignored."""
        if math.isfinite(value):
            self._send(Measure(name=name, value=float(value), unit=unit, labels=labels))

    def series(self, name: str, **labels: str) -> list[Point]:
        """Earlier values of a measure of this entry and job, oldest first, whose labels include these."""
        points = self._attempt.series.get(name, ())
        return [point for point in points if labels.items() <= point.labels.items()]

    @property
    def findings(self) -> Mapping[str, KnownFinding]:
        """The open findings of this step by the name of the check, for a job with `reads_findings`."""
        return self._attempt.findings

    def last(self, name: str, default: float | None = None, **labels: str) -> float | None:
        """The latest earlier value of a measure."""
        points = self.series(name, **labels)
        return points[-1].value if points else default

    def increase(self, name: str, count: int, unit: str = "", **labels: str) -> int | None:
        """Record a counter as a measure; return its increase since the last run, None in the first run.

        A count that is smaller than before means that the counter was reset; then the increase is the count itself.
        """
        before = self.last(name, None, **labels)
        self.measure(name, count, unit, **labels)
        if before is None:
            return None
        return count - round(before) if count >= before else count

    # --- other steps of the run ---

    def hand_over(self, name: str, value: Any) -> None:
        """Hand a value to the steps after this one, undo steps included; it is recorded with the run.

        JSON of at most 16 KiB, without secrets, which are masked. Raises JobError for any other value.
        """
        try:
            size = len(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise JobError(f'hand_over("{name}"): the value is not JSON: {error}') from None
        if not 1 <= len(name) <= MAX_HANDED_OVER_NAME:
            raise JobError(
                f'hand_over("{name[:30]}…"): a name has 1 to {MAX_HANDED_OVER_NAME} characters, not {len(name)}'
            )
        if size > MAX_HANDED_OVER:
            raise JobError(f'hand_over("{name}"): the value has {size} bytes as JSON, and at most {MAX_HANDED_OVER}')
        self._send(Handed(name=name, value=value, at=self.now()))

    def handed(self, name: str, default: Any = None) -> Any:
        """The value that an earlier step of this run handed over under this name."""
        return self._attempt.handed.get(name, default)

    def outcome_of(self, step: str) -> str | None:
        """The state of an earlier step of this run, such as `succeeded`; None: it has not ended, or is not in it."""
        return self._attempt.outcomes.get(step)

    @property
    def approvals(self) -> Mapping[str, str]:
        """By name, the gates of this run, or of the one that it resumes, which persons have approved, and how."""
        return self._attempt.approvals

    @property
    def gate_decisions(self) -> Mapping[str, GateDecision]:
        """By name, how each gate of this run ended: who decided, when, and with what note. Empty in a dry run."""
        return self._attempt.gate_decisions

    @property
    def tokens(self) -> tuple[Token, ...] | None:
        """The tokens of maintd's API, without the tokens themselves, for a job with `reads_tokens`.

        None: not known, for lack of a store.
        """
        return self._attempt.tokens

    def series_of(self, job: str, name: str, **labels: str) -> list[Point]:
        """Earlier values of a measure of another job, of any entry, oldest first; it needs `reads_measures_of`."""
        points = self._attempt.series_of.get(job, {}).get(name, ())
        return [point for point in points if labels.items() <= point.labels.items()]

    @property
    def in_foreground(self) -> bool:
        """Whether it was started by `maintd run --here`, by who may run programs as maintd's user on this machine."""
        return self._attempt.in_foreground

    @property
    def undoes_run(self) -> int | None:
        """The run that this one undoes by `maintd undo` or `after_crash`; None: it undoes none but itself."""
        return self._attempt.undoes_run

    @property
    def unfinished(self) -> tuple[UnfinishedRun, ...] | None:
        """The runs that have not ended or are held, with what they have handed over, for a job with `reads_unfinished`.

        As they were at the start of this attempt, see `unfinished_age`. None: not known, for lack of a store.
        """
        return self._attempt.unfinished

    @property
    def unfinished_age(self) -> timedelta:
        """How long ago `unfinished` was read."""
        read_at = self._attempt.read_at
        return timedelta(0) if read_at is None else max(self.now() - read_at, timedelta(0))

    # --- changes and artifacts ---

    def limit(self, action: str, count: int | None = None, *, size_bytes: int | None = None) -> None:
        """Set this attempt's budget for an action, in changes or bytes, usually from the job's params."""
        if count is not None:
            self._budget[action] = count
        if size_bytes is not None:
            self._budget["bytes"] = size_bytes

    @contextmanager
    def change(
        self,
        action: str,
        target: object,
        *,
        bytes: int = 0,  # noqa: A002 - reads well
        **details: Scalar,
    ) -> Iterator[PendingChange]:
        """Make one change to the outside within the `with` block, if what it yields is true.

        The change is recorded as intended before the block runs, and afterwards as what happened: done; refused, if
        the block calls `refused`; failed with the cause, if it raises; uncertain, if the target did not answer in
        time or the process ends within the block. In a dry run the change is recorded as planned, and what is yielded
        is false: then do not make it. Raises BudgetSpentError, and records nothing, when the change would be more than
        the budget allows.
        """
        self._spend(action, target, bytes)
        if bytes:
            details["bytes"] = bytes
        change = Change(
            number=next(self._change_numbers),
            action=action,
            target=str(target),
            details=details,
            state=ChangeState.PLANNED if self.dry_run else ChangeState.INTENDED,
        )
        self._send(change)
        pending = PendingChange(allowed=not self.dry_run)
        try:
            yield pending
        except Exception as error:
            # Without an answer it is unknown whether the target carried out the request.
            unanswered = isinstance(error, TimeoutError) or (
                isinstance(error, TargetError) and error.cause in ("timed_out", "partial")
            )
            declined = isinstance(error, TargetError) and error.cause in ("denied", "conflict")
            state = ChangeState.REFUSED if declined else ChangeState.FAILED
            self._resolve(change, pending, ChangeState.UNCERTAIN if unanswered else state, _text_of(error))
            raise
        except BaseException:
            self._resolve(change, pending, ChangeState.UNCERTAIN, "stopped before the end of the change")
            raise
        self._resolve(change, pending, *pending.outcome)

    def _resolve(self, change: Change, pending: PendingChange, state: ChangeState, cause: str) -> None:
        if pending:  # a planned change stays planned
            details = {**change.details, **pending.facts}
            self._send(change.model_copy(update={"state": state, "cause": cause, "details": details}))

    def _spend(self, action: str, target: object, size_bytes: int) -> None:
        for key, amount in ((action, 1), ("bytes", size_bytes)):
            most = self._budget.get(key)
            if most is not None and self._spent.get(key, 0) + amount > most:
                limit = format_size(most) if key == "bytes" else plural(most, "change")
                raise BudgetSpentError(
                    f'"{action}" of {target} would exceed the budget of {limit}',
                    "check the changes so far; if they are right, raise the limit in the params of the job",
                )
        for key, amount in ((action, 1), ("bytes", size_bytes)):
            self._spent[key] = self._spent.get(key, 0) + amount

    def save(self, name: str, content: str | bytes, media_type: str = "text/plain; charset=utf-8") -> Artifact:
        """Keep content as an artifact of the run, with its sha256; written atomically.

        Known secrets in it are redacted.
        """
        data = self._redacted(content.encode() if isinstance(content, str) else content)
        path = self._artifact_path(name)
        part = path.with_name(path.name + ".part")
        try:
            with _create(part) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)  # of a full disk: nothing else deletes it
        return self._keep(name, path, media_type)

    def keep(self, source: Path, name: str | None = None, media_type: str = "application/octet-stream") -> Artifact:
        """Keep a copy of a file as an artifact of the run; known secrets in it are redacted."""
        path = self._artifact_path(name or source.name)
        longest = max((len(secret) for secret in self._secrets), default=0)
        try:
            with source.open("rb") as original, _create(path) as copy:
                rest = b""
                while chunk := original.read(_CHUNK):
                    data = self._redacted(rest + chunk)
                    cut = max(len(data) - longest, 0)  # a secret can continue in the next chunk
                    copy.write(data[:cut])
                    rest = data[cut:]
                copy.write(self._redacted(rest))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return self._keep(name or source.name, path, media_type)

    def _redacted(self, data: bytes) -> bytes:
        for secret in self._secrets:
            if secret in data:
                data = data.replace(secret, MASK.encode())
        return data

    def _artifact_path(self, name: str) -> Path:
        if Path(name).name != name or name.startswith("."):
            raise JobError(f'artifact name "{name}" is not a plain file name')
        folder = Path(self._attempt.artifacts_dir)
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        return folder / name

    def _keep(self, name: str, path: Path, media_type: str) -> Artifact:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
        artifact = Artifact(name=name, path=str(path), size_bytes=size, sha256=digest, media_type=media_type)
        self._send(artifact)
        return artifact

    def _record(self, check: Check) -> Check:
        if self._cause_of is not None and check.status is not CheckStatus.OK:
            check = check.model_copy(update={"because": self._cause_of(check)})
        if not (check.optional and check.status is CheckStatus.UNKNOWN) and (
            _SEVERITY[check.status] > _SEVERITY[self.worst]
        ):
            self.worst = check.status
        if check.status is CheckStatus.FAIL:
            self.failed.append(check)
        if check.status is CheckStatus.UNKNOWN and not check.optional:
            self.not_observed.append(check)
        self.checks.append(check)
        self._send(check)
        return check


_SEVERITY = {CheckStatus.OK: 0, CheckStatus.WARN: 1, CheckStatus.UNKNOWN: 2, CheckStatus.FAIL: 3}


def _text_of(error: Exception) -> str:
    return error.message if isinstance(error, MaintdError) else f"{type(error).__name__}: {error}"


def _create(path: Path) -> BinaryIO:
    """A new file that its owner can write and its group can read."""
    path.unlink(missing_ok=True)
    file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "wb")
    os.fchmod(file.fileno(), 0o640)
    return file
