"""The daemon's side of the template process: starts it, requests attempts from it, replaces it and ends it."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import structlog

from maintd.errors import MaintdError
from maintd.executor import process_tree
from maintd.executor.child_protocol import AttemptRequest
from maintd.executor.fork_protocol import MAX_MESSAGE, decode, encode, encode_start
from maintd.executor.preloading import Stamp, stamp_of

log = structlog.get_logger()

START_TRIES = 3  # templates that are started for one attempt when each ends at once
EXIT_SECONDS = 2.0  # that a template may take to exit once its socket is closed
CHECK_SECONDS = 0.01  # between two checks whether the template is alive
FAILED_PRELOADS = 3  # templates that end while they import job modules, after which none is preloaded

SCRUBBED = "MAINTD_STORE"
"""Prefix of the environment variables that hold the store's credentials; no child gets them."""


class TemplateError(MaintdError):
    """No process for an attempt could be started."""

    code = "template"


class Preload(NamedTuple):
    """What a template imports before it forks."""

    imports: frozenset[str] = frozenset()  # names of libraries' modules
    jobs: frozenset[Path] = frozenset()  # files of job modules


@dataclass
class Launched:
    """The daemon's ends of one attempt: the socket to the template, the child's report and output, and the pipe on
    which intended changes are confirmed."""

    template: Template
    socket: socket.socket
    report: int
    out: int
    err: int
    confirm: int

    def close(self) -> None:
        """Close all; the template then kills a child that is still alive."""
        self.socket.close()
        for descriptor in (self.report, self.out, self.err, self.confirm):
            with contextlib.suppress(OSError):
                os.close(descriptor)


@dataclass
class Template:
    """One template process, as the daemon knows it."""

    popen: subprocess.Popen[bytes]
    control: socket.socket
    lifeline_end: int
    preload: Preload
    ready: bool = False
    stale: bool = False  # a job's file has changed since it was imported
    importing: Path | None = None  # the job module whose import was reported last
    checked_at: float = float("-inf")

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def is_alive(self) -> bool:
        """As of CHECK_SECONDS ago; a request to one that has ended since fails."""
        now = time.monotonic()
        if now - self.checked_at > CHECK_SECONDS:
            self.receive()
            if self.popen.poll() is not None:
                return False
            self.checked_at = now
        return True

    def receive(self) -> None:
        """Apply what the template has reported."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while message := self.control.recv(MAX_MESSAGE, socket.MSG_DONTWAIT):
                fields = decode(message)
                self.ready = self.ready or fields["type"] == "ready"
                self.stale = self.stale or fields["type"] == "stale"
                if fields["type"] == "importing":
                    self.importing = Path(fields["path"])

    def reap(self) -> None:
        """Wait for the end of a process that has closed its socket, so it is about to exit."""
        try:
            self.popen.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self.checked_at = float("-inf")

    def close(self) -> None:
        """Close the daemon's ends: the template ends its children and then itself."""
        self.control.close()
        os.close(self.lifeline_end)


