"""Messages between the daemon and its template process: JSON objects over sockets that keep message boundaries.

On the template's control socket:

- daemon → template: `start` with six descriptors (the attempt's own socket, the order, the pipes for the child's
  report, standard output and standard error, and the pipe on which its changes are confirmed); `retire`: the template
  ends after its last attempt.
- template → daemon: `importing` before each job module, `ready` once after the last one, and `stale` when a job's
  file has changed since it was imported.

On an attempt's own socket:

- daemon → template: `term`, `kill`, and `renew` with a new end of the lease.
- template → daemon: `ended`, once no process of the attempt is alive any more.

From the template to a child that waits: `current` or `stale`, which is whether the module of the job is imported again,
with the descriptors of `start` but the first.

`start` and `renew` carry `until`, in seconds on the clock since boot, for an attempt that holds a lock. The template
kills the attempt at that time and never starts it later. So its locks are unused before other nodes may take them, even
when the daemon is paused or hangs.
"""

from __future__ import annotations

import array
import json
import socket
from typing import Any

CURRENT, STALE = b"current", b"stale"
"""The messages to a child that waits. They are no JSON, since its decoder would cost the child 43 page faults."""

MAX_MESSAGE = 8192  # bytes
START_DESCRIPTORS = 6


def encode(kind: str, **fields: Any) -> bytes:
    """Return a message of this type."""
    return json.dumps({"type": kind, **fields}).encode()


def encode_start(path: str, until: float | None) -> bytes:
    """Return the request for an attempt at the job in this file, which may live until then."""
    return encode("start", path=path, until=until)


def decode(message: bytes) -> dict[str, Any]:
    """Return the message's fields, `type` included."""
    fields: dict[str, Any] = json.loads(message)
    return fields


def receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """Receive one message with its descriptors, which are closed in every program that is executed."""
    numbers = array.array("i")
    message, ancillary, _, _ = control.recvmsg(
        MAX_MESSAGE, socket.CMSG_SPACE(8 * numbers.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    return message, list(numbers)
