"""Log files with their rotated files: safe reading, and detection of truncated, replaced or deleted logs."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal, cast

from maintd.errors import TargetError

LONGEST_LINE = 64 * 1024
UNPACKED_LIMIT = 256 * 1024 * 1024  # bytes of one compressed log; more is suspicious for a day's log
_ROTATED = r"(?:[.-]\d{1,14}(?:-\d{1,10})?)?(?:\.(?P<packed>gz|xz|bz2|zst|lz4))?"


@dataclass(frozen=True)
class LogFile:
    """One file of a log: the current one, or a rotated one."""

    path: Path
    written_at: datetime
    size: int
    inode: int
    current: bool

    @property
    def packed(self) -> bool:
        """Whether it is compressed."""
        return self.path.suffix in (".gz", ".xz", ".bz2", ".zst", ".lz4")


def log_files(path: Path) -> list[LogFile]:
    """Return the current and the rotated files of a log, oldest first.

    Raises TargetError: `empty` when there is none, `denied` when they cannot be listed.
    """
    pattern = re.compile(re.escape(path.name) + _ROTATED)
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError as error:
        raise _unreadable(path.parent, error) from error
    found = [_stat(path.parent / name, name == path.name) for name in names if pattern.fullmatch(name)]
    kept = [file for file in found if file is not None]
    if not kept:
        raise TargetError(f"{path}: no such log", "correct its path, or mount it", cause="empty")
    return sorted(kept, key=lambda file: (file.current, file.written_at, file.path.name))


def _stat(path: Path, current: bool) -> LogFile | None:
    try:
        about = path.stat()
    except OSError:
        return None  # it was rotated after it was listed
    if not stat.S_ISREG(about.st_mode):
        return None
    return LogFile(path, datetime.fromtimestamp(about.st_mtime, UTC), about.st_size, about.st_ino, current)


@contextmanager
def open_log(file: LogFile) -> Iterator[BinaryIO]:
    """Open a log for reading, decompressed.

    Raises TargetError, also while reading when a compressed file is damaged or too large.
    """
    try:
        # O_NONBLOCK: opening must not block if the file was replaced by a pipe.
        raw = io.FileIO(os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        raise _unreadable(file.path, error) from error
    with raw:
        if file.path.suffix == ".gz":
            with gzip.GzipFile(fileobj=raw) as unpacked:
                try:
                    yield cast("BinaryIO", io.BufferedReader(_Bounded(unpacked, file.path), 1 << 16))
                except (EOFError, OSError, zlib.error) as error:
                    raise TargetError(f"{file.path}: cannot be unpacked: {error}", cause="malformed") from error
        elif file.packed:
            hint = "compress logs with gzip, or do not compress those of the last days"
            raise TargetError(f"{file.path}: cannot be read: not gzip", hint, cause="malformed")
        else:
            yield cast("BinaryIO", raw)


class _Bounded(io.RawIOBase):
    """A compressed file that raises TargetError when it becomes too large."""

    def __init__(self, source: gzip.GzipFile, path: Path) -> None:
        super().__init__()
        self._source, self._path, self._left = source, path, UNPACKED_LIMIT

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self._source.read(min(len(view), 1 << 16))
        self._left -= len(data)
        if self._left < 0:
            raise TargetError(
                f"{self._path}: unpacks to more than {UNPACKED_LIMIT >> 20} MiB",
                "inspect it manually",
                cause="malformed",
            )
        view[: len(data)] = data
        return len(data)


class LineReader:
    """Complete lines without line ends, cut at 64 KiB. A last line without its end is left out: it is being written.

    `size`, `first` and `last` refer to what was read so far.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.size, self.first, self.last = 0, b"", b""

    def __iter__(self) -> Iterator[bytes]:
        left = b""
        while data := self._stream.read(1 << 20):
            *whole, left = (left + data).split(b"\n")
            self.size += len(data)
            for line in whole:
                self.first = self.first or line[:LONGEST_LINE] + b"\n"
                self.last = line[:LONGEST_LINE] or self.last
                yield line[:LONGEST_LINE]
            left = left[: LONGEST_LINE + 1]


def _unreadable(path: Path, error: OSError) -> TargetError:
    denied = isinstance(error, PermissionError)
    hint = "add this process' user to the group adm" if denied else "correct the path, or mount it"
    return TargetError(f"{path}: {error.strerror}", hint, cause="denied" if denied else "empty")


LogChange = Literal["kept", "cut", "replaced", "gone"]
"""kept: complete. cut: shorter than before, or truncated and written again. replaced: another file, and no rotated
file has the old first line. gone: no file."""

UNKNOWN_SIZE = 1 << 62
"""The size of a file that was not read to its end."""


@dataclass(frozen=True)
class LogFileState:
    """State of a log's file: `head` identifies its first line, 0 without one; `size` is in decompressed bytes."""

    inode: int
    size: int
    head: int
    current: bool


def head_of(first_line: bytes) -> int:
    """Hash a first line to 48 bits, which a measure (a 64-bit float) stores exactly."""
    return int.from_bytes(hashlib.sha256(first_line).digest()[:6], "big") or 1


def compare(before: LogFileState, now: Sequence[LogFileState]) -> LogChange:
    """Compare the files of a log with its state at the last run.

    Rotation moves the first line to another file, but never changes it.
    """
    if not before.head:
        return "kept"
    same = [file for file in now if file.head == before.head]
    if same:
        return "kept" if any(file.size >= before.size for file in same) else "cut"
    current = next((file for file in now if file.current), None)
    if current is None:
        return "gone"
    return "cut" if current.inode == before.inode else "replaced"
