"""The path of the control socket, found without loading the settings. Imports almost nothing."""

from __future__ import annotations

import os

LARGEST = 16_000_000  # bytes of a .env file that are searched

# With one of these set, only the settings themselves know the path.
_NEED_SETTINGS = ("MAINTD_CONFIG", "MAINTD_STATE_DIR_FILE", "MAINTD_SOCKET_FILE", "_MAINTD_COMPLETE")


def plain_socket(socket_path: str | None, state_dir: str | None) -> str | None:
    """The control socket as the settings would compute it from two flags; None if only the settings can."""
    environ = os.environ
    for name in environ:
        upper = name.upper()
        if upper in _NEED_SETTINGS or (upper in ("MAINTD_SOCKET", "MAINTD_STATE_DIR") and name != upper):
            return None
    state_dir = environ.get("MAINTD_STATE_DIR") if state_dir is None else state_dir
    if state_dir is None:
        state_dir = default_state_dir_text()
    dotenv = state_dir + "/.env"
    if os.path.exists(dotenv) and _mentions_maintd(dotenv):  # noqa: PTH110 - importing pathlib takes most of the time
        return None
    socket_path = environ.get("MAINTD_SOCKET") if socket_path is None else socket_path
    if socket_path is None:
        socket_path = state_dir and state_dir + "/maintd.sock"
    return socket_path or None


def default_state_dir_text() -> str:
    """The same as `settings.default_state_dir`; a test compares them."""
    if os.geteuid() == 0:
        return "/var/lib/maintd"
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111
    return "/var/lib/maintd" if state.startswith("~") else state + "/maintd"  # "~" stays where there is no home


def _mentions_maintd(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return b"MAINTD_" in file.read(LARGEST).upper()
    except OSError:
        return True  # loading the settings reports the error
