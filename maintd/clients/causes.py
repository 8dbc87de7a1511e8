"""Why something did not answer, in the words of `TargetError.cause`, read from the operating system's errors."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}
_BROKEN = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED}


def cause_of(error: BaseException) -> str | None:
    """The cause behind a client library's error, or None when no operating system error is behind it."""
    for link in _chain(error):
        if isinstance(link, TimeoutError):
            return "timed_out"
        if isinstance(link, PermissionError):
            return "denied"
        if isinstance(link, ConnectionRefusedError | FileNotFoundError):  # a socket file that is not there
            return "refused"
        if isinstance(link, socket.gaierror):
            return "unreachable"
        if isinstance(link, OSError) and link.errno in _UNREACHABLE:
            return "unreachable"
        if isinstance(link, OSError) and link.errno in _BROKEN:
            return "partial"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it came from. Libraries wrap by `raise … from`, by context or as the first argument."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        link = waiting.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        behind = (link.__cause__, link.__context__, getattr(link, "reason", None), *link.args)
        waiting.extend(item for item in behind if isinstance(item, BaseException))
