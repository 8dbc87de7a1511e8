"""Run a job in this process, as the child does, and return everything that it reported."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from maintd.job import resolve_references
from maintd.job.attempt_info import AttemptInfo, KnownFinding, Point
from maintd.job.context import Context
from maintd.job.description import LoadedJob, load_job
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
)
from maintd.model.target import Targets

JOBS = Path(__file__).parents[2] / "jobs"


@dataclass
class JobResult:
    """What a job reported, in order. `error` is the exception that it raised, None when it returned."""

    items: list[Report] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    error: Exception | None = None
    traceback: str = ""

    @property
    def checks(self) -> list[Check]:
        return [item for item in self.items if isinstance(item, Check)]

    @property
    def measures(self) -> list[Measure]:
        return [item for item in self.items if isinstance(item, Measure)]

    @property
    def changes(self) -> list[Change]:
        """What became of each change, in the order in which they were intended."""
        return list({item.number: item for item in self.items if isinstance(item, Change)}.values())

    @property
    def artifacts(self) -> list[Artifact]:
        return [item for item in self.items if isinstance(item, Artifact)]

    @property
    def phases(self) -> list[str]:
        return [item.name for item in self.items if isinstance(item, Phase)]

    @property
    def progress(self) -> list[Progress]:
        return [item for item in self.items if isinstance(item, Progress)]

    @property
    def handed(self) -> dict[str, Any]:
        """The values for later steps, by name."""
        return {item.name: item.value for item in self.items if isinstance(item, Handed)}

    @property
    def outcome(self) -> str:
        """`succeeded`, `warned`, `unknown` or `failed`, by the rules for a run."""
        required = [check for check in self.checks if not (check.optional and check.status is CheckStatus.UNKNOWN)]
        statuses = {check.status for check in required}
        if self.error is not None or CheckStatus.FAIL in statuses:
            return "failed"
        if CheckStatus.UNKNOWN in statuses:
            return "unknown"
        return "warned" if statuses - {CheckStatus.OK} else "succeeded"

    def check(self, name: str) -> Check:
        """Return the only check of this name."""
        found = [check for check in self.checks if check.name == name]
        assert len(found) == 1, f'{len(found)} checks named "{name}":\n{self.text()}'
        return found[0]

    def measure(self, name: str, /, **labels: str) -> float:
        """Return the last value of a measure whose labels include these."""
        found = [item for item in self.measures if item.name == name and labels.items() <= item.labels.items()]
        assert found, f'no measure "{name}" {labels}:\n{self.text()}'
        return found[-1].value

    def named(self, part: str) -> list[Check]:
        """Return the checks whose name contains this."""
        return [check for check in self.checks if part in check.name]

    def text(self) -> str:
        """Return everything as text, for the message of a failed assertion."""
        lines = [
            f"{c.status:8} {c.name}: {c.observed!r}, expected {c.expected} {c.unit} ({c.hint})" for c in self.checks
        ]
        lines += [f"measure  {m.name} {m.labels}: {m.value} {m.unit}" for m in self.measures]
        lines += [f"change   {c.action} {c.target} {c.details} {c.state} {c.cause}" for c in self.changes]
        lines += [f"log      {line}" for line in self.logs]
        return "\n".join([*lines, self.traceback or "returned"])


@cache
def shipped_job(name: str) -> LoadedJob:
    """Import a shipped job once, as the process does from which the daemon forks attempts."""
    return load_job(JOBS / f"{name}.py")


def run_job(
    job: str | Path,
    params: Mapping[str, Any] | None = None,
    targets: Targets | Mapping[str, Any] | None = None,
    *,
    dry_run: bool = False,
    series: Mapping[str, Sequence[Point | float]] | None = None,
    folder: Path | None = None,
    timeout: timedelta = timedelta(minutes=5),
    reports_dir: Path | None = None,
    around: AbstractContextManager[object] | None = None,
    at_intent: Callable[[Change], None] | None = None,
    at_report: Callable[[Report], object] | None = None,
    findings: Mapping[str, KnownFinding] | None = None,
    handed: Mapping[str, Any] | None = None,
    **attempt: Any,
) -> JobResult:
    """Run a shipped job by name, or a job file by path, with params as in a calendar.

    Numbers in `series` are daily points, the last of them yesterday's. Artifacts and work folder are in `folder`, by
    default a new one in the temporary directory. `around` is entered for the call of the job alone: its module has been
    imported before. `at_intent` is called when a change was declared and is not done yet,
    `at_report` with each item. `findings` are open ones by the name of the check.
    `handed`: values of earlier steps. `attempt` has further fields of `AttemptInfo`, such as `outcomes`.
    """
    path = job if isinstance(job, Path) else JOBS / f"{job}.py"
    loaded = load_job(path) if isinstance(job, Path) else shipped_job(job)
    where = folder or Path(tempfile.mkdtemp(prefix="maintd-job-"))
    result = JobResult()
    info = AttemptInfo(
        run_id=1,
        entry=path.stem,
        step=path.stem,
        attempt=1,
        due_at=None,
        deadline_at=datetime.now(UTC) + timeout,
        dry_run=dry_run,
        artifacts_dir=where / "artifacts",
        work_dir=where / "work",
        budget=loaded.description.budget,
        series={name: _points(values) for name, values in (series or {}).items()},
        reports_dir=reports_dir,
        findings=findings or {},
        handed=handed or {},
    )
    info = replace(info, **attempt)
    known = targets if isinstance(targets, Targets) else Targets.model_validate(dict(targets or {}))

    def receive(item: Report) -> None:
        result.items.append(item)
        if at_report is not None:
            at_report(item)
        if at_intent is not None and isinstance(item, Change) and item.state is ChangeState.INTENDED:
            at_intent(item)

    ctx = Context(info, lambda: known, receive, result.logs.append)
    try:
        given = loaded.params.model_validate(resolve_references(dict(params or {}), os.environ))
        with around or nullcontext():
            loaded.run(ctx, given)
    except Exception as error:  # noqa: BLE001 - as the child does at its border
        result.error = error
        result.traceback = traceback.format_exc()
    return result


def run_with_hook(
    job: str,
    params: Mapping[str, Any],
    targets: Mapping[str, Any],
    hook: Callable[[Change], None],
    series: Mapping[str, Sequence[Point]] | None = None,
) -> list[str]:
    """Run a job in this process and return its log; `hook` is called when a change was declared and is not done yet."""
    result = run_job(job, params, targets, series=series, at_intent=hook)
    if result.error is not None:
        raise result.error
    return result.logs


def _points(values: Sequence[Point | float]) -> list[Point]:
    now = datetime.now(UTC)
    return [
        value if isinstance(value, Point) else Point(now - timedelta(days=len(values) - index), float(value))
        for index, value in enumerate(values)
    ]
