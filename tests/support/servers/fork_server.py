"""Start commands of maintd by a fork of a process that has imported its modules, which takes a tenth of the CPU time.

Most of what a short command costs is the start of Python with these modules. What is forked has an id, an environment,
a folder, streams and an exit code of its own, as a started program has, and it ends in the same way; only its command
line in /proc is that of the server. Tests about the start itself, or that measure a process, start the program.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

STARTED = "MAINTD_TESTS_EXEC"
"""A variable: if it is set, nothing is forked, and each command starts a Python of its own."""

PROGRAM = Path(__file__).parent / "fork_server_program.py"

AT_START = ("PYTHON", "LC_", "LANG", "TZ", "LD_", "MALLOC_", "OPENSSL_", "SSL_")
"""Beginnings of the names of variables that are read when Python or a library starts."""


class ServerEndedError(Exception):
    """The server ended: the exit code of the command is unknown."""


class ForkedProcess:
    """A command that runs. Has what tests use of `subprocess.Popen`."""

    def __init__(self, conn: socket.socket) -> None:
        self._descriptor = conn.detach()
        weakref.finalize(self, os.close, self._descriptor)
        self._received = b""
        self._lock = threading.Lock()
        self.pid = self._answer()
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, for as many seconds; return the exit code. Raises subprocess.TimeoutExpired."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(["maintd"], timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and self._has_answer(timeout):
            with self._lock:
                if self.returncode is None:
                    self.returncode = self._answer()
        return self.returncode

    def _has_answer(self, timeout: float | None) -> bool:
        poller = select.poll()  # select() is limited to descriptors below 1024
        poller.register(self._descriptor, select.POLLIN)
        return b"\n" in self._received or bool(poller.poll(None if timeout is None else timeout * 1000))

    def _answer(self) -> int:
        while b"\n" not in self._received:
            more = os.read(self._descriptor, 64)
            if not more:
                raise ServerEndedError
            self._received += more
        line, _, self._received = self._received.partition(b"\n")
        return int(line)


class ForkServer:
    """The server, seen from the tests: a child of this process, which ends with it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", PROGRAM, str(number)],
                env=environ,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[number],
                start_new_session=True,  # Ctrl-C is for the tests, which end what they started
            )
        self._inherited = _inherited(environ)

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End the server; what it forked lives on."""
        self._control.close()
        self._process.terminate()
        self._process.wait()

    def can_start(self, environ: Mapping[str, str]) -> bool:
        """Whether a command with this environment would be as one that this process starts."""
        return _inherited(environ) == self._inherited

    def run(
        self, argv: Sequence[str], environ: Mapping[str, str], cwd: Path, seconds: float
    ) -> tuple[int, bytes, bytes]:
        """Run a command to its end, without any input; return its exit code, standard output and standard error.

        Raises subprocess.TimeoutExpired.
        """
        pipes = os.pipe(), os.pipe()
        with ThreadPoolExecutor(len(pipes)) as pool:
            out, err = (pool.submit(_read_all, reading) for reading, _ in pipes)
            process = self.start(argv, environ, cwd, [writing for _, writing in pipes])
            try:
                code = process.wait(seconds)
            finally:
                process.kill()
            return code, out.result(), err.result()

    def start(
        self, argv: Sequence[str], environ: Mapping[str, str], cwd: Path, outputs: Sequence[int]
    ) -> ForkedProcess:
        """Start a command without input; `outputs` are its standard output and standard error, and are closed here."""
        umask = os.umask(0o022)
        os.umask(umask)
        request = {"argv": [*argv], "environ": {**environ}, "cwd": str(cwd), "umask": umask}
        conn, theirs = socket.socketpair()
        with theirs, open(os.devnull, "r+b") as nothing:
            socket.send_fds(self._control, [b"x"], [theirs.fileno(), nothing.fileno(), *outputs])
        for descriptor in outputs:
            os.close(descriptor)
        conn.sendall(json.dumps(request).encode() + b"\n")
        return ForkedProcess(conn)


def _read_all(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()


def _inherited(environ: Mapping[str, str]) -> Any:
    """What a process takes over when it starts, as a value to compare."""
    limits = [resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")]
    read = {name: value for name, value in environ.items() if name.startswith(AT_START)}
    return os.geteuid(), os.getegid(), os.getgroups(), limits, read


_STARTING = threading.Lock()


@cache
def _server(pid: int) -> ForkServer:
    from support.servers.maintd import clean_environ

    server = ForkServer(clean_environ())
    atexit.register(server.close)
    return server


def fork_server(environ: Mapping[str, str]) -> ForkServer | None:
    """Return the server of this process, if it can start commands with this environment."""
    if STARTED in os.environ or os.geteuid() != os.getuid():
        return None
    with _STARTING:
        server = _server(os.getpid())  # a forked child of this process has one of its own
    return server if server.can_start(environ) else None
