"""Tokens of the API: create, list, revoke, and find the one that a request carries."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from maintd.errors import RefusedError, UnknownNameError, UsageError
from maintd.model.access import NO_PERSON, CreatedToken, ListedToken, Role, Token
from maintd.present import utc_minute
from maintd.store import Store
from maintd.store.tokens import StoredToken
from maintd.units import format_duration

PREFIX = "maintd_"
"""What each token begins with, so that people and programs that search for leaked secrets recognize it."""

TOKEN_BYTES = 32

DEFAULT_LIFETIME = timedelta(days=90)
LONGEST_LIFETIME = timedelta(days=366)

MAX_PATTERNS = 20

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}", re.ASCII)
_PATTERN = re.compile(r"[\w.*?\[\]!-]{1,200}")


def create_token(
    store: Store,
    name: str,
    role: Role,
    *,
    expires_at: datetime | None = None,
    person: str = "",
    entries: Sequence[str] = (),
    by: str = "",
    origin: str = "",
    why: str = "",
) -> CreatedToken:
    """Create a token; without `expires_at` it expires after DEFAULT_LIFETIME, and without `person` it is a program's.

    Raises UsageError for a bad name, pattern or expiry, RefusedError for a name that is taken.
    """
    now = store.now()
    expires_at = now + DEFAULT_LIFETIME if expires_at is None else expires_at
    if not _NAME.fullmatch(name):
        raise UsageError(
            f'"{name[:80]}" is not a name for a token', "use at most 64 letters, digits, and the characters . _ - @"
        )
    if person and (not _NAME.fullmatch(person) or person in NO_PERSON):
        raise UsageError(
            f'"{person[:80]}" is not the name of a person', "give the name that they have on the hosts or at the proxy"
        )
    if expires_at <= now:
        raise UsageError(f"the expiry, {utc_minute(expires_at)}, is in the past", "give a time in the future")
    # A minute more, because the clock of the client that computed the time may be ahead.
    if expires_at > now + LONGEST_LIFETIME + timedelta(minutes=1):
        raise UsageError(
            f"a token can be valid for at most {format_duration(LONGEST_LIFETIME)}",
            "create another one before it expires",
        )
    if len(entries) > MAX_PATTERNS:
        raise UsageError(f"more than {MAX_PATTERNS} patterns of entries", "use patterns such as backup-*")
    for pattern in entries:
        if not _PATTERN.fullmatch(pattern):
            raise UsageError(f'"{pattern[:80]}" is not a pattern of entry names', "write for example backup-*")
    secret = secrets.token_bytes(TOKEN_BYTES)
    token = Token(
        name=name,
        role=role,
        person=person,
        entries=tuple(dict.fromkeys(entries)),
        created_at=now,
        created_by=by,
        expires_at=expires_at,
    )
    store.tokens.add(token, _digest(secret), origin=origin, why=why)
    known = [entry for entry, state in store.entries.states().items() if state.active]
    unmatched = unmatched_patterns(token.entries, known) if known else ()  # none before the first start
    return CreatedToken(token=PREFIX + _encoded(secret), unmatched=unmatched, **token.model_dump())


def unmatched_patterns(patterns: Sequence[str], names: Collection[str]) -> tuple[str, ...]:
    """The patterns that match none of these names."""
    return tuple(pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names))


def list_tokens(store: Store) -> tuple[ListedToken, ...]:
    """All tokens in the order of their creation."""
    now = store.now()
    return tuple(ListedToken(state=token.state_at(now), **token.model_dump()) for token in store.tokens.all())


def revoke_token(store: Store, name: str, *, by: str = "", origin: str = "", why: str = "") -> ListedToken:
    """Revoke a token: no request with it is accepted from now on. Raises UnknownNameError, and RefusedError if it is
    revoked already."""
    now = store.now()
    if not store.tokens.revoke(name, by=by, origin=origin, why=why, now=now):
        names = [token.name for token in store.tokens.all()]
        if name not in names:
            raise UnknownNameError("token", name, names)
        raise RefusedError(f'token "{name}" is revoked already', "see: maintd token list")
    return next(token for token in list_tokens(store) if token.name == name)


def find_token(store: Store, text: str) -> StoredToken | None:
    """The stored token of a text that a request carries, valid or not; None if there is none.

    The database compares digests, whose bytes say nothing about a token that is not known.
    """
    encoded = text.removeprefix(PREFIX)
    try:
        secret = base64.b64decode(encoded + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(secret) != TOKEN_BYTES or text != PREFIX + _encoded(secret):
        return None
    digest = _digest(secret)
    found = store.tokens.find(digest)
    return found if found is not None and hmac.compare_digest(found.digest, digest) else None


def _digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _encoded(secret: bytes) -> str:
    return base64.urlsafe_b64encode(secret).decode().rstrip("=")
