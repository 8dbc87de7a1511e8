"""A database replaced by one that is restored from a backup, and kept beside it.

The steps, of a database named trading:

1. create trading_maintd_new, and restore into it        trading is as it was
2. compare it with the manifest, and check it for damage
3. let trading accept no connections, and end its sessions
4. in one transaction rename trading to trading_damaged_TIME, and trading_maintd_new to trading
5. give trading its own comment again

Renames of databases are transactional, so that at every instant the name belongs to one of the two. The names and the
comments of the databases are the journal: whatever a run that was killed has left, `recover` finds it there, without a
store. Nothing but an incomplete trading_maintd_new is ever dropped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import sql

from maintd.checks.restore import databases
from maintd.checks.restore.databases import Query, Restored
from maintd.checks.rollback.dumps import Dump
from maintd.checks.rollback.live import LiveDatabase, LiveServer, find
from maintd.clients.postgres import Postgres
from maintd.errors import TargetError
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus

KEPT = "rollback_kept"
"""Name of the value for an undo: the name under which the damaged database is kept, once it was swapped."""

MARK = "maintd-rollback"
"""How the comments begin by which a later run recognises what this one has made."""

_CLOSED, _UNFINISHED = f"{MARK}: closed for the swap", f"{MARK}: unfinished"
_WAS = "\nwas: "
_NEW = "_maintd_new"
_LONGEST = 63  # bytes of a name
_END_SECONDS = 10.0
_KEPT_DAYS = 7  # JOBS: the damaged one is kept so long at least
# By the user, which each may see: the server's own processes have none, and a rename ends those itself. The type of a
# process is hidden from who may not read all statistics.
_SESSIONS = """
SELECT count(pg_terminate_backend(pid)) AS left FROM pg_stat_activity
WHERE datname = %s AND pid <> pg_backend_pid() AND usesysid IS NOT NULL
"""
_TABLES = """
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_') AS found
"""
_SETTINGS = """
SELECT coalesce(r.rolname, '') AS role, split_part(c, '=', 1) AS name, substr(c, strpos(c, '=') + 1) AS value
FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole,
  unnest(s.setconfig) AS c WHERE d.datname = %s ORDER BY 1, 2
