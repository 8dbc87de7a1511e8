"""The server whose database is replaced: its sessions, Postgres' programs, what it has, and what the login lacks."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from maintd.checks.restore.cluster import Programs
from maintd.checks.restore.scratch import missing_extension
from maintd.clients import shell
from maintd.clients.files import shown
from maintd.clients.pg_dump import as_role, connection_of, program_version, with_database
from maintd.clients.postgres import Postgres, connect
from maintd.errors import MaintdError, TargetError
from maintd.job.context import Context
from maintd.model.target import PostgresTarget

JOB = "rollback"
_QUERY = timedelta(seconds=30)
_PLACES = ("postgres", "template1")  # databases to rename another one from

_DATABASES = """
SELECT d.oid::bigint AS oid, d.datname AS name, pg_get_userbyid(d.datdba) AS owner,
  pg_has_role(d.datdba, 'USAGE') AS owned, pg_encoding_to_char(d.encoding) AS encoding, d.datcollate AS collate,
  d.datctype AS ctype, to_jsonb(d) ->> 'datlocprovider' AS provider,
  coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') AS locale, d.datallowconn AS open,
  d.datconnlimit AS connection_limit, t.spcname AS tablespace,
  coalesce(shobj_description(d.oid, 'pg_database'), '') AS comment,
  (SELECT count(*) FROM pg_prepared_xacts p WHERE p.database = d.datname) AS prepared,
  (SELECT count(*) FROM pg_replication_slots s WHERE s.database = d.datname) AS slots
FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = %s
"""
_LOGIN = """
SELECT r.rolname AS name, r.rolsuper AS super, r.rolcreatedb AS creates,
  pg_has_role('pg_signal_backend', 'USAGE') AS signals FROM pg_roles r WHERE r.rolname = current_user
"""
_SESSIONS = """
SELECT DISTINCT r.rolname AS name, r.rolsuper AS super, pg_has_role(r.oid, 'USAGE') AS member
FROM pg_stat_activity a JOIN pg_roles r ON r.rolname = a.usename
WHERE a.datname = %s ORDER BY 1
"""
_OWNERS = """
SELECT n.name AS name, r.oid IS NULL AS missing, coalesce(pg_has_role(r.oid, 'MEMBER'), false) AS member
FROM unnest(%s::text[]) AS n(name) LEFT JOIN pg_roles r ON r.rolname = n.name ORDER BY 1
"""
_EXTENSIONS = """
SELECT n.name AS name, v.name IS NULL AS missing,
  coalesce(v.superuser, true) AND NOT coalesce((to_jsonb(v) ->> 'trusted')::boolean, false) AS needs_superuser
FROM unnest(%s::text[]) AS n(name)
LEFT JOIN pg_available_extensions a ON a.name = n.name
LEFT JOIN pg_available_extension_versions v ON v.name = n.name AND v.version = a.default_version ORDER BY 1
"""


_LIVE_OWNERS = """
SELECT DISTINCT pg_get_userbyid(c.relowner) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
"""


@dataclass(frozen=True)
class LiveDatabase:
    """A database of the server. `open`: it accepts connections. `prepared`, `slots`: transactions and slots in it."""

    oid: int
    name: str
    owner: str
    owned: bool
    encoding: str
    collate: str
    ctype: str
    provider: str | None
    locale: str | None
    open: bool
    connection_limit: int
    tablespace: str
    comment: str
    prepared: int
    slots: int


class Missing(NamedTuple):
    """What the login lacks, and what grants it."""

    text: str
    hint: str


class LiveServer:
    """A server by a target, with sessions as a role. A place to restore into, see `restore.databases.Place`."""

    def __init__(self, ctx: Context, name: str, target: PostgresTarget, role: str | None, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self._ctx = ctx
        self.target = as_role(target, role)
        self._programs: Programs | None = None

    @property
    def programs(self) -> Programs:
        """Postgres' client programs of the target. Raises TargetError."""
        if self._programs is None:
            found = self.target.bin_dir
            if found is None:
                path = shutil.which("pg_restore")
                found = Path(path or "/usr/bin/pg_restore").parent
            self._programs = Programs(found, program_version(self.target, "pg_restore")[0])
        return self._programs

    def session(self, database: str, *, read_only: bool = False) -> Postgres:
        """Open a session. Raises TargetError."""
        place = with_database(self.target, database)
        timeout = max(self.target.timeout, _QUERY)
        return connect(place, JOB, name=f"postgres {self.name}", timeout=timeout, read_only=read_only)

    def elsewhere(self, database: str) -> Postgres:
        """Open a session in a database for maintenance, from which this one can be renamed. Raises TargetError."""
        places = [place for place in _PLACES if place != database]
        for number, place in enumerate(places, start=1):
            try:
                return self.session(place)
            except TargetError as error:
                if number == len(places) or error.cause not in ("denied", "failed"):
                    raise
        raise AssertionError(places)

    def conninfo(self, database: str) -> str:
        """The connection string for a program, without a password. Raises TargetError."""
        return connection_of(with_database(self.target, database), "pg_restore", JOB)[0]

    def command(self, program: str, *arguments: str) -> shell.Command:
        """One of Postgres' programs; the password is in its environment only. Raises TargetError."""
        environment = connection_of(self.target, program, JOB)[1]
        return shell.Command((self.programs.path(program), *arguments), env=environment)

    def run_program(self, name: str, *arguments: str) -> None:
        """Run one of Postgres' programs, which must end with 0 and without a message. Raises TargetError."""
        errors: deque[str] = deque(maxlen=10)

        def receive(stream: str, line: str) -> None:
            if stream == "stderr" and line.strip():
                errors.append(line.strip())

        limit = self._ctx.remaining * 0.9
        try:
            ended = shell.run(self.command(name, *arguments), limit, receive)
        except MaintdError as error:
            raise TargetError(error.message, error.hint, cause="not_configured") from error
        text = shown("; ".join(errors))[:500]
        if ended.timed_out:
            raise TargetError(f"{name}: timed out: {text}", "raise the entry's timeout", cause="failed")
        if ended.exit_code != 0 or errors:
            why = f"{name}: {text or f'ended with {ended.signal or ended.exit_code}'}"
            raise missing_extension(why) or TargetError(why, "see deploy/roles.sql, and the param role", cause="failed")

    def listing(self, dump: Path) -> list[str]:
        """What `pg_restore --list` prints of a dump. Raises TargetError."""
        lines: list[str] = []
        try:
            ended = shell.run(
                self.command("pg_restore", "--list", str(dump)), _QUERY, lambda stream, line: lines.append(line)
            )
        except MaintdError as error:
            raise TargetError(error.message, error.hint, cause="not_configured") from error
        if ended.exit_code != 0:
            raise TargetError(f"pg_restore --list: {' '.join(lines)[:300]}", "use another set", cause="malformed")
        return lines


