"""Names of keys: globs as Redis reads them, and keys of any bytes as people can read them."""

from __future__ import annotations

import re


def glob(pattern: str) -> re.Pattern[str]:
    """A glob as Redis reads it: `*`, `?`, `[abc]`, `[^a-c]`, and a backslash before what is meant as it is.

    Source: stringmatchlen in util.c of Redis 7.
    """
    found, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            found += ".*"
        elif char == "?":
            found += "."
        elif char == "[":
            members, at = _members(pattern, at)
            found += members
        else:
            if char == "\\" and at < len(pattern):
                char = pattern[at]
                at += 1
            found += re.escape(char)
    return re.compile(found, re.DOTALL)


def _members(pattern: str, at: int) -> tuple[str, int]:
    """The class that begins after a `[`, and where the pattern goes on. Without a `]` it ends with the pattern."""
    none_of = pattern[at : at + 1] == "^"
    at += none_of
    members = ""
    while at < len(pattern) and pattern[at] != "]":
        if pattern[at] == "\\" and at + 1 < len(pattern):
            at += 1
        first = last = pattern[at]
        if pattern[at + 1 : at + 2] == "-" and at + 2 < len(pattern):
            at += 2
            last = pattern[at]
        first, last = min(first, last), max(first, last)
        members += f"{re.escape(first)}-{re.escape(last)}"
        at += 1
    if not members:
        return ("." if none_of else "(?!)"), at + 1
    return f"[{'^' if none_of else ''}{members}]", at + 1


def shown(key: str) -> str:
    """A key for a person: bytes that are no text as `\\xff`, control characters likewise."""
    text = key.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)[:200]
