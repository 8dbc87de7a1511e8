"""A parser of PromQL, as far as it shows which series an expression needs to have a value.

Source: the grammar of https://prometheus.io/docs/prometheus/latest/querying/basics/ and its operators; the precedence
of binary operators from there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`]*`)
    |(?P<number>0[xX][0-9a-fA-F]+|(?:\d+(?:ms|[smhdwy]))+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![A-Za-z_])
    |(?P<word>[A-Za-z_:][A-Za-z0-9_:]*)
    |(?P<sign>=~|!~|!=|==|<=|>=|[-+*/%^<>=(){}\[\],:@])""",
    re.VERBOSE,
)
_BINARY = {
    "or": 1,
    **dict.fromkeys(("and", "unless"), 2),
    **dict.fromkeys(("==", "!=", "<=", "<", ">=", ">"), 3),
    **dict.fromkeys(("+", "-"), 4),
    **dict.fromkeys(("*", "/", "%", "atan2"), 5),
    "^": 6,
}
_AGGREGATIONS = frozenset(
    ("sum", "min", "max", "avg", "group", "stddev", "stdvar", "count", "count_values", "bottomk", "topk", "quantile")
)
_ABSENT = ("absent", "absent_over_time")
_NEVER_EMPTY = ("scalar", "vector", "time", "pi")
_MAX_DEPTH = 60
_MAX_LENGTH = 20_000


class PromqlError(ValueError):
    """The expression is not understood."""


@dataclass(frozen=True)
class Selector:
    """A selector of series. `metric` is empty if only a pattern matches the name; `matchers` are as written."""

    metric: str
    matchers: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """As PromQL, without range and offset."""
        return self.metric + (f"{{{','.join(self.matchers)}}}" if self.matchers else "")


@dataclass(frozen=True)
class Scalar:
    """A number or a string."""


@dataclass(frozen=True)
class Call:
    """A function or an aggregation, in lower case."""

    name: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True)
class Binary:
    """A binary operator."""

    operator: str
    left: Node
    right: Node


Node = Selector | Scalar | Call | Binary


def parse(text: str) -> Node:
    """Parse an expression. Raises PromqlError."""
    if len(text) > _MAX_LENGTH:
        raise PromqlError(f"has {len(text):,} characters")
    parser = _Parser(_tokens(text))
    found = parser.expression(0)
    if parser.kind:
        raise PromqlError(f'"{parser.text[:40]}" is not expected')
    return found


def selectors(node: Node) -> Iterator[Selector]:
    """All selectors in an expression, from left to right."""
    if isinstance(node, Selector):
        yield node
    elif isinstance(node, Call):
        for argument in node.arguments:
            yield from selectors(argument)
    elif isinstance(node, Binary):
        yield from selectors(node.left)
        yield from selectors(node.right)


def is_always_empty(node: Node, exists: Callable[[Selector], bool]) -> bool:
    """Whether the expression has no value, whatever the values of the series that exist are."""
    if isinstance(node, Selector):
        return not exists(node)
    if isinstance(node, Scalar):
        return False
    if isinstance(node, Call):
        if node.name in (*_ABSENT, *_NEVER_EMPTY):
            return False
        return any(is_always_empty(argument, exists) for argument in node.arguments)
    left, right = is_always_empty(node.left, exists), is_always_empty(node.right, exists)
    match node.operator:
        case "or":
            return left and right
        case "unless":
            return left
        case _:
            return left or right


def always_absent(node: Node, exists: Callable[[Selector], bool]) -> list[Selector]:
    """The selectors within `absent` that nothing matches: that `absent` always has the value 1."""
    if isinstance(node, Call):
        if node.name in _ABSENT:
            return [selector for argument in node.arguments for selector in selectors(argument) if not exists(selector)]
        return [found for argument in node.arguments for found in always_absent(argument, exists)]
    if isinstance(node, Binary):
        return [*always_absent(node.left, exists), *always_absent(node.right, exists)]
    return []


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise PromqlError(f'"{text[at : at + 20]}" is not expected')
        if match.lastgroup != "space":
            found.append((str(match.lastgroup), match[0]))
        at = match.end()
    return found


