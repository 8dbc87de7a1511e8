"""A Postgres cluster of its own in the scratch folder, reached by a socket in it, which can never be production.

Nothing is written to it before the server behind the socket has shown the system identifier of the cluster that
was initialized here, and that this is none of production's.
"""

from __future__ import annotations

import os
import re
import signal
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from psycopg import sql
from psycopg.conninfo import make_conninfo

from maintd.checks.backup_sets.writer import os_errors
from maintd.checks.probes import as_target_error
from maintd.checks.restore.scratch import (
    SOCKET_MAX,
    Server,
    full_disk,
    guarded,
    missing_extension,
    user_of_servers,
    wait_until,
)
from maintd.clients.files import shown
from maintd.clients.pg_dump import program_version
from maintd.clients.postgres import Postgres, connect
from maintd.clients.shell import Command, run
from maintd.errors import MaintdError, TargetError
from maintd.model.target import PostgresTarget

_DEBIAN = Path("/usr/lib/postgresql")
MAINTENANCE = "template1"
_QUERY_TIMEOUT = timedelta(seconds=30)
# The role that the drill works with: of no cluster's own, so that the restored roles cannot take its rights away.
_WORKER = "maintd_restore_drill"
PORT = "5432"  # in the name of the socket only
# Nothing here has to survive a crash, and the server's other cores are left to production.
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "archive_mode": "off",
    "shared_preload_libraries": "",
    "logging_collector": "off",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    # As files in the data folder, where they are deleted with it.
    "dynamic_shared_memory_type": "mmap",
    "unix_socket_permissions": "0700",
}
_WHERE = "SELECT system_identifier::text AS id, current_setting('data_directory') AS data FROM pg_control_system()"
_PROGRAMS = ("initdb", "postgres", "pg_controldata", "psql", "pg_restore", "pg_dump")
_MIB = 1 << 20
_EMPTY = 64 * _MIB  # of a new cluster with three databases, measured: 40 MiB
_LEAST_WAL, _MOST_WAL = 32 * _MIB, 512 * _MIB
_TABLE_SPACE = re.compile(rb"CREATE TABLESPACE (.+) LOCATION '(?:[^']|'')*';\n?")
_ROLE = rb'("(?:[^"]|"")+"|[^\s";]+)'
_CREATED = re.compile(rb"CREATE ROLE " + _ROLE + rb";\s*")
_OWNER = re.compile(rb" OWNER TO " + _ROLE + rb";\s*$")
_GRANTED = re.compile(rb"(?:GRANT|REVOKE) .* (?:TO|FROM) " + _ROLE + rb"(?: WITH GRANT OPTION)?;\s*")
_COPY = re.compile(rb"COPY .* FROM stdin;\s*$")
_CONTROL = re.compile(r"Database system identifier:\s+(\d+)")


@dataclass(frozen=True)
class Programs:
    """The folder with Postgres' programs, and their major version."""

    bin_dir: Path
    major: int

    def path(self, name: str) -> str:
        """The full path of a program."""
        return str(self.bin_dir / name)

    def full_version(self, name: str) -> str:
        """The full version of a program. Raises TargetError."""
        return program_version(PostgresTarget(dsn="", bin_dir=self.bin_dir), name)[1]


