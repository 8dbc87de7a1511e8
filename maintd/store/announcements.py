"""Announcements of planned runs: notices with a key for each run, offset and channel."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.engine import Connection

from maintd.model.notice import NewNotice, NoticeKind, NoticeState
from maintd.model.run import Run
from maintd.store.notices import add_notices
from maintd.store.tables import notices
from maintd.units import utc_text

_PREFIX = "announcement"


def announcement_key(run_id: int, offset: str, channel: str) -> str:
    """The key of the announcement of a run so long before its start."""
    return f"{_PREFIX}:{run_id}:{offset}:{channel}"


def withdraw_announcements(conn: Connection, run: Run, now: datetime) -> int:
    """A planned run was cancelled: delete what waits, and notify the channels that got one.

    Returns the number of notices that were deleted.
    """
    of_run = notices.c.key.startswith(f"{_PREFIX}:{run.id}:", autoescape=True)
    is_waiting = notices.c.state.in_((NoticeState.WAITING.value, NoticeState.FAILED.value))
    may_be_known = ~is_waiting | notices.c.group_key.is_not(None)  # one that is sent again as it was may have arrived
    informed = conn.execute(select(notices.c.channel).where(of_run, may_be_known).distinct()).scalars().all()
    withdrawn = conn.execute(delete(notices).where(of_run, is_waiting)).rowcount
    if now < run.not_before:
        text = f"{run.title} ({run.entry}), planned for {utc_text(run.not_before)}, is cancelled, run {run.id}."
        details = {"entry": run.entry, "run": run.id, "cancelled": True, "starts_at": utc_text(run.not_before)}
        new = [
            NewNotice(
                key=announcement_key(run.id, "cancelled", channel),
                kind=NoticeKind.ANNOUNCEMENT,
                channel=channel,
                title=f"{run.entry} is cancelled",
                body=text,
                details=details,
                not_before=now,
            )
            for channel in informed
        ]
        add_notices(conn, new, now)
    return withdrawn
