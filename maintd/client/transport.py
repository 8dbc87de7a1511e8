"""HTTP requests to one daemon, over TCP, TLS or its control socket: each with a deadline and a bounded answer.

Redirects are not followed, and proxies of the environment are not used: a token goes to the given address only.
"""

from __future__ import annotations

import errno
import http.client
import io
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from maintd.client.address import Address
from maintd.config.state_directory import stopping_pid
from maintd.errors import DAEMON_LOG, DaemonUnavailableError, MaintdError, RefusedError

if TYPE_CHECKING:
    import ssl

LARGEST = 64_000_000  # bytes of an answer; the status of 10,000 entries has a tenth of that
LONGEST_LINE = 4_000_000  # bytes of a line of a stream; a log line has at most some KiB

API_HEADER = "Maintd-Api"
"""The header that an answer of maintd has, and one of another server or of a proxy has not."""


class Answer(NamedTuple):
    """An HTTP response: status code, headers in lower case, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Sends requests to one address. Each has a connection of its own, so threads may share a transport.

    Raises DaemonUnavailableError if nothing usable answers, RefusedError if this user may not open the socket.
    """

    def __init__(
        self, address: Address, *, timeout: float, token: str | None, ca_file: str | None, verify: bool
    ) -> None:
        self.address = address
        self.timeout = timeout
        self._token = token
        self._tls = _tls_context(ca_file, verify) if address.scheme == "https" else None

    def send(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str], timeout: float) -> Answer:
        """One request and its whole answer, within `timeout` seconds."""
        with (
            self._reported(timeout),
            closing(self._connection(timeout, time.monotonic() + timeout)) as connection,
            closing(self._request(connection, method, target, body, headers)) as response,
        ):
            return Answer(response.status, _headers_of(response), self._content(response, target))

    @contextmanager
    def stream(self, target: str, headers: Mapping[str, str]) -> Iterator[tuple[Answer, Iterator[bytes]]]:
        """A GET whose answer ends when the server ends it: the answer, and its lines as they come.

        The answer has a body only if its status is not 200. The timeout is that of one wait for data.
        """
        with self._reported(self.timeout):
            connection = self._connection(self.timeout, None)
        with closing(connection):
            with self._reported(self.timeout):
                response = self._request(connection, "GET", target, None, headers)
            with closing(response):
                with self._reported(self.timeout):
                    body = b"" if response.status == 200 else response.read(1_000_000)
                yield Answer(response.status, _headers_of(response), body), self._lines(response)

    def _content(self, response: http.client.HTTPResponse, target: str) -> bytes:
        content = bytearray()
        while part := response.read(262_144):
            content += part
            if len(content) > LARGEST:
                raise MaintdError(
                    f"the answer of {self.address} to {target[:200]} is larger than {LARGEST // 1_000_000} MB",
                    "ask for less: a smaller limit, or one entry",
                )
        if response.length:  # http.client raises only when it reads all at once
            raise http.client.IncompleteRead(b"", response.length)
        return bytes(content)

    def _lines(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        while True:
            with self._reported(self.timeout):
                line = response.readline(LONGEST_LINE)
            if not line:
                return
            if len(line) == LONGEST_LINE:
                raise MaintdError(f"a line of the stream of {self.address} is longer than {LONGEST_LINE} bytes")
            yield line

    def _request(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> http.client.HTTPResponse:
        sent = {"Accept": "application/json", "Connection": "close", **headers}
        if self._token is not None:
            sent["Authorization"] = f"Bearer {self._token}"
        if body is not None:
            sent["Content-Type"] = "application/json"
        path = "" if self.address.scheme == "unix" else self.address.path
        connection.request(method, path + target, body, sent)
        return connection.getresponse()  # its caller closes it: what was read in part keeps the connection open

    @contextmanager
    def _reported(self, timeout: float) -> Iterator[None]:
        """Errors of the connection as errors of maintd."""
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._unavailable(error, timeout) from error

    def _connection(self, timeout: float, deadline: float | None) -> http.client.HTTPConnection:
        address = self.address
        connection: http.client.HTTPConnection
        if address.scheme == "unix":
            connection = http.client.HTTPConnection("maintd", timeout=timeout)
            raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                raw.settimeout(timeout)
                raw.connect(address.path)
            except BaseException:
                raw.close()
                raise
            connection.sock = raw
        elif self._tls is not None:
            connection = http.client.HTTPSConnection(address.host, address.port, timeout=timeout, context=self._tls)
            connection.connect()
        else:
            connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout)
            connection.connect()
        # A time-out of each read does not end an answer that is sent one byte at a time.
        connection.sock = cast(socket.socket, _BoundedSocket(connection.sock, timeout, deadline))
        return connection

    def _unavailable(self, error: Exception, timeout: float) -> MaintdError:
        from maintd.units import seconds_text  # imports pydantic

        number = getattr(error, "errno", None)
        address = self.address
        if address.scheme == "unix":
            if number in (errno.EACCES, errno.EPERM):
                return _denied(address.path)
            pid = stopping_pid(Path(address.path).parent)
            if pid is not None:
                text = f"the daemon (pid {pid}) on {address} is stopping: it waits for what is running"
                return DaemonUnavailableError(text, "start it again when it has ended: maintd serve")
            hint = "start it with: maintd serve"
            known = number in (errno.ENOENT, errno.ECONNREFUSED)
        else:
            hint = "check the URL, and that the daemon listens there: its setting MAINTD_LISTEN"
            known = False
        if isinstance(error, TimeoutError):
            return DaemonUnavailableError(
                f"the daemon on {address} did not answer within {seconds_text(timeout)}", DAEMON_LOG
            )
        if known:
            return DaemonUnavailableError(f"no daemon answers on {address}", hint)
        reason, own_hint = _reason(error, address)
        return DaemonUnavailableError(f"no daemon answers on {address}: {reason}", own_hint or hint)


class _BoundedSocket:
    """What http.client uses of a socket; no operation continues after the deadline."""

    def __init__(self, sock: socket.socket, timeout: float, deadline: float | None) -> None:
        self._sock = sock
        self._timeout = timeout
        self._deadline = deadline

    def limit(self) -> None:
        """Set the time that the next operation has. Raises TimeoutError after the deadline."""
        left = self._timeout if self._deadline is None else self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(min(left, self._timeout))

    def sendall(self, data: Any) -> None:
        self.limit()
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(_BoundedReader(self, self._sock.makefile("rb", buffering=0)))

    def close(self) -> None:
        self._sock.close()


class _BoundedReader(io.RawIOBase):
    def __init__(self, sock: _BoundedSocket, raw: Any) -> None:
        self._sock = sock
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.limit()
        read: int | None = self._raw.readinto(buffer)
        return read

    def close(self) -> None:
        self._raw.close()
        super().close()


def _headers_of(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


def _tls_context(ca_file: str | None, verify: bool) -> ssl.SSLContext:
    """TLS with the system's certificate authorities, or only those of a file. Raises UsageError."""
    import ssl

    from maintd.errors import UsageError
    from maintd.tls import verifying_context

    try:
        context = verifying_context(ca_file)
    except OSError as error:  # ssl.SSLError too: the file has no certificate
        raise UsageError(
            f'cannot read certificates from "{ca_file}": {error.strerror or error}', "correct --ca-file"
        ) from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _reason(error: Exception, address: Address) -> tuple[str, str | None]:
    """Why a server cannot be used, in words, and a hint if there is a particular one."""
    if isinstance(error, socket.gaierror):
        return f'the name "{address.host}" is not found', None
    if address.scheme == "https":
        import ssl

        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted: {error.verify_message}",
                "name the file of its certificate authority: --ca-file FILE",
            )
        if isinstance(error, ssl.SSLError):
            return f"no TLS connection: {(error.reason or str(error)).replace('_', ' ').lower()}", (
                "use http:// if the server has no TLS"
            )
    if isinstance(error, http.client.HTTPException):
        return f"the answer is not HTTP, or is not complete ({type(error).__name__})", None
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower(), None
    return str(error) or type(error).__name__, None


def _denied(path: str) -> RefusedError:
    """The error for a socket that this user may not open: which file or folder denies it, and whose group may."""
    import grp
    import pwd
    from pathlib import Path

    def name_of(find: Callable[[int], Any], number: int) -> str:
        try:
            return str(find(number)[0])
        except KeyError:
            return str(number)

    user = name_of(pwd.getpwuid, os.geteuid())
    denied = Path(path)
    for folder in reversed(denied.absolute().parents):  # from the root down: the first that may not be entered
        if not os.access(folder, os.X_OK, effective_ids=True):
            denied = folder
            break
    message = f"{user} may not open the control socket {path}"
    try:
        status = denied.stat()
    except OSError:
        return RefusedError(message, "run this as the daemon's user, or as root")
    group, owner = name_of(grp.getgrgid, status.st_gid), name_of(pwd.getpwuid, status.st_uid)
    is_socket = denied == Path(path)
    what = "" if is_socket else f": no permission to enter the folder {denied}"
    needed = stat.S_IXGRP if stat.S_ISDIR(status.st_mode) else stat.S_IWGRP
    if status.st_mode & needed:
        hint = f"join the group {group} (usermod -aG {group} {user}) and log in again, or run this as {owner}"
    else:
        hint = f"run this as {owner}, or let the group {group} use it: chmod g+{'rw' if is_socket else 'x'} {denied}"
    return RefusedError(f"{message}{what}", hint)
