"""Freezes by operators: entries with a job that changes something do not run until a time."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import and_, bindparam, delete, insert, or_, select, update
from sqlalchemy.engine import Connection, Row
from sqlalchemy.sql import ColumnElement

from maintd.model.entry import Freeze
from maintd.present.text import utc_minute
from maintd.store.audit import add_event
from maintd.store.database import Database
from maintd.store.prepared import Prepared
from maintd.store.tables import freezes
from maintd.units import utc_text

_NOT_ENDED = or_(freezes.c.ended_at.is_(None), freezes.c.ended_at > bindparam("after"))
_BETWEEN = Prepared(
    select(freezes)
    .where(_NOT_ENDED, freezes.c.until > bindparam("after"), freezes.c.since <= bindparam("up_to"))
    .order_by(freezes.c.id)
)


class Freezes:
    """Freezes, active and past ones."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def active(self, now: datetime) -> list[Freeze]:
        """The freezes at this time, oldest first."""
        return self.between(now, now)

    def between(self, since: datetime, until: datetime) -> list[Freeze]:
        """The freezes of which a part is in [since, until], oldest first; `until` of each is when it really ended."""
        period = {"after": since, "up_to": until}
        return self._database.read(lambda conn: [_freeze(row) for row in _BETWEEN.rows(conn, period)])

    def add(self, entries: str, *, why: str, by: str, until: datetime, now: datetime, origin: str = "") -> Freeze:
        """Freeze entries by name or pattern, with an audit event; an active freeze of the same ones ends."""
        row = {"entries": entries, "why": why, "by": by, "since": now, "until": until}

        def transaction(conn: Connection) -> Freeze:
            query = select(freezes).where(_is_active(entries, now)).order_by(freezes.c.id)
            replaces = "; ".join(f"by {old.by} until {utc_minute(old.until)}: {old.why}" for old in conn.execute(query))
            _end(conn, entries, by=by, at=now)
            conn.execute(insert(freezes).values(row))
            text = f"until {utc_text(until)}" + (f", in place of the one {replaces}" if replaces else "")
            add_event(conn, "entries_frozen", subject=entries, by=by, origin=origin, why=why, text=text, at=now)
            return Freeze.model_validate({**row, "replaces": replaces})

        return self._database.write(transaction)

    def end(self, entries: str, *, by: str, now: datetime, origin: str = "", why: str = "") -> bool:
        """End the freeze of these entries, as they were written, with an audit event. False: there is none."""

        def transaction(conn: Connection) -> bool:
            if not _end(conn, entries, by=by, at=now):
                return False
            add_event(conn, "entries_unfrozen", subject=entries, by=by, origin=origin, why=why, at=now)
            return True

        return self._database.write(transaction)


def _end(conn: Connection, entries: str, *, by: str, at: datetime) -> int:
    active = update(freezes).where(_is_active(entries, at))
    return conn.execute(active.values(ended_at=at, ended_by=by)).rowcount


def _is_active(entries: str, at: datetime) -> ColumnElement[bool]:
    return and_(freezes.c.entries == entries, freezes.c.ended_at.is_(None), freezes.c.until > at)


def _freeze(row: Row[Any]) -> Freeze:
    until = row.until if row.ended_at is None else min(row.ended_at, row.until)
    return Freeze(entries=row.entries, why=row.why, by=row.by, since=row.since, until=until)


def delete_freezes_before(conn: Connection, before: datetime, most: int) -> int:
    """Delete at most that many freezes that were over before that time; returns their number."""
    old = select(freezes.c.id).where(freezes.c.until < before).order_by(freezes.c.id).limit(most)
    ids = conn.execute(old).scalars().all()
    return conn.execute(delete(freezes).where(freezes.c.id.in_(ids))).rowcount if ids else 0
