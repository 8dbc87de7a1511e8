"""Files below the root of a host: bounded, without following a link out of the root, and no devices or pipes."""

from __future__ import annotations

from pathlib import Path

from maintd.clients.causes import cause_of
from maintd.clients.files import read_regular
from maintd.errors import TargetError

MAX_BYTES = 4 << 20


def read_lines(root: Path, name: str) -> list[str]:
    """The lines of a file, name relative to the root; undecodable bytes are kept as surrogates.

    Raises TargetError: not_found, denied, too_large for more than 4 MiB, unfamiliar for a link or no file.
    """
    hint = "mount the host's root read-only, and let maintd's user, or a helper on the host, read it"
    data = read_regular(root / name, MAX_BYTES, hint, follow=False)
    return data.decode("utf-8", "surrogateescape").split("\n")


def names_in(root: Path, folder: str) -> list[str]:
    """The sorted names in a folder. Raises TargetError."""
    try:
        return sorted(path.name for path in (root / folder).iterdir())
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        cause = "not_found" if missing else cause_of(error) or "failed"
        raise TargetError(f"{root / folder}: {error.strerror}", cause=cause) from error
