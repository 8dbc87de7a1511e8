"""Templates of single jobs, as the daemon keeps them: for jobs that are about to be due, or that run often right now.

Such a template is forked from the template and has the job's module loaded, which is most of what a trivial attempt
costs. It is asked for when a job is expected, or is launched a second time within a moment; it is used while the files
that it was loaded from are as they were; it is let go when nobody has used it for a while. A job whose module looks at
the world while it is loaded has none (see `opening`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from maintd.executor.fork_protocol import RETIRE, open_request, spares_request
from maintd.executor.opening import Stamp, stamp_of

log = structlog.get_logger()

MOST = 4
"""Job templates at a time: each holds some 10 MiB of its own, its spares included."""

AGAIN_WITHIN = 1.0  # seconds between two launches of a job after which it is thought to come a third time
LINGER = 10.0  # seconds that one is kept unused
MOST_AGE = 60.0  # seconds after which another one takes its place

LOOK_APART = 0.01
"""Seconds between two looks at its files. Each look lets other threads run, and whoever is to start waits for it."""

_LONGEST = 1 << 16


@dataclass
class JobTemplate:
    """One of them. It can be asked once it has told its number."""

    path: Path
    control: socket.socket
    made_at: float
    used_at: float
    pidfd: int | None = None
    pid: int | None = None
    files: dict[str, Stamp] = field(default_factory=dict)
    fresh_at: float = float("-inf")
    spares: int = 0  # that it was told to have and has not used

    @property
    def is_fresh(self) -> bool:
        """What it has loaded is what lies on the disk, and was loaded a moment ago."""
        now = time.monotonic()
        if now - self.made_at > MOST_AGE:
            return False
        if now - self.fresh_at > LOOK_APART:
            if any(stamp_of(file) != stamp for file, stamp in self.files.items()):
                return False
            self.fresh_at = now
        return True

    def said(self) -> bytes | None:
        """What it said, empty when it is gone; None: nothing."""
        try:
            return self.control.recv(_LONGEST, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except ConnectionError:
            return b""

    def kill(self) -> None:
        """End it at once; the template ends its children."""
        if self.pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Let go of it: it ends its children and then itself, unless it is gone already."""
        self.control.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


class JobTemplates:
    """Those of one daemon. Not thread-safe: for whoever holds the lock of the template."""

    def __init__(self) -> None:
        self._of: dict[Path, JobTemplate] = {}
        self._retired: list[JobTemplate] = []
        self._unfit: dict[Path, Stamp | None] = {}  # jobs that must be loaded anew each time, and the file that is so
        self._launched: dict[Path, float] = {}
        self._expected: set[Path] = set()

    @property
    def pids(self) -> Iterator[int]:
        """Numbers of those that have told them."""
        return (one.pid for one in (*self._of.values(), *self._retired) if one.pid is not None)

    def ready(self, path: Path) -> JobTemplate | None:
        """The job's template, if it can be asked for an attempt now."""
        one = self._of.get(path)
        if one is None or not self._is_open(one):
            return None
        if not one.is_fresh:
            self._retire(one)
            return None
        one.used_at = time.monotonic()
        return one

    def launched(self, path: Path, ask: Callable[[bytes, int], None]) -> None:
        """The job was launched without a template of its own; when it comes often, `ask` for one."""
        now = time.monotonic()
        before = self._launched.get(path)
        self._launched[path] = now
        if before is not None and now - before <= AGAIN_WITHIN:
            self._have(path, ask)
        elif len(self._launched) > 256:
            self._launched = {one: at for one, at in self._launched.items() if now - at <= AGAIN_WITHIN}

    def expect(self, jobs: Mapping[Path, int], ask: Callable[[bytes, int], None]) -> None:
        """So many attempts of these jobs are due soon; the first few are made ready."""
        self._expected = set(list(jobs)[:MOST])
        for path in self._expected:
            self._have(path, ask, spares=jobs[path])
            one = self._of.get(path)
            if one is not None and one.spares < jobs[path]:
                one.spares = jobs[path]
                with contextlib.suppress(OSError):
                    one.control.send(spares_request(one.spares))

    def tidy(self) -> None:
        """Let go of those that nobody uses. To be called now and then."""
        now = time.monotonic()
        for one in list(self._of.values()):
            if one.path not in self._expected and now - one.used_at > LINGER:
                self._retire(one)
        self._retired = [one for one in self._retired if not self._is_over(one)]

    def forget(self) -> None:
        """The template that they came from is gone: no more is asked of them, what they do is done to its end."""
        for one in list(self._of.values()):
            self._retire(one)

    def close(self) -> None:
        """End all of them, with whatever children they still have."""
        for one in (*self._of.values(), *self._retired):
            one.close()
        self._of.clear()
        self._retired.clear()

    def _have(self, path: Path, ask: Callable[[bytes, int], None], spares: int = 1) -> None:
        if path in self._of or (path in self._unfit and self._unfit[path] == stamp_of(path)):
            return
        if len(self._of) >= MOST:
            idle = [one for one in self._of.values() if one.path not in self._expected]
            if not idle:
                return
            self._retire(min(idle, key=lambda one: one.used_at))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                ask(open_request(path, spares), theirs.fileno())
            except OSError:
                ours.close()
                return
        now = time.monotonic()
        self._of[path] = JobTemplate(path, ours, made_at=now, used_at=now, spares=spares)

    def _is_open(self, one: JobTemplate) -> bool:
        """Whether it has said that its job is loaded. One that is unfit or gone is dropped."""
        if one.pid is not None:
            return True
        message = one.said()
        if message is None:
            return False
        told = json.loads(message) if message else {}
        if "pid" in told:
            with contextlib.suppress(ProcessLookupError):
                one.pidfd = os.pidfd_open(told["pid"])
                one.pid = told["pid"]
                one.files = {file: (mtime, size, inode) for file, (mtime, size, inode) in told["files"].items()}
                return True
        self._unfit[one.path] = stamp_of(one.path)
        log.debug("job_without_template", path=str(one.path), reason=told.get("unfit", "it ended while it was loaded"))
        del self._of[one.path]
        one.close()
        return False

    def drop(self, one: JobTemplate) -> None:
        """It is gone."""
        if self._of.get(one.path) is one:
            del self._of[one.path]
        one.close()

    def _retire(self, one: JobTemplate) -> None:
        del self._of[one.path]
        with contextlib.suppress(OSError):
            one.control.send(RETIRE)
        self._retired.append(one)

    def _is_over(self, one: JobTemplate) -> bool:
        message = one.said()
        if message is None:
            return False
        if message:  # it had not been asked yet when it was retired
            return False
        one.close()
        return True
