"""pg_dump and pg_dumpall for a target: their version, and a connection without a password among the arguments."""

from __future__ import annotations

import re
from datetime import timedelta

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from maintd.clients.shell import Command, resolve_argv, run
from maintd.errors import JobError, TargetError
from maintd.job.references import resolved
from maintd.model.target import PostgresTarget

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)(\S*)")
_VERSION_TIMEOUT = timedelta(seconds=10)


def with_database(target: PostgresTarget, database: str) -> PostgresTarget:
    """The target with another database of the same server. Raises TargetError for a dsn that is not valid."""
    target = resolved(target)
    return target.model_copy(update={"dsn": make_conninfo("", **{**_parts(target.dsn), "dbname": database})})


def as_role(target: PostgresTarget, role: str | None) -> PostgresTarget:
    """The target with sessions that work as this role, of which its user is a member. Raises TargetError."""
    target = resolved(target)
    if role is None:
        return target
    parts = _parts(target.dsn)
    escaped = role.replace("\\", "\\\\").replace(" ", "\\ ")  # as in PGOPTIONS
    options = f"{parts.get('options', '')} -c role={escaped}".strip()
    return target.model_copy(update={"dsn": make_conninfo("", **{**parts, "options": options})})


def database_of(target: PostgresTarget) -> str:
    """The database in the dsn; empty when it is the user's default. Raises TargetError for an invalid dsn."""
    return str(_parts(resolved(target).dsn).get("dbname") or "")


def dump_command(target: PostgresTarget, program: str, *arguments: str) -> Command:
    """The program with its arguments. It never prompts; the password is in its environment only. Raises TargetError."""
    conninfo, environment = connection_of(target, program, "backup")
    argv = (program_path(target, program), "--no-password", f"--dbname={conninfo}", *arguments)
    return Command(argv, env=environment)


def connection_of(target: PostgresTarget, program: str, job: str) -> tuple[str, dict[str, str]]:
    """The connection string without a password, and the environment with it, for a program. Raises TargetError."""
    target = resolved(target)
    parts = _parts(target.dsn)
    if parts.pop("sslpassword", ""):
        raise TargetError(
            f"{program}: sslpassword would be visible among its arguments",
            "use a client key without a password, readable for maintd's user only",
            cause="not_configured",
        )
    password = parts.pop("password", "")
    if target.password:
        password = target.password.get_secret_value()
    parts["connect_timeout"] = str(max(2, round(target.timeout.total_seconds())))
    parts["application_name"] = f"maintd:{job}"
    # Messages of the programs are recognized, and numbers of an own locale are not for a backup.
    environment = {"LC_ALL": "C.UTF-8", "PGOPTIONS": "", **({"PGPASSWORD": password} if password else {})}
    return make_conninfo("", **parts), environment


def program_path(target: PostgresTarget, program: str) -> str:
    """The program in the folder of the target, or its name to be found in PATH."""
    return program if target.bin_dir is None else str(target.bin_dir / program)


def program_version(target: PostgresTarget, program: str) -> tuple[int, str]:
    """Major version and full version of a program. Raises TargetError when it is missing or not Postgres' own."""
    place = program_path(target, program)
    lines: list[str] = []
    try:
        argv = resolve_argv(Command((place,)))
        result = run(Command((*argv, "--version")), _VERSION_TIMEOUT, lambda _, line: lines.append(line))
    except JobError as error:
        hint = "install the Postgres client of the server's major version, or set bin_dir of the target"
        raise TargetError(error.message, hint, cause="not_found") from error
    found = _VERSION.search(" ".join(lines))
    if result.exit_code != 0 or found is None:
        raise TargetError(f"{place}: is not Postgres' {program}: {' '.join(lines)[:100]}", "correct bin_dir")
    return int(found[1]), found[1] + found[2]


def require_version(target: PostgresTarget, program: str, server_version: int) -> str:
    """The program's version, which must be at least the server's major one. Raises TargetError."""
    major, full = program_version(target, program)
    if major < server_version:
        raise TargetError(
            f"{program} {full} is older than the server ({server_version}) and refuses to dump it",
            f"install postgresql-client-{server_version}, and set bin_dir of the target to its folder",
            cause="unfamiliar",
        )
    return full


def _parts(dsn: str) -> dict[str, str]:
    try:
        return {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    except psycopg.ProgrammingError:
        # libpq quotes the part of the dsn that it cannot parse; the password may be in it.
        raise TargetError("the dsn is not valid", "write postgresql://user@host:5432/database") from None
