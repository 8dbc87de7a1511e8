"""What a period of time brought: how many runs ended how, and how many findings there were."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import BigInteger, Interval, func, literal, select, type_coerce
from sqlalchemy.engine import Connection
from sqlalchemy.types import TIMESTAMP

from maintd.model.finding import GoneReason
from maintd.model.run import RunState, SkipReason
from maintd.store.tables import IS_OPEN, MICROSECOND, UtcDateTime, entries, findings, runs

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
    missed: int
    unfinished: int
    late: int = 0  # counted by `maintd.operations.lateness`


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

    return PeriodSummary(
        ran=sum(count for state, _, count in found if state.final and state is not RunState.SKIPPED),
        ok=in_states(RunState.SUCCEEDED),
        warned=in_states(RunState.WARNED),
        unknown=in_states(RunState.UNKNOWN),
        failed=in_states(RunState.FAILED, RunState.TIMED_OUT, RunState.LOST),
        cancelled=in_states(RunState.CANCELLED),
        missed=sum(count for _, reason, count in found if reason in [item.value for item in NOT_DONE]),
        unfinished=sum(count for state, _, count in found if not state.final),
    )


class Start(NamedTuple):
    """When a run was due and when it started; for one that waits, the time of the question."""

    entry: str
    due_at: datetime
    started_at: datetime


def late_starts(conn: Connection, since: datetime, until: datetime, now: datetime, least: timedelta) -> list[Start]:
    """The runs with `queued_at` in [since, until) and a due time that started, or still wait, more than `least` after
    it. Dry runs, and runs that never started, are left out."""
    started = func.coalesce(runs.c.started_at, literal(now, UtcDateTime()))
    sqlite = conn.dialect.name == "sqlite"
    moment = BigInteger() if sqlite else TIMESTAMP(timezone=True)
    margin = literal(least // MICROSECOND) if sqlite else literal(least, Interval())
    query = (
        select(entries.c.name, runs.c.due_at, type_coerce(started, UtcDateTime()).label("started_at"))
        .join_from(runs, entries, entries.c.id == runs.c.entry_id)
        .where(runs.c.queued_at >= since, runs.c.queued_at < until, runs.c.dry_run.is_(False))
        .where(runs.c.due_at.is_not(None), runs.c.started_at.is_not(None) | (runs.c.state == RunState.QUEUED.value))
        .where(type_coerce(started, moment) > type_coerce(runs.c.due_at, moment) + margin)
    )
    return [Start(row.name, row.due_at, row.started_at) for row in conn.execute(query)]
