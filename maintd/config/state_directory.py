"""The state directory: created, checked to be writable, and used by one daemon at a time."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from maintd.errors import RefusedError, SettingsError

LOCK = "daemon.pid"

_STOPPING = "stopping"

OWN = (LOCK, "maintd.db", "maintd.db-wal", "maintd.db-shm", "job_descriptions.json", "artifacts", "spool", "work")
"""What maintd creates in the folder. Other files in it belong to the operator."""


@contextmanager
def claim_state_dir(folder: Path) -> Iterator[Path]:
    """Create the folder, hold a lock on it during the block, and write this process's pid into the lock file.

    The kernel releases the lock when the process ends, however it ends. Raises RefusedError with the pid of the daemon
    that holds the lock, SettingsError if the folder cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise SettingsError(
            f"state directory {folder}: {error.strerror} (as uid {os.geteuid()})",
            "make it writable for that user, or set MAINTD_STATE_DIR to another folder",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, _, word = os.read(descriptor, 32).decode(errors="replace").strip().partition(" ")
            about = f"pid {pid or 'unknown'}" + (", which is stopping" if word == _STOPPING else "")
            raise RefusedError(
                f"another maintd ({about}) uses the state directory {folder}",
                "stop it first, or set MAINTD_STATE_DIR to another folder",
            ) from None
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise SettingsError(
                f"state directory {folder}: cannot write {LOCK}: {error.strerror}",
                "free space on its disk, or set MAINTD_STATE_DIR to a folder on another disk",
            ) from error
        _restrict_existing(folder)
        yield folder
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def note_stopping(folder: Path) -> None:
    """Write into the lock file that this process, which holds the lock, is stopping; `stopping_pid` reads it."""
    with suppress(OSError), (folder / LOCK).open("r+b") as file:  # a full disk must not keep it from stopping
        file.write(f"{os.getpid()} {_STOPPING}\n".encode())


def stopping_pid(folder: Path) -> int | None:
    """The pid of the daemon that is stopping and has not ended yet; None when there is none, or it is not known."""
    try:
        with (folder / LOCK).open("rb") as file:
            pid, word = file.read(64).decode().split()
        if word != _STOPPING or not Path(f"/proc/{int(pid)}").exists():
            return None
        return int(pid)
    except (OSError, ValueError):
        return None


def _restrict_existing(folder: Path) -> None:
    """Take all permissions of others from what an earlier version, or a process with another umask, has created."""
    for name in OWN:
        with suppress(OSError):  # it does not exist, or belongs to another user
            descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
                if mode & stat.S_IRWXO:
                    os.fchmod(descriptor, mode & ~stat.S_IRWXO)
            finally:
                os.close(descriptor)
