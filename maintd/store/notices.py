"""Incidents and their notices: rows that are written first and delivered afterwards.

A notice is `waiting`, then claimed by one node under a lease (`sending`), then `sent`, `waiting` again, or `failed`.
When a node dies before it began to deliver, the lease expires and another one delivers the notice, once. When it dies
during the delivery, it is unknown whether the channel got the message: it is sent again with the same `group_key`, by
which a receiver can recognize it.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import and_, delete, exists, func, literal, or_, select, tuple_, update
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from maintd.model.base import Model
from maintd.model.notice import Incident, NewNotice, Notice, NoticeKind, NoticeState
from maintd.store.database import Database, insert_into
from maintd.store.mapping import AnyRow
from maintd.store.notice_groups import ALONE, GROUP_INTERVAL, PendingNotice, next_attempt, next_group
from maintd.store.tables import IS_OPEN_INCIDENT, IS_PENDING, incidents, notices
from maintd.units import Instant

MAX_PENDING = 5000
"""Most pending notices that a claim reads, the oldest ones."""

_INSERTED_AT_ONCE = 500
_LOCK = "notices"


class NewIncident(Model):
    """An incident to open."""

    subject: str
    kind: NoticeKind
    critical: bool = False
    opened_at: Instant
    run_id: int | None = None
    why: str
    details: dict[str, Any] = {}
    remind_at: Instant | None = None


class ClaimedGroup(NamedTuple):
    """Notices that this node is about to deliver as one message; `key` stays the same when they are sent again."""

    key: str
    channel: str
    notices: tuple[Notice, ...]


class Undelivered(NamedTuple):
    """Notices that a channel did not deliver. `fate`: `waiting` to be tried again, `given_up`, or a failed `test`."""

    channel: str
    fate: str
    number: int
    since: datetime  # the first of them was created
    until: datetime  # the last of them was
    error: str  # the last one
    retry_at: datetime | None = None


def _is_given_up(since: datetime, tested_since: datetime) -> ColumnElement[bool]:
    later = notices.alias("later")
    sent_since = exists().where(later.c.channel == notices.c.channel, later.c.sent_at >= notices.c.created_at)
    is_test = notices.c.kind == NoticeKind.TEST.value
    test = and_(is_test, notices.c.created_at >= tested_since, ~sent_since)
    other = and_(~is_test, notices.c.created_at >= since)
    return and_(
        notices.c.state == NoticeState.FAILED.value, notices.c.created_at >= min(since, tested_since), or_(test, other)
    )


class Notices:
    """Incidents and notices."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- delivery ---

    def next_attempt(self, now: datetime, *, pings: bool = True) -> datetime | None:
        """When a notice may be ready to be sent, by this store's rows; None: none is pending."""
        return self._database.read(lambda conn: next_attempt(*_pending(conn, now, pings=pings), now))

    def claim(self, node: str, now: datetime, lease_until: datetime, *, pings: bool = True) -> ClaimedGroup | None:
        """Claim the notices that are sent next; without `pings`, of others. None: all wait, or another node was
        first."""

        def transaction(conn: Connection) -> ClaimedGroup | None:
            self._database.lock_names(conn, [_LOCK])
            group = next_group(*_pending(conn, now, pings=pings), now)
            if group is None:
                return None
            key = group.key or uuid.uuid4().hex
            waiting = notices.c.state == NoticeState.WAITING.value
            claimed = (
                update(notices)
                .where(notices.c.id.in_(group.ids), IS_PENDING, waiting | (notices.c.lease_until <= now))
                .values(
                    state=NoticeState.SENDING.value,
                    group_key=key,
                    node=node,
                    lease_until=lease_until,
                    fence=notices.c.fence + 1,
                    attempts=notices.c.attempts + 1,
                )
                .returning(*notices.c)
            )
            found = sorted((_notice(row) for row in conn.execute(claimed)), key=lambda notice: notice.id)
            return ClaimedGroup(key, found[0].channel, tuple(found)) if found else None

        if self._database.read(lambda conn: next_group(*_pending(conn, now, pings=pings), now)) is None:
            return None
        return self._database.write(transaction)

    def renew(self, group: ClaimedGroup, lease_until: datetime) -> bool:
        """Extend the lease of a claimed group just before its delivery begins. False: the claim is over."""
        return self._settle(group, lease_until=lease_until) == len(group.notices)

    def mark_sent(self, group: ClaimedGroup, now: datetime) -> bool:
        """The channel accepted the message. False: the claim is over."""
        done = {"state": NoticeState.SENT.value, "sent_at": now, "error": ""}
        return self._settle(group, **done, lease_until=None, channel_down=False) == len(group.notices)

    def requeue(
        self, group: ClaimedGroup, error: str, retry_at: datetime, *, uncertain: bool, channel_down: bool
    ) -> bool:
        """The delivery failed, and is tried again at `retry_at`. False: the claim is over.

        `uncertain`: the channel may have got the message, so it is sent again as it is. `channel_down`: the channel's
        other notices wait until then, too.
        """
        columns: dict[str, Any] = {} if uncertain else {"group_key": None}
        columns |= {"state": NoticeState.WAITING.value, "not_before": retry_at, "error": error}
        return self._settle(group, **columns, lease_until=None, channel_down=channel_down) == len(group.notices)

    def give_up(self, group: ClaimedGroup, error: str) -> bool:
        """The message cannot be delivered. False: the claim is over."""
        columns = {"state": NoticeState.FAILED.value, "error": error}
        return self._settle(group, **columns, lease_until=None, channel_down=False) == len(group.notices)

    def release(self, node: str) -> int:
        """Let go of what an earlier process of this node had claimed; return the number of notices."""
        held = update(notices).where(notices.c.node == node, IS_PENDING, notices.c.state == NoticeState.SENDING.value)
        released = held.values(state=NoticeState.WAITING.value, lease_until=None)
        return self._database.write(lambda conn: conn.execute(released).rowcount)

    def _settle(self, group: ClaimedGroup, **columns: Any) -> int:
        held = update(notices).where(*_held(group))
        return self._database.write(lambda conn: conn.execute(held.values(columns)).rowcount)

    # --- writing ---

    def add(self, new: Sequence[NewNotice], now: datetime) -> int:
        """As `add_notices`, in a transaction of its own."""
        return self._database.write(lambda conn: add_notices(conn, new, now)) if new else 0

    def discard(self, group: ClaimedGroup) -> bool:
        """Delete notices that are not true any more. False: the claim is over."""
        held = delete(notices).where(*_held(group))
        return self._database.write(lambda conn: conn.execute(held).rowcount) == len(group.notices)

    # --- reading ---

    def recent(
        self,
        *,
        states: Collection[NoticeState] | None = None,
        channel: str | None = None,
        before_id: int | None = None,
        limit: int = 50,
    ) -> list[Notice]:
        """A page of notices, newest first; without `channel`, pings that were sent are left out."""
        query = select(notices).order_by(notices.c.id.desc()).limit(limit)
        if states is not None:
            query = query.where(notices.c.state.in_([state.value for state in states]))
        if channel is None:
            is_ping, is_sent = notices.c.kind == NoticeKind.PING.value, notices.c.state == NoticeState.SENT.value
            query = query.where(~(is_ping & is_sent))
        else:
            query = query.where(notices.c.channel == channel)
        if before_id is not None:
            query = query.where(notices.c.id < before_id)
        return self._database.read(lambda conn: [_notice(row) for row in conn.execute(query)])

    def notice(self, key: str) -> Notice | None:
        """A notice by its key."""
        query = select(notices).where(notices.c.key == key)
        row = self._database.read(lambda conn: conn.execute(query).one_or_none())
        return None if row is None else _notice(row)

    def known(self, keys: Collection[str]) -> set[str]:
        """Those of the keys that notices have."""
        if not keys:
            return set()
        query = select(notices.c.key).where(notices.c.key.in_(list(keys)))
        return self._database.read(lambda conn: set(conn.execute(query).scalars()))

    def undelivered(self, since: datetime, tested_since: datetime) -> list[Undelivered]:
        """What could not be delivered, by channel: notices that are still tried; those given up that were created since
        then; and failed tests since `tested_since` after which nothing was delivered."""
        columns = (notices.c.channel, notices.c.kind, notices.c.error, notices.c.created_at, notices.c.not_before)
        tried = select(*columns, literal(True).label("waits")).where(IS_PENDING, notices.c.error != "")
        failed = select(*columns, literal(False).label("waits")).where(_is_given_up(since, tested_since))

        def transaction(conn: Connection) -> list[AnyRow]:
            limited = [query.order_by(notices.c.id).limit(MAX_PENDING) for query in (tried, failed)]
            return [row for query in limited for row in conn.execute(query)]

        found: dict[tuple[str, str], list[AnyRow]] = {}
        for row in self._database.read(transaction):
            given_up = "test" if row.kind == NoticeKind.TEST.value else "given_up"
            found.setdefault((row.channel, "waiting" if row.waits else given_up), []).append(row)
        return [
            Undelivered(
                channel,
                fate,
                number=len(rows),
                since=min(row.created_at for row in rows),
                until=rows[-1].created_at,
                error=rows[-1].error,
                retry_at=min(row.not_before for row in rows) if fate == "waiting" else None,
            )
            for (channel, fate), rows in sorted(found.items())
        ]

    def counts(self, since: datetime, tested_since: datetime) -> dict[tuple[str, NoticeState], int]:
        """By channel: how many notices wait or are being sent, and how many were given up, as in `undelivered`."""
        given_up = _is_given_up(since, tested_since)
        columns = (notices.c.channel, notices.c.state, func.count())
        found: dict[tuple[str, NoticeState], int] = {}

        def transaction(conn: Connection) -> dict[tuple[str, NoticeState], int]:
            for which in (IS_PENDING, given_up):
                for row in conn.execute(select(*columns).where(which).group_by(notices.c.channel, notices.c.state)):
                    failed = row.state == NoticeState.FAILED.value
                    key = (row.channel, NoticeState.FAILED if failed else NoticeState.WAITING)
                    found[key] = found.get(key, 0) + row[2]
            return found

        return self._database.read(transaction)

    def open_incidents(self, subject: str | None = None) -> list[Incident]:
        """Open incidents, oldest first."""
        return self._database.read(lambda conn: open_incidents(conn, subject))

    def incidents(self, limit: int = 50) -> list[Incident]:
        """The last incidents, newest first."""
        query = select(incidents).order_by(incidents.c.opened_at.desc(), incidents.c.id.desc()).limit(limit)
        return self._database.read(lambda conn: [_incident(row) for row in conn.execute(query)])


