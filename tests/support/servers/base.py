"""Helpers for servers: free ports, waiting for a condition, a process that is always stopped."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

import pytest

T = TypeVar("T")


def free_port() -> int:
    """Return an unused loopback port."""
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for(condition: Callable[[], T | None], what: str, seconds: float = 120.0, every: float = 0.02) -> T:
    """Wait until the condition is true; return its value. Fail the test after `seconds`, many for a busy machine.

    It is evaluated every `every` seconds, and at most half of the time: a condition that starts a command would keep a
    processor busy, which the daemon that is waited for needs.
    """
    deadline = time.monotonic() + seconds
    while True:
        begun = time.monotonic()
        value = condition()
        if value:
            return value
        ended = time.monotonic()
        if ended > deadline:
            pytest.fail(f"{what}: not within {seconds:.0f} s (last: {value!r})")
        time.sleep(max(every, min(ended - begun, 1.0)))


def is_listening(port: int) -> bool:
    """Return whether a server accepts connections on this loopback port."""
    with closing(socket.socket()) as sock:
        sock.settimeout(0.5)
        return sock.connect_ex(("127.0.0.1", port)) == 0


def unavailable(needed: str) -> NoReturn:
    """Skip the test on a laptop and fail it in CI, since this machine does not have what it needs."""
    if os.environ.get("CI"):
        pytest.fail(f"needs {needed}")
    pytest.skip(f"needs {needed}")


def find_program(program: str | Path) -> str | None:
    """Return the program's path, also of one that only root has in its PATH; None without it."""
    return shutil.which(str(program)) or shutil.which(str(program), path="/usr/sbin:/sbin")


def require_program(program: str | Path, package: str) -> str:
    """Return the program's path, see `find_program`."""
    return find_program(program) or unavailable(f"{Path(program).name}: apt-get install {package}")


def needs_root(why: str) -> None:
    """Only root can run this test."""
    if os.geteuid() != 0:
        unavailable(f"root: {why}")


@contextmanager
def running(
    argv: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process with its output in `log`; terminate it at the end, and kill it after 15 s."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=cwd
        )
    with terminated_at_exit(process):
        yield process


class Process(Protocol):
    """A process that can be ended, such as `subprocess.Popen`."""

    def terminate(self) -> None: ...

    def kill(self) -> None: ...

    def wait(self, timeout: float | None = None) -> int: ...


@contextmanager
def terminated_at_exit(process: Process) -> Iterator[None]:
    """Terminate the process at the end, and kill it after 15 s."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
