"""Announcements: notices before the start of a run that is planned and has a window."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from maintd.model.notice import NewNotice, Notice, NoticeKind, NotifyConfig
from maintd.model.run import Run, RunState
from maintd.present import utc_minute
from maintd.present.text import rough_text
from maintd.store import Store
from maintd.store.announcements import announcement_key
from maintd.units import format_duration, utc_text


def due_announcement(offsets: Sequence[timedelta], start: datetime, now: datetime) -> timedelta | None:
    """Which announcement is due now, by how long before the start it is; None: none is. Pure.

    Of several whose time has come, as for a run that is planned at short notice, the last one.
    """
    come = [offset for offset in offsets if start - offset <= now]
    return min(come, default=None) if now < start else None


def announce(store: Store, config: NotifyConfig, now: datetime) -> int:
    """Write the announcements that are due, each once; return the number of new ones."""
    new = [notice for run in store.runs.planned(now) for notice in _of_run(run, config, now)]
    known = store.notices.known([notice.key for notice in new])
    return store.notices.add([notice for notice in new if notice.key not in known], now)


def _of_run(run: Run, config: NotifyConfig, now: datetime) -> list[NewNotice]:
    window = run.policy.window
    offset = None if window is None or run.dry_run else due_announcement(window.announce, run.not_before, now)
    if window is None or offset is None:
        return []
    start, end = run.not_before, run.not_before + window.lasts
    by = run.requested_by or "an operator"
    body = [
        f"{run.title} ({run.entry}) begins {utc_minute(start)} and ends by {utc_minute(end)}, run {run.id}.",
        f"planned by {by}" + (f": {run.why}" if run.why else ""),
        *([f"EMERGENCY: {run.emergency}"] if run.emergency else []),
        f"cancel it with: maintd cancel {run.id}",
    ]
    details = {
        "entry": run.entry,
        "run": run.id,
        "why": run.why,
        "emergency": run.emergency,
        "starts_at": utc_text(start),
        "ends_at": utc_text(end),
        "stale_at": utc_text(start),
    }
    return [
        NewNotice(
            key=announcement_key(run.id, format_duration(offset), channel),
            kind=NoticeKind.ANNOUNCEMENT,
            channel=channel,
            title=f"{run.entry} begins in {rough_text(start - now)}",
            body="\n".join(body),
            details=details,
            not_before=now,
        )
        for channel in config.rules_of(run.entry).channels_of(NoticeKind.ANNOUNCEMENT)
        if channel in config.channels
    ]


def is_obsolete(store: Store, notice: Notice) -> bool:
    """Whether an announcement is about a run that is not planned any more. Raises StoreError."""
    run_id = notice.details.get("run")
    if notice.kind is not NoticeKind.ANNOUNCEMENT or notice.details.get("cancelled") or not isinstance(run_id, int):
        return False
    run = store.history.run(run_id)
    return run is None or run.state is not RunState.QUEUED
