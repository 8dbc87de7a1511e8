"""What the supervisor of one attempt waits for: its pipes, the template, the process, a request to stop."""

from __future__ import annotations

import os
import select
from typing import Self

from maintd.executor.cancellation import CancelToken
from maintd.executor.fork_client import Launched


class Poll:
    """The descriptors of one attempt."""

    def __init__(self, launched: Launched, stop: CancelToken) -> None:
        self._poll = select.poll()
        self.pipes = {launched.report, launched.out, launched.err}
        self._registered = {*self.pipes, launched.socket.fileno(), stop.fileno()}
        self.template_gone = False
        self.pidfd: int | None = None
        self._held: set[int] = set()
        for descriptor in self._registered:
            self._poll.register(descriptor, select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pidfd is not None:
            os.close(self.pidfd)

    def wait(self, seconds: float) -> list[int]:
        """Descriptors with something to read, or closed."""
        return [descriptor for descriptor, _ in self._poll.poll(min(seconds, 3600) * 1000 + 1)]

    def forget(self, descriptor: int) -> None:
        if descriptor in self._registered:
            self._registered.discard(descriptor)
            self._poll.unregister(descriptor)
        self.pipes.discard(descriptor)

    def hold(self, descriptor: int, *, held: bool) -> None:
        """Do not read from it for now, so that its writer has to wait."""
        if held and descriptor in self._registered:
            self._poll.unregister(descriptor)
            self._registered.discard(descriptor)
            self._held.add(descriptor)
        elif not held and descriptor in self._held:
            self._held.discard(descriptor)
            self._poll.register(descriptor, select.POLLIN)
            self._registered.add(descriptor)

    def watch_process(self, pid: int) -> None:
        """Also wait for the end of this process. Raises ProcessLookupError."""
        self.pidfd = os.pidfd_open(pid)
        self._poll.register(self.pidfd, select.POLLIN)
        self._registered.add(self.pidfd)
