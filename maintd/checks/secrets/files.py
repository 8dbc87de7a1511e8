"""Files of secrets: read, written in place with the same inode, mode and owner, or replaced."""

from __future__ import annotations

import hmac
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from maintd.checks.backup_sets.writer import os_errors, sync_folder
from maintd.clients.files import shown
from maintd.errors import TargetError

LARGEST = 64 * 1024
"""Bytes of a file that is read as a secret."""


@dataclass(frozen=True)
class SecretFile:
    """A file as it was read. Its value is never reported."""

    value: bytes = field(repr=False)
    mode: int
    owner: int
    group: int
    inode: int
    modified_ns: int


def read_file(path: Path) -> SecretFile:
    """Read a file, not through a link. Raises TargetError."""
    with os_errors(path), _opened(path, os.O_RDONLY) as descriptor:
        found = os.fstat(descriptor)
        if found.st_size > LARGEST:
            raise TargetError(f"{shown(path)} is larger than any secret", "move it elsewhere", cause="too_large")
        value = b""
        while chunk := os.read(descriptor, LARGEST):
            value += chunk
        mode = stat.S_IMODE(found.st_mode)
        return SecretFile(value, mode, found.st_uid, found.st_gid, found.st_ino, found.st_mtime_ns)


def write_in_place(path: Path, value: bytes) -> None:
    """Write into the file that exists, so that a container that has it mounted sees it. Raises TargetError.

    A reader never sees an empty file: the value is written over the old one, and the rest cut off.
    """
    with os_errors(path), _writable(path), _opened(path, os.O_WRONLY) as descriptor:
        at = 0
        while at < len(value):
            at += os.pwrite(descriptor, value[at:], at)
        os.ftruncate(descriptor, len(value))
        os.fsync(descriptor)
    _require(path, value)


def replace_file(path: Path, value: bytes) -> None:
    """Put another file in its place, of the same mode and owner. Raises TargetError."""
    new = path.with_name(f".{path.name}.maintd-new")
    with os_errors(path):
        found = path.lstat()
        _require_regular(path, found)
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(value)
                if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, found.st_uid, found.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(found.st_mode))
                file.flush()
                os.fsync(descriptor)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
        sync_folder(path.parent)
    _require(path, value)


def set_modified(path: Path, modified_ns: int) -> None:
    """Give a file back the time of its value, by which its age is known."""
    with os_errors(path):
        os.utime(path, ns=(modified_ns, modified_ns), follow_symlinks=False)


def _require(path: Path, value: bytes) -> None:
    if not hmac.compare_digest(read_file(path).value, value):
        raise TargetError(f"{shown(path)} has another value than was written", "check the disk", cause="failed")


def _require_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise TargetError(f"{shown(path)} is not a regular file", "name the file itself", cause="unfamiliar")


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    if path.is_symlink():
        raise TargetError(f"{shown(path)} is a link", "name the file itself", cause="unfamiliar")
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not block
    try:
        _require_regular(path, os.fstat(descriptor))
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Let its owner write into a file of mode 0400 within the block."""
    found = path.lstat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & stat.S_IWUSR or found.st_uid != os.geteuid():
        yield
        return
    path.chmod(mode | stat.S_IWUSR)
    try:
        yield
    finally:
        with suppress(OSError):
            path.chmod(mode)
