"""Findings: checks that were not ok, followed across runs, and their acknowledgements."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

from maintd.model.base import Model
from maintd.model.evidence import Check, CheckStatus, Scalar
from maintd.units import Instant

LONGEST_ACKNOWLEDGEMENT = timedelta(days=90)
"""An acknowledgement that lasts longer would be forgotten; it can be renewed."""

RANK: Mapping[CheckStatus, int] = MappingProxyType(
    {CheckStatus.OK: 0, CheckStatus.WARN: 1, CheckStatus.UNKNOWN: 2, CheckStatus.FAIL: 3}
)
"""How bad a status is. A value that was not observed is worse than one that is near its limit."""

_KEY_DIGITS = 12


class Acknowledgement(Model):
    """A person knows of a finding: until when it needs no attention, and why."""

    id: int
    status: CheckStatus  # of the finding when it was acknowledged; a worse one ends the acknowledgement
    observed: Scalar = None  # the value then; one that moved away from its limit ends the acknowledgement
    observed_at: Instant | None = None  # None: acknowledged by a maintd that did not record it
    why: str
    by: str
    at: Instant
    until: Instant
    ended_at: Instant | None = None  # before `until`
    ended_why: str = ""  # withdrawn, or because the finding became worse or was gone

    def covers(self, status: CheckStatus, now: datetime) -> bool:
        """Whether a finding with this status needs no attention."""
        return self.ended_at is None and now < self.until and RANK[status] <= RANK[self.status]


class GoneReason(StrEnum):
    """Why a finding is gone. Only one that passed was observed to be over."""

    PASSED = "passed"  # its check was ok
    NOT_REPORTED = "not_reported"  # a later run of its step ended without this check
    NOT_IN_CALENDAR = "not_in_calendar"  # its entry or step was removed from the calendar

    @property
    def text(self) -> str:
        """In words: `passed`, `no longer reported`."""
        return _GONE_TEXTS[self]


_GONE_TEXTS: Mapping[GoneReason, str] = MappingProxyType(
    {
        GoneReason.PASSED: "passed",
        GoneReason.NOT_REPORTED: "no longer reported",
        GoneReason.NOT_IN_CALENDAR: "no longer in the calendar",
    }
)


class Finding(Model):
    """A check that was not ok, from when it was first seen until it is gone. An open one has no `gone_at`."""

    key: str  # 12 hexadecimal digits, see `finding_key`
    entry: str
    step: str
    job: str
    check: str
    status: CheckStatus
    observed: Scalar
    expected: str
    unit: str = ""
    hint: str = ""
    rule: str = ""  # the rule that the check follows, and where it comes from
    because: str = ""  # name of the check that it follows from; such a finding never notifies
    first_seen_at: Instant  # since it was last gone
    last_seen_at: Instant
    gone_at: Instant | None = None
    gone_reason: GoneReason | None = None  # None: open
    first_run_id: int
    last_run_id: int  # the last one that checked it, or that no longer reported it
    seen_count: int  # runs that reported it since it was first seen
    acknowledgement: Acknowledgement | None = None  # the one that has not ended

    @property
    def open(self) -> bool:
        """Whether it is not known to be over: the last run that checked it found it."""
        return self.gone_at is None

    def acknowledged(self, now: datetime) -> bool:
        """Whether it is acknowledged with the status that it has."""
        return self.acknowledgement is not None and self.acknowledgement.covers(self.status, now)


class FindingState(StrEnum):
    """Whether a finding needs attention."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"  # open, and a person knows of it
    GONE = "gone"


class ListedFinding(Finding):
    """A finding with its state: open, acknowledged or gone."""

    state: FindingState


class FindingList(Model):
    """Findings. `limited` means that there are more than one answer has."""

    findings: tuple[ListedFinding, ...]
    limited: bool = False


class FindingDetail(ListedFinding):
    """A finding with all its acknowledgements, newest first, and what to type about it."""

    acknowledgements: tuple[Acknowledgement, ...]
    next_step: str = ""


class FindingsSummary(Model):
    """The findings of a period, without those that follow from another check."""

    since: Instant
    new: tuple[ListedFinding, ...] = ()  # open, first seen since then
    old: tuple[ListedFinding, ...] = ()  # open, first seen before
    gone: tuple[ListedFinding, ...] = ()  # since then


class ChangeKind(StrEnum):
    """What a run changed about a finding."""

    NEW = "new"
    RETURNED = "returned"  # it was gone
    WORSE = "worse"
    SAME = "same"
    BETTER = "better"
    GONE = "gone"  # its check was ok, or is no longer made


class FindingChange(Model):
    """What a run changed about a finding. `finding` is as it is then; `before` is its earlier status."""

    kind: ChangeKind
    finding: Finding
    before: CheckStatus | None = None
    ended: Acknowledgement | None = None  # the acknowledgement that this change ended

    def notifies(self, now: datetime) -> bool:
        """Whether it is news: not acknowledged, and not what follows from another check."""
        news = self.kind in (ChangeKind.NEW, ChangeKind.RETURNED, ChangeKind.WORSE)
        return news and not self.finding.because and not self.finding.acknowledged(now)


class FindingCounts(Model):
    """The numbers of open findings of one entry by status, apart from those that follow from another check."""

    entry: str
    status: CheckStatus
    acknowledged: bool
    count: int


def finding_key(entry: str, step: str, job: str, check: str, salt: str = "") -> str:
    """The public id of a finding, the same in every store. The name of the check includes its subject.

    `salt` is for one whose key is taken: its entry has the former name of another one.
    """
    import hashlib  # 5 ms, and commands that only read need none

    text = "\0".join((entry, step, job, check, salt))
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:_KEY_DIGITS]


def is_finding(check: Check) -> bool:
    """Whether a check is a finding. An optional one that is unknown is none."""
    return check.status is not CheckStatus.OK and not (check.optional and check.status is CheckStatus.UNKNOWN)
