"""What a restore of data would lose: the live tables compared with the manifest of a backup, and queries of the site.

That a table has the rows and the content hash of the backup proves that nothing in it is lost. The WAL is only a bound:
checkpoints and other databases write to it, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from maintd.checks.backup_sets.content_hash import count_tables, lock_tables
from maintd.clients.postgres import Postgres
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.units import format_size

HANDED = "rollback_loss"
"""Name of the value for later steps, by Postgres target: the set, the database, the digest and the text of the loss."""

STATED = "loss is stated"
"""Name of the check that a gate shows as a proof: ok with any loss, also with one that is not known."""

_SHOWN = 8
_WAL = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), %s::pg_lsn)::bigint AS bytes"
_SYSTEM = "SELECT system_identifier::text AS id FROM pg_control_system()"
_LARGE_OBJECTS = "SELECT EXISTS (SELECT FROM pg_largeobject_metadata) AS found"


@dataclass
class Loss:
    """What would be lost. `tables`: those that differ, with how. `unknown`: what could not be compared, and why.

    `counts`: the answers of the site's queries. `digest`: of all that was compared, None if something was not.
    """

    source: str
    taken_at: datetime
    compared: int = 0
    rows: int = 0  # more than in the backup, in all tables
    tables: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    counts: dict[str, str] = field(default_factory=dict)
    wal_bytes: int | None = None
    digest: str | None = None

    @property
    def nothing(self) -> bool:
        """Whether it is proven that nothing is lost."""
        return not self.unknown and not self.tables and self.compared > 0

    @property
    def text(self) -> str:
        """All of it in one line."""
        since = f"since {self.source}, {self.taken_at:%Y-%m-%d %H:%M:%S} UTC"
        parts = []
        if self.unknown:
            parts.append(f"unknown: {'; '.join(self.unknown[:_SHOWN])}")
        if self.tables:
            more = f" and {len(self.tables) - _SHOWN} more" if len(self.tables) > _SHOWN else ""
            listed = "; ".join(f"{name}: {how}" for name, how in list(self.tables.items())[:_SHOWN])
            parts.append(f"{len(self.tables)} tables differ, {self.compared} are compared: {listed}{more}")
        elif not self.unknown:
            parts.append(f"nothing was written: {self.compared} tables have the rows and the content of the backup")
        parts += [f"{name}: {value}" for name, value in self.counts.items()]
        if self.wal_bytes is not None:
            parts.append(f"WAL of the whole server: {format_size(self.wal_bytes)}")
        return f"{since}: {'; '.join(parts)}"

    def criterion(self) -> Criterion:
        """Nothing is lost: ok. Something is: a warning with the rows. Not known: unknown."""
        name, hint = "tables unlike the backup", "compare them before you approve"
        if self.unknown:
            return Criterion(name, unknown="; ".join(self.unknown[:3]), equals=0, hint=hint)
        return Criterion(name, len(self.tables), warn_above=0, hint=hint if self.tables else "")


def measure(
    ctx: Context,
    session: Postgres,
    about: Mapping[str, Any],
    source: str,
    taken_at: datetime,
    queries: Mapping[str, str],
) -> Loss:
    """Compare the database of a session with the manifest of a backup. What cannot be read is in `unknown`."""
    loss = Loss(source, taken_at)
    with session.statement_timeout(ctx.remaining * 0.5):
        try:
            _compare_tables(session, about, loss)
        except TargetError as error:
            loss.unknown.append(f"the tables cannot be read: {error.message}")
            loss.digest = None
        for name, query in queries.items():
            try:
                row = session.one(query, {"since": taken_at})
                loss.counts[name] = str(next(iter(row.values()), None))[:100]
            except TargetError as error:
                loss.unknown.append(f"{name}: {error.message}")
    try:
        if session.one(_SYSTEM)["id"] == about.get("system_identifier"):
            written = int(session.one(_WAL, (str(about["lsn"]),))["bytes"])
            loss.wal_bytes = written if written >= 0 else None
    except (TargetError, KeyError):
        loss.wal_bytes = None  # a standby, or without the right: it is only a bound
    return loss


def _compare_tables(session: Postgres, about: Mapping[str, Any], loss: Loss) -> None:
    wanted: Mapping[str, Mapping[str, Any]] | None = about.get("tables")
    if wanted is None:
        raise TargetError("the manifest of the set has no rows")
    session.rows("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        tables, locked = lock_tables(session)
        found = count_tables(session, tables, about.get("hash"))
        large = bool(session.one(_LARGE_OBJECTS)["found"])
    finally:
        session.rows("ROLLBACK")
    loss.compared = len(found)
    loss.unknown += [f"{name} is locked by a change of it" for name in locked]
    if large:
        loss.unknown.append("large objects are not compared")
    differences, without = differing({name: one for name, one in wanted.items() if name not in locked}, found)
    loss.tables = differences
    loss.rows = sum(
        max(0, table["rows"] - int((wanted.get(name) or {}).get("rows") or 0)) for name, table in found.items()
    )
    if without:
        listed = ", ".join(without[:3])
        loss.unknown.append(f"the content of {len(without)} tables is not in the manifest: {listed}")
    if not locked:
        loss.digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def differing(
    wanted: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, str], list[str]]:
    """The tables that are not as in the backup, with how; and those with equal rows whose content is not known."""
    differences, without = dict[str, str](), list[str]()
    for name, table in found.items():
        before = wanted.get(name)
        if before is None:
            differences[name] = f"new, with {table['rows']} rows"
        elif before.get("rows") is None:
            without.append(name)
        elif table["rows"] != before["rows"]:
            more = table["rows"] - before["rows"]
            differences[name] = f"{more} rows more" if more > 0 else f"{-more} rows fewer"
        elif before.get("hash") is None or table.get("hash") is None:
            without.append(name)
        elif table["hash"] != before["hash"]:
            differences[name] = "the same number of rows with another content"
    differences |= {name: "missing now" for name in wanted if name not in found}
    return differences, without
