"""Run other programs, by default without a shell; their output is read as it comes, in bounded memory.

A program stays in this process's group, so that stopping the attempt stops the program, too.
"""

from __future__ import annotations

import errno
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

from maintd.config.settings import PREFIX, Settings
from maintd.errors import JobError

Stream = Literal["stdout", "stderr"]
Receive = Callable[[Stream, str], None]

LINE_LIMIT = 16_384
"""Bytes; a longer line is split into parts of this size, so that an endless line cannot fill the memory."""
GRACE_SECONDS = 5.0  # between TERM and KILL
DRAIN_SECONDS = 2.0  # output is still read after the program has ended
_CHUNK = 65_536
_SHELL = "/bin/sh"


@dataclass(frozen=True)
class Command:
    """A program to run. `env` is added to the inherited environment; `stdin` is its standard input, empty by default.

    With `shell`, `argv` has one item, the text for `/bin/sh -c`.
    """

    argv: Sequence[str]
    cwd: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""
    shell: bool = False

    def __str__(self) -> str:
        return self.argv[0] if self.shell else shlex.join(self.argv)


class Result(NamedTuple):
    """How a program ended. `exit_code` is None when a signal ended it; `signal` is its name."""

    exit_code: int | None
    signal: str
    duration: timedelta
    timed_out: bool
    output_bytes: int
    output_held: bool  # a process that it started still holds its output open


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without maintd's own settings, which contain the secrets of the store and the targets."""
    own = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {f"{PREFIX}CONFIG"}
    return {
        name: value
        for name, value in environ.items()
        if name not in own and name.removesuffix("_FILE") not in own and name.split("__")[0] not in own
    }


def resolve_argv(command: Command) -> list[str]:
    """The argv with the program's full path. Raises JobError when it cannot be started."""
    if command.cwd is not None and not command.cwd.is_dir():
        raise JobError(f'the working directory "{command.cwd}" does not exist', "create it or correct cwd")
    if command.shell:
        return [_SHELL, "-c", command.argv[0]]
    name = command.argv[0]
    path = command.env.get("PATH", os.environ.get("PATH", os.defpath))
    if "/" in name:
        program = ((command.cwd or Path.cwd()) / name).absolute()  # the program is started from within cwd
        if not program.exists():
            raise JobError(f'the program "{name}" does not exist', "correct its path, or mount it into this container")
        if program.is_dir():
            raise JobError(f'"{name}" is a folder, not a program', "write the path of a program in it")
        if not os.access(program, os.X_OK):
            raise _not_executable(name, program)
        return [str(program), *command.argv[1:]]
    found = shutil.which(name, path=path)
    if found is None:
        if (passed_over := not_executable(name, path)) is not None:
            raise passed_over
        hint = "install it, or write its full path"
        if any(character.isspace() for character in name):
            hint = "write each word as an item of the list, or set shell: true"
        raise JobError(f'the program "{name}" is not in PATH ({path})', hint)
    return [found, *command.argv[1:]]


def run(command: Command, timeout: timedelta, receive: Receive) -> Result:
    """Run the program to its end; `receive` gets each line of output.

    At `timeout` the program and its children get TERM, then KILL. Raises JobError when it cannot be started.
    """
    argv = resolve_argv(command)
    started = time.monotonic()
    with start(argv, command) as process:
        out, err = process.stdout, process.stderr
        assert out is not None and err is not None
        lines = {out.fileno(): _Lines("stdout", receive), err.fileno(): _Lines("stderr", receive)}
        with selectors.DefaultSelector() as selector:
            for pipe in (out, err):
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ)
            try:
                ended = _read_until(selector, lines, process, started + timeout.total_seconds())
                timed_out = not ended and process.poll() is None
                if timed_out:
                    stop(process)
                # A background child may hold the pipes forever; all of the program's own output is read by then.
                _read_until(selector, lines, process, time.monotonic() + DRAIN_SECONDS, drain=True)
                output_held = bool(selector.get_map())
            except BaseException:
                stop(process)
                raise
        for reader in lines.values():
            reader.end()
        process.wait()
    code = process.returncode
    return Result(
        exit_code=code if code >= 0 else None,
        signal=_signal_name(-code) if code < 0 else "",
        duration=timedelta(seconds=time.monotonic() - started),
        timed_out=timed_out,
        output_bytes=sum(reader.size_bytes for reader in lines.values()),
        output_held=output_held,
    )


