"""The daemon's hold on the template process: started when it is needed, asked for children, let go when it is not."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import structlog

from maintd.errors import MaintdError
from maintd.executor import process_tree
from maintd.executor.child_protocol import AttemptOrder
from maintd.executor.fork_protocol import READY, start_request
from maintd.executor.jobtemplates import LOOK_APART, JobTemplates

log = structlog.get_logger()

TRIES = 3
"""How often a template that dies at once is started for one attempt."""

NOTHING: Mapping[Path, int] = {}

SCRUBBED = "MAINTD_STORE"
"""Environment variables that begin so hold the store's credentials; no child ever sees them."""


class TemplateError(MaintdError):
    """No process for an attempt could be had."""

    code = "template"


class Forker(Protocol):
    """The process that was asked for an attempt."""

    @property
    def pid(self) -> int | None:
        """Its number."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


@dataclass
class Launched:
    """The daemon's ends of one attempt: the socket to the template, and the child's report and output."""

    forker: Forker
    socket: socket.socket
    report: int
    out: int
    err: int

    def close(self) -> None:
        """Let go of all; a child that still lives is killed by the template then."""
        self.socket.close()
        for descriptor in (self.report, self.out, self.err):
            with contextlib.suppress(OSError):
                os.close(descriptor)


@dataclass
class _Process:
    popen: subprocess.Popen[bytes]
    control: socket.socket
    lifeline_end: int
    ready: bool = False
    looked_at: float = float("-inf")

    @property
    def is_alive(self) -> bool:
        """As it was a moment ago; whoever asks one that has died since notices."""
        now = time.monotonic()
        if now - self.looked_at > LOOK_APART:
            if self.popen.poll() is not None:
                return False
            self.looked_at = now
        return True

    @property
    def pid(self) -> int:
        return self.popen.pid

    def kill(self) -> None:
        self.popen.kill()

    def ask(self, message: bytes, descriptor: int) -> None:
        socket.send_fds(self.control, [message], [descriptor])

    def close(self) -> None:
        self.control.close()
        os.close(self.lifeline_end)


class Warm:
    """One template at a time. Thread-safe."""

    def __init__(self, state_dir: Path, grace: timedelta, imports: Callable[[], Iterable[str]] = tuple) -> None:
        """`imports`: modules that the jobs to come import; asked for when a template is started."""
        self._state_dir = state_dir
        self._grace = grace
        self._imports = imports
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._job_templates = JobTemplates()
        self._in_use = 0
        self._children: set[int] = set()  # that told their number and are not over
        self._orphans = False  # a template died, and something of it may have come to this process
        self._old: list[_Process] = []  # dead ones, whose lifelines their children still hang on
        with contextlib.suppress(OSError):
            process_tree.become_subreaper()  # so that children of a dead template come to this process

    @property
    def is_ready(self) -> bool:
        """A template process is there and has loaded its libraries."""
        with self._lock:
            process = self._process
            if process is None or process.popen.poll() is not None:
                return False
            if not process.ready:
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    process.ready = process.control.recv(16, socket.MSG_DONTWAIT) == READY
            return process.ready

    @property
    def pid(self) -> int | None:
        """The template's process number."""
        with self._lock:
            return None if self._process is None else self._process.popen.pid

    @property
    def in_use(self) -> int:
        """Attempts that were launched and not yet finished."""
        with self._lock:
            return self._in_use

    def start(self, jobs: Mapping[Path, int] = NOTHING) -> None:
        """Have a template, and for each of these jobs one with so many spares. Does not wait. Raises TemplateError."""
        with self._lock:
            process = self._ensure()
            self._job_templates.expect(jobs, process.ask)

    def is_ready_for(self, job: Path) -> bool:
        """The job has a template of its own, with its module loaded."""
        with self._lock:
            return self._job_templates.ready(job) is not None

    def launch(self, order: AttemptOrder, until: float | None = None) -> Launched:
        """Ask for a child that makes this attempt; `began` and `finished` are owed then. Raises TemplateError.

        `until`: when it must be dead, by the clock since boot, unless HOLD tells a later time.

        When the template dies before it forked, the socket and the report close without a word: launch again then.
        """
        given: list[int] = []
        ends: list[int] = []
        try:
            given.append(_order_file(order))
            for _ in range(3):
                mine, theirs = os.pipe()
                ends.append(mine)
                given.append(theirs)
                os.set_blocking(mine, False)
            ours, template_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            with template_end:
                forker = self._request(order.path, start_request(until), [template_end.fileno(), *given])
        except (OSError, TemplateError) as error:
            for descriptor in ends:
                os.close(descriptor)
            if isinstance(error, TemplateError):
                raise
            raise TemplateError(f"no process for the attempt: {error}", "see the limit of open files") from error
        finally:
            for descriptor in given:
                os.close(descriptor)
        return Launched(forker, ours, *ends)

    def began(self, pid: int) -> None:
        """A launched child told its number."""
        with self._lock:
            self._children.add(pid)

    def finished(self, pid: int | None) -> None:
        """A launched attempt is over; None: it never began."""
        with self._lock:
            self._in_use -= 1
            self._children.discard(pid or 0)
            if self._old and self._in_use == len(self._children):
                self._kill_adopted()
            if self._in_use == 0:
                while self._old:
                    self._old.pop().close()

    def kill_forker(self, launched: Launched) -> None:
        """End a template that does not do what it is asked. Its children live on with this process.

        Those of one job's template are ended by the template.
        """
        with self._lock:
            log.error("template_hangs", pid=launched.forker.pid)
            launched.forker.kill()

    def _kill_adopted(self) -> None:
        """End what children of a dead template left behind: it came to this process, and carries our mark."""
        template = 0 if self._process is None else self._process.pid
        own = {template, *self._children, *self._job_templates.pids}
        mark = process_tree.owner_mark(self._state_dir)
        left = [
            pid for pid in process_tree.children_of(os.getpid()) if pid not in own and process_tree.mark_of(pid) == mark
        ]
        process_tree.kill_all(left)
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def reap(self) -> None:
        """Reap what came to this process from a template that died. To be called now and then; mostly costs nothing."""
        with self._lock:
            self._job_templates.tidy()
            if not self._orphans or self._in_use != len(self._children):
                return
            own = {0 if self._process is None else self._process.pid, *self._children}
            # What a template forks has a session of its own; the catalogue's helper too, but nobody asks how it ended.
            session = os.getsid(0)
            left = [
                pid
                for pid in process_tree.children_of(os.getpid())
                if pid not in own and process_tree.session_of(pid) != session
            ]
            for pid in left:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            self._orphans = bool(left)

    def let_go(self) -> bool:
        """End the template when nothing uses it; whether there is none now."""
        with self._lock:
            if self._in_use:
                return False
            process, self._process = self._process, None
            self._job_templates.close()
        if process is not None:
            process.close()
            process.popen.wait()
            log.debug("template_let_go", pid=process.popen.pid)
        return True

    def stop(self) -> None:
        """End the template, and with it whatever child it still has."""
        with self._lock:
            process, self._process = self._process, None
            self._job_templates.close()
        for one in [process, *self._old]:
            if one is not None:
                one.close()
        self._old.clear()
        if process is not None:
            try:
                process.popen.wait(self._grace.total_seconds() + 6)
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()

    def _request(self, job: Path, message: bytes, descriptors: list[int]) -> Forker:
        for tries_left in reversed(range(TRIES)):
            with self._lock:
                process = self._ensure()
                forker = self._job_templates.ready(job)
                try:
                    socket.send_fds((forker or process).control, [message], descriptors)
                except (BrokenPipeError, ConnectionError) as error:
                    process.looked_at = float("-inf")
                    if forker is not None:
                        self._job_templates.drop(forker)
                    elif not tries_left:
                        raise TemplateError(f"the template process ends by itself: {error}") from error
                    continue
                self._in_use += 1
                if forker is None:
                    self._job_templates.launched(job, process.ask)
                else:
                    forker.spares -= 1
                return forker or process
        raise TemplateError("the templates end by themselves", "see the daemon's log")

    def _ensure(self) -> _Process:
        process = self._process
        if process is not None:
            if process.is_alive:
                return process
            log.warning("template_died", pid=process.popen.pid, exit_code=process.popen.returncode)
            self._process = None
            self._old.append(process)
            self._orphans = True
            self._job_templates.forget()
        self._process = process = self._spawn()
        return process

    def _spawn(self) -> _Process:
        environ = {key: value for key, value in os.environ.items() if not key.startswith(SCRUBBED)}
        environ[process_tree.OWNER] = process_tree.owner_mark(self._state_dir)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lifeline, lifeline_end = os.pipe()
        numbers = (theirs.fileno(), lifeline, lifeline_end)
        try:
            popen = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from maintd.executor.template import main; main()",
                    *map(str, numbers),
                    str(self._grace.total_seconds()),
                    *self._imports(),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environ,
                pass_fds=numbers,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            os.close(lifeline_end)
            raise TemplateError(f"the template process cannot be started: {error}") from error
        finally:
            theirs.close()
            os.close(lifeline)
        return _Process(popen, ours, lifeline_end)


def _order_file(order: AttemptOrder) -> int:
    """The order in a file without a name. Pickled: as JSON its secrets would be masked."""
    descriptor = os.memfd_create("order")
    data = memoryview(pickle.dumps(order))
    while data:
        data = data[os.write(descriptor, data) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
