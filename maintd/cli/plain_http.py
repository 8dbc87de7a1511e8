"""A GET of `maintd status` over the control socket, TCP or TLS. Imports almost nothing: `_socket`, and `ssl` for https.

What is not plain, such as a redirect, an IPv6 address in the URL or a token file that others can read, is left to
`maintd.client`, which reports what is wrong.
"""

from __future__ import annotations

import _socket
import os
import stat
from time import monotonic

TYPE_CHECKING = False  # as in `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LARGEST_HEAD = 65_536  # bytes of the status line and the headers
LARGEST = 16_000_000  # bytes of an answer
LARGEST_TOKEN_FILE = 4096  # bytes, as in `maintd.client.tokens`

_PORTS = {"http": 80, "https": 443}
_HOST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-")
_PATH = _HOST | frozenset("/_~")


class Place:
    """Where a daemon answers: at a control socket (scheme `unix`, `path` is its file), or at a URL."""

    __slots__ = ("ca_file", "host", "path", "port", "scheme", "token")

    def __init__(
        self, scheme: str, path: str, host: str = "", port: int = 0, token: str = "", ca_file: str | None = None
    ) -> None:
        self.scheme = scheme
        self.path = path
        self.host = host
        self.port = port
        self.token = token
        self.ca_file = ca_file


def plain_place(url: str, token_file: str | None, ca_file: str | None) -> Place | None:
    """A URL with a token as `cli.connection` finds it in options and environment; None if only that can."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _PORTS:
        return None
    name, slash, path = rest.partition("/")
    host, _, number = name.partition(":")
    port = _PORTS[scheme]
    if ":" in name:
        if not (number.isascii() and number.isdigit() and 0 < int(number) < 65536):
            return None
        port = int(number)
    if not host or not _HOST.issuperset(host) or not _PATH.issuperset(path):
        return None
    token = _token(token_file)
    if token is None:
        return None
    path = (slash + path).rstrip("/").removesuffix("/api/v1")
    return Place(scheme, path, host.lower(), port, token, ca_file or os.environ.get("MAINTD_CA_FILE") or None)


def _token(path: str | None) -> str | None:
    """The token, "" without one; None for a file that cannot be read, has no token, or that others can read."""
    text = os.environ.get("MAINTD_TOKEN", "")
    if path is None and not text:
        path = os.environ.get("MAINTD_TOKEN_FILE") or None
    if path is not None:
        try:
            with open(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read(LARGEST_TOKEN_FILE + 1).decode("latin-1")
        except OSError:
            return None
        if mode & stat.S_IROTH or not text.strip():
            return None
    token = text.strip()
    if len(token) > LARGEST_TOKEN_FILE or not all("!" <= letter <= "~" for letter in token):
        return None
    return None if text and not token else token


def get(place: Place, target: str, timeout: float) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers in lower case and body of the answer, which has to be complete within `timeout` seconds.

    Raises OSError when no server answers in time, ValueError for an answer that is not plain HTTP or is larger than
    LARGEST, and for certificates that cannot be read.
    """
    until = monotonic() + timeout

    def limit(sock: _socket.socket) -> None:
        seconds = until - monotonic()
        if seconds <= 0:
            raise TimeoutError("timed out")
        sock.settimeout(seconds)

    sock = _connected(place, limit)
    try:
        limit(sock)
        sock.sendall(_request(place, target))
        received = bytearray()
        while b"\r\n\r\n" not in received:
            limit(sock)
            part = sock.recv(65_536)
            if not part or len(received) > LARGEST_HEAD:
                raise ValueError("the answer has no end of its headers")
            received += part
        head, _, body = received.partition(b"\r\n\r\n")
        first, *lines = bytes(head).split(b"\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        size = int(headers.get(b"content-length", b""))
        while len(body) < size <= LARGEST:
            limit(sock)
            part = sock.recv(65_536)
            if not part:
                break
            body += part
    finally:
        sock.close()
    words = first.split(b" ")
    if len(body) != size or len(words) < 2 or not words[0].startswith(b"HTTP/1."):
        raise ValueError("the answer is not HTTP, not complete, or too large")
    return int(words[1]), headers, bytes(body)


def _connected(place: Place, limit: Callable[[_socket.socket], None]) -> Any:
    """A socket that is connected to the place."""
    if place.scheme == "unix":
        return _open(_socket.socket, (_socket.AF_UNIX, _socket.SOCK_STREAM), place.path, limit)
    kind: Any = _socket.socket
    context = None
    if place.scheme == "https":
        import socket

        from maintd.tls import verifying_context

        kind = socket.socket
        try:
            context = verifying_context(place.ca_file)
        except OSError as error:
            raise ValueError("the certificates cannot be read") from error
    # As bytes: for text, Python imports its codec of international names.
    found = _socket.getaddrinfo(place.host.encode(), place.port, 0, _socket.SOCK_STREAM)
    for index, (family, type_, protocol, _, address) in enumerate(found, start=1):
        try:
            sock = _open(kind, (family, type_, protocol), address, limit)
            break
        except OSError:
            if index == len(found):
                raise
    if context is None:
        return sock
    try:
        limit(sock)
        return context.wrap_socket(sock, server_hostname=place.host)
    except BaseException:
        sock.close()
        raise


def _open(kind: Any, arguments: tuple[int, ...], address: Any, limit: Callable[[_socket.socket], None]) -> Any:
    sock = kind(*arguments)
    try:
        limit(sock)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _request(place: Place, target: str) -> bytes:
    host, path = "maintd", ""
    if place.scheme != "unix":
        host = place.host if place.port == _PORTS[place.scheme] else f"{place.host}:{place.port}"
        path = place.path
    lines = [f"GET {path}{target} HTTP/1.1", f"Host: {host}", "Accept-Encoding: identity", "Connection: close"]
    if place.token:
        lines.append(f"Authorization: Bearer {place.token}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
