"""A tree of files, reached by descriptors: only below its root, never through a link, on request never onto another
device. Names may be any bytes; `shown` writes them for people."""

from __future__ import annotations

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

_BLOCK = 512  # bytes; st_blocks is in these whatever the file system's own are
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ChangedError(TargetError):
    """What was looked at is not what is there now; nothing was done."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "the next run looks again", cause="partial")


@dataclass(frozen=True)
class Entry:
    """A name in a tree that is no folder, with what `lstat` said of it."""

    parts: tuple[str, ...]
    status: os.stat_result = field(repr=False)

    @property
    def name(self) -> str:
        """Without its folders."""
        return self.parts[-1]

    @property
    def relative(self) -> str:
        """From the tree's root, with slashes."""
        return "/".join(self.parts)

    @property
    def regular(self) -> bool:
        """A file with content: no link, pipe, socket or device."""
        return stat.S_ISREG(self.status.st_mode)

    @property
    def disk_bytes(self) -> int:
        """What it takes on the disk, as `du` counts."""
        return self.status.st_blocks * _BLOCK

    @property
    def modified_at(self) -> datetime:
        """When its content was last written."""
        return datetime.fromtimestamp(self.status.st_mtime, UTC)


class Tree:
    """A folder that was opened once. Use it in a `with`.

    After a walk `unread` tells which folders could not be entered and why, and `foreign` which were left out for being
    on another device. Raises TargetError when the root itself cannot be opened.
    """

    def __init__(self, root: Path, *, one_device: bool = True) -> None:
        self.root = root
        self._one_device = one_device
        try:
            # The root may be a link: it is what the operator wrote.
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            cause = "empty" if isinstance(error, FileNotFoundError | NotADirectoryError) else cause_of(error)
            hint = "correct the path, or mount it into this container" if cause == "empty" else "give read access to it"
            raise TargetError(f"{shown(root)}: {error.strerror}", hint, cause=cause or "failed") from error
        self.device = os.fstat(self._fd).st_dev
        self.unread: list[str] = []
        self.foreign: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._fd)

    def walk(self, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[Entry]:
        """Every name below that is no folder; `wanted` says by name alone which are worth a look."""
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
                                continue  # gone since it was listed
            except FileNotFoundError:
                continue
            except ChangedError:
                self.foreign.append(shown("/".join(parts)))
            except OSError as error:
                self.unread.append(f"{shown('/'.join(parts) or '.')}: {error.strerror}")

    def remove(self, entry: Entry) -> None:
        """Remove a name, if it is still the regular file that was looked at. Raises ChangedError and OSError."""
        with self._folder(entry.parts[:-1]) as folder:
            now = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
            if _sign(now) != _sign(entry.status) or not stat.S_ISREG(now.st_mode):
                raise ChangedError(f"{shown(entry.relative)}: has changed since it was looked at")
            os.unlink(entry.name, dir_fd=folder)

    @contextmanager
    def _folder(self, parts: tuple[str, ...]) -> Iterator[int]:
        """A descriptor of a folder below, opened step by step so that no link is followed on the way."""
        found = os.dup(self._fd)
        try:
            os.lseek(found, 0, os.SEEK_SET)  # a duplicate shares its place in the list of names
            for part in parts:
                below = os.open(part, _FOLDER, dir_fd=found)
                os.close(found)
                found = below
                if self._one_device and os.fstat(found).st_dev != self.device:
                    raise ChangedError(f"{shown('/'.join(parts))}: is on another device")
            yield found
        finally:
            os.close(found)


def disk_bytes(entries: Iterable[Entry]) -> int:
    """What they take on the disk together, a file with several names counted once, as `du` does."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for entry in entries:
        key = (entry.status.st_dev, entry.status.st_ino)
        if entry.status.st_nlink == 1 or key not in seen:
            total += entry.disk_bytes
            seen.add(key)
    return total


def newest(entries: Iterable[Entry], count: int = 1) -> list[Entry]:
    """The last written first."""
    return sorted(entries, key=lambda entry: (entry.status.st_mtime_ns, entry.parts), reverse=True)[:count]


def shown(path: object) -> str:
    """A path for a person, on one line: bytes that are no text as `\\xff`, control characters likewise."""
    text = str(path).encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def _sign(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_nlink, status.st_size, status.st_mtime_ns
