"""The child's side of an attempt: what happens in the forked process from its first instruction to its last.

It knows nothing of the store. What it reports goes over one pipe, as `messages` has it; what the job prints goes to
the two others. Nothing that a job does here reaches further than this process group and what it started.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from pydantic import SecretStr

from maintd.errors import JobError, MaintdError, TargetError
from maintd.executor import process_tree
from maintd.executor.child_protocol import MAX_MESSAGE, AttemptOrder, Began, Ended, encode, targets_of
from maintd.executor.opening import Opened
from maintd.job import JobParams
from maintd.job.context import AttemptInfo, Context
from maintd.job.loader import open_job
from maintd.job.references import referenced_values, resolve_references
from maintd.model.evidence import LogLine
from maintd.model.target import secrets_of

SECRET_LENGTH = 4
"""A shorter text is not hidden in the log: it would blot out half of it."""

TRACEBACK_LENGTH = 20_000

_REFERENCE = b"${"
_SECRETIVE = (_REFERENCE, SecretStr.__name__.encode())
"""What an order has in it when its params refer to secrets, or its targets hold some or refer to some."""

_HIGH = 512  # where descriptors are kept while those below are put in order


class StopAskedError(BaseException):
    """SIGTERM: not an Exception, so that a job's own handlers let it pass, while `finally` and `with` clean up."""


def live(given: Sequence[int], lifeline: int, opened: Opened | None) -> NoReturn:
    """The life of a child that is forked for an attempt. `given`: order, report, output, error output (descriptors).

    `opened`: the job's module, when the template is that of one job.
    """
    code = 1
    try:
        order, report, out, err = _leave(lifeline, given)
        code = _attempt(order, report, out, err, opened)
    finally:
        _exit(code)


def wait(errand: int, lifeline: int, opened: Opened | None) -> NoReturn:
    """The life of a child that is forked in advance: what it is given comes over the socket `errand`, or never."""
    code = 0
    try:
        (errand,) = _leave(lifeline, [errand])
        _rehearse(opened)
        with socket.socket(fileno=errand) as sock:
            _, given, _, _ = socket.recv_fds(sock, 16, 4)
        if len(given) == 4:
            code = 1
            order, report, out, err = given
            code = _attempt(order, report, out, err, opened)
    finally:
        _exit(code)


def _exit(code: int) -> NoReturn:
    with suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _leave(lifeline: int, keep: Sequence[int]) -> list[int]:
    """Leave the template's house: own session and signals, and no descriptors but 0 to 2 and these, which are moved."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    kept = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH) for fd in (lifeline, *keep)]
    os.closerange(3, _HIGH)
    for n, fd in enumerate(kept):
        os.dup2(fd, 3 + n, inheritable=False)
    os.closerange(3 + len(kept), 1 << 20)
    process_tree.die_with(3)
    os.close(3)
    process_tree.become_subreaper()
    return list(range(4, 4 + len(keep)))


class _Params(JobParams):
    text: str = ""


def _rehearse(opened: Opened | None) -> None:
    """Do once what every attempt does first, so that the memory pages it touches are this process's own already."""
    standing = AttemptInfo(
        run_id=0,
        entry="",
        step="",
        attempt=1,
        due_at=None,
        deadline_at=datetime.now(UTC),
        dry_run=True,
        artifacts_dir=Path("/"),
        work_dir=Path("/"),
    )
    pickled = pickle.dumps(AttemptOrder(Path("/"), {}, standing, b""))
    _secrets(pickle.loads(pickled), pickled)  # noqa: S301 - made a line above
    encode(Began(pid=0))
    _Params.model_validate({"text": "x"})
    if opened is None:  # it will load its module itself
        exec(compile("import os\nclass A: pass", "x", "exec"), {})  # noqa: S102 - a constant
        type("Params", (_Params,), {})


@cache
def _streams() -> tuple[TextIO, TextIO, TextIO]:
    """The standard streams of a child, at 0 to 2. Made once: they ask then whether what stands there can seek."""
    return (
        open(0, encoding="utf-8", errors="replace", closefd=False),
        open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False),
        open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False),
    )


def prepare() -> None:
    """In the template: make the streams that every child will have, while pipes stand where theirs are going to."""
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


