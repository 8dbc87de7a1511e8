"""The job contract: a module in a jobs folder with `run(ctx, params)`, decorated with `@job`.

Returning is success, raising is failure. A module may have a class `Params(JobParams)` whose fields are the job's
parameters. Nothing is registered; the module's file name is the job's name.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from maintd.context import BudgetSpentError, CheckFailedError, Context, Point
from maintd.errors import JobError, TargetError
from maintd.model import CheckStatus, JobDescription, LockMode, ParamDescription
from maintd.targets.references import has_reference, resolve_references
from maintd.values import Duration, Size, format_duration, format_size, parse_duration, parse_size

__all__ = [
    "BudgetSpentError", "CheckFailedError", "CheckStatus", "Context", "Duration", "JobError", "JobParams", "Point",
    "Size", "TargetError", "format_duration", "format_size", "job", "resolve_references",
]  # fmt: skip

LIBRARIES = sys.stdlib_module_names | {
    "maintd", "docker", "httpx", "isal", "jinja2", "psutil", "psycopg", "pydantic", "redis", "yaml",
}  # fmt: skip
"""Packages that are known to be safe to load before a fork: they start no threads and hold nothing open."""

_MARK = "__maintd_job__"
_JOB_NAME = re.compile(r"[a-z][a-z0-9_]*")

JobFunction = Callable[..., None]
F = TypeVar("F", bound=JobFunction)


class JobParams(BaseModel):
    """Base of a job's `Params`. A parameter that is not a field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)


@dataclass(frozen=True)
class JobTraits:
    """What the decorator says about a job."""

    timeout: timedelta
    repeatable: bool
    mutates: bool
    locks: Mapping[str, LockMode] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    budget: Mapping[str, int] = field(default_factory=dict)
    history: int = 60
    history_of: Literal["entry", "job"] = "entry"


def job(
    *,
    timeout: str = "30m",
    repeatable: bool = False,
    mutates: bool = False,
    locks: Mapping[str, LockMode] | None = None,
    needs: Sequence[str] = (),
    budget: Mapping[str, int | str] | None = None,
    history: int = 60,
    history_of: Literal["entry", "job"] = "entry",
) -> Callable[[F], F]:
    """Make a function the job of its module.

    timeout: of one attempt. repeatable: may be tried again after a failure. mutates: changes something outside.
    locks: names held while it runs. needs: kinds of target without which the step is skipped as not configured.
    budget: the most changes of each action in one attempt; `bytes` is the most bytes of all together.
    history: how many earlier points of each measure `ctx.series` has. history_of: those of the same entry only, or of
    the job under whatever entry, for measures whose labels say what they are of.
    """
    traits = JobTraits(
        timeout=parse_duration(timeout),
        repeatable=repeatable,
        mutates=mutates,
        locks=dict(locks or {}),
        needs=tuple(needs),
        budget={key: parse_size(value) if isinstance(value, str) else value for key, value in (budget or {}).items()},
        history=history,
        history_of=history_of,
    )

    def mark(function: F) -> F:
        setattr(function, _MARK, traits)
        return function

    return mark


class LoadedJob(NamedTuple):
    """A job module, imported."""

    description: JobDescription
    run: JobFunction
    params: type[JobParams]


class ParamProblem(NamedTuple):
    """What is wrong with a parameter: where within the params, and why."""

    location: tuple[str | int, ...]
    message: str


def load_job(path: Path) -> LoadedJob:
    """Import a job module from its file. Raises JobError with file:line for whatever is wrong with it."""
    module = _open(path)
    traits = cast("JobTraits", getattr(module.run, _MARK))
    params: type[JobParams] = getattr(module, "Params", JobParams)
    return LoadedJob(_describe(path.stem, path, module, traits, params), module.run, params)


def open_job(path: Path) -> tuple[JobFunction, type[JobParams]]:
    """As `load_job`, without describing it: its `run` and its `Params`. A child has no time for more."""
    module = _open(path)
    return module.run, getattr(module, "Params", JobParams)


def _open(path: Path) -> ModuleType:
    if not _JOB_NAME.fullmatch(path.stem):
        raise JobError(f"{path}: a job's file name is lower case letters, digits and _", f"rename {path.name}")
    module = _import(path)
    run = getattr(module, "run", None)
    if run is None or getattr(run, _MARK, None) is None:
        raise JobError(f"{path}: has no function `run` decorated with @job", "see: docs/writing-a-job.md")
    params = getattr(module, "Params", JobParams)
    if not (isinstance(params, type) and issubclass(params, JobParams)):
        raise JobError(f"{path}: Params is not a subclass of maintd.job.JobParams")
    return module


