"""One attempt as the daemon sees it: a process that reports, prints, and ends by itself or is made to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from maintd.clock import since_boot
from maintd.executor import process_tree
from maintd.executor.attempt_log import Output, Stream
from maintd.executor.cancellation import CancelToken, LeaseDeadline
from maintd.executor.child_protocol import MAX_MESSAGE, AttemptOrder, Began, Ended
from maintd.executor.fork_client import Launched, TemplateError, Warm
from maintd.executor.fork_protocol import HOLD, KILL, TERM
from maintd.executor.oom import OOM_KILLS
from maintd.executor.outcome import AttemptEvidence, Exit, Returned, StopKind, Stopped
from maintd.executor.poll import Poll
from maintd.executor.report_reader import Evidence, hidden
from maintd.model.evidence import LogLine, Progress, Report

log = structlog.get_logger()

REPORT_EVERY = 0.1  # seconds; so long items are collected before they are handed on
MANY_ITEMS = 500  # are handed on at once
RELAUNCHES = 5  # when the template dies before it forked
BEGIN_WITHIN = 60.0  # seconds; loading the libraries takes about one
DEAF_AFTER = 5.0  # seconds after KILL: then the template itself does not do what it is asked
DRAIN_WITHIN = 2.0  # seconds in which the pipes of a dead tree must close
PAUSE_WHEN_FULL = 0.05

LAPSED = "the lease of the run could not be renewed in time, and others may take its locks after that"

_READ = 256 * 1024


@dataclass(frozen=True)
class Sinks:
    """Where what is seen of an attempt goes. Called in the supervisor's thread; none of them may block for long."""

    launched: Callable[[], None]  # a process was asked for; what it says may lie in its pipes a moment
    began: Callable[[int], None]  # the child's pid
    report: Callable[[Sequence[Report]], None]
    full: Callable[[], bool]  # too much waits to be recorded: the child is made to wait


