"""The effective configuration of a Postgres server: settings, those of roles and databases, and pg_hba.conf."""

from __future__ import annotations

import re

from maintd.checks.config_review.snapshot import Collector, Seen, is_secret
from maintd.checks.hints import name_first
from maintd.clients.postgres import Postgres, Row, connect
from maintd.errors import TargetError
from maintd.job.criterion import Criterion
from maintd.model.target import PostgresTarget

JOB = "config_review"

QUERIES = {
    "visible": "SELECT pg_has_role(current_user, 'pg_read_all_settings', 'USAGE') AS visible",
    # Of the session's own sources, what a client or a login sets is not the server's.
    "settings": """
        SELECT name, source, pending_restart, current_setting(name, true) AS value FROM pg_settings
        WHERE source NOT IN ('default', 'client', 'session', 'user', 'database', 'database user', 'interactive', 'test')
        OR pending_restart ORDER BY name""",
    "roles": """
        SELECT coalesce(d.datname, '*') AS database, coalesce(r.rolname, '*') AS role, unnest(s.setconfig) AS setting
        FROM pg_db_role_setting AS s LEFT JOIN pg_database AS d ON d.oid = s.setdatabase
        LEFT JOIN pg_roles AS r ON r.oid = s.setrole ORDER BY 1, 2, 3""",
    "hba": """
        SELECT line_number, type, database, user_name, address, netmask, auth_method, options, error
        FROM pg_hba_file_rules ORDER BY line_number""",
    "files": """
        SELECT sourcefile, sourceline, name, error FROM pg_file_settings
        WHERE error IS NOT NULL ORDER BY sourcefile, sourceline""",
}
_GRANT = "GRANT SELECT ON {view} TO the target's user, and GRANT EXECUTE ON FUNCTION {function}() (deploy/roles.sql)"
_FUNCTIONS = {"pg_hba_file_rules": "pg_hba_file_rules", "pg_file_settings": "pg_show_all_file_settings"}
_SETTINGS = "PostgreSQL documentation, System Views, pg_settings"
_HBA = "PostgreSQL documentation, System Views, pg_hba_file_rules"
_FILES = "PostgreSQL documentation, System Views, pg_file_settings"


def read(target: PostgresTarget, collector: Collector) -> Seen:
    """Read the server. Raises TargetError when its settings cannot be read."""
    unread: dict[str, str] = {}
    criteria: list[Criterion] = []
    with connect(target, JOB, name=collector.subject) as session:
        if not session.one(QUERIES["visible"])["visible"]:
            unread["settings/"] = "some settings are hidden: GRANT pg_read_all_settings TO the target's user"
        settings = session.rows(QUERIES["settings"])
        for row in settings:
            collector.add(f"settings/{row['name']}", row["value"])
        criteria.append(_pending(settings))
        for row in session.rows(QUERIES["roles"]):
            name, _, value = str(row["setting"]).partition("=")
            collector.add(f"settings of roles/{row['database']}/{row['role']}/{name}", value)
        hba = _part(session, "hba", "pg_hba_file_rules", "pg_hba", unread)
        if hba is not None:
            _add_rules(collector, hba)
            criteria.append(_errors("pg_hba.conf has no error", "pg_hba.conf", hba, _HBA))
        files = _part(session, "files", "pg_file_settings", "files", unread)
        if files is not None:
            criteria.append(_errors("configuration files have no error", "the file", files, _FILES))
    return Seen(collector.snapshot(), unread, tuple(criteria))


def _part(session: Postgres, query: str, view: str, prefix: str, unread: dict[str, str]) -> list[Row] | None:
    try:
        return session.rows(QUERIES[query])
    except TargetError as error:
        # Their views are for superusers unless they are granted; a server that is gone is the error of all.
        if error.cause != "denied":
            raise
        unread[prefix] = f"{error.cause}: {error.message}; {_GRANT.format(view=view, function=_FUNCTIONS[view])}"
        return None


def _pending(rows: list[Row]) -> Criterion:
    names = [str(row["name"]) for row in rows if row["pending_restart"]]
    return Criterion(
        "settings that wait for a restart",
        name_first(names) or "none",
        equals="none",
        hint="restart the server in a window, or take the change out of its files",
        rule=f"{_SETTINGS}: pending_restart",
    )


def _errors(name: str, what: str, rows: list[Row], rule: str) -> Criterion:
    found = [
        f"line {row.get('line_number') or row.get('sourceline')}: {row['error']}" for row in rows if row.get("error")
    ]
    return Criterion(
        name,
        name_first(found) or "none",
        equals="none",
        hint=f"correct {what}, then reload it: psql -c 'SELECT pg_reload_conf()'; until then the earlier one is used",
        rule=f"{rule}: error",
    )


def _add_rules(collector: Collector, rows: list[Row]) -> None:
    """A path for each rule by its text, so that one more does not move the others; their order is one value."""
    order = []
    for row in rows:
        if row["error"]:
            continue
        words = [row["type"], ",".join(row["database"] or ()), ",".join(row["user_name"] or ())]
        words += [row["address"] or "", row["netmask"] or "", row["auth_method"]]
        text = " ".join(str(word) for word in words if word)
        options = [_option(collector, str(option)) for option in row["options"] or ()]
        order.append(text)
        collector.add(f"pg_hba/{re.sub('/', ' ', text)}", " ".join(options) or "no options")
    collector.add("pg_hba order", f"keyed digest {collector.keyed(chr(10).join(order))} of {len(order)} rules")


def _option(collector: Collector, option: str) -> str:
    name, _, value = option.partition("=")
    return f"{name}=(keyed digest {collector.keyed(value)})" if is_secret(name) else option
