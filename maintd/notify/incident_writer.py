"""Opens incidents, and writes the notices of their beginning and end, within a transaction of the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy.engine import Connection

from maintd.model.notice import Incident, Mute, NewNotice, NoticeKind, NotifyConfig
from maintd.model.run import Run, RunSummary
from maintd.notify import messages
from maintd.notify.messages import Around, Text
from maintd.notify.selection import muting, next_reminder, recovery_channels, send_at
from maintd.present.notices import OWN
from maintd.store.notices import NewIncident, channels_notified, open_incident
from maintd.store.runs import running_runs

_ORDER = (NoticeKind.FAILED, NoticeKind.MISSED, NoticeKind.UNKNOWN, NoticeKind.TOO_LONG, NoticeKind.LATE)


class IncidentWriter:
    """Writes incidents and notices of one node. Its methods can be called from any thread."""

    def __init__(self, config: Callable[[], NotifyConfig], node: str, page: str = "") -> None:
        """`page` is a URL."""
        self._config = config
        self._node = node
        self._page = page

    def around(self, conn: Connection) -> Around:
        """What else runs now, and where the page is."""
        page = self._config().page or self._page
        return Around(page, tuple(running_runs(conn, messages.MOST_RUNNING + 3)), self._node)

    def open(
        self,
        conn: Connection,
        config: NotifyConfig,
        subject: str,
        kind: NoticeKind,
        text: Text,
        run_id: int | None,
        mutes: Sequence[Mute],
        now: datetime,
        *,
        remind_every: timedelta | None = None,
    ) -> list[NewNotice]:
        """Open an incident, and return its notices: none if it is open, or the entry is muted.

        `remind_every` is the interval of reminders of a gate, for which the rules of other incidents do not count.
        """
        rules = config.rules_of(subject)
        critical = rules.critical or subject.startswith(OWN)
        channels = rules.channels_of(kind)
        is_muted = muting(mutes, subject) is not None
        remind_at = next_reminder(rules, 0, now) if channels else None
        if kind is NoticeKind.WAITING:
            remind_at = None if remind_every is None or not channels else now + remind_every
        if is_muted and channels:
            remind_at = now  # due, so that it is reported when no mute is left
        known = {key: text.details[key] for key in messages.KEPT if key in text.details}
        incident = open_incident(
            conn,
            NewIncident(
                subject=subject,
                kind=kind,
                critical=critical,
                opened_at=now,
                run_id=run_id,
                why=str(text.details.get("why", "")),
                details=known,
                remind_at=remind_at,
            ),
        )
        if incident is None or is_muted:
            return []
        key = f"incident:{incident.id}:{kind}"
        return notices_of(config, kind, channels, key, text, incident.id, now, critical=critical)

    def recoveries(
        self,
        conn: Connection,
        config: NotifyConfig,
        closed: Sequence[Incident],
        at: datetime,
        run: Run | RunSummary | None,
        mutes: Sequence[Mute],
        now: datetime,
        around: Around,
    ) -> list[NewNotice]:
        """Notices of what is over, for the channels that got notices of it; one for each."""
        if not closed or muting(mutes, closed[0].subject) is not None:
            return []
        notified = channels_notified(conn, [incident.id for incident in closed])
        new: list[NewNotice] = []
        done: set[str] = set()
        for incident in sorted(closed, key=lambda each: _ORDER.index(each.kind) if each.kind in _ORDER else -1):
            wanted = recovery_channels(config, incident, notified.get(incident.id, ()))
            channels = [name for name in wanted if name not in done]
            done.update(channels)
            text = messages.recovered(incident, at, run, around)
            key = f"incident:{incident.id}:recovered"
            new += notices_of(
                config, NoticeKind.RECOVERED, channels, key, text, incident.id, now, critical=incident.critical
            )
        return new


def notices_of(
    config: NotifyConfig,
    kind: NoticeKind,
    channels: Iterable[str],
    key: str,
    text: Text,
    incident_id: int | None,
    now: datetime,
    *,
    critical: bool,
) -> list[NewNotice]:
    """A notice for each channel; `key` with the channel is unique, so that each is sent once."""
    return [
        NewNotice(
            key=f"{key}:{channel}",
            incident_id=incident_id,
            kind=kind,
            channel=channel,
            critical=critical,
            title=text.title,
            body=text.body,
            details=text.details,
            not_before=send_at(config.quiet, critical=critical, now=now),
        )
        for channel in channels
    ]
