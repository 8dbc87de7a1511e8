"""The command `maintd`. Plain `maintd status` is answered here with next to nothing imported; all else by `maintd.cli`.

A person types status dozens of times a day and a container's health check does so every few seconds, so it costs
hardly more than starting Python: the daemon sends ready-made text over its socket. What this file cannot do with
certainty (a file of settings, an option that it does not know, a daemon that does not answer) it leaves to the rest.
"""

from __future__ import annotations

import os
import sys

from maintd.cli.control_socket import plain_socket

PATIENCE = 4.0  # seconds; the container's health check gives up after five
LARGEST = 16_000_000


def main() -> int:
    """The exit code of the command in sys.argv."""
    wanted = _plain_status(sys.argv[1:])
    if wanted is not None:
        socket_path, quiet = wanted
        code = _quiet(socket_path) if quiet else _status(socket_path)
        if code is not None:
            return code
    from maintd.cli.main import main as full

    return full()


def _plain_status(argv: list[str]) -> tuple[str, bool] | None:
    """(socket, quiet) of `maintd [--socket S] [--state-dir D] status [--quiet]`; None for anything else."""
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


def _quiet(socket_path: str) -> int:
    """The daemon's own health: 0 it plans and reaches its store, 1 it does not, 6 it does not answer."""
    answer = _get(socket_path, "/readyz")
    if answer is None:
        return 6
    return 0 if answer[0] == 200 else 1


def _status(socket_path: str) -> int | None:
    """Print what the daemon says; the exit code that it names, None when it does not answer as it should."""
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
    text = memoryview(answer[2])
    try:
        while text:
            text = text[os.write(1, text) :]
    except BrokenPipeError:
        return code  # `maintd status | head -1` has seen enough
    return code


def _columns() -> int:
    try:
        return os.get_terminal_size(1).columns
    except OSError:
        return 0


def _get(socket_path: str, target: str) -> tuple[int, dict[bytes, bytes], bytes] | None:
    """(status, headers, body) of a GET over the socket; None for whatever is not a whole answer."""
    import _socket

    try:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            sock.settimeout(PATIENCE)
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
    except (OSError, ValueError, IndexError):
        return None


if __name__ == "__main__":
    sys.exit(main())
