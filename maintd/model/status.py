"""The state of the service as `maintd status`, the page and the API show it."""

from __future__ import annotations

from enum import StrEnum

from maintd.model.base import Model
from maintd.model.entry import Freeze, LockMode, Pause
from maintd.model.finding import Finding
from maintd.model.gate import WaitingGate
from maintd.model.notice import Mute
from maintd.model.run import RunSummary
from maintd.units import Duration, Instant


class LockHolder(Model):
    """A step that holds a lock; `step` is empty for a run that holds it as a whole."""

    lock: str
    mode: LockMode
    run_id: int
    entry: str
    step: str
    node: str
    since: Instant

    @property
    def at_step(self) -> str:
        """`, step NAME`, empty without a step."""
        return f", step {self.step}" if self.step else ""


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
    origin: str = ""  # where the request came from: an address, or the process at the control socket
    why: str = ""  # the reason that was given
    text: str = ""


class Severity(StrEnum):
    """Whether an entry needs attention."""

    OK = "ok"  # nothing to report
    WARNING = "warning"  # worth knowing; no action needed
    ERROR = "error"  # needs attention
    UNKNOWN = "unknown"  # needs attention: it was not observed whether all is well, or the store does not answer


class Diagnosis(Model):
    """Whether an entry needs attention, why, since when, and what to type next. See `operations.diagnosis`."""

    state: str = "never_ran"  # of the unfinished run, else of the last run; or disabled, paused, never_ran
    severity: Severity = Severity.OK
    why: str = ""  # empty if there is nothing to report
    hint: str = ""  # what to do about it, if the check knows
    since: Instant | None = None  # when that began
    why_run_id: int | None = None  # the run that `why` is about
    next_step: str = ""  # a command to type
    acknowledged: tuple[Finding, ...] = ()  # of the last run that was not skipped

    @property
    def needs_attention(self) -> bool:
        """Whether an operator must act; true also if that is unknown."""
        return self.severity in (Severity.ERROR, Severity.UNKNOWN)


class EntryStatus(Diagnosis):
    """One entry in `maintd status`."""

    entry: str
    title: str
    runbook: str = ""
    schedule: str  # plain English
    enabled: bool
    jobs: tuple[str, ...] = ()
    overlay: tuple[str, ...] = ()  # what the overlay of the calendar changes, with file and line
    next_due_at: Instant | None = None  # by the schedule; without one, the start of the next planned run
    next_due_local: str = ""
    pause: Pause | None = None
    mute: Mute | None = None  # no notices of it are sent
    freeze: Freeze | None = None  # it changes something, and does not run now
    active_run: RunSummary | None = None  # queued or running, or waiting at a gate; not planned for later
    planned_runs: tuple[RunSummary, ...] = ()  # requested for a later time, soonest first
    last_run: RunSummary | None = None  # the last that is over, skipped ones included
    last_finished: RunSummary | None = None  # the last that is over and was not skipped
    last_success_at: Instant | None = None
    failing_since: Instant | None = None
    failures_in_a_row: int = 0
    typical_duration: Duration | None = None  # median of the last successes

    @property
    def urgent(self) -> bool:
        """Whether it needs attention by itself. Without a run it is the store that does not answer, which is a problem
        of the whole report."""
        return self.severity is Severity.ERROR or (self.severity is Severity.UNKNOWN and self.why_run_id is not None)

    @property
    def shown_run(self) -> RunSummary | None:
        """The ended run that the status shows: the one that `why` is about, else the last that was not skipped."""
        if self.last_run is not None and self.last_run.id == self.why_run_id:
            return self.last_run
        return self.last_finished or self.last_run

    @property
    def emergencies(self) -> tuple[RunSummary, ...]:
        """The active and the shown run, if they passed a rule in an emergency."""
        runs = {run.id: run for run in (self.active_run, self.shown_run) if run is not None}
        return tuple(run for run in runs.values() if run.emergency)


class DueLimit(Model):
    """An entry with more due times than a list shows of it: the number of those listed, and the last of them."""

    entry: str
    listed: int
    listed_until: Instant


class StartTime(Model):
    """When a run would start that is requested for a weekday and a time."""

    entry: str
    at: Instant
    local: str  # wall time in the entry's time zone, with the zone's name
    window_ends_at: Instant | None = None


class DueTime(Model):
    """A future due time of an entry."""

    entry: str
    title: str
    due_at: Instant
    local: str  # wall time in the entry's time zone, with the zone's name
    jobs: tuple[str, ...]
    note: str = ""  # why it will be skipped: paused, frozen, in a blackout; of a planned run, who planned it
    run_id: int | None = None  # a run that is planned; None: a due time of the schedule


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
    freezes: tuple[Freeze, ...] = ()  # that are active
    entries: tuple[EntryStatus, ...] = ()
    others: tuple[RunSummary, ...] = ()  # unfinished runs of jobs that are in no calendar
    locks: tuple[LockHolder, ...] = ()
    gates: tuple[WaitingGate, ...] = ()  # where runs wait for a person
    nodes: tuple[NodeState, ...] = ()

    @property
    def not_run(self) -> int:
        """How many enabled entries have not run yet: nothing is known about them."""
        return sum(entry.enabled and entry.last_finished is None for entry in self.entries)

    @property
    def needs_attention(self) -> bool:
        """Whether maintd itself or an entry needs attention."""
        return bool(self.problems) or any(entry.needs_attention for entry in self.entries)


class DueList(Model):
    """Future due times, oldest first. `limited` names the entries that have more than those in the list."""

    due: tuple[DueTime, ...]
    limited: tuple[DueLimit, ...] = ()


class EntryDetail(EntryStatus):
    """The status of an entry with its last ten runs."""

    runs: tuple[RunSummary, ...] = ()
