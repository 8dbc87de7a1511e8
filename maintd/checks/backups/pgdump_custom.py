"""pg_dump's custom format, read block by block.

`pg_restore --list` accepts a truncated or damaged dump, because it reads the table of contents only. This module reads
every data block, decompresses it (which verifies its checksum), and compares the blocks with the table of contents.
Source: pg_backup_archiver.c and pg_backup_custom.c of Postgres 12 to 17 (archive versions 1.14 to 1.16).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from isal import igzip_lib

from maintd.checks.backups.stream import CHUNK, ISAL_ERROR, DamagedError, Reader, UnreadableError, ZstdReader

MAGIC = b"PGDMP"

_CUSTOM, _TAR, _DIRECTORY = 1, 3, 5  # toc.dat of a directory dump has the number of a tar
_KNOWN = range(13, 17)  # minor archive versions
_TEXT_MAX = 1 << 30  # of a definition, which is skipped
_NAME_MAX = 64 << 10  # of names, which are at most 63 bytes, and 200 with their arguments
MAX_TOC_ENTRIES = 10_000_000
MAX_DATA_ENTRIES = 200_000  # about 300 bytes of memory each
TABLES_KEPT = 20_000
_DATA, _BLOBS = 1, 3
_NO_DATA = 3
_GZIP, _LZ4, _ZSTD = 1, 2, 3
COPY_END = 3  # lines after the last row: the end marker and two empty lines
# Every dump has these, also one of an empty database.
_BOOKKEEPING = frozenset({"ENCODING", "STDSTRINGS", "SEARCHPATH", "DATABASE", "DATABASE PROPERTIES"})


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the table of contents with data."""

    number: int
    kind: str
    name: str
    offset: int = 0  # of its data block; 0 where the dump was written to a pipe
    file: str = ""  # with its data, in a directory dump
    copied: bool = False  # its data is rows for COPY, one per line


@dataclass(frozen=True)
class Dump:
    """Contents of a dump. `count`: of its objects, without those that every dump has."""

    server: str
    database: str
    count: int
    tables: tuple[str, ...]  # `schema.table`, at most TABLES_KEPT
    data: tuple[Entry, ...]
    rows: Mapping[str, int | None] = field(default_factory=dict)  # of tables with data; None: dumped as INSERTs


def walk_custom(source: Reader) -> Dump:
    """Read a custom dump to its end. Raises DamagedError, or UnreadableError for an unsupported version."""
    toc = Toc(source)
    dump = toc.read()
    if toc.directory:
        raise UnreadableError("pg_dump: is the table of contents of a directory dump", "verify the whole folder")
    begins, lines = _Blocks(source, toc.compression).read({entry.number: entry for entry in dump.data})
    if source.peek(1):
        _read_second_toc(toc, dump, begins)
    rows: dict[str, int | None] = {}
    for entry in dump.data:
        if entry.number not in lines:
            raise DamagedError(f'pg_dump: the data of {entry.kind} "{entry.name}" is missing')
        if entry.kind == "TABLE DATA":
            rows[entry.name] = max(lines[entry.number] - COPY_END, 0) if entry.copied else None
    return replace(dump, rows=rows)


def _read_second_toc(toc: Toc, dump: Dump, begins: Mapping[int, int]) -> None:
    """Read the table of contents that follows the data of a dump whose output was appended to a file.

    pg_dump ends by writing the table again, now with the places of the data. It replaces the first one unless the
    output is appended to a file (`>>`, and with Postgres 17 `>`); pg_restore reads both.
    """
    second = toc.read_entries(dump.database, dump.server)
    first = replace(dump, data=tuple(replace(entry, offset=begins.get(entry.number, 0)) for entry in dump.data))
    if second != first or toc.follows():
        raise DamagedError("pg_dump: what follows the data is not the table of contents of this dump")


