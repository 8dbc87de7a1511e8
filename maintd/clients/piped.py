"""Programs whose standard output is data: read in chunks as it comes, in bounded memory."""

from __future__ import annotations

import fcntl
import os
import selectors
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO

from maintd.clients.shell import LINE_LIMIT, Command, resolve_argv, start, stop
from maintd.errors import TargetError
from maintd.units import format_duration

_CHUNK = 1 << 20
_SMALL = _CHUNK // 4
_PAUSE_SECONDS = 0.01  # in which what follows a small chunk is collected in the pipe
_LINES_KEPT = 20
_END_SECONDS = 10.0  # from the end of the output to the end of the program


class Piped:
    """A running program. `errors`: the last lines of its standard error."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, stall: timedelta) -> None:
        self._process = process
        self._name = name
        self._stall = stall
        self._rest = b""
        self.errors: deque[str] = deque(maxlen=_LINES_KEPT)

    def chunks(self) -> Iterator[bytes]:
        """Yield the output to its end; the program has then ended with exit code 0.

        Raises TargetError with the program's own words when it failed, and (cause `timed_out`) when it was silent for
        longer than the limit; the time that the reader of the chunks takes does not count.
        """
        out, err = _pipe(self._process.stdout), _pipe(self._process.stderr)
        pause = _PAUSE_SECONDS if _enlarged(out) else 0
        with selectors.DefaultSelector() as selector:
            for pipe in (out, err):
                selector.register(pipe, selectors.EVENT_READ)
            active = time.monotonic()
            while out in {key.fd for key in selector.get_map().values()}:
                for key, _ in selector.select(0.2):
                    chunk = os.read(key.fd, _CHUNK)
                    if not chunk:
                        selector.unregister(key.fd)
                    elif key.fd == err:
                        self._add_errors(chunk)
                    else:
                        yield chunk
                        if len(chunk) < _SMALL and pause:
                            # pg_dump writes 4 KiB at a time: to wake the reader for each costs both.
                            time.sleep(pause)
                    active = time.monotonic()
                if time.monotonic() - active > self._stall.total_seconds():
                    raise self._silent()
            self._end(err, selector)

    def _end(self, err: int, selector: selectors.BaseSelector) -> None:
        deadline = time.monotonic() + _END_SECONDS
        while selector.get_map() and time.monotonic() < deadline:
            for _ in selector.select(0.2):
                chunk = os.read(err, _CHUNK)
                if chunk:
                    self._add_errors(chunk)
                else:
                    selector.unregister(err)
        self._add_errors(b"\n")
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            raise self._silent() from None
        if code:
            ended = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            text = "; ".join(self.errors)[-500:] or ended
            denied = any(word in text for word in ("permission denied", "must be superuser", "row-level security"))
            raise TargetError(f"{self._name}: {text}", cause="denied" if denied else "failed")

    def _silent(self) -> TargetError:
        return TargetError(
            f"{self._name}: no output for {format_duration(self._stall)}",
            "check whether the server hangs or a lock is held: see pg_stat_activity",
            cause="timed_out",
        )

    def _add_errors(self, chunk: bytes) -> None:
        *whole, self._rest = (self._rest + chunk)[-LINE_LIMIT:].split(b"\n")
        self.errors.extend(line.decode(errors="replace").strip() for line in whole if line.strip())


@contextmanager
def piped(command: Command, stall: timedelta) -> Iterator[Piped]:
    """Start the program; stop it at the end of the block. stall: how long it may be silent.

    Raises JobError when it cannot be started.
    """
    with start(resolve_argv(command), command) as process:
        try:
            yield Piped(process, Path(command.argv[0]).name, stall)
        finally:
            if process.poll() is None:
                stop(process)


def _pipe(file: IO[bytes] | None) -> int:
    assert file is not None
    return file.fileno()


def _enlarged(pipe: int) -> bool:
    """Whether the pipe holds a whole chunk now; a user's pipes may have used up what the system allows."""
    try:
        return fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _CHUNK) >= _CHUNK
    except OSError:
        return False
