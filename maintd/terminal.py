"""Texts made safe for a terminal: no control characters, no endless lines. Imports almost nothing."""

from __future__ import annotations

import re

LONGEST_LINE = 2000
"""Characters of a line in a message; what follows is left out."""

LONGEST_NAME = 120
"""Characters of a name in a message."""

# Control characters of ASCII and Latin-1, Unicode's line separators and the marks that reorder text, lone surrogates.
# A line feed and a tab are kept.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_COLOUR = re.compile("(\x1b\\[(?:0|1|2|3[0-7])m)")


def was_interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C is what ended the work: pydantic raises an error of its own where it meets it in an import."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KeyboardInterrupt):
        seen = seen.__cause__ or seen.__context__
    return seen is not None


def for_terminal(text: str, *, colour: bool = False) -> str:
    """The text with control characters replaced; with `colour`, the sequences for maintd's own colours are kept."""
    if colour:
        parts = _COLOUR.split(text)
        return "".join(part if index % 2 else for_terminal(part) for index, part in enumerate(parts))
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def clip_lines(text: str, longest: int = LONGEST_LINE) -> str:
    """The text with each line cut to that many characters, and how many were left out."""
    if len(text) <= longest:
        return text
    return "\n".join(
        line if len(line) <= longest else f"{line[:longest]}… ({len(line) - longest:,} more characters)"
        for line in text.split("\n")
    )


def one_line(text: str) -> str:
    """The text as one line: what is not printable is escaped as in Python, and what is too long is left out."""
    return clip_lines("".join(char if char.isprintable() else ascii(char)[1:-1] for char in text))


def quotable(name: str) -> str:
    """A name of any origin as it may stand between quotes in a message: one line, at most LONGEST_NAME characters."""
    return one_line(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…")
