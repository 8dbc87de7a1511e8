"""Files below the root of a host: bounded, without following a link out of the root, and no devices or pipes."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from maintd.errors import TargetError

MAX_BYTES = 4 << 20


def read_lines(root: Path, name: str) -> list[str]:
    """The lines of a file, name relative to the root; undecodable bytes are kept as surrogates.

    Raises TargetError: not_found, denied, partial for one that is larger than 4 MiB, unfamiliar for a link or no file.
    """
    path = root / name
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _error(path, error) from None
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise TargetError(f"{path} is not a file", cause="unfamiliar")
        try:
            data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise _error(path, error) from None
    if len(data) > MAX_BYTES:
        raise TargetError(f"{path} is larger than {MAX_BYTES >> 20} MiB", cause="partial")
    return data.decode("utf-8", "surrogateescape").split("\n")


def names_in(root: Path, folder: str) -> list[str]:
    """The sorted names in a folder. Raises TargetError."""
    try:
        return sorted(path.name for path in (root / folder).iterdir())
    except OSError as error:
        raise _error(root / folder, error) from None


def _error(path: Path, error: OSError) -> TargetError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return TargetError(f"{path} does not exist", "mount the host's root read-only", cause="not_found")
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = "give maintd's user the right to read it, or let a helper on the host do so"
        return TargetError(f"{path} may not be read", hint, cause="denied")
    if error.errno == errno.ELOOP:
        return TargetError(f"{path} is a link, which is not followed", cause="unfamiliar")
    return TargetError(f"{path} cannot be read: {error.strerror}", cause="failed")
