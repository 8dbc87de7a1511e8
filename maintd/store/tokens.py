"""Tokens of the API. A token is 32 random bytes; the store has their SHA-256."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import bindparam, exists, insert, or_, select, update
from sqlalchemy.engine import Connection

from maintd.errors import RefusedError
from maintd.model.access import Role, Token
from maintd.store.audit import add_event
from maintd.store.database import ConflictError, Database
from maintd.store.prepared import Prepared
from maintd.store.tables import tokens

USE_RESOLUTION = timedelta(minutes=1)
"""The last use of a token is recorded at most this often."""


_BY_DIGEST = Prepared(select(tokens).where(tokens.c.digest == bindparam("of_digest")))


class StoredToken(NamedTuple):
    """A token with its row's id and its digest, SHA-256 in hex."""

    id: int
    digest: str
    token: Token


class Tokens:
    """Tokens and their use."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, token: Token, digest: str, *, origin: str = "", why: str = "") -> None:
        """Add a token, with an audit event. Raises RefusedError when the name is taken, also by a revoked token."""
        columns = token.model_dump(exclude={"role", "entries"})

        def transaction(conn: Connection) -> None:
            conn.execute(
                insert(tokens).values(digest=digest, role=token.role.value, entries=list(token.entries), **columns)
            )
            text = f"{token.role}, expires {token.expires_at:%Y-%m-%d %H:%MZ}"
            if token.person:
                text += f", held by {token.person}"
            if token.entries:
                text += f", for {', '.join(token.entries)}"
            add_event(
                conn,
                "token_created",
                subject=token.name,
                by=token.created_by,
                origin=origin,
                why=why,
                text=text,
                at=token.created_at,
            )

        try:
            self._database.write(transaction)
        except ConflictError:
            raise RefusedError(f'there is a token "{token.name}" already', "choose another name") from None

    def all(self) -> list[Token]:
        """All tokens in the order of their creation, with those that are expired or revoked."""
        query = select(tokens).order_by(tokens.c.id)
        return self._database.read(lambda conn: [_token(row) for row in conn.execute(query)])

    def find(self, digest: str) -> StoredToken | None:
        """The token with this digest, valid or not."""

        def transaction(conn: Connection) -> StoredToken | None:
            rows = _BY_DIGEST.rows_without_transaction(conn, {"of_digest": digest})
            return StoredToken(rows[0].id, rows[0].digest, _token(rows[0])) if rows else None

        return self._database.read(transaction)

    def any_valid(self, now: datetime) -> bool:
        """Whether a token can be used at this time."""
        query = select(exists().where(tokens.c.revoked_at.is_(None), tokens.c.expires_at > now))
        return self._database.read(lambda conn: bool(conn.execute(query).scalar()))

    def valid(self, ids: Collection[int], now: datetime) -> set[int]:
        """The row ids of those of these tokens that can be used at this time."""
        query = select(tokens.c.id).where(
            tokens.c.id.in_(ids), tokens.c.revoked_at.is_(None), tokens.c.expires_at > now
        )
        return self._database.read(lambda conn: set(conn.execute(query).scalars()))

    def revoke(self, name: str, *, by: str, origin: str = "", why: str = "", now: datetime) -> bool:
        """Revoke a token, with an audit event. False if there is none of this name or it was revoked before."""
        revoked = (
            update(tokens)
            .where(tokens.c.name == name, tokens.c.revoked_at.is_(None))
            .values(revoked_at=now, revoked_by=by)
        )

        def transaction(conn: Connection) -> bool:
            if conn.execute(revoked).rowcount == 0:
                return False
            add_event(conn, "token_revoked", subject=name, by=by, origin=origin, why=why, at=now)
            return True

        return self._database.write(transaction)

    def record_use(self, token_id: int, origin: str, now: datetime) -> None:
        """Record the last use, unless one of less than USE_RESOLUTION ago is recorded."""
        used = (
            update(tokens)
            .where(
                tokens.c.id == token_id,
                or_(tokens.c.last_used_at.is_(None), tokens.c.last_used_at <= now - USE_RESOLUTION),
            )
            .values(last_used_at=now, last_used_from=origin)
        )
        self._database.write(lambda conn: conn.execute(used), synced=False)


def _token(row: Any) -> Token:
    return Token(
        name=row.name,
        role=Role(row.role),
        person=row.person,
        entries=tuple(row.entries),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        revoked_by=row.revoked_by,
        last_used_at=row.last_used_at,
        last_used_from=row.last_used_from,
    )
