"""What a period of time brought: how many runs ended how, and how many findings there were."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from maintd.model.finding import GoneReason
from maintd.model.notice import NoticeKind
from maintd.model.run import RunState, SkipReason
from maintd.store.tables import IS_OPEN, findings, incidents, runs

NOT_DONE = (SkipReason.MISSED, SkipReason.MISFIRE, SkipReason.DEPENDENCY)
"""Reasons for which a due time was skipped although its work had to be done."""


class PeriodSummary(NamedTuple):
    """Counts of the runs that were queued in a period. Dry runs do not count; `failed` includes timed out and lost."""

    ran: int
    ok: int
    warned: int
    unknown: int
    failed: int
    cancelled: int
    late: int
    missed: int
    unfinished: int


class FindingSummary(NamedTuple):
    """Counts of findings, apart from those that follow from another one. `new` and `old` are open at the end of the
    period; `old` ones were seen before it. Of those that are gone, `passed`, `not_reported` and `not_in_calendar` have
    the reasons."""

    new: int
    old: int
    gone: int
    passed: int = 0
    not_reported: int = 0
    not_in_calendar: int = 0


def finding_summary(conn: Connection, since: datetime, until: datetime) -> FindingSummary:
    """The findings of [since, until)."""
    causes = select(func.count()).where(findings.c.because == "")
    still = causes.where(IS_OPEN)
    new = still.where(findings.c.first_seen_at >= since, findings.c.first_seen_at < until)
    old = still.where(findings.c.first_seen_at < since)
    by_reason = select(findings.c.gone_reason, func.count()).where(
        findings.c.because == "", findings.c.gone_at >= since, findings.c.gone_at < until
    )
    rows = conn.execute(by_reason.group_by(findings.c.gone_reason)).all()
    gone = {row[0]: int(row[1]) for row in rows}
    return FindingSummary(
        conn.execute(new).scalar_one(),
        conn.execute(old).scalar_one(),
        sum(gone.values()),
        *(gone.get(reason.value, 0) for reason in GoneReason),
    )


def period_summary(conn: Connection, since: datetime, until: datetime) -> PeriodSummary:
    """The runs with `queued_at` in [since, until)."""
    query = select(runs.c.state, runs.c.skip_reason, func.count())
    query = query.where(runs.c.queued_at >= since, runs.c.queued_at < until, runs.c.dry_run.is_(False))
    found = [
        (RunState(state), reason, count)
        for state, reason, count in conn.execute(query.group_by(runs.c.state, runs.c.skip_reason))
    ]

    def in_states(*states: RunState) -> int:
        return sum(count for state, _, count in found if state in states)

    late = select(func.count()).where(
        incidents.c.kind == NoticeKind.LATE.value, incidents.c.opened_at >= since, incidents.c.opened_at < until
    )
    return PeriodSummary(
        ran=sum(count for state, _, count in found if state.final and state is not RunState.SKIPPED),
        ok=in_states(RunState.SUCCEEDED),
        warned=in_states(RunState.WARNED),
        unknown=in_states(RunState.UNKNOWN),
        failed=in_states(RunState.FAILED, RunState.TIMED_OUT, RunState.LOST),
        cancelled=in_states(RunState.CANCELLED),
        late=conn.execute(late).scalar_one(),
        missed=sum(count for _, reason, count in found if reason in [item.value for item in NOT_DONE]),
        unfinished=sum(count for state, _, count in found if not state.final),
    )
