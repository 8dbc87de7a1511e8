"""pg_dump's directory format: a table of contents, and one file for the data of each table.

Source: pg_backup_directory.c of Postgres 12 to 17. toc.dat has the header and entries of the custom format, with the
name of a file instead of an offset. pg_dump writes it last: without it the dump was stopped, and cannot be restored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from maintd.checks.backups import stream
from maintd.checks.backups.pgdump_custom import COPY_END, Dump, Toc
from maintd.checks.backups.stream import DamagedError, ExpansionLimits, HashedFile, Reader, UnreadableError, chunks_of

TOC = "toc.dat"

_DATA = re.compile(r"(?:\d+|blob_\d+|toc)\.dat(?:\.(?:gz|lz4|zst))?|blobs(?:_\d+)?\.toc")
_SUFFIXES = ("", ".gz", ".zst", ".lz4")
_BLOB_LINE = re.compile(rb"\d{1,10} (blob_\d{1,10}\.dat)")
_BLOB_LINE_MAX = 100
_ROWS_END = b"\\.\n\n\n"


def is_data_file(name: str) -> bool:
    """Whether a file of this name is a part of a directory dump."""
    return _DATA.fullmatch(name) is not None


def walk_directory(path: Path, limits: ExpansionLimits, progress: Callable[[int], None] = lambda count: None) -> Dump:
    """Read every file of a directory dump to its end. Raises DamagedError, UnreadableError and OSError."""
    if not _regular(path / TOC):
        raise DamagedError(f"has no {TOC}: the dump was stopped before its end, and cannot be restored")
    with HashedFile(path / TOC, progress) as file:
        reader = Reader(chunks_of(file), TOC)
        toc = Toc(reader)
        dump = toc.read()
        if reader.peek(1):
            raise DamagedError(f"{TOC}: junk after its end")
    if not toc.directory:
        raise DamagedError(f"{TOC}: is of a dump in another format")
    rows: dict[str, int | None] = {}
    for entry in dump.data:
        content = _content(path, entry.file, limits, progress)
        if entry.kind.startswith("BLOB"):
            _large_objects(path, content, limits, progress)
            continue
        lines, end = 0, b""
        for piece in content:
            lines += piece.count(b"\n")
            end = (end + piece)[-len(_ROWS_END) :]
        if entry.copied and end != _ROWS_END:
            raise DamagedError(f'the rows of "{entry.name}" have no end')
        if entry.kind == "TABLE DATA":
            rows[entry.name] = max(lines - COPY_END, 0) if entry.copied else None
    return replace(dump, rows=rows)


def _large_objects(
    path: Path, listing: Iterator[bytes], limits: ExpansionLimits, progress: Callable[[int], None]
) -> None:
    """Read the files in a list of large objects: lines of OID and file name."""
    rest = b""
    for piece in listing:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            match = _BLOB_LINE.fullmatch(line)
            if match is None:
                raise DamagedError("a list of large objects is damaged")
            for _ in _content(path, match[1].decode("ascii"), limits, progress):
                pass
        if len(rest) > _BLOB_LINE_MAX:
            break
    if rest:
        raise DamagedError("a list of large objects is damaged")


def _content(path: Path, name: str, limits: ExpansionLimits, progress: Callable[[int], None]) -> Iterator[bytes]:
    """The decompressed content of a file, decompressed by its suffix."""
    if not is_data_file(name):
        raise DamagedError(f"{TOC}: names a file that is not one of its own")
    suffix = next((suffix for suffix in _SUFFIXES if _regular(path / (name + suffix))), None)
    if suffix is None:
        raise DamagedError(f'"{name}" is missing')
    if suffix == ".lz4":
        raise UnreadableError("pg_dump: data compressed with lz4 is not supported", "use --compress=zstd")
    whole = path / (name + suffix)
    with HashedFile(whole, progress) as file:
        source = Reader(chunks_of(file), f'"{whole.name}"')
        if suffix == "":
            yield from source.rest()
            return
        if not source.peek(1):
            raise DamagedError(f'"{whole.name}" is empty')
        chunks = stream.gunzip(source) if suffix == ".gz" else stream.ZstdReader(source).chunks()
        with closing(stream.limited(chunks, whole.stat().st_size, limits)) as bounded:  # type: ignore[type-var]
            yield from bounded


def _regular(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
