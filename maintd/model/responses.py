"""Responses of the API that are lists, pages or results; single things have their own types in the other modules."""

from __future__ import annotations

from typing import Literal

from maintd.model.access import ListedToken
from maintd.model.base import Model
from maintd.model.entry import Freeze
from maintd.model.finding import FindingsSummary
from maintd.model.job import BrokenJob, JobDescription
from maintd.model.notice import Incident, Mute, Notice
from maintd.model.run import RunState
from maintd.model.status import AuditEvent, EntryStatus
from maintd.units import Instant


class TokenList(Model):
    """All tokens in the order of their creation, also expired and revoked ones."""

    tokens: tuple[ListedToken, ...]


class Summary(Model):
    """The runs that were queued in a period, without dry runs, and the findings since its start.

    `ran` are those that ended; `failed` includes timed out and lost. `late` started, or still wait, later after their
    due time than their entry allows (`notify: late`, by default 10 minutes). `missed` were skipped although their work
    had to be done.
    """

    since: Instant
    until: Instant
    ran: int
    ok: int
    warned: int
    unknown: int
    failed: int
    cancelled: int
    late: int
    missed: int
    unfinished: int
    findings: FindingsSummary


class Version(Model):
    """Version, node and process of the maintd that answers."""

    version: str
    api: Literal[1] = 1
    node: str
    pid: int
    started_at: Instant | None


class LogEntry(Model):
    """One line of a run's log."""

    step: str
    attempt: int
    seq: int
    at: Instant
    stream: str
    text: str


class LogEnd(Model):
    """The last event of a log's stream: the state in which the run ended; null when the run was deleted."""

    state: RunState | None


class StreamPosition(Model):
    """Where a stream of events begins or, after `reset`, continues: at the event after `after`.

    A client reads all that it shows after `reset`: events from before `oldest` are deleted.
    """

    oldest: int
    after: int


class LogPage(Model):
    """Lines of a log. `cursor` is the `after` of the next request; `final` means that no more lines will follow.

    `more`: there are further lines after the cursor now; of a search, they were not searched yet. `searched` is the
    number of lines that were searched; null without a search.
    """

    lines: tuple[LogEntry, ...]
    cursor: str | None
    final: bool
    more: bool = False
    searched: int | None = None


class EntryList(Model):
    """The entries of the calendar, in its order."""

    entries: tuple[EntryStatus, ...]


class SeriesPoint(Model):
    """A measure of a run, as a point of its series. `value` is in `unit`; `at` is when the run finished."""

    id: int
    at: Instant
    run_id: int
    entry: str
    job: str
    value: float
    unit: str
    labels: dict[str, str] = {}


class SeriesPage(Model):
    """Points of the measures of one name, oldest first. `next_after` is the `after` of the next page; null on the last
    one. A point with other labels, of another entry or job, is of another series."""

    name: str
    points: tuple[SeriesPoint, ...]
    next_after: int | None


class UnpauseResponse(Model):
    """Whether the entry was paused before."""

    unpaused: bool


class ReloadResponse(Model):
    """The result of a reload. When `ok` is false, the old calendar remains active."""

    ok: bool
    changes: tuple[str, ...]
    problems: tuple[str, ...]


class JobList(Model):
    """All jobs. One that cannot be imported has `error` instead of a description."""

    jobs: tuple[JobDescription | BrokenJob, ...]


class EventList(Model):
    """Audit events, newest first."""

    events: tuple[AuditEvent, ...]


class HealthResponse(Model):
    """Whether the probe passed, and the problems that maintd knows of."""

    ok: bool
    problems: tuple[str, ...] = ()


class UnmuteResponse(Model):
    """Whether there was an active mute."""

    unmuted: bool


class FreezeList(Model):
    """The freezes that are active."""

    freezes: tuple[Freeze, ...]


class UnfreezeResponse(Model):
    """Whether there was an active freeze by command."""

    unfrozen: bool


class MuteList(Model):
    """Mutes, oldest first."""

    mutes: tuple[Mute, ...]


class NoticeList(Model):
    """A page of notices. `next_before` is the `before` of the next page; null on the last one."""

    notices: tuple[Notice, ...]
    next_before: int | None


class IncidentList(Model):
    """Incidents."""

    incidents: tuple[Incident, ...]
