"""The command `maintd`: runs a plain `maintd status` itself with few imports, everything else with `maintd.cli`.

Status is typed often, and a container's health check runs it every few seconds. It takes hardly longer than starting
Python, because the daemon sends the finished text, over its socket or to a URL. Other cases (a settings file, an
unknown option, a daemon that does not answer) are left to `maintd.cli`.
"""

from __future__ import annotations

import os
import sys

from maintd.cli.control_socket import plain_socket
from maintd.cli.plain_http import Place, get, plain_place

TIMEOUT = 4.0  # seconds; the container's health check has a timeout of five

_OPTIONS = ("--socket", "--state-dir", "--url", "--token-file", "--ca-file")


def main() -> int:
    """Run the command in sys.argv; return its exit code."""
    _open_standard_streams()
    plain = _plain_status(sys.argv[1:])
    if plain is not None:
        place, quiet = plain
        code = _check_health(place) if quiet else _print_status(place)
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


def _plain_status(argv: list[str]) -> tuple[Place, bool] | None:
    """(place, quiet) of `maintd [OPTIONS] status [--quiet]` with options of _OPTIONS; None for anything else."""
    given: dict[str, str] = {}
    quiet = False
    words = iter(argv)
    for word in words:
        if word == "status":
            break
        name, equals, value = word.partition("=")
        if name not in _OPTIONS:
            return None
        given[name] = value if equals else next(words, "")
    else:
        return None
    for word in words:
        if word not in ("--quiet", "-q"):
            return None
        quiet = True
    place = _place(given)
    return None if place is None else (place, quiet)


def _place(given: dict[str, str]) -> Place | None:
    """Where these options and the environment say that the daemon answers; None if only the full program knows."""
    local = "--socket" in given or "--state-dir" in given
    remote = [given.get(name) for name in ("--url", "--token-file", "--ca-file")]
    if local or not (remote[0] or os.environ.get("MAINTD_URL")):
        path = None if any(remote) else plain_socket(given.get("--socket"), given.get("--state-dir"))
        return None if path is None else Place("unix", path)
    if "_MAINTD_COMPLETE" in os.environ or "" in remote:
        return None
    return plain_place(remote[0] or os.environ["MAINTD_URL"], remote[1], remote[2])


def _check_health(place: Place) -> int | None:
    """The exit code of `status --quiet`: 0 the daemon plans and reaches its store, 1 it does not, 6 no answer.

    None if the full program has to report what is wrong: the socket may not be opened, a token is refused.
    """
    try:
        status, headers, body = get(place, "/readyz", TIMEOUT)
    except PermissionError:
        return None  # the full program names the group that may open the socket
    except OSError:
        return 6
    except ValueError:
        return None
    if b"maintd-api" not in headers or status not in (200, 503) or body.startswith(b'{"error"'):
        return None
    return 0 if status == 200 else 1


def _print_status(place: Place) -> int | None:
    """Print the daemon's status text; its exit code, or None without a usable answer."""
    terminal = os.isatty(1)
    width = 80
    if os.environ.get("COLUMNS", "").isdigit():
        width = int(os.environ["COLUMNS"]) or width
    elif terminal:
        width = _columns() or width
    colour = int(terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb")
    try:
        status, headers, body = get(place, f"/text/status?width={min(max(width, 40), 500)}&colour={colour}", TIMEOUT)
    except (OSError, ValueError):
        return None
    if status != 200 or b"maintd-api" not in headers or not headers.get(b"x-exit-code", b"").isdigit():
        return None
    code = int(headers[b"x-exit-code"])
    text = memoryview(_encoded(body))
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


if __name__ == "__main__":
    sys.exit(main())
