"""Where a daemon answers: a URL or the path of its control socket."""

from __future__ import annotations

import os
from typing import NamedTuple
from urllib.parse import urlsplit

from maintd.errors import UsageError
from maintd.terminal import quotable

PORTS = {"http": 80, "https": 443}

_EXAMPLE = "write for example https://maintd.example:8420"


class Address(NamedTuple):
    """The address of a daemon: scheme `unix` with the path of a socket, or `http` or `https` with host and port.

    For a URL, `path` is what comes before `/api`, without a slash at its end: usually empty.
    """

    scheme: str
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        if self.scheme == "unix":
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    @property
    def is_local(self) -> bool:
        """Whether what is sent there stays on this machine."""
        return self.scheme == "unix" or self.host in ("localhost", "::1") or self.host.startswith("127.")


def parse_address(address: str | os.PathLike[str]) -> Address:
    """A URL, or the path of a control socket. Raises UsageError.

    A URL has no user, password, query or fragment: they would be shown in messages.
    """
    text = os.fspath(address)
    if "://" not in text:
        if not text:
            raise UsageError("the address of the daemon is empty", _EXAMPLE)
        if not text.startswith((".", "/")) and not os.path.exists(text):  # noqa: PTH110 - pathlib is slow to import
            raise UsageError(f'"{quotable(text)}" is neither a URL nor the path of a socket', _EXAMPLE)
        return Address("unix", "", 0, text)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"the URL is not valid: {error}", _EXAMPLE) from error
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UsageError("the URL has a user, a password, a query or a fragment", "pass a token with --token-file FILE")
    if parts.scheme not in PORTS or not parts.hostname or not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(f'"{quotable(text)}" is not an http or https URL', _EXAMPLE)
    path = parts.path.rstrip("/").removesuffix("/api/v1")
    return Address(parts.scheme, parts.hostname, PORTS[parts.scheme] if port is None else port, path)
