"""What every command is handed: settings, whom to ask, how to print."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from maintd.cli.control_socket import plain_socket
from maintd.errors import DaemonUnavailableError, MaintdError

if TYPE_CHECKING:
    from maintd.cli.client import Answerer, Daemon
    from maintd.config.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


class App:
    """One call of the command line. Nothing is read before a command asks for it."""

    def __init__(self, flags: dict[str, Any], stack: ExitStack) -> None:
        self.flags = flags
        self.daemon_answers = True
        self._stack = stack
        self._beside: Answerer | None = None

    @cached_property
    def settings(self) -> Settings:
        """The settings in force. Raises SettingsError."""
        from maintd.config.sources import load_settings

        return load_settings(self.flags)

    @cached_property
    def daemon(self) -> Daemon:
        """The daemon, whether it answers or not. Found without the settings where it can be: they take most of the
        time of a command that only asks."""
        from maintd.cli.client import Daemon

        plain = None
        if "config" not in self.flags:
            plain = plain_socket(self.flags.get("socket"), self.flags.get("state_dir"))
        return Daemon(self.settings.socket_path if plain is None else Path(plain))

    def read(self, path: str, **query: Any) -> Any:
        """What the daemon says, or the store when no daemon answers; then standard error says so, once."""
        if self._beside is None:
            try:
                return self.daemon.get(path, **query)
            except DaemonUnavailableError as error:
                self._beside = self._read_beside(error)
        return self._beside.get(path, **query)

    def _read_beside(self, unavailable: DaemonUnavailableError) -> Answerer:
        from maintd.cli.client import without_daemon

        self.daemon_answers = False
        settings = self.settings
        try:
            answerer = self._stack.enter_context(without_daemon(settings))
        except MaintdError as error:
            raise DaemonUnavailableError(
                f"{unavailable.message}, and nothing can be read without it: {error.message}",
                error.hint or unavailable.hint,
            ) from error
        self.note(f"{unavailable.message} ({unavailable.hint})\nread from the store:")
        return answerer

    @property
    def width(self) -> int:
        """Columns of the terminal; 80 elsewhere."""
        terminal = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
        return min(max(shutil.get_terminal_size((80, 24)).columns, 40), 500) if terminal else 80

    @property
    def colour(self) -> bool:
        """Only on a terminal that wants it."""
        return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    @property
    def style(self) -> dict[str, Any]:
        """Width and colour, as the presenting functions take them."""
        return {"width": self.width, "colour": self.colour}

    @staticmethod
    def now() -> datetime:
        """This machine's time: what "ago" is told by."""
        return datetime.now(UTC)

    @staticmethod
    def out(text: str) -> None:
        """Print a text as it is."""
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()

    @staticmethod
    def out_json(value: Any) -> None:
        """Print the one object of a command with `--json`."""
        indent = 2 if sys.stdout.isatty() else None
        sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=indent) + "\n")
        sys.stdout.flush()

    @staticmethod
    def note(text: str) -> None:
        """Say something beside the answer."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def json_option(function: F) -> F:
    """`--json`, as every command has it."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")(function)


def whoami() -> str:
    """Who types: the person behind sudo, else this user."""
    name = os.environ.get("SUDO_USER")
    if name:
        return name
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a user that the container's passwd does not know
        return f"uid {os.getuid()}"
