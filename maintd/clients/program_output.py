"""Patterns and numbers in a program's output, and how much of the output is logged."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, field_validator


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f'"{text}" is not a regular expression: {error}') from error
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]
"""A regular expression, searched in each line."""


class Number(BaseModel):
    """A number to extract: the pattern's first group, in the last line that matches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: Pattern
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @field_validator("pattern")
    @classmethod
    def _one_group(cls, value: str) -> str:
        if re.compile(value).groups < 1:
            raise ValueError(f'"{value}" has no group; put the number in parentheses: "rows=(\\d+)"')
        return value


class OutputSearch:
    """Searches the output line by line: `patterns` by stream, `numbers` in the standard output."""

    def __init__(self, patterns: Mapping[str, Sequence[str]], numbers: Mapping[str, Number]) -> None:
        self._patterns = patterns
        self._numbers = numbers
        self._texts: dict[str, str] = {}
        self.found: set[tuple[str, str]] = set()
        self.last_error = ""

    def line(self, stream: str, text: str) -> None:
        """Search the next line."""
        for pattern in self._patterns.get(stream, ()):
            if (stream, pattern) not in self.found and re.search(pattern, text):
                self.found.add((stream, pattern))
        if stream == "stderr":
            self.last_error = text.strip()[:300] or self.last_error
            return
        for name, number in self._numbers.items():
            if match := re.search(number.pattern, text):
                self._texts[name] = match[1]

    def number(self, name: str) -> float | str:
        """The number of this name, or the reason why it is missing."""
        text = self._texts.get(name)
        if text is None:
            return "no line of the standard output matches"
        try:
            value = float(text.replace(",", ""))
        except ValueError:
            value = math.nan
        return value if math.isfinite(value) else f'"{text}" is not a number'


class OutputExcerpt:
    """Logs the first lines of a long output as they come, and the last ones at its end."""

    def __init__(self, log: Callable[[str], None], head_bytes: int, tail_bytes: int) -> None:
        self._log = log
        self._head_left = head_bytes
        self._tail_bytes = tail_bytes
        self._tail: deque[str] = deque()
        self._tail_size = 0
        self._omitted = 0

    def line(self, text: str) -> None:
        """Receive the next line of the output."""
        if self._head_left > 0:
            self._head_left -= len(text) + 1
            self._log(text)
            return
        self._tail.append(text)
        self._tail_size += len(text) + 1
        while self._tail_size > self._tail_bytes:
            self._tail_size -= len(self._tail.popleft()) + 1
            self._omitted += 1

    def end(self) -> None:
        """Log the last lines."""
        if self._omitted:
            self._log(f"… {self._omitted} lines omitted …")
        for text in self._tail:
            self._log(text)
        self._tail.clear()
