"""What a secret opens: how a value is set there, tried, revoked, and how the one of before is restored.

No password reaches a server but to log in: Postgres gets a SCRAM verifier and Redis a hash, both computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from typing import Any, Protocol

from psycopg import sql
from pydantic import SecretStr

from maintd.clients import http, postgres, redis
from maintd.clients.postgres import Login, Postgres
from maintd.clients.redis import RedisServer
from maintd.errors import TargetError
from maintd.model.target import HttpLogin, PostgresLogin, PostgresTarget, RedisLogin, RedisTarget, Secret

_JOB = "secrets_rotate"
_NO_SUCH = "maintd-no-such-value-0000000000000"

Place = Callable[[str, str], Any]
"""The target of a kind and a name."""


@dataclass(frozen=True)
class Held:
    """A value, and the user that it belongs to; empty without one."""

    user: str
    value: str = field(repr=False)


class Opened(Protocol):
    """What a secret opens."""

    shown: str
    """Its name in texts."""
    changes_server: bool
    """Whether the value is set at a server, by `accept`. Otherwise the services that read its file are all."""
    keeps_both: bool
    """Whether the old value works until it is revoked."""

    def users(self) -> tuple[str, ...]:
        """The users that can have the value."""

    def accepts(self, held: Held) -> bool | None:
        """Whether the value is accepted now; None where nothing can try it. Raises TargetError for any other answer."""

    def require(self) -> None:
        """Raise TargetError if a rotation could not be done, or would lose something."""

    def verifier(self, old: Held) -> str | None:
        """What the server keeps of the old value, for `restore`; None where that cannot be read."""

    def accept(self, new: Held, old: Held) -> str:
        """Let the new value be accepted; safe to repeat. Returns what was done. Raises TargetError."""

    def revoke(self, old: Held, new: Held) -> str:
        """Let the old value be refused; safe to repeat. Returns what was done. Raises TargetError."""

    def restore(self, old: Held, new: Held, verifier: str | None) -> str:
        """Let the old value be accepted, and the new one refused; safe to repeat. Raises TargetError."""


class _PostgresRoles:
    """What logins by one and by two roles have in common."""

    def __init__(self, target: PostgresTarget, login: PostgresLogin) -> None:
        self._target = target
        self._login = login
        self.shown = f"postgres {login.target}"

    def users(self) -> tuple[str, ...]:
        return self._login.roles

    def accepts(self, held: Held) -> bool | None:
        return _postgres_accepts(self._target, self._login.target, held)


class TwoRoles(_PostgresRoles):
    """Two roles of Postgres with the same rights, which take turns."""

    changes_server = True
    keeps_both = True

    def require(self) -> None:
        with self._session() as session:
            for role in self._login.roles:
                require_alterable(session, role)
            require_same_rights(session, self._login.roles)

    def verifier(self, old: Held) -> str | None:
        return None  # the old role keeps its password

    def accept(self, new: Held, old: Held) -> str:
        with self._session() as session:
            _alter(session, new.user, sql.SQL("LOGIN PASSWORD {}").format(_scram(session, new)))
        return f"role {new.user}: may log in, with a new password"

    def revoke(self, old: Held, new: Held) -> str:
        with self._session() as session:
            _alter(session, old.user, sql.SQL("NOLOGIN"))
        return f"role {old.user}: may not log in any more"

    def restore(self, old: Held, new: Held, verifier: str | None) -> str:
        with self._session() as session:
            _alter(session, old.user, sql.SQL("LOGIN"))
            _alter(session, new.user, sql.SQL("NOLOGIN"))
        return f"role {old.user}: may log in, {new.user} may not"

    @contextmanager
    def _session(self) -> Iterator[Postgres]:
        with postgres.connect(self._target, _JOB, name=self._login.target, read_only=False) as session:
            yield session


class OneRole(_PostgresRoles):
    """One role of Postgres, which changes its own password: that needs no right but to log in."""

    changes_server = True
    keeps_both = False

    def require(self) -> None:
        pass  # that the old value is accepted shows all

    def verifier(self, old: Held) -> str | None:
        query = "SELECT rolpassword FROM pg_authid WHERE rolname = %s"
        try:
            with self._session(old) as session:
                rows = session.rows(query, (old.user,))
        except TargetError as error:
            if error.cause == "denied":
                return None  # only a superuser may read it: a new one is computed from the old password
            raise
        found = rows[0]["rolpassword"] if rows else None
        return str(found) if found else None

    def accept(self, new: Held, old: Held) -> str:
        if not self.accepts(new):
            with self._session(old) as session:
                self._set(session, new.user, _scram(session, new))
        return f"role {new.user}: has a new password"

    def revoke(self, old: Held, new: Held) -> str:
        return f"role {old.user}: has one password only"

    def restore(self, old: Held, new: Held, verifier: str | None) -> str:
        if not self.accepts(old):
            with self._session(new) as session:
                self._set(session, old.user, verifier or _scram(session, old))
        return f"role {old.user}: has the password of before"

    def _set(self, session: Postgres, role: str, verifier: str) -> None:
        session.rows("SET ROLE NONE")  # a role may be set up to act as the owner, who may not change it
        _alter(session, role, sql.SQL("PASSWORD {}").format(verifier))

    @contextmanager
    def _session(self, held: Held) -> Iterator[Postgres]:
        login = Login(held.user, held.value)
        with postgres.connect(self._target, _JOB, name=self._login.target, read_only=False, login=login) as session:
            yield session


class RedisUser:
    """A user of Redis, who can have several passwords."""

    changes_server = True
    keeps_both = True

    def __init__(self, target: RedisTarget, login: RedisLogin) -> None:
        self._target = target
        self._login = login
        self.shown = f"redis {login.target}"

    def users(self) -> tuple[str, ...]:
        return (self._login.user,)

    def accepts(self, held: Held) -> bool | None:
        return redis.accepts(self._target, redis.Login(held.user, held.value), name=self._login.target)

    def require(self) -> None:
        with self._session() as server:
            self._hashes(server)
            if self._login.persist == "aclfile" and not _setting(server, "aclfile"):
                hint = "start it with one, or set persist: after a restart the old password would be back"
                raise TargetError(f"{server.name} has no ACL file", hint, cause="not_configured")

    def verifier(self, old: Held) -> str | None:
        return None  # the hash is that of the old value

    def accept(self, new: Held, old: Held) -> str:
        return self._change(new, None)

    def revoke(self, old: Held, new: Held) -> str:
        return self._change(new, old)

    def restore(self, old: Held, new: Held, verifier: str | None) -> str:
        return self._change(old, new)

    def _change(self, to: Held, without: Held | None) -> str:
        """Let the user have a password, and not another one."""
        with self._session() as server:
            rules = [f"#{_hash(to)}"]
            if without is not None and _hash(without) in self._hashes(server):
                rules.append(f"!{_hash(without)}")
            server.command("ACL", "SETUSER", to.user, *rules)
            if self._login.persist == "aclfile":
                server.command("ACL", "SAVE")
            elif self._login.persist == "config":
                server.command("CONFIG", "REWRITE")
            hashes = self._hashes(server)
            if _hash(to) not in hashes or (without is not None and _hash(without) in hashes):
                hint = "compare it with: ACL GETUSER"
                raise TargetError(f"{server.name}: user {to.user} has other passwords than were set", hint)
        kept = {"nowhere": ", and loses it at a restart"}.get(self._login.persist, "")
        return f"user {to.user}: has {len(hashes)} {'password' if len(hashes) == 1 else 'passwords'}{kept}"

    def _hashes(self, server: RedisServer) -> list[str]:
        answer = server.command("ACL", "GETUSER", self._login.user)
        found = (
            answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True)) if answer else {}
        )
        if "passwords" not in found:
            raise TargetError(f"{server.name} has no user {self._login.user}", "correct the user", cause="not_found")
        return [str(item) for item in found["passwords"]]

    @contextmanager
    def _session(self) -> Iterator[RedisServer]:
        with redis.connect(self._target, name=self._login.target) as server:
            yield server


class HttpService:
    """A service that reads the secret at its start, and asks for it in each request."""

    changes_server = False
    keeps_both = False

    def __init__(self, login: HttpLogin, timeout: timedelta) -> None:
        self._login = login
        self._timeout = timeout
        self.shown = login.url

    def users(self) -> tuple[str, ...]:
        return ("",)

    def accepts(self, held: Held) -> bool | None:
        login = self._login
        headers = {login.header: SecretStr(f"{login.prefix}{held.value}")}
        answer = http.fetch(
            "GET",
            login.url,
            timeout=self._timeout,
            headers=headers,
            ca_file=login.ca_file,
            verify=login.verify,
        )
        if answer.status in (401, 403):
            return False
        if 200 <= answer.status < 300:
            return True
        text = f"{answer.url} answered {answer.status}"
        cause = "failed" if answer.status >= 500 else "unfamiliar"
        raise TargetError(text, "name a URL that only the token decides about", cause=cause)

    def require(self) -> None:
        pass  # that the old value is accepted shows all

    def verifier(self, old: Held) -> str | None:
        return None

    def accept(self, new: Held, old: Held) -> str:
        return "accepted once the services have read it"

    def revoke(self, old: Held, new: Held) -> str:
        return "refused once the services have read the new one"

    def restore(self, old: Held, new: Held, verifier: str | None) -> str:
        return "accepted once the services have read it"


class NothingToTry(HttpService):
    """Services whose health is all that shows whether they can work with the value."""

    def __init__(self) -> None:
        self.shown = "the services"

    def accepts(self, held: Held) -> bool | None:
        return None


def opened_by(secret: Secret, place: Place, timeout: timedelta) -> Opened:
    """What a generated secret opens. Raises TargetError and UnknownNameError for a target that is not configured."""
    if secret.postgres is not None:
        target = place("postgres", secret.postgres.target)
        return (TwoRoles if len(secret.postgres.roles) == 2 else OneRole)(target, secret.postgres)
    if secret.redis is not None:
        return RedisUser(place("redis", secret.redis.target), secret.redis)
    return NothingToTry() if secret.http is None else HttpService(secret.http, timeout)


def require_distinguishing(opened: Opened, held: Held) -> None:
    """Raise TargetError where any value is accepted: there, neither the new one nor the end of the old is proved."""
    if opened.accepts(Held(held.user, _NO_SUCH)):
        hint = (
            "let it require the value: pg_hba.conf without trust, a Redis user without nopass, a URL that is protected"
        )
        raise TargetError(f"{opened.shown} accepts any value", hint, cause="unfamiliar")


_ALTERABLE = """
SELECT rolsuper AS super, rolcanlogin AS login, quote_ident(rolname) AS quoted FROM pg_roles WHERE rolname = %s
"""


def require_alterable(session: Postgres, role: str) -> None:
    """Change nothing of a role in a transaction that is rolled back: the right is the one for its password.

    Raises TargetError, whose hint has the grant.
    """
    found = session.rows(_ALTERABLE, (role,))
    if not found:
        raise TargetError(f"{session.name} has no role {role}", "see deploy/secrets.sql", cause="not_found")
    session.rows("BEGIN READ WRITE")
    try:
        _alter(session, role, sql.SQL("LOGIN" if found[0]["login"] else "NOLOGIN"))
    except TargetError as error:
        if error.cause == "denied":
            grant = f"CREATEROLE, and from Postgres 16 on GRANT {role} … WITH ADMIN OPTION, to the target's user"
            hint = (
                "only a superuser may: use another role" if found[0]["super"] else f"{grant} (see deploy/secrets.sql)"
            )
            raise TargetError(f"{session.name}: may not change role {role}", hint, cause="denied") from error
        raise
    finally:
        session.rows("ROLLBACK")


_RIGHTS = """
SELECT r.rolname AS role,
  to_jsonb(r) - ARRAY['oid', 'rolname', 'rolpassword', 'rolcanlogin', 'rolvaliduntil'] AS attributes,
  ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
    WHERE m.member = r.oid ORDER BY 1) AS groups,
  ARRAY(SELECT concat_ws(' ', d.dbid, d.classid, d.objid, d.objsubid) FROM pg_shdepend d
    WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid AND d.deptype = 'a' ORDER BY 1) AS grants,
  (SELECT count(*) FROM pg_shdepend d
    WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid AND d.deptype = 'o') AS owned
