"""Who may do what: rights, the roles that have them, tokens, and the caller of a request."""

from __future__ import annotations

from enum import StrEnum
from fnmatch import fnmatchcase
from typing import NamedTuple

from pydantic import Field

from maintd.errors import ForbiddenError
from maintd.model.base import Model
from maintd.units import Instant


class Role(StrEnum):
    """What a caller may do. Each role has the rights of those before it, too."""

    VIEWER = "viewer"  # see everything except secrets
    OPERATOR = "operator"  # trigger, cancel and resume runs, pass gates, pause and freeze entries, acknowledge, mute
    APPROVER = "approver"  # put a changed calendar into force, pass gates that ask for an approver
    ADMIN = "admin"  # create and revoke tokens, pass a gate in an emergency

    def has(self, right: Right) -> bool:
        """Whether this role has the right."""
        return right is Right.PROBE or self.includes(LEAST_ROLES[right])

    def includes(self, other: Role) -> bool:
        """Whether this role has all rights of the other one."""
        return _RANK[self] >= _RANK[other]


class Right(StrEnum):
    """What a request needs. `web.access` has the right of each route."""

    PROBE = "probe"  # ask whether maintd is alive; everyone may, without a token
    READ = "read"
    TRIGGER = "trigger"
    CANCEL = "cancel"
    RESUME = "resume"  # also undo and release
    PAUSE = "pause"
    ACKNOWLEDGE = "acknowledge"
    DECIDE = "decide"  # tick, approve and reject at a gate, which may ask for a role with more rights
    NOTE = "note"
    MUTE = "mute"
    FREEZE = "freeze"
    TEST_NOTICES = "test_notices"
    RELOAD = "reload"
    MANAGE_TOKENS = "manage_tokens"


LEAST_ROLES = {
    Right.READ: Role.VIEWER,
    Right.TRIGGER: Role.OPERATOR,
    Right.CANCEL: Role.OPERATOR,
    Right.RESUME: Role.OPERATOR,
    Right.PAUSE: Role.OPERATOR,
    Right.ACKNOWLEDGE: Role.OPERATOR,
    Right.DECIDE: Role.OPERATOR,
    Right.NOTE: Role.OPERATOR,
    Right.MUTE: Role.OPERATOR,
    Right.FREEZE: Role.OPERATOR,
    Right.TEST_NOTICES: Role.OPERATOR,
    Right.RELOAD: Role.APPROVER,
    Right.MANAGE_TOKENS: Role.ADMIN,
}
"""The first role that has a right; the roles after it have it, too."""

_RANK = {role: rank for rank, role in enumerate(Role)}


def roles_with(right: Right) -> tuple[Role, ...]:
    """The roles that have a right, in order."""
    return tuple(role for role in Role if role.has(right))


class TokenState(StrEnum):
    """Whether a token can be used."""

    VALID = "valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Token(Model):
    """A token of the API, without the token itself, of which the store has only a digest.

    `entries` are patterns such as `backup-*`; the token is limited to entries whose name matches one. Empty: all.
    `person` is who holds it and acts with it; empty: a program does.
    """

    name: str
    role: Role
    person: str = ""
    entries: tuple[str, ...] = ()
    created_at: Instant
    created_by: str
    expires_at: Instant
    revoked_at: Instant | None = None
    revoked_by: str = ""
    last_used_at: Instant | None = None  # to the minute
    last_used_from: str = ""

    def state_at(self, now: Instant) -> TokenState:
        """Whether it can be used at a time."""
        if self.revoked_at is not None:
            return TokenState.REVOKED
        return TokenState.VALID if now < self.expires_at else TokenState.EXPIRED


class CreatedToken(Token):
    """A new token. `token` is the token itself, which is not stored and cannot be shown again.

    `unmatched` are those of its patterns that match no entry of the calendar now.
    """

    token: str = Field(repr=False)
    unmatched: tuple[str, ...] = ()


class ListedToken(Token):
    """A token with its state: valid, expired or revoked."""

    state: TokenState


NO_PERSON = ("", "root", "maintd")
"""Names of users that several people and programs share."""


def split_name(name: str) -> tuple[str, str]:
    """What a caller claims to be, and the part of the name that was verified: `ada` and `root` of `ada (as root)`.

    Without a claim both are the name.
    """
    claim, found, verified = name.rpartition(" (as ")
    return (claim, verified.removesuffix(")")) if found and claim and name.endswith(")") else (name, name)


def verified_name(name: str) -> str:
    """The part of a caller's name that was verified: `root` of `ada (as root)`; `ada` is only claimed."""
    return split_name(name)[1]


def is_person(name: str) -> bool:
    """Whether a verified name can be that of a person: not `root`, and not `uid 1000`."""
    return name.strip() not in NO_PERSON and not name.startswith("uid ")


class Caller(NamedTuple):
    """Who sends a request, from where, and what they may do."""

    name: str = ""  # of the user, of the person who holds the token, or of the token of a program; empty: unknown
    role: Role | None = Role.VIEWER  # None: nothing but probes
    origin: str = ""  # for example `socket, uid 1000, pid 4711` or `10.0.0.7`
    entries: tuple[str, ...] = ()  # patterns of entry names that a token is limited to; empty: all
    token: str = ""  # the token's name
    token_id: int = 0  # of the token's row in the store; 0 without a token
    by_program: bool = False  # the token is no person's
    by_proxy: bool = False  # a proxy named the user and the groups, for this request

    @property
    def person(self) -> str:
        """The person who acts: verified, else as claimed; empty if neither names one."""
        claimed, verified = split_name(self.name)
        if not self.by_program and is_person(verified):
            return verified
        return claimed if claimed != verified and is_person(claimed) else ""

    def may(self, right: Right) -> bool:
        """Whether the caller's role has a right."""
        return right is Right.PROBE or (self.role is not None and self.role.has(right))

    def covers(self, entry: str) -> bool:
        """Whether the caller's token is for this entry (or job, by its name)."""
        return not self.entries or any(fnmatchcase(entry, pattern) for pattern in self.entries)

    def covers_pattern(self, pattern: str) -> bool:
        """Whether the caller's token is for all entries that match a pattern: it has the same pattern, or the pattern
        is the name of one entry that it covers."""
        return not self.entries or pattern in self.entries or (not set("*?[") & set(pattern) and self.covers(pattern))

    def require(self, entry: str) -> None:
        """Raise ForbiddenError unless the caller's token is for this entry, or all entries of this pattern."""
        if not self.covers_pattern(entry):
            raise ForbiddenError(
                f'token "{self.token}" is not for the entry "{entry}"', f"it is for: {', '.join(self.entries)}"
            )