# --- within a transaction ---


def add_notices(conn: Connection, new: Sequence[NewNotice], now: datetime) -> int:
    """Insert notices; those whose key exists are left out. Returns the number of new ones."""
    rows = [
        notice.model_dump(exclude={"kind"})
        | {
            "kind": notice.kind.value,
            "created_at": now,
            "state": NoticeState.WAITING.value,
            "attempts": 0,
            "error": "",
            "channel_down": False,
            "fence": 0,
        }
        for notice in new
    ]
    count = 0
    for start in range(0, len(rows), _INSERTED_AT_ONCE):
        statement = insert_into(conn, notices).values(rows[start : start + _INSERTED_AT_ONCE])
        statement = statement.on_conflict_do_nothing(index_elements=["key"])
        count += len(conn.execute(statement.returning(notices.c.id)).all())
    return count


def discard_waiting(conn: Connection, channel: str, before: datetime) -> int:
    """Delete what waits for a channel and was created earlier; return the number of notices."""
    waiting = delete(notices).where(
        notices.c.channel == channel,
        IS_PENDING,
        notices.c.state == NoticeState.WAITING.value,
        notices.c.created_at < before,
    )
    return conn.execute(waiting).rowcount


def open_incidents(conn: Connection, subject: str | None = None) -> list[Incident]:
    """Open incidents, oldest first; with `subject`, only of that."""
    query = select(incidents).where(IS_OPEN_INCIDENT).order_by(incidents.c.id)
    if subject is not None:
        query = query.where(incidents.c.subject == subject)
    return [_incident(row) for row in conn.execute(query)]