FROM pg_roles r WHERE r.rolname = ANY(%s) ORDER BY 1
"""


def require_same_rights(session: Postgres, roles: tuple[str, ...]) -> None:
    """Raise TargetError where one of the roles may do what the other may not, or owns something."""
    first, second = session.rows(_RIGHTS, (list(roles),))
    different = [what for what in ("attributes", "groups", "grants") if first[what] != second[what]]
    if different:
        hint = "let both be members of the role that owns the tables, and have no rights of their own"
        names = f"{first['role']} and {second['role']}"
        raise TargetError(f"{session.name}: {names} differ in {', '.join(different)}", hint, cause="conflict")
    for row in (first, second):
        if row["owned"]:
            owner = ", ".join(row["groups"]) or "the owner"
            hint = f"REASSIGN OWNED BY {row['role']} TO {owner}, and ALTER ROLE {row['role']} SET role = {owner}"
            text = f"{session.name}: {row['role']} owns {row['owned']} objects, which the other role may not change"
            raise TargetError(text, hint, cause="conflict")


def _alter(session: Postgres, role: str, change: sql.Composable) -> None:
    session.rows(sql.SQL("ALTER ROLE {} {}").format(sql.Identifier(role), change))


def _scram(session: Postgres, held: Held) -> str:
    return session.scram_verifier(Login(held.user, held.value))


def _postgres_accepts(target: PostgresTarget, name: str, held: Held) -> bool:
    return postgres.accepts(target, Login(held.user, held.value), name=name, job=_JOB)


def _hash(held: Held) -> str:
    return sha256(held.value.encode()).hexdigest()


def _setting(server: RedisServer, name: str) -> str:
    return str(_pairs(server.command("CONFIG", "GET", name)).get(name, ""))


def _pairs(answer: Any) -> dict[str, Any]:
    """A map, which RESP2 sends as a list of alternating names and values."""
    return answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
