"""The `targets` of a calendar: what jobs work on."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import ValidationError

from maintd.calendar.value_readers import NodeReader, unknown
from maintd.config.yaml_tree import Node, key_at, value_of
from maintd.model.base import problem_text
from maintd.model.target import Targets


def read_targets(scope: NodeReader, node: Node | None) -> Targets:
    """Read the targets; after an error, which is added to the scope, the defaults."""
    if node is None:
        return Targets()
    within = scope.within("targets")
    for kind, targets in within.pairs(node, "targets", "kind"):
        for name, target in within.pairs(targets, kind.text, "target"):
            within.pairs(target, f'{kind.text} "{name.text}"')
    try:
        return Targets.model_validate(value_of(node) or {})
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_context=False):
            within.error(key_at(node, problem["loc"]), _message(problem))
    return Targets()


def _message(problem: Any) -> str:
    location = problem["loc"]
    if problem["type"] == "extra_forbidden":
        known = list(_fields(location[:-1]))
        what = "kind of target" if len(location) == 1 else "key"
        return _path(location[:-1]) + unknown(what, str(location[-1]), known, f"write one of {', '.join(known)}")
    message = problem_text(problem)
    if problem["type"] == "missing":
        return f'{_path(location[:-1])}"{location[-1]}" is required'
    return f"{_path(location)}{message}"


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) + ": " if location else ""


def _fields(location: tuple[int | str, ...]) -> list[str]:
    """The names that are valid at a location: kinds of target at the top, in a target the fields of its model."""
    if not location:
        return list(Targets.model_fields)
    model = get_args(Targets.model_fields[str(location[0])].annotation)[1]
    for part in location[2:]:  # a part of a target, such as a request
        model = model.model_fields[str(part)].annotation
    return list(model.model_fields)
