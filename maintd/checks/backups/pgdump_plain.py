"""pg_dump's plain SQL format, read up to its closing line, with the rows of each COPY counted.

Plain SQL has no checksum: a changed character is detected only by a recorded sha256, or by the compression around it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from maintd.checks.backups.stream import DamagedError, Reader

COMPLETE = (b"-- PostgreSQL database dump complete", b"-- PostgreSQL database cluster dump complete")

_NAME = rb'((?:"(?:[^"\n]|"")*"|[^\s".(]+)(?:\.(?:"(?:[^"\n]|"")*"|[^\s".(]+))?)'
_STATEMENT = re.compile(
    rb"\n(?:CREATE (?:UNLOGGED |FOREIGN )?TABLE (?:IF NOT EXISTS )?" + _NAME + rb" |COPY " + _NAME + rb" [^\n]*"
    rb"FROM stdin;(?=\n))"
)
_COPY_END = b"\n\\.\n"
_LINE_MAX = 1 << 20  # a longer line is not a statement of interest
_TAIL = 4096


@dataclass
class PlainDump:
    """Contents of a plain dump. Names are `schema.table`, of all databases together."""

    names: dict[str, None] = field(default_factory=dict)
    rows: dict[str, int | None] = field(default_factory=dict)  # of the tables with a COPY

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables, in the order of the dump."""
        return tuple(self.names)


def walk_sql(source: Reader) -> PlainDump:
    """Read a plain dump to its end. Raises DamagedError when its closing line is missing or not the last one."""
    walk = _Walk()
    tail = b"\n"
    for piece in source.rest():
        walk.feed(piece)
        tail = (tail + piece)[-_TAIL:]
    if walk.copying:
        raise DamagedError(f'SQL: ends within the rows of "{walk.copying}"')
    marked = max(tail.rfind(marker) for marker in COMPLETE)
    if marked < 0:
        raise DamagedError("SQL: the dump's closing line is missing: it was truncated, or not written by pg_dump")
    after = [line for line in tail[marked:].splitlines() if line and not line.startswith((b"--", b"\\unrestrict"))]
    if after:
        raise DamagedError("SQL: junk after the dump's closing line")
    return walk.found


class _Walk:
    """Parses statements and rows in pieces of any length."""

    def __init__(self) -> None:
        self.found = PlainDump()
        self.copying = ""
        self._rest = b"\n"

    def feed(self, piece: bytes) -> None:
        """Continue with these bytes."""
        text, at = self._rest + piece, 0
        while at >= 0:
            begin = at
            at = self._rows(text, at) if self.copying else self._statement(text, at)
        keep = len(_COPY_END) - 1 if self.copying else min(len(text) - max(text.rfind(b"\n"), 0), _LINE_MAX)
        # Count the rows before the kept part, which may contain the beginning of the end marker.
        if self.copying:
            keep = min(keep, len(text) - begin)
            self._add(text.count(b"\n", begin + 1, len(text) - keep + 1))
        self._rest = text[len(text) - keep :]

    def _statement(self, text: bytes, at: int) -> int:
        match = _STATEMENT.search(text, at)
        if match is None:
            return -1
        name = (match[1] or match[2]).decode("utf-8", "replace").replace('"', "")
        if match[1] is not None:
            self.found.names.setdefault(name)
            return match.end()
        self.copying = name
        self._add(0)
        return match.end()  # the newline before the first row, or before the end marker without rows

    def _rows(self, text: bytes, at: int) -> int:
        end = text.find(_COPY_END, at)
        if end < 0:
            return -1
        self._add(text.count(b"\n", at + 1, end + 1))
        self.copying = ""
        return end + len(_COPY_END) - 1

    def _add(self, count: int) -> None:
        self.found.rows[self.copying] = (self.found.rows.get(self.copying) or 0) + count