class _Lines:
    """Splits one stream into lines of text."""

    def __init__(self, stream: Stream, receive: Receive) -> None:
        self._stream = stream
        self._receive = receive
        self._rest = b""
        self.size_bytes = 0

    def feed(self, chunk: bytes) -> None:
        self.size_bytes += len(chunk)
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        for line in whole:
            self._emit(line)
        while len(self._rest) > LINE_LIMIT:
            self._emit(self._rest[:LINE_LIMIT])
            self._rest = self._rest[LINE_LIMIT:]

    def end(self) -> None:
        if self._rest:
            self._emit(self._rest)
            self._rest = b""

    def _emit(self, line: bytes) -> None:
        text = line.decode("utf-8", errors="replace").rstrip("\r").replace("\0", "�")
        for start in range(0, max(len(text), 1), LINE_LIMIT):
            self._receive(self._stream, text[start : start + LINE_LIMIT])


def start(argv: Sequence[str], command: Command) -> subprocess.Popen[bytes]:
    """Start the program with pipes for its output. Raises JobError when it cannot be started."""
    stdin: int = subprocess.DEVNULL
    if command.stdin:
        stdin = os.memfd_create("stdin")  # in memory: the input may be a secret
        with open(os.dup(stdin), "wb") as file:
            file.write(command.stdin.encode())
        os.lseek(stdin, 0, os.SEEK_SET)
    try:
        return subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=command.cwd,
            env={**child_environment(os.environ), **command.env},
            bufsize=0,
        )
    except OSError as error:
        raise _not_started(argv[0], error) from error
    except ValueError as error:  # a NUL in an argument or in the environment
        raise JobError(f'"{argv[0]}" cannot be started: {error}', "correct its arguments and env") from error
    finally:
        if stdin >= 0:
            os.close(stdin)


def not_executable(name: str, path: str) -> JobError | None:
    """The error of a program that is in a folder of PATH, but without the right to execute it; None: it is in none."""
    places = [Path(folder or ".") / name for folder in path.split(os.pathsep)]
    return next((_not_executable(str(place), place) for place in places if place.is_file()), None)


def _not_executable(name: str, program: Path) -> JobError:
    hint = f"run: chmod +x {shlex.quote(str(program))}"
    return JobError(f'the program "{name}" is not executable for user {os.geteuid()}', hint)


def _not_started(program: str, error: OSError) -> JobError:
    if error.errno == errno.ENOEXEC:
        return JobError(f'"{program}" is not in a form that can be executed', "start a script with #!/bin/sh")
    if error.errno == errno.ENOENT:
        return JobError(f'"{program}" cannot be started: its interpreter is missing', "correct the script's first line")
    if error.errno == errno.E2BIG:
        return JobError(f'"{program}" cannot be started: its arguments are too long', "pass them by stdin")
    return JobError(f'"{program}" cannot be started: {error.strerror or error}')


def _read_until(
    selector: selectors.BaseSelector,
    lines: Mapping[int, _Lines],
    process: subprocess.Popen[bytes],
    deadline: float,
    *,
    drain: bool = False,
) -> bool:
    """Read until the program has ended (`drain`: until its output is closed) or the deadline; False at the deadline."""
    while (left := deadline - time.monotonic()) > 0:
        if not selector.get_map():
            if drain or process.poll() is not None:
                return True
            time.sleep(min(left, 0.02))  # it has closed its output but still runs
            continue
        for key, _ in selector.select(min(left, 0.1)):
            try:
                chunk = os.read(key.fd, _CHUNK)
            except BlockingIOError:
                continue
            if chunk:
                lines[key.fd].feed(chunk)
            else:
                selector.unregister(key.fileobj)
        if not drain and process.poll() is not None:
            return True
    return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """Send TERM, then KILL, to the program and all its descendants."""
    try:
        top = psutil.Process(process.pid)
        processes = [*top.children(recursive=True), top]
    except psutil.NoSuchProcess:
        return
    for send in (psutil.Process.terminate, psutil.Process.kill):
        for member in processes:
            try:
                send(member)
            except psutil.NoSuchProcess:
                continue
        _, processes = psutil.wait_procs(processes, timeout=GRACE_SECONDS)
        if not processes:
            return


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
