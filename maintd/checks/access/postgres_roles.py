"""Roles of a Postgres server that can log in, and their rights; read with the rights of `maintd_ro`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from maintd.checks.access.table import Access
from maintd.checks.hints import command, name_first, printable
from maintd.clients import postgres
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.model.target import PostgresTarget
from maintd.reports.formatting import instant

# Each gives a program or the files of the server, or all data. Source: PostgreSQL documentation, 22.5 Predefined Roles.
_POWERFUL = (
    "pg_execute_server_program",
    "pg_write_server_files",
    "pg_read_server_files",
    "pg_write_all_data",
    "pg_create_subscription",
)
_ROLES = """
SELECT r.rolname::text AS name, r.rolsuper AS super, r.rolcreaterole AS create_role, r.rolcreatedb AS create_db,
  r.rolbypassrls AS bypass, r.rolreplication AS replication,
  CASE WHEN isfinite(r.rolvaliduntil) THEN extract(epoch FROM r.rolvaliduntil)::float8 END AS valid_until,
  ARRAY(SELECT g.rolname::text FROM pg_roles g WHERE g.oid <> r.oid AND NOT r.rolsuper
    AND (g.rolsuper OR g.rolcreaterole OR g.rolname = ANY(%(powerful)s)) AND pg_has_role(r.oid, g.oid, 'MEMBER')
    ORDER BY 1) AS powerful
FROM pg_roles r WHERE r.rolcanlogin ORDER BY 1 LIMIT 1001
"""
_CONNECTED = """
SELECT DISTINCT usename::text AS name FROM pg_stat_activity WHERE usename IS NOT NULL
"""
_RULE = "PostgreSQL documentation, 22.2 Role Attributes"


@dataclass(frozen=True)
class Role:
    """A role that can log in, with the powerful roles that it is a member of."""

    name: str
    attributes: tuple[str, ...]
    powerful: tuple[str, ...]
    valid_until: datetime | None

    @property
    def rights(self) -> str:
        """`superuser; member of pg_read_server_files; valid until …`."""
        member = (f"member of {', '.join(self.powerful)}",) if self.powerful else ()
        end = (f"valid until {instant(self.valid_until)}",) if self.valid_until else ()
        return "; ".join((*self.attributes, *member, *end)) or "login"


@dataclass(frozen=True)
class Roles:
    """The roles of a server, and the names of those that are connected now."""

    roles: tuple[Role, ...]
    connected: frozenset[str]
    cut: bool


_ATTRIBUTES = {
    "super": "superuser",
    "create_role": "createrole",
    "create_db": "createdb",
    "bypass": "bypassrls",
    "replication": "replication",
}


def collect(target: PostgresTarget, name: str) -> Roles:
    """Read the roles. Raises TargetError."""
    with postgres.connect(target, "access_review", name=name) as session:
        rows = session.rows(_ROLES, {"powerful": list(_POWERFUL)})
        connected = frozenset(row["name"] for row in session.rows(_CONNECTED))
    roles = tuple(
        Role(
            row["name"],
            tuple(text for key, text in _ATTRIBUTES.items() if row[key]),
            tuple(row["powerful"]),
            None if row["valid_until"] is None else datetime.fromtimestamp(row["valid_until"], UTC),
        )
        for row in rows[:1000]
    )
    return Roles(roles, connected, len(rows) > 1000)


def report(ctx: Context, name: str, found: Roles, allowed: Sequence[str]) -> list[Access]:
    """Check superusers, powerful roles, and evidence of use; return what is to be signed off.

    allowed: roles that may be superusers. Use is remembered from review to review.
    """
    place, now = f"postgres {name}", ctx.now()
    supers = [each.name for each in found.roles if "superuser" in each.attributes and each.name not in allowed]
    change = command("psql", "-c", f"ALTER ROLE {_quoted(supers[0])} NOSUPERUSER") if supers else ""
    _check_none(
        ctx,
        found,
        f"{place}: superusers that can log in",
        [printable(each) for each in supers],
        none="none but those allowed",
        hint=f"{change}; or name them in the param superusers",
        rule=_RULE,
    )
    strong = [each for each in found.roles if each.powerful or "createrole" in each.attributes]
    strong = [each for each in strong if "superuser" not in each.attributes and each.name not in allowed]
    powers = [printable(f"{each.name}: {each.rights}") for each in strong]
    first = strong[0] if strong else None
    change = ""
    if first is not None:
        text = (
            f"REVOKE {_quoted(first.powerful[0])} FROM {_quoted(first.name)}"
            if first.powerful
            else f"ALTER ROLE {_quoted(first.name)} NOCREATEROLE"
        )
        change = command("psql", "-c", text)
    _check_none(
        ctx,
        found,
        f"{place}: roles with powerful rights",
        powers,
        hint=change,
        rule="PostgreSQL documentation, 22.5 Predefined Roles",
    )
    ended = [printable(each.name) for each in found.roles if each.valid_until is not None and each.valid_until < now]
    _check_none(
        ctx,
        found,
        f"{place}: roles whose password has ended",
        ended,
        hint=f"{command('psql', '-c', f'DROP ROLE {_quoted(ended[0])}')}, or give it a new end" if ended else "",
        rule=_RULE,
    )
    if found.cut:
        ctx.unknown(f"{place}: all roles", "cut: more than 1000 roles can log in", expected="at most 1000")
    return [_access(ctx, place, each, found) for each in found.roles]


def _check_none(
    ctx: Context, found: Roles, name: str, names: Sequence[str], *, hint: str, rule: str, none: str = "none"
) -> None:
    """A check that there are no such roles, which is not known where the list of roles was cut."""
    cause = "partial: more than 1000 roles can log in" if found.cut and not names else ""
    observed = name_first(names) or none
    criterion = Criterion(
        name, observed, equals=none, unknown=cause, severity=CheckStatus.WARN, hint=hint if names else "", rule=rule
    )
    ctx.report([criterion])


def _access(ctx: Context, place: str, role: Role, found: Roles) -> Access:
    """Evidence of use are sessions at the time of a review; without any it is unknown, never `unused`."""
    labels = {"place": place, "role": printable(role.name)[:64]}
    last = ctx.last("role_seen", None, **labels)
    if role.name in found.connected:
        last = ctx.now().timestamp()
    if last is None:
        return Access("role", place, role.name, role.rights, "unknown: no session at a review")
    ctx.measure("role_seen", last, "s", **labels)
    return Access("role", place, role.name, role.rights, f"{datetime.fromtimestamp(last, UTC):%Y-%m-%d}")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
