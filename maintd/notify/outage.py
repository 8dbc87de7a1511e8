"""A store that is unreachable: the one problem for which no row can be written first.

The daemon sends that notice itself, from memory, once for each channel. Every node that cannot reach the store does so,
and a restart during the outage sends it again: during an outage nothing is known but that.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from maintd.model.notice import NewNotice, Notice, NoticeKind, NoticeState, NotifyConfig
from maintd.notify.delivery import Sender, log_direct, message_for
from maintd.notify.messages import Around, of_maintd
from maintd.notify.sender import Result
from maintd.store import Store
from maintd.units import duration_text, utc_text

SETTLING = timedelta(seconds=60)
"""How long the store must be unreachable before that is reported."""


class StoreOutage:
    """Reports that the store is unreachable, and that it is reachable again. Used by one thread."""

    def __init__(self, sender: Sender, node: str, page: str = "") -> None:
        self._sender = sender
        self._around = Around(page=page, node=node)
        self._since: datetime | None = None
        self._since_elapsed = 0.0
        self._reported: set[str] = set()  # channels

    def note(self, config: NotifyConfig, error: str, now: datetime, elapsed: float) -> None:
        """The store did not answer. Sends the notice once the outage lasts; blocks while it does."""
        if self._since is None:
            self._since, self._since_elapsed = now, elapsed
        if elapsed - self._since_elapsed < SETTLING.total_seconds():
            return
        since = self._since
        text = of_maintd(NoticeKind.MAINTD, f"the store has been unreachable: {error}", since, self._around)
        for name in config.rules.channels_of(NoticeKind.MAINTD):
            if name in self._reported or name not in config.channels:
                continue
            key = f"store:{self._around.node}:{utc_text(since)}:{name}"
            notice = Notice(
                id=0,
                key=key,
                kind=NoticeKind.MAINTD,
                channel=name,
                critical=True,
                title=text.title,
                body=text.body,
                details=text.details,
                created_at=now,
                state=NoticeState.SENDING,
                not_before=now,
            )
            outcome = self._sender.send(config.channels[name], message_for(key, [notice], self._around.node))
            log_direct(name, outcome)
            if outcome.result in (Result.SENT, Result.PARTLY):
                self._reported.add(name)

    def over(self, store: Store) -> None:
        """The store answers. What was reported is reported as over, by rows."""
        since, channels = self._since, self._reported
        if since is None:
            return
        if channels:
            now = store.now()
            lasted = duration_text(max(now - since, timedelta(0)))
            title = f"node {self._around.node}: the store is reachable again, after {lasted}"
            body = f"{title}. Runs that were due are caught up as their entries have it.\n\ntype    maintd status"
            details = {"entry": None, "why": title, "since": utc_text(since), "node": self._around.node}
            store.notices.add(
                [
                    NewNotice(
                        key=f"store:{self._around.node}:{utc_text(since)}:over:{name}",
                        kind=NoticeKind.RECOVERED,
                        channel=name,
                        title=title,
                        body=body,
                        details=details,
                        not_before=now,
                    )
                    for name in sorted(channels)
                ],
                now,
            )
        self._since, self._reported = None, set()
