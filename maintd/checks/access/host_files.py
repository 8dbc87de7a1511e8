"""Files below the root of a host: bounded, without following a link out of the root, and no devices or pipes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from maintd.clients.causes import cause_of
from maintd.clients.files import shown
from maintd.errors import TargetError
from maintd.units import format_size

MAX_BYTES = 4 << 20
_MOST_LINKS = 40  # MAXSYMLINKS of Linux
_PATH_ONLY = os.O_PATH | os.O_CLOEXEC  # needs no right to list the folder
_HINT = "mount the host's root read-only, and let maintd's user, or a helper on the host, read it"


def read_lines(root: Path, name: str) -> list[str]:
    """The lines of a file, name relative to the root; undecodable bytes are kept as surrogates.

    Raises TargetError: not_found, denied, too_large for more than 4 MiB, unfamiliar for a link or no file, or for a
    folder on the way that is a link to nothing below the root.
    """
    path = root / name.lstrip("/")
    with _errors(path), ExitStack() as opened:
        *folders, last = _parts(path, name)
        parent = _folder(root, folders, opened)
        try:
            descriptor = os.open(last, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=parent)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            message = f"{shown(path)}: is a link, which is not followed"
            raise TargetError(message, _HINT, cause="unfamiliar") from error
        opened.callback(os.close, descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise TargetError(f"{shown(path)}: is not a regular file", _HINT, cause="unfamiliar")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise TargetError(f"{shown(path)}: has more than {format_size(MAX_BYTES)}", _HINT, cause="too_large")
    return data.decode("utf-8", "surrogateescape").split("\n")


def names_in(root: Path, folder: str) -> list[str]:
    """The sorted names in a folder. Raises TargetError as `read_lines`."""
    path = root / folder.lstrip("/")
    with _errors(path), ExitStack() as opened:
        parent = _folder(root, _parts(path, folder), opened)
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
        opened.callback(os.close, descriptor)
        with os.scandir(descriptor) as entries:
            return sorted(each.name for each in entries)


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        cause = "not_found" if missing else cause_of(error) or "failed"
        raise TargetError(f"{shown(path)}: {error.strerror}", _HINT, cause=cause) from error


def _parts(path: Path, name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or "\0" in name:
        raise TargetError(f"{shown(path)}: is no path of a file", _HINT, cause="unfamiliar")
    return parts


def _folder(root: Path, parts: list[str], opened: ExitStack) -> int:
    """Open a folder below the root, as a process that has changed its root to it: links cannot lead out.

    Each part is opened by itself, since a link could be put in place between a check of the path and its use. Raises
    OSError, and TargetError for a link to what is not there.
    """
    folders = [os.open(root, _PATH_ONLY | os.O_DIRECTORY)]
    opened.callback(os.close, folders[0])
    waiting = [(part, "") for part in reversed(parts)]  # with the link that named it
    links = 0
    while waiting:
        part, link = waiting.pop()
        if part == "..":
            folders[1:] = folders[1:-1]
            continue
        try:
            descriptor, target = _folder_or_link(part, folders[-1], opened)
        except (FileNotFoundError, NotADirectoryError) as error:
            if not link:
                raise
            place = shown(root.joinpath(*parts))
            message = f"{place}: {shown(link)} is a link to what is not there below {shown(root)}"
            raise TargetError(message, _HINT, cause="unfamiliar") from error
        if not target:
            folders.append(descriptor)
            continue
        links += 1
        inner = [each for each in target.split("/") if each not in ("", ".")]
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if target.startswith("/"):
            folders[1:] = []
        waiting += [(each, link or part) for each in reversed(inner)]
    return folders[-1]


def _folder_or_link(part: str, parent: int, opened: ExitStack) -> tuple[int, str]:
    """Open a part of a path; return the descriptor, and the target if it is a link."""
    descriptor = os.open(part, _PATH_ONLY | os.O_NOFOLLOW, dir_fd=parent)
    opened.callback(os.close, descriptor)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISLNK(mode):
        return descriptor, os.readlink("", dir_fd=descriptor)
    if not stat.S_ISDIR(mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return descriptor, ""
