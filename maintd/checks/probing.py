"""Look at many targets at once: one that hangs costs its own patience and delays no other."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from maintd.errors import MaintdError, TargetError


@dataclass(frozen=True)
class Probe:
    """One look. `patience` bounds all of it, also what a client library does not, such as the name's resolution."""

    kind: str
    name: str
    look: Callable[[], Any]
    patience: timedelta

    @property
    def subject(self) -> str:
        """How checks name it: `postgres main`."""
        return f"{self.kind} {self.name}"


def outcomes(probes: Sequence[Probe]) -> Iterator[tuple[Probe, Any | MaintdError]]:
    """Each probe with its facts or its error, in the order given, as soon as they are there.

    An error that is not one of ours is a bug: it is raised when all others have been handed out.
    """
    started = time.monotonic()
    boxes = [_begin(probe) for probe in probes]
    bugs: list[BaseException] = []
    for probe, box in zip(probes, boxes, strict=True):
        left = started + probe.patience.total_seconds() - time.monotonic()
        try:
            found = box.get(timeout=max(left, 0.001))
        except queue.Empty:
            # The thread is left behind: it is a daemon, and this process ends with the job.
            seconds = probe.patience.total_seconds()
            found = TargetError(
                f"{probe.name}: no end of answers in {seconds:g} s",
                "is it, or the name server, hung?",
                cause="timed_out",
            )
        if isinstance(found, BaseException) and not isinstance(found, MaintdError):
            bugs.append(found)
        else:
            yield probe, found
    if bugs:
        raise bugs[0]


def _begin(probe: Probe) -> queue.Queue[Any]:
    box: queue.Queue[Any] = queue.Queue(1)

    def work() -> None:
        try:
            box.put(probe.look())
        except BaseException as error:  # noqa: BLE001 - it is handed over and raised again by `outcomes`
            box.put(error)

    threading.Thread(target=work, name=f"look at {probe.subject}", daemon=True).start()
    return box
