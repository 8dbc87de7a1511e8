"""The two doors: the control socket, for whoever its file mode lets in, and a TCP port that can only be read from."""

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

LONGEST_PATH = 107
"""Bytes that the kernel has for a socket's path; unix(7)."""

BACKLOG = 128


@contextmanager
def control_socket(path: Path) -> Iterator[socket.socket]:
    """A listening Unix socket of mode 0660, removed at the end.

    One that a killed daemon left is replaced. Raises RefusedError when somebody listens on it, SettingsError when it
    cannot be made.
    """
    if len(str(path).encode()) > LONGEST_PATH:
        raise SettingsError(
            f"the path of the control socket is longer than {LONGEST_PATH} bytes: {path}",
            "set MAINTD_SOCKET to a shorter one, for example /run/maintd.sock",
        )
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.bind(str(path))
            # Nobody can connect before listen(), so there is no moment at which the mode is wider than it should be.
            path.chmod(0o660)
            sock.listen(BACKLOG)
        except OSError as error:
            raise SettingsError(
                f"cannot make the control socket {path}: {error.strerror}", "set MAINTD_SOCKET to a writable place"
            ) from error
        made = path.stat().st_ino
        try:
            yield sock
        finally:
            with contextlib.suppress(OSError):
                if path.stat().st_ino == made:
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
            f"cannot look at the control socket {path}: {error.strerror}", "set MAINTD_SOCKET to another place"
        ) from error
    if not stat.S_ISSOCK(mode):
        raise SettingsError(f"{path} is there and is no socket", "move it away, or set MAINTD_SOCKET to another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise RefusedError(
                f"the control socket {path} is in use or cannot be tried: {error}", "stop whoever has it"
            ) from error
    raise RefusedError(
        f"somebody listens on the control socket {path} already",
        "stop that maintd first, or set MAINTD_SOCKET to another path",
    )


@contextmanager
def tcp_socket(listen: str) -> Iterator[socket.socket]:
    """A listening TCP socket on `host:port`. Raises SettingsError naming the setting and what is wrong with it."""
    host, port = parse_listen(listen)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise SettingsError(f'MAINTD_LISTEN "{listen}": host "{host}" is not known: {error.strerror}') from error
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise SettingsError(
                    f"port {port} of MAINTD_LISTEN {listen} is taken by another program",
                    "set MAINTD_LISTEN to another port, or to nothing for no page",
                ) from error
            raise SettingsError(
                f"cannot listen on MAINTD_LISTEN {listen}: {error.strerror}",
                "give an address of this machine and a port above 1023",
            ) from error
        yield sock


def parse_listen(listen: str) -> tuple[str, int]:
    """`127.0.0.1:8420`, `[::1]:8420` → host and port. Raises SettingsError."""
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise SettingsError(f'MAINTD_LISTEN "{listen}" is not host:port', "write for example 127.0.0.1:8420")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host: an address of the loopback network, or localhost."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
