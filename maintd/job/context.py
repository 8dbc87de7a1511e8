"""What a job is handed: where it stands, how it reports what it sees, and leave to change things.

Everything a job reports goes out at once as one item of evidence; nothing is kept here but counters. The context lives
in the child process and never sees the store.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from maintd.errors import JobError, MaintdError, TargetError, UnknownNameError
from maintd.job.criterion import NOT_OBSERVED, Criterion, Number, Observed
from maintd.model.evidence import Artifact, Change, Check, CheckStatus, Measure, Phase, Progress, Report, Scalar
from maintd.units import format_size

if TYPE_CHECKING:
    from maintd.model.target import Target, Targets

T = TypeVar("T")
PROGRESS_EVERY = 0.2  # seconds; more often helps nobody and would flood the pipe


class CheckFailedError(JobError):
    """A required check was not met; the job stops here and the attempt fails with the check's own words."""

    code = "check_failed"


class BudgetSpentError(JobError):
    """The job wanted to change more than its budget allows."""

    code = "budget_spent"


@dataclass(frozen=True)
class Point:
    """One earlier value of a measure."""

    at: datetime
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AttemptInfo:
    """Where an attempt stands: all that a context needs to know from outside."""

    run_id: int
    entry: str
    step: str
    attempt: int
    due_at: datetime | None
    deadline_at: datetime
    dry_run: bool
    artifacts_dir: Path
    work_dir: Path
    budget: Mapping[str, int] = field(default_factory=dict)
    series: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    reports_dir: Path | None = None


