"""Whether other users can write a file that a process of root is about to execute or to take its settings from."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import maintd
from maintd.errors import RefusedError

HINT = "let root own it and no other user write it (chown root, chmod go-w), or run this as its owner"


def require_trusted(path: Path) -> None:
    """Raise RefusedError if this process is root and another user can write the file, or replace it.

    Other users are all but root and those who can write maintd's own code, which runs anyway. Each folder above the
    file counts too: who can write it can replace what is in it. Processes of other users are not checked: they have
    no more rights than the file's author.
    """
    if os.geteuid() != 0:
        return
    own = Path(maintd.__file__).stat()
    users = {0, own.st_uid}
    groups = {0, own.st_gid} if own.st_mode & stat.S_IWGRP else {0}
    found = Path(os.path.realpath(path))
    for part in (found, *found.parents):
        try:
            status = part.stat()
        except OSError:
            return  # what root cannot reach is neither executed nor read; its reader reports the error
        if status.st_uid not in users:
            raise RefusedError(f"{path}: refused to root: {part} belongs to uid {status.st_uid}", HINT)
        others = status.st_mode & (stat.S_IWOTH | (stat.S_IWGRP if status.st_gid not in groups else 0))
        sticky = bool(status.st_mode & stat.S_ISVTX)  # only the owner of a file in it can replace the file
        if others and (part == found or not sticky):
            raise RefusedError(f"{path}: refused to root: other users can write {part}", HINT)
