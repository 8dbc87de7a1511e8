"""Pings as rows: for the start and the end of each run whose entry has a monitor, and for maintd itself.

They are notices of the kind `ping`, so they are delivered as all others are: by one node, again while the monitor is
down, and once when the daemon is killed in between. A mute does not silence them: the monitor would raise the alarm
because it gets nothing, and it has a pause of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from maintd.model.notice import OWN_PING, NewNotice, Notice, NoticeKind, NotifyConfig, OwnPing, ping_name
from maintd.model.run import Run, RunSummary
from maintd.notify.ping_protocol import LOG, MAX_BODY_BYTES, START, SUCCESS, ping_body, ping_of_end, rid_of
from maintd.operations.review import Review
from maintd.store import Store
from maintd.store.notices import add_notices, discard_waiting
from maintd.store.runs import running_runs
from maintd.units import utc_text

START_IS_STALE = timedelta(seconds=60)
"""A start that is delivered later than that would give the monitor a wrong duration: it is left out."""

JUST_STARTED = timedelta(seconds=10)
"""The start of a run is written at its end, if nothing noticed it before and it was not longer ago."""

SUPERSEDED_AFTER = timedelta(seconds=60)
"""A ping that waits for so long is left out once there is a later end of a run: only the last one counts then."""

MOST_RUNNING = 500
MOST_LINES = 2000
"""Lines of a log from whose end the body is made."""


class PingRecorder:
    """Writes pings. Its methods can be called from any thread."""

    def __init__(self, store: Store, config: Callable[[], NotifyConfig], node: str) -> None:
        self._store = store
        self._config = config
        self._node = node

    def record_review(self, conn: Connection, review: Review) -> None:
        """Write the pings that follow from a review of ended runs, within its transaction."""
        config = self._config()
        new: list[NewNotice] = []
        for end in review.ends:
            run = end.evidence or end.run
            ping = ping_of_end(run, acknowledged=end.acknowledged) if run.entry in config.pings else None
            if ping is None:
                continue
            if run.started_at is not None and review.at - run.started_at <= JUST_STARTED:
                new.append(_start(run, review.at))
            if ping.signal != LOG:
                discard_waiting(conn, ping_name(run.entry), review.at - SUPERSEDED_AFTER)
            new.append(_of_run(run, ping.signal, ping.text, review.at))
        if new:
            add_notices(conn, new, review.at)

    def sweep(self, now: datetime, *, own: bool) -> int:
        """Write the starts of runs, and the ping of maintd itself with `own`; return the
        number of new ones."""
        config = self._config()
        count = self._sweep_starts(config, now) if config.pings else 0
        if own and config.own_ping is not None:
            count += self._ping_own(config.own_ping, now)
        return count

    def sweep_starts(self, now: datetime) -> int:
        """Write the starts of runs that run now; return the number of new ones."""
        config = self._config()
        return self._sweep_starts(config, now) if config.pings else 0

    def _sweep_starts(self, config: NotifyConfig, now: datetime) -> int:
        running = self._store.read(lambda conn: running_runs(conn, MOST_RUNNING))
        starts = [_start(run, now) for run in running if _is_fresh(run, now) and run.entry in config.pings]
        known = self._store.notices.known([start.key for start in starts])
        return self._store.notices.add([start for start in starts if start.key not in known], now)

    def _ping_own(self, ping: OwnPing, now: datetime) -> int:
        """One ping of all nodes together for each interval; it takes the place of earlier ones that wait."""
        seconds = ping.every.total_seconds()
        key = f"{OWN_PING}:{int(now.timestamp() // seconds)}"
        if self._store.notices.notice(key) is not None:
            return 0
        text = f"node {self._node} plans, its store answers, and nothing is missing"
        notice = _new(key, OWN_PING, SUCCESS, text, now, stale_at=now + ping.every)

        def transaction(conn: Connection) -> int:
            discard_waiting(conn, OWN_PING, now)
            return add_notices(conn, [notice], now)

        return self._store.write(transaction)


def _is_fresh(run: RunSummary, now: datetime) -> bool:
    return not run.dry_run and run.started_at is not None and now - run.started_at <= START_IS_STALE


def _start(run: Run | RunSummary, now: datetime) -> NewNotice:
    stale_at = (run.started_at or now) + START_IS_STALE
    return _of_run(run, START, f"{run.entry}: run {run.id} started", now, stale_at)


def _of_run(
    run: Run | RunSummary, signal: str, text: str, now: datetime, stale_at: datetime | None = None
) -> NewNotice:
    channel = ping_name(run.entry)
    which = "start" if signal == START else "end"
    return _new(f"{channel}:run:{run.id}:{which}", channel, signal, text, now, run_id=run.id, stale_at=stale_at)


def _new(
    key: str,
    channel: str,
    signal: str,
    text: str,
    now: datetime,
    *,
    run_id: int | None = None,
    stale_at: datetime | None = None,
) -> NewNotice:
    details: dict[str, Any] = {"signal": signal}
    if run_id is not None:
        details["run_id"] = run_id
    if stale_at is not None:
        details["stale_at"] = utc_text(stale_at)
    return NewNotice(
        key=key,
        kind=NoticeKind.PING,
        channel=channel,
        critical=True,  # quiet hours are for people
        title=text[:200],
        body="",
        details=details,
        not_before=now,
    )


# --- delivery ---


def is_stale(notice: Notice, now: datetime) -> bool:
    """Whether a ping or an announcement is not true any more."""
    stale_at = notice.details.get("stale_at")
    return isinstance(stale_at, str) and now > datetime.fromisoformat(stale_at)


def ping_message(store: Store, notice: Notice, limit: int = MAX_BODY_BYTES) -> Mapping[str, Any]:
    """What the process that sends a ping needs: `signal`, `rid`, and a `body` of at most `limit` bytes.

    A test changes no monitor's state.
    """
    if notice.kind is not NoticeKind.PING:
        return {"signal": LOG, "rid": "", "body": ping_body(notice.title, notice.body.splitlines(), limit)}
    signal, run_id = notice.details.get("signal", LOG), notice.details.get("run_id")
    lines: Iterable[str] = ()
    if run_id is not None and signal != START:
        lines = store.history.last_log_lines(run_id, MOST_LINES)
    rid = "" if run_id is None else rid_of(run_id)
    return {"signal": signal, "rid": rid, "body": ping_body(notice.title, list(lines), limit)}
