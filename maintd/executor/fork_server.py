"""The template process: a single-threaded process that forks a child for each attempt, with its imports done already.

The daemon starts it and sends requests (see `fork_protocol`). A socket that closes means that the other side is gone:

- the template is gone: its children live on, the daemon adopts them (it is a subreaper) and starts another template;
- the daemon is gone: the template ends all its children (TERM, grace, KILL) and then itself;
- both are gone: the kernel kills every child's process group, since no process holds the write end of the lifeline.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from maintd.clock import since_boot
from maintd.executor import child, process_tree
from maintd.executor.fork_protocol import CURRENT, STALE, START_DESCRIPTORS, decode, encode, receive
from maintd.executor.preloading import PreloadedJob, preload_jobs, preload_libraries, single_threaded_blas

REQUESTS_IN_A_ROW = 50  # are served before ended children are reaped: a start is urgent, an end is not
LEFTOVER_SECONDS = 0.5  # that one pass waits for killed leftovers to end; the next SIGCHLD starts another pass
LEFTOVERS_NAMED = 5
FORKS_IN_A_ROW = 4  # children that are forked when one is needed and none waits, while attempts are under way
SPARE_DELAY = 0.01  # seconds without an event after which a child is forked in advance: not amid a burst


def main() -> NoReturn:
    """`python -c … SOCKET LIFELINE_READ LIFELINE_WRITE`: three descriptors. The configuration, a JSON object, is on
    the standard input.

    The object has `grace` in seconds, `imports` (names of modules), `jobs` (paths of job modules) and `spares`.
    """
    control, lifeline, lifeline_end = (int(word) for word in sys.argv[1:4])
    config = _configuration()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a service manager signals every process; the daemon decides
    sys.dont_write_bytecode = True  # a job's folder belongs to the operator
    process_tree.become_subreaper()
    with socket.socket(fileno=control) as sock:

        def report_import(path: Path) -> None:
            try:
                sock.send(encode("importing", path=str(path)))
            except ConnectionError:
                os._exit(0)  # the daemon was killed

        restore = single_threaded_blas()
        preload_libraries(config["imports"])
        jobs = preload_jobs([Path(path) for path in config["jobs"]], report_import)
        restore()
        child.prepare_streams()
        child.environment_secrets()
        gc.collect()
        gc.freeze()  # a collection in a child would write to, and so copy, the pages of all these objects
        ForkServer(sock, lifeline, config["grace"], jobs, config["spares"]).serve()
    os.close(lifeline_end)
    os._exit(0)


def _configuration() -> dict[str, Any]:
    """Read the standard input to its end, and give it back empty: attempts inherit it."""
    with os.fdopen(0, "rb", closefd=False) as stdin:
        config: dict[str, Any] = json.loads(stdin.read())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return config


@dataclass
class _Attempt:
    pid: int
    socket: socket.socket
    until: float | None = None  # on the clock since boot; it is killed then
    lapsed: bool = False
    leftovers: list[str] = field(default_factory=list)


class ForkServer:
    """Forks a child for each request, reaps it, and reports how the attempt ended."""

    def __init__(
        self,
        control: socket.socket,
        lifeline: int,
        grace_seconds: float,
        jobs: Mapping[str, PreloadedJob],
        spares: int,
    ) -> None:
        """`spares`: children that wait for an attempt, forked in advance while there is nothing else to do."""
        self._control = control
        self._lifeline = lifeline
        self._grace_seconds = grace_seconds
        self._jobs = jobs
        self._most_spares = spares
        self._spares: dict[int, socket.socket] = {}  # pid and the socket that the child waits at
        self._retiring = False
        self._attempts: dict[int, _Attempt] = {}
        self._selector = selectors.DefaultSelector()
        self._wake, wake_end = socket.socketpair()
        self._wake.setblocking(False)
        wake_end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake_end.fileno(), warn_on_full_buffer=False)
        self._wake_end = wake_end
        self._selector.register(control, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)

    def serve(self) -> None:
        """Serve until the daemon closes its end, or retires this process and its last attempt has ended."""
        with suppress(ConnectionError):  # the daemon was killed, which the next request shows
            self._control.send(encode("ready"))
        in_a_row = 0
        while not (self._retiring and not self._attempts):
            events = self._selector.select(self._patience())
            self._kill_lapsed()
            if not events and len(self._spares) < self._most_spares:
                self._fork_spare()
            requested = any(key.fileobj is self._control for key, _ in events)
            if requested and not self._handle_request():
                self._end_all()
                return
            in_a_row = in_a_row + 1 if requested else 0
            if in_a_row % REQUESTS_IN_A_ROW:
                continue
            for key, _ in events:
                if key.fileobj is self._wake:
                    self._reap()
                elif key.fileobj is not self._control:
                    self._handle_message(key.data)
        self._end_spares()

    def _patience(self) -> float | None:
        """Return the seconds to wait for events: until an attempt lapses, or a child may be forked in advance."""
        waits = [SPARE_DELAY] if len(self._spares) < self._most_spares and not self._retiring else []
        ends = [a.until for a in self._attempts.values() if a.until is not None and not a.lapsed]
        if ends:
            waits.append(max(0.0, min(ends) - since_boot()))
        return min(waits, default=None)

    def _kill_lapsed(self) -> None:
        now = since_boot()
        for attempt in list(self._attempts.values()):
            if attempt.until is None or attempt.lapsed or now < attempt.until:
                continue
            self._handle_message(attempt)  # the socket may hold a renewal that was not read yet
            if now >= attempt.until:
                attempt.lapsed = True
                process_tree.kill_all([attempt.pid])

    def _handle_request(self) -> bool:
        """Serve one request of the daemon; False when the daemon is gone."""
        try:
            message, descriptors = receive(self._control)
        except ConnectionError:
            return False
        if not message:
            return False
        request = decode(message)
        if request["type"] == "start" and len(descriptors) == START_DESCRIPTORS:
            self._start(request["path"], request["until"], descriptors)
            return True
        if request["type"] == "retire":
            self._retiring, self._most_spares = True, 0
            self._end_spares()
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _start(self, path: str, until: float | None, descriptors: list[int]) -> None:
        own, *child_descriptors = descriptors
        pid = None
        if until is None or since_boot() < until:
            pid = self._use_spare(child_descriptors, STALE if self._is_stale(path) else CURRENT)
        # From here on the child runs. With its family and type given, a socket does not ask the kernel for them.
        attempt_socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, own)
        for descriptor in child_descriptors:
            os.close(descriptor)
        if pid is None:
            with attempt_socket, suppress(OSError):
                attempt_socket.send(encode("ended", code=None, signal=None, leftovers=[], lapsed=True))
            return
        attempt = _Attempt(pid, attempt_socket, until=until)
        attempt.socket.setblocking(False)
        self._attempts[pid] = attempt
        self._selector.register(attempt.socket, selectors.EVENT_READ, attempt)

    def _is_stale(self, path: str) -> bool:
        """Whether the child has to import this job, since its files have changed; the daemon is informed."""
        job = self._jobs.get(path)
        if job is None or job.is_current:
            return False
        with suppress(OSError):
            self._control.send(encode("stale", path=path), socket.MSG_DONTWAIT)
        return True

    # --- children that are forked in advance ---

    def _use_spare(self, child_descriptors: list[int], message: bytes) -> int:
        """Give the attempt to the child that has waited longest, forked now if there is none; return its pid."""
        while True:
            if not self._spares:
                # After a fork, the first write to each page of this process copies it: fork several in a row.
                for _ in range(min(FORKS_IN_A_ROW, max(1, self._most_spares)) if self._attempts else 1):
                    self._fork_spare()
            pid = next(iter(self._spares))
            with self._spares.pop(pid) as requests, suppress(OSError):
                socket.send_fds(requests, [message], child_descriptors)
                return pid

    def _fork_spare(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            pid = os.fork()
            if pid == 0:
                child.wait(theirs, self._lifeline, self._jobs)
        self._spares[pid] = ours

    def _end_spares(self) -> None:
        process_tree.kill_all(list(self._spares))
        for pid, requests in self._spares.items():
            os.waitpid(pid, 0)  # else it becomes a zombie of the daemon, which adopts orphans
            requests.close()
        self._spares.clear()

    def _handle_message(self, attempt: _Attempt) -> None:
        kind = self._receive(attempt)
        if kind is None:
            return
        if kind == "term":
            process_tree.signal_tree(attempt.pid, signal.SIGTERM)
            return
        process_tree.kill_all([attempt.pid])  # `kill`, or the supervisor is gone
        if kind != "kill":
            with suppress(KeyError):
                self._selector.unregister(attempt.socket)

    def _receive(self, attempt: _Attempt) -> str | None:
        """Apply renewals, and return the type of the next other message; empty: the socket is closed; None: none."""
        while True:
            try:
                message = attempt.socket.recv(256)
            except BlockingIOError:
                return None
            except ConnectionError:
                return ""
            if not message:
                return ""
            fields = decode(message)
            if fields["type"] != "renew":
                return str(fields["type"])
            attempt.until = fields["until"]

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            while self._wake.recv(4096):
                pass
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            attempt = self._attempts.get(ended.si_pid)
            spare = self._spares.pop(ended.si_pid, None)
            if spare is not None:
                spare.close()
            if attempt is None:  # a process that an attempt left running
                os.waitpid(ended.si_pid, 0)
                self._kill_leftovers(None)
            else:
                self._finish(attempt)

    def _finish(self, attempt: _Attempt) -> None:
        # Until it is reaped its pid cannot name another process, so its group can be killed by number.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(attempt.pid, signal.SIGKILL)
        self._kill_leftovers(attempt)
        _, status = os.waitpid(attempt.pid, 0)
        del self._attempts[attempt.pid]
        with suppress(KeyError, ValueError):
            self._selector.unregister(attempt.socket)
        signalled = os.WIFSIGNALED(status)
        code, number = (None, os.WTERMSIG(status)) if signalled else (os.WEXITSTATUS(status), None)
        ended = encode("ended", code=code, signal=number, leftovers=attempt.leftovers, lapsed=attempt.lapsed)
        with attempt.socket, suppress(OSError):
            attempt.socket.send(ended)

    def _kill_leftovers(self, attempt: _Attempt | None) -> None:
        """Kill what ended attempts left running: each child of this process that it did not fork itself."""
        deadline = time.monotonic() + LEFTOVER_SECONDS
        named: set[int] = set()
        while True:
            left = [
                pid
                for pid in process_tree.children_of(os.getpid())
                if pid not in self._attempts and pid not in self._spares
            ]
            alive = [pid for pid in left if not process_tree.is_zombie(pid)]
            for pid in left:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            if not alive:
                return
            for pid in alive:
                if attempt is not None and pid not in named and len(attempt.leftovers) < LEFTOVERS_NAMED:
                    attempt.leftovers.append(process_tree.name_of(pid))
                named.add(pid)
            process_tree.kill_all(alive)
            if time.monotonic() > deadline:
                return
            time.sleep(0.001)

    def _end_all(self) -> None:
        """End every child after the daemon is gone: TERM, grace, KILL."""
        self._end_spares()
        for pid in self._attempts:
            process_tree.signal_tree(pid, signal.SIGTERM)
        deadline = time.monotonic() + self._grace_seconds
        while self._attempts and time.monotonic() < deadline:
            self._selector.select(0.1)
            self._reap()
        process_tree.kill_all(list(self._attempts))
        deadline = time.monotonic() + 5
        while self._attempts and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.002)
        self._kill_leftovers(None)
