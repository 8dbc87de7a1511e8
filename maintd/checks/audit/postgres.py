"""Postgres: who may do everything, who is let in and how, and what is logged. Of passwords only the kind is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from maintd.checks.audit.rule import Blind, Outcome, Rule, Violation
from maintd.checks.hints import printable
from maintd.checks.postgres.blockers import can_see_other_sessions
from maintd.checks.probes import value_or_error
from maintd.clients.postgres import Postgres, Row, connect
from maintd.errors import TargetError
from maintd.model.evidence import CheckStatus
from maintd.model.target import PostgresTarget

FAIL, WARN = CheckStatus.FAIL, CheckStatus.WARN


def _rule(name: str, severity: CheckStatus, title: str, chapter: str, wanted: str, change: str) -> Rule:
    return Rule(f"postgres-{name}", severity, title, f"PostgreSQL documentation, {chapter}", wanted, change)


SUPERUSERS = _rule(
    "superusers",
    WARN,
    "roles that are superusers",
    "Role Attributes",
    "NOSUPERUSER",
    "ALTER ROLE … NOSUPERUSER; or name it in the param superusers",
)
SESSIONS = _rule(
    "superuser-sessions",
    WARN,
    "applications that connect as a superuser",
    "Role Attributes",
    "a role with the rights it needs",
    "create a role of the application, which owns its tables, and let the application connect as that",
)
MD5 = _rule(
    "md5",
    WARN,
    "roles whose password is kept as md5",
    "Password Authentication",
    "scram-sha-256",
    "SET password_encryption = 'scram-sha-256', then set the password again: ALTER ROLE … PASSWORD",
)
ENCRYPTION = _rule(
    "password-encryption",
    WARN,
    "servers that keep new passwords as md5",
    "Password Authentication",
    "scram-sha-256",
    "ALTER SYSTEM SET password_encryption = 'scram-sha-256'; SELECT pg_reload_conf()",
)
TRUST = _rule(
    "hba-trust",
    FAIL,
    "rules of pg_hba.conf with trust",
    "Trust Authentication",
    "scram-sha-256",
    "write scram-sha-256 instead of trust in pg_hba.conf; SELECT pg_reload_conf()",
)
EVERYWHERE = _rule(
    "hba-everywhere",
    WARN,
    "rules of pg_hba.conf for every address",
    "The pg_hba.conf File",
    "the networks of the clients",
    "write the network of the clients instead in pg_hba.conf; SELECT pg_reload_conf()",
)
CLEARTEXT = _rule(
    "hba-weak",
    WARN,
    "rules of pg_hba.conf with a weak method",
    "Password Authentication",
    "scram-sha-256",
    "write scram-sha-256 instead in pg_hba.conf, after the passwords are kept so; SELECT pg_reload_conf()",
)
TLS = _rule(
    "ssl",
    WARN,
    "servers without TLS",
    "Secure TCP/IP Connections with SSL",
    "ssl: on",
    "give it server.crt and server.key; ALTER SYSTEM SET ssl = on; and write hostssl in pg_hba.conf",
)
PUBLIC = _rule(
    "public-create",
    FAIL,
    "schemas in which everyone may create objects",
    "Schemas: Usage Patterns",
    "no CREATE for PUBLIC",
    "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
)
EXTENSIONS = _rule(
    "extensions",
    WARN,
    "extensions that are older than installed",
    "ALTER EXTENSION",
    "the version of the server's files",
    "in a window, ALTER EXTENSION … UPDATE",
)
CONNECTIONS = _rule(
    "log-connections",
    WARN,
    "servers that log no connections",
    "Error Reporting and Logging",
    "log_connections: on",
    "ALTER SYSTEM SET log_connections = on; SELECT pg_reload_conf()",
)
RULES = (
    SUPERUSERS,
    SESSIONS,
    MD5,
    ENCRYPTION,
    TRUST,
    EVERYWHERE,
    CLEARTEXT,
    TLS,
    PUBLIC,
    EXTENSIONS,
    CONNECTIONS,
)

_ROLES = "SELECT rolname AS name, rolsuper AS super FROM pg_roles WHERE rolcanlogin ORDER BY 1"
_SESSIONS = """
SELECT DISTINCT r.rolname AS name FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
WHERE r.rolsuper AND a.backend_type = 'client backend' AND a.application_name NOT LIKE 'maintd%' ORDER BY 1
"""
# The hash stays in the server.
_KINDS = """
SELECT rolname AS name, CASE WHEN rolpassword IS NULL THEN ''
  WHEN rolpassword LIKE 'SCRAM-SHA-256$%' THEN 'scram-sha-256'
  WHEN rolpassword ~ '^md5[0-9a-f]{32}$' THEN 'md5' ELSE 'unfamiliar' END AS kind
