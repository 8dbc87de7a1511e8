"""What is looked for in a program's output, line by line while it runs, and how much of it is logged."""

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
"""A regular expression, searched in each line by itself."""


class Number(BaseModel):
    """A number to find: the pattern's first group, in the last line that has it."""

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


class Search:
    """What was found so far. `patterns` are those of each stream; numbers are looked for in the standard output."""

    def __init__(self, patterns: Mapping[str, Sequence[str]], numbers: Mapping[str, Number]) -> None:
        self._patterns = patterns
        self._numbers = numbers
        self._texts: dict[str, str] = {}
        self.found: set[tuple[str, str]] = set()
        self.last_error = ""

    def line(self, stream: str, text: str) -> None:
        """Search one more line."""
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
        """The number of this name, or in words why there is none."""
        text = self._texts.get(name)
        if text is None:
            return "no line of the standard output has it"
        try:
            value = float(text.replace(",", ""))
        except ValueError:
            value = math.nan
        return value if math.isfinite(value) else f'"{text}" is not a number'


class Excerpt:
    """Hands on the first lines of a long output as they come, and the last ones at its end."""

    def __init__(self, tell: Callable[[str], None], head_bytes: int, tail_bytes: int) -> None:
        self._tell = tell
        self._head_left = head_bytes
        self._tail_bytes = tail_bytes
        self._tail: deque[str] = deque()
        self._held = 0
        self._left_out = 0

    def line(self, text: str) -> None:
        """One more line of the output."""
        if self._head_left > 0:
            self._head_left -= len(text) + 1
            self._tell(text)
            return
        self._tail.append(text)
        self._held += len(text) + 1
        while self._held > self._tail_bytes:
            self._held -= len(self._tail.popleft()) + 1
            self._left_out += 1

    def end(self) -> None:
        """The output is complete."""
        if self._left_out:
            self._tell(f"… {self._left_out} lines left out …")
        for text in self._tail:
            self._tell(text)
        self._tail.clear()
