"""Open files of a host's processes, by the descriptors in /proc."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maintd.errors import TargetError

_DELETED = " (deleted)"
_IN_MEMORY = ("/memfd:", "/dev/", "/SYSV", "/[", "/i915", "/drm")  # not files of a file system
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
class DeletedFile:
    """A deleted file whose space is freed only when its holder closes it."""

    path: str
    size_bytes: int
    holder: Holder


@dataclass(frozen=True)
class OpenFiles:
    """Open regular files by key, and the deleted ones of them, largest first."""

    holders: dict[Key, Holder]
    deleted: tuple[DeletedFile, ...]
    processes: int
    denied: int  # processes whose descriptors this process may not read


def open_files(proc: Path) -> OpenFiles:
    """Read the descriptors of all processes. Raises TargetError when `proc` is not a proc file system."""
    holders: dict[Key, Holder] = {}
    deleted: dict[Key, DeletedFile] = {}
    processes = denied = 0
    try:
        pids = sorted(int(folder.name) for folder in proc.iterdir() if folder.name.isdigit())
    except OSError as error:
        raise TargetError(f"{proc}: {error.strerror}", "mount the host's /proc there", cause="denied") from error
    if not pids:
        raise TargetError(f"{proc}: has no process", "mount the host's /proc there", cause="empty")
    own = ancestors(proc)
    for pid in pids:
        processes += 1
        try:
            for key, path, size in _descriptors(proc / str(pid) / "fd"):
                holder = holders.setdefault(key, Holder(pid, _program(proc, pid)))
                if path:
                    deleted.setdefault(key, DeletedFile(path, size, holder))
        except PermissionError:
            # The daemon protects its own memory and descriptors from its jobs; it has no log of a service open.
            denied += pid not in own and not _zombie(proc, pid)
        except OSError:
            processes -= 1  # it has ended
    found = sorted(deleted.values(), key=lambda file: -file.size_bytes)
    return OpenFiles(holders, tuple(found), processes, denied)


def _descriptors(folder: Path) -> Iterator[tuple[Key, str, int]]:
    """Each regular file: its key, its last path if it is deleted, and its size on the disk."""
    for descriptor in folder.iterdir():
        try:
            status = descriptor.stat()
            if not stat.S_ISREG(status.st_mode):
                continue
            path = str(descriptor.readlink()) if status.st_nlink == 0 else ""
        except FileNotFoundError:
            continue
        deleted = path.endswith(_DELETED) and not path.startswith(_IN_MEMORY)
        yield (status.st_dev, status.st_ino), path.removesuffix(_DELETED) if deleted else "", status.st_blocks * _BLOCK


def ancestors(proc: Path) -> set[int]:
    """The process ids of this process and those that it descends from, as that proc file system numbers them."""
    found: set[int] = set()
    try:
        pid = int((proc / "self").readlink().name)
        while pid > 1 and pid not in found:
            found.add(pid)
            pid = int((proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return found


def _zombie(proc: Path, pid: int) -> bool:
    """Whether it has ended but was not reaped; it holds no files then."""
    try:
        return (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[:1] == ["Z"]
    except OSError:
        return True


def _program(proc: Path, pid: int) -> str:
    try:
        return (proc / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"
