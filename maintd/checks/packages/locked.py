"""What a lock file pins, whatever its format, and reading it within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from maintd.checks.hints import printable
from maintd.clients.files import read_regular
from maintd.errors import TargetError

NPM, PYPI = "npm", "PyPI"
"""Ecosystems, as OSV calls them."""

MAX_FILE = 64 << 20
"""Bytes of a lock file; those of large monorepos have 10 MB."""

MAX_PACKAGES = 50_000

MAX_NAME = 214
"""Characters of a package's name: npm allows no more, and no package of PyPI has as many."""

MORE = "…"
"""In place of the middle of a long path, and for the end of a long name."""

_ENDS = 5  # names at each end of a long path
_SHOWN = 100  # characters of a name that is too long


@dataclass(frozen=True)
class Package:
    """One pinned package. `path`: the names from the project to it, itself last; of several the shortest, and of a long
    one both ends with MORE between them.

    `requirement`: what the last but one asks for, empty when the file does not have it. `registry`: the host from which
    it is resolved; empty: the file does not have it. `dev`: not installed in production. `deprecated`: its
    maintainer's message.
    """

    ecosystem: str
    name: str
    version: str
    path: tuple[str, ...]
    requirement: str = ""
    registry: str = ""
    dev: bool = False
    deprecated: str = ""

    @property
    def direct(self) -> bool:
        """Whether the project itself asks for it."""
        return len(self.path) <= 1

    @property
    def way(self) -> str:
        """The path as text."""
        return " > ".join(self.path)


@dataclass(frozen=True)
class Other:
    """A package that no registry has: `source` is git, a file, a link, an address; never with a password."""

    name: str
    source: str


@dataclass(frozen=True)
class Lock:
    """The content of a lock file. `unpinned`: requirements without one exact version. `unread`: parts that are of no
    known form."""

    ecosystem: str
    form: str
    packages: tuple[Package, ...]
    others: tuple[Other, ...] = ()
    unpinned: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def read_bytes(path: Path) -> bytes:
    """The content of a regular file of at most MAX_FILE bytes. Raises TargetError."""
    return read_regular(path, MAX_FILE)


def check_count(where: str, count: int) -> None:
    """Raise TargetError("too_large") for more packages than are reviewed."""
    if count > MAX_PACKAGES:
        raise TargetError(f"{where}: has more than {MAX_PACKAGES:,} packages", cause="too_large")


def host_of(url: str) -> str:
    """The host of a URL, without user, password and path; empty for none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def source_of(text: str) -> str:
    """What kind of place a source is, and its host: an address may have a password in it."""
    scheme = text.partition(":")[0].lower()
    kind = "git" if scheme.startswith("git") else scheme if scheme in ("file", "link", "workspace") else "address"
    host = host_of(text)
    return cut(f"{kind} of {host}" if host else kind)


def cut(name: str) -> str:
    """A name from a lock file as printable text; of one that is too long for a package only the beginning."""
    return printable(name) if len(name) <= MAX_NAME else printable(name[:_SHOWN]) + MORE


def shortest_paths(
    roots: Iterable[str], edges: Callable[[str], Iterable[tuple[str, str]]]
) -> Mapping[str, tuple[tuple[str, ...], str]]:
    """By node, the shortest way from a root, without the root, and what the last but one asks for.

    edges: the nodes that one depends on, each with the requirement. Of a long way only both ends are kept, with MORE
    between them: all ways of a long chain would be too large.
    """
    found: dict[str, tuple[tuple[str, ...], str]] = dict.fromkeys(roots, ((), ""))
    waiting = deque(found)
    while waiting:
        node = waiting.popleft()
        way = found[node][0]
        for below, requirement in edges(node):
            if below not in found:
                found[below] = (_longer(way, below), requirement)
                waiting.append(below)
    return found


def _longer(way: tuple[str, ...], node: str) -> tuple[str, ...]:
    longer = (*way, node)
    return longer if len(longer) <= 2 * _ENDS else (*longer[:_ENDS], MORE, *longer[-_ENDS:])
