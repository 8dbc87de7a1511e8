"""The child's side of an attempt: what runs in the forked process, from its first instruction to its last.

Until the job runs, this code uses as few objects as it can: each page that a child writes to first, if only to count a
reference, is copied, which takes 2 to 4 µs; so a function of the standard library is as dear as the system call in it.

The child has no access to the store. It reports over one pipe (see `child_protocol`); what the job prints goes to two
others. What a job does here reaches no further than its own process group and the processes that it starts.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from maintd.errors import JobError, MaintdError, TargetError
from maintd.executor import process_tree
from maintd.executor.child_protocol import (
    CONFIRMATION,
    MAX_MESSAGE,
    AttemptRequest,
    ChildStarted,
    JobEnded,
    encode,
    targets_of,
)
from maintd.executor.fork_protocol import STALE, receive
from maintd.executor.job_user import JobUser, become
from maintd.executor.preloading import PreloadedJob
from maintd.job.context import Context
from maintd.job.loader import open_job
from maintd.job.references import referenced_values, resolve_references
from maintd.model.evidence import Change, ChangeState, LogLine
from maintd.model.target import Targets, secrets_of
from maintd.redaction import SHORTEST_LINE, forms_of, is_secret_name

TRACEBACK_LENGTH = 20_000

WORKING_DIRECTORY = ("PWD", "OLDPWD")
"""Variables of every environment whose names look like those of passwords."""

_RETURNED = encode(JobEnded(ok=True))


class StopRequestedError(BaseException):
    """SIGTERM arrived: not an Exception, so a job's own handlers let it pass, while `finally` and `with` clean up."""


def wait(requests: socket.socket, lifeline: int, jobs: Mapping[str, PreloadedJob]) -> NoReturn:
    """Wait in a process that was just forked for the descriptors of an attempt, run it, and exit.

    They come over the socket: descriptors of the order, and of the pipes for report, standard output and standard
    error. The message is STALE if the job's files have changed since the template imported it.
    `jobs`: the modules that the template has imported.
    """
    code = 0
    try:
        _leave_template(lifeline, requests.fileno())
        message, descriptors = receive(requests)
        requests.close()
        if len(descriptors) == 5:
            code = 1
            code = _run(descriptors, {} if message == STALE else jobs)
    finally:
        _exit(code)


