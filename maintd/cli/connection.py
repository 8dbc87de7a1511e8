"""Which daemon a command connects to: that of this machine over its control socket, or one at a URL with a token."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from maintd.client import Client, read_token_file
from maintd.client.client import TIMEOUT
from maintd.client.tokens import check_token
from maintd.errors import UsageError

_LOCAL_FLAGS = ("socket", "state_dir", "store_url")

LOCAL_COMMANDS = {
    "serve": "runs a daemon on this machine",
    "run": "runs jobs on this machine; to run one there: maintd trigger NAME",
    "doctor": "examines what jobs need on this machine; to examine it there: maintd trigger doctor",
    "validate": "reads a calendar on this machine",
    "settings": "lists the settings on this machine",
    "db": "works on the store that the settings of this machine name",
}
"""Commands that connect to no daemon, and what they do."""


class Remote(NamedTuple):
    """A daemon at a URL, from options and environment."""

    url: str
    token: str | None
    ca_file: str | None
    insecure: bool

    def client(self, timeout: float = TIMEOUT) -> Client:
        """A client that sends each request once: a person sees what happened, and can repeat it."""
        return Client(
            self.url,
            token=self.token,
            ca_file=self.ca_file,
            verify=not self.insecure,
            timeout=timeout,
            retries=0,
        )


def local_client(path: Path, timeout: float = TIMEOUT) -> Client:
    """A client of the daemon behind a control socket."""
    return Client(path, timeout=timeout, retries=0)


def find_remote(flags: Mapping[str, object], note: Callable[[str], None]) -> Remote | None:
    """The daemon that `--url` or MAINTD_URL names; None for that of this machine. Raises UsageError.

    The token is in --token-file, MAINTD_TOKEN_FILE or MAINTD_TOKEN: not among the arguments, which `ps` shows.
    """
    url = flags.get("url") or os.environ.get("MAINTD_URL")
    given = [name for name in ("token_file", "ca_file", "insecure") if flags.get(name)]
    if not url:
        if given:
            raise UsageError(f"{_option(given[0])} needs a daemon at a URL", "add --url https://HOST:PORT")
        return None
    if flags.get("url"):
        both = [name for name in _LOCAL_FLAGS if name in flags]
        if both:
            raise UsageError(f"--url and {_option(both[0])} exclude each other", "give one of them")
    elif any(name in flags for name in ("socket", "state_dir")):
        return None  # the command line names the daemon of this machine
    remote = Remote(str(url), _token(flags, note), _ca_file(flags), bool(flags.get("insecure")))
    if remote.insecure:
        note("warning: --insecure: the server's certificate is not verified; others on the network can read the token")
    return remote


def _token(flags: Mapping[str, object], note: Callable[[str], None]) -> str | None:
    path = flags.get("token_file") or (None if os.environ.get("MAINTD_TOKEN") else os.environ.get("MAINTD_TOKEN_FILE"))
    if path:
        token, warning = read_token_file(str(path))
        if warning is not None:
            note(f"warning: {warning}")
        return token
    text = os.environ.get("MAINTD_TOKEN")
    return check_token(text, "MAINTD_TOKEN") if text else None


def _ca_file(flags: Mapping[str, object]) -> str | None:
    found = flags.get("ca_file") or os.environ.get("MAINTD_CA_FILE")
    return str(found) if found else None


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