def imports_of(path: Path) -> tuple[str, ...]:
    """What a job module imports from LIBRARIES when it is loaded; a process that has these already opens it in 2 ms.

    `from a import b` counts as `a` and `a.b`, since only importing tells whether b is a module. Nothing for a module
    that cannot be parsed.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, ValueError, SyntaxError):
        return ()
    found: list[str] = []
    for statement in tree.body:
        match statement:
            case ast.Import(names=names):
                found += [name.name for name in names]
            case ast.ImportFrom(module=str(module), names=names, level=0):
                found += [module, *(f"{module}.{name.name}" for name in names if name.name != "*")]
    return tuple(dict.fromkeys(name for name in found if name.partition(".")[0] in LIBRARIES))


def validate_params(params: type[JobParams], raw: Mapping[str, Any]) -> list[ParamProblem]:
    """What is wrong with these params. A text with a `${…}` reference is not judged: only the child resolves it."""
    try:
        params.model_validate(dict(raw))
    except ValidationError as error:
        return [
            ParamProblem(tuple(problem["loc"]), _plain(problem["msg"]))
            for problem in error.errors(include_url=False)
            if not has_reference(problem.get("input"))
        ]
    return []


def _plain(message: str) -> str:
    return (
        message.removeprefix("Value error, ").replace("Input should", "should").replace("Field required", "is required")
    )


def _import(path: Path) -> ModuleType:
    qualified = f"maintd_jobs.{path.stem}"
    spec = importlib.util.spec_from_file_location(qualified, path)
    if spec is None or spec.loader is None:
        raise JobError(f"{path}: is not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[qualified] = module  # so that its classes can be found by name, as pydantic does for annotations
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise JobError(
            f"{path}:{error.lineno}: {error.msg}", "correct the module; its entries are disabled until then"
        ) from error
    except Exception as error:
        line = next(
            (f.lineno for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == str(path)), 0
        )
        raise JobError(f"{path}:{line}: cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _describe(name: str, path: Path, module: ModuleType, traits: JobTraits, params: type[JobParams]) -> JobDescription:
    doc = (module.__doc__ or "").strip()
    if not doc:
        raise JobError(f"{path}:1: has no docstring", "say in one line what the job does")
    runbook = re.search(r"^Runbook:\s*(.+?)(?:\n\s*\n|\Z)", doc, re.MULTILINE | re.DOTALL)
    return JobDescription(
        name=name,
        path=path,
        summary=doc.splitlines()[0],
        doc=doc,
        runbook=" ".join(runbook[1].split()) if runbook else "",
        timeout=traits.timeout,
        repeatable=traits.repeatable,
        mutates=traits.mutates,
        locks=dict(traits.locks),
        needs=traits.needs,
        budget=dict(traits.budget),
        history=traits.history,
        history_of=traits.history_of,
        params=tuple(_param(key, field_info, params) for key, field_info in params.model_fields.items()),
        params_schema=params.model_json_schema(),
        imports=imports_of(path),
    )


def _param(name: str, info: Any, params: type[JobParams]) -> ParamDescription:
    whole = params.model_json_schema()
    choices, kind = _kind(whole.get("properties", {}).get(name, {}), whole.get("$defs", {}))
    default = None if info.is_required() else _written(info.get_default(call_default_factory=True), kind)
    return ParamDescription(
        name=name,
        type=kind,
        required=info.is_required(),
        default=default,
        description=(info.description or "").strip(),
        choices=choices,
    )


def _kind(schema: Mapping[str, Any], named: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """The choices there are, and how a person would call the type. `named` are the schemas that others refer to."""
    if "$ref" in schema:
        return _kind(named.get(str(schema["$ref"]).rpartition("/")[2], {}), named)
    for several in ("anyOf", "oneOf", "allOf"):
        options = [option for option in schema.get(several, ()) if option.get("type") != "null"]
        if options:
            return _kind(options[0], named)
    if "enum" in schema:
        choices = tuple(str(choice) for choice in schema["enum"])
        return choices, "one of " + ", ".join(choices)
    if schema.get("type") == "array":
        return (), f"list of {_kind(schema.get('items', {}), named)[1]}"
    if schema.get("type") == "object" and schema.get("properties"):
        return (), "mapping with " + ", ".join(schema["properties"])
    if isinstance(schema.get("additionalProperties"), dict):
        return (), f"mapping of names to {_kind(schema['additionalProperties'], named)[1]}"
    names = {"string": "text", "integer": "number", "number": "number", "boolean": "true or false", "object": "mapping"}
    return (), schema.get("format") or names.get(str(schema.get("type")), "value")


def _written(value: Any, kind: str) -> Any:
    if isinstance(value, timedelta):
        return format_duration(value)
    if kind == "size" and isinstance(value, int):
        return format_size(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list | set | frozenset):
        return [_written(item, "") for item in value]
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return value
