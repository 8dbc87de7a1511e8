"""The state of the service as `maintd status`, the page and the API show it."""

from __future__ import annotations

from maintd.model.base import Model
from maintd.model.entry import LockMode, Pause
from maintd.model.run import RunSummary
from maintd.units import Duration, Instant


class LockHolder(Model):
    """A step that holds a lock."""

    lock: str
    mode: LockMode
    run_id: int
    entry: str
    step: str
    node: str
    since: Instant


class NodeState(Model):
    """A maintd process as of its last heartbeat."""

    name: str
    incarnation: str  # changes at each start
    pid: int
    started_at: Instant
    seen_at: Instant
    version: str
    slots: int


class AuditEvent(Model):
    """An action of an operator or of the daemon itself."""

    at: Instant
    kind: str  # noun_verbed: calendar_loaded, entry_paused, clock_stepped, run_triggered
    subject: str = ""
    by: str = ""
    text: str = ""


class EntryStatus(Model):
    """One entry in `maintd status`."""

    entry: str
    title: str
    runbook: str = ""
    schedule: str  # plain English
    enabled: bool
    jobs: tuple[str, ...] = ()
    next_due_at: Instant | None = None
    next_due_local: str = ""
    pause: Pause | None = None
    active_run: RunSummary | None = None  # queued or running
    last_run: RunSummary | None = None  # the last that is over, skipped ones included
    last_worked: RunSummary | None = None  # the last that is over and was not skipped
    last_success_at: Instant | None = None
    failing_since: Instant | None = None
    failures_in_a_row: int = 0
    typical_duration: Duration | None = None  # median of the last successes
    why: str = ""  # why the entry needs attention
    next_step: str = ""  # a command to type


class DueTime(Model):
    """A future due time of an entry."""

    entry: str
    title: str
    due_at: Instant
    local: str  # wall time in the entry's time zone, with the zone's name
    jobs: tuple[str, ...]
    note: str = ""  # why it will be skipped: paused, in a blackout


class StatusReport(Model):
    """The whole of `maintd status`. `node` to `started_at` are empty when no daemon answers."""

    at: Instant
    node: str = ""
    version: str = ""
    pid: int | None = None
    started_at: Instant | None = None
    page: str | None = None  # URL of the page
    calendar: str = ""  # path
    store: str = ""  # URL, password masked
    problems: tuple[str, ...] = ()  # of maintd itself: no daemon, store unreachable, clock jumped, broken job module
    remarks: tuple[str, ...] = ()  # warnings about the calendar
    entries: tuple[EntryStatus, ...] = ()
    others: tuple[RunSummary, ...] = ()  # unfinished runs of jobs that are in no calendar
    locks: tuple[LockHolder, ...] = ()
    nodes: tuple[NodeState, ...] = ()
