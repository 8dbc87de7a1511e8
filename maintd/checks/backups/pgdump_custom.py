"""pg_dump's custom format, read block by block.

`pg_restore --list` accepts a truncated or damaged dump, because it reads the table of contents only. This module reads
every data block, decompresses it (which verifies its checksum), and compares the blocks with the table of contents.
Source: pg_backup_archiver.c and pg_backup_custom.c of Postgres 12 to 17 (archive versions 1.14 to 1.16).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from maintd.checks.backups.stream import DamagedError, Reader, UnreadableError, ZstdReader

MAGIC = b"PGDMP"

_CUSTOM = 1
_KNOWN = range(13, 17)  # minor archive versions
_TEXT_MAX = 64 << 20
_ENTRIES_MAX = 10_000_000
_DATA, _BLOBS = 1, 3
_NO_DATA = 3
_GZIP, _LZ4, _ZSTD = 1, 2, 3
_COPY_END = 3  # lines after the last row: the end marker and two empty lines


@dataclass(frozen=True)
class Entry:
    """An entry of the table of contents."""

    number: int
    kind: str
    name: str
    has_data: bool
    offset: int  # of its data block; 0 where the dump was written to a pipe
    copied: bool = False  # its data is rows for COPY, one per line


@dataclass(frozen=True)
class Dump:
    """Contents of a custom dump."""

    server: str
    database: str
    entries: tuple[Entry, ...]
    rows: Mapping[str, int | None] = field(default_factory=dict)  # of tables with data; None: dumped as INSERTs

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables, `schema.table`."""
        return tuple(entry.name for entry in self.entries if entry.kind == "TABLE")


def walk_custom(source: Reader) -> Dump:
    """Read a custom dump to its end. Raises DamagedError, or UnreadableError for an unsupported version."""
    reader = _Custom(source)
    database, server = reader.head()
    entries = tuple(reader.entry() for _ in range(reader.number(most=_ENTRIES_MAX)))
    lines = reader.blocks({entry.number: entry for entry in entries})
    rows: dict[str, int | None] = {}
    for entry in entries:
        if entry.has_data and entry.number not in lines:
            raise DamagedError(f'pg_dump: the data of {entry.kind} "{entry.name}" is missing')
        if entry.kind == "TABLE DATA" and entry.has_data:
            rows[entry.name] = max(lines[entry.number] - _COPY_END, 0) if entry.copied else None
    return Dump(server, database, entries, rows)


class _Custom:
    def __init__(self, source: Reader) -> None:
        self._source = source
        self._minor = 0
        self._int_size = 4
        self._offset_size = 8
        self.compression = 0

    def head(self) -> tuple[str, str]:
        """Read the header: database and server version."""
        source = self._source
        if source.take(5) != MAGIC:
            raise DamagedError("pg_dump: does not start as a custom dump")
        major, self._minor, _ = source.take(3)
        if major != 1 or self._minor not in _KNOWN:
            raise UnreadableError(f"pg_dump: archive version {major}.{self._minor} is not supported")
        self._int_size, self._offset_size, form = source.take(3)
        if self._int_size != 4 or self._offset_size != 8 or form != _CUSTOM:
            raise DamagedError("pg_dump: the header is damaged")
        if self._minor >= 15:
            self.compression = source.byte()
        else:
            self.compression = _GZIP if self._signed() else 0
        for most in (61, 59, 23, 31, 11, 1000, 1):  # struct tm: seconds, minutes, hours, day, month, years, DST
            self.number(most=most)
        database, server, _ = (self._text() or "" for _ in range(3))
        return database, server

    def entry(self) -> Entry:
        """Read one entry of the table of contents."""
        number = self.number(most=2**31)
        self.number(most=1)  # had a dumper
        self._text(), self._text()  # oids
        name, kind = self._text() or "", self._text() or ""
        self.number(most=4)  # section
        self._text(), self._text()  # definition and drop statements
        copied = bool(self._text())
        schema = self._text()
        self._text(), self._text()  # table space, access method
        if self._minor >= 16:
            self._signed()  # kind of relation
        self._text(), self._text()  # owner, with oids
        while self._text() is not None:
            pass  # dependencies
        state = self._source.byte()
        offset = int.from_bytes(self._source.take(self._offset_size), "little")
        if state not in (1, 2, _NO_DATA):
            raise DamagedError(f"pg_dump: the table of contents is damaged near byte {self._source.offset}")
        full = f"{schema}.{name}" if schema else name
        return Entry(number, kind, full, has_data=state != _NO_DATA, offset=offset if state == 2 else 0, copied=copied)

    def blocks(self, entries: dict[int, Entry]) -> dict[int, int]:
        """Read all data blocks; return the number of lines by entry."""
        seen: dict[int, int] = {}
        while self._source.peek(1):
            begin = self._source.offset
            kind = self._source.byte()
            number = self.number(most=2**31)
            entry = entries.get(number)
            if kind not in (_DATA, _BLOBS) or entry is None or number in seen or entry.offset not in (0, begin):
                raise DamagedError(f"pg_dump: no data block of this dump at byte {begin}")
            seen[number] = 0
            if kind == _DATA:
                seen[number] = self._data(entry.name)
            else:
                while self.number(most=2**32):
                    self._data(entry.name)
        return seen

    def _data(self, name: str) -> int:
        if self.compression == _LZ4:
            raise UnreadableError("pg_dump: data compressed with lz4 is not supported", "use --compress=zstd")
        if self.compression == _GZIP:
            plain = self._inflated(name)
        elif self.compression == _ZSTD:
            plain = ZstdReader(Reader(self._pieces(), f'the data of "{name}"')).chunks()
        else:
            plain = self._pieces()
        return sum(piece.count(b"\n") for piece in plain)

    def _pieces(self) -> Iterator[bytes]:
        while length := self.number(most=2**31):
            yield from self._source.pieces(length)

    def _inflated(self, name: str) -> Iterator[bytes]:
        inflate = zlib.decompressobj()
        try:
            for piece in self._pieces():
                while piece:
                    yield inflate.decompress(piece, 1 << 20)
                    piece = inflate.unconsumed_tail
        except zlib.error as error:
            raise DamagedError(f'pg_dump: the data of "{name}" is damaged: {error}') from error
        if not inflate.eof or inflate.unused_data:
            raise DamagedError(f'pg_dump: the data of "{name}" has the wrong length')

    def number(self, *, most: int) -> int:
        """Read a number from 0 to `most`."""
        value = self._signed()
        if not 0 <= value <= most:
            raise DamagedError(f"pg_dump: {value} near byte {self._source.offset} is out of range")
        return value

    def _signed(self) -> int:
        raw = self._source.take(1 + self._int_size)
        value = int.from_bytes(raw[1:], "little")
        return -value if raw[0] else value

    def _text(self) -> str | None:
        length = self._signed()
        if length < 0:
            return None
        if length > _TEXT_MAX:
            raise DamagedError(f"pg_dump: a text of {length} bytes near byte {self._source.offset}")
        return self._source.take(length).decode("utf-8", "replace")
