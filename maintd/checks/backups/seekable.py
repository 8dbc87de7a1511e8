"""Formats that are read from any position of a file: zip archives and databases of SQLite.

They are read from the file itself; inside of a compressed layer from a temporary copy of limited size. What was
encrypted is not copied to a disk.
"""

from __future__ import annotations

import io
import sqlite3
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import BinaryIO

from maintd.checks.backups.stream import (
    CHUNK,
    DamagedError,
    ExpansionLimits,
    LimitReachedError,
    UnreadableError,
    limited,
)
from maintd.units import duration_text, format_size

ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
SQLITE_MAGIC = b"SQLite format 3\0"
MOST_COPIED = 4 << 30
"""Bytes of a temporary copy."""

_NAMES_KEPT = 20_000
_PROBLEMS_KEPT = 50
# Python reads the whole directory of a zip into memory: about 100 bytes of it a member, which take 1 KB there.
_MOST_DIRECTORY = 32 << 20
_END, _END_64, _LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_END_SIZE, _MOST_COMMENT = 22, 65_535
# lzma may ask for 4 GiB of memory.
_READ = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2}
_ENCRYPTED = 1
_INTEGRITY_TIME = timedelta(minutes=10)
_STEPS = 100_000  # of SQLite's machine between two readings of the clock
_COUNTED_TABLES = 200
_TABLES = """
SELECT name FROM sqlite_master
WHERE type = 'table' AND name NOT LIKE 'sqlite^_%' ESCAPE '^' AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name
"""


@dataclass(frozen=True)
class Found:
    """What the file contains; `rows` by table, of SQLite."""

    count: int
    names: tuple[str, ...]
    problems: tuple[str, ...] = ()
    rows: Mapping[str, int | None] = field(default_factory=dict)


def walk_zip(file: BinaryIO, limits: ExpansionLimits) -> Found:
    """Decompress every member of a zip archive, and verify its CRC. Raises DamagedError and UnreadableError."""
    size = file.seek(0, io.SEEK_END)
    directory = _directory_bytes(file, size)
    if directory > _MOST_DIRECTORY:
        raise UnreadableError(f"zip: its directory has {format_size(directory)}", "verify it by: unzip -t")
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > limits.members:
                raise LimitReachedError(f"zip: has more than {limits.members} members", "max_members")
            for _ in limited(_contents(archive, members), size, limits):
                pass
    except zipfile.BadZipFile as error:
        raise DamagedError(f"zip: {error}") from error
    except (NotImplementedError, UnicodeError, ValueError, OverflowError) as error:
        raise UnreadableError(f"zip: {error}", "verify it by: unzip -t") from error
    names = [member.filename for member in members if not member.is_dir()]
    outside = [name for name in names if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/")]
    problems = tuple(f'"{name}" is outside of the folder' for name in outside[:_PROBLEMS_KEPT])
    return Found(len(names), tuple(names[:_NAMES_KEPT]), problems)


def _contents(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> Iterator[bytes]:
    for member in members:
        if member.flag_bits & _ENCRYPTED:
            raise UnreadableError(f'zip: "{member.filename}" is encrypted', "verify it by: unzip -t")
        if member.compress_type not in _READ:
            method = zipfile.compressor_names.get(member.compress_type, str(member.compress_type))  # type: ignore[attr-defined]
            raise UnreadableError(f'zip: "{member.filename}" is packed by {method}', "verify it by: unzip -t")
        try:
            with archive.open(member) as stream:
                while chunk := stream.read(CHUNK):
                    yield chunk
        except (zlib.error, EOFError, OSError) as error:
            raise DamagedError(f'zip: "{member.filename}": {error or "ends too early"}') from error


def _directory_bytes(file: BinaryIO, size: int) -> int:
    """The size of the directory, by the record at the end of the file."""
    start = max(0, size - _END_SIZE - _MOST_COMMENT - len(_LOCATOR_64) - 16)
    file.seek(start)
    tail = file.read(size - start)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        raise DamagedError("zip: has no directory at its end: it is cut")
    directory = int.from_bytes(tail[at + 12 : at + 16], "little")
    locator = tail[at - 20 : at] if at >= 20 else b""
    if locator.startswith(_LOCATOR_64):
        file.seek(min(int.from_bytes(locator[8:16], "little"), size))
        end = file.read(56)
        if end.startswith(_END_64):
            directory = max(directory if directory != 0xFFFFFFFF else 0, int.from_bytes(end[40:48], "little"))
    return directory


def check_sqlite(file: BinaryIO) -> Found:
    """Run SQLite's own integrity check, and count the rows of tables. Raises DamagedError and UnreadableError.

    The file is opened as one that cannot change: nothing is written beside it, and no lock is taken.
    """
    deadline = time.monotonic() + _INTEGRITY_TIME.total_seconds()
    file.seek(0)
    if not file.read(len(SQLITE_MAGIC)).startswith(SQLITE_MAGIC):
        raise UnreadableError("SQLite: begins as no database; it may be encrypted", "open it with its own program")
    # By the descriptor, so that no character of the name has a meaning in the URL. SQLite resolves it to the path.
    url = f"file:/proc/self/fd/{file.fileno()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(url, uri=True)) as database:
            database.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
            for setting in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", "query_only=ON"):
                database.execute(f"PRAGMA {setting}")
            problems = [str(row[0]) for row in database.execute("PRAGMA integrity_check(5)")]
            if problems != ["ok"]:
                raise DamagedError(f"SQLite: {'; '.join(problems)[:300]}")
            tables = [str(row[0]) for row in database.execute(_TABLES)]
            rows = {table: _count(database, table) for table in tables[:_COUNTED_TABLES]}
    except sqlite3.OperationalError as error:
        if "interrupted" in str(error):
            cause = f"SQLite: the integrity check takes longer than {duration_text(_INTEGRITY_TIME)}"
            raise UnreadableError(cause, "run: sqlite3 FILE 'PRAGMA quick_check'") from error
        raise UnreadableError(f"SQLite: {error}", "run: sqlite3 FILE 'PRAGMA integrity_check'") from error
    except UnicodeError as error:  # also in the message of an error
        raise UnreadableError(
            "SQLite: has a name that is not UTF-8", "run: sqlite3 FILE 'PRAGMA integrity_check'"
        ) from error
    except sqlite3.DatabaseError as error:
        raise DamagedError(f"SQLite: {error}") from error
    return Found(len(tables), tuple(tables[:_NAMES_KEPT]), rows=rows)


def _count(database: sqlite3.Connection, table: str) -> int | None:
    quoted = table.replace('"', '""')
    row = database.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()  # noqa: S608 - a quoted name
    return int(row[0])
