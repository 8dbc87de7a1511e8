"""The settings file (`--config`): its values, and the line of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maintd.config.yaml_tree import MappingNode, Node, SequenceNode, YamlError, parse_yaml, read_text, value_of
from maintd.errors import SettingsError


@dataclass(frozen=True)
class ConfigFile:
    """The content of a settings file. `lines` maps a dotted path, `retention.runs`, to the line of its key."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def place(self, path: str) -> str:
        """`file:line` of the value at a dotted path, or of the nearest parent that the file has."""
        while path not in self.lines and "." in path:
            path = path.rpartition(".")[0]
        return f"{self.path}:{self.lines[path]}" if path in self.lines else str(self.path)


def read_config(path: Path) -> ConfigFile:
    """Read a settings file. Raises SettingsError with file:line:column if it is not a mapping in YAML."""
    try:
        root = parse_yaml(read_text(path))
        lines = {} if root is None else _lines_of(root)
    except YamlError as error:
        raise SettingsError(f"{path}:{error.line}:{error.column}: {error}") from error
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}", "correct --config or MAINTD_CONFIG") from error
    return ConfigFile(path, {} if root is None else value_of(root), lines)


def _lines_of(root: Node) -> dict[str, int]:
    if not isinstance(root, MappingNode):
        raise YamlError(root.line, root.column, "settings must be a mapping of names to values; for example slots: 4")
    lines: dict[str, int] = {}
    _collect_lines(root, "", lines)
    return lines


def _collect_lines(node: Node, prefix: str, lines: dict[str, int]) -> None:
    """Add the line of each key in the node to `lines`. Raises YamlError for a key that occurs twice in a mapping."""
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.items):
            _collect_lines(item, f"{prefix}{index}.", lines)
    if isinstance(node, MappingNode):
        first: dict[str, int] = {}
        for key, value in (*node.items, *node.merged):
            if key.text in first:
                text = f'duplicate key "{key.text}", first on line {first[key.text]}; remove one of them'
                raise YamlError(key.line, key.column, text)
            first[key.text] = lines[f"{prefix}{key.text}"] = key.line
            _collect_lines(value, f"{prefix}{key.text}.", lines)
