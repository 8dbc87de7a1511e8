"""Files of a host below the folder where its root is mounted: bounded, and nothing outside of that folder is read.

Links are resolved as by a process that has changed its root to the folder (chroot(2)): an absolute link starts at the
folder again, and `..` does not leave it. The folder itself may be a link: it is the operator's setting. Each part of a
path is opened by itself, relative to the descriptor of the one before and without following a link, since a link could
be put in place between a check of a path and its use.

All methods raise TargetError with one of these causes:

- `not_found`: there is nothing, and no link on the way names it: the host has none
- `denied`: this user may not read it
- `unfamiliar`: a link to what is not there below the root, which the host may have elsewhere; a loop of links; what is
  not a regular file; a link that is not to be followed
- `too_large`: more bytes, names or matches than the limit
- `failed`: another error of the operating system

So only `not_found` means that there is none; everything else is not known.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from maintd.clients.causes import cause_of
from maintd.clients.files import shown
from maintd.errors import TargetError
from maintd.units import format_size

MOST_LINKS = 40
"""On the way to one file. Source: MAXSYMLINKS of Linux."""
MOST_NAMES = 500_000
"""In one folder."""
MOST_MATCHES = 20_000
"""Of one pattern."""
MOST_DEPTH = 256
"""Folders within each other; each is a descriptor while a path is walked."""
MOST_BYTES_OF_PATH = 4096
"""Source: PATH_MAX of Linux."""

_PATH_ONLY = os.O_PATH | os.O_CLOEXEC  # needs no right to read
_WILDCARDS = "*?["
_HINT = "mount the host's root read-only, and let maintd's user, or a helper on the host, read it"


@dataclass(frozen=True)
class RootedFiles:
    """The files below a root; names are relative to it, a slash at their begin means nothing. hint: for its errors."""

    root: Path
    hint: str = _HINT

    def read(self, name: str, most: int, *, follow: bool = True) -> bytes:
        """The content of a regular file of at most `most` bytes. follow: also if the file itself is a link."""
        with self.open(name, follow=follow) as file:
            try:
                data = file.read(most + 1)
            except OSError as error:
                raise self._error(name, error) from error
        if len(data) > most:
            raise TargetError(f"{self._shown(name)}: has more than {format_size(most)}", self.hint, cause="too_large")
        return data

    def lines(self, name: str, most: int, *, follow: bool = True) -> list[str]:
        """The lines of a file as by `read`, without their ends; bytes that are not UTF-8 are kept as surrogates."""
        return self.read(name, most, follow=follow).decode("utf-8", "surrogateescape").split("\n")

    def open(self, name: str, *, follow: bool = True) -> BinaryIO:
        """A regular file for reading; a pipe is not waited for, and a device not opened."""
        with self._place(name, follow=follow) as place:
            if stat.S_ISLNK(place.mode):
                raise self._unfamiliar(name, "is a link, which is not followed")
            if not stat.S_ISREG(place.mode):
                raise self._unfamiliar(name, "is not a regular file")
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                file = os.fdopen(os.open(place.part, flags, dir_fd=place.parent), "rb")
            except OSError as error:
                if error.errno == errno.ELOOP:  # a link was put in its place
                    raise self._unfamiliar(name, "is a link, which is not followed") from error
                raise
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                file.close()
                raise self._unfamiliar(name, "is not a regular file")
        return file

    def names(self, folder: str) -> list[str]:
        """The sorted names in a folder. What is no folder is `unfamiliar`."""
        found: list[str] = []
        with self._place(folder) as place:
            if not stat.S_ISDIR(place.mode):
                raise self._unfamiliar(folder, "is not a folder")
            descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place.descriptor)
            try:
                with os.scandir(descriptor) as entries:
                    for each in entries:
                        if len(found) == MOST_NAMES:
                            text = f"{self._shown(folder)}: has more than {MOST_NAMES:,} names"
                            raise TargetError(text, self.hint, cause="too_large")
                        found.append(each.name)
            finally:
                os.close(descriptor)
        return sorted(found)

    def status(self, name: str, *, follow: bool = True) -> os.stat_result:
        """The status of a path. follow: of what it leads to, else of the link itself."""
        with self._place(name, follow=follow) as place:
            return os.fstat(place.descriptor)

    def exists(self, name: str) -> bool:
        """Whether there is something at a path; a link to nothing is not known, and raises TargetError."""
        try:
            self.status(name)
        except TargetError as error:
            if error.cause == "not_found":
                return False
            raise
        return True

    def link(self, name: str) -> str:
        """The text of a link."""
        with self._place(name, follow=False) as place:
            if not stat.S_ISLNK(place.mode):
                raise self._unfamiliar(name, "is not a link")
            return os.readlink("", dir_fd=place.descriptor)

    def resolved(self, name: str) -> Path:
        """The path, below the root, of what a path leads to: without links at this moment.

        For other programs and for messages. The other methods need no such path, and a change in between does no harm
        to them.
        """
        with self._place(name) as place:
            return self.root.joinpath(*place.parts)

    def glob(self, pattern: str) -> list[str]:
        """The names that a pattern with `*`, `?` and `[…]` matches, sorted, each relative to the root.

        As in glob(3), a wildcard matches no slash, and no dot at the begin of a name. A folder that cannot be listed is
        an error, other than in glob(3): what it has is not known.
        """
        found = [""]
        for part in _parts(pattern):
            folders, found = found, []
            for folder in folders:
                found += self._matching(folder, part)
                if len(found) > MOST_MATCHES:
                    text = f"{self._shown(pattern)}: has more than {MOST_MATCHES:,} matches"
                    raise TargetError(text, self.hint, cause="too_large")
        return sorted(found)

    def _matching(self, folder: str, part: str) -> list[str]:
        try:
            if not stat.S_ISDIR(self.status(folder).st_mode):
                return []
            if any(char in part for char in _WILDCARDS):
                names = (name for name in self.names(folder) if part.startswith(".") or not name.startswith("."))
                return [f"{folder}/{name}".lstrip("/") for name in names if fnmatchcase(name, part)]
            name = f"{folder}/{part}".lstrip("/")
            self.status(name, follow=False)
        except TargetError as error:
            if error.cause == "not_found":
                return []
            raise
        return [name]

    @contextmanager
    def _place(self, name: str, *, follow: bool = True) -> Iterator[_Place]:
        """Find a path, open within this block. Raises TargetError."""
        if not _is_path(name):
            raise self._unfamiliar(name[:200], "is no path: it has a NUL byte, no encoding, or is too long")
        try:
            folders = [_Place.of(os.open(self.root, _PATH_ONLY | os.O_DIRECTORY))]
        except (FileNotFoundError, NotADirectoryError) as error:
            hint = "mount the host's root there, or correct the root of the target"
            raise TargetError(f"{shown(self.root)}: {error.strerror}", hint, cause="unfamiliar") from error
        except OSError as error:
            raise self._error("", error) from error
        try:
            self._walk(name, folders, follow)
            yield folders[-1]
        except OSError as error:
            raise self._error(name, error) from error
        finally:
            for each in folders:
                os.close(each.descriptor)

    def _walk(self, name: str, folders: list[_Place], follow: bool) -> None:
        """Add what is on the way from the root, which is the only one at the begin, to the end of a path."""
        waiting = [(part, "") for part in reversed(_parts(name))]  # with the link that named it
        links = 0
        while waiting:
            part, link = waiting.pop()
            at = folders[-1]
            try:
                found = at.below(part, link)
            except (FileNotFoundError, NotADirectoryError) as error:
                by = link or (at.link if isinstance(error, NotADirectoryError) else "")
                if not by:
                    raise
                what = "what is not there" if link else "no folder that is there"
                text = f"{shown(by)} is a link to {what} below {shown(self.root)}"
                raise self._unfamiliar(name, text) from error
            if found is None:
                _leave(folders, max(1, len(folders) - 1))
                continue
            folders.append(found)
            if len(folders) > MOST_DEPTH:
                raise self._unfamiliar(name, f"more than {MOST_DEPTH} folders deep")
            if not stat.S_ISLNK(found.mode) or (not waiting and not follow):
                continue
            links += 1
            if links > MOST_LINKS:
                raise self._unfamiliar(name, os.strerror(errno.ELOOP))
            target = os.readlink("", dir_fd=found.descriptor)
            _leave(folders, 1 if target.startswith("/") else len(folders) - 1)
            by = link or "/" + "/".join(found.parts)
            waiting += [(each, by) for each in reversed(_parts(target))]

    def _error(self, name: str, error: OSError) -> TargetError:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        cause = "not_found" if missing else cause_of(error) or "failed"
        return TargetError(f"{self._shown(name)}: {error.strerror}", self.hint, cause=cause)

    def _unfamiliar(self, name: str, text: str) -> TargetError:
        return TargetError(f"{self._shown(name)}: {text}", self.hint, cause="unfamiliar")

    def _shown(self, name: str) -> str:
        return shown(self.root.joinpath(*_parts(name)))


@dataclass(frozen=True)
class _Place:
    """What is at a path without links: its descriptor and mode, its name in its parent, and the link that named it."""

    descriptor: int
    mode: int
    part: str
    parent: int  # its descriptor
    parts: tuple[str, ...]  # from the root
    link: str

    @classmethod
    def of(cls, descriptor: int, part: str = ".", parent: _Place | None = None, link: str = "") -> _Place:
        parts = () if parent is None else (*parent.parts, part)
        above = descriptor if parent is None else parent.descriptor
        return cls(descriptor, os.fstat(descriptor).st_mode, part, above, parts, link)

    def below(self, part: str, link: str) -> _Place | None:
        """What has this name in it; None for its parent. Raises OSError."""
        if not stat.S_ISDIR(self.mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if part == "..":
            return None
        return _Place.of(os.open(part, _PATH_ONLY | os.O_NOFOLLOW, dir_fd=self.descriptor), part, self, link)


def _leave(folders: list[_Place], depth: int) -> None:
    while len(folders) > depth:
        os.close(folders.pop().descriptor)


def _is_path(name: str) -> bool:
    try:
        return "\0" not in name and len(os.fsencode(name)) <= MOST_BYTES_OF_PATH
    except UnicodeEncodeError:
        return False


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]
