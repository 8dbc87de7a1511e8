"""Databases restored into the scratch cluster, and the proof that they are what was backed up."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from psycopg import sql
from pydantic import BaseModel, ConfigDict, model_validator

from maintd.checks.backup_sets.content_hash import HASH, count_tables, lock_tables
from maintd.checks.backup_sets.postgres import schema_hash
from maintd.checks.postgres.amcheck import Amcheck
from maintd.checks.postgres.database import relations
from maintd.checks.postgres.indexes import indexes
from maintd.checks.restore.cluster import Programs
from maintd.clients.piped import piped
from maintd.clients.postgres import Postgres
from maintd.clients.shell import Command
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.model.evidence import Scalar
from maintd.units import Duration

_SHOWN = 5
_STALL = timedelta(minutes=10)
_CHECKED_AT_MOST = timedelta(hours=1)
_TOC_LINE = re.compile(r"\d+; \d+ \d+ (.+)")
_DATA = (
    "TABLE DATA ",
    "SEQUENCE SET ",
    "MATERIALIZED VIEW DATA ",
    "BLOB",
    "LARGE OBJECT",
    "DATABASE ",
    "ENCODING ",
    "STDSTRINGS ",
    "SEARCHPATH ",
)
_SEQUENCES = """
SELECT n.nspname AS schema, s.relname AS name, tn.nspname AS table_schema, t.relname AS table_name, a.attname AS column
FROM pg_class s
JOIN pg_namespace n ON n.oid = s.relnamespace
JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.oid AND d.deptype IN ('a', 'i')
  AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
JOIN pg_class t ON t.oid = d.refobjid
JOIN pg_namespace tn ON tn.oid = t.relnamespace
JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid AND a.atttypid IN (20, 21, 23)
JOIN pg_sequence q ON q.seqrelid = s.oid AND q.seqincrement > 0 AND NOT q.seqcycle
WHERE s.relkind = 'S' AND n.nspname !~ '^pg_' ORDER BY 1, 2
"""


class Place(Protocol):
    """A server that databases are restored into: a scratch cluster, or for a rollback the server itself."""

    @property
    def programs(self) -> Programs:
        """Postgres' programs that are used with it."""
        ...

    @property
    def folder(self) -> Path:
        """A folder for files of this restore."""
        ...

    def session(self, database: str, *, read_only: bool = False) -> Postgres:
        """Open a session. Raises TargetError."""
        ...

    def conninfo(self, database: str) -> str:
        """The connection string for a program, without a password."""
        ...

    def command(self, program: str, *arguments: str) -> Command:
        """One of Postgres' programs with its environment."""
        ...

    def run_program(self, name: str, *arguments: str) -> None:
        """Run one of Postgres' programs, which must end with 0 and without a message. Raises TargetError."""
        ...


_COLLATION = """
SELECT datcollate AS name, datcollversion AS was, pg_database_collation_actual_version(oid) AS here
FROM pg_database WHERE datname = current_database()
"""


class Query(BaseModel):
    """A query of the application, whose one value must be as expected in the restored database."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    sql: str
    """Returns one row with one value."""
    database: str | None = None
    """Name of the restored database; needed when there are several."""
    equals: int | float | bool | str | None = None
    """The value must be equal to this."""
    at_least: float | None = None
    """A smaller value fails."""
    at_most: float | None = None
    """A larger value fails."""
    max_age: Duration | None = None
    """The value is a time or a date, and at most so much older than the backup."""

    @model_validator(mode="after")
    def _expects_something(self) -> Query:
        if self.equals is None and self.at_least is None and self.at_most is None and self.max_age is None:
            raise ValueError("expect something: equals, at_least, at_most or max_age")
        return self


@dataclass(frozen=True)
class Restored:
    """A restored database. `about`: what the manifest has about it, None without one. owners: with the original's."""

    subject: str
    name: str
    about: Mapping[str, Any] | None
    taken_at: datetime
    dump: Path | None = None
    owners: bool = False


@dataclass
class Proof:
    """What was compared, for the record of the drill."""

    tables: dict[str, Any] = field(default_factory=dict)
    rows: int = 0


def restore_dump(cluster: Place, database: str, dump: Path, jobs: int, *, owners: bool) -> None:
    """Restore a dump of pg_dump's custom or directory format; any message of pg_restore is an error.

    owners: with the roles of the original. Raises TargetError.
    """
    without = () if owners else ("--no-owner", "--no-privileges", "--no-tablespaces")
    words = ("--exit-on-error", "--no-password", f"--jobs={jobs}", *without)
    cluster.run_program("pg_restore", f"--dbname={cluster.conninfo(database)}", *words, str(dump))