def _run(descriptors: Sequence[int], jobs: Mapping[str, PreloadedJob]) -> int:
    """Run the attempt; return the exit code."""
    order, report, out, err, confirmed = descriptors
    for descriptor, number in ((out, 1), (err, 2)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin, sys.stdout, sys.stderr = _streams()
    signal.signal(signal.SIGTERM, _stop)
    return 0 if _Attempt(order, report, confirmed, jobs).run() else 1


def _exit(code: int) -> NoReturn:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001, S110 - nothing can be done about lost output
        pass
    os._exit(code)


def _leave_template(lifeline: int, requests: int) -> None:
    """Get a session and signals of our own, die with the lifeline, and keep only descriptors 0 to 2 and `requests`."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.closerange(3, min(lifeline, requests))
    os.closerange(min(lifeline, requests) + 1, max(lifeline, requests))
    os.closerange(max(lifeline, requests) + 1, 1 << 20)
    process_tree.die_with(lifeline)
    os.close(lifeline)
    process_tree.become_subreaper()


@cache
def _streams() -> tuple[TextIO, TextIO, TextIO]:
    """Return the standard streams of a child, at 0 to 2, made once: creating one asks whether its file can seek."""
    return (
        open(0, encoding="utf-8", errors="replace", closefd=False),
        open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False),
        open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False),
    )


def prepare_streams() -> None:
    """Create in the template the streams that every child uses, with pipes at the descriptors as in a child."""
    kept = [os.dup(number) for number in (1, 2)]
    ends = os.pipe()
    try:
        for number in (1, 2):
            os.dup2(ends[1], number)
        _streams()
    finally:
        for number, descriptor in zip((1, 2), kept, strict=True):
            os.dup2(descriptor, number)
        for descriptor in (*ends, *kept):
            os.close(descriptor)


def _stop(number: int, frame: FrameType | None) -> None:
    raise StopRequestedError


class _Attempt:
    """One attempt, in this process."""

    def __init__(self, order: int, report: int, confirmed: int, jobs: Mapping[str, PreloadedJob]) -> None:
        self._report = report
        self._confirmed = confirmed
        self._lock = threading.Lock()
        self._confirmation = threading.Lock()  # held by a thread that waits for one
        self._stopped = False
        self._unfinished_line = False  # SIGTERM interrupted the sending of a message
        pickled = os.read(order, os.fstat(order).st_size)
        os.close(order)
        self._order: AttemptRequest = pickle.loads(pickled)  # noqa: S301 - from the daemon that forked us
        self._job = jobs.get(self._order.path)
        self._targets: Targets | None = None

    def run(self) -> bool:
        """Import the job, run it and report how it ended; whether it returned."""
        order = self._order
        for name, value in order.environ.items():
            os.environ[name] = value
        if order.user is not None and not self._become(order.user):
            return False
        self._secrets = _secrets(order)
        self._write(_started(self._secrets))
        try:
            self._run_job(order)
        except BaseException as error:  # noqa: BLE001 - the border: whatever the job raises becomes the outcome
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the report of the end must not be interrupted
            self._report_error(error)
            return False
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._write(_RETURNED)
        return True

    def _become(self, user: JobUser) -> bool:
        try:
            become(user)
        except OSError as error:
            self._write(_started(()))
            self._report_error(JobError(f"cannot take on the rights of {user.name}: {error}", "see MAINTD_JOB_USER"))
            return False
        return True

    def _run_job(self, order: AttemptRequest) -> None:
        if self._job is None:
            function, params_type = open_job(Path(order.path))
        else:
            self._job.activate()
            function, params_type = self._job.run, self._job.params
        params = params_type.model_validate(resolve_references(order.params, os.environ, order.secrets))
        function(Context(order.info, self._targets_of_order, self._send, self._log, self._secrets), params)

    def _targets_of_order(self) -> Targets:
        if self._targets is None:
            self._targets = targets_of(self._order)
        return self._targets

    def _log(self, text: str) -> None:
        at = datetime.now(UTC)
        for line in str(text).splitlines() or [""]:
            # The supervisor numbers all lines of the attempt, from whichever pipe they come.
            self._send(LogLine(seq=0, at=at, stream="log", text=line[: MAX_MESSAGE // 8]))

    def _report_error(self, error: BaseException) -> None:
        self._stopped = isinstance(error, StopRequestedError)
        try:
            ended = JobEnded(
                ok=False,
                reason=_reason(error, Path(self._order.path))[:4000],
                traceback=_trace(error, Path(self._order.path)),
                not_configured=isinstance(error, TargetError) and error.cause == "not_configured",
            )
        except MemoryError:
            ended = JobEnded(ok=False, reason="MemoryError: too little memory was left to report where")
        self._send(ended)

    def _send(self, message: Any) -> None:
        line = encode(message)
        if len(line) > MAX_MESSAGE:
            raise JobError(
                f"a {message.type} of {len(line)} bytes is longer than the limit of {MAX_MESSAGE}",
                "save long texts with ctx.save",
            )
        if self._order.confirms and isinstance(message, Change) and message.state is ChangeState.INTENDED:
            with self._confirmation:
                self._write(line)
                self._wait_until_confirmed(message.number)
        else:
            self._write(line)

    def _wait_until_confirmed(self, number: int) -> None:
        """Wait until the supervisor has recorded that a change is intended. Without it the change must not be made."""
        while found := os.read(self._confirmed, CONFIRMATION.size):
            if CONFIRMATION.unpack(found)[0] == number:
                return
        raise StopRequestedError  # the daemon is gone

    def _write(self, line: bytes) -> None:
        # A time limit, since SIGTERM may have interrupted this very function.
        held = self._lock.acquire(timeout=1 if self._stopped else -1)
        try:
            if self._unfinished_line:
                line = b"\n" + line
            self._unfinished_line = True
            while line:
                line = line[os.write(self._report, line) :]
            self._unfinished_line = False
        finally:
            if held:
                self._lock.release()


def _started(secrets: tuple[str, ...]) -> bytes:
    """Return the first message."""
    pid = os.getpid()
    return encode(ChildStarted(pid=pid, secrets=secrets)) if secrets else b'{"type":"began","pid":%d}\n' % pid


@cache
def environment_secrets() -> tuple[str, ...]:
    """Return the forms of the secrets in the environment. The template calls this first, so its children need not."""
    return tuple(forms_of(_of_environment()))


def _of_environment() -> set[str]:
    return {value for name, value in os.environ.items() if name not in WORKING_DIRECTORY and is_secret_name(name)}


def _secrets(order: AttemptRequest) -> tuple[str, ...]:
    """Return the texts to keep out of the log, the longest first."""
    if not order.has_secrets:
        return environment_secrets()
    targets = targets_of(order)
    found = {*secrets_of(targets)} | referenced_values(order.params, os.environ, _to_hide(order.secrets))
    for kind in type(targets).model_fields:
        found |= referenced_values({n: dict(t) for n, t in targets.of(kind).items()}, os.environ)
    return tuple(forms_of(_of_environment() | found))


def _to_hide(secrets: Mapping[str, str]) -> dict[str, str]:
    """Leave out words such as `prod`: a short value is hidden only if it has the name of a secret."""
    return {
        name: secret
        for name, secret in secrets.items()
        if len(secret) >= SHORTEST_LINE or is_secret_name(name.rpartition(".")[2])
    }


def _reason(error: BaseException, path: Path) -> str:
    """Return the exception in one line; for one that is not maintd's own, with the line of the job."""
    if isinstance(error, MaintdError):
        return " ".join(str(error).split())
    if isinstance(error, StopRequestedError):
        return "stopped by SIGTERM"
    if isinstance(error, SystemExit):
        return f"the job called sys.exit({error.code!r}){_place(error, path)}"
    kind = type(error)
    name = kind.__name__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__name__}"
    text = " ".join(str(error).split())
    return (f"{name}: {text}" if text else name) + _place(error, path)


def _place(error: BaseException, path: Path) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" ({path.name}:{frames[-1].lineno})" if frames else ""


def _trace(error: BaseException, path: Path) -> str:
    """Return the traceback from the job's first frame on; empty where the reason is complete by itself."""
    if isinstance(error, StopRequestedError | MaintdError):
        return ""
    skip: Callable[[Any], bool] = lambda frame: frame.filename != str(path)  # noqa: E731
    frames = list(traceback.extract_tb(error.__traceback__))
    while frames and skip(frames[0]):
        frames.pop(0)
    lines = traceback.format_list(frames) + traceback.format_exception_only(error)
    return "".join(lines)[-TRACEBACK_LENGTH:]
