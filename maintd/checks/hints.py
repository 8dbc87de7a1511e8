"""Texts for the hints of checks."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

_NAMED = 10


def name_first(items: Sequence[str]) -> str:
    """Join the first ten items and the number of the others: `a; b; and 3 more`."""
    more = f"; and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return "; ".join(items[:_NAMED]) + more


def printable(text: str) -> str:
    """Escape control characters and invalid text in untrusted input, for a check, a log or a terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def command(*words: str) -> str:
    """A command to paste into a shell, in one line: words from outside are escaped and quoted."""
    return shlex.join(printable(word) for word in words)
