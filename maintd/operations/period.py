"""The summary of a period: how its runs ended, and which findings there were."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.engine import Connection

from maintd.errors import MaintdError, UsageError
from maintd.model.notice import NotifyConfig
from maintd.model.responses import Summary
from maintd.operations.findings import summary as findings_summary
from maintd.operations.lateness import count_late
from maintd.operations.service import OperatorService
from maintd.present import utc_minute
from maintd.store.period import PeriodSummary, period_summary


def period(service: OperatorService, since: datetime, until: datetime | None = None) -> Summary:
    """The summary of [since, until), until now by default. Raises UsageError for a period that is empty.

    The findings are those of now: open ones count as new or old by when they were first seen.
    """
    now = service.store.now()
    end = now if until is None else min(until, now)
    if since >= end:
        raise UsageError(f"the period from {utc_minute(since)} to {utc_minute(end)} is empty", "give an earlier start")
    config = notify_config(service)
    counts = service.store.read(lambda conn: summary_of(conn, config, since, end, now))
    return Summary(since=since, until=end, findings=findings_summary(service.store, since), **counts._asdict())


def summary_of(
    conn: Connection, config: NotifyConfig, since: datetime, until: datetime, now: datetime
) -> PeriodSummary:
    """The counts of the runs with `queued_at` in [since, until); the digest and the API have the same."""
    late = count_late(conn, config, since, until, now)
    return period_summary(conn, since, until)._replace(late=late)


def notify_config(service: OperatorService) -> NotifyConfig:
    """The rules of notices in the active calendar; the defaults while it cannot be read."""
    try:
        return service.calendar().notify
    except MaintdError:
        return NotifyConfig()
