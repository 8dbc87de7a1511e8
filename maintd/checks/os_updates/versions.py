"""The order of Debian's package versions. Source: Debian Policy, 5.6.12."""

from __future__ import annotations

import re
from functools import cmp_to_key
from typing import Any

_RUNS = re.compile(r"(\D*)(\d*)")


def compare(left: str, right: str) -> int:
    """Negative, zero or positive, as the left version is older, equal or newer."""
    for one, other in zip(_parts(left), _parts(right), strict=True):
        found = _compare_part(one, other)
        if found:
            return found
    return 0


by_version: Any = cmp_to_key(compare)
"""A key for `sorted` and `max`."""


def _parts(version: str) -> tuple[str, str, str]:
    """Epoch, upstream version and revision."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return (epoch, upstream, revision) if dash else (epoch, rest, "0")


def _compare_part(one: str, other: str) -> int:
    while one or other:
        (text, digits), (text_of_other, digits_of_other) = _next(one), _next(other)
        found = _compare_text(text, text_of_other) or _number(digits) - _number(digits_of_other)
        if found:
            return found
        one, other = one[len(text) + len(digits) :], other[len(text_of_other) + len(digits_of_other) :]
    return 0


def _next(text: str) -> tuple[str, str]:
    match = _RUNS.match(text)
    return (match[1], match[2]) if match else ("", "")


def _number(digits: str) -> int:
    return int(digits[:100] or "0")


def _compare_text(one: str, other: str) -> int:
    """A tilde is before the end, letters are before other characters."""
    for position in range(max(len(one), len(other))):
        found = _order(one[position : position + 1]) - _order(other[position : position + 1])
        if found:
            return found
    return 0


def _order(char: str) -> int:
    if char == "~":
        return -1
    if not char:
        return 0
    return ord(char) if char.isascii() and char.isalpha() else ord(char) + 256
