"""Redis: whether it lets in a client without a password, on which addresses, and what its default user may do.

That a password is needed is tried by a connection without one. What the default user may do is tried by ACL DRYRUN,
which runs nothing; ACL GETUSER would show hashes of passwords, and is not used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from maintd.checks.audit.rule import Blind, Outcome, Rule, Violation
from maintd.checks.hints import printable
from maintd.checks.probes import value_or_error
from maintd.clients.redis import RedisServer, connect
from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.evidence import CheckStatus
from maintd.model.target import RedisTarget

FAIL, WARN = CheckStatus.FAIL, CheckStatus.WARN

AUTH = Rule(
    "redis-auth",
    FAIL,
    "servers without authentication",
    "Redis, Security: Authentication",
    "a password for every user",
    "set requirepass, or an aclfile in which the user default is off (deploy/redis.acl.md)",
)
PROTECTED = Rule(
    "redis-protected-mode",
    WARN,
    "servers without protected mode",
    "Redis, Security: Protected mode",
    "protected-mode yes",
    "set protected-mode yes; with a password it refuses no client",
)
BIND = Rule(
    "redis-bind",
    WARN,
    "servers that listen on every address",
    "Redis, Security: Network security",
    "the addresses of its clients' networks",
    "set bind to those addresses; in a container, publish no port",
)
RIGHTS = Rule(
    "redis-default-rights",
    WARN,
    "default users with dangerous commands",
    "Redis, Security: Access control lists",
    "none of them",
    "ACL SETUSER default -@dangerous -@scripting, and a user of its own for each client that needs more",
)
RULES = (AUTH, PROTECTED, BIND, RIGHTS)

DANGEROUS = (
    ("FLUSHALL",),
    ("CONFIG", "SET", "maxclients", "1"),
    ("DEBUG", "SLEEP", "0"),
    ("KEYS", "*"),
    ("SHUTDOWN",),
    ("EVAL", "return 1", "0"),
    ("MODULE", "LIST"),
    ("REPLICAOF", "NO", "ONE"),
    ("ACL", "LIST"),
)
"""Commands of @dangerous and @scripting, with arguments that ACL DRYRUN needs to know them."""

_USER = re.compile(r"^([a-z]+://)[^@/]*@")


@dataclass(frozen=True)
class Facts:
    """anonymous: a client without a password is served. allowed: names of dangerous commands of the default user."""

    anonymous: bool | TargetError
    settings: Mapping[str, str] | TargetError
    allowed: tuple[str, ...] | TargetError


def collect(target: RedisTarget, name: str) -> Facts:
    """Read all of one server. Raises TargetError when it does not answer."""
    with connect(target, name=name) as server:
        server.ping()
        settings = value_or_error(lambda: _settings(server))
        allowed = value_or_error(lambda: _allowed(server))
    return Facts(value_or_error(lambda: _anonymous(target, name)), settings, allowed)


def _anonymous(target: RedisTarget, name: str) -> bool:
    found = resolved(target)
    bare = found.model_copy(update={"url": _USER.sub(r"\1", found.url), "username": None, "password": None})
    try:
        with connect(bare, name=name) as server:
            server.ping()
    except TargetError as error:
        if error.cause == "denied":
            return False
        raise
    return True


def _settings(server: RedisServer) -> dict[str, str]:
    found: dict[str, str] = {}
    for key in ("protected-mode", "bind"):
        answer = server.command("CONFIG", "GET", key)
        pairs = answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=False)
        found |= {str(name): str(value) for name, value in pairs}
    return found


def _allowed(server: RedisServer) -> tuple[str, ...]:
    answers = server.many([("ACL", "DRYRUN", "default", *words) for words in DANGEROUS])
    allowed = []
    for words, answer in zip(DANGEROUS, answers, strict=True):
        if isinstance(answer, TargetError):
            if "not found" in answer.message.lower():
                continue  # renamed, or this server does not have it
            if "unknown" in answer.message.lower():
                raise TargetError(f"{server.name}: has no ACL DRYRUN", "upgrade to Redis 7", cause="unfamiliar")
            raise answer
        if str(answer) == "OK":
            allowed.append(" ".join(words[:2]) if words[0] in ("CONFIG", "ACL", "MODULE") else words[0])
    return tuple(allowed)


def outcomes(place: str, facts: Facts) -> list[Outcome]:
    """What was seen of each rule."""
    return [_auth(place, facts.anonymous), *_bound(place, facts.settings), _rights(place, facts.allowed)]


def _auth(place: str, anonymous: bool | TargetError) -> Outcome:
    if isinstance(anonymous, TargetError):
        return _blind(AUTH, place, anonymous)
    return _one(AUTH, place, "a client without a password is served" if anonymous else "")


def _bound(place: str, settings: Mapping[str, str] | TargetError) -> list[Outcome]:
    found = []
    for rule, key in ((PROTECTED, "protected-mode"), (BIND, "bind")):
        if isinstance(settings, TargetError):
            found.append(_blind(rule, place, settings))
        elif key not in settings:
            found.append(_blind(rule, place, TargetError(f"no answer about {key}", cause="empty")))
        else:
            value = settings[key]
            everywhere = {word.removeprefix("-") for word in value.split()} & {"*", "0.0.0.0", "::", "::*"}
            wrong = value != "yes" if rule is PROTECTED else bool(everywhere) or not value
            found.append(_one(rule, place, f"{key} {printable(value) or 'not set'}" if wrong else ""))
    return found


def _rights(place: str, allowed: tuple[str, ...] | TargetError) -> Outcome:
    if isinstance(allowed, TargetError):
        return _blind(RIGHTS, place, allowed)
    return _one(RIGHTS, place, f"may run {', '.join(allowed)}" if allowed else "")


def _one(rule: Rule, place: str, observed: str) -> Outcome:
    return Outcome(rule, place, 1, (Violation("server", observed),) if observed else ())


def _blind(rule: Rule, place: str, error: TargetError) -> Outcome:
    hint = "ACL SETUSER the target's user +config|get +acl|dryrun" if error.cause == "denied" else error.hint or ""
    return Outcome(rule, place, 0, blind=(Blind("server", f"{error.cause}: {error.message}", hint),))
