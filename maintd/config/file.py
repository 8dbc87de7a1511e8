"""The file of settings (`--config`): YAML to plain values, each with the line it stands on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from maintd.errors import SettingsError

LARGEST = 1_000_000
"""Bytes; the largest honest file, every target of a big stack, has some ten thousand."""

MOST_VALUES = 20_000
"""Values after aliases are followed: a file of aliases of aliases must not fill the memory."""

DEEPEST = 20


@dataclass
class ConfigFile:
    """What a file says. `lines` maps a dotted path, `retention.runs`, to its line."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    count: int = 0

    def place(self, path: str) -> str:
        """`file:line` of a value, or of the nearest one around it."""
        while path not in self.lines and "." in path:
            path = path.rpartition(".")[0]
        return f"{self.path}:{self.lines[path]}" if path in self.lines else str(self.path)


def read_config(path: Path) -> ConfigFile:
    """Raises SettingsError with file:line:column for whatever cannot be read as a mapping of settings."""
    found = ConfigFile(path)
    try:
        if path.stat().st_size > LARGEST:
            raise SettingsError(f"{path}: larger than {LARGEST // 1_000_000} MB", "a file of settings is small")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: byte {error.start} is not UTF-8", "save the file as UTF-8") from error
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}", "correct --config or MAINTD_CONFIG") from error
    try:
        _refuse_depth(path, text)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return found
        if not isinstance(node, yaml.MappingNode):
            raise SettingsError(f"{_at(path, node)}: not a mapping", "write for example: slots: 4")
        found.values = _mapping(loader, node, "", 0, found)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise SettingsError(f"{where}: {error.problem or 'not YAML'}", "correct the YAML there") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not YAML: {' '.join(str(error).split())}", "correct it there") from error
    return found


def _refuse_depth(path: Path, text: str) -> None:
    """Before nodes are made of it, which recurses."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                line = event.start_mark.line + 1  # type: ignore[union-attr]  # only events made by hand have none
                raise SettingsError(f"{path}:{line}: more than {DEEPEST} levels deep", "write it flatter")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, path: str, depth: int, found: ConfigFile) -> Any:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise SettingsError(f"{_at(found.path, key_node)}: a name must be plain text")
        key = str(key_node.value)
        if key in values:
            raise SettingsError(f'{_at(found.path, key_node)}: "{key}" stands twice', "remove one of them")
        inner = f"{path}.{key}" if path else key
        found.lines[inner] = key_node.start_mark.line + 1
        values[key] = _value(loader, value_node, inner, depth + 1, found)
    return values


def _value(loader: yaml.SafeLoader, node: yaml.Node, path: str, depth: int, found: ConfigFile) -> Any:
    found.count += 1
    if found.count > MOST_VALUES or depth > DEEPEST:
        raise SettingsError(f"{_at(found.path, node)}: too many values, or too deep", "remove the aliases")
    if isinstance(node, yaml.MappingNode):
        return _mapping(loader, node, path, depth, found)
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, f"{path}.{index}", depth + 1, found) for index, item in enumerate(node.value)]
    try:
        return loader.construct_object(node)
    except (ValueError, ArithmeticError, LookupError, AttributeError) as error:
        # What PyYAML raises for 2026-13-45, `!!int x` and the like.
        tag = str(node.tag).rpartition(":")[2]
        problem = f"{_at(found.path, node)}: not a value of the type {tag}"
        raise SettingsError(problem, "quote it if it is text") from error


def _at(path: Path, node: yaml.Node) -> str:
    return f"{path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