class _Parser:
    """A parser by precedence over the tokens."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    @property
    def kind(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    @property
    def text(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def expression(self, least: int) -> Node:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise PromqlError("is nested too deeply")
        left = self._operand()
        while self.kind in ("sign", "word") and (priority := _BINARY.get(self.text.lower(), 0)) > least:
            operator = self._take().lower()
            self._modifiers()
            # `^` is the only one that binds to the right.
            left = Binary(operator, left, self.expression(priority - 1 if operator == "^" else priority))
        self._depth -= 1
        return left

    def _operand(self) -> Node:
        if self.text in ("+", "-"):
            self._take()
            return self.expression(_BINARY["*"])
        if self.kind in ("number", "string"):
            self._take()
            return self._ranges(Scalar())
        if self.text == "(":
            self._take()
            found = self.expression(0)
            self._expect(")")
            return self._ranges(found)
        if self.text == "{":
            return self._ranges(self._selector(""))
        if self.kind != "word":
            raise PromqlError(f'"{self.text[:40]}" is not expected' if self.text else "ends too early")
        word = self._take()
        name = word.lower()
        if name in ("inf", "nan") and self.text != "{":
            return Scalar()
        if name in _AGGREGATIONS and (self.text == "(" or self.text.lower() in ("by", "without")):
            self._grouping()
            arguments = self._arguments()
            self._grouping()
            return self._ranges(Call(name, arguments))
        if self.text == "(":
            return self._ranges(Call(name, self._arguments()))
        return self._ranges(self._selector(word))

    def _selector(self, metric: str) -> Selector:
        matchers: list[str] = []
        if self.text == "{":
            self._take()
            while self.text != "}":
                metric = self._matcher(metric, matchers)
                if self.text == ",":
                    self._take()
                elif self.text != "}":
                    raise PromqlError("a selector has no end")
            self._take()
        if not metric and not matchers:
            raise PromqlError("a selector is empty")
        return Selector(metric, tuple(matchers))

    def _matcher(self, metric: str, matchers: list[str]) -> str:
        if self.kind not in ("word", "string"):
            raise PromqlError("a selector has no name of a label")
        is_quoted, label = self.kind == "string", self._take()
        if is_quoted and self.text in (",", "}"):
            return _plain(label)  # {"metric.name"}, from Prometheus 3 on
        sign = self._take()
        if sign not in ("=", "!=", "=~", "!~") or self.kind != "string":
            raise PromqlError(f"the matcher of {label[:40]} is not complete")
        value = self._take()
        if label == "__name__" and sign == "=":
            return _plain(value)
        matchers.append(f"{label}{sign}{value}")
        return metric

    def _arguments(self) -> tuple[Node, ...]:
        self._expect("(")
        found: list[Node] = []
        while self.text != ")":
            found.append(self.expression(0))
            if self.text == ",":
                self._take()
            elif self.text != ")":
                raise PromqlError("a call has no end")
        self._take()
        return tuple(found)

    def _ranges(self, node: Node) -> Node:
        """Skip `[5m]`, `[1h:5m]`, `offset 5m` and `@ 123` after an operand."""
        while self.text in ("[", "@") or self.text.lower() == "offset":
            if self.text == "[":
                while self.text != "]":
                    if not self._take():
                        raise PromqlError("a range has no end")
                self._take()
                continue
            self._take()
            if self.text in ("+", "-"):
                self._take()
            if self.kind == "word":  # start() and end()
                self._take()
                self._expect("(")
                self._expect(")")
            elif self.kind == "number":
                self._take()
            else:
                raise PromqlError("a time is missing")
        return node

    def _modifiers(self) -> None:
        """Skip `bool`, `on (…)`, `ignoring (…)`, `group_left (…)` and `group_right (…)`."""
        while self.text.lower() in ("bool", "on", "ignoring", "group_left", "group_right", "fill"):
            if self._take().lower() != "bool" and self.text == "(":
                self._labels()

    def _grouping(self) -> None:
        if self.text.lower() in ("by", "without"):
            self._take()
            self._labels()

    def _labels(self) -> None:
        self._expect("(")
        while self.text != ")":
            if not self._take():
                raise PromqlError("a list of labels has no end")
        self._take()

    def _take(self) -> str:
        text = self.text
        self._at += 1
        return text

    def _expect(self, text: str) -> None:
        if self._take() != text:
            raise PromqlError(f'"{text}" is missing')


def _plain(quoted: str) -> str:
    return quoted[1:-1]
