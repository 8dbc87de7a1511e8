"""What every command gets: the settings, clients of the daemon and the store, and functions for output."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from maintd.cli.control_socket import plain_socket
from maintd.errors import DaemonUnavailableError, MaintdError, OutputError
from maintd.terminal import clip_lines, for_terminal

if TYPE_CHECKING:
    from maintd.cli.connection import Remote
    from maintd.client import Client
    from maintd.config.settings import Settings
    from maintd.job.registry import JobRegistry

CONNECTION_FLAGS = frozenset({"url", "token_file", "ca_file", "insecure"})
"""Options of `maintd` that say which daemon to use, and are not settings."""

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class App:
    """One invocation of the command line. Settings and clients are loaded when a command first uses them."""

    def __init__(self, flags: dict[str, Any], stack: ExitStack) -> None:
        self.options = flags
        self.flags = {name: value for name, value in flags.items() if name not in CONNECTION_FLAGS}
        self.daemon_answers = True
        self._stack = stack
        self._store_client: Client | None = None

    @cached_property
    def settings(self) -> Settings:
        """The effective settings. Raises SettingsError."""
        from maintd.config.sources import load_settings

        return load_settings(self.flags)

    @cached_property
    def remote(self) -> Remote | None:
        """The daemon at a URL that the command connects to; None for that of this machine. Raises UsageError."""
        from maintd.cli.connection import find_remote

        return find_remote(self.options, self.note)

    @cached_property
    def daemon(self) -> Client:
        """A client of the daemon, whether it answers or not. Raises UsageError."""
        return self.client()

    def client(self, timeout: float | None = None) -> Client:
        """A client with another time for a request, in seconds."""
        from maintd.cli.connection import local_client
        from maintd.client.client import TIMEOUT

        seconds = TIMEOUT if timeout is None else timeout
        return local_client(self._socket, seconds) if self.remote is None else self.remote.client(seconds)

    @property
    def _socket(self) -> Path:
        """The control socket.

        It is found without loading the settings where possible: loading them would dominate the duration of a command
        that only reads.
        """
        plain = None
        if "config" not in self.flags:
            plain = plain_socket(self.flags.get("socket"), self.flags.get("state_dir"))
        return self.settings.socket_path if plain is None else Path(plain)

    def registry(self) -> JobRegistry:
        """The jobs as this process finds them."""
        from maintd.job.registry import JobRegistry

        return JobRegistry(self.settings.job_dirs, self.settings.job_cache_file)

    def read(self, call: Callable[[Client], T]) -> T:
        """What `call` reads from the daemon; from the store if no daemon answers, with one note on standard error.

        A daemon at a URL has a store of its own: when it does not answer, that is the error.
        """
        if self._store_client is None:
            try:
                return call(self.daemon)
            except DaemonUnavailableError as error:
                if self.remote is not None:
                    raise
                self._store_client = self._open_store_client(error)
        return call(self._store_client)

    def read_json(self, call: Callable[[Client], object]) -> Any:
        """As `read`: the JSON that the method received, for `--json`, which then needs no types."""
        return self.read(lambda client: client.json_of(call))

    def _open_store_client(self, unavailable: DaemonUnavailableError) -> Client:
        from maintd.cli.client import store_client

        self.daemon_answers = False
        settings = self.settings
        try:
            client = self._stack.enter_context(store_client(settings))
        except MaintdError as error:
            raise DaemonUnavailableError(
                f"{unavailable.message}, and the store cannot be read: {error.message}",
                error.hint or unavailable.hint,
            ) from error
        self.note(f"{unavailable.message} ({unavailable.hint})\nshowing what the store has recorded:")
        return client

    @property
    def width(self) -> int:
        """Columns of the terminal; 80 if standard output is not a terminal."""
        terminal = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
        return min(max(shutil.get_terminal_size((80, 24)).columns, 40), 500) if terminal else 80

    @property
    def colour(self) -> bool:
        """Whether to use colour: on a terminal, unless NO_COLOR is set."""
        return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    @property
    def terminal(self) -> dict[str, Any]:
        """Width and colour, as keyword arguments of the functions of `maintd.present`."""
        return {"width": self.width, "colour": self.colour}

    @staticmethod
    def now() -> datetime:
        """This machine's time, which "3h ago" is relative to."""
        return datetime.now(UTC)

    def out(self, text: str) -> None:
        """Print a text on standard output. Raises OutputError."""
        write_output(for_terminal(text if text.endswith("\n") else f"{text}\n", colour=self.colour))

    def report(self, text: str) -> None:
        """As `out`; output that cannot be written is noted once, and the command goes on, for it follows a run."""
        try:
            self.out(text)
        except OutputError as error:
            if not error.reader_exited:
                self.note(str(error))

    def report_json(self, value: Any) -> None:
        """As `report`, with the one object of a command with `--json`."""
        try:
            self.out_json(value)
        except OutputError as error:
            if not error.reader_exited:
                self.note(str(error))

    @staticmethod
    def out_json(value: Any) -> None:
        """Print the one object of a command with `--json`; indented on a terminal."""
        terminal = sys.stdout.isatty()  # which C1 control characters would control; JSON escapes only those of ASCII
        text = json.dumps(value, ensure_ascii=terminal or not _is_unicode(sys.stdout), indent=2 if terminal else None)
        write_output(text + "\n")

    @staticmethod
    def note(text: str) -> None:
        """Print a message on standard error, if that can be written."""
        try:
            sys.stderr.write(f"{clip_lines(for_terminal(text))}\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            discard(sys.stderr)


def json_option(function: F) -> F:
    """`--json`, as every command has it."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")(function)


def write_output(text: str) -> None:
    """Write to standard output; after OutputError was raised once, what follows is discarded."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        discard(sys.stdout)
        raise OutputError(error) from error


def discard(stream: Any) -> None:
    """Let the rest of a stream vanish: Python flushes it at exit, and would fail again."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def current_user() -> str:
    """The name of the user behind sudo, else of this user, else `uid N`."""
    name = os.environ.get("SUDO_USER")
    if name:
        return name
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a uid that the container's passwd does not list
        return f"uid {os.getuid()}"


def prepare_streams() -> None:
    """Print `?` for characters that the terminal's encoding lacks, instead of raising UnicodeEncodeError.

    A stream that was closed when the process started is None in Python; what is printed to it is discarded.
    """
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - it stays open until the end
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _is_unicode(stream: Any) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"
