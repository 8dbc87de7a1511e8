"""YAML text → a small tree that knows the line and column of everything in it.

Built from libyaml's events and not by its composer, which recurses: some thousand `[` end the process. Depth and size
are bounded, aliases counted at the size they stand for. Scalars keep their text, so that `holidays: NO`, `02:00` and
`0755` are what was written; what is not text is read as YAML 1.2's core schema says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import yaml

MAX_BYTES = 5_000_000
"""A calendar of 10,000 entries is about 1.5 MB."""

MAX_DEPTH = 30
MAX_VALUES = 500_000
"""Values of the whole file, each alias counted with all that it stands for."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?(?:0|[1-9]\d{0,17})")
_FLOAT = re.compile(r"[-+]?(?:\.\d+|\d+(?:\.\d*)?)(?:[eE][-+]?\d+)?")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_FLAGS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_TEXT_TAG = "tag:yaml.org,2002:str"


class DocumentError(Exception):
    """The text is no document that can be read. Line and column count from 1."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


@dataclass(slots=True)  # frozen, the nodes of 10,000 entries would take 0.15 s more to make; nobody changes one
class Node:
    """Something in the document. `size` counts it and everything in it, `depth` its levels."""

    line: int
    column: int
    size: int = field(default=1, kw_only=True)
    depth: int = field(default=1, kw_only=True)


@dataclass(slots=True)
class Text(Node):
    """A scalar; `quoted` text is text whatever it looks like."""

    text: str
    quoted: bool = False

    @property
    def empty(self) -> bool:
        """Nothing was written, or null."""
        return not self.quoted and self.text in _NULLS


@dataclass(slots=True)
class Listing(Node):
    """A sequence."""

    items: tuple[Node, ...]


@dataclass(slots=True)
class Mapping(Node):
    """Keys with values in their order; a key may occur twice here. Keys merged in by `<<` come last."""

    items: tuple[tuple[Text, Node], ...]
    merged: tuple[tuple[Text, Node], ...] = ()


def read_bytes(data: bytes, size_bytes: int) -> str:
    """The text of a file of that size, of which the head is enough when it is too large. Raises DocumentError."""
    if size_bytes > MAX_BYTES:
        size, most = size_bytes / 1e6, MAX_BYTES / 1e6
        raise DocumentError(
            1, 1, f"the file has {size:.1f} MB, a calendar at most {most:.0f} MB; is it the right file?"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = len(before) - (before.rfind(b"\n") + 1) + 1
        raise DocumentError(
            before.count(b"\n") + 1, column, f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None


def parse_document(text: str) -> Node | None:
    """The tree; None for a text without a value. Raises DocumentError."""
    try:
        return _Builder(text).build()
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(text, error) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        column = len(before) - (before.rfind("\n") + 1) + 1
        raise DocumentError(
            before.count("\n") + 1, column, f"the character {error.character!r} is not allowed; remove it"
        ) from None
    except yaml.YAMLError as error:
        raise DocumentError(1, 1, f"is not YAML: {' '.join(str(error).split())}") from None


def value_of(node: Node) -> Any:
    """The node as plain data that JSON can hold."""
    if isinstance(node, Listing):
        return [value_of(item) for item in node.items]
    if isinstance(node, Mapping):
        return {key.text: value_of(value) for key, value in reversed((*node.items, *node.merged))}
    assert isinstance(node, Text)
    if node.quoted:
        return node.text
    if node.text in _NULLS:
        return None
    if node.text in _FLAGS:
        return _FLAGS[node.text]
    if _INTEGER.fullmatch(node.text):
        return int(node.text)
    return float(node.text) if _FLOAT.fullmatch(node.text) and not _leads_with_zero(node.text) else node.text


def node_at(node: Node, path: Sequence[str | int]) -> Node:
    """The node at a path of keys and numbers, or the nearest that exists above it."""
    for step in path:
        found: Node | None = None
        if isinstance(node, Mapping):
            found = next((value for key, value in (*node.items, *node.merged) if key.text == str(step)), None)
        elif isinstance(node, Listing) and isinstance(step, int) and step < len(node.items):
            found = node.items[step]
        if found is None:
            return node
        node = found
    return node


def key_at(node: Node, path: Sequence[str | int]) -> Node:
    """As `node_at`, the key itself where the path ends at one."""
    parent = node_at(node, path[:-1]) if path else node
    if path and isinstance(parent, Mapping):
        return next((key for key, _ in parent.items if key.text == str(path[-1])), parent)
    return node_at(node, path)


def _leads_with_zero(text: str) -> bool:
    digits = text.lstrip("+-")
    return len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()


@dataclass(slots=True)
class _Open:
    """A collection that is being read."""

    line: int
    column: int
    mapping: bool
    anchor: str | None
    children: list[Node]


class _Builder:
    """Turns events into nodes with a stack of its own."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}  # None: still being read
        self._total = 0
        self._root: Node | None = None
        self._documents = 0

    def build(self) -> Node | None:
        for event in self._events:
            kind, mark = type(event), event.start_mark  # compared by identity: a large calendar has 200,000 events
            line, column = mark.line + 1, mark.column + 1
            if kind is yaml.ScalarEvent:
                self._refuse_tag(event, line, column)
                quoted = event.style not in (None, "") or event.tag == _TEXT_TAG  # plain: "" from libyaml
                self._add(Text(line, column, event.value, quoted), event.anchor)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                self._refuse_tag(event, line, column)
                if len(self._stack) >= MAX_DEPTH:
                    raise DocumentError(line, column, f"nested more than {MAX_DEPTH} levels deep")
                if event.anchor:
                    self._anchors[event.anchor] = None
                self._stack.append(_Open(line, column, kind is yaml.MappingStartEvent, event.anchor, []))
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                self._close()
            elif kind is yaml.AliasEvent:
                self._add(self._anchored(str(event.anchor), line, column), None, line, column)
            elif kind is yaml.DocumentStartEvent:
                self._documents += 1
                if self._documents > 1:
                    raise DocumentError(line, column, "a second document begins here; a calendar is one document")
        if self._root is None or (isinstance(self._root, Text) and self._root.empty):
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
            raise DocumentError(opened.line, opened.column, f"nested more than {MAX_DEPTH} levels deep")
        if opened.mapping:
            pairs = list(zip(children[::2], children[1::2], strict=True))
            for key, _ in pairs:
                if not isinstance(key, Text):
                    raise DocumentError(
                        key.line, key.column, "a key must be a plain text; quote it if it begins with {"
                    )
            items, merged = _merge(cast("list[tuple[Text, Node]]", pairs))
            node: Node = Mapping(opened.line, opened.column, items, merged, size=size, depth=depth)
        else:
            node = Listing(opened.line, opened.column, tuple(children), size=size, depth=depth)
        self._total -= size - 1  # its children are counted already
        self._add(node, opened.anchor)

    def _add(self, node: Node, anchor: str | None, line: int | None = None, column: int | None = None) -> None:
        self._total += node.size
        if self._total > MAX_VALUES:
            raise DocumentError(
                line or node.line,
                column or node.column,
                f"with its aliases written out the file has more than {MAX_VALUES:,} values",
            )
        if anchor:
            self._anchors[anchor] = node
        if self._stack:
            self._stack[-1].children.append(node)
        else:
            self._root = node

    def _anchored(self, anchor: str, line: int, column: int) -> Node:
        if anchor not in self._anchors:
            raise DocumentError(
                line, column, f'no anchor "&{anchor}" before this alias; quote a text that begins with *'
            )
        node = self._anchors[anchor]
        if node is None:
            raise DocumentError(line, column, f'the alias "*{anchor}" stands within what it stands for')
        return node

    def _refuse_tag(self, event: Any, line: int, column: int) -> None:
        if event.tag not in (None, "!", _TEXT_TAG):
            raise DocumentError(line, column, f'the tag "{event.tag}" is not used here; remove it')


