"""One attempt as the daemon sees it: a process that reports and prints, and that ends by itself or is stopped."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

import structlog

from maintd.clock import since_boot
from maintd.errors import DAEMON_LOG
from maintd.executor import process_tree
from maintd.executor.attempt_log import AttemptLog, Stream
from maintd.executor.cancellation import CancelToken, LeaseDeadline
from maintd.executor.child_protocol import CONFIRMATION, AttemptRequest, ChildStarted, JobEnded
from maintd.executor.fork_client import Launched, TemplateError
from maintd.executor.fork_protocol import MAX_MESSAGE, decode, encode
from maintd.executor.message_reader import MessageReader, redacted
from maintd.executor.oom import OOM_KILLS
from maintd.executor.outcome import AttemptEvidence, JobResult, ProcessExit, StopKind, Stopped
from maintd.executor.run_context import RunContext
from maintd.model.evidence import Change, ChangeState, Handed, LogLine, Progress, Report
from maintd.model.run_updates import AttemptReported, AttemptStarted

log = structlog.get_logger()

REPORT_SECONDS = 0.1  # evidence is collected so long before it is handed on
REPORT_ITEMS = 500  # … or until there is so much of it
RELAUNCHES = 5  # when the template dies before it forks
BEGIN_SECONDS = 60.0  # within which a child must exist; importing the libraries takes about one
UNRESPONSIVE_SECONDS = 5.0  # after KILL, when the template itself is killed
DRAIN_SECONDS = 2.0  # within which the pipes of a dead process tree must close
FULL_SECONDS = 0.05  # between two checks whether the child may go on
CONFIRM_SECONDS = 0.05  # for which the recording of an intended change is waited for, before the process is seen to
RECORD_SECONDS = 5.0
"""How long an undo or `always` step waits until its start, or a change that it intends, is recorded."""

LAPSED = "the lease of the run could not be renewed in time, and others may take its locks after that"

_READ_BYTES = 256 * 1024


class TimeLimit(NamedTuple):
    """How long an attempt may take, and what that limit is called."""

    duration: timedelta
    name: str  # "its 10m timeout"


class AttemptSupervisor:
    """Supervises one attempt; `run` returns when no process of it is alive any more."""

    def __init__(
        self,
        context: RunContext,
        order: AttemptRequest,
        *,
        step: int,
        started_at: datetime,
        limit: TimeLimit,
        holds_locks: bool,
    ) -> None:
        """`holds_locks`: the attempt must not outlive the lease of the run."""
        self._context = context
        self._order = order
        self._step = step
        self._number = order.info.attempt
        self._started_at = started_at
        self._start_recorded = False
        self._cancel = context.cancel
        self._grace_seconds = context.settings.grace.total_seconds()
        self._limit = limit
        # The job's time counts from when its process exists: it does not pay for a template that has to be started.
        self._deadline = time.monotonic() + 2 * BEGIN_SECONDS + limit.duration.total_seconds()
        self._holds_locks = holds_locks
        self.log = AttemptLog(context.settings.log_limit)
        self.reports = MessageReader(context.settings.artifacts_dir.absolute(), order.info.artifacts_dir)
        self._items: list[Report] = []
        self._items_since: float | None = None
        self._stopped: Stopped | None = None
        self._term_at: float | None = None
        self._kill_at: float | None = None
        self._unresponsive_at: float | None = None
        self._pid: int | None = None
        self._exit: ProcessExit | None = None
        self._ended_at = 0.0
        self._oom_kills = 0
        plan = context.run.plan[step]
        self._confirm_within = RECORD_SECONDS if plan.always or plan.undoes else None
        self._to_confirm: int | None = None  # the number of an intended change
        self._to_confirm_since = 0.0

    def run(self) -> AttemptEvidence:
        """Launch the process and supervise it to its end. Raises TemplateError when no process could be started."""
        for _ in range(RELAUNCHES):
            lease = self._cancel.lease if self._holds_locks else None
            launched = self._context.fork_client.launch(self._order, None if lease is None else lease.kill_at)
            try:
                self._oom_kills = OOM_KILLS.recent()
                with _Poll(launched, self._cancel) as poll, self._renewals(launched):
                    self._supervise(launched, poll)
            finally:
                launched.close()
                self._context.fork_client.finished(self._pid)
            if self._pid is not None or self._stopped is not None:
                break
        else:
            raise TemplateError("the template process died each time before it forked", DAEMON_LOG)
        return self._conclude()

    def record_start(self, pid: int | None = None) -> None:
        """Record that the attempt has started, unless that was done before."""
        if not self._start_recorded:
            self._start_recorded = True
            started = AttemptStarted(step=self._step, attempt=self._number, at=self._started_at, pid=pid)
            self._context.updates.add(started, soon=False)

    def _renewals(self, launched: Launched) -> contextlib.AbstractContextManager[None]:
        """Report each renewal of the lease to the template, which kills the attempt at the end of the lease."""
        if not self._holds_locks:
            return contextlib.nullcontext()

        def renew(lease: LeaseDeadline) -> None:
            with contextlib.suppress(OSError):
                launched.socket.send(encode("renew", until=lease.kill_at))

        return self._cancel.renewals(renew)

    # --- supervising ---

    def _supervise(self, launched: Launched, poll: _Poll) -> None:
        """Return when the process has ended and its pipes are closed, or when no process was started."""
        begin_by = time.monotonic() + BEGIN_SECONDS
        while True:
            now = time.monotonic()
            self._stop_if_requested(launched, poll, now)
            if self._pid is None and now > begin_by:
                begin_by = now + BEGIN_SECONDS
                self._context.fork_client.kill_template(launched)
            if self._exit is not None and (not poll.pipes or now > self._ended_at + DRAIN_SECONDS):
                return
            if poll.template_gone and self._pid is None and launched.report not in poll.pipes:
                return
            full = self._context.updates.full
            poll.pause(launched.report, paused=full)
            for descriptor in poll.wait(self._seconds_to_wait(now, full=full)):
                if descriptor == launched.socket.fileno():
                    self._receive(launched, poll)
                elif descriptor == poll.pidfd:
                    self._reap(poll)
                elif descriptor == self._cancel.fileno():
                    self._cancel.clear_event()
                else:
                    self._read(launched, poll, descriptor)
            self._hand_on(full=full)
            self._confirm(launched)

    def _seconds_to_wait(self, now: float, *, full: bool) -> float:
        ends = [self._deadline if self._stopped is None else now + 1]
        ends += [at for at in (self._kill_at, self._unresponsive_at) if at is not None]
        if self._holds_locks and self._cancel.lease is not None and self._stopped is None:
            ends.append(now + self._cancel.lease.stop_at - since_boot())
        if self._items_since is not None:
            ends.append(self._items_since + REPORT_SECONDS)
        if full:
            ends.append(now + FULL_SECONDS)
        if self._exit is not None:
            ends.append(self._ended_at + DRAIN_SECONDS)
        elif self._to_confirm is not None:
            ends.append(now)
        return max(0.0, min(ends) - now)

    def _read(self, launched: Launched, poll: _Poll, descriptor: int) -> None:
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            poll.remove(descriptor)
            if descriptor == launched.report:
                self.reports.end()
            return
        if descriptor == launched.report:
            for item in self.reports.feed(data):
                self._handle_item(item)
        else:
            stream: Stream = "stdout" if descriptor == launched.out else "stderr"
            self.log.feed(stream, data, datetime.now(UTC))
            self._note_items()

    def _handle_item(self, item: Report | ChildStarted | JobEnded) -> None:
        match item:
            case ChildStarted():
                # Only the first one gets here, and it was sent before any line of the job ran.
                self._pid = item.pid
                self._deadline = time.monotonic() + self._limit.duration.total_seconds()
                self.log.hide(item.secrets)
                self._context.fork_client.began(item.pid)
                self.record_start(item.pid)
            case JobEnded():
                pass
            case LogLine():
                self.log.line("log", item.text, datetime.now(UTC))
                self._note_items()
            case _:
                if self._items and isinstance(item, Progress) and isinstance(self._items[-1], Progress):
                    self._items.pop()
                secrets = self.reports.began.secrets if self.reports.began is not None else ()
                shown: Report = redacted(item, secrets)
                if isinstance(shown, Handed):
                    self.reports.handed[shown.name] = shown.value  # as the store has it
                self._items.append(shown)
                self._note_items()
                if self._order.confirms and isinstance(shown, Change) and shown.state is ChangeState.INTENDED:
                    self._to_confirm, self._to_confirm_since = shown.number, time.monotonic()

    def _confirm(self, launched: Launched) -> None:
        """Let the child make the change that it intends, once that is recorded: when the daemon is killed, the rows
        have every change that may have been made. While it cannot be recorded, the child waits.

        An undo or `always` step does not wait long for an unreachable store with a full disk.
        """
        if self._to_confirm is None or self._exit is not None:
            return
        waited = time.monotonic() - self._to_confirm_since
        late = self._confirm_within is not None and waited > self._confirm_within
        if self._context.updates.wait_durable(CONFIRM_SECONDS) or late:
            with contextlib.suppress(OSError):  # it has ended
                os.write(launched.confirm, CONFIRMATION.pack(self._to_confirm))
            self._to_confirm = None

    def _note_items(self) -> None:
        if self._items_since is None:
            self._items_since = time.monotonic()

    def _hand_on(self, *, full: bool, final: bool = False) -> None:
        """Record what was collected, if it is time."""
        if self._items_since is None and not final:
            return
        due = self._items_since is not None and time.monotonic() >= self._items_since + REPORT_SECONDS
        urgent = self._to_confirm is not None and bool(self._items)
        if not (final or urgent or (due and not full) or len(self._items) >= REPORT_ITEMS):
            return
        self._items += self.log.take(final=final)
        batch, self._items, self._items_since = self._items, [], None
        for start in range(0, len(batch), REPORT_ITEMS):
            self.record_start()
            items = tuple(batch[start : start + REPORT_ITEMS])
            reported = AttemptReported(step=self._step, attempt=self._number, items=items)
            self._context.updates.add(reported, soon=False)

    # --- the end ---

    def _receive(self, launched: Launched, poll: _Poll) -> None:
        """Receive the template's report of the end, or find that the template is gone."""
        try:
            message = launched.socket.recv(MAX_MESSAGE)
        except BlockingIOError:
            return
        except ConnectionError:
            message = b""
        poll.remove(launched.socket.fileno())
        if message:
            ended = decode(message)
            if ended["lapsed"] and self._stopped is None:
                self._stopped = Stopped(StopKind.LAPSED, LAPSED)
            self._end(ProcessExit(ended["code"], ended["signal"]))
            if ended["leftovers"]:
                self._log_line(f"killed what it left running: {', '.join(ended['leftovers'])}")
            return
        poll.template_gone = True
        if self._pid is not None:
            self._adopt(poll, self._pid)

    def _adopt(self, poll: _Poll, pid: int) -> None:
        """Watch the child directly: the template is dead, so this process is its parent now."""
        if self._exit is not None or poll.pidfd is not None:
            return
        try:
            poll.watch_process(pid)
        except ProcessLookupError:
            self._end(ProcessExit())

    def _reap(self, poll: _Poll) -> None:
        assert self._pid is not None
        assert poll.pidfd is not None
        poll.remove(poll.pidfd)
        try:
            os.waitid(os.P_PIDFD, poll.pidfd, os.WEXITED | os.WNOWAIT)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)  # not reaped yet, so the number still names this group
            found = os.waitid(os.P_PIDFD, poll.pidfd, os.WEXITED)
        except ChildProcessError:  # the template reaped it before it died
            found = None
        if found is None:
            self._end(ProcessExit())
        elif found.si_code == os.CLD_EXITED:
            self._end(ProcessExit(code=found.si_status))
        else:
            self._end(ProcessExit(signal=found.si_status))

    def _end(self, end: ProcessExit) -> None:
        out_of_memory = end.signal == signal.SIGKILL and self._term_at is None and OOM_KILLS.now() > self._oom_kills
        self._exit = ProcessExit(end.code, end.signal, out_of_memory=out_of_memory)
        self._ended_at = time.monotonic()

    def _stop_if_requested(self, launched: Launched, poll: _Poll, now: float) -> None:
        """Stop the attempt if that is requested or its time is over: TERM, grace, KILL."""
        if poll.template_gone and self._pid is not None:
            self._adopt(poll, self._pid)
        if self._exit is not None:
            return
        if self._stopped is None or self._stopped.kind is not StopKind.LOST:
            requested = self._cancel.requested
            if requested is not None and (self._stopped is None or requested.kind is StopKind.LOST):
                self._stopped = requested
            elif self._stopped is None and now >= self._deadline:
                self._stopped = Stopped(StopKind.TIMED_OUT, self._limit.name)
            elif self._stopped is None and self._has_lapsed():
                self._stopped = Stopped(StopKind.LAPSED, LAPSED)
        if self._stopped is None:
            return
        if self._term_at is None:
            self._term_at = now
            self._kill_at = now + self._grace_seconds
            self._signal(launched, poll, "term")
        if self._kill_at is not None and (now >= self._kill_at or self._cancel.kill_at_once):
            self._kill_at = None
            after = timedelta(seconds=round(now - self._term_at, 1))
            self._stopped = Stopped(self._stopped.kind, self._stopped.reason, killed_after=after)
            self._unresponsive_at = now + UNRESPONSIVE_SECONDS
            self._signal(launched, poll, "kill")
        if self._unresponsive_at is not None and now >= self._unresponsive_at:
            self._unresponsive_at = now + UNRESPONSIVE_SECONDS
            if self._pid is not None:
                process_tree.kill_all([self._pid])
            if not poll.template_gone:
                self._context.fork_client.kill_template(launched)

    def _has_lapsed(self) -> bool:
        lease = self._cancel.lease
        return self._holds_locks and lease is not None and since_boot() >= lease.stop_at

    def _signal(self, launched: Launched, poll: _Poll, kind: str) -> None:
        with contextlib.suppress(OSError):
            launched.socket.send(encode(kind))
            return
        if poll.template_gone and self._pid is not None:
            if kind == "term":
                process_tree.signal_tree(self._pid, signal.SIGTERM)
            else:
                process_tree.kill_all([self._pid])

    def _log_line(self, text: str) -> None:
        self.log.line("maintd", text, datetime.now(UTC))
        self._note_items()

    def _conclude(self) -> AttemptEvidence:
        reports = self.reports
        if reports.ended is not None:
            for line in reports.ended.traceback.splitlines():
                self._log_line(line)
        if reports.ignored:
            what = "message" if reports.ignored == 1 else "messages"
            self._log_line(f"ignored {reports.ignored} {what} that arrived after the last one")
        secrets = reports.began.secrets if reports.began is not None else ()
        left = reports.uncertain_changes("the process ended before it was known whether the change was made")
        self._items += [redacted(change, secrets) for change in left]
        self.log.end(datetime.now(UTC))
        self._hand_on(full=False, final=True)
        hide = self.log.redacted
        return AttemptEvidence(
            returned=None if reports.ended is None else JobResult(reports.ended.ok, hide(reports.ended.reason)),
            exit=self._exit or ProcessExit(),
            worst=reports.worst,
            failed=tuple(redacted(check, secrets) for check in reports.failed),
            failed_count=reports.failed_count,
            warned=tuple(hide(name) for name in reports.warned),
            warned_count=reports.warned_count,
            unobserved=tuple(hide(name) for name in reports.unobserved),
            unobserved_count=reports.unobserved_count,
            stopped=self._stopped,
            protocol_error=hide(reports.protocol_error),
            left_out=reports.left_out,
            phase=hide(reports.phase),
        )


