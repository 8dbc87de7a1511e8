"""The state directory: made, checked to be writable, and claimed by one daemon at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maintd.errors import RefusedError, SettingsError

LOCK = "daemon.pid"


@contextmanager
def claim_state_dir(folder: Path) -> Iterator[Path]:
    """Make the folder, hold its lock while the body runs, and leave the pid of this process in it.

    The lock is the kernel's, so a killed daemon leaves none behind. Raises RefusedError naming the pid of the daemon
    that has it, SettingsError when the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise SettingsError(
            f"state directory {folder}: {error.strerror} (as uid {os.geteuid()})",
            "make it writable for that user, or set MAINTD_STATE_DIR to a folder that is",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise RefusedError(
                f"another maintd (pid {pid}) uses the state directory {folder}",
                "stop it first, or set MAINTD_STATE_DIR to another folder",
            ) from None
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise SettingsError(
                f"state directory {folder}: cannot write {LOCK}: {error.strerror}",
                "make room on its disk, or set MAINTD_STATE_DIR to a folder on another",
            ) from error
        yield folder
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def daemon_pid(folder: Path) -> int | None:
    """The pid of the daemon that holds the folder now; None when none does."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(descriptor, 32).decode(errors="replace").strip()
        return int(text) if text.isdecimal() else None
    finally:
        os.close(descriptor)
    return None
