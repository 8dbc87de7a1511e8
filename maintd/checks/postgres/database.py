"""Judging what is in a Postgres database: pure functions from facts to criteria."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from maintd.checks.postgres import indexes, relations
from maintd.checks.postgres.indexes import Index
from maintd.clients.postgres import Row
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.units import format_size

STATISTICS_MATURE = timedelta(days=30)
"""A monthly report may be all that an index is for; before that much watching none is called unused."""
NAMED = 5  # of a longer list in a hint


def growth_criteria(now_bytes: int, last_bytes: float | None, most_share: float, least_bytes: int) -> list[Criterion]:
    """Growth since the last run; small databases may double."""
    if last_bytes is None:
        return []
    grown = now_bytes - last_bytes
    limit = max(last_bytes * most_share, least_bytes)
    hint = f"from {format_size(last_bytes)} to {format_size(now_bytes)}: look at the largest relations"
    return [Criterion("growth since the last run", round(grown), warn_above=round(limit), unit="B", hint=hint)]


def counter_criteria(now: relations.Counters, deadlocks: float | None, require_checksums: bool) -> list[Criterion]:
    """Deadlocks since the last run (None: nothing to compare with) and pages that failed their checksum."""
    made = []
    if deadlocks is not None:
        made.append(
            Criterion(
                "deadlocks since the last run",
                round(deadlocks),
                warn_above=0,
                hint="the server's log names the statements: take locks in one order",
            )
        )
    if now.checksum_failures is not None:
        made.append(
            Criterion(
                "pages with a wrong checksum",
                now.checksum_failures,
                at_most=0,
                hint="stop writing, save the disk, restore from a backup; pg_stat_database tells since when",
            )
        )
    if require_checksums:
        made.append(
            Criterion(
                "data checksums",
                "on" if now.checksums else "off",
                equals="on",
                severity=CheckStatus.WARN,
                hint="pg_checksums --enable while the server is stopped",
            )
        )
    return made


def wal_criterion(folder: relations.WalFolder, max_wal_bytes: int) -> Criterion:
    """WAL grows beyond max_wal_size when a slot or a failing archiver keeps it."""
    return Criterion(
        "write-ahead log",
        folder.size_bytes,
        warn_above=max_wal_bytes * 2,
        at_most=max_wal_bytes * 8,
        unit="B",
        hint="look for inactive replication slots and a failing archive_command",
    )


def sequence_criteria(found: Sequence[relations.Sequence]) -> list[Criterion]:
    """The fullest sequence; those that cannot be read are unknown, not empty."""
    fullest = max(found, key=lambda sequence: sequence.used, default=None)
    made = [
        Criterion(
            "fullest sequence",
            round(fullest.used, 4) if fullest else 0.0,
            warn_above=0.75,
            at_most=0.90,
            hint=f"widen the column to bigint: {fullest.label}" if fullest else "",
        )
    ]
    if hidden := [sequence.label for sequence in found if not sequence.readable]:
        made.append(
            Criterion(
                "sequences read",
                unknown=f"{len(hidden)} may not be read: {', '.join(hidden[:NAMED])}",
                hint="GRANT SELECT ON ALL SEQUENCES IN SCHEMA … TO the target's user, or pg_read_all_data",
            )
        )
    return made


def index_criteria(found: Sequence[Index], watched: timedelta | None, least_bytes: int) -> list[Criterion]:
    """Invalid, duplicate and unused indexes. `watched`: how long statistics have been collected, as far as known."""
    broken = indexes.invalid(found)
    pairs = indexes.duplicates(found)
    twice = [f"{spare.label} (as {kept.name}, {format_size(spare.size_bytes)})" for spare, kept in pairs]
    made = [
        _none("invalid indexes", [i.label for i in broken], "a build failed: DROP INDEX CONCURRENTLY, or REINDEX"),
        _none("duplicate indexes", twice, "DROP INDEX CONCURRENTLY"),
    ]
    if watched is not None and watched >= STATISTICS_MATURE:
        idle = [f"{i.label} ({format_size(i.size_bytes)})" for i in indexes.unused(found, least_bytes)]
        made.append(_none("unused indexes", idle, f"no scan in {watched.days} days; check the replicas, then drop"))
    return made


def foreign_key_criterion(found: Sequence[relations.ForeignKey], least_bytes: int) -> Criterion:
    """Foreign keys without an index, on tables where that hurts."""
    large = [f"{key.table_name}.{key.name}" for key in found if key.size_bytes >= least_bytes]
    return _none("foreign keys without an index", large, "CREATE INDEX CONCURRENTLY on its columns")


def collation_criterion(changed: Sequence[Row]) -> Criterion:
    """Another version of the collation library sorts otherwise: indexes on text are wrong until they are rebuilt."""
    told = [f"{row['name']} ({row['recorded']} when built, {row['actual']} now)" for row in changed]
    advice = (
        "REINDEX every index on text, then ALTER COLLATION or DATABASE … REFRESH VERSION; never swap an alpine image "
    )
    hint = f"{advice}for a debian one in place: {', '.join(told[:NAMED])}" if told else ""
    return Criterion("collations of another version", len(told), at_most=0, hint=hint)


def _none(name: str, found: Sequence[str], hint: str) -> Criterion:
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    told = f"{hint}: {', '.join(found[:NAMED])}{more}" if found else ""
    return Criterion(name, len(found), warn_above=0, hint=told)
