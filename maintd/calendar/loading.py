"""A calendar file as a whole: found, read, checked, and either usable or refused with every error in it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maintd.calendar.cross_checks import check_between
from maintd.calendar.entries import Defaults, read_defaults, read_entry, title_of
from maintd.calendar.scope import Problems, Scope, advice
from maintd.calendar.steps import Jobs, ParamsToJudge, StepReader, ValidateAll
from maintd.calendar.targets import read_targets
from maintd.config.settings import Settings
from maintd.config.yaml_tree import Node, ScalarNode, YamlError, parse_yaml, read_text
from maintd.errors import CalendarError
from maintd.model.entry import Entry, Policy, StepPlan
from maintd.model.job import BrokenJob, JobDescription
from maintd.model.target import Targets
from maintd.schedule import zone_problem

FILE_NAME = "schedules.yaml"

_TOP_KEYS = ("timezone", "defaults", "entries", "targets")


@dataclass(frozen=True)
class Calendar:
    """All of a calendar file, checked. `disabled` says why an entry cannot run: its job is broken.
    Such an entry stands in `entries` as one that is not enabled."""

    path: Path
    timezone: str
    entries: tuple[Entry, ...]
    targets: Targets = field(default_factory=Targets)
    warnings: tuple[str, ...] = ()
    disabled: dict[str, str] = field(default_factory=dict)
    digest: str = ""  # sha256 of the text, in hex


def calendar_path(settings: Settings) -> Path:
    """The file that the settings name, else ./schedules.yaml where there is one, else the shipped calendar."""
    if settings.calendar is not None:
        return settings.calendar
    here = Path.cwd() / FILE_NAME
    if here.exists():
        return here
    from maintd.job.registry import shipped  # imports what finds jobs, which a reader of one file has no use for

    return shipped(FILE_NAME)


def load_calendar(
    path: Path,
    jobs: Jobs,
    validate_all: ValidateAll | None = None,
    now: datetime | None = None,
) -> Calendar:
    """Read a file. Raises CalendarError with all its problems. Without `validate_all` the types of params are not
    checked; `now` is for tests."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
            size = max(len(data), os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise CalendarError([f"{path}: there is no such file; write one, or set MAINTD_CALENDAR to yours"]) from None
    except IsADirectoryError:
        raise CalendarError([f"{path}: is a folder; set MAINTD_CALENDAR to the file in it"]) from None
    except OSError as error:
        raise CalendarError([f"{path}: cannot be read: {error.strerror or error}"]) from error
    try:
        text = read_bytes(data, size)
    except DocumentError as error:
        raise CalendarError([f"{path}:{error.line}:{error.column}: {error}"]) from None
    return parse_calendar(text, str(path), jobs, validate_all, now)


def parse_calendar(
    text: str,
    name: str,
    jobs: Jobs,
    validate_all: ValidateAll | None = None,
    now: datetime | None = None,
) -> Calendar:
    """The same from text; `name` is the name of the file in problems."""
    problems = Problems(name)
    scope = Scope(problems)
    try:
        root = parse_document(text)
    except DocumentError as error:
        raise CalendarError([f"{name}:{error.line}:{error.column}: {error}"]) from None
    if root is None:
        raise CalendarError([f'{name}:1:1: is empty; begin with "timezone: UTC" and "entries:"'])
    fields = _top_fields(scope, root)
    timezone = _timezone(scope, root, fields.get("timezone"))
    defaults = read_defaults(scope, fields.get("defaults"), timezone)
    targets = read_targets(scope, fields.get("targets"))
    now = now or datetime.now(UTC)
    read = _entries(scope, root, fields.get("entries"), defaults, jobs, validate_all, now)
    if problems.errors:
        raise CalendarError(problems.lines())
    disabled = {entry.name: why for entry in read if (why := _broken(entry, jobs))}
    entries = tuple(entry.model_copy(update={"enabled": False}) if entry.name in disabled else entry for entry in read)
    return Calendar(
        path=Path(name),
        timezone=timezone,
        entries=entries,
        targets=targets,
        warnings=tuple(problems.warning_lines()),
        disabled=disabled,
        digest=hashlib.sha256(text.encode()).hexdigest(),
    )


def entry_for_job(job: JobDescription, params: Mapping[str, Any]) -> Entry:
    """An entry of one step, without a schedule, for a job that is run by its own name."""
    step = StepPlan(
        name=job.name,
        job=job.name,
        params=dict(params),
        locks=dict(job.locks),
        mutates=job.mutates,
        repeatable=job.repeatable,
    )
    # The run's own deadline must not cut the job's short.
    policy = Policy(timeout=max(Policy().timeout, job.timeout))
    return Entry(name=job.name, title=title_of(job.name), runbook=job.runbook, steps=(step,), policy=policy)


def _top_fields(scope: Scope, root: Node) -> dict[str, Node]:
    """Values of the known keys. A key that begins with x- is the reader's own, a place for anchors."""
    found: dict[str, Node] = {}
    for key, value in scope.pairs(root, "a calendar"):
        if key.text.startswith("x-"):
            continue
        if key.text not in _TOP_KEYS:
            scope.error(key, _unknown_top_key(key.text))
        elif not (isinstance(value, ScalarNode) and value.empty):
            found[key.text] = value
    return found


def _unknown_top_key(name: str) -> str:
    return f'unknown key "{name}"; {advice(name, _TOP_KEYS, "write one of")}'


def _timezone(scope: Scope, root: Node, node: Node | None) -> str:
    if node is None:
        scope.error(root, 'has no "timezone"; write for example timezone: UTC, the host\'s own zone is never used')
        return "UTC"
    name = scope.text(node, "timezone")
    problem = None if name is None else zone_problem(name)
    if problem:
        scope.error(node, problem)
    return name if name is not None and problem is None else "UTC"


def _entries(
    scope: Scope,
    root: Node,
    node: Node | None,
    defaults: Defaults,
    jobs: Jobs,
    validate_all: ValidateAll | None,
    now: datetime,
) -> list[Entry]:
    if node is None:
        scope.warn(root, "there are no entries; nothing will be due")
        return []
    to_judge = ParamsToJudge()
    steps = StepReader(jobs, to_judge)
    pairs = scope.pairs(node, "entries", "entry")
    read = [read_entry(scope, key, value, defaults, steps, now) for key, value in pairs]
    if validate_all is not None:
        to_judge.judge(validate_all)
    check_between(scope, read, now)
    return [each.entry for each in read if each.entry is not None]


def _broken(entry: Entry, jobs: Jobs) -> str:
    errors = [f'job "{name}" is broken: {job.error}' for name in entry.jobs if isinstance(job := jobs[name], BrokenJob)]
    return "; ".join(errors)
