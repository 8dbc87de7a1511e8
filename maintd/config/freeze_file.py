"""The file that freezes entries while it exists: anything that can create a file, such as a deployment, can use it."""

from __future__ import annotations

import os
from pathlib import Path

from maintd.model.entry import Freeze

MOST_BYTES = 4096
"""Bytes of the file that are read for its first line."""

NO_REASON = "the file gives no reason"


def read_freeze_file(path: Path | None) -> Freeze | None:
    """The freeze of this file, whose reason is its first line; None only if there certainly is no such file.

    A file that cannot be read freezes too, and so does one of which it is unknown whether it exists.
    """
    if path is None:
        return None
    try:
        # O_NONBLOCK: a named pipe without a writer would block for ever.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        return None if not path.is_symlink() else _freeze(path, "it is a link to a file that does not exist")
    except OSError as error:
        return _freeze(path, f"whether the file exists or why is unknown: {error.strerror or error}")
    try:
        text = os.read(number, MOST_BYTES).decode("utf-8", "replace")
    except OSError as error:
        return _freeze(path, f"the file cannot be read: {error.strerror or error}")
    finally:
        os.close(number)
    first = text.partition("\n")[0].strip()
    return _freeze(path, first or NO_REASON)


def _freeze(path: Path, why: str) -> Freeze:
    return Freeze(why=why, by=f"the file {path}")
