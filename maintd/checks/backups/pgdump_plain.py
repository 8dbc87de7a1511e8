"""Dumps in plain SQL, read up to their closing line: of pg_dump and pg_dumpall with the rows of each COPY counted, of
mysqldump, mariadb-dump and sqlite3.

Plain SQL has no checksum: a changed character is detected only by a recorded sha256, or by the compression around it.
SQL of another program has no closing line that could be missing, so it is not known whether it is complete.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from maintd.checks.backups.stream import DamagedError, Reader, UnreadableError

_HEAD = 4096


@dataclass(frozen=True)
class _Program:
    """A program that writes SQL, by its first lines, with the line that it writes last and what may follow that."""

    name: str
    head: re.Pattern[bytes]
    closing: re.Pattern[bytes]
    may_follow: tuple[bytes, ...] = ()


_PROGRAMS = (
    _Program(
        "pg_dumpall",
        re.compile(rb"^-- PostgreSQL database cluster dump\s*$", re.MULTILINE),
        re.compile(rb"^-- PostgreSQL database cluster dump complete\s*$", re.MULTILINE),
        (b"--", b"\\unrestrict"),
    ),
    _Program(
        "pg_dump",
        re.compile(rb"^-- PostgreSQL database dump\s*$", re.MULTILINE),
        re.compile(rb"^-- PostgreSQL database dump complete\s*$", re.MULTILINE),
        (b"--", b"\\unrestrict"),
    ),
    _Program(
        "mysqldump",
        re.compile(rb"^-- (?:MySQL|MariaDB) dump \d", re.MULTILINE),
        re.compile(rb"^-- Dump completed[^\n]*$", re.MULTILINE),
    ),
    _Program(
        "sqlite3",
        re.compile(rb"\APRAGMA foreign_keys=OFF;\s*BEGIN TRANSACTION;"),
        re.compile(rb"^COMMIT;$", re.MULTILINE),
    ),
)

_PART = rb'(?:"(?:[^"\n]|"")*"|`(?:[^`\n]|``)*`|[^\s".(`]+)'
_NAME = rb"(" + _PART + rb"(?:\." + _PART + rb")?)"
_OBJECT = rb"ROLE|USER|TABLESPACE|DATABASE|(?:OR REPLACE )?(?:VIEW|FUNCTION|PROCEDURE)|TYPE|SCHEMA|SEQUENCE|EXTENSION"
_STATEMENT = re.compile(
    rb"\n(?:CREATE (?:UNLOGGED |FOREIGN )?TABLE (?:IF NOT EXISTS )?" + _NAME + rb"[ (]|COPY " + _NAME + rb" [^\n]*"
    rb"FROM stdin;(?=\n)|INSERT INTO " + _NAME + rb"[ (]|CREATE (" + _OBJECT + rb") )"
)
_COPY_END = b"\n\\.\n"
_LINE_MAX = 1 << 20  # a longer line is not a statement of interest
_TAIL = 4096
_TABLES_KEPT = 20_000


@dataclass
class PlainDump:
    """Contents of a plain dump. Names are `schema.table`, of all databases together, at most 20,000."""

    names: dict[str, None] = field(default_factory=dict)
    rows: dict[str, int | None] = field(default_factory=dict)  # of the tables with a COPY; None: dumped as INSERTs
    objects: int = 0  # roles, databases, views and others that are not tables

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables, in the order of the dump."""
        return tuple(self.names)

    @property
    def count(self) -> int:
        """Number of tables; or of other objects in a dump without tables, such as that of the roles."""
        return len(self.names) or self.objects


def walk_sql(source: Reader) -> PlainDump:
    """Read a plain dump to its end.

    Raises DamagedError when its closing line is missing or not the last one, UnreadableError when it was written by a
    program that is not known here.
    """
    head = source.peek(_HEAD)
    program = next((program for program in _PROGRAMS if program.head.search(head)), None)
    walk = _Walk()
    tail = b"\n"
    for piece in source.rest():
        walk.feed(piece)
        tail = (tail + piece)[-_TAIL:]
    if walk.copying:
        raise DamagedError(f'SQL: ends within the rows of "{walk.copying}"')
    if program is None:
        raise UnreadableError(
            "SQL: not written by pg_dump, mysqldump or sqlite3, so it cannot be known whether its end is missing",
            "restore it into a scratch server",
        )
    ending = next(reversed([*program.closing.finditer(tail)]), None)
    if ending is None:
        raise DamagedError(f"SQL: the closing line of {program.name} is missing: it was truncated, or the dump failed")
    after = [line for line in tail[ending.end() :].splitlines() if line.strip()]
    if not all(line.startswith(program.may_follow) for line in after):
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
        keep = len(_COPY_END) - 1 if self.copying else min(len(text) - max(text.rfind(b"\n"), begin), _LINE_MAX)
        # Count the rows before the kept part, which may contain the beginning of the end marker.
        if self.copying:
            keep = min(keep, len(text) - begin)
            self._add(text.count(b"\n", begin + 1, len(text) - keep + 1))
        self._rest = text[len(text) - keep :]

    def _statement(self, text: bytes, at: int) -> int:
        match = _STATEMENT.search(text, at)
        if match is None:
            return -1
        if match[4] is not None:
            self.found.objects += 1
            return match.end() - 1
        name = (match[1] or match[2] or match[3]).decode("utf-8", "replace").replace('"', "").replace("`", "")
        if match[1] is not None:
            if len(self.found.names) < _TABLES_KEPT:
                self.found.names.setdefault(name)
            return match.end() - 1
        if match[3] is not None:
            if len(self.found.rows) < _TABLES_KEPT:
                self.found.rows.setdefault(name, None)
            return match.end() - 1
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