def open_incident(conn: Connection, new: NewIncident) -> Incident | None:
    """Open an incident. None: one of this kind is open for the subject."""
    row = new.model_dump(exclude={"kind"}) | {"kind": new.kind.value, "last_run_id": new.run_id, "reminders": 0}
    statement = insert_into(conn, incidents).values(row)
    statement = statement.on_conflict_do_nothing(
        index_elements=["subject", "kind"], index_where=IS_OPEN_INCIDENT
    ).returning(*incidents.c)
    inserted = conn.execute(statement).one_or_none()
    return None if inserted is None else _incident(inserted)


def continue_incident(conn: Connection, incident: Incident, run_id: int | None, why: str) -> None:
    """Another run of the same kind ended: keep its reason for the next reminder."""
    held = update(incidents).where(incidents.c.id == incident.id, IS_OPEN_INCIDENT)
    conn.execute(held.values(last_run_id=run_id, why=why))


def close_incident(conn: Connection, incident: Incident, at: datetime, run_id: int | None = None) -> bool:
    """Close an incident. False: it is closed already."""
    held = update(incidents).where(incidents.c.id == incident.id, IS_OPEN_INCIDENT)
    columns: dict[str, Any] = {"closed_at": at, "remind_at": None}
    if run_id is not None:
        columns["last_run_id"] = run_id
    return conn.execute(held.values(columns)).rowcount == 1


