"""The summary of a period: how its runs ended, and which findings there were."""

from __future__ import annotations

from datetime import datetime

from maintd.errors import UsageError
from maintd.model.responses import Summary
from maintd.operations.findings import summary as findings_summary
from maintd.operations.service import OperatorService
from maintd.present import utc_minute
from maintd.store.period import period_summary


def period(service: OperatorService, since: datetime, until: datetime | None = None) -> Summary:
    """The summary of [since, until), until now by default. Raises UsageError for a period that is empty.

    The findings are those of now: open ones count as new or old by when they were first seen.
    """
    now = service.store.now()
    end = now if until is None else min(until, now)
    if since >= end:
        raise UsageError(f"the period from {utc_minute(since)} to {utc_minute(end)} is empty", "give an earlier start")
    counts = service.store.read(lambda conn: period_summary(conn, since, end))
    return Summary(since=since, until=end, findings=findings_summary(service.store, since), **counts._asdict())
