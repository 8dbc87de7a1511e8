"""A schema taken back to the version in a rollback manifest, one migration after the other, newest first.

The version is what the site's query returns: a row for each migration that was applied. What the server has and the
manifest does not is taken back, each in a transaction in which the query must show that exactly this row is gone, or
nothing of it is committed. So a run that was killed is simply continued by the next one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from maintd.checks.rollback.manifest import PostgresRecord
from maintd.clients import shell
from maintd.clients.files import shown
from maintd.clients.postgres import Postgres
from maintd.errors import MaintdError, TargetError
from maintd.job.context import Context

Row = tuple[str | None, ...]

VERSION = "{version}"
"""Replaced by the name of a migration in paths and arguments."""

_LARGEST = 16 << 20  # bytes of a file of SQL
_MARK = "maintd.rollback"  # a setting of the transaction, by which a file that ended it is found out


@dataclass(frozen=True)
class Down:
    """How a migration is taken back: a file of SQL by a path with `{version}`, or a program; and what forgets it.

    `forget`: SQL with `%(version)s`, run after a file in the same transaction.
    """

    file: str | None
    program: Sequence[str]
    forget: str | None

    def path(self, version: str) -> Path:
        """The file for a version. Raises TargetError for a name that would lead elsewhere."""
        if "/" in version or version in ("", ".", "..") or "\0" in version:
            raise TargetError(f'"{version}" is no name for a file', "take it back by hand", cause="unfamiliar")
        return Path((self.file or "").replace(VERSION, version))


def plan(wanted: Sequence[Row], current: Sequence[Row]) -> list[str]:
    """The names of the migrations to take back, newest first. Raises TargetError when the way back is not known."""
    missing = [row for row in wanted if row not in current]
    if missing:
        listed = ", ".join(str(row[0]) for row in missing[:3])
        text = f"the schema lacks {len(missing)} versions that the manifest has: {listed}"
        raise TargetError(text, "it is no later version of that one: compare by hand", cause="conflict")
    more = [row for row in current if row not in wanted]
    if any(row[0] is None for row in more):
        raise TargetError("a version without a name", "correct the query of the schema's version", cause="malformed")
    return [str(row[0]) for row in reversed(more)]


class SchemaRollback:
    """The rollback of one schema. query: of its version, in the order in which the migrations were applied."""

    def __init__(self, ctx: Context, session: Postgres, query: str, down: Down, lock_timeout: timedelta) -> None:
        self._ctx = ctx
        self._session = session
        self._query = query
        self._down = down
        self._lock_timeout = lock_timeout

    def version(self) -> list[Row]:
        """The rows of the query, as a manifest has them. Raises TargetError."""
        rows = self._session.rows(self._query)
        return [tuple(None if value is None else str(value)[:1000] for value in row.values()) for row in rows]

    def run(self, record: PostgresRecord) -> None:
        """Take back all that the manifest does not have. Raises TargetError, before any change if a way is missing."""
        ctx, name = self._ctx, f"{self._session.name}: version of the schema"
        if record.schema_version is None:
            hint = "name the query in schema_versions of rollback_manifest; take the schema back by hand this time"
            raise TargetError("the manifest has no version of the schema", hint, cause="empty")
        wanted, current = list(record.schema_version), self.version()
        versions = plan(wanted, current)
        ctx.log(f"{self._session.name}: takes back, in this order: {', '.join(versions) or 'nothing'}")
        problems = [problem for version in versions if (problem := self._problem(version))]
        hint = f"{'; '.join(problems[:5])}: nothing was changed" if problems else ""
        ctx.require(f"{self._session.name}: migrations without a way back", len(problems), at_most=0, hint=hint)
        for version in ctx.track(versions, unit="migration"):
            with ctx.phase(f"take back {version}"):
                self._take_back(version, [row for row in current if row[0] != version])
            current = [row for row in current if row[0] != version]
        if ctx.dry_run:
            return
        found = self.version()
        hint = "compare the rows of the query with the manifest"
        same = "as in the manifest" if _same(found, wanted) else f"{len(found)} rows, {len(wanted)} wanted"
        ctx.check(name, same, equals="as in the manifest", hint=hint)

    def _problem(self, version: str) -> str:
        """Why a migration cannot be taken back; empty when it can, as far as can be seen."""
        try:
            if self._down.program:
                shell.resolve_argv(self._command(version))
            elif self._down.file is not None:
                text = _text(self._down.path(version))
                if any(line.startswith("\\") for line in text.splitlines()):
                    return f"{version}: its file has commands of psql; name a program instead"
            else:
                return f"{version}: neither a file nor a program is named"
        except MaintdError as error:
            return f"{version}: {error.message}"
        return ""

    def _command(self, version: str) -> shell.Command:
        return shell.Command(tuple(word.replace(VERSION, version) for word in self._down.program))

    def _take_back(self, version: str, expected: list[Row]) -> None:
        with self._ctx.change("migrate down", f"{self._session.name}: {version}") as allowed:
            if not allowed:
                return
            if self._down.program:
                self._run_program(version)
                self._require(version, expected)
                return
            text = _text(self._down.path(version))
            session = self._session
            with self._transaction(version), session.statement_timeout(self._ctx.remaining * 0.9):
                session.rows(text)
                if session.one("SELECT current_setting(%s, true) AS mark", (_MARK,))["mark"] != "open":
                    hint = "remove BEGIN and COMMIT from the file, or name a program"
                    text = f"the file of {version} ended its transaction; what it did is committed"
                    raise TargetError(text, hint, cause="failed")
                if self._down.forget is not None:
                    session.rows(self._down.forget, {"version": version})
                self._require(version, expected)

    def _require(self, version: str, expected: list[Row]) -> None:
        if not _same(self.version(), expected):
            hint = "let its file or program remove its row, or set forget: DELETE FROM migrations WHERE …"
            text = f"after {version} was taken back, the version of the schema is not the one before it"
            raise TargetError(text, hint, cause="failed")

    @contextmanager
    def _transaction(self, version: str) -> Iterator[None]:
        session = self._session
        session.set_lock_timeout(self._lock_timeout)
        session.rows("BEGIN")
        try:
            session.rows("SELECT set_config(%s, 'open', true)", (_MARK,))
            yield
        except BaseException:
            with suppress(TargetError):
                session.rows("ROLLBACK")
            raise
        session.rows("COMMIT")

    def _run_program(self, version: str) -> None:
        lines: list[str] = []

        def receive(_: Any, line: str) -> None:
            self._ctx.log(line)
            lines.append(line)
            del lines[:-3]

        ended = shell.run(self._command(version), self._ctx.remaining * 0.9, receive)
        if ended.timed_out or ended.exit_code != 0:
            how = "timed out" if ended.timed_out else f"ended with {ended.signal or ended.exit_code}"
            raise TargetError(
                f"{version}: {how}: {shown(' '.join(lines))[:300]}", "see the log of this run", cause="failed"
            )


def _same(left: Sequence[Row], right: Sequence[Row]) -> bool:
    """Whether these are the same rows, in whatever order."""
    return sorted(map(str, left)) == sorted(map(str, right))


def _text(path: Path) -> str:
    """A file of SQL. Raises TargetError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise TargetError(f"{shown(path)}: is too large", "name a program instead", cause="too_large")
        return data.decode()
    except OSError as error:
        text = f"{shown(path)}: {error.strerror}"
        raise TargetError(text, "write it, or correct the param down", cause="not_found") from error
    except UnicodeDecodeError as error:
        raise TargetError(f"{shown(path)}: is not UTF-8", "convert it", cause="malformed") from error
