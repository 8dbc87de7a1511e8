"""Files of artifacts, opened without following links: the jobs that write them could put a link in their place."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

LONGEST_PATH = 4096
"""Characters of a path; Linux accepts 4,096 bytes, PATH_MAX."""


def open_artifact(root: Path, relative: str) -> int:
    """Open a file below a folder for reading; return the descriptor, which the caller closes.

    No component may be a link, and the file must be a regular file with one name: a second name could be that of
    another user's file. Raises OSError, with a text of its own where the kernel has none.
    """
    parts = PurePosixPath(relative).parts
    plain = len(relative) <= LONGEST_PATH and "\0" not in relative and not relative.startswith("/")
    if not plain or not parts or ".." in parts:
        raise OSError(f"not a path below {root}")
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        # Without O_NONBLOCK, opening a FIFO would wait for a writer.
        file = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(file)
        raise OSError("not a regular file with one name")
    return file
