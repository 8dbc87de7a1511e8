"""A log with what was rotated away from it, opened so that a hostile or a moving file does no harm."""

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
UNPACKED_LIMIT = 256 * 1024 * 1024  # of one compressed log: more is a bomb, or nothing that a day leaves
_ROTATED = r"(?:[.-]\d{1,14}(?:-\d{1,10})?)?(?:\.(?P<packed>gz|xz|bz2|zst|lz4))?"


@dataclass(frozen=True)
class LogFile:
    """One file of a log: the one that is written, or a rotated one."""

    path: Path
    written_at: datetime
    size: int
    inode: int
    current: bool

    @property
    def packed(self) -> bool:
        """Compressed."""
        return self.path.suffix in (".gz", ".xz", ".bz2", ".zst", ".lz4")


def of_log(path: Path) -> list[LogFile]:
    """A log's files, oldest first. Raises TargetError: empty when there is none, denied when they cannot be listed."""
    pattern = re.compile(re.escape(path.name) + _ROTATED)
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError as error:
        raise _unreadable(path.parent, error) from error
    found = [_seen(path.parent / name, name == path.name) for name in names if pattern.fullmatch(name)]
    kept = [file for file in found if file is not None]
    if not kept:
        raise TargetError(f"{path}: there is no such log", "correct its path, or mount it", cause="empty")
    return sorted(kept, key=lambda file: (file.current, file.written_at, file.path.name))


def _seen(path: Path, current: bool) -> LogFile | None:
    try:
        about = path.stat()
    except OSError:
        return None  # rotated away since it was listed
    if not stat.S_ISREG(about.st_mode):
        return None
    return LogFile(path, datetime.fromtimestamp(about.st_mtime, UTC), about.st_size, about.st_ino, current)


@contextmanager
def opened(file: LogFile) -> Iterator[BinaryIO]:
    """Its content, unpacked. Raises TargetError: also in the middle, for a compressed file that is broken or a bomb."""
    try:
        # Not waiting for the other end, should it be a pipe by now.
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
            hint = "compress logs by gzip, or keep those of the last days as they are"
            raise TargetError(f"{file.path}: cannot be read: not gzip", hint, cause="malformed")
        else:
            yield cast("BinaryIO", raw)


class _Bounded(io.RawIOBase):
    """A compressed file that may not become too large."""

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
                "look at it by hand",
                cause="malformed",
            )
        view[: len(data)] = data
        return len(data)


class Lines:
    """Whole lines without their ends, those too long cut. A last one without its end is still being written.

    `size`, `first` and `last` are of what was read so far.
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


Verdict = Literal["kept", "cut", "replaced", "gone"]
"""kept: all there. cut: shorter than it was, or begun anew in its place. replaced: another file, and no rotated one
begins as it did. gone: no file at all."""


ENDLESS = 1 << 62
"""The size of a file whose size was not looked for."""


@dataclass(frozen=True)
class Extent:
    """How a file of a log begins and how far it goes, unpacked. `head` 0: it has no whole line yet."""

    inode: int
    size: int
    head: int
    current: bool


def head_of(first_line: bytes) -> int:
    """A number that tells first lines apart and that a measure, a 64-bit float, holds exactly."""
    return int.from_bytes(hashlib.sha256(first_line).digest()[:6], "big") or 1


def verdict(before: Extent, now: Sequence[Extent]) -> Verdict:
    """What became of a log since it was seen as `before`."""
    if not before.head:
        return "kept"
    same = [file for file in now if file.head == before.head]
    if same:
        return "kept" if any(file.size >= before.size for file in same) else "cut"
    current = next((file for file in now if file.current), None)
    if current is None:
        return "gone"
    return "cut" if current.inode == before.inode else "replaced"
