"""Mutes: an operator silences the notices of entries until a time. Their runs are recorded as always."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.engine import Connection

from maintd.model.notice import Mute
from maintd.store.audit import add_event
from maintd.store.database import Database
from maintd.store.prepared import Prepared
from maintd.store.tables import mutes
from maintd.units import utc_text

_ACTIVE = Prepared(
    select(mutes).where(mutes.c.ended_at.is_(None), mutes.c.until > bindparam("now")).order_by(mutes.c.id)
)


class Mutes:
    """Mutes, active and past ones."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def active(self, now: datetime) -> list[Mute]:
        """The mutes that silence at this time, oldest first."""
        return self._database.read(lambda conn: active_mutes(conn, now))

    def add(self, entries: str, *, why: str, by: str, until: datetime, now: datetime, origin: str = "") -> Mute:
        """Silence entries by name or pattern, with an audit event; an active mute of the same ones ends."""

        def transaction(conn: Connection) -> Mute:
            text = f"until {utc_text(until)}"
            add_event(conn, "entry_muted", subject=entries, by=by, origin=origin, why=why, text=text, at=now)
            return add_mute(conn, entries, why=why, by=by, since=now, until=until)

        return self._database.write(transaction)

    def end(self, entries: str, *, by: str, now: datetime, origin: str = "", why: str = "") -> bool:
        """End the mute of these entries, as they were written, with an audit event. False: there is none."""

        def transaction(conn: Connection) -> bool:
            if not end_mutes(conn, entries, by=by, at=now):
                return False
            add_event(conn, "entry_unmuted", subject=entries, by=by, origin=origin, why=why, at=now)
            return True

        return self._database.write(transaction)

    def recent(self, limit: int = 50) -> list[Mute]:
        """The last mutes, newest first."""
        query = select(mutes).order_by(mutes.c.id.desc()).limit(limit)
        return self._database.read(lambda conn: [Mute(**row._asdict()) for row in conn.execute(query)])


def active_mutes(conn: Connection, now: datetime) -> list[Mute]:
    """As `Mutes.active`, within a transaction."""
    return [Mute(**row._asdict()) for row in _ACTIVE.rows(conn, {"now": now})]


def add_mute(conn: Connection, entries: str, *, why: str, by: str, since: datetime, until: datetime) -> Mute:
    """Silence entries by name or pattern; an active mute of the same ones ends."""
    end_mutes(conn, entries, by=by, at=since)
    row = {"entries": entries, "why": why, "by": by, "since": since, "until": until}
    return Mute(id=conn.execute(insert(mutes).values(row).returning(mutes.c.id)).scalar_one(), **row)


def end_mutes(conn: Connection, entries: str, *, by: str, at: datetime) -> int:
    """End the active mutes of these entries, as they were written; return their number."""
    active = update(mutes).where(mutes.c.entries == entries, mutes.c.ended_at.is_(None), mutes.c.until > at)
    return conn.execute(active.values(ended_at=at, ended_by=by)).rowcount


def delete_mutes_before(conn: Connection, before: datetime, most: int) -> int:
    """Delete at most that many mutes that were over before that time; returns their number."""
    old = select(mutes.c.id).where(mutes.c.until < before).order_by(mutes.c.id).limit(most)
    ids = conn.execute(old).scalars().all()
    return conn.execute(delete(mutes).where(mutes.c.id.in_(ids))).rowcount if ids else 0
