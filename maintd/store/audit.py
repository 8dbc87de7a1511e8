"""The audit log: actions of operators and of the daemon itself."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import insert, select
from sqlalchemy.engine import Connection

from maintd.model.status import AuditEvent
from maintd.store.database import Database
from maintd.store.tables import events


class Audit:
    """The audit log, which is append-only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        kind: str,
        *,
        subject: str = "",
        by: str = "",
        origin: str = "",
        why: str = "",
        text: str = "",
        at: datetime,
    ) -> None:
        """Add an event. `kind` is noun_verbed: calendar_loaded, clock_stepped. `origin`: where a request came from."""
        self._database.write(
            lambda conn: add_event(conn, kind, subject=subject, by=by, origin=origin, why=why, text=text, at=at)
        )

    def recent(self, limit: int = 50) -> list[AuditEvent]:
        """The last events, newest first."""
        query = select(events).order_by(events.c.id.desc()).limit(limit)
        columns = tuple(AuditEvent.model_fields)
        return self._database.read(
            lambda conn: [
                AuditEvent.model_validate({name: getattr(row, name) for name in columns}) for row in conn.execute(query)
            ]
        )


def add_event(
    conn: Connection,
    kind: str,
    *,
    subject: str = "",
    by: str = "",
    origin: str = "",
    why: str = "",
    text: str = "",
    at: datetime,
) -> None:
    """Add an event within a transaction, so that both are committed or neither."""
    conn.execute(insert(events).values(at=at, kind=kind, subject=subject, by=by, origin=origin, why=why, text=text))