"""
_GRANTS = """
SELECT coalesce(r.rolname, '') AS role, a.privilege_type AS privilege, a.is_grantable AS grantable
FROM pg_database d, aclexplode(d.datacl) AS a LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE d.datname = %s ORDER BY 1, 2
"""


def new_name(database: str) -> str:
    """The name of the restored database until it is in place."""
    return _with_end(database, _NEW)


def kept_name(database: str, at: datetime) -> str:
    """The name under which the damaged database is kept; with microseconds, so that it is free."""
    return _with_end(database, f"_damaged_{at:%Y%m%d_%H%M%S_%f}")


@dataclass(frozen=True)
class Left:
    """What an earlier run has left. `done`: the restored database is in place; then `kept` is the damaged one."""

    done: bool
    kept: str = ""


class Replacement:
    """The replacement of one database."""

    def __init__(self, ctx: Context, server: LiveServer, database: LiveDatabase) -> None:
        self._ctx = ctx
        self._server = server
        self.database = database
        self.subject = f"postgres {server.name}: {database.name}"
        self.new = new_name(database.name)

    @property
    def swapped(self) -> bool:
        """Whether the restored database has the name, and the replacement has not ended."""
        return self.database.comment.startswith(_UNFINISHED)

    # --- what an earlier run has left ---

    def recover(self, source: str) -> Left:
        """End what a run that was stopped has left, and report it. source: the set that is to be restored.

        Raises TargetError for a database that does not accept connections, and not because of maintd.
        """
        comment = self.database.comment
        if self.swapped:
            kept = comment.partition(" kept=")[2].partition(_WAS)[0]
            if f" from={source} " not in comment:
                text = f"{self.subject} was replaced from another set by a run that was stopped: {comment[:200]}"
                raise TargetError(text, "finish that one first: name its set in the param set", cause="conflict")
            self._report("is in place, and is finished now")
            return Left(True, kept)
        if comment.startswith(_CLOSED):
            self.reopen()
            self._report("did not accept connections, and accepts them again")
        elif not self.database.open:
            hint = f"ALTER DATABASE {self.database.name} ALLOW_CONNECTIONS true"
            raise TargetError(f"{self.subject} does not accept connections, and not by maintd", hint, cause="conflict")
        self._drop_incomplete()
        return Left(False)

    def _report(self, what: str) -> None:
        hint = "see the log of the run before"
        severity = CheckStatus.WARN
        self._ctx.check(f"{self.subject}: left by an earlier run", what, equals="nothing", severity=severity, hint=hint)

    def _drop_incomplete(self) -> None:
        """Drop the copy that a run that was stopped has left. Raises TargetError for one that is not maintd's."""
        with self._server.elsewhere(self.database.name) as session:
            found = find(session, self.new)
        if found is None:
            return
        if not found.comment.startswith(MARK):
            with self._server.session(self.new, read_only=True) as session:
                foreign = bool(session.one(_TABLES)["found"])
            if foreign or found.comment:
                hint = "rename it, or drop it by hand"
                raise TargetError(f"there is a database {self.new} that maintd has not made", hint, cause="conflict")
        self.drop_new()
        self._report(f"{self.new} was incomplete, and is dropped")

    def drop_new(self) -> None:
        """Drop the restored database, which is not in place. Raises TargetError."""
        with (
            self._ctx.change("drop database", self._place(self.new), why="it is not complete") as allowed,
            self._server.elsewhere(self.database.name) as session,
        ):
            if allowed:
                self._end_sessions(session, self.new)
                with session.statement_timeout(self._ctx.remaining):
                    session.rows(sql.SQL("DROP DATABASE {}").format(sql.Identifier(self.new)))

    # --- the new database ---

    def restore(self, dump: Dump, jobs: int) -> None:
        """Create the new database like the old one, and restore into it. Raises TargetError."""
        ctx, old = self._ctx, self.database
        with (
            ctx.change("create database", self._place(self.new), source=dump.source) as allowed,
            self._server.elsewhere(old.name) as session,
        ):
            if not allowed:
                return
            with session.statement_timeout(ctx.remaining):
                session.rows(_creation(old, self.new))
            self._comment(session, self.new, f"{MARK}: incomplete, from={dump.source} for {old.name}")
        with ctx.change("restore database", self._place(self.new), bytes=0, source=dump.source):
            words = ("--exit-on-error", "--no-password", f"--jobs={jobs}")
            self._server.run_program(
                "pg_restore", f"--dbname={self._server.conninfo(self.new)}", *words, str(dump.path)
            )
            with self._server.session(self.new) as session:
                self._copy_settings(session)
                with session.statement_timeout(ctx.remaining):
                    session.rows("ANALYZE")  # a new database has no statistics, and would be slow
        ctx.passed(f"{self.subject}: restored into {self.new}", dump.path.name, expected="restored")

    def _copy_settings(self, session: Postgres) -> None:
        """Settings, grants and the limit of connections, which a dump does not have. Raises TargetError."""
        old, new = self.database, sql.Identifier(self.new)
        for row in session.rows(_SETTINGS, (old.name,)):
            # By the session's own value: a list such as search_path would be quoted as one item.
            session.rows("BEGIN")
            session.rows("SELECT set_config(%s, %s, true)", (row["name"], row["value"]))
            name = sql.Identifier(row["name"])
            if row["role"]:
                words = (sql.Identifier(row["role"]), new, name)
                session.rows(sql.SQL("ALTER ROLE {} IN DATABASE {} SET {} FROM CURRENT").format(*words))
            else:
                session.rows(sql.SQL("ALTER DATABASE {} SET {} FROM CURRENT").format(new, name))
            session.rows("COMMIT")
        if old.connection_limit != -1:
            limit = sql.Literal(old.connection_limit)
            session.rows(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(new, limit))
        wanted = session.rows(_GRANTS, (old.name,))
        if wanted:
            session.rows(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(new))
        for row in wanted:
            to = sql.Identifier(row["role"]) if row["role"] else sql.SQL("PUBLIC")
            more = sql.SQL(" WITH GRANT OPTION" if row["grantable"] and row["role"] != old.owner else "")
            grant = sql.SQL("GRANT {} ON DATABASE {} TO {}{}")
            session.rows(grant.format(sql.SQL(row["privilege"]), new, to, more))
        for what, query in (("settings", _SETTINGS), ("grants", _GRANTS)):
            if session.rows(query, (old.name,)) != session.rows(query, (self.new,)):
                text = f"{self.new} has not the {what} of {old.name}"
                raise TargetError(text, "set the param role to one that may set them", cause="denied")

    def prove(self, dump: Dump, queries: Mapping[str, Query], *, amcheck: bool) -> None:
        """Compare the new database with the manifest, and check it for damage; what is not as expected is a check.

        Raises TargetError.
        """
        subject = f"postgres {self._server.name}: {self.new}"
        restored = Restored(subject, self.new, dump.about, dump.taken_at, dump.path, owners=True)
        with self._ctx.phase(f"compare {self.new} with the manifest"):
            databases.prove(self._ctx, self._server, restored)
            databases.run_queries(self._ctx, self._server, restored, queries)
        if amcheck:
            with self._ctx.phase(f"check {self.new} for damage"):
                databases.check_damage(self._ctx, self._server, restored, install=False)

    # --- the swap ---

    def swap(self, source: str) -> str:
        """Put the new database in the place of the old one; the name of the old one afterwards. Raises TargetError.

        When it fails, the old one is as it was; also when that is not known, see `is_in_place`.
        """
        old = self.database
        kept = kept_name(old.name, self._ctx.now())
        self._ctx.hand_over(KEPT, kept)
        try:
            self.close()
            self._rename(source, kept)
        except TargetError:
            if self.is_in_place(kept):  # the answer was lost after the commit
                return kept
            self._try_to_reopen()
            raise
        return kept

    def close(self) -> None:
        """Let the old database accept no connections, and end its sessions. Raises TargetError."""
        old = self.database
        with (
            self._ctx.change("close database", self._place(old.name)) as allowed,
            self._server.elsewhere(old.name) as session,
        ):
            if not allowed:
                return
            with _transaction(session):
                self._comment(session, old.name, f"{_CLOSED}{_WAS}{_own(old.comment)}")
                session.rows(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(old.name)))
            ended = self._end_sessions(session, old.name)
            allowed.observed(sessions=ended)
            now = find(session, old.name)
            if now is not None and now.prepared:
                text = f"{old.name} has {now.prepared} prepared transactions, with which it cannot be renamed"
                raise TargetError(
                    text, "COMMIT PREPARED or ROLLBACK PREPARED them; see pg_prepared_xacts", cause="failed"
                )

    def reopen(self) -> None:
        """Let the old database accept connections again. Raises TargetError."""
        old = self.database
        with (
            self._ctx.change("open database", self._place(old.name)) as allowed,
            self._server.elsewhere(old.name) as session,
        ):
            if allowed:
                with _transaction(session):
                    session.rows(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(old.name)))
                    self._comment(session, old.name, _own(old.comment))

    def _try_to_reopen(self) -> None:
        try:
            self.reopen()
        except TargetError as error:
            name = f"{self.subject}: accepts connections again"
            hint = f"ALTER DATABASE {self.database.name} ALLOW_CONNECTIONS true; or run this again with back: true"
            error = TargetError(error.message, hint, cause=error.cause)
            self._ctx.report_error(name, error, expected="open, as before", role=Role.WORK)

    def _rename(self, source: str, kept: str) -> None:
        old = self.database
        details = {"kept": kept, "source": source}
        with (
            self._ctx.change("swap databases", self._place(old.name), bytes=0, **details) as allowed,
            self._server.elsewhere(old.name) as session,
        ):
            if not allowed:
                return
            now = self._ctx.now()
            why = f"{MARK}: kept at {now:%Y-%m-%d %H:%M:%S} UTC by run {self._ctx.run_id}, replaced from={source}"
            with _transaction(session):
                rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
                session.rows(rename.format(sql.Identifier(old.name), sql.Identifier(kept)))
                session.rows(rename.format(sql.Identifier(self.new), sql.Identifier(old.name)))
                self._comment(session, kept, f"{why}{_WAS}{_own(old.comment)}")
                unfinished = f"{_UNFINISHED}, from={source} kept={kept}{_WAS}{_own(old.comment)}"
                self._comment(session, old.name, unfinished)
            allowed.observed(before=old.oid)

    def is_in_place(self, kept: str) -> bool:
        """Whether the restored database has the name, and the other one is kept. Raises TargetError if not known."""
        with self._server.elsewhere(self.database.name) as session:
            now, before = find(session, self.database.name), find(session, kept)
        return now is not None and now.oid != self.database.oid and before is not None

    def is_restored(self, oid: int, name: str) -> bool:
        """Whether a database is the restored one, in place: not the one from before, unless that was it already."""
        return name == self.database.name and (self.swapped or oid != self.database.oid)

    def finish(self, kept: str) -> None:
        """Give the restored database the comment of the old one, which ends the replacement. Raises TargetError."""
        name = self.database.name
        with (
            self._ctx.change("finish rollback", self._place(name), kept=kept) as allowed,
            self._server.elsewhere(name) as session,
        ):
            if not allowed:
                return
            now, before = find(session, name), find(session, kept)
            self._comment(session, name, _own("" if now is None else now.comment))
        at = self._ctx.now() + timedelta(days=_KEPT_DAYS)
        check = f"{self.subject}: damaged database is kept"
        if before is None:
            hint = f"look for it in pg_database: its comment begins with {MARK}"
            self._ctx.fail(check, f"there is no database {kept}", expected="kept", hint=hint)
            return
        expected = f"kept, until a person drops it, not before {at:%Y-%m-%d}"
        self._ctx.passed(check, kept, expected=expected)
        self._ctx.log(f"{kept} accepts no connections. To look into it: ALTER DATABASE {kept} ALLOW_CONNECTIONS true")

    # --- parts ---

    def _place(self, database: str) -> str:
        return f"{self._server.name}: {database}"

    def _comment(self, session: Postgres, database: str, text: str) -> None:
        value: Any = sql.Literal(text) if text else sql.SQL("NULL")
        session.rows(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(database), value))

    def _end_sessions(self, session: Postgres, database: str) -> int:
        """End the sessions of a database, and wait for their end; their number. Raises TargetError."""
        most, until = 0, time.monotonic() + _END_SECONDS
        while left := int(session.one(_SESSIONS, (database,))["left"]):
            most = max(most, left)
            if time.monotonic() > until:
                hint = f"look for them in pg_stat_activity, by datname {database}"
                raise TargetError(f"{left} sessions of {database} do not end", hint, cause="failed")
            time.sleep(0.05)
        return most


