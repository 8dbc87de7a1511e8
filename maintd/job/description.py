"""Describe a job from its decorator, its docstring and its `Params`, and validate params."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from maintd.errors import JobError
from maintd.job.decorator import JobFunction, JobTraits
from maintd.job.loader import open_module, traits_of
from maintd.job.params import JobParams
from maintd.job.references import has_reference
from maintd.model.base import problem_text
from maintd.model.job import JobDescription, ParamDescription
from maintd.units import format_duration, format_size, is_size

# Only set here: pydantic parses the source for these docstrings, 20 ms that an attempt must not spend.
JobParams.model_config["use_attribute_docstrings"] = True

LIBRARIES = sys.stdlib_module_names | {
    "maintd",
    "docker",
    "httpx",
    "isal",
    "jinja2",
    "psutil",
    "psycopg",
    "pydantic",
    "redis",
    "yaml",
}
"""Packages that are safe to import before a fork: they start no threads and keep no files open."""


class LoadedJob(NamedTuple):
    """An imported job module."""

    description: JobDescription
    run: JobFunction
    params: type[JobParams]


class ParamProblem(NamedTuple):
    """An invalid param: its location within the params, and the error."""

    location: tuple[str | int, ...]
    message: str


def load_job(path: Path) -> LoadedJob:
    """Import and describe a job module. Raises JobError with file:line."""
    module = open_module(path)
    params: type[JobParams] = getattr(module, "Params", JobParams)
    return LoadedJob(_describe(path.stem, path, module, traits_of(module), params), module.run, params)


def imports_of(path: Path) -> tuple[str, ...]:
    """The imports of a job module from LIBRARIES. A process that has imported them loads the module in 2 ms.

    `from a import b` counts as `a` and `a.b`, because b can be a module. Empty for a module that cannot be parsed.
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
    """The errors in these params. A string with a `${…}` reference is not checked: only the child resolves it."""
    try:
        params.model_validate(dict(raw))
    except ValidationError as error:
        return [
            ParamProblem(tuple(problem["loc"]), problem_text(problem))
            for problem in error.errors(include_url=False)
            if not has_reference(problem.get("input"))
        ]
    return []


def _describe(name: str, path: Path, module: ModuleType, traits: JobTraits, params: type[JobParams]) -> JobDescription:
    doc = (module.__doc__ or "").strip()
    if not doc:
        raise JobError(f"{path}:1: has no docstring", "describe in one line what the job does")
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
        reads_calendar=traits.reads_calendar,
        only_in_window=traits.only_in_window,
        admin_params=traits.admin_params,
        reads_findings=traits.reads_findings,
        reads_unfinished=traits.reads_unfinished,
        reads_tokens=traits.reads_tokens,
        reads_measures_of=traits.reads_measures_of,
        watches=traits.watches,
        history_of=traits.history_of,
        fresh=traits.fresh,
        params=tuple(_param(key, field_info, params) for key, field_info in params.model_fields.items()),
        params_schema=params.model_json_schema(schema_generator=_ParamsSchema),
        imports=imports_of(path),
    )


class _ParamsSchema(GenerateJsonSchema):
    """Writes default values as the calendar does: durations as `1d`, also below other values."""

    def encode_default(self, dft: Any) -> Any:
        return super().encode_default(_written(dft))


def _written(value: Any) -> Any:
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {key: _written(item) for key, item in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [_written(item) for item in value]
    return value


def _param(name: str, info: Any, params: type[JobParams]) -> ParamDescription:
    whole = params.model_json_schema()
    choices, kind = _kind(whole.get("properties", {}).get(name, {}), whole.get("$defs", {}))
    default = None if info.is_required() else _default_text(info.get_default(call_default_factory=True), kind)
    return ParamDescription(
        name=name,
        type=kind,
        required=info.is_required(),
        default=default,
        description=(info.description or "").strip(),
        choices=choices,
    )


def _kind(schema: Mapping[str, Any], named: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """(choices, type in plain English) of a JSON schema. `named` has the schemas that others refer to."""
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
    if schema.get("format") == "time-span":
        return (), "duration"
    return (), schema.get("format") or names.get(str(schema.get("type")), "value")


def _default_text(value: Any, kind: str) -> Any:
    if isinstance(value, timedelta):
        return format_duration(value)
    if kind == "size" and isinstance(value, int):
        return format_size(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list | set | frozenset):
        return [_default_text(item, "") for item in value]
    if isinstance(value, BaseModel):
        plain = value.model_dump(mode="json")
        for name, info in type(value).model_fields.items():
            item = getattr(value, name)
            if is_size(info.metadata) or isinstance(item, BaseModel):
                plain[name] = _default_text(item, "size")
        return plain
    return value
