"""The listening sockets: the Unix control socket, protected by its file mode, and the TCP port of the web page."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maintd.errors import RefusedError, SettingsError

MAX_PATH_BYTES = 107
"""The longest path of a Unix socket; unix(7)."""

BACKLOG = 64
"""Connections that wait to be accepted. All of them may be accepted at once, before any is closed as one too many."""


@contextmanager
def control_socket(path: Path) -> Iterator[socket.socket]:
    """Yield a listening Unix socket with mode 0660; remove its file at the end.

    The file of a killed daemon is replaced. Raises RefusedError when another process listens on it, SettingsError
    when it cannot be created.
    """
    if len(str(path).encode()) > MAX_PATH_BYTES:
        raise SettingsError(
            f"the path of the control socket is longer than {MAX_PATH_BYTES} bytes: {path}",
            "set MAINTD_SOCKET to a shorter path, for example /run/maintd.sock",
        )
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.bind(str(path))
            # Clients cannot connect before listen(), so the wider mode of bind() is never usable.
            path.chmod(0o660)
            sock.listen(BACKLOG)
        except OSError as error:
            raise SettingsError(
                f"cannot create the control socket {path}: {error.strerror}", "set MAINTD_SOCKET to a writable path"
            ) from error
        inode = path.stat().st_ino
        try:
            yield sock
        finally:
            with contextlib.suppress(OSError):
                if path.stat().st_ino == inode:
                    path.unlink()
    finally:
        sock.close()


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise SettingsError(
            f"cannot access the control socket {path}: {error.strerror}", "set MAINTD_SOCKET to another path"
        ) from error
    if not stat.S_ISSOCK(mode):
        raise SettingsError(
            f"{path} exists and is not a socket", "move the file away, or set MAINTD_SOCKET to another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise RefusedError(
                f"cannot connect to the existing control socket {path}: {error}",
                "stop the process that uses it, or set MAINTD_SOCKET to another path",
            ) from error
    raise RefusedError(
        f"another process listens on the control socket {path}",
        "stop that maintd first, or set MAINTD_SOCKET to another path",
    )


@contextmanager
def tcp_socket(listen: str) -> Iterator[socket.socket]:
    """Yield a TCP socket that listens on `host:port`. Raises SettingsError with the setting and the cause."""
    host, port = parse_listen(listen)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise SettingsError(f'MAINTD_LISTEN "{listen}": cannot resolve host "{host}": {error.strerror}') from error
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit it (tcp(7)). Without it the body of a response waits for the client's delayed
        # acknowledgement of its head, 40 ms: asyncio sets it only on sockets whose protocol is given by number.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise SettingsError(
                    f"port {port} of MAINTD_LISTEN {listen} is already in use",
                    "set MAINTD_LISTEN to another port, or leave it empty to disable the page",
                ) from error
            raise SettingsError(
                f"cannot listen on MAINTD_LISTEN {listen}: {error.strerror}",
                "use an address of this machine and a port above 1023",
            ) from error
        yield sock


def parse_listen(listen: str) -> tuple[str, int]:
    """Split `127.0.0.1:8420` or `[::1]:8420` into host and port. Raises SettingsError."""
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise SettingsError(f'MAINTD_LISTEN "{listen}" is not host:port', "write for example 127.0.0.1:8420")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host: localhost or an address of the loopback network."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
