"""Log files with their rotated files: safe reading, and detection of truncated, replaced or deleted logs."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal, cast

from maintd.checks.probes import as_target_error
from maintd.clients.files import modified_at, shown
from maintd.clients.rooted_files import RootedFiles
from maintd.errors import TargetError

LONGEST_LINE = 64 * 1024
UNPACKED_LIMIT = 256 * 1024 * 1024  # bytes of one compressed log; more is suspicious for a day's log
_ROTATED = r"(?:[.-](?P<number>\d{1,14}(?:[-_T]\d{1,10}){0,3}))?(?:\.(?P<packed>gz|xz|bz2|zst|lz4))?"
_HINT = "add this process' user to the group adm, or correct the path, or mount it"
_MOST_COPIES = 5  # digits of a number that counts rotations; more are a date or a time


@dataclass(frozen=True)
class LogFile:
    """One file of a log: the current one, or a rotated one."""

    path: Path
    written_at: datetime
    size: int
    inode: int
    current: bool
    number: int | None = None  # in its name: of rotations since, or a date
    root: Path = Path("/")  # below which its links are followed

    @property
    def packed(self) -> bool:
        """Whether it is compressed."""
        return self.path.suffix in (".gz", ".xz", ".bz2", ".zst", ".lz4")


def log_files(path: Path, root: Path = Path("/")) -> list[LogFile]:
    """Return the current and the rotated files of a log, oldest first.

    root: the folder where the host's root is mounted, for a path below it: nothing outside of it is read. Rotated files
    are in the order of their numbers or dates, since copying or compressing may change the time of the last write. A
    file that cannot be examined is included, so that opening it reports why. Raises TargetError: `empty` when there is
    none, `denied` when they cannot be listed.
    """
    files = RootedFiles(root, _HINT)
    pattern = re.compile(re.escape(path.name) + _ROTATED)
    try:
        names = files.names(_below(path.parent, root))
    except TargetError as error:
        raise _empty_or_other(error) from error
    matches = [match for name in names if (match := pattern.fullmatch(name))]
    found = [
        _examine(files, path.parent / match.string, match["number"], match.string == path.name) for match in matches
    ]
    kept = [file for file in found if file is not None]
    if not kept:
        raise TargetError(f"{shown(path)}: no such log", "correct its path, or mount it", cause="empty")
    return in_order(kept)


def _below(path: Path, root: Path) -> str:
    return str(path.absolute().relative_to(root.absolute()))


def in_order(found: Sequence[LogFile]) -> list[LogFile]:
    """Sort oldest first: the dated, the numbered with the highest number first, the current.

    Where a log has dated and numbered files, logrotate was reconfigured: the kind that was written last comes last.
    """
    dated = [file for file in found if file.number is not None and file.number >= 10**_MOST_COPIES]
    numbered = [file for file in found if file.number is not None and file.number < 10**_MOST_COPIES]
    plain = [file for file in found if file.number is None]
    dated.sort(key=lambda file: (file.number or 0, file.written_at))
    numbered.sort(key=lambda file: (-(file.number or 0), file.written_at))
    plain.sort(key=lambda file: (file.current, file.written_at))
    groups = [group for group in (dated, numbered) if group]
    groups.sort(key=lambda group: max(file.written_at for file in group))
    return [file for group in (*groups, plain) for file in group]


def _examine(files: RootedFiles, path: Path, number: str | None, current: bool) -> LogFile | None:
    digits = int(re.sub(r"\D", "", number)[:14]) if number else None
    try:
        about = files.status(_below(path, files.root))
    except TargetError as error:
        if error.cause == "not_found":
            return None  # it was rotated after it was listed
        return LogFile(path, datetime.now(UTC), 0, 0, current, digits, files.root)
    if not stat.S_ISREG(about.st_mode):
        return None
    return LogFile(path, modified_at(about), about.st_size, about.st_ino, current, digits, files.root)


@contextmanager
def evaluated_alone(path: Path, errors: list[str]) -> Iterator[None]:
    """Read one file in this block; what it raises is appended to `errors`, and the next file is read."""
    try:
        with as_target_error(shown(path), OSError):
            yield
    except TargetError as error:
        errors.append(str(error))
    except OSError as error:
        errors.append(f"{shown(path)}: {error.strerror or error}")


@contextmanager
def open_log(file: LogFile) -> Iterator[BinaryIO]:
    """Open a log for reading, decompressed.

    Raises TargetError, also while reading when a compressed file is damaged or too large.
    """
    try:
        raw = RootedFiles(file.root, _HINT).open(_below(file.path, file.root))
    except TargetError as error:
        raise _empty_or_other(error) from error
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
            yield raw


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


def _empty_or_other(error: TargetError) -> TargetError:
    """A log that is not there is `empty`."""
    if error.cause != "not_found":
        return error
    return TargetError(error.message, "correct the path, or mount it", cause="empty")


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
