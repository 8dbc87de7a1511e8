"""Where the control socket is, found without loading the settings; imports next to nothing."""

from __future__ import annotations

import os

LARGEST = 16_000_000  # bytes of a .env file that are searched

# What a shortcut would have to read files for, or does not understand.
_SLOW = ("MAINTD_CONFIG", "MAINTD_STATE_DIR_FILE", "MAINTD_SOCKET_FILE", "_MAINTD_COMPLETE")


def plain_socket(socket_path: str | None, state_dir: str | None) -> str | None:
    """The control socket as the settings compute it, given two flags; None when only the settings themselves can."""
    environ = os.environ
    for name in environ:
        upper = name.upper()
        if upper in _SLOW or (upper in ("MAINTD_SOCKET", "MAINTD_STATE_DIR") and name != upper):
            return None
    if os.path.exists(".env") and _mentions_us(".env"):  # noqa: PTH110 - pathlib is most of the time that this saves
        return None
    socket_path = environ.get("MAINTD_SOCKET") if socket_path is None else socket_path
    if socket_path is None:
        state_dir = environ.get("MAINTD_STATE_DIR") if state_dir is None else state_dir
        if state_dir is None:
            state_dir = default_state_dir_text()
        socket_path = state_dir and state_dir + "/maintd.sock"
    return socket_path or None


def default_state_dir_text() -> str:
    """As settings.default_state_dir; a test holds them together."""
    if os.geteuid() == 0:
        return "/var/lib/maintd"
    return (os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")) + "/maintd"  # noqa: PTH111


def _mentions_us(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return b"MAINTD_" in file.read(LARGEST).upper()
    except OSError:
        return True  # the rest says what is wrong with it
