"""A tree of files, accessed by descriptors: never outside its root or through a link, by default on one device.

Names may be any bytes; `shown` makes text of them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from maintd.clients.causes import cause_of
from maintd.errors import TargetError
from maintd.units import format_size

_FIRST = datetime(2, 1, 1, tzinfo=UTC).timestamp()  # a year less than datetime has, so that a difference can be added
_LAST = datetime(9998, 12, 31, tzinfo=UTC).timestamp()
_BLOCK = 512  # bytes, the unit of st_blocks on every file system
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ChangedError(TargetError):
    """A file has changed since it was listed; nothing was done."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "the next run checks it again", cause="partial")


@dataclass(frozen=True)
class Entry:
    """A name in a tree that is not a folder, with its lstat."""

    parts: tuple[str, ...]
    status: os.stat_result = field(repr=False)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.parts[-1]

    @property
    def relative(self) -> str:
        """Its path below the tree's root, with slashes."""
        return "/".join(self.parts)

    @property
    def regular(self) -> bool:
        """Whether it is a regular file: not a link, pipe, socket or device."""
        return stat.S_ISREG(self.status.st_mode)

    @property
    def disk_bytes(self) -> int:
        """Allocated bytes, as counted by `du`."""
        return self.status.st_blocks * _BLOCK

    @property
    def modified_at(self) -> datetime:
        """Time of the last write to its content."""
        return modified_at(self.status)


class Tree:
    """An open folder; a context manager that closes it.

    After a walk, `unread` lists the folders that could not be read and why, and `foreign` those that were skipped
    because they are on another device. Raises TargetError when the root cannot be opened.
    """

    def __init__(self, root: Path, *, one_device: bool = True) -> None:
        self.root = root
        self._one_device = one_device
        try:
            # The root itself may be a link: it is the operator's setting.
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            cause = "not_found" if isinstance(error, FileNotFoundError | NotADirectoryError) else cause_of(error)
            hint = (
                "correct the path, or mount it into this container"
                if cause == "not_found"
                else "give read access to it"
            )
            raise TargetError(f"{shown(root)}: {error.strerror}", hint, cause=cause or "failed") from error
        self.device = os.fstat(self._fd).st_dev
        self.unread: list[str] = []
        self.foreign: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._fd)

    def walk(self, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[Entry]:
        """All names below that are not folders, and for which `wanted(name)` is true."""
        self.unread.clear()
        self.foreign.clear()
        waiting: list[tuple[str, ...]] = [()]
        while waiting:
            parts = waiting.pop()
            try:
                with self._folder(parts) as folder, os.scandir(folder) as names:
                    for name in names:
                        if name.is_dir(follow_symlinks=False):
                            waiting.append((*parts, name.name))
                        elif wanted(name.name):
                            try:
                                yield Entry((*parts, name.name), name.stat(follow_symlinks=False))
                            except FileNotFoundError:
                                continue  # removed since it was listed
            except FileNotFoundError:
                continue
            except ChangedError:
                self.foreign.append(shown("/".join(parts)))
            except OSError as error:
                self.unread.append(f"{shown('/'.join(parts) or '.')}: {error.strerror}")

    def remove(self, entry: Entry) -> None:
        """Remove a regular file if it is unchanged since it was listed. Raises ChangedError and OSError."""
        with self._folder(entry.parts[:-1]) as folder:
            now = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
            if _identity(now) != _identity(entry.status) or not stat.S_ISREG(now.st_mode):
                raise ChangedError(f"{shown(entry.relative)}: has changed since it was listed")
            os.unlink(entry.name, dir_fd=folder)

    @contextmanager
    def _folder(self, parts: tuple[str, ...]) -> Iterator[int]:
        """A descriptor of a folder below, opened part by part, so that no link is followed."""
        folder = os.dup(self._fd)
        try:
            os.lseek(folder, 0, os.SEEK_SET)  # a duplicate shares the read position
            for part in parts:
                below = os.open(part, _FOLDER, dir_fd=folder)
                os.close(folder)
                folder = below
                if self._one_device and os.fstat(folder).st_dev != self.device:
                    raise ChangedError(f"{shown('/'.join(parts))}: is on another device")
            yield folder
        finally:
            os.close(folder)


def modified_at(status: os.stat_result) -> datetime:
    """Time of the last write to the content of a file, see `instant_of`."""
    return instant_of(status.st_mtime)


def instant_of(seconds: float) -> datetime:
    """The time of a file from the seconds since 1970.

    Some file systems, such as tmpfs and btrfs, keep any number of seconds. A time that no datetime has is the first or
    the last that one can calculate with, so it stays old, or in the future.
    """
    return datetime.fromtimestamp(min(max(seconds, _FIRST), _LAST), UTC)


def disk_bytes(entries: Iterable[Entry]) -> int:
    """Allocated bytes of all entries; a file with several names counts once, as in `du`."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for entry in entries:
        key = (entry.status.st_dev, entry.status.st_ino)
        if entry.status.st_nlink == 1 or key not in seen:
            total += entry.disk_bytes
            seen.add(key)
    return total


def newest(entries: Iterable[Entry], count: int = 1) -> list[Entry]:
    """The `count` most recently written entries, newest first."""
    return sorted(entries, key=lambda entry: (entry.status.st_mtime_ns, entry.parts), reverse=True)[:count]


def read_regular(
    path: Path, most: int, hint: str = "mount it, and let maintd's user read it", *, follow: bool = True
) -> bytes:
    """The content of a regular file of at most `most` bytes; a pipe is not waited for. follow: also if it is a link.

    Raises TargetError: `not_found`, `denied`, `unfamiliar` for what is no regular file, `too_large`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise TargetError(f"{shown(path)}: is not a regular file", hint, cause="unfamiliar")
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise TargetError(f"{shown(path)}: is a link, which is not followed", hint, cause="unfamiliar") from error
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        cause = "not_found" if missing else cause_of(error) or "failed"
        raise TargetError(f"{shown(path)}: {error.strerror}", hint, cause=cause) from error
    if len(data) > most:
        raise TargetError(f"{shown(path)}: has more than {format_size(most)}", hint, cause="too_large")
    return data


def shown(path: object) -> str:
    """A path as printable text: other bytes and control characters as `\\xff`."""
    try:
        text = str(path).encode(errors="surrogateescape").decode(errors="backslashreplace")
    except UnicodeEncodeError:  # surrogates that are no bytes: not of a file system, but of JSON
        text = str(path).encode(errors="backslashreplace").decode()
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_nlink, status.st_size, status.st_mtime_ns
