"""Load a calendar file: find it, read it, and return the calendar or raise an error with all its problems."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maintd.calendar.cross_checks import check_entries
from maintd.calendar.entries import Defaults, ReadEntry, read_defaults, read_entry, title_of
from maintd.calendar.freezes import read_freezes
from maintd.calendar.notify import channel_places, read_notify
from maintd.calendar.overlay import TOP_KEYS, OverlayText, removed_by_lists, with_overlay
from maintd.calendar.steps import Jobs, ParamsToValidate, StepReader, ValidateAll
from maintd.calendar.targets import read_targets
from maintd.calendar.value_readers import NodeReader, Problems, unknown
from maintd.config.settings import Settings
from maintd.config.trust import require_trusted
from maintd.config.yaml_tree import MappingNode, Node, ScalarNode, YamlError, node_at, parse_yaml, read_text, value_of
from maintd.errors import CalendarError
from maintd.model.entry import Entry, Freeze, Policy, StepPlan
from maintd.model.job import BrokenJob, JobDescription
from maintd.model.notice import NotifyConfig
from maintd.model.target import Targets
from maintd.schedule import zone_problem
from maintd.secret_params import ALL_SECRET, collect_into, malformed_references, reference_prefix, without_secrets

FILE_NAME = "schedules.yaml"
OVERLAY_NAME = "schedules.local.yaml"


@dataclass(frozen=True)
class Calendar:
    """The content of a valid calendar file.

    `broken` maps an entry whose job cannot be used to the reason. Its due times are planned, and its runs fail with it.
    """

    path: Path
    timezone: str
    entries: tuple[Entry, ...]
    targets: Targets = field(default_factory=Targets)
    warnings: tuple[str, ...] = ()
    broken: dict[str, str] = field(default_factory=dict)
    digest: str = ""  # sha256 of the text and that of the overlay, in hex
    overlay: Path | None = None
    secrets: dict[str, str] = field(default_factory=dict, repr=False)  # of params, by reference
    notify: NotifyConfig = field(default_factory=NotifyConfig)
    channel_places: dict[str, str] = field(default_factory=dict)  # by name of a channel or monitor: file:line:column
    freezes: tuple[Freeze, ...] = ()

    @property
    def place(self) -> str:
        """The file, and its overlay if it has one."""
        return str(self.path) if self.overlay is None else f"{self.path} with {self.overlay}"


def calendar_path(settings: Settings) -> Path:
    """The calendar that the settings name; by default ./schedules.yaml if it exists, else the shipped calendar.

    Raises RefusedError if maintd runs as root and other users can write ./schedules.yaml.
    """
    if settings.calendar is not None:
        return settings.calendar
    here = Path.cwd() / FILE_NAME
    if here.exists():
        require_trusted(here)  # no setting names this file
        return here
    from maintd.job.registry import shipped  # not needed if the settings name the file

    return shipped(FILE_NAME)


def overlay_path(settings: Settings) -> Path | None:
    """The overlay that the settings name; by default `overlay_beside` the calendar. None if there is none.

    Raises RefusedError if maintd runs as root and other users can write a file that no setting names.
    """
    if settings.calendar_overlay is not None:
        return settings.calendar_overlay
    path = settings.calendar or Path.cwd() / FILE_NAME
    found = overlay_beside(path)
    if found is not None:
        require_trusted(found)
    return found


def overlay_beside(path: Path) -> Path | None:
    """`schedules.local.yaml` in the folder of `schedules.yaml`, if it exists."""
    found = path.with_name(f"{path.stem}.local{path.suffix}")
    return found if found.exists() else None


def load_configured(settings: Settings, jobs: Jobs, validate_all: ValidateAll | None = None) -> Calendar:
    """Read the calendar of the settings with its overlay, as `load_calendar` does."""
    return load_calendar(calendar_path(settings), jobs, validate_all, overlay=overlay_path(settings))


def load_calendar(
    path: Path,
    jobs: Jobs,
    validate_all: ValidateAll | None = None,
    now: datetime | None = None,
    overlay: Path | None = None,
    *,
    setting: str = "MAINTD_CALENDAR",
) -> Calendar:
    """Read a calendar file, and its overlay. Raises CalendarError with all their problems.

    setting: what names the file; empty for one that was given by its name.

    Without `validate_all` the types of params are not checked. `now` is the current time by default.
    """
    text = _read(path, setting)
    above = None if overlay is None else OverlayText(str(overlay), _read(overlay, "MAINTD_CALENDAR_OVERLAY"))
    return parse_calendar(text, str(path), jobs, validate_all, now, above)


def parse_calendar(
    text: str,
    name: str,
    jobs: Jobs,
    validate_all: ValidateAll | None = None,
    now: datetime | None = None,
    overlay: OverlayText | None = None,
) -> Calendar:
    """As `load_calendar`, from text; problems name the file `name`."""
    problems = Problems(name)
    scope = NodeReader(problems)
    root = _parsed(text, name)
    if root is None:
        raise CalendarError([f'{name}:1:1: the calendar is empty; begin with "timezone: UTC" and "entries:"'])
    above = None if overlay is None else _parsed(overlay.text, overlay.name, overlay.name)
    removed: dict[str, str] = {}
    if above is not None:
        removed = removed_by_lists(root, above)
        root = with_overlay(scope, root, above)
    fields = _top_fields(scope, root)
    if not isinstance(root, MappingNode):
        raise CalendarError(problems.lines())
    timezone = _timezone(scope, root, fields.get("timezone"))
    defaults = read_defaults(scope, fields.get("defaults"), timezone)
    targets = read_targets(scope, fields.get("targets"))
    for key in ("targets", "notify"):
        _check_references(scope, key, fields.get(key))
    now = now or datetime.now(UTC)
    with_nodes = _entries(scope, root, fields.get("entries"), defaults, jobs, validate_all, now)
    notify = read_notify(scope, fields.get("notify"), with_nodes, timezone)
    freezes = read_freezes(scope, fields.get("freezes"), timezone, [each.key.text for each in with_nodes])
    if problems.errors:
        raise CalendarError(problems.lines())
    places = channel_places(fields.get("notify"), with_nodes)
    secrets: dict[str, str] = {}
    read = [
        _without_secrets(_with_removed(each.entry, removed), jobs, secrets)
        for each in with_nodes
        if each.entry is not None
    ]
    broken = {entry.name: why for entry in read if entry.enabled and (why := _broken(entry, jobs))}
    return Calendar(
        path=Path(name),
        timezone=timezone,
        entries=tuple(read),
        targets=targets,
        warnings=tuple(problems.warning_lines()),
        broken=broken,
        digest=hashlib.sha256((text if overlay is None else f"{text}\0{overlay.text}").encode()).hexdigest(),
        overlay=None if overlay is None else Path(overlay.name),
        secrets=secrets,
        notify=notify,
        channel_places={key: f"{node.file or name}:{node.line}:{node.column}" for key, node in places.items()},
        freezes=freezes,
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
        only_in_window=job.only_in_window,
        watches=job.watches,
    )
    # The timeout of the run must not be shorter than the timeout of the job.
    policy = Policy(timeout=max(Policy().timeout, job.timeout))
    return Entry(name=job.name, title=title_of(job.name), runbook=job.runbook, steps=(step,), policy=policy)


def _read(path: Path, setting: str) -> str:
    try:
        return read_text(path)
    except FileNotFoundError:
        otherwise = f"create it, or correct {setting}" if setting else "create it, or correct the name"
        raise CalendarError([f"{path}: the file does not exist; {otherwise}"]) from None
    except IsADirectoryError:
        otherwise = f"set {setting} to the file in it" if setting else "give the name of the file in it"
        raise CalendarError([f"{path}: is a folder; {otherwise}"]) from None
    except OSError as error:
        raise CalendarError([f"{path}: cannot be read: {error.strerror or error}"]) from error
    except YamlError as error:
        raise CalendarError([f"{path}:{error.line}:{error.column}: {error}"]) from None


def _parsed(text: str, name: str, file: str = "") -> Node | None:
    try:
        return parse_yaml(text, file)
    except YamlError as error:
        raise CalendarError([f"{name}:{error.line}:{error.column}: {error}"]) from None


def _top_fields(scope: NodeReader, root: Node) -> dict[str, Node]:
    """The values of the known keys. Keys that begin with x- are ignored: a calendar can keep its anchors there."""
    found: dict[str, Node] = {}
    for key, value in scope.pairs(root, "a calendar"):
        if key.text.startswith("x-"):
            continue
        if key.text not in TOP_KEYS:
            scope.error(key, unknown("key", key.text, TOP_KEYS, f"write one of {', '.join(TOP_KEYS)}"))
        elif not (isinstance(value, ScalarNode) and value.empty):
            found[key.text] = value
    return found


def _check_references(scope: NodeReader, key: str, node: Node | None) -> None:
    """Add an error for each malformed reference below a key; those among params are found with the params."""
    if node is None:
        return
    for path, problem in malformed_references(value_of(node)):
        scope.error(node_at(node, path), f"{'.'.join(map(str, (key, *path)))}: {problem}")


def _timezone(scope: NodeReader, root: Node, node: Node | None) -> str:
    if node is None:
        scope.error(root, '"timezone" is required, the time zone of the host is not used; for example timezone: UTC')
        return "UTC"
    name = scope.text(node, "timezone")
    problem = None if name is None else zone_problem(name)
    if problem:
        scope.error(node, problem)
    return name if name is not None and problem is None else "UTC"


def _entries(
    scope: NodeReader,
    root: Node,
    node: Node | None,
    defaults: Defaults,
    jobs: Jobs,
    validate_all: ValidateAll | None,
    now: datetime,
) -> list[ReadEntry]:
    if node is None:
        scope.warn(root, "the calendar has no entries")
        return []
    params = ParamsToValidate()
    steps = StepReader(jobs, params)
    pairs = scope.pairs(node, "entries", "entry")
    read = [read_entry(scope, key, value, defaults, steps, now) for key, value in pairs]
    if validate_all is not None:
        params.validate(validate_all)
    check_entries(scope, read, now)
    return read


def _with_removed(entry: Entry, removed: Mapping[str, str]) -> Entry:
    """The entry, whose keys from the overlay state what a list of steps leaves out."""
    if entry.name not in removed:
        return entry
    steps = next(key for key in ("steps", "always") if key in entry.overlaid)
    overlaid = {**entry.overlaid, steps: f"{entry.overlaid[steps]}, {removed[entry.name]}"}
    return entry.model_copy(update={"overlaid": overlaid})


def _without_secrets(entry: Entry, jobs: Jobs, secrets: dict[str, str]) -> Entry:
    steps = []
    for step in entry.steps:
        if step.params:
            job = jobs[step.job]
            # Which params of a broken job are secret is not known.
            schema = job.params_schema if isinstance(job, JobDescription) else ALL_SECRET
            reference = collect_into(secrets, reference_prefix(entry.name, step.name))
            step = step.model_copy(update={"params": without_secrets(step.params, schema, reference)})
        steps.append(step)
    return entry.model_copy(update={"steps": tuple(steps)})


def _broken(entry: Entry, jobs: Jobs) -> str:
    errors = [f'job "{name}" is broken: {job.error}' for name in entry.jobs if isinstance(job := jobs[name], BrokenJob)]
    return "; ".join(errors)