class ForkClient:
    """Keeps at most one template for new attempts. Thread-safe."""

    def __init__(
        self, state_dir: Path, grace: timedelta, preload: Callable[[], Preload] = Preload, spares: int = 0
    ) -> None:
        """`preload` is called when a template is started; `spares`: children that it forks in advance."""
        self._spares = spares
        self._state_dir = state_dir
        self._grace = grace
        self._preload = preload
        self._lock = threading.Lock()
        self._template: Template | None = None
        self._retired: list[Template] = []  # end by themselves after their last attempt
        self._dead: list[Template] = []  # their children still depend on their lifelines
        self._not_preloaded: dict[Path, Stamp | None] = {}  # job modules that ended a template, as they were then
        self._failed_preloads = 0
        self._in_use = 0  # attempts that were launched and are not finished
        self._children: set[int] = set()  # of those, the pids that are known
        self._may_have_orphans = False  # a template died, and children of it may have come to this process
        with contextlib.suppress(OSError):
            process_tree.become_subreaper()  # so that children of a dead template come to this process

    @property
    def is_ready(self) -> bool:
        """Whether a template exists and has imported everything: an attempt starts within milliseconds."""
        with self._lock:
            template = self._template
            if template is None or template.popen.poll() is not None:
                return False
            template.receive()
            return template.ready

    @property
    def pid(self) -> int | None:
        """The template's pid; None while there is no template."""
        with self._lock:
            return None if self._template is None else self._template.pid

    def start(self) -> None:
        """Start a template unless there is a current one. Does not wait. Raises TemplateError."""
        with self._lock:
            template = self._ensure()
            if not self._wanted().jobs <= template.preload.jobs:
                self._retire()
                self._ensure()

    def launch(self, order: AttemptRequest, until: float | None = None) -> Launched:
        """Request a child that runs this attempt; then call `began` and `finished`. Raises TemplateError.

        `until`: when the attempt is killed, on the clock since boot, unless a `renew` moves it.

        When the template dies before it forks, the socket and the report close without a message: launch again then.
        """
        descriptors: list[int] = []
        ends: list[int] = []
        try:
            ours, template_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise _no_process(error) from error
        try:
            descriptors.append(_order_file(order))
            for _ in range(3):
                mine, theirs = os.pipe()
                ends.append(mine)
                descriptors.append(theirs)
                os.set_blocking(mine, False)
            theirs, mine = os.pipe()
            ends.append(mine)
            descriptors.append(theirs)
            os.set_blocking(mine, False)
            ours.setblocking(False)
            template = self._request(encode_start(order.path, until), [template_end.fileno(), *descriptors])
        except (OSError, TemplateError) as error:
            ours.close()
            for descriptor in ends:
                os.close(descriptor)
            if isinstance(error, TemplateError):
                raise
            raise _no_process(error) from error
        finally:
            template_end.close()
            for descriptor in descriptors:
                os.close(descriptor)
        return Launched(template, ours, *ends)

    def began(self, pid: int) -> None:
        """Note the pid of a launched attempt."""
        with self._lock:
            self._children.add(pid)

    def finished(self, pid: int | None) -> None:
        """Note that a launched attempt is over; None: its pid was never known."""
        with self._lock:
            self._in_use -= 1
            self._children.discard(pid or 0)
            if self._dead and self._in_use == len(self._children):
                self._kill_adopted()
            if self._in_use == 0:
                while self._dead:
                    self._dead.pop().close()

    def kill_template(self, launched: Launched) -> None:
        """Kill a template that does not handle requests. Its children live on as children of this process."""
        with self._lock:
            log.error("template_hangs", pid=launched.template.pid)
            launched.template.popen.kill()

    def reap(self) -> None:
        """Reap retired templates and what a dead one left to this process. Cheap: call it now and then."""
        with self._lock:
            self._reap_retired()
            if not self._may_have_orphans or self._in_use != len(self._children):
                return
            # What a template forks has a session of its own; so has the registry's helper, whose exit code is not used.
            session = os.getsid(0)
            left = [
                pid
                for pid in process_tree.children_of(os.getpid())
                if pid not in self._own_children() and process_tree.session_of(pid) != session
            ]
            for pid in left:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            self._may_have_orphans = bool(left)

    def release(self) -> bool:
        """End the template if no attempt uses it; whether there is none now."""
        with self._lock:
            if self._in_use:
                return False
            template, self._template = self._template, None
        if template is not None:
            template.close()
            template.popen.wait()
            log.debug("template_released", pid=template.pid)
        return True

    def stop(self) -> None:
        """End all templates, and with them every child that they still have."""
        with self._lock:
            template, self._template = self._template, None
        templates = [*self._retired, *([] if template is None else [template])]
        for one in [*templates, *self._dead]:
            one.close()
        self._retired.clear()
        self._dead.clear()
        for one in templates:
            try:
                one.popen.wait(self._grace.total_seconds() + 6)
            except subprocess.TimeoutExpired:
                one.popen.kill()
                one.popen.wait()

    def _request(self, message: bytes, descriptors: list[int]) -> Template:
        for tries_left in reversed(range(START_TRIES)):
            with self._lock:
                template = self._ensure()
                try:
                    socket.send_fds(template.control, [message], descriptors)
                except (BrokenPipeError, ConnectionError) as error:
                    template.reap()
                    if not tries_left:
                        raise TemplateError(f"the template process ends by itself: {error}") from error
                    continue
                self._in_use += 1
                return template
        raise AssertionError("the last try returns or raises")

    def _ensure(self) -> Template:
        """Return a template that is alive and current, started if need be."""
        template = self._template
        if template is not None:
            if template.is_alive:
                if template.ready:
                    self._failed_preloads = 0
                if not template.stale:
                    return template
                self._retire()
            else:
                self._handle_death(template)
        self._template = template = self._spawn()
        return template

    def _handle_death(self, template: Template) -> None:
        self._template = None
        self._dead.append(template)
        self._may_have_orphans = True
        template.receive()
        path = template.importing
        if template.ready or path is None:
            log.warning("template_died", pid=template.pid, exit_code=template.popen.returncode)
            return
        self._not_preloaded[path] = stamp_of(path)
        self._failed_preloads += 1
        log.warning(
            "job_not_preloaded",
            path=str(path),
            reason="its import ended the template, took too long, or left a thread or an open file behind",
            hint="if that is intended, declare it with @job(fresh=True)",
        )

    def _retire(self) -> None:
        """Have the template end after its last attempt."""
        template, self._template = self._template, None
        if template is not None:
            with contextlib.suppress(OSError):
                template.control.send(encode("retire"))
            self._retired.append(template)

    def _reap_retired(self) -> None:
        for template in [one for one in self._retired if one.popen.poll() is not None]:
            self._retired.remove(template)
            if template.popen.returncode:
                self._dead.append(template)
                self._may_have_orphans = True
            else:
                template.close()

    def _own_children(self) -> set[int]:
        templates = [*self._retired, *([] if self._template is None else [self._template])]
        return {*(template.pid for template in templates), *self._children}

    def _kill_adopted(self) -> None:
        """Kill what children of a dead template left behind: it came to this process, and carries our mark."""
        own = self._own_children()
        mark = process_tree.owner_mark(self._state_dir)
        left = [
            pid for pid in process_tree.children_of(os.getpid()) if pid not in own and process_tree.mark_of(pid) == mark
        ]
        process_tree.kill_all(left)
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _wanted(self) -> Preload:
        wanted = self._preload()
        if self._failed_preloads >= FAILED_PRELOADS:
            return wanted._replace(jobs=frozenset())
        excluded = {path for path, stamp in self._not_preloaded.items() if stamp_of(path) == stamp}
        return wanted._replace(jobs=wanted.jobs - excluded)

    def _spawn(self) -> Template:
        environ = {key: value for key, value in os.environ.items() if not key.startswith(SCRUBBED)}
        environ[process_tree.OWNER] = process_tree.owner_mark(self._state_dir)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lifeline, lifeline_end = os.pipe()
        numbers = (theirs.fileno(), lifeline, lifeline_end)
        preload = self._wanted()
        config = {
            "grace": self._grace.total_seconds(),
            "imports": sorted(preload.imports),
            "jobs": sorted(map(str, preload.jobs)),
            "spares": self._spares,
        }
        try:
            popen = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from maintd.executor.fork_server import main; main()",
                    *map(str, numbers),
                ],
                stdin=subprocess.PIPE,
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
        # Not in the arguments: `systemctl status` and `ps` show these of each process.
        assert popen.stdin is not None
        with contextlib.suppress(BrokenPipeError), popen.stdin as stdin:
            stdin.write(json.dumps(config).encode())
        return Template(popen, ours, lifeline_end, preload)


def _no_process(error: OSError) -> TemplateError:
    return TemplateError(f"no process for the attempt: {error}", "see the limit of open files")


def _order_file(order: AttemptRequest) -> int:
    """Return the descriptor of a nameless file with the order, pickled: as JSON its secrets would be masked."""
    descriptor = os.memfd_create("order")
    data = memoryview(pickle.dumps(order))
    while data:
        data = data[os.write(descriptor, data) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
