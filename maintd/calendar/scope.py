"""Readers of single values, which note what is wrong and go on, so that one look finds every error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum
from typing import TypeVar

from maintd.config.yaml_tree import MappingNode, Node, ScalarNode, SequenceNode
from maintd.errors import nearest
from maintd.units import parse_duration

MOST_SHOWN = 200

LONGEST = timedelta(days=36_500)
"""The longest duration, a century: added to or taken from any due time it gives a date that there is."""

E = TypeVar("E", bound=StrEnum)

_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass
class Problems:
    """Errors and warnings by their place in a file."""

    file: str
    errors: list[tuple[int, int, str]] = field(default_factory=list)
    warnings: list[tuple[int, int, str]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Every error as `file:line:column: what`, in the file's order; of very many the first."""
        return self._lines(self.errors, "errors")

    def warning_lines(self) -> list[str]:
        """The same for warnings."""
        return self._lines(self.warnings, "warnings")

    def _lines(self, found: list[tuple[int, int, str]], what: str) -> list[str]:
        ordered = sorted(dict.fromkeys(found))
        shown = [f"{self.file}:{line}:{column}: {text}" for line, column, text in ordered[:MOST_SHOWN]]
        left = len(ordered) - len(shown)
        return [*shown, f"{self.file}: and {left} more {what}"] if left else shown


@dataclass(frozen=True)
class Scope:
    """Where problems are noted, and what each is said to be about: `entry "x": `."""

    problems: Problems
    about: str = ""

    def within(self, about: str) -> Scope:
        """The same, about a part of it."""
        return Scope(self.problems, f"{self.about}{about}: ")

    def error(self, node: Node, text: str) -> None:
        """Note what makes the calendar unusable."""
        self.problems.errors.append((node.line, node.column, self.about + text))

    def warn(self, node: Node, text: str) -> None:
        """Note what a person should know."""
        self.problems.warnings.append((node.line, node.column, self.about + text))

    # --- collections ---

    def pairs(self, node: Node, what: str, noun: str = "key") -> list[tuple[ScalarNode, Node]]:
        """The pairs of a mapping, each key once."""
        if isinstance(node, ScalarNode) and node.empty:
            return []
        if not isinstance(node, MappingNode):
            self.error(node, f"{what} must be a mapping of keys and values, not {kind(node)}")
            return []
        found: dict[str, tuple[ScalarNode, Node]] = {}
        for key, value in (*node.items, *node.merged):
            if key.text in found:
                self.error(key, f'duplicate {noun} "{key.text}", first on line {found[key.text][0].line}; remove one')
            else:
                found[key.text] = (key, value)
        return list(found.values())

    def fields(self, node: Node, what: str, known: Sequence[str]) -> dict[str, tuple[ScalarNode, Node]]:
        """The pairs of a mapping whose keys are known, those without a value left out."""
        found = {}
        for key, value in self.pairs(node, what):
            if key.text not in known:
                self.error(key, f'unknown key "{key.text}"; {advice(key.text, known, "write one of")}')
            elif isinstance(value, ScalarNode) and value.empty:
                self.error(key, f'"{key.text}" has no value; give one or remove the line')
            else:
                found[key.text] = (key, value)
        return found

    def items(self, node: Node) -> tuple[Node, ...]:
        """The items of a list; one value alone is a list of one."""
        return node.items if isinstance(node, SequenceNode) else (node,)

    # --- values ---

    def text(self, node: Node, what: str) -> str | None:
        """A text, as it was written."""
        if isinstance(node, ScalarNode) and not node.empty:
            return node.text.strip()
        self.error(node, f"{what} must be a text, not {kind(node)}")
        return None

    def choice(self, node: Node, what: str, choices: type[E]) -> E | None:
        """A member of an enum."""
        text = self.text(node, what)
        if text is None:
            return None
        names = [member.value for member in choices]
        if text not in names:
            self.error(node, f'{what} "{text}" is not known; {advice(text, names, "write")}')
            return None
        return choices(text)

    def duration(self, node: Node, what: str) -> timedelta | None:
        """A duration with its unit."""
        text = self.text(node, what)
        if text is None:
            return None
        if text.replace(".", "", 1).isdigit() and text != "0":
            self.error(node, f"{what} {text} has no unit; write for example {text}s or {text}m")
            return None
        return self.parsed(node, what, lambda written: timedelta(0) if written == "0" else _bounded(written))

    def number(self, node: Node, what: str, low: int, high: int) -> int | None:
        """A whole number."""
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
            self.error(node, f'{what} "{text}" is not a date; write for example 2026-12-24')
            return None

    def parsed(self, node: Node, what: str, parse: Callable[[str], timedelta]) -> timedelta | None:
        """What `parse` makes of the text; its ValueError is the problem."""
        text = self.text(node, what)
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            self.error(node, f"{what}: {error}")
            return None


def _bounded(text: str) -> timedelta:
    value = parse_duration(text)
    if value > LONGEST:
        raise ValueError(f'"{text}" is longer than a century')
    return value


def kind(node: Node) -> str:
    """What a node is, for a message."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    assert isinstance(node, ScalarNode)
    return "nothing" if node.empty else f'"{node.text[:60]}"'


def advice(name: str, known: Iterable[str], otherwise: str) -> str:
    """`did you mean "near"?`, else what there is."""
    names = list(known)
    near = nearest(name, names)
    return f'did you mean "{near}"?' if near else f"{otherwise} {', '.join(names)}"