class Context:
    """Handed to `run(ctx, params)`. Safe to use from several threads of the job."""

    def __init__(
        self,
        standing: AttemptInfo,
        targets: Callable[[], Targets],
        send: Callable[[Report], None],
        log: Callable[[str], None],
    ) -> None:
        self._standing = standing
        self._targets = targets
        self._send = send
        self._log = log
        self._budget = dict(standing.budget)
        self._spent: dict[str, int] = {}
        self._phases: list[str] = []
        self._progress_at = -math.inf
        self.worst = CheckStatus.OK
        self.failed: list[Check] = []

    # --- where the attempt stands ---

    @property
    def run_id(self) -> int:
        """The run's number in the history; 0 in the foreground without a store."""
        return self._standing.run_id

    @property
    def entry(self) -> str:
        """The calendar entry, or the job's name when it was triggered by itself."""
        return self._standing.entry

    @property
    def due_at(self) -> datetime | None:
        """The instant this run was owed for, UTC; None for one asked for by hand."""
        return self._standing.due_at

    @property
    def dry_run(self) -> bool:
        """True when nothing outside may change; `may` answers False then."""
        return self._standing.dry_run

    @property
    def targets(self) -> Targets:
        """Every configured target; texts are resolved when a client is made from one."""
        return self._targets()

    @property
    def work_dir(self) -> Path:
        """An empty folder of this attempt's own, deleted afterwards."""
        self._standing.work_dir.mkdir(parents=True, exist_ok=True)
        return self._standing.work_dir

    @property
    def reports_dir(self) -> Path | None:
        """Where reports are also wanted, outside of the state directory; None: nowhere."""
        return self._standing.reports_dir

    @property
    def remaining(self) -> timedelta:
        """Until this attempt is stopped; not below zero."""
        return max(self._standing.deadline_at - self.now(), timedelta(0))

    def now(self) -> datetime:
        """Wall time in UTC."""
        return datetime.now(UTC)

    def target(self, kind: str, name: str | None = None) -> Any:
        """The target of this kind and name; without a name the only one there is, or the one called `main`.

        Raises UnknownNameError, and TargetError(cause="not_configured") when there is none of the kind.
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
        """The targets of a kind with these names, all of them when no name is given."""
        found = self.targets.of(kind)
        return {name: self.target(kind, name) for name in names} if names else dict(found)

    # --- what it is doing ---

    def log(self, text: str) -> None:
        """A line for the person who reads along."""
        self._log(text)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What the job is doing from here on, as a person would tell it; shown live and named when it stops here."""
        self._phases.append(name)
        self._send(Phase(name=name))
        yield
        self._phases.pop()
        if self._phases:
            self._send(Phase(name=self._phases[-1]))

    def progress(self, done: float, total: float | None = None, unit: str = "", *, rate: float | None = None) -> None:
        """How far the job is. May be called as often as it likes; sent at most five times a second.

        rate: units per second; with a total it tells the time left.
        """
        now = time.monotonic()
        if now - self._progress_at < PROGRESS_EVERY and done != total:
            return
        self._progress_at = now
        left = timedelta(seconds=max(total - done, 0) / rate) if rate and total is not None else None
        self._send(Progress(done=done, total=total, unit=unit, rate=rate and round(rate, 3), left=left))

    def track(self, items: Iterable[T], unit: str = "", total: int | None = None) -> Iterator[T]:
        """The items one by one, with progress, rate and time left."""
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

    # --- what it sees ---

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
            ).evaluate()
        )

    def require(self, name: str, observed: Observed, **limits: Any) -> Check:
        """Record a success criterion; raise CheckFailedError when it is failed or unknown."""
        check = self.check(name, observed, **limits)
        if check.status in (CheckStatus.FAIL, CheckStatus.UNKNOWN):
            raise CheckFailedError(
                f'check "{name}": observed {check.observed}, expected {check.expected}', check.hint or None
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
        not_observed: Collection[str] = NOT_OBSERVED,
    ) -> Check:
        """Record the criterion of a target that raised an error, see `Criterion.from_error`."""
        return self._record(Criterion.from_error(name, error, expected=expected, not_observed=not_observed).evaluate())

    def unknown(self, name: str, cause: str, *, expected: str = "an answer", hint: str = "") -> Check:
        """Record that a criterion could not be observed, and why. It never counts as success."""
        return self._record(Criterion(name, unknown=cause, equals=expected, hint=hint).evaluate())

    def fail(self, name: str, observed: Scalar, *, expected: str, hint: str = "") -> Check:
        """Record a failed criterion whose expectation is only text."""
        return self._record(Check(name=name, observed=observed, expected=expected, status=CheckStatus.FAIL, hint=hint))

    def measure(self, name: str, value: float, unit: str = "", **labels: str) -> None:
        """Keep a number for trends. A value that is not finite is not kept."""
        if math.isfinite(value):
            self._send(Measure(name=name, value=float(value), unit=unit, labels=labels))

    def series(self, name: str, **labels: str) -> list[Point]:
        """Earlier values of a measure of this entry and job, oldest first, whose labels include these."""
        points = self._standing.series.get(name, ())
        return [point for point in points if labels.items() <= point.labels.items()]

    def last(self, name: str, default: float | None = None, **labels: str) -> float | None:
        """The latest earlier value of a measure."""
        points = self.series(name, **labels)
        return points[-1].value if points else default

    def increase(self, name: str, count: int, unit: str = "", **labels: str) -> int | None:
        """Keep a counter as a measure; return its growth since the last run, None at the first.

        A smaller count than before means that the counter was reset; then the growth is the count itself.
        """
        before = self.last(name, None, **labels)
        self.measure(name, count, unit, **labels)
        if before is None:
            return None
        return count - round(before) if count >= before else count

    # --- what it changes and leaves ---

    def limit(self, action: str, count: int | None = None, *, size_bytes: int | None = None) -> None:
        """Set this attempt's budget for an action from the job's own params."""
        if count is not None:
            self._budget[action] = count
        if size_bytes is not None:
            self._budget["bytes"] = size_bytes

    def may(self, action: str, target: object, *, bytes: int = 0, **details: Scalar) -> bool:  # noqa: A002 - reads well
        """Declare an effect on the outside just before doing it. False in a dry run: then do not do it.

        Raises BudgetSpentError when this would be more than the budget allows; nothing is recorded then.
        """
        for key, amount in ((action, 1), ("bytes", bytes)):
            most = self._budget.get(key)
            if most is not None and self._spent.get(key, 0) + amount > most:
                limit = format_size(most) if key == "bytes" else f"{most}"
                raise BudgetSpentError(
                    f'"{action}" of {target} would exceed the budget of {limit} {key if key == "bytes" else "changes"}',
                    "look at the changes so far; raise the job's limit if they are right",
                )
        for key, amount in ((action, 1), ("bytes", bytes)):
            self._spent[key] = self._spent.get(key, 0) + amount
        if bytes:
            details["bytes"] = bytes
        self._send(Change(action=action, target=str(target), details=details, done=not self.dry_run))
        return not self.dry_run

    def save(self, name: str, content: str | bytes, media_type: str = "text/plain; charset=utf-8") -> Artifact:
        """Keep a file with the run: written whole or not at all, with its sha256."""
        data = content.encode() if isinstance(content, str) else content
        path = self._artifact_path(name)
        part = path.with_name(path.name + ".part")
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        return self._keep(name, path, media_type)

    def keep(self, source: Path, name: str | None = None, media_type: str = "application/octet-stream") -> Artifact:
        """Keep a copy of a file that the job wrote."""
        path = self._artifact_path(name or source.name)
        shutil.copyfile(source, path)
        return self._keep(name or source.name, path, media_type)

    def _artifact_path(self, name: str) -> Path:
        if Path(name).name != name or name.startswith("."):
            raise JobError(f'artifact name "{name}" is not a plain file name')
        self._standing.artifacts_dir.mkdir(parents=True, exist_ok=True)
        return self._standing.artifacts_dir / name

    def _keep(self, name: str, path: Path, media_type: str) -> Artifact:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        made = Artifact(name=name, path=str(path), size_bytes=path.stat().st_size, sha256=digest, media_type=media_type)
        self._send(made)
        return made

    def _record(self, check: Check) -> Check:
        if _SEVERITY[check.status] > _SEVERITY[self.worst]:
            self.worst = check.status
        if check.status is CheckStatus.FAIL:
            self.failed.append(check)
        self._send(check)
        return check


_SEVERITY = {CheckStatus.OK: 0, CheckStatus.WARN: 1, CheckStatus.UNKNOWN: 2, CheckStatus.FAIL: 3}
