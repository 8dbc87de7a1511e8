"""The loop of a process that forks a child for each attempt: of the template, and of that of one job.

`asking` has what it is asked. A socket that closes means that the other side is gone:

- the template is gone: children live on, the daemon adopts them (it is a subreaper) and starts another template;
- a job's template is gone: the template ends what it left;
- the daemon is gone: both end all their children (TERM, grace, KILL) and then themselves;
- all are gone: the lifeline, a pipe whose writing end only these hold, has the kernel kill every child's group.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from maintd.clock import since_boot
from maintd.errors import JobError
from maintd.executor import child, process_tree
from maintd.executor.fork_protocol import (
    DESCRIPTORS,
    HOLD,
    KILL,
    OPEN,
    READY,
    RETIRE,
    SPARES,
    START,
    TERM,
    ending_message,
    parse_open,
    parse_spares,
    parse_start,
    ready_message,
    receive,
)
from maintd.executor.opening import LooksAroundError, Opened, open_for_many

USUAL_SPARES = 4
"""Children forked in advance, as many as there are slots by default: a first line within 2 ms instead of 7. About 5 MiB
each while the template is there."""

MOST_SPARES = 100
"""For a job of which many are due at once, as many as may run then. They take early what they will need in a moment,
and are not replaced when they were used."""

OPEN_WITHIN = 10  # seconds that loading a job's module may take in its template
FIRST = 50  # requests are taken in a row before anything else is done
LULL = 0.01  # seconds without a request, after which a spare is forked: not in the middle of a burst
LEFTOVER_PATIENCE = 0.5  # seconds that one look waits for killed leftovers to be gone; SIGCHLD brings the next look
LEFTOVERS_NAMED = 5


@dataclass
class _Attempt:
    pid: int
    socket: socket.socket
    left: list[str] = field(default_factory=list)
    hold_until: float | None = None
    lapsed: bool = False


class Forker:
    """Forks when it is asked, reaps, and tells how each attempt ended."""

    def __init__(
        self,
        control: socket.socket,
        lifeline: int,
        lifeline_end: int,
        grace: float,
        *,
        spares: int = USUAL_SPARES,
        opened: Opened | None = None,
    ) -> None:
        """`opened`: the job whose template this is. The grace is in seconds."""
        self._control = control
        self._lifeline = lifeline
        self._lifeline_end = lifeline_end
        self._grace = grace
        self._opened = opened
        self._usual_spares = min(spares, USUAL_SPARES)
        self._most_spares = min(spares, MOST_SPARES)
        self._job_templates: set[int] = set()
        self._retiring = False
        self._attempts: dict[int, _Attempt] = {}
        self._spares: dict[int, socket.socket] = {}  # forked in advance: pid and the way to tell it what to do
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
        """Until the daemon closes its end, or has no more use for it."""
        self._control.send(READY if self._opened is None else ready_message(self._opened.files))
        in_a_row = 0
        while not (self._retiring and not self._attempts):
            events = self._selector.select(self._patience())
            self._kill_lapsed()
            if not events and len(self._spares) < self._most_spares:
                self._fork_spare()
            asked = any(key.fileobj is self._control for key, _ in events)
            if asked and not self._take_request():
                self._end_all()
                return
            in_a_row = in_a_row + 1 if asked else 0
            if in_a_row % FIRST:  # what is to start goes before what is over
                continue
            for key, _ in events:
                if key.fileobj is self._wake:
                    self._reap()
                elif key.fileobj is not self._control:
                    self._obey(key.data)
        self._end_spares()

    def _patience(self) -> float | None:
        waits = [] if len(self._spares) >= self._most_spares else [LULL]
        holds = [a.hold_until for a in self._attempts.values() if a.hold_until is not None and not a.lapsed]
        if holds:
            waits.append(max(0.0, min(holds) - since_boot()))
        return min(waits, default=None)

    def _kill_lapsed(self) -> None:
        now = since_boot()
        for attempt in self._attempts.values():
            if attempt.hold_until is None or attempt.lapsed or now < attempt.hold_until:
                continue
            self._obey(attempt)  # a later time may lie there unread
            if now >= attempt.hold_until:
                attempt.lapsed = True
                process_tree.kill_all([attempt.pid])

    def _take_request(self) -> bool:
        try:
            message, descriptors = receive(self._control)
        except ConnectionError:
            return False
        if not message:
            return False
        if message.startswith(OPEN) and len(descriptors) == 1:
            self._fork_job_template(*parse_open(message), descriptors[0])
        elif message.startswith(SPARES):
            self._most_spares = max(self._usual_spares, min(parse_spares(message), MOST_SPARES))
        elif message == RETIRE:
            self._retiring = True
            self._most_spares = self._usual_spares = 0
            self._end_spares()
        elif message.startswith(START) and len(descriptors) == DESCRIPTORS:
            self._start(descriptors, parse_start(message))
        else:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _start(self, descriptors: list[int], until: float | None) -> None:
        own, *given = descriptors
        if until is not None and since_boot() >= until:
            with socket.socket(fileno=own) as sock, suppress(OSError):
                sock.send(ending_message(None, None, [], lapsed=True))
            for descriptor in given:
                os.close(descriptor)
            return
        pid = self._send_spare(given) or os.fork()
        if pid == 0:
            child.live(given, self._lifeline, self._opened)
        for descriptor in given:
            os.close(descriptor)
        attempt = _Attempt(pid, socket.socket(fileno=own), hold_until=until)
        attempt.socket.setblocking(False)
        self._attempts[pid] = attempt
        self._selector.register(attempt.socket, selectors.EVENT_READ, attempt)

    def _send_spare(self, given: list[int]) -> int:
        """Give the attempt to a child that waits; its pid, 0 when there is none."""
        while self._spares:
            pid, errand = self._spares.popitem()
            self._most_spares = max(self._most_spares - 1, self._usual_spares)
            with errand, suppress(OSError):
                socket.send_fds(errand, [START], given)
                return pid
        return 0

    def _fork_spare(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            pid = os.fork()
            if pid == 0:
                child.wait(theirs.fileno(), self._lifeline, self._opened)
        self._spares[pid] = ours

    def _end_spares(self) -> None:
        process_tree.kill_all(list(self._spares))
        for pid, errand in self._spares.items():  # else they were zombies of the daemon, which takes in orphans
            os.waitpid(pid, 0)
            errand.close()
        self._spares.clear()

    def _fork_job_template(self, path: Path, spares: int, control: int) -> None:
        pid = os.fork()
        if pid == 0:
            with suppress(BaseException):
                self._close_all()
                with socket.socket(fileno=control) as sock:
                    opened = _open_or_tell(path, sock)
                    if opened is not None:
                        ends = self._lifeline, self._lifeline_end
                        Forker(sock, *ends, self._grace, spares=spares, opened=opened).serve()
            os._exit(0)
        os.close(control)
        self._job_templates.add(pid)

    def _close_all(self) -> None:
        """Let go of what belongs to the process that this one was forked from."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        for one in (self._control, self._wake, self._wake_end, *self._spares.values()):
            one.close()
        for attempt in self._attempts.values():
            attempt.socket.close()

    def _obey(self, attempt: _Attempt) -> None:
        message = self._hear(attempt)
        if message is None:
            return
        if message == TERM:
            process_tree.signal_tree(attempt.pid, signal.SIGTERM)
            return
        process_tree.kill_all([attempt.pid])  # KILL, or nobody supervises it any more
        if message != KILL:
            with suppress(KeyError):
                self._selector.unregister(attempt.socket)

    def _hear(self, attempt: _Attempt) -> bytes | None:
        """The first message that is no HOLD, empty when the daemon is gone; None when none has come."""
        while True:
            try:
                message = attempt.socket.recv(64)
            except BlockingIOError:
                return None
            except ConnectionError:
                return b""
            if not message.startswith(HOLD):
                return message
            attempt.hold_until = float(message.removeprefix(HOLD))

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            while self._wake.recv(4096):
                pass
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            attempt = self._attempts.get(found.si_pid)
            spare = self._spares.pop(found.si_pid, None)
            if spare is not None:
                spare.close()
            self._job_templates.discard(found.si_pid)
            if attempt is None:  # something that an attempt left behind
                os.waitpid(found.si_pid, 0)
                self._kill_leftovers(None)
                continue
            self._finish(attempt)

    def _finish(self, attempt: _Attempt) -> None:
        # Until it is reaped its number cannot mean another process, so its group can be killed by number.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(attempt.pid, signal.SIGKILL)
        self._kill_leftovers(attempt)
        _, status = os.waitpid(attempt.pid, 0)
        del self._attempts[attempt.pid]
        with suppress(KeyError, ValueError):
            self._selector.unregister(attempt.socket)
        signalled = os.WIFSIGNALED(status)
        code, number = (None, os.WTERMSIG(status)) if signalled else (os.WEXITSTATUS(status), None)
        with suppress(OSError):
            attempt.socket.send(ending_message(code, number, attempt.left, lapsed=attempt.lapsed))
        attempt.socket.close()

    def _kill_leftovers(self, attempt: _Attempt | None) -> None:
        """End what dead attempts left behind: each child of this process that it did not fork itself."""
        deadline = time.monotonic() + LEFTOVER_PATIENCE
        named: set[int] = set()
        while True:
            own = self._attempts.keys() | self._spares.keys() | self._job_templates
            left = [pid for pid in process_tree.children_of(os.getpid()) if pid not in own]
            alive = [pid for pid in left if not process_tree.is_zombie(pid)]
            for pid in left:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            if not alive:
                return
            for pid in alive:
                if attempt is not None and pid not in named and len(attempt.left) < LEFTOVERS_NAMED:
                    attempt.left.append(process_tree.name_of(pid))
                named.add(pid)
            process_tree.kill_all(alive)
            if time.monotonic() > deadline:
                return
            time.sleep(0.001)

    def _end_all(self) -> None:
        """The daemon is gone: TERM, grace, KILL for everything, then nothing holds the lifeline any more."""
        self._end_spares()
        for pid in self._attempts:
            process_tree.signal_tree(pid, signal.SIGTERM)
        deadline = time.monotonic() + self._grace
        while (self._attempts or self._job_templates) and time.monotonic() < deadline:
            self._selector.select(0.1)
            self._reap()
        process_tree.kill_all([*self._attempts, *self._job_templates])
        deadline = time.monotonic() + 5
        while (self._attempts or self._job_templates) and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.002)
        self._kill_leftovers(None)


def _open_or_tell(path: Path, control: socket.socket) -> Opened | None:
    """The beginning of a job's template. None: the module must be loaded for each attempt, and the daemon was told."""
    process_tree.become_subreaper()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(OPEN_WITHIN)  # the end of one that hangs; its attempts will hang too, and be stopped at their deadline
    try:
        opened = open_for_many(path)
    except (LooksAroundError, JobError) as error:
        control.send(json.dumps({"unfit": str(error)[:1000]}).encode())
        return None
    signal.alarm(0)
    gc.collect()
    gc.freeze()
    return opened
