"""Compare versions and ranges of npm as node-semver does.

Source: node-semver 7, `classes/range.js`; the results of tests/unit/test_semver.py are those of node-semver itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import total_ordering

_LONGEST = 256  # characters of a version, as in node-semver
_LONGEST_RANGE = 20_000  # a range of an advisory has 100; the limit holds the time of the expressions below
_MOST = 2**53 - 1  # of a number: Number.MAX_SAFE_INTEGER
_ID = r"(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION = re.compile(rf"[v=\s]*(\d+)\.(\d+)\.(\d+)(?:-?({_ID}(?:\.{_ID})*))?(?:\+[0-9A-Za-z.-]+)?\s*", re.ASCII)
_PART = r"(\d+|[xX*])"
_PARTIAL = re.compile(
    rf"([<>]?=?|~>?|\^)\s*[v=\s]*{_PART}(?:\.{_PART}(?:\.{_PART}(?:-?({_ID}(?:\.{_ID})*))?(?:\+[0-9A-Za-z.-]+)?)?)?",
    re.ASCII,
)


@total_ordering
@dataclass(frozen=True)
class SemVer:
    """A version; `pre` are its prerelease identifiers, numbers as int."""

    major: int
    minor: int
    patch: int
    pre: tuple[int | str, ...] = ()

    @property
    def _key(self) -> tuple[object, ...]:
        # A release is after its prereleases; numbers are before words; a longer list is after its beginning.
        pre = tuple((isinstance(part, str), part) for part in self.pre)
        return (self.major, self.minor, self.patch, not self.pre, pre)

    def __lt__(self, other: SemVer) -> bool:
        return self._key < other._key

    def __str__(self) -> str:
        pre = f"-{'.'.join(str(part) for part in self.pre)}" if self.pre else ""
        return f"{self.major}.{self.minor}.{self.patch}{pre}"

    def breaks(self, newer: SemVer) -> bool:
        """Whether a newer version may be incompatible: `^` of this one does not allow it."""
        return (self.major, self.minor if self.major == 0 else 0) != (
            newer.major,
            newer.minor if not newer.major else 0,
        )


@dataclass(frozen=True)
class Comparator:
    """`operator` is one of <, <=, >, >=, =."""

    operator: str
    version: SemVer

    def allows(self, version: SemVer) -> bool:
        """Whether the version is on its side."""
        if self.operator == "<":
            return version < self.version
        if self.operator == "<=":
            return version <= self.version
        if self.operator == ">":
            return version > self.version
        if self.operator == ">=":
            return version >= self.version
        return version == self.version


def parse(text: str) -> SemVer:
    """Parse a version. Raises ValueError."""
    match = _VERSION.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError(f"{text[:60]!r} is not a version of npm")
    return _made(match[1], match[2], match[3], match[4])


def _made(major: str, minor: str, patch: str, pre: str | None) -> SemVer:
    first, second, third = (int(part) if len(part) <= 16 else _MOST + 1 for part in (major, minor, patch))
    if max(first, second, third) > _MOST:
        raise ValueError("a version with a number that is too large")
    parts = tuple(int(part) if part.isdigit() and len(part) <= 16 else part for part in (pre or "").split(".") if part)
    return SemVer(first, second, third, parts)


def parse_range(text: str, *, prereleases: bool) -> list[list[Comparator]]:
    """Alternatives, of each of which all comparators must allow a version. Raises ValueError.

    prereleases: `>=1.0.0` as node-semver reads it with `includePrerelease`, as npm compares advisories.
    """
    if len(text) > _LONGEST_RANGE:
        raise ValueError("a range that is too long")
    found, problem = list[list[Comparator]](), ""
    for part in text.split("||"):
        try:
            found.append(_alternative(part.strip(), "-0" if prereleases else ""))
        except ValueError as error:
            problem = str(error)
    if problem and prereleases:  # an advisory must be understood as a whole
        raise ValueError(problem)
    if not found:
        raise ValueError(problem)
    return found


def satisfies(version: SemVer, text: str, *, prereleases: bool) -> bool:
    """Whether a version is in a range. Raises ValueError for a range that cannot be parsed."""
    for alternative in parse_range(text, prereleases=prereleases):
        if not all(each.allows(version) for each in alternative):
            continue
        if prereleases or not version.pre:
            return True
        # A prerelease counts only where the range names one of the same release.
        release = (version.major, version.minor, version.patch)
        if any(
            each.version.pre and (each.version.major, each.version.minor, each.version.patch) == release
            for each in alternative
        ):
            return True
    return False


def _alternative(text: str, lowest: str) -> list[Comparator]:
    hyphen = re.split(r"\s+-\s+", text)
    if len(hyphen) == 2:
        return [*_from(hyphen[0], lowest), *_to(hyphen[1], lowest)]
    found, place = list[Comparator](), 0
    while place < len(text):
        match = _PARTIAL.match(text, place)
        if match is None:
            raise ValueError(f"{text[:60]!r} is not a range of npm")
        place = match.end()
        if place < len(text) and not text[place].isspace():
            raise ValueError(f"{text[:60]!r} is not a range of npm")
        while place < len(text) and text[place].isspace():
            place += 1
        found += _comparators(match, lowest)
    return found  # none: any version


def _x(part: str | None) -> bool:
    return part is None or part in "xX*"


def _pre(text: str) -> str | None:
    return text.removeprefix("-") or None


def _comparators(match: re.Match[str], lowest: str) -> Iterator[Comparator]:
    operator, major, minor, patch, pre = match.groups()
    if operator in ("~", "~>"):
        yield from _tilde(major, minor, patch, pre, lowest)
    elif operator == "^":
        yield from _caret(major, minor, patch, pre, lowest)
    else:
        yield from _plain(operator, major, minor, patch, pre, lowest)


def _tilde(major: str, minor: str | None, patch: str | None, pre: str | None, lowest: str) -> Iterator[Comparator]:
    if _x(major):
        return
    if _x(minor) or minor is None:
        yield from _any_minor(major, lowest)
        return
    exact = not (_x(patch) or patch is None)
    yield Comparator(">=", _made(major, minor, patch if exact and patch else "0", pre if exact else _pre(lowest)))
    yield Comparator("<", _made(major, _next(minor), "0", "0"))


def _any_minor(major: str, lowest: str) -> Iterator[Comparator]:
    yield Comparator(">=", _made(major, "0", "0", _pre(lowest)))
    yield Comparator("<", _made(_next(major), "0", "0", "0"))


def _caret(major: str, minor: str | None, patch: str | None, pre: str | None, lowest: str) -> Iterator[Comparator]:
    if _x(major):
        return
    if _x(minor) or minor is None:
        yield from _any_minor(major, lowest)
        return
    exact = not (_x(patch) or patch is None)
    third = patch if exact and patch is not None else "0"
    yield Comparator(">=", _made(major, minor, third, pre if exact else _pre(lowest)))
    if int(major):
        yield Comparator("<", _made(_next(major), "0", "0", "0"))
    elif int(minor) or not exact:
        yield Comparator("<", _made(major, _next(minor), "0", "0"))
    else:
        yield Comparator("<", _made(major, minor, _next(third), "0"))


def _plain(
    operator: str, major: str, minor: str | None, patch: str | None, pre: str | None, lowest: str
) -> Iterator[Comparator]:
    if _x(major):
        if operator in ("<", ">"):
            yield Comparator("<", _made("0", "0", "0", "0"))  # nothing
        return
    if not _x(minor) and not _x(patch) and minor is not None and patch is not None:
        yield Comparator(operator or "=", _made(major, minor, patch, pre))
        return
    whole = _x(minor) or minor is None
    second = "0" if whole or minor is None else minor
    following = (_next(major), "0") if whole else (major, _next(second))
    if operator in ("", "="):
        yield Comparator(">=", _made(major, second, "0", _pre(lowest)))
        yield Comparator("<", _made(*following, "0", "0"))
    elif operator == ">":
        yield Comparator(">=", _made(*following, "0", _pre(lowest)))
    elif operator == "<=":
        yield Comparator("<", _made(*following, "0", "0"))
    else:
        yield Comparator(operator, _made(major, second, "0", "0" if operator == "<" else _pre(lowest)))


def _whole(text: str) -> re.Match[str]:
    match = _PARTIAL.fullmatch(text.strip())
    if match is None or match[1]:
        raise ValueError(f"{text[:60]!r} is not a version in a range of npm")
    return match


def _from(text: str, lowest: str) -> Iterator[Comparator]:
    _, major, minor, patch, pre = _whole(text).groups()
    if not _x(major):
        full = not _x(minor) and not _x(patch)
        second = "0" if minor is None or _x(minor) else minor
        third = patch if full and patch else "0"
        yield Comparator(">=", _made(major, second, third, pre if full and pre else _pre(lowest)))


def _to(text: str, lowest: str) -> Iterator[Comparator]:
    _, major, minor, patch, pre = _whole(text).groups()
    if _x(major):
        return
    if _x(minor):
        yield Comparator("<", _made(_next(major), "0", "0", "0"))
    elif _x(patch):
        yield Comparator("<", _made(major, _next(minor), "0", "0"))
    elif pre:
        yield Comparator("<=", _made(major, minor, patch, pre))
    elif lowest:
        yield Comparator("<", _made(major, minor, _next(patch), "0"))
    else:
        yield Comparator("<=", _made(major, minor, patch, None))


def _next(number: str) -> str:
    return str(int(number[:20]) + 1)
