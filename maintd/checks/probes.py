"""Collect facts from many targets at the same time, each with its own timeout."""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from maintd.checks.hints import printable
from maintd.checks.read_tally import ReadTally
from maintd.clients.shapes import Listing
from maintd.errors import MaintdError, TargetError
from maintd.job.causes import Role
from maintd.job.context import BudgetSpentError, CheckFailedError, Context
from maintd.reports.figure import Figure, unmeasured
from maintd.units import seconds_text

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True)
class Probe:
    """One target to collect facts from.

    `timeout` bounds all of it, also what the timeouts of a client library do not cover, such as name resolution.
    `first` bounds the time until `collect` calls `answered`: a target that hangs is known long before one that is slow.
    """

    kind: str
    name: str
    collect: Callable[[], Any]
    timeout: timedelta
    first: timedelta | None = None

    @property
    def subject(self) -> str:
        """The subject of its checks: `postgres main`."""
        return f"{self.kind} {self.name}"


def collect_all(probes: Sequence[Probe]) -> Iterator[tuple[Probe, Any | MaintdError]]:
    """Run all probes at once; yield each with its facts or its error, in the order given, as soon as it is known.

    An unforeseen exception is the error of its probe only, see `as_target_error`.
    """
    started = time.monotonic()
    results = [_start(probe) for probe in probes]
    for probe, result in zip(probes, results, strict=True):
        try:
            facts = _facts(probe, result, started)
        except queue.Empty:
            # The thread continues: it is a daemon thread, and this process ends with the job.
            silent = probe.first is not None and not result.answered.is_set()
            seconds = (probe.first if silent and probe.first else probe.timeout).total_seconds()
            facts = TargetError(
                f"{probe.name}: no {'' if silent else 'complete '}answer within {seconds_text(seconds)}",
                "check whether the target or the DNS server hangs",
                cause="timed_out",
            )
        yield probe, facts


def answered() -> None:
    """Note, in a probe's `collect`, that its target has answered for the first time."""
    event = getattr(_of_thread, "answered", None)
    if event is not None:
        event.set()


def _facts(probe: Probe, result: _Result, started: float) -> Any:
    """What the probe has put. Raises queue.Empty at the end of its time."""
    if probe.first is not None:
        until = started + probe.first.total_seconds()
        # An answer, or a failure, which ends the wait as well, see `work` in `_start`.
        if not result.answered.wait(max(until - time.monotonic(), 0.0)):
            raise queue.Empty
    left = started + probe.timeout.total_seconds() - time.monotonic()
    return result.facts.get(timeout=max(left, 0.001))


class UnforeseenError(TargetError):
    """A fault of maintd, or an answer that it does not know; `__cause__` is the original exception."""


@contextmanager
def as_target_error(subject: str, *expected: type[Exception]) -> Iterator[None]:
    """Raise what is unforeseen in this block as the UnforeseenError of one subject: a fault in it must not silence
    the others. Errors of maintd and the `expected` ones pass.
    """
    passing: tuple[type[Exception], ...] = (MaintdError, *expected)
    try:
        yield
    except passing:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        raise UnforeseenError(
            f"{subject}: {type(error).__name__}: {printable(str(error)[:200])}{where}",
            "the answer could not be parsed; the other targets are checked without it",
            cause="unfamiliar",
        ) from error


@contextmanager
def isolate_errors(
    ctx: Context, name: str, *, expected: str = "an answer", role: Role = Role.SUBJECT
) -> Iterator[None]:
    """Evaluate one target, folder or file in this block; what it raises is the check `name`, and the job continues.

    A required check and a spent budget still end the job.
    """
    try:
        with as_target_error(name):
            yield
    except (CheckFailedError, BudgetSpentError):
        raise
    except MaintdError as error:
        _report(ctx, name, error, expected, role)


@contextmanager
def isolate_unforeseen(ctx: Context, name: str, *, role: Role = Role.SUBJECT) -> Iterator[None]:
    """Evaluate one part of a target in this block, such as a table: only what is unforeseen is the check `name`.

    Errors of maintd pass: a server that no longer answers is the error of the target, not of each of its parts.
    """
    try:
        with as_target_error(name):
            yield
    except UnforeseenError as error:
        _report(ctx, name, error, "an answer", role)


def _report(ctx: Context, name: str, error: MaintdError, expected: str, role: Role) -> None:
    if isinstance(error, UnforeseenError):
        ctx.log("".join(traceback.format_exception(error.__cause__)))
    ctx.report_error(name, error, expected=expected, role=role)


def figures_or_cause(
    kind: str, name: str, read: Callable[P, Iterator[Figure]], *args: P.args, **more: P.kwargs
) -> Iterator[Figure]:
    """The figures of one target; after an error that `read` does not turn into a figure, one with the cause.

    kind, name: of that figure.
    """
    try:
        with as_target_error(f"{kind} {name}"):
            yield from read(*args, **more)
    except MaintdError as error:
        yield unmeasured(kind, name, "", name, str(error))


def report_not_understood(ctx: Context, name: str, what: str, *listings: Listing[Any]) -> None:
    """Report what of a server's lists was not understood as unknown; nothing when all was."""
    tally = ReadTally(understood=sum(len(listing) for listing in listings))
    for listing in listings:
        for text in listing.not_understood:
            tally.add_not_understood(text)
    if tally.not_understood:
        hint = "the answer could not be parsed; this server version may be unsupported"
        ctx.report([tally.criterion(name, what, at_most_share=0, hint=hint)])


def value_or_error(read: Callable[[], T]) -> T | TargetError:
    """What `read` returns, or the TargetError that it raises, so that one missing fact does not hide the others."""
    try:
        return read()
    except TargetError as error:
        return error


_of_thread = threading.local()


@dataclass
class _Result:
    """What a probe's thread hands over: that the target has answered, and then the facts or an exception."""

    facts: queue.Queue[Any] = field(default_factory=lambda: queue.Queue(1))
    answered: threading.Event = field(default_factory=threading.Event)


def _start(probe: Probe) -> _Result:
    result = _Result()

    def work() -> None:
        _of_thread.answered = result.answered
        try:
            with as_target_error(probe.subject):
                result.facts.put(probe.collect())
        except MaintdError as error:
            result.facts.put(error)
        finally:
            result.answered.set()

    threading.Thread(target=work, name=f"collect {probe.subject}", daemon=True).start()
    return result
