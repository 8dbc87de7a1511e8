"""Connections of one listener: a bounded number, each with limited time to send a request and to read its response.

Without these bounds idle or half-sent connections use up the file descriptors of the daemon, which plans and supervises
in the same process.
"""

from __future__ import annotations

import asyncio
import pwd
import resource
import socket
import struct
from typing import Any, NamedTuple

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 10.0
"""Time to send a whole request; a client on the same host or network takes milliseconds."""

WRITE_SECONDS = 30.0
"""Time in which a client reads some of its response while more is waiting to be sent."""

RESERVED_DESCRIPTORS = 256
"""Descriptors that connections never use: runs with their pipes, the store, the spool, reloads of the calendar."""

MAX_HEAD_BYTES = 16 * 1024
"""Request line and headers. The longest request that maintd's clients send is below 1 KiB."""


PEER = "peer"
"""The key of the process at the other end of the control socket, in the state of an ASGI scope."""


class SocketPeer(NamedTuple):
    """The process at the other end of a Unix socket. `pid` is 0 for one of another PID namespace."""

    user: str
    uid: int
    pid: int


def socket_peer(sock: Any) -> SocketPeer | None:
    """The process at the other end of a Unix socket, as the kernel knows it; None for another socket.

    Source: SO_PEERCRED in unix(7): pid, uid and gid at the time of connect(2).
    """
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    pid, uid, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII")))
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:  # a uid that this machine or container has no name for
        user = f"uid {uid}"
    return SocketPeer(user, uid, pid)


class Limits(NamedTuple):
    """The limits of one listener."""

    connections: int
    request_seconds: float = REQUEST_SECONDS
    write_seconds: float = WRITE_SECONDS


def max_connections(connections: int) -> int:
    """The number of connections that the process's limit of open files allows, at most the given one, at least 8."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(8, min(connections, (soft - RESERVED_DESCRIPTORS) // 4))


class BoundedConnection(H11Protocol):
    """An HTTP connection that is closed when it takes too long, or when it is idle and a new one needs its place."""

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._request_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._waiting_since = 0.0  # on the event loop's clock, when it began to wait for a request

    @property
    def idle(self) -> bool:
        """Whether no whole request is being answered."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer = socket_peer(transport.get_extra_info("socket"))
        if peer is not None:
            self.app_state = {**self.app_state, PEER: peer}
        if len(self.connections) > self._limits.connections:
            self._evict_idle()
        self._update_request_timer()

    def _evict_idle(self) -> None:
        """Close the connection that has waited longest for a request; this one if all others are being answered."""
        others = (one for one in self.connections if isinstance(one, BoundedConnection) and one is not self)
        oldest = min((one for one in others if one.idle), key=lambda one: one._waiting_since, default=self)  # noqa: SLF001
        self.connections.discard(oldest)  # connection_lost comes later, and more may be accepted until then
        oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_request_timer()

    def on_response_complete(self) -> None:
        self._cancel_request_timer()
        super().on_response_complete()
        self._update_request_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_request_timer()
        self._cancel_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to wait for the client, which reads more slowly than the response is written."""
        super().pause_writing()
        self._cancel_write_timer()
        self._write_timer = self.loop.call_later(self._limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        self._cancel_write_timer()
        super().resume_writing()

    def _update_request_timer(self) -> None:
        """Limit the time until the whole request has arrived; data that drip in do not extend it."""
        if not self.idle:
            self._cancel_request_timer()
        elif self._request_timer is None:
            self._waiting_since = self.loop.time()
            self._request_timer = self.loop.call_later(self._limits.request_seconds, self.transport.abort)

    def _cancel_request_timer(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