def set_reminder(conn: Connection, incident: Incident, remind_at: datetime | None, *, reminded: bool) -> bool:
    """Set when the next reminder is due; `reminded` counts one. False: another node did, or it is closed."""
    held = update(incidents).where(
        incidents.c.id == incident.id, IS_OPEN_INCIDENT, incidents.c.reminders == incident.reminders
    )
    columns: dict[str, Any] = {"remind_at": remind_at}
    if reminded:
        columns["reminders"] = incident.reminders + 1
    return conn.execute(held.values(columns)).rowcount == 1


def channels_notified(conn: Connection, incident_ids: Sequence[int]) -> dict[int, set[str]]:
    """By incident, the channels that got a notice of it, or will."""
    query = select(notices.c.incident_id, notices.c.channel).where(notices.c.incident_id.in_(list(incident_ids)))
    found: dict[int, set[str]] = {}
    for row in conn.execute(query.distinct()):
        found.setdefault(row.incident_id, set()).add(row.channel)
    return found


def delete_notices_before(conn: Connection, before: datetime, most: int) -> int:
    """Delete at most that many notices that are over and older; returns their number."""
    old = select(notices.c.id).where(notices.c.created_at < before, ~IS_PENDING).order_by(notices.c.created_at)
    ids = conn.execute(old.limit(most)).scalars().all()
    return conn.execute(delete(notices).where(notices.c.id.in_(ids))).rowcount if ids else 0


def delete_incidents_before(conn: Connection, before: datetime, most: int) -> int:
    """Delete at most that many closed incidents that are older and have no notices; returns their number."""
    used = select(notices.c.id).where(notices.c.incident_id == incidents.c.id).exists()
    old = select(incidents.c.id).where(incidents.c.opened_at < before, ~IS_OPEN_INCIDENT, ~used)
    ids = conn.execute(old.order_by(incidents.c.opened_at).limit(most)).scalars().all()
    return conn.execute(delete(incidents).where(incidents.c.id.in_(ids))).rowcount if ids else 0


def _held(group: ClaimedGroup) -> Iterable[ColumnElement[bool]]:
    """Conditions that hold for the rows of a claim that is not over."""
    yield notices.c.group_key == group.key
    yield notices.c.state == NoticeState.SENDING.value
    yield tuple_(notices.c.id, notices.c.fence).in_([(notice.id, notice.fence) for notice in group.notices])


def _pending(conn: Connection, now: datetime, *, pings: bool) -> tuple[list[PendingNotice], dict[str, datetime]]:
    """The pending notices, and when each channel got its last message, if that was within GROUP_INTERVAL."""
    columns = [notices.c[name] for name in PendingNotice._fields]
    query = select(*columns).where(IS_PENDING).order_by(notices.c.id).limit(MAX_PENDING)
    if not pings:
        query = query.where(notices.c.kind != NoticeKind.PING.value)
    found = [
        PendingNotice(*row)._replace(kind=NoticeKind(row.kind), state=NoticeState(row.state))
        for row in conn.execute(query)
    ]
    if not found:
        return [], {}
    grouped = notices.c.kind.not_in([kind.value for kind in ALONE])
    last = select(notices.c.channel, func.max(notices.c.sent_at).label("at"))
    last = last.where(notices.c.sent_at > now - GROUP_INTERVAL, grouped).group_by(notices.c.channel)
    return found, {row.channel: row.at for row in conn.execute(last)}


def _notice(row: AnyRow) -> Notice:
    columns = row._asdict()
    del columns["channel_down"]
    return Notice(**columns)


def _incident(row: AnyRow) -> Incident:
    return Incident(**row._asdict())