def wal_limit(size_bytes: int) -> int:
    """max_wal_size in bytes for a database of this size: more would be space, less would be checkpoints."""
    return min(max(size_bytes // 4, _LEAST_WAL), _MOST_WAL) // _MIB * _MIB


def cluster_bytes(size_bytes: int) -> int:
    """Bytes of a cluster with a database of this size. max_wal_size is no hard limit, so that it counts twice."""
    return _EMPTY + 2 * wal_limit(size_bytes) + size_bytes


def find_programs(bin_dir: Path | None, wanted: int) -> Programs:
    """The programs of this major version, or of the next later one that is installed. wanted: 0 for the latest.

    bin_dir: where to search only. Raises TargetError: cause `not_configured` without any, `unfamiliar` when all are
    older.
    """
    places = [bin_dir] if bin_dir is not None else _usual_places()
    found = dict[int, Path]()
    problem = ""
    for place in places:
        if all((place / name).exists() for name in _PROGRAMS):
            try:
                major = program_version(PostgresTarget(dsn="", bin_dir=place), "initdb")[0]
            except TargetError as error:
                problem = error.message
                continue
            found.setdefault(major, place)
    hint = f"install postgresql-{wanted}" if wanted else "install the Postgres server of the dump's major version"
    if not found:
        where = shown(bin_dir) if bin_dir is not None else "a folder of PATH or of /usr/lib/postgresql"
        text = f"not all of {', '.join(_PROGRAMS)} in {where}{': ' + problem if problem else ''}"
        raise TargetError(text, f"{hint}, and set bin_dir to the folder of its programs", cause="not_configured")
    usable = sorted(major for major in found if major >= wanted)
    if not usable:
        text = f"postgres {max(found)} is older than the server that was backed up ({wanted}), and cannot restore it"
        raise TargetError(text, hint, cause="unfamiliar")
    version = usable[0] if wanted else usable[-1]
    return Programs(found[version], version)


def _usual_places() -> list[Path]:
    places = [Path(folder) for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if folder]
    numbered = [path for path in _DEBIAN.glob("*/bin") if path.parent.name.isdigit()]
    return [*places, *sorted(numbered, key=lambda path: int(path.parent.name), reverse=True)]


class Cluster:
    """The scratch cluster; a context manager that stops it."""

    def __init__(self, name: str, folder: Path, programs: Programs, run_as: str, limit: timedelta) -> None:
        """name: in messages. limit: of each program. Raises TargetError."""
        self.name = name
        self.programs = programs
        self.folder = folder
        self._user = user_of_servers(run_as)
        self._limit = limit
        self._server: Server | None = None
        self._data = folder / "data"
        self._socket = folder / "s"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._server is not None:
            self._server.stop()

    def initialize(self, bootstrap: str) -> str:
        """Make the cluster, whose first superuser has this name; its system identifier. Raises TargetError."""
        self.make_folders()
        options = ("--encoding=UTF8", "--locale=C", "--auth=trust", "--no-sync", f"--username={bootstrap}")
        self._run_as_owner("initdb", f"--pgdata={self._data}", *options)
        self._bootstrap = bootstrap
        return self._identifier()

    def make_folders(self) -> None:
        """Make the folders of the cluster and its socket. Raises TargetError."""
        if len(os.fsencode(self._socket)) > SOCKET_MAX - len(f"/.s.PGSQL.{PORT}"):
            hint = "set scratch to a folder target with a shorter path"
            raise TargetError(f"{shown(self._socket)}: is too long for a socket", hint, cause="not_configured")
        with os_errors(self.folder):
            self.folder.mkdir(mode=0o700)
            self._socket.mkdir(mode=0o700)
            if self._user is not None:
                for path in (self.folder, self._socket):
                    os.chown(path, self._user.pw_uid, self._user.pw_gid)
                    _let_enter(path.parent)

    def start(self, identifier: str, production: Mapping[str, str], size_bytes: int, *, table_spaces: bool) -> None:
        """Start the server, and require that it is this cluster and none of production's.

        production: system identifiers, by where each is from. size_bytes: of the largest database. Raises TargetError
        before anything is written.
        """
        self._launch({"allow_in_place_tablespaces": "on"} if table_spaces else {}, size_bytes)
        with self.session(MAINTENANCE, user=self._bootstrap, read_only=True) as session:
            found = session.one(_WHERE)
        seen = str(found["id"])
        same = next((where for where, known in production.items() if known == seen), "")
        if same or seen != identifier or Path(found["data"]).resolve() != self._data.resolve():
            text = f"the server behind {shown(self._socket)} is {same or 'not the cluster that was initialized here'}"
            hint = "nothing was written to it; check bin_dir, and what else uses the scratch folder"
            raise TargetError(f"{text}: system identifier {seen}, {found['data']}", hint, cause="malformed")
        self._create_worker()

    def _launch(self, more: Mapping[str, str], size_bytes: int) -> Server:
        """Start the server with these settings too, and wait until it accepts connections. Raises TargetError.

        What is set among its arguments is in force whatever the files in its data folder say.
        """
        settings = {**SETTINGS, "unix_socket_directories": str(self._socket), "port": PORT}
        settings["max_wal_size"] = f"{wal_limit(size_bytes) // _MIB}MB"
        if self.programs.major >= 14:
            settings["client_connection_check_interval"] = "1s"
        words = [f"--{name}={value}" for name, value in {**settings, **more}.items()]
        argv = [self.programs.path("postgres"), "-D", str(self._data), *words]
        self._server = Server("postgres", argv, self.folder / "log", signal.SIGQUIT, self._user)
        wait_until(self._server, self._accepts, self._limit.total_seconds(), "accept connections")
        return self._server

    def _create_worker(self) -> None:
        with self.session(MAINTENANCE, user=self._bootstrap) as session:
            session.rows(f"CREATE ROLE {_WORKER} LOGIN SUPERUSER")

    def restore_roles(self, globals_file: Path) -> None:
        """Create roles and table spaces, whose folders are in the data folder instead. Raises TargetError."""
        copy = self.folder / "globals.sql"
        self._copy_sql(globals_file, copy)
        self.run_sql(MAINTENANCE, copy)

    def restore_sql(self, database: str, dump: Path) -> bool:
        """Run SQL of pg_dump or pg_dumpall; whether it had the roles that it needs. Raises TargetError.

        Roles that it names and does not create are made up, without any right to log in.
        """
        with dump.open("rb") as file:
            head = file.read(4096)
        if b"-- PostgreSQL database" not in head:
            hint = "restore it by the program whose dump it is"
            raise TargetError("it is not SQL of pg_dump or pg_dumpall", hint, cause="unfamiliar")
        created, named = self._copy_sql(dump, self.folder / "dump.sql")
        known = created | {self._bootstrap.encode(), _WORKER.encode(), b"PUBLIC"}
        with self.session(MAINTENANCE) as session:
            for role in sorted(named - known):
                session.rows(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role.decode(errors="replace"))))
        self.run_sql(database, self.folder / "dump.sql")
        return named <= known

    def databases(self) -> list[str]:
        """The databases with tables or of a dump's own, the one for maintenance left out. Raises TargetError."""
        query = "SELECT datname AS name FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres' ORDER BY 1"
        with self.session(MAINTENANCE) as session:
            return [str(row["name"]) for row in session.rows(query)]

    def _copy_sql(self, source: Path, copy: Path) -> tuple[set[bytes], set[bytes]]:
        """Copy SQL so that it can run here: the first superuser is there, and table spaces are in the data folder.

        The roles that it creates, and the owners and grantees that it names.
        """
        created, named = set[bytes](), set[bytes]()
        in_data = False
        with os_errors(copy), source.open("rb") as lines, copy.open("xb") as out:
            for line in lines:
                if in_data:
                    in_data = line.rstrip(b"\r\n") != b"\\."
                elif _COPY.match(line):
                    in_data = True
                elif role := _CREATED.fullmatch(line):
                    created.add(_unquoted(role[1]))
                    if _unquoted(role[1]) == self._bootstrap.encode():
                        continue
                elif line.startswith(b"CREATE TABLESPACE"):
                    if not _TABLE_SPACE.fullmatch(line):
                        text = f"{shown(source.name)}: a table space in a form that is not known here"
                        raise TargetError(text, "nothing was created", cause="unfamiliar")
                    line = _TABLE_SPACE.sub(rb"CREATE TABLESPACE \1 LOCATION '';\n", line)
                elif role := _OWNER.search(line) or _GRANTED.fullmatch(line):
                    named.add(_unquoted(role[1]))
                out.write(line)
        return created, named

    def run_sql(self, database: str, file: Path) -> None:
        """Run a file of SQL up to its first error. Raises TargetError with the error's own words."""
        options = ("--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--output=/dev/null")
        self.run_program("psql", f"--dbname={self.conninfo(database)}", *options, f"--file={file}")

    def command(self, program: str, *arguments: str) -> Command:
        """One of Postgres' programs with its environment."""
        return Command((self.programs.path(program), *arguments), env={"LC_ALL": "C.UTF-8", "PGOPTIONS": ""})

    def run_program(self, name: str, *arguments: str) -> None:
        """Run one of Postgres' programs, which must end with 0 and without a message. Raises TargetError."""
        self._run(name, [self.programs.path(name), *arguments])

    def create_database(self, name: str, encoding: str, collate: str) -> str:
        """Create an empty database; why it has not the collation of the original, empty when it has.

        Raises TargetError.
        """
        statement = "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}"
        with self.session(MAINTENANCE) as session, session.statement_timeout(self._limit):
            session.rows(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
            problem = ""
            for locale in dict.fromkeys((collate, "C")):
                words = (sql.Identifier(name), sql.Literal(encoding), sql.Literal(locale), sql.Literal(locale))
                try:
                    session.rows(sql.SQL(statement).format(*words))
                except TargetError as error:
                    if locale == "C" or error.cause in ("timed_out", "partial"):
                        raise
                    problem = error.message
                    continue
                return problem
        return problem

    def drop_database(self, name: str) -> None:
        """Drop a database that is proven, so that the next one has its space."""
        with suppress(TargetError), self.session(MAINTENANCE) as session, session.statement_timeout(self._limit):
            session.rows(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))

    def session(self, database: str, *, user: str = _WORKER, read_only: bool = False) -> Postgres:
        """Open a session. Raises TargetError."""
        target = PostgresTarget(dsn=self.conninfo(database, user))
        return connect(target, "restore_drill", name=self.name, timeout=_QUERY_TIMEOUT, read_only=read_only)

    def conninfo(self, database: str, user: str = _WORKER) -> str:
        """The connection string. An empty hostaddr is one that PGHOSTADDR of the environment does not replace."""
        return make_conninfo(
            "",
            host=str(self._socket),
            hostaddr="",
            port=PORT,
            user=user,
            dbname=database,
            options="",
            sslmode="disable",
            target_session_attrs="any",
        )

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise an error in this block as what it follows from: that the disk is full, or the server has ended."""
        try:
            yield
        except TargetError as error:
            raise self.explain(error) from error

    def explain(self, error: TargetError) -> TargetError:
        """The error, or what it follows from: a full disk, a server that has ended, an extension that is missing."""
        if error.cause in ("too_large", "not_configured"):
            return error
        full = full_disk(self.folder, error.message)
        if full is None and self._server is not None and self._server.ended:
            output = self._server.last_lines()
            text = f"the scratch server has ended: {output}"
            return full_disk(self.folder, output) or TargetError(text, "see the log of the run", cause="failed")
        return full or missing_extension(error.message) or error

    def _accepts(self) -> bool:
        try:
            self.session(MAINTENANCE, user=self._bootstrap).close()
        except TargetError as error:
            if error.cause in ("refused", "timed_out", "partial"):
                return False
            raise
        return True

    def _identifier(self) -> str:
        lines: list[str] = []
        self._run_as_owner("pg_controldata", str(self._data), lines=lines)
        found = _CONTROL.search("\n".join(lines))
        if found is None:
            raise TargetError("pg_controldata does not print a system identifier", cause="unfamiliar")
        return found[1]

    def _run_as_owner(self, program: str, *arguments: str, lines: list[str] | None = None) -> None:
        argv = guarded([self.programs.path(program), *arguments], signal.SIGKILL, self._user)
        self._run(program, argv, lines)

    def _run(self, name: str, argv: Sequence[str], lines: list[str] | None = None) -> None:
        errors: deque[str] = deque(maxlen=10)

        def receive(stream: str, line: str) -> None:
            if stream == "stderr" and line.strip():
                errors.append(line.strip())
            elif lines is not None:
                lines.append(line)

        environment = {"LC_ALL": "C.UTF-8", "PGOPTIONS": "", "PGAPPNAME": "maintd:restore_drill"}
        try:
            ended = run(Command(argv, cwd=self.folder, env=environment), self._limit, receive)
        except MaintdError as error:
            raise TargetError(error.message, error.hint, cause="not_configured") from error
        text = shown("; ".join(errors))[:500]
        if ended.timed_out:
            raise TargetError(f"{name}: timed out: {text}", "raise the entry's timeout", cause="timed_out")
        if ended.exit_code != 0 or (errors and name == "pg_restore"):
            why = text or f"ended with {ended.signal or ended.exit_code}"
            raise self.explain(TargetError(f"{name}: {why}", cause="failed"))


def production_identifiers(
    targets: Mapping[str, PostgresTarget], manifest: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """System identifiers that the scratch cluster must not have, by where each is from.

    A target that does not answer, as in a disaster, is only known by the manifest.
    """
    found = {
        f"the server of target {about['target']} that was backed up": str(about["system_identifier"])
        for about in manifest
        if about.get("system_identifier")
    }
    for name, target in targets.items():
        with suppress(TargetError), as_target_error(name), connect(target, "restore_drill", name=name) as session:
            row = session.one("SELECT system_identifier::text AS id FROM pg_control_system()")
            found[f"the server of target {name}"] = str(row["id"])
    return found


def _unquoted(name: bytes) -> bytes:
    return name[1:-1].replace(b'""', b'"') if name.startswith(b'"') else name


def _let_enter(folder: Path) -> None:
    """Let the user of the servers pass through a folder of the drill; those above it must be passable already."""
    folder.chmod(folder.stat().st_mode | 0o011)