def find(session: Postgres, name: str) -> LiveDatabase | None:
    """A database by its name. Raises TargetError."""
    rows = session.rows(_DATABASES, (name,))
    return LiveDatabase(**rows[0]) if rows else None


def owners_and_extensions(listing: Iterable[str]) -> tuple[set[str], set[str]]:
    """The owners and the extensions that a dump needs, from what `pg_restore --list` prints.

    A line is `215; 1259 16386 TABLE public orders trader`; extensions have no owner.
    """
    owners, extensions = set[str](), set[str]()
    for line in listing:
        if line.startswith(";") or line.count(" ") < 5:
            continue
        words = line.split(" ")
        if words[3] == "EXTENSION":
            extensions.add(words[5])
        elif words[-1]:
            owners.add(words[-1])
    return owners, extensions


def missing_rights(session: Postgres, database: LiveDatabase) -> list[Missing]:
    """What the login lacks to create a database, and to put it in the place of this one. Raises TargetError."""
    login = session.one(_LOGIN)
    if login["super"]:
        return []
    user, found = login["name"], list[Missing]()
    if not login["creates"]:
        found.append(Missing(f"{user} may not create databases", f"ALTER ROLE {user} CREATEDB"))
    if not database.owned:
        text = f"{user} does not have the rights of {database.owner}, which owns {database.name}"
        found.append(Missing(text, f"GRANT {database.owner} TO {user}, or set the param role"))
    others = [row for row in session.rows(_SESSIONS, (database.name,)) if not row["member"]]
    supers = [str(row["name"]) for row in others if row["super"]]
    if supers:
        text = f"only a superuser may end the sessions of {', '.join(supers)}"
        found.append(Missing(text, "end them by hand, or set the param role to a superuser"))
    if not login["signals"]:
        text = f"{user} may not end the sessions of others"
        found.append(Missing(text, f"GRANT pg_signal_backend TO {user}"))
    return found


def owners_and_extensions_of(session: Postgres) -> tuple[set[str], set[str]]:
    """The owners of tables, and the extensions, in the database of a session. Raises TargetError."""
    return (
        {str(row["name"]) for row in session.rows(_LIVE_OWNERS)},
        {str(row["name"]) for row in session.rows("SELECT extname AS name FROM pg_extension")} - {"plpgsql"},
    )


def missing_for(session: Postgres, owners: Collection[str], extensions: Collection[str]) -> list[Missing]:
    """What the server lacks, or the login, to restore objects of these owners, and extensions. Raises TargetError."""
    login = session.one(_LOGIN)
    found = []
    for row in session.rows(_OWNERS, (sorted(owners),)):
        if row["missing"]:
            hint = "create it; the set has the roles without passwords in its file of globals"
            found.append(Missing(f"there is no role {row['name']}, which owns objects of the dump", hint))
        elif not (row["member"] or login["super"]):
            text = f"{login['name']} is not a member of {row['name']}, which owns objects of the dump"
            found.append(Missing(text, f"GRANT {row['name']} TO {login['name']}, or set the param role"))
    for row in session.rows(_EXTENSIONS, (sorted(extensions),)):
        if row["missing"]:
            hint = "install its package on the server's machine"
            found.append(Missing(f"the server does not have the extension {row['name']}", hint))
        elif row["needs_superuser"] and not login["super"]:
            text = f"only a superuser may create the extension {row['name']}"
            found.append(Missing(text, "set the param role to a superuser, of which the login is a member"))
    return found
