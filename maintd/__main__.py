"""The command `maintd`: runs a plain `maintd status` itself with few imports, everything else with `maintd.cli`.

Status is typed often, and a container's health check runs it every few seconds. It takes hardly longer than starting
Python, because the daemon sends the finished text over its socket. Other cases (a settings file, an unknown option, a
daemon that does not answer) are left to `maintd.cli`.
"""

from __future__ import annotations

import os
import sys

from maintd.cli.control_socket import plain_socket

TIMEOUT = 4.0  # seconds; the container's health check has a timeout of five
LARGEST = 16_000_000  # bytes of an answer


def main() -> int:
    """Run the command in sys.argv; return its exit code."""
    _open_standard_streams()
    plain = _plain_status(sys.argv[1:])
    if plain is not None:
        socket_path, quiet = plain
        try:
            code = _check_health(socket_path) if quiet else _print_status(socket_path)
        except PermissionError:
            code = None  # the full program names the group that may open the socket
        if code is not None:
            return code
    from maintd.cli.main import main as full

    return full()


def _open_standard_streams() -> None:
    """Open the null device for each of the first three descriptors that is closed.

    Else the next file that is opened, such as the store, would get its number, and with it what is printed.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor


def _plain_status(argv: list[str]) -> tuple[str, bool] | None:
    """(socket, quiet) of `maintd [--socket S] [--state-dir D] status [--quiet]`; None for anything else."""
    if os.environ.get("MAINTD_URL"):
        return None
    socket_path: str | None = None
    state_dir: str | None = None
    quiet = False
    words = iter(argv)
    for word in words:
        if word == "--socket":
            socket_path = next(words, "")
        elif word == "--state-dir":
            state_dir = next(words, "")
        elif word == "status":
            break
        else:
            return None
    else:
        return None
    for word in words:
        if word not in ("--quiet", "-q"):
            return None
        quiet = True
    found = plain_socket(socket_path, state_dir)
    return None if found is None else (found, quiet)


def _check_health(socket_path: str) -> int:
    """The exit code of `status --quiet`: 0 the daemon plans and reaches its store, 1 it does not, 6 no answer."""
    answer = _get(socket_path, "/readyz")
    if answer is None:
        return 6
    return 0 if answer[0] == 200 else 1


def _print_status(socket_path: str) -> int | None:
    """Print the daemon's status text; its exit code, or None without a usable answer."""
    terminal = os.isatty(1)
    width = 80
    if os.environ.get("COLUMNS", "").isdigit():
        width = int(os.environ["COLUMNS"]) or width
    elif terminal:
        width = _columns() or width
    colour = int(terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb")
    answer = _get(socket_path, f"/text/status?width={min(max(width, 40), 500)}&colour={colour}")
    if answer is None or answer[0] != 200 or b"x-exit-code" not in answer[1]:
        return None
    code = int(answer[1][b"x-exit-code"])
    text = memoryview(_encoded(answer[2]))
    try:
        while text:
            text = text[os.write(1, text) :]
    except BrokenPipeError:
        return code  # the reader has exited, as in `maintd status | head -1`
    except OSError as error:
        _note(f"cannot write the output: {error.strerror}\n")
        return 1
    return code


def _note(text: str) -> None:
    try:
        os.write(2, text.encode())
    except OSError:
        return


def _encoded(text: bytes) -> bytes:
    """UTF-8 in the terminal's encoding, with `?` for characters that it lacks."""
    encoding = sys.stdout.encoding if sys.stdout is not None else "utf-8"
    return text if encoding.lower() == "utf-8" else text.decode().encode(encoding, "replace")


def _columns() -> int:
    try:
        return os.get_terminal_size(1).columns
    except OSError:
        return 0


def _get(socket_path: str, target: str) -> tuple[int, dict[bytes, bytes], bytes] | None:
    """(status, headers, body) of a GET over the socket; None without a complete answer. Raises PermissionError."""
    import _socket

    try:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            sock.settimeout(TIMEOUT)
            sock.connect(socket_path)
            sock.sendall(f"GET {target} HTTP/1.1\r\nHost: maintd\r\nConnection: close\r\n\r\n".encode())
            received = bytearray()
            while len(received) < LARGEST:
                part = sock.recv(65536)
                if not part:
                    break
                received += part
        finally:
            sock.close()
        head, blank, body = bytes(received).partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        if not blank or int(headers.get(b"content-length", -1)) != len(body):
            return None
        return int(first.split(b" ")[1]), headers, body
    except PermissionError:
        raise
    except (OSError, ValueError, IndexError):
        return None


if __name__ == "__main__":
    sys.exit(main())
