"""A deadline of one request, whatever it waits for: client libraries have a time-out for each read only."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class Deadline:
    """Ends a request after some seconds by shutting its connection down; a context manager around the request.

    A time-out of each read does not end an answer that is sent one byte at a time.
    """

    def __init__(self, seconds: float) -> None:
        self.over = False
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._timer.cancel()

    def watch(self, connection: socket.socket | None) -> None:
        """Shut this connection down at the deadline, or now if it is over."""
        self._socket = connection
        if self.over:
            self._shut_down()

    def _end(self) -> None:
        self.over = True
        self._shut_down()

    def _shut_down(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # it has ended by itself
                self._socket.shutdown(socket.SHUT_RDWR)