class AttemptProcess:
    """Makes one attempt: `make` returns when nothing of it is alive any more."""

    def __init__(
        self,
        order: AttemptOrder,
        *,
        warm: Warm,
        stop: CancelToken,
        sinks: Sinks,
        artifacts_root: Path,
        log_limit: int,
        grace: timedelta,
        timeout: timedelta,
        timeout_words: str,
        holds_locks: bool = False,
    ) -> None:
        """`holds_locks`: it must not live longer than the claim surely stands."""
        self._order = order
        self._warm = warm
        self._stop = stop
        self._sinks = sinks
        self._grace = grace.total_seconds()
        self._timeout = timeout.total_seconds()
        # The job's time counts from when its process is there: it does not pay for a template that has to be started.
        self._deadline = time.monotonic() + 2 * BEGIN_WITHIN + self._timeout
        self._timeout_words = timeout_words
        self._holds_locks = holds_locks
        self.output = Output(log_limit)
        self.evidence = Evidence(artifacts_root, order.standing.artifacts_dir)
        self._items: list[Report] = []
        self._items_since: float | None = None
        self._stopped: Stopped | None = None
        self._term_at: float | None = None
        self._kill_at: float | None = None
        self._deaf_at: float | None = None
        self._pid: int | None = None
        self._exit: Exit | None = None
        self._ended_at = 0.0
        self._oom_kills = OOM_KILLS.lately()

    def make(self) -> AttemptEvidence:
        """From launch to the end of the last process. Raises TemplateError when no process could be had."""
        for _ in range(RELAUNCHES):
            hold = self._stop.hold if self._holds_locks else None
            launched = self._warm.launch(self._order, None if hold is None else hold.until)
            try:
                self._sinks.launched()
                with Poll(launched, self._stop) as poll, self._kept(launched):
                    self._watch(launched, poll)
            finally:
                launched.close()
                self._warm.finished(self._pid)
            if self._pid is not None or self._stopped is not None:
                break
        else:
            raise TemplateError("the template process died each time before it forked", "see the daemon's log")
        return self._conclude()

    def _kept(self, launched: Launched) -> contextlib.AbstractContextManager[None]:
        """Meanwhile the template is told until when the attempt may live."""
        if not self._holds_locks:
            return contextlib.nullcontext()

        def tell(hold: LeaseDeadline) -> None:
            with contextlib.suppress(OSError):
                launched.socket.send(HOLD + str(hold.until).encode())

        return self._stop.telling(tell)

    # --- watching ---

    def _watch(self, launched: Launched, poll: Poll) -> None:
        """Until the process has ended and its pipes are closed, or it turns out that there never was one."""
        begin_by = time.monotonic() + BEGIN_WITHIN
        while True:
            now = time.monotonic()
            self._act(launched, poll, now)
            if self._pid is None and now > begin_by:
                begin_by = now + BEGIN_WITHIN
                self._warm.kill_forker(launched)
            if self._exit is not None and (not poll.pipes or now > self._ended_at + DRAIN_WITHIN):
                return
            if poll.template_gone and self._pid is None and launched.report not in poll.pipes:
                return
            full = self._sinks.full()
            poll.hold(launched.report, held=full)
            for descriptor in poll.wait(self._patience(now, full=full)):
                if descriptor == launched.socket.fileno():
                    self._hear(launched, poll)
                elif descriptor == poll.pidfd:
                    self._reap(poll)
                elif descriptor == self._stop.fileno():
                    self._stop.seen()
                else:
                    self._read(launched, poll, descriptor)
            self._hand_on(full=full)

    def _patience(self, now: float, *, full: bool) -> float:
        ends = [self._deadline if self._stopped is None else now + 1]
        ends += [at for at in (self._kill_at, self._deaf_at) if at is not None]
        if self._holds_locks and self._stop.hold is not None and self._stopped is None:
            ends.append(now + self._stop.hold.give_up_at - since_boot())
        if self._items_since is not None:
            ends.append(self._items_since + REPORT_EVERY)
        if full:
            ends.append(now + PAUSE_WHEN_FULL)
        if self._exit is not None:
            ends.append(self._ended_at + DRAIN_WITHIN)
        return max(0.0, min(ends) - now)

    def _read(self, launched: Launched, poll: Poll, descriptor: int) -> None:
        try:
            data = os.read(descriptor, _READ)
        except BlockingIOError:
            return
        if not data:
            poll.forget(descriptor)
            if descriptor == launched.report:
                self.evidence.end()
            return
        if descriptor == launched.report:
            for item in self.evidence.feed(data):
                self._take(item)
        else:
            stream: Stream = "stdout" if descriptor == launched.out else "stderr"
            self.output.feed(stream, data, datetime.now(UTC))
            self._note()

    def _take(self, item: Report | Began | Ended) -> None:
        match item:
            case Began():
                # Only the first one comes through, and it was sent before any line of the job was run.
                self._pid = item.pid
                self._deadline = time.monotonic() + self._timeout
                self.output.hide(item.secrets)
                self._warm.began(item.pid)
                self._sinks.began(item.pid)
            case Ended():
                pass
            case LogLine():
                self.output.line("log", item.text, datetime.now(UTC))
                self._note()
            case _:
                if self._items and isinstance(item, Progress) and isinstance(self._items[-1], Progress):
                    self._items.pop()
                secrets = self.evidence.began.secrets if self.evidence.began is not None else ()
                self._items.append(hidden(item, secrets) if secrets else item)
                self._note()

    def _note(self) -> None:
        if self._items_since is None:
            self._items_since = time.monotonic()

    def _hand_on(self, *, full: bool, final: bool = False) -> None:
        if self._items_since is None and not final:
            return
        due = self._items_since is not None and time.monotonic() >= self._items_since + REPORT_EVERY
        if not (final or (due and not full) or len(self._items) >= MANY_ITEMS):
            return
        self._items += self.output.take(final=final)
        batch, self._items, self._items_since = self._items, [], None
        for start in range(0, len(batch), MANY_ITEMS):
            self._sinks.report(batch[start : start + MANY_ITEMS])

    # --- the end ---

    def _hear(self, launched: Launched, poll: Poll) -> None:
        """The template tells how the attempt ended, or is gone itself."""
        try:
            message = launched.socket.recv(MAX_MESSAGE)
        except BlockingIOError:
            return
        except ConnectionError:
            message = b""
        poll.forget(launched.socket.fileno())
        if message:
            told = json.loads(message)
            if told["lapsed"] and self._stopped is None:
                self._stopped = Stopped(StopKind.LAPSED, LAPSED)
            self._over(Exit(told["code"], told["signal"]))
            if told["left"]:
                self._say(f"killed what it left running: {', '.join(told['left'])}")
            return
        poll.template_gone = True
        if self._pid is not None:
            self._adopt(poll, self._pid)

    def _adopt(self, poll: Poll, pid: int) -> None:
        """The template is dead, so the child is this process's now."""
        if self._exit is not None or poll.pidfd is not None:
            return
        try:
            poll.watch_process(pid)
        except ProcessLookupError:
            self._over(Exit())

    def _reap(self, poll: Poll) -> None:
        assert self._pid is not None
        assert poll.pidfd is not None
        poll.forget(poll.pidfd)
        try:
            os.waitid(os.P_PIDFD, poll.pidfd, os.WEXITED | os.WNOWAIT)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)  # not reaped yet, so the number still means this group
            found = os.waitid(os.P_PIDFD, poll.pidfd, os.WEXITED)
        except ChildProcessError:  # the template took it, whose job's template is dead
            found = None
        if found is None:
            self._over(Exit())
        elif found.si_code == os.CLD_EXITED:
            self._over(Exit(code=found.si_status))
        else:
            self._over(Exit(signal=found.si_status))

    def _over(self, end: Exit) -> None:
        short = end.signal == signal.SIGKILL and self._term_at is None and OOM_KILLS.now() > self._oom_kills
        self._exit = Exit(end.code, end.signal, short_of_memory=short)
        self._ended_at = time.monotonic()

    def _act(self, launched: Launched, poll: Poll, now: float) -> None:
        """Stop it when it is to be stopped: TERM, grace, KILL."""
        if poll.template_gone and self._pid is not None:
            self._adopt(poll, self._pid)
        if self._exit is not None:
            return
        if self._stopped is None or self._stopped.kind is not StopKind.LOST:
            asked = self._stop.asked
            if asked is not None and (self._stopped is None or asked.kind is StopKind.LOST):
                self._stopped = asked
            elif self._stopped is None and now >= self._deadline:
                self._stopped = Stopped(StopKind.TIMED_OUT, self._timeout_words)
            elif self._stopped is None and self._has_lapsed():
                self._stopped = Stopped(StopKind.LAPSED, LAPSED)
        if self._stopped is None:
            return
        if self._term_at is None:
            self._term_at = now
            self._kill_at = now + self._grace
            self._signal(launched, poll, TERM)
        if self._kill_at is not None and (now >= self._kill_at or self._stop.kill_at_once):
            self._kill_at = None
            after = timedelta(seconds=round(now - self._term_at, 1))
            self._stopped = Stopped(self._stopped.kind, self._stopped.reason, killed_after=after)
            self._deaf_at = now + DEAF_AFTER
            self._signal(launched, poll, KILL)
        if self._deaf_at is not None and now >= self._deaf_at:
            self._deaf_at = now + DEAF_AFTER
            if self._pid is not None:
                process_tree.kill_all([self._pid])
            if not poll.template_gone:
                self._warm.kill_forker(launched)

    def _has_lapsed(self) -> bool:
        hold = self._stop.hold
        return self._holds_locks and hold is not None and since_boot() >= hold.give_up_at

    def _signal(self, launched: Launched, poll: Poll, what: bytes) -> None:
        with contextlib.suppress(OSError):
            launched.socket.send(what)
            return
        if poll.template_gone and self._pid is not None:
            if what == TERM:
                process_tree.signal_tree(self._pid, signal.SIGTERM)
            else:
                process_tree.kill_all([self._pid])

    def _say(self, text: str) -> None:
        self.output.line("maintd", text, datetime.now(UTC))
        self._note()

    def _conclude(self) -> AttemptEvidence:
        seen = self.evidence
        if seen.ended is not None:
            for line in seen.ended.traceback.splitlines():
                self._say(line)
        if seen.ignored:
            self._say(f"ignored {seen.ignored} messages that came after the last one")
        self.output.end(datetime.now(UTC))
        self._hand_on(full=False, final=True)
        hide = self.output.redacted
        return AttemptEvidence(
            returned=None if seen.ended is None else Returned(seen.ended.ok, hide(seen.ended.reason)),
            exit=self._exit or Exit(),
            worst=seen.worst,
            failed=tuple(hidden(check, seen.began.secrets) if seen.began else check for check in seen.failed),
            failed_count=seen.failed_count,
            doubtful=tuple(hide(name) for name in seen.doubtful),
            doubtful_count=seen.doubtful_count,
            stopped=self._stopped,
            protocol_error=hide(seen.protocol_error),
            phase=hide(seen.phase),
        )