FROM pg_authid WHERE rolcanlogin ORDER BY 1
"""
_HBA = """
SELECT type, database, user_name, address, netmask, auth_method AS method, error FROM pg_hba_file_rules
ORDER BY 1, 2, 3, 4
"""
_SETTINGS = """
SELECT name, setting FROM pg_settings WHERE name IN ('password_encryption', 'ssl', 'log_connections')
"""
_PUBLIC = """
SELECT current_database() || '.' || nspname AS name FROM pg_namespace
WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND has_schema_privilege('public', oid, 'CREATE') ORDER BY 1
"""
_SCHEMAS = "SELECT count(*) AS count FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
_EXTENSIONS = """
SELECT name, installed_version AS installed, default_version AS available FROM pg_available_extensions
WHERE installed_version IS NOT NULL ORDER BY 1
"""
QUERIES = {"roles": _ROLES, "settings": _SETTINGS, "schemas": _PUBLIC, "extensions": _EXTENSIONS}
"""What any role may query."""

HBA = {"rules of pg_hba.conf": _HBA}

Rows = list[Row] | TargetError


@dataclass(frozen=True)
class Facts:
    """What was read; each part by itself, or why it was not. sees_all: other sessions can be seen."""

    roles: Rows
    sessions: Rows
    kinds: Rows
    hba: Rows
    settings: Mapping[str, str] | TargetError
    public: Rows
    schemas: int | TargetError
    extensions: Rows


def collect(target: PostgresTarget, name: str, job: str) -> Facts:
    """Read all of one server. Raises TargetError when it does not answer."""
    with connect(target, job, name=name) as session:
        roles = session.rows(_ROLES)

        def rows(query: str) -> Rows:
            return value_or_error(lambda: session.rows(query))

        return Facts(
            roles,
            value_or_error(lambda: _sessions(session)),
            rows(_KINDS),
            value_or_error(lambda: _rules(session)),
            value_or_error(lambda: {row["name"]: row["setting"] for row in session.rows(_SETTINGS)}),
            rows(_PUBLIC),
            value_or_error(lambda: int(session.one(_SCHEMAS)["count"])),
            rows(_EXTENSIONS),
        )


def _sessions(session: Postgres) -> list[Row]:
    if not can_see_other_sessions(session):
        hint = "GRANT pg_monitor TO the target's user"
        raise TargetError(f"{session.name}: the sessions of others are hidden", hint, cause="denied")
    return session.rows(_SESSIONS)


def _rules(session: Postgres) -> list[Row]:
    rows = session.rows(_HBA)
    if any(row["error"] for row in rows):
        hint = "SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL"
        raise TargetError(f"{session.name}: pg_hba.conf has a line that is not valid", hint, cause="malformed")
    return rows


def outcomes(place: str, facts: Facts, expected: Sequence[str]) -> list[Outcome]:
    """What was seen of each rule. expected: superusers that are meant to be."""
    roles = facts.roles

    def superusers(rows: Sequence[Row]) -> list[Violation]:
        return [_violation(row, "superuser") for row in rows if row["super"] and row["name"] not in expected]

    count = len(roles) if isinstance(roles, list) else 0
    return [
        _of(SUPERUSERS, place, roles, superusers),
        _of(
            SESSIONS, place, facts.sessions, lambda rows: [_violation(row, "superuser") for row in rows], max(count, 1)
        ),
        _kinds(place, facts.kinds),
        _setting(ENCRYPTION, place, facts.settings, "password_encryption", ("scram-sha-256",)),
        _of(TRUST, place, facts.hba, lambda rows: [_entry(row) for row in rows if row["method"] == "trust"]),
        _of(EVERYWHERE, place, facts.hba, lambda rows: [_entry(row) for row in rows if _is_everywhere(row)]),
        _of(
            CLEARTEXT,
            place,
            facts.hba,
            lambda rows: [_entry(row) for row in rows if row["method"] in ("md5", "password", "ident")],
        ),
        _setting(TLS, place, facts.settings, "ssl", ("on",)),
        _of(
            PUBLIC,
            place,
            facts.public,
            lambda rows: [_violation(row, "CREATE for PUBLIC") for row in rows],
            facts.schemas if isinstance(facts.schemas, int) else 1,
        ),
        _of(EXTENSIONS, place, facts.extensions, _outdated),
        # Postgres 18 has a list of what is logged; an empty one logs nothing.
        _setting(CONNECTIONS, place, facts.settings, "log_connections", ("on", "all"), unless=("off", "")),
    ]


def _of(rule: Rule, place: str, rows: Rows, find: Any, examined: int | None = None) -> Outcome:
    if isinstance(rows, TargetError):
        return _blind(rule, place, rows)
    return Outcome(rule, place, len(rows) if examined is None else examined, tuple(find(rows)))


def _blind(rule: Rule, place: str, error: TargetError, *, optional: bool = False) -> Outcome:
    hint = (
        "run deploy/roles.sql in this database, or connect as a member of pg_monitor"
        if error.cause == "denied"
        else error.hint
    )
    return Outcome(rule, place, 0, blind=(Blind(place, f"{error.cause}: {error.message}", hint or "", optional),))


def _violation(row: Row, observed: str) -> Violation:
    return Violation(printable(str(row["name"])), observed)


def _kinds(place: str, kinds: Rows) -> Outcome:
    if isinstance(kinds, TargetError):
        # Only a superuser may read what is kept of passwords, which maintd's login is not.
        hint = "as a superuser: SELECT rolname FROM pg_authid WHERE rolpassword LIKE 'md5%'"
        denied = kinds.cause == "denied"
        return Outcome(MD5, place, 0, blind=(Blind(place, f"{kinds.cause}: {kinds.message}", hint, optional=denied),))
    violations = tuple(_violation(row, str(row["kind"])) for row in kinds if row["kind"] == "md5")
    blind = tuple(
        Blind(str(row["name"]), "unfamiliar: kind of password") for row in kinds if row["kind"] == "unfamiliar"
    )
    return Outcome(MD5, place, len(kinds) - len(blind), violations, blind)


def _entry(row: Row) -> Violation:
    """A line of pg_hba.conf; its number changes with each line before it."""
    address = f" {row['address']}" if row["address"] else ""
    databases, users = ",".join(row["database"] or ()), ",".join(row["user_name"] or ())
    return Violation(printable(f"{row['type']} {databases} {users}{address}"), str(row["method"]))


def _is_everywhere(row: Row) -> bool:
    if row["method"] == "reject" or not row["address"]:
        return False
    try:
        network = ip_network(
            f"{row['address']}/{row['netmask'] or 32}" if row["netmask"] else str(row["address"]), strict=False
        )
    except ValueError:
        # IPv6 has a mask that ipaddress does not read; a name is one host.
        return bool(row["address"] == "all" or (row["address"] == "::" and row["netmask"] == "::"))
    return network.prefixlen == 0


def _outdated(rows: Sequence[Row]) -> list[Violation]:
    return [
        Violation(printable(str(row["name"])), printable(f"{row['installed']}, files have {row['available']}"))
        for row in rows
        if row["available"] is not None and row["installed"] != row["available"]
    ]


def _setting(
    rule: Rule,
    place: str,
    settings: Mapping[str, str] | TargetError,
    name: str,
    wanted: Sequence[str],
    unless: Sequence[str] | None = None,
) -> Outcome:
    if isinstance(settings, TargetError):
        return _blind(rule, place, settings)
    if name not in settings:
        return Outcome(rule, place, 0, blind=(Blind("server", f"empty: the server has no setting {name}"),))
    value = settings[name]
    good = value in wanted or (unless is not None and value not in unless)
    return Outcome(rule, place, 1, () if good else (Violation("server", f"{name}: {printable(value)}"),))
