"""Reminders of incidents that are not over: held back while all that is wrong is acknowledged or the entry is muted,
and due when that ends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from sqlalchemy.engine import Connection

from maintd.model.notice import Incident, NewNotice, NoticeKind, NotifyConfig
from maintd.model.run import Run
from maintd.notify import messages
from maintd.notify.incident_writer import IncidentWriter, notices_of
from maintd.notify.selection import muting, next_reminder, reminder_channels
from maintd.operations.follow import is_acknowledged
from maintd.store import Store
from maintd.store.findings import open_findings
from maintd.store.history import load_runs
from maintd.store.notices import add_notices, channels_notified, set_reminder

OF_CHECKS = (NoticeKind.FAILED, NoticeKind.UNKNOWN)
"""Kinds of incidents that are silent while all that was wrong is acknowledged."""


class Reminders:
    """Writes reminders of open incidents. Its methods can be called from any thread."""

    def __init__(
        self,
        store: Store,
        config: Callable[[], NotifyConfig],
        entries: Callable[[], Collection[str]],
        writer: IncidentWriter,
    ) -> None:
        """`entries` are the names of the calendar's entries."""
        self._store = store
        self._config = config
        self._entries = entries
        self._writer = writer

    def sweep(self, config: NotifyConfig, now: datetime) -> int:
        """Hold back what is acknowledged or muted, and remind of what is due; return the number of new notices."""
        self._sweep_acknowledged(config, now)
        muted, opened = self._store.mutes.active(now), self._store.notices.open_incidents()
        self._hold_muted([incident for incident in opened if muting(muted, incident.subject) is not None], now)
        due = [
            incident
            for incident in opened
            if incident.remind_at is not None and incident.remind_at <= now and incident.kind is not NoticeKind.WAITING
            if muting(muted, incident.subject) is None
        ]
        if not due:
            return 0
        states = self._store.entries.states([incident.subject for incident in due])

        def transaction(conn: Connection) -> int:
            around = self._writer.around(conn)
            notified = channels_notified(conn, [incident.id for incident in due])
            new: list[NewNotice] = []
            for incident in due:
                rules = config.rules_of(incident.subject)
                state = states.get(incident.subject)
                is_first = incident.id not in notified  # it was muted until now
                if state is not None and state.pause is not None:
                    set_reminder(conn, incident, now + rules.remind_first, reminded=False)
                elif set_reminder(conn, incident, next_reminder(rules, incident.reminders + 1, now), reminded=True):
                    text = messages.still_failing(incident, now, around)
                    number = incident.reminders + 1
                    new += notices_of(
                        config,
                        NoticeKind.STILL_FAILING,
                        rules.channels_of(incident.kind) if is_first else reminder_channels(config, incident),
                        f"incident:{incident.id}:reminder:{number}",
                        text,
                        incident.id,
                        now,
                        critical=incident.critical,
                    )
            return add_notices(conn, new, now) if new else 0

        return self._store.write(transaction)

    def seconds_to_next(self) -> float:
        """Until the next reminder or end of a mute; infinity: none. What is due already waits for the next sweep."""
        now = self._store.now()
        times = [incident.remind_at for incident in self._store.notices.open_incidents()]
        times += [mute.until for mute in self._store.mutes.active(now)]  # what is not over is reported then
        return min(((at - now).total_seconds() for at in times if at is not None and at > now), default=float("inf"))

    def adjust(self, conn: Connection, incident: Incident, now: datetime, *, acknowledged: bool) -> None:
        """No reminder while everything is acknowledged; one at once when that is over."""
        rules = self._config().rules_of(incident.subject)
        if acknowledged and incident.remind_at is not None:
            set_reminder(conn, incident, None, reminded=False)
        elif not acknowledged and incident.remind_at is None and next_reminder(rules, 0, now) is not None:
            set_reminder(conn, incident, now, reminded=False)

    def is_silent(self, conn: Connection, incident: Incident, now: datetime) -> bool:
        """Whether all that was wrong with the last run of an incident is acknowledged."""
        run_id = incident.last_run_id
        run = None if run_id is None else load_runs(conn, self._store.plans, {run_id: True}).get(run_id)
        return run is not None and is_all_acknowledged(conn, run, now)

    def _sweep_acknowledged(self, config: NotifyConfig, now: datetime) -> None:
        """Silence the incidents of which all is acknowledged, and remind of those of which that is over, however it
        ended."""
        known = self._entries()
        opened = [each for each in self._store.notices.open_incidents() if each.kind in OF_CHECKS]
        acknowledged = {finding.entry for finding in self._store.findings.acknowledged()}
        candidates = [each for each in opened if each.subject in acknowledged and each.subject in known]
        silent = self._store.read(lambda conn: {each.id for each in candidates if self.is_silent(conn, each, now)})
        changed = [
            each
            for each in opened
            if each.subject in known
            if (each.remind_at is None) is not (each.id in silent)
            if each.id in silent or self._has_reminders(config, each, now)
        ]

        def transaction(conn: Connection) -> None:
            for incident in changed:
                self.adjust(conn, incident, now, acknowledged=incident.id in silent)

        if changed:
            self._store.write(transaction)

    def _has_reminders(self, config: NotifyConfig, incident: Incident, now: datetime) -> bool:
        rules = config.rules_of(incident.subject)
        return bool(rules.channels_of(incident.kind)) and next_reminder(rules, 0, now) is not None

    def _hold_muted(self, muted: Sequence[Incident], now: datetime) -> None:
        """What is muted is due from now on, so that it is reported when no mute is left, whatever ended it."""
        later = [incident for incident in muted if incident.remind_at is not None and incident.remind_at > now]

        def transaction(conn: Connection) -> None:
            for incident in later:
                set_reminder(conn, incident, now, reminded=False)

        if later:
            self._store.write(transaction)


def is_all_acknowledged(conn: Connection, run: Run, now: datetime) -> bool:
    """Whether all that was wrong in a run is acknowledged at the time `now`."""
    return is_acknowledged(run, open_findings(conn, [run.entry]).get(run.entry, []), now)