def _attempt(order: int, report: int, out: int, err: int, opened: Opened | None) -> int:
    """Make the attempt; the exit code."""
    for descriptor, number in ((out, 1), (err, 2)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin, sys.stdout, sys.stderr = _streams()
    signal.signal(signal.SIGTERM, _stop)
    return 0 if _Attempt(order, report, opened).make() else 1


def _stop(number: int, frame: FrameType | None) -> None:
    raise StopAskedError


class _Attempt:
    """One attempt, in this process."""

    def __init__(self, order: int, report: int, opened: Opened | None) -> None:
        self._report = report
        self._opened = opened
        self._lock = threading.Lock()
        self._stopped = False
        self._cut = False  # a message was interrupted before its end
        self._pickled = os.read(order, os.fstat(order).st_size)
        os.close(order)
        self._order: AttemptOrder = pickle.loads(self._pickled)  # noqa: S301 - from the daemon that forked us

    def make(self) -> bool:
        """Load the job, run it and say how it ended; whether it returned."""
        order = self._order
        os.environ.update(order.environ)
        self._send(Began(pid=os.getpid(), secrets=tuple(_secrets(order, self._pickled))))
        try:
            self._run(order)
        except BaseException as error:  # noqa: BLE001 - the border: whatever the job raises becomes the outcome
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # being told is more than being asked a second time
            self._tell(error)
            return False
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._send(Ended(ok=True))
        return True

    def _run(self, order: AttemptOrder) -> None:
        known = self._opened
        run, params = (known.run, known.params) if known is not None else open_job(order.path)
        given = resolve_references(order.params, os.environ) if _REFERENCE in self._pickled else order.params
        made = params.model_validate(given)
        targets = cache(lambda: targets_of(order))
        run(Context(order.standing, targets, self._send, self._log), made)

    def _log(self, text: str) -> None:
        at = datetime.now(UTC)
        for line in str(text).splitlines() or [""]:
            # The supervisor numbers all lines of the attempt, whichever way they come.
            self._send(LogLine(seq=0, at=at, stream="log", text=line[: MAX_MESSAGE // 8]))

    def _tell(self, error: BaseException) -> None:
        self._stopped = isinstance(error, StopAskedError)
        try:
            ended = Ended(
                ok=False,
                reason=_reason(error, self._order.path)[:4000],
                traceback=_trace(error, self._order.path),
                not_configured=isinstance(error, TargetError) and error.cause == "not_configured",
            )
        except MemoryError:
            ended = Ended(ok=False, reason="MemoryError: no memory was left, not even to say where")
        self._send(ended)

    def _send(self, message: Any) -> None:
        line = encode(message)
        if len(line) > MAX_MESSAGE:
            raise JobError(
                f"a {message.type} of {len(line)} bytes is longer than {MAX_MESSAGE}, the most that is taken",
                "save long texts with ctx.save",
            )
        # A time limit, since SIGTERM may have struck in the middle of this very function.
        held = self._lock.acquire(timeout=1 if self._stopped else -1)
        try:
            if self._cut:
                line = b"\n" + line
            self._cut = True
            while line:
                line = line[os.write(self._report, line) :]
            self._cut = False
        finally:
            if held:
                self._lock.release()


def _secrets(order: AttemptOrder, pickled: bytes) -> list[str]:
    if not any(sign in pickled for sign in _SECRETIVE):  # a look that is many times quicker than what it usually saves
        return []
    targets = targets_of(order)
    found = {*secrets_of(targets)} | referenced_values(order.params, os.environ)
    for kind in type(targets).model_fields:
        found |= referenced_values({n: dict(t) for n, t in targets.of(kind).items()}, os.environ)
    return sorted((text for text in found if len(text) >= SECRET_LENGTH), key=len, reverse=True)


def _reason(error: BaseException, path: Path) -> str:
    """The exception in one line; for one that nobody raised on purpose, with the job's line."""
    if isinstance(error, MaintdError):
        return " ".join(str(error).split())
    if isinstance(error, StopAskedError):
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
    """The traceback from the job's own first frame on; empty where the reason says all."""
    if isinstance(error, StopAskedError | MaintdError):
        return ""
    skip: Callable[[Any], bool] = lambda frame: frame.filename != str(path)  # noqa: E731
    frames = list(traceback.extract_tb(error.__traceback__))
    while frames and skip(frames[0]):
        frames.pop(0)
    lines = traceback.format_list(frames) + traceback.format_exception_only(error)
    return "".join(lines)[-TRACEBACK_LENGTH:]