def _merge(
    pairs: Sequence[tuple[Text, Node]],
) -> tuple[tuple[tuple[Text, Node], ...], tuple[tuple[Text, Node], ...]]:
    """Own pairs, and those of `<<` that are not among them. Source: yaml.org/type/merge.html."""
    own = tuple((key, value) for key, value in pairs if key.text != "<<" or key.quoted)
    if len(own) == len(pairs):
        return own, ()
    seen = {key.text for key, _ in own}
    merged: list[tuple[Text, Node]] = []
    for key, value in pairs:
        if key.text != "<<" or key.quoted:
            continue
        for source in value.items if isinstance(value, Listing) else (value,):
            if not isinstance(source, Mapping):
                raise DocumentError(key.line, key.column, '"<<" takes a mapping, or a list of mappings')
            for name, item in (*source.items, *source.merged):
                if name.text not in seen:
                    seen.add(name.text)
                    merged.append((name, item))
    return own, tuple(merged)


def _syntax_error(text: str, error: yaml.MarkedYAMLError) -> DocumentError:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    lines = text.splitlines()
    here = lines[line - 1] if 0 < line <= len(lines) else ""
    problem = error.problem or "cannot be read"
    stripped = here.lstrip(" ")
    if stripped.startswith("\t") or here[column - 1 : column] == "\t":
        return DocumentError(line, here.index("\t") + 1, "a tab; YAML is indented with spaces")
    if "alias" in problem or "alias" in (error.context or ""):
        problem += '; quote a text that begins with *, for example cron: "*/15 * * * *"'
    elif "cannot start any token" in problem:
        problem += f"; quote a text that begins with {here[column - 1 : column]}"
    elif "mapping values are not allowed" in problem:
        problem += "; quote a text that holds a colon and a space, or correct the indentation"
    elif error.context:
        problem = f"{problem} ({error.context})"
    return DocumentError(line, column, f"is not YAML: {problem}")
