"""The reader of the calendar and of the settings file: YAML text to a tree of nodes with line and column.

The tree is built from libyaml's events and not by its composer, which recurses: a few thousand `[` crash the process.
Depth and size are bounded, and an alias counts with everything that it refers to. A scalar keeps its text, so that
`holidays: NO`, `02:00` and `0755` are what was written; `value_of` converts it by the core schema of YAML 1.2.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

MAX_BYTES = 5_000_000
"""A calendar of 10,000 entries is about 1.5 MB."""

MAX_DEPTH = 30
MAX_VALUES = 500_000
"""Values of the whole file, each alias counted with everything that it refers to."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?(?:0|[1-9]\d{0,17})")
_FLOAT = re.compile(r"[-+]?(?:\.\d+|\d+(?:\.\d*)?)(?:[eE][-+]?\d+)?")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_FLAGS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_TEXT_TAG = "tag:yaml.org,2002:str"


class YamlError(Exception):
    """The file is not a YAML document, or not one within the limits. Line and column count from 1."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


@dataclass(slots=True)  # not frozen, which would cost 0.15 s for the nodes of 10,000 entries; no code changes a node
class Node:
    """A scalar, sequence or mapping. `size` counts it and everything in it, `depth` its levels.

    `file` is the name of the file if it is another one than that of the tree, else empty.
    """

    line: int
    column: int
    file: str = field(default="", kw_only=True)
    size: int = field(default=1, kw_only=True)
    depth: int = field(default=1, kw_only=True)


@dataclass(slots=True)
class ScalarNode(Node):
    """A single value. A `quoted` one is always text."""

    text: str
    quoted: bool = False

    @property
    def empty(self) -> bool:
        """True if there is no value, or null."""
        return not self.quoted and self.text in _NULLS


@dataclass(slots=True)
class SequenceNode(Node):
    """A list."""

    items: tuple[Node, ...]


@dataclass(slots=True)
class MappingNode(Node):
    """Keys with their values, in the order of the file. A key may occur twice. `merged` has the pairs of `<<`."""

    items: tuple[tuple[ScalarNode, Node], ...]
    merged: tuple[tuple[ScalarNode, Node], ...] = ()


def read_text(path: Path) -> str:
    """The text of a file. Raises OSError; YamlError for a file that is too large or not UTF-8."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
        size = max(len(data), os.fstat(file.fileno()).st_size)
    if size > MAX_BYTES:
        raise YamlError(1, 1, f"the file has {size / 1e6:.1f} MB, the limit is {MAX_BYTES / 1e6:.0f} MB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = len(before) - (before.rfind(b"\n") + 1) + 1
        raise YamlError(
            before.count(b"\n") + 1, column, f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None


def parse_yaml(text: str, file: str = "") -> Node | None:
    """The root of the tree; None for a text without a value. Raises YamlError. Each node has `file` as its own."""
    try:
        return _Builder(text, file).build()
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(text, error) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        column = len(before) - (before.rfind("\n") + 1) + 1
        raise YamlError(
            before.count("\n") + 1, column, f"the character {error.character!r} is not allowed in YAML; remove it"
        ) from None
    except yaml.YAMLError as error:
        raise YamlError(1, 1, f"not YAML: {' '.join(str(error).split())}") from None


def value_of(node: Node) -> Any:
    """The node as plain data that JSON can represent. Of a key that occurs twice the first counts."""
    if isinstance(node, SequenceNode):
        return [value_of(item) for item in node.items]
    if isinstance(node, MappingNode):
        return {key.text: value_of(value) for key, value in reversed((*node.items, *node.merged))}
    assert isinstance(node, ScalarNode)
    if node.quoted:
        return node.text
    if node.text in _NULLS:
        return None
    if node.text in _FLAGS:
        return _FLAGS[node.text]
    if _INTEGER.fullmatch(node.text):
        return int(node.text)
    return float(node.text) if _FLOAT.fullmatch(node.text) and not _has_leading_zero(node.text) else node.text


def node_at(node: Node, path: Sequence[str | int]) -> Node:
    """The node at a path of keys and indexes, or the nearest parent that exists."""
    for step in path:
        found: Node | None = None
        if isinstance(node, MappingNode):
            found = next((value for key, value in (*node.items, *node.merged) if key.text == str(step)), None)
        elif isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.items):
            found = node.items[step]
        if found is None:
            return node
        node = found
    return node


def key_at(node: Node, path: Sequence[str | int]) -> Node:
    """As `node_at`, but the key and not its value if the path ends with a key."""
    parent = node_at(node, path[:-1]) if path else node
    if path and isinstance(parent, MappingNode):
        return next((key for key, _ in parent.items if key.text == str(path[-1])), parent)
    return node_at(node, path)


def _has_leading_zero(text: str) -> bool:
    digits = text.lstrip("+-")
    return len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()


@dataclass(slots=True)
class _OpenCollection:
    """A mapping or sequence whose end has not been read yet."""

    line: int
    column: int
    mapping: bool
    anchor: str | None
    children: list[Node]


class _Builder:
    """Builds nodes from events, with an explicit stack instead of recursion."""

    def __init__(self, text: str, file: str) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self._file = file
        self._stack: list[_OpenCollection] = []
        self._anchors: dict[str, Node | None] = {}  # None: its end has not been read yet
        self._total = 0
        self._root: Node | None = None
        self._documents = 0

    def build(self) -> Node | None:
        for event in self._events:
            kind, mark = (
                type(event),
                event.start_mark,
            )  # compared by identity, because a large calendar has 200,000 events
            line, column = mark.line + 1, mark.column + 1
            if kind is yaml.ScalarEvent:
                self._refuse_tag(event, line, column)
                quoted = event.style not in (None, "") or event.tag == _TEXT_TAG  # plain: "" from libyaml
                self._add(ScalarNode(line, column, event.value, quoted, file=self._file), event.anchor)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                self._refuse_tag(event, line, column)
                if len(self._stack) >= MAX_DEPTH:
                    raise YamlError(line, column, f"nested more than {MAX_DEPTH} levels deep")
                if event.anchor:
                    self._anchors[event.anchor] = None
                self._stack.append(_OpenCollection(line, column, kind is yaml.MappingStartEvent, event.anchor, []))
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                self._close()
            elif kind is yaml.AliasEvent:
                self._add(self._anchored(str(event.anchor), line, column), None, line, column)
            elif kind is yaml.DocumentStartEvent:
                self._documents += 1
                if self._documents > 1:
                    raise YamlError(line, column, "a second document begins here; the file must be one document")
        if self._root is None or (isinstance(self._root, ScalarNode) and self._root.empty):
            return None
        return self._root

    def _close(self) -> None:
        opened = self._stack.pop()
        children = opened.children
        size, depth = 1, 0
        for child in children:
            size += child.size
            depth = max(depth, child.depth)
        depth += 1
        if depth > MAX_DEPTH:
            raise YamlError(opened.line, opened.column, f"nested more than {MAX_DEPTH} levels deep")
        if opened.mapping:
            pairs = list(zip(children[::2], children[1::2], strict=True))
            for key, _ in pairs:
                if not isinstance(key, ScalarNode):
                    raise YamlError(key.line, key.column, "a key must be plain text; quote it if it begins with {")
            items, merged = _merge(cast("list[tuple[ScalarNode, Node]]", pairs))
            node: Node = MappingNode(opened.line, opened.column, items, merged, size=size, depth=depth, file=self._file)
        else:
            node = SequenceNode(opened.line, opened.column, tuple(children), size=size, depth=depth, file=self._file)
        self._total -= size - 1  # its children are counted already
        self._add(node, opened.anchor)

    def _add(self, node: Node, anchor: str | None, line: int | None = None, column: int | None = None) -> None:
        self._total += node.size
        if self._total > MAX_VALUES:
            raise YamlError(
                line or node.line,
                column or node.column,
                f"the file has more than {MAX_VALUES:,} values, counting each alias with what it refers to",
            )
        if anchor:
            self._anchors[anchor] = node
        if self._stack:
            self._stack[-1].children.append(node)
        else:
            self._root = node

    def _anchored(self, anchor: str, line: int, column: int) -> Node:
        if anchor not in self._anchors:
            raise YamlError(
                line, column, f'there is no anchor "&{anchor}" before this alias; quote text that begins with *'
            )
        node = self._anchors[anchor]
        if node is None:
            raise YamlError(line, column, f'the alias "*{anchor}" is inside the value that it refers to')
        return node

    def _refuse_tag(self, event: Any, line: int, column: int) -> None:
        if event.tag not in (None, "!", _TEXT_TAG):
            raise YamlError(line, column, f'the tag "{event.tag}" is not supported; remove it')


def _merge(
    pairs: Sequence[tuple[ScalarNode, Node]],
) -> tuple[tuple[tuple[ScalarNode, Node], ...], tuple[tuple[ScalarNode, Node], ...]]:
    """The mapping's own pairs, and those of `<<` whose keys are not among them. Source: yaml.org/type/merge.html."""
    own = tuple((key, value) for key, value in pairs if key.text != "<<" or key.quoted)
    if len(own) == len(pairs):
        return own, ()
    seen = {key.text for key, _ in own}
    merged: list[tuple[ScalarNode, Node]] = []
    for key, value in pairs:
        if key.text != "<<" or key.quoted:
            continue
        for source in value.items if isinstance(value, SequenceNode) else (value,):
            if not isinstance(source, MappingNode):
                raise YamlError(key.line, key.column, '"<<" must be a mapping or a list of mappings')
            for name, item in (*source.items, *source.merged):
                if name.text not in seen:
                    seen.add(name.text)
                    merged.append((name, item))
    return own, tuple(merged)


def _syntax_error(text: str, error: yaml.MarkedYAMLError) -> YamlError:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    lines = text.splitlines()
    here = lines[line - 1] if 0 < line <= len(lines) else ""
    problem = error.problem or "cannot be read"
    stripped = here.lstrip(" ")
    if stripped.startswith("\t") or here[column - 1 : column] == "\t":
        return YamlError(line, here.index("\t") + 1, "a tab; indent with spaces")
    if "alias" in problem or "alias" in (error.context or ""):
        problem += '; quote text that begins with *, for example cron: "*/15 * * * *"'
    elif "cannot start any token" in problem:
        problem += f"; quote text that begins with {here[column - 1 : column]}"
    elif "mapping values are not allowed" in problem:
        problem += "; quote text that contains a colon and a space, or correct the indentation"
    elif error.context:
        problem = f"{problem} ({error.context})"
    return YamlError(line, column, f"not YAML: {problem}")
