"""The `cause` of a TargetError, from the operating system's error behind a client library's exception."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from http.client import IncompleteRead

_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}
_BROKEN = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED}


def cause_of(error: BaseException) -> str | None:
    """The cause of an exception, or None without an operating system error in its chain."""
    for link in _chain(error):
        if isinstance(link, TimeoutError):
            return "timed_out"
        if isinstance(link, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return "partial"
        if isinstance(link, ssl.SSLError):  # a certificate that is not trusted, or no TLS at all
            return "tls"
        if isinstance(link, PermissionError):
            return "denied"
        if isinstance(link, ConnectionRefusedError | FileNotFoundError):  # a socket file that does not exist
            return "refused"
        if isinstance(link, socket.gaierror):
            return "unreachable"
        if isinstance(link, OSError) and link.errno in _UNREACHABLE:
            return "unreachable"
        if isinstance(link, OSError) and link.errno in _BROKEN:
            return "partial"
        if isinstance(link, ConnectionResetError | IncompleteRead):  # by http.client, without a number
            return "partial"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and all it originates from. Libraries chain by `raise … from`, by context or as an argument."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        link = waiting.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        origins = (link.__cause__, link.__context__, getattr(link, "reason", None), *link.args)
        waiting.extend(item for item in origins if isinstance(item, BaseException))