def prove(ctx: Context, cluster: Place, restored: Restored) -> Proof:
    """Compare a restored database with the manifest: tables, rows, content, schema, extensions. Raises TargetError.

    Without a manifest there is nothing to compare it with, which is unknown.
    """
    subject, about = restored.subject, restored.about
    if about is None:
        hint = "make the backup by the job backup, whose manifest has rows and hashes of the dump's own snapshot"
        ctx.unknown(f"{subject}: compared with the original", "no manifest: compared to nothing", hint=hint)
    proof = Proof()
    with cluster.session(restored.name) as session, session.statement_timeout(ctx.remaining):
        with ctx.phase(f"{subject}: count and hash its rows"):
            session.rows("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            method = HASH if about is None else about.get("hash")
            found = count_tables(session, lock_tables(session)[0], method)
            session.rows("COMMIT")
        proof.tables, proof.rows = found, sum(table["rows"] for table in found.values())
        if about is not None:
            ctx.report(table_criteria(about.get("tables"), found), subject)
            extensions = {
                str(row["name"]): str(row["version"])
                for row in session.rows("SELECT extname AS name, extversion AS version FROM pg_extension")
            }
            ctx.report([extension_criterion(about.get("extensions") or {}, extensions)], subject)
        ctx.report([_sequence_criterion(session)], subject)
    if about is not None:
        with ctx.phase(f"{subject}: compare the schema"):
            _compare_schema(ctx, cluster, restored, about)
    ctx.measure("restore_rows", proof.rows, "row", part=subject)
    return proof


def all_databases(session: Postgres) -> list[str]:
    """The databases of a recovered server that accept connections, templates left out. Raises TargetError."""
    query = "SELECT datname AS name FROM pg_database WHERE NOT datistemplate AND datallowconn ORDER BY 1"
    return [str(row["name"]) for row in session.rows(query)]


def other_collation(session: Postgres) -> str:
    """How the texts of this recovered database were sorted, when it is not as they are sorted here; else empty.

    Its indexes then look damaged, such as those of a server with another C library. Known from Postgres 15 on.
    """
    if session.version < 15:
        return ""
    row = session.one(_COLLATION)
    if row["was"] == row["here"]:
        return ""
    return f"{row['name']} {row['was'] or 'of no version'}, and here {row['here'] or 'of no version'}"


def prove_read(ctx: Context, cluster: Place, restored: Restored, tables: Sequence[str]) -> Proof:
    """Read every row of a recovered database, and compare its tables with these. Raises TargetError.

    A page that is damaged fails only when it is read. There is nothing to compare rows with: a base backup has what was
    committed up to its end, which no snapshot shows; a query of the application has what it expects.
    """
    subject, proof = restored.subject, Proof()
    with cluster.session(restored.name) as session, session.statement_timeout(ctx.remaining):
        session.rows("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        proof.tables = count_tables(session, lock_tables(session)[0], HASH)
        session.rows("COMMIT")
        proof.rows = sum(table["rows"] for table in proof.tables.values())
        missing = sorted(set(tables) - proof.tables.keys())
        ctx.report([_none("tables missing", missing, "they were there when it was made: use another set")], subject)
        ctx.report([_sequence_criterion(session)], subject)
    ctx.passed(f"{subject}: rows read", proof.rows, expected="all rows of all tables")
    ctx.measure("restore_rows", proof.rows, "row", part=subject)
    return proof


def table_criteria(
    wanted: Mapping[str, Mapping[str, Any]] | None, found: Mapping[str, Mapping[str, Any]]
) -> list[Criterion]:
    """Compare tables with those of the manifest: missing ones, their rows, and the content of those with equal rows."""
    if wanted is None:
        cause = "the manifest has no rows: they could not be counted when the backup was made"
        return [Criterion("tables whose rows differ", unknown=cause, hint="see the run of the job backup", equals=0)]
    missing = sorted(wanted.keys() - found.keys())
    more = sorted(found.keys() - wanted.keys())
    both = sorted(wanted.keys() & found.keys())
    counted = [name for name in both if wanted[name].get("rows") is not None]
    rows = [name for name in counted if wanted[name]["rows"] != found[name]["rows"]]
    hashed = [name for name in both if wanted[name].get("hash") is not None]
    content = [name for name in hashed if wanted[name]["hash"] != found[name]["hash"] and name not in rows]
    differing = [f"{name}: {found[name]['rows']} instead of {wanted[name]['rows']}" for name in rows]
    criteria = [
        _none("tables missing", missing, "the dump does not have them: restore from another set"),
        _none("tables that the original does not have", more, "the dump is not of the manifest's snapshot"),
        _none("tables whose rows differ", differing, "rows were lost: restore from another set"),
        _none("tables whose content differs", content, "the dump is damaged: restore from another set"),
    ]
    without = len(both) - len(hashed)
    if without:
        hint = "only the rows are compared; set hashes: true in the job backup, or see its run"
        criteria.append(Criterion("tables without a hash in the manifest", without, warn_above=0, hint=hint))
    return criteria


def extension_criterion(wanted: Mapping[str, str], found: Mapping[str, str]) -> Criterion:
    """Compare the extensions: another version restores, and can behave in another way."""
    unlike = [
        f"{name} {found.get(name, 'missing')} instead of {version}"
        for name, version in sorted(wanted.items())
        if found.get(name) != version
    ]
    hint = f"{', '.join(unlike[:_SHOWN])}: install the same versions for a true drill" if unlike else ""
    return Criterion("extensions of another version", len(unlike), warn_above=0, hint=hint)


def check_damage(ctx: Context, cluster: Place, restored: Restored, *, install: bool = True) -> None:
    """Check every table and B-tree by amcheck, each index with its table, and that all indexes are valid.

    install: create the extension where it is missing. Raises TargetError. Where amcheck is not installed, the check is
    unknown; optional if it is not to be installed.
    """
    subject = restored.subject
    with cluster.session(restored.name) as session:
        found = indexes(session)
        invalid = [index.label for index in found if not index.valid]
        ctx.report([_none("indexes that are not valid", invalid, "see the definition in the original")], subject)
        name = f"{subject}: damaged relations"
        try:
            if install:
                session.rows("CREATE EXTENSION IF NOT EXISTS amcheck")
        except TargetError as error:
            hint = "install Postgres' contrib modules on this machine"
            ctx.unknown(name, f"amcheck is not available: {error.message}", expected="none", hint=hint)
            return
        amcheck = Amcheck(session)
        if amcheck.missing:
            ctx.unknown(name, amcheck.missing, expected="none", optional=not install)
            return
        budget = min(ctx.remaining * 0.8, _CHECKED_AT_MOST)
        ended_by = ctx.now() + budget
        for relation in relations(session) if amcheck.can_check_heaps else ():
            amcheck.check_heap(relation, max(ended_by - ctx.now(), timedelta(milliseconds=1)))
        for index in found:
            if index.method == "btree" and index.valid and not index.temporary:
                left = max(ended_by - ctx.now(), timedelta(milliseconds=1))
                amcheck.check_index(index, left, heap_too=True)
        if amcheck.unfinished:
            ctx.unknown(name, amcheck.unfinished, expected="none", hint="raise the entry's timeout")
            return
        worst = [f"{damage.label}: {damage.message}" for damage in amcheck.damage]
        ctx.report([_none("damaged relations", worst, "restore from another set")], subject)
        ctx.measure("restore_relations_checked", amcheck.checked, "relation", part=subject)


def run_queries(ctx: Context, cluster: Place, restored: Restored, queries: Mapping[str, Query]) -> None:
    """Run the queries of the application, each by itself, read-only."""
    for label, query in queries.items():
        name = f"{restored.subject}: {label}"
        try:
            with cluster.session(restored.name, read_only=True) as session:
                row = session.one(query.sql)
        except TargetError as error:
            hint = error.hint or "correct the query, or see what is missing in the restored database"
            ctx.fail(name, error.message, expected="an answer", hint=hint)
            continue
        ctx.report([query_criterion(name, query, next(iter(row.values()), None), restored.taken_at)])


def query_criterion(name: str, query: Query, value: Any, taken_at: datetime) -> Criterion:
    """Compare the value of a query with what is expected. Without a value it fails: a table is empty, say."""
    hint = "the restored data are not what the application needs; compare with the original by hand"
    if value is None:
        return Criterion(name, "no value", equals="a value", hint=hint)
    if query.max_age is not None:
        if not isinstance(value, date):
            return Criterion(
                name, str(value)[:100], equals="a time or a date", hint="let the query return one, or use at_least"
            )
        at = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day, tzinfo=UTC)
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        return Criterion(name, at, at_least=taken_at - query.max_age, hint=hint)
    number: Scalar = float(value) if isinstance(value, Decimal) else value
    if not isinstance(number, int | float | bool | str):
        number = str(value)
    limits = query.at_least is not None or query.at_most is not None
    if limits and (isinstance(number, str | bool)):
        return Criterion(name, str(number), equals="a number", hint="let the query return one, or use equals")
    return Criterion(name, number, equals=query.equals, at_least=query.at_least, at_most=query.at_most, hint=hint)


def _compare_schema(ctx: Context, cluster: Place, restored: Restored, about: Mapping[str, Any]) -> None:
    """Compare the definitions in the dump with those of the manifest, and the restored objects with those in the dump.

    The text of the restored definitions proves more where it is equal, but need not be: Postgres prints some of them in
    another form after a restore, such as CHECK (x IN ('a', 'b')) of a varchar.
    """
    name, wanted = f"{restored.subject}: schema", str(about.get("schema_sha256") or "")
    major = str(about.get("pg_dump_version", "")).partition(".")[0]
    if not wanted or major != str(cluster.programs.major) or restored.dump is None:
        cause = f"taken by pg_dump {major or '?'}, and pg_dump {cluster.programs.major} prints it in another form"
        hint = f"install postgresql-{major} for the drill" if major.isdigit() else "see the run of the job backup"
        ctx.unknown(name, cause, expected="as in the manifest", hint=hint)
        return
    found = schema_hash(_output(cluster, "pg_restore", "--schema-only", "--file=-", str(restored.dump)))
    hint = "the definitions in the dump are not those of the manifest: restore from another set"
    ctx.check(name, found, equals=wanted, hint=hint)
    name = f"{restored.subject}: objects unlike the dump"
    if (
        schema_hash(_output(cluster, "pg_dump", "--schema-only", f"--dbname={cluster.conninfo(restored.name)}"))
        == found
    ):
        ctx.check(name, 0, at_most=0)
        return
    if not restored.owners:
        ctx.unknown(name, "it was restored without its owners", expected="none", hint="see the check of the roles")
        return
    again = cluster.folder / "schema.dump"
    cluster.run_program(
        "pg_dump", "--format=custom", "--schema-only", f"--file={again}", f"--dbname={cluster.conninfo(restored.name)}"
    )
    before, after = (
        Counter(objects_of(b"".join(_output(cluster, "pg_restore", "--list", str(path)))))
        for path in (restored.dump, again)
    )
    again.unlink()
    missing = [f"{item} is missing" for item in (before - after).elements()]
    more = [f"{item} is not in the dump" for item in (after - before).elements()]
    ctx.report([_none("objects unlike the dump", missing + more, "see the log of the run")], restored.subject)


def objects_of(listing: bytes) -> list[str]:
    """The objects with their owners in what `pg_restore --list` prints, without data."""
    lines = (line for line in listing.decode(errors="replace").splitlines() if not line.startswith(";"))
    found = (match[1].rstrip() for line in lines if (match := _TOC_LINE.fullmatch(line)))
    return [item for item in found if not item.startswith(_DATA)]


def _output(cluster: Place, program: str, *arguments: str) -> Iterator[bytes]:
    """The output of one of Postgres' programs. Raises TargetError."""
    with piped(cluster.command(program, *arguments), _STALL) as running:
        yield from running.chunks()


def _sequence_criterion(session: Postgres) -> Criterion:
    """Sequences that are behind the largest value of their column: the next INSERT would be refused."""
    behind = []
    for row in session.rows(_SEQUENCES):
        query = sql.SQL("SELECT (SELECT last_value FROM {}) < (SELECT max({}) FROM ONLY {}) AS behind").format(
            sql.Identifier(row["schema"], row["name"]),
            sql.Identifier(row["column"]),
            sql.Identifier(row["table_schema"], row["table_name"]),
        )
        if session.one(query)["behind"]:
            behind.append(f"{row['schema']}.{row['name']}")
    hint = f"check them in the original: {', '.join(behind[:_SHOWN])}" if behind else ""
    return Criterion("sequences behind their column", len(behind), warn_above=0, hint=hint)


def _none(name: str, found: Sequence[str], hint: str) -> Criterion:
    text = f"{'; '.join(found[:_SHOWN])}: {hint}" if found else ""
    return Criterion(name, len(found), at_most=0, hint=text)
