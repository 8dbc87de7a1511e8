"""Which files the processes of a host hold open, by the descriptors in /proc."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maintd.errors import TargetError

_DELETED = " (deleted)"
_IN_MEMORY = ("/memfd:", "/dev/", "/SYSV", "/[", "/i915", "/drm")  # no file system gets anything back from these
_BLOCK = 512

Key = tuple[int, int]
"""Device and inode."""


@dataclass(frozen=True)
class Holder:
    """A process that has a file open."""

    pid: int
    program: str

    def __str__(self) -> str:
        return f"{self.program} ({self.pid})"


@dataclass(frozen=True)
class Deleted:
    """A file without a name whose space comes back only when its holder lets go of it."""

    path: str
    size_bytes: int
    holder: Holder


@dataclass(frozen=True)
class OpenFiles:
    """Regular files that are open, those of them that are deleted, largest first, and how much was not seen."""

    holders: dict[Key, Holder]
    deleted: tuple[Deleted, ...]
    processes: int
    denied: int  # processes whose descriptors may not be read


def open_files(proc: Path) -> OpenFiles:
    """Look through all processes. Raises TargetError when `proc` is none."""
    holders: dict[Key, Holder] = {}
    deleted: dict[Key, Deleted] = {}
    processes = denied = 0
    try:
        pids = sorted(int(folder.name) for folder in proc.iterdir() if folder.name.isdigit())
    except OSError as error:
        raise TargetError(f"{proc}: {error.strerror}", "mount the host's /proc there", cause="denied") from error
    if not pids:
        raise TargetError(f"{proc}: shows no process", "mount the host's /proc there", cause="empty")
    for pid in pids:
        processes += 1
        try:
            for key, path, size in _descriptors(proc / str(pid) / "fd"):
                holder = holders.setdefault(key, Holder(pid, _program(proc, pid)))
                if path:
                    deleted.setdefault(key, Deleted(path, size, holder))
        except PermissionError:
            denied += not _zombie(proc, pid)
        except OSError:
            processes -= 1  # it has ended
    found = sorted(deleted.values(), key=lambda one: -one.size_bytes)
    return OpenFiles(holders, tuple(found), processes, denied)


def _descriptors(folder: Path) -> Iterator[tuple[Key, str, int]]:
    """Each regular file: its key, its last path when it is deleted, and its size on the disk."""
    for descriptor in folder.iterdir():
        try:
            status = descriptor.stat()
            if not stat.S_ISREG(status.st_mode):
                continue
            path = str(descriptor.readlink()) if status.st_nlink == 0 else ""
        except FileNotFoundError:
            continue
        gone = path.endswith(_DELETED) and not path.startswith(_IN_MEMORY)
        yield (status.st_dev, status.st_ino), path.removesuffix(_DELETED) if gone else "", status.st_blocks * _BLOCK


def _zombie(proc: Path, pid: int) -> bool:
    """It has ended and holds nothing; only its parent has not asked how."""
    try:
        return (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[:1] == ["Z"]
    except OSError:
        return True


def _program(proc: Path, pid: int) -> str:
    try:
        return (proc / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"
