"""What the daemon and the templates say to each other, over a socket pair that keeps messages apart.

START, with five descriptors, asks for an attempt: the attempt's own socket, the order, and where the child's report,
standard output and standard error go. Over the attempt's socket come TERM and KILL, and back goes how it ended, once
nothing of it is alive any more. A time in START tells until when the attempt may live unless HOLD tells a later one: so
one that holds a lock is dead before others may take it, and is not begun after that, also when the daemon is paused or
hangs.

OPEN, with one descriptor, asks the template for a template of one job, which is asked over that descriptor in the same
way, until RETIRE: then it ends with its last attempt. SPARES tells it how many attempts are expected at once.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path

READY = b"ready"
START = b"start"  # with seconds on the clock since boot, for one that holds a lock
OPEN = b"open "  # with a number of spares and the path of a job's module
SPARES = b"spares "  # with a number
RETIRE = b"retire"
TERM = b"TERM"
KILL = b"KILL"
HOLD = b"HOLD "  # with seconds on the clock since boot

DESCRIPTORS = 5
LONGEST = 8192  # bytes of a request


def start_request(until: float | None) -> bytes:
    """What asks for an attempt, which may live until that moment on the clock since boot."""
    return START if until is None else START + b" " + str(until).encode()


def parse_start(message: bytes) -> float | None:
    """Until when."""
    until = message.removeprefix(START)
    return float(until) if until else None


def open_request(path: Path, spares: int) -> bytes:
    """What asks the template for a template of this job."""
    return OPEN + b"%d " % spares + os.fsencode(path)


def parse_open(message: bytes) -> tuple[Path, int]:
    """The path and the spares of such a request."""
    spares, _, path = message.removeprefix(OPEN).partition(b" ")
    return Path(os.fsdecode(path)), int(spares)


def spares_request(spares: int) -> bytes:
    """What tells a job's template how many attempts are expected."""
    return SPARES + b"%d" % spares


def parse_spares(message: bytes) -> int:
    """How many."""
    return int(message.removeprefix(SPARES))


def ready_message(files: Mapping[str, object]) -> bytes:
    """What a job's template says when it can be asked; `files` are those that the job was loaded from, as they were."""
    return json.dumps({"pid": os.getpid(), "files": files}).encode()


def ending_message(code: int | None, number: int | None, left: list[str], *, lapsed: bool) -> bytes:
    """How an attempt ended: exit code or signal, what it left running, whether it lived as long as it might."""
    return json.dumps({"code": code, "signal": number, "left": left, "lapsed": lapsed}).encode()


def receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """One message with its descriptors, which no program that is started inherits."""
    numbers = array.array("i")
    message, ancillary, _, _ = control.recvmsg(
        LONGEST, socket.CMSG_SPACE(8 * numbers.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    return message, list(numbers)
