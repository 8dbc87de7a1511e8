"""Collect facts from many targets at the same time, each with its own timeout."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from maintd.errors import MaintdError, TargetError

T = TypeVar("T")


@dataclass(frozen=True)
class Probe:
    """One target to collect facts from.

    `timeout` bounds all of it, also what the timeouts of a client library do not cover, such as name resolution.
    """

    kind: str
    name: str
    collect: Callable[[], Any]
    timeout: timedelta

    @property
    def subject(self) -> str:
        """The subject of its checks: `postgres main`."""
        return f"{self.kind} {self.name}"


def collect_all(probes: Sequence[Probe]) -> Iterator[tuple[Probe, Any | MaintdError]]:
    """Run all probes at once; yield each with its facts or its error, in the order given, as soon as it is known.

    An exception that is not a MaintdError is a bug: it is raised after all other probes were yielded.
    """
    started = time.monotonic()
    results = [_start(probe) for probe in probes]
    bugs: list[BaseException] = []
    for probe, result in zip(probes, results, strict=True):
        left = started + probe.timeout.total_seconds() - time.monotonic()
        try:
            facts = result.get(timeout=max(left, 0.001))
        except queue.Empty:
            # The thread continues: it is a daemon thread, and this process ends with the job.
            seconds = probe.timeout.total_seconds()
            facts = TargetError(
                f"{probe.name}: no complete answer within {seconds:g} s",
                "check whether it hangs, or the name server does",
                cause="timed_out",
            )
        if isinstance(facts, BaseException) and not isinstance(facts, MaintdError):
            bugs.append(facts)
        else:
            yield probe, facts
    if bugs:
        raise bugs[0]


def value_or_error(read: Callable[[], T]) -> T | TargetError:
    """What `read` returns, or the TargetError that it raises, so that one missing fact does not hide the others."""
    try:
        return read()
    except TargetError as error:
        return error


def _start(probe: Probe) -> queue.Queue[Any]:
    result: queue.Queue[Any] = queue.Queue(1)

    def work() -> None:
        try:
            result.put(probe.collect())
        except BaseException as error:  # noqa: BLE001 - `collect_all` raises it again
            result.put(error)

    threading.Thread(target=work, name=f"collect {probe.subject}", daemon=True).start()
    return result