class _Poll:
    """What the supervisor of one attempt waits for: its pipes, the template, the process, a request to stop."""

    def __init__(self, launched: Launched, cancel: CancelToken) -> None:
        self._poll = select.poll()
        self.pipes = {launched.report, launched.out, launched.err}
        self._registered = {*self.pipes, launched.socket.fileno(), cancel.fileno()}
        self._paused: set[int] = set()
        self.template_gone = False
        self.pidfd: int | None = None
        for descriptor in self._registered:
            self._poll.register(descriptor, select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pidfd is not None:
            os.close(self.pidfd)

    def wait(self, seconds: float) -> list[int]:
        """Return the descriptors that can be read or are closed, after at most that long."""
        return [descriptor for descriptor, _ in self._poll.poll(min(seconds, 3600) * 1000 + 1)]

    def remove(self, descriptor: int) -> None:
        """Wait for this one no longer."""
        if descriptor in self._registered:
            self._registered.discard(descriptor)
            self._poll.unregister(descriptor)
        self.pipes.discard(descriptor)

    def pause(self, descriptor: int, *, paused: bool) -> None:
        """Do not read from it for now, so that its writer has to wait; or read from it again."""
        if paused and descriptor in self._registered:
            self._poll.unregister(descriptor)
            self._registered.discard(descriptor)
            self._paused.add(descriptor)
        elif not paused and descriptor in self._paused:
            self._paused.discard(descriptor)
            self._poll.register(descriptor, select.POLLIN)
            self._registered.add(descriptor)

    def watch_process(self, pid: int) -> None:
        """Also wait for the end of this process. Raises ProcessLookupError."""
        self.pidfd = os.pidfd_open(pid)
        self._poll.register(self.pidfd, select.POLLIN)
        self._registered.add(self.pidfd)
