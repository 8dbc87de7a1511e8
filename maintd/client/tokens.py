"""Tokens in files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from maintd.errors import UsageError

LARGEST = 4096  # bytes of a token file; a token has 50


def read_token_file(path: str | os.PathLike[str]) -> tuple[str, str | None]:
    """The token in a file, and a warning if users other than the owner's group can read the file.

    Raises UsageError if the file cannot be read, or does not hold one line of printable ASCII.
    """
    place = Path(path)
    try:
        with place.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise UsageError(f'cannot read the token file "{place}": {error.strerror}', "correct --token-file") from error
    token = check_token(content.decode("latin-1"), f'the token file "{place}"')
    warning = None
    if mode & stat.S_IROTH:
        warning = f"other users can read the token in {place}: chmod o= {place}"
    return token, warning


def check_token(text: str, what: str) -> str:
    """The token without the space around it. Raises UsageError if it cannot be one; the text is not in the message."""
    token = text.strip()
    if not token or len(token) > LARGEST or not all("!" <= letter <= "~" for letter in token):
        raise UsageError(f"{what} does not hold a token", "create one with: maintd token create --role viewer NAME")
    return token
