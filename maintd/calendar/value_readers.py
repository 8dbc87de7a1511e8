"""Readers of single values. They collect problems and go on, so that one run reports every error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum
from typing import TypeVar

from maintd.config.yaml_tree import MappingNode, Node, ScalarNode, SequenceNode
from maintd.errors import nearest
from maintd.terminal import one_line
from maintd.units import parse_duration, plural

MAX_SHOWN = 200
"""Problems of a calendar that are listed; the others are counted."""

LONGEST = timedelta(days=36_500)
"""The longest duration, 100 years: a due time plus or minus it is still a valid date."""

E = TypeVar("E", bound=StrEnum)

_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass
class Problems:
    """Errors and warnings as (name of the overlay or empty, line, column, text)."""

    file: str
    errors: list[tuple[str, int, int, str]] = field(default_factory=list)
    warnings: list[tuple[str, int, int, str]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The errors as `file:line:column: text`, in the order of the file; the first MAX_SHOWN and how many follow."""
        return self._lines(self.errors, "more error")

    def warning_lines(self) -> list[str]:
        """As `lines`, for warnings."""
        return self._lines(self.warnings, "more warning")

    def _lines(self, found: list[tuple[str, int, int, str]], what: str) -> list[str]:
        ordered = sorted(dict.fromkeys(found))
        shown = [f"{file or self.file}:{line}:{column}: {text}" for file, line, column, text in ordered[:MAX_SHOWN]]
        left = len(ordered) - len(shown)
        return [*shown, f"{self.file}: and {plural(left, what)}"] if left else shown


@dataclass(frozen=True)
class NodeReader:
    """Collects problems. `about` begins the text of each: `entry "x": `."""

    problems: Problems
    about: str = ""

    def within(self, about: str) -> NodeReader:
        """A scope for a part of this one."""
        return NodeReader(self.problems, f"{self.about}{about}: ")

    def error(self, node: Node, text: str) -> None:
        """Add an error: the calendar cannot be used."""
        self.problems.errors.append((node.file, node.line, node.column, one_line(self.about + text)))

    def warn(self, node: Node, text: str) -> None:
        """Add a warning: the calendar can be used."""
        self.problems.warnings.append((node.file, node.line, node.column, one_line(self.about + text)))

    # --- collections ---

    def pairs(self, node: Node, what: str, noun: str = "key") -> list[tuple[ScalarNode, Node]]:
        """The pairs of a mapping. A key that occurs again is an error."""
        if isinstance(node, ScalarNode) and node.empty:
            return []
        if not isinstance(node, MappingNode):
            self.error(node, f"{what} must be a mapping of keys and values, not {kind(node)}")
            return []
        found: dict[str, tuple[ScalarNode, Node]] = {}
        for key, value in (*node.items, *node.merged):
            if key.text in found:
                self.error(
                    key, f'duplicate {noun} "{key.text}", first on line {found[key.text][0].line}; remove one of them'
                )
            else:
                found[key.text] = (key, value)
        return list(found.values())

    def fields(self, node: Node, what: str, known: Sequence[str]) -> dict[str, tuple[ScalarNode, Node]]:
        """The pairs of a mapping by key. An unknown key, and a key without a value, is an error."""
        found = {}
        for key, value in self.pairs(node, what):
            if key.text not in known:
                self.error(key, unknown("key", key.text, known, f"write one of {', '.join(known)}"))
            elif isinstance(value, ScalarNode) and value.empty:
                self.error(key, f'"{key.text}" has no value; add one or remove the line')
            else:
                found[key.text] = (key, value)
        return found

    def items(self, node: Node) -> tuple[Node, ...]:
        """The items of a list; a single value is a list of one."""
        return node.items if isinstance(node, SequenceNode) else (node,)

    # --- values ---

    def text(self, node: Node, what: str) -> str | None:
        """Text, without the space around it."""
        if isinstance(node, ScalarNode) and not node.empty:
            return node.text.strip()
        self.error(node, f"{what} must be text, not {kind(node)}")
        return None

    def choice(self, node: Node, what: str, choices: type[E]) -> E | None:
        """A member of an enum."""
        text = self.text(node, what)
        if text is None:
            return None
        names = [member.value for member in choices]
        if text not in names:
            self.error(node, unknown(what, text, names, f"write one of {', '.join(names)}"))
            return None
        return choices(text)

    def duration(self, node: Node, what: str) -> timedelta | None:
        """A duration with a unit, or 0."""
        text = self.text(node, what)
        if text is None:
            return None
        if text.replace(".", "", 1).isdigit() and text != "0":
            self.error(node, f"{what} {text} has no unit; for example {text}s or {text}m")
            return None
        return self.parsed(node, what, lambda written: timedelta(0) if written == "0" else _bounded(written))

    def number(self, node: Node, what: str, low: int, high: int) -> int | None:
        """A whole number from `low` to `high`."""
        text = self.text(node, what)
        if text is None:
            return None
        if not text.isdecimal() or len(text) > 9 or not low <= int(text) <= high:
            self.error(node, f'{what} "{text}" is not a whole number from {low} to {high}')
            return None
        return int(text)

    def flag(self, node: Node, what: str) -> bool | None:
        """True or false."""
        text = node.text.strip().lower() if isinstance(node, ScalarNode) else None
        if text not in _FLAGS:
            self.error(node, f"{what} must be true or false, not {kind(node)}")
            return None
        return _FLAGS[text]

    def day(self, node: Node, what: str) -> date | None:
        """A date."""
        text = self.text(node, what)
        if text is None:
            return None
        try:
            return date.fromisoformat(text)
        except ValueError:
            self.error(node, f'{what} "{text}" is not a date; for example 2026-12-24')
            return None

    def parsed(self, node: Node, what: str, parse: Callable[[str], timedelta]) -> timedelta | None:
        """The text converted by `parse`; its ValueError is reported as an error."""
        text = self.text(node, what)
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            self.error(node, f"{what}: {error}")
            return None


def overlaid(fields: Iterable[tuple[ScalarNode, Node]]) -> dict[str, str]:
    """Of the pairs with something from an overlay in them, the key and `file:line`."""
    return {key.text: f"{node.file}:{node.line}" for key, value in fields if (node := key if key.file else value).file}


def _bounded(text: str) -> timedelta:
    value = parse_duration(text)
    if value > LONGEST:
        raise ValueError(f'"{text}" is longer than 100 years')
    return value


def kind(node: Node) -> str:
    """A node in words, for a message: `a list`."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    assert isinstance(node, ScalarNode)
    return "nothing" if node.empty else f'"{node.text[:60]}"'


def unknown(what: str, name: str, known: Iterable[str], otherwise: str) -> str:
    """`unknown job "vacum"; did you mean "vacuum"?`, or `otherwise` if no known name is similar."""
    near = nearest(name, known)
    hint = f'did you mean "{near}"?' if near else otherwise
    return f'unknown {what} "{name}"; {hint}'