@contextmanager
def _transaction(session: Postgres) -> Iterator[None]:
    """All of the block, or nothing of it."""
    session.rows("BEGIN")
    try:
        yield
    except BaseException:
        with suppress(TargetError):
            session.rows("ROLLBACK")
        raise
    session.rows("COMMIT")


def _creation(old: LiveDatabase, name: str) -> sql.Composed:
    words = [
        sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}").format(
            sql.Identifier(name),
            sql.Identifier(old.owner),
            sql.Literal(old.encoding),
            sql.Literal(old.collate),
            sql.Literal(old.ctype),
        )
    ]
    providers = {"c": " LOCALE_PROVIDER libc", "i": " LOCALE_PROVIDER icu ICU_LOCALE {}"}
    providers["b"] = " LOCALE_PROVIDER builtin BUILTIN_LOCALE {}"  # from Postgres 17
    if old.provider in providers:
        words.append(sql.SQL(providers[old.provider]).format(sql.Literal(old.locale)))
    if old.tablespace != "pg_default":
        words.append(sql.SQL(" TABLESPACE {}").format(sql.Identifier(old.tablespace)))
    return sql.Composed(words)


def _own(comment: str) -> str:
    """The comment of the site in one of maintd's."""
    return comment.partition(_WAS)[2] if comment.startswith(MARK) else comment


def _with_end(name: str, end: str) -> str:
    """A name with this end, as long as a name can be."""
    return name.encode()[: _LONGEST - len(end)].decode(errors="ignore") + end