class Toc:
    """Reads the header and the table of contents. Memory: only what has data is kept, and the first names of tables."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        self._minor = 0
        self.compression = 0
        self.directory = False

    def read(self) -> Dump:
        """Read up to the end of the table of contents."""
        return self.read_entries(*self._head())

    def follows(self) -> bool:
        """Whether the source has more."""
        return bool(self._source.peek(1))

    def read_entries(self, database: str, server: str) -> Dump:
        """Read a table of contents without the header."""
        number = _number(self._source, most=MAX_TOC_ENTRIES, what="entries")
        tables: list[str] = []
        data: list[Entry] = []
        count = 0
        for _ in range(number):
            entry, has_data = self._entry()
            count += entry.kind not in _BOOKKEEPING
            if entry.kind == "TABLE" and len(tables) < TABLES_KEPT:
                tables.append(entry.name)
            if has_data:
                data.append(entry)
                if len(data) > MAX_DATA_ENTRIES:
                    raise UnreadableError(
                        f"pg_dump: has the data of more than {MAX_DATA_ENTRIES} tables", "verify it with pg_restore"
                    )
        return Dump(server, database, count, tuple(tables), tuple(data))

    def _head(self) -> tuple[str, str]:
        """Read the header: database and server version."""
        source = self._source
        if source.take(5) != MAGIC:
            raise DamagedError("pg_dump: does not start as a dump")
        major, self._minor, _ = source.take(3)
        if major != 1 or self._minor not in _KNOWN:
            raise UnreadableError(f"pg_dump: archive version {major}.{self._minor} is not supported")
        int_size, offset_size, form = source.take(3)
        if int_size != 4 or offset_size != 8 or form not in (_CUSTOM, _TAR, _DIRECTORY):
            raise DamagedError("pg_dump: the header is damaged")
        self.directory = form != _CUSTOM
        if self._minor >= 15:
            self.compression = source.byte()
        else:
            self.compression = _GZIP if _signed(source) else 0
        for most in (61, 59, 23, 31, 11, 1000, 1):  # struct tm: seconds, minutes, hours, day, month, years, DST
            _number(source, most=most)
        database, server, _ = (_text(source) or "" for _ in range(3))
        return database, server

    def _entry(self) -> tuple[Entry, bool]:
        """Read one entry, and whether it has data."""
        source = self._source
        number = _number(source, most=2**31)
        _number(source, most=1)  # had a dumper
        _skip_text(source), _skip_text(source)  # oids
        name, kind = _text(source) or "", _text(source) or ""
        _number(source, most=4)  # section
        _skip_text(source), _skip_text(source)  # definition and drop statements
        copied = _skip_text(source) > 0
        schema = _text(source)
        _skip_text(source), _skip_text(source)  # table space, access method
        if self._minor >= 16:
            _signed(source)  # kind of relation
        _skip_text(source), _skip_text(source)  # owner, with oids
        while _skip_text(source) >= 0:
            pass  # dependencies
        full = f"{schema}.{name}" if schema else name
        if self.directory:
            file = _text(source) or ""
            return Entry(number, kind, full, file=file, copied=copied), bool(file)
        extra = source.take(9)
        state = extra[0]
        if state not in (1, 2, _NO_DATA):
            raise DamagedError(f"pg_dump: the table of contents is damaged near byte {source.offset}")
        offset = int.from_bytes(extra[1:], "little") if state == 2 else 0
        return Entry(number, kind, full, offset=offset, copied=copied), state != _NO_DATA


class _Blocks:
    """Reads the data blocks after the table of contents of a custom dump."""

    def __init__(self, source: Reader, compression: int) -> None:
        self._source = source
        self._compression = compression

    def read(self, entries: dict[int, Entry]) -> tuple[dict[int, int], dict[int, int]]:
        """Read all data blocks; return their places and their numbers of lines, by entry.

        A further table of contents, which begins with the sign of its number of entries, is left for the caller.
        """
        begins: dict[int, int] = {}
        seen: dict[int, int] = {}
        while self._source.peek(1) not in (b"", b"\0"):
            begin = self._source.offset
            kind = self._source.byte()
            number = _number(self._source, most=2**31)
            entry = entries.get(number)
            if kind not in (_DATA, _BLOBS) or entry is None or number in seen or entry.offset not in (0, begin):
                raise DamagedError(f"pg_dump: no data block of this dump at byte {begin}")
            begins[number] = begin
            seen[number] = 0
            if kind == _DATA:
                seen[number] = self._data(entry.name)
            else:
                while _number(self._source, most=2**32):
                    self._data(entry.name)
        return begins, seen

    def _data(self, name: str) -> int:
        if self._compression == _LZ4:
            raise UnreadableError("pg_dump: data compressed with lz4 is not supported", "use --compress=zstd")
        if self._compression == _GZIP:
            plain = self._inflated(name)
        elif self._compression == _ZSTD:
            plain = ZstdReader(Reader(self._pieces(), f'the data of "{name}"')).chunks()
        else:
            plain = self._pieces()
        return sum(piece.count(b"\n") for piece in plain)

    def _pieces(self) -> Iterator[bytes]:
        while length := _number(self._source, most=2**31):
            yield from self._source.pieces(length)

    def _inflated(self, name: str) -> Iterator[bytes]:
        inflate = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_ZLIB)
        try:
            for piece in self._pieces():
                if inflate.eof:
                    raise DamagedError(f'pg_dump: the data of "{name}" is followed by junk')
                yield inflate.decompress(piece, CHUNK)
                while not (inflate.needs_input or inflate.eof):
                    yield inflate.decompress(b"", CHUNK)
        except ISAL_ERROR as error:
            raise DamagedError(f'pg_dump: the data of "{name}" is damaged: {error}') from error
        if not inflate.eof or inflate.unused_data:
            raise DamagedError(f'pg_dump: the data of "{name}" has the wrong length')


def _number(source: Reader, *, most: int, what: str = "") -> int:
    """Read a number from 0 to `most`."""
    value = _signed(source)
    if not 0 <= value <= most:
        raise DamagedError(f"pg_dump: {value} {what} near byte {source.offset} is out of range".replace("  ", " "))
    return value


def _signed(source: Reader) -> int:
    raw = source.take(5)
    value = int.from_bytes(raw[1:], "little")
    return -value if raw[0] else value


def _text(source: Reader) -> str | None:
    length = _signed(source)
    if length < 0:
        return None
    if length > _NAME_MAX:
        raise DamagedError(f"pg_dump: a name of {length} bytes near byte {source.offset}")
    return source.take(length).decode("utf-8", "replace")


def _skip_text(source: Reader) -> int:
    """Skip a text; return its length, -1 for none."""
    length = _signed(source)
    if length > _TEXT_MAX:
        raise DamagedError(f"pg_dump: a text of {length} bytes near byte {source.offset}")
    if length > 0:
        source.skip(length)
    return max(length, -1)
