"""Indexes and foreign keys of a database reviewed: what is missing, unused, double or covered, each with its size."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta

from maintd.checks.hints import name_first, printable
from maintd.checks.postgres.database import STATISTICS_AGE, ForeignKey
from maintd.checks.postgres.indexes import Index, duplicates
from maintd.checks.postgres.statement_hints import identifier, statement
from maintd.checks.postgres.table_scans import MAX_SHARE, MIN_ROWS, Candidate, ScannedTable
from maintd.clients.postgres import Postgres
from maintd.job.criterion import Criterion
from maintd.units import format_size

RARELY_SCANNED = 50
"""Scans up to which an index counts as unused. Source: PgHero's default."""
_SUPPORTING = """
SELECT DISTINCT i.indexrelid::bigint AS oid
  FROM pg_constraint k JOIN pg_index i ON i.indrelid = k.conrelid
 WHERE k.contype = 'f' AND i.indisvalid AND i.indpred IS NULL
   AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
   AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] <@ k.conkey
"""


def supporting_foreign_keys(session: Postgres) -> set[int]:
    """Oids of the indexes that begin with the columns of a foreign key. Raises TargetError."""
    return {int(row["oid"]) for row in session.rows(_SUPPORTING)}


def rarely_used(found: Sequence[Index], supporting: Collection[int], min_bytes: int) -> list[Index]:
    """Indexes that hardly any query uses and that enforce and support nothing, largest first."""
    kept = [
        index
        for index in found
        if index.scans <= RARELY_SCANNED
        and index.valid
        and index.size_bytes >= min_bytes
        and index.oid not in supporting
        and not (index.is_unique or index.is_exclusion or index.constraint_name or index.is_part or index.temporary)
    ]
    return sorted(kept, key=lambda index: -index.size_bytes)


def covered(found: Sequence[Index]) -> list[tuple[Index, Index]]:
    """Pairs of a B-tree index to drop and another one that begins with the same columns in the same order."""
    keys = {index.oid: key for index in found if (key := _key_columns(index)) is not None}
    pairs = []
    for index in found:
        key = keys.get(index.oid)
        if key is None or len(key) != index.columns or index.is_unique or index.constraint_name or index.is_part:
            continue
        wider = [
            other
            for other in found
            if other.table_oid == index.table_oid
            and other.oid in keys
            and len(keys[other.oid]) > len(key)
            and keys[other.oid][: len(key)] == key
        ]
        if wider:
            pairs.append((index, min(wider, key=lambda other: (len(keys[other.oid]), other.oid))))
    return sorted(pairs, key=lambda pair: -pair[0].size_bytes)


def _key_columns(index: Index) -> list[tuple[str, ...]] | None:
    """Each key column with its operator class, collation and order; None for an index that is not compared.

    From the signature: table, method, columns, classes, collations, options, then expressions and condition.
    """
    parts = index.signature.split("|", 6)
    if not index.valid or index.temporary or len(parts) != 7 or parts[1] != "btree" or parts[6] != "|":
        return None
    columns, classes, collations, options = (part.split() for part in parts[2:6])
    return list(zip(columns[: len(options)], classes, collations, options, strict=True))


def criteria(
    whole: Sequence[ScannedTable],
    advice: Sequence[Candidate],
    keys: Sequence[ForeignKey],
    found: Sequence[Index],
    supporting: Collection[int],
    counted_for: timedelta,
    *,
    min_bytes: int,
) -> list[Criterion]:
    """All about indexes. `counted_for`: the age of the server's statistics of scans."""
    missing = [
        f"{table.quoted} ({format_size(table.size_bytes)}, {table.rows:,} rows, {table.sequential_share or 0:.0%} of "
        f"scans sequential, {table.rows_per_scan:,.0f} rows each)"
        for table in whole
    ]
    change = name_first([one.text for one in advice]) or "find the columns in the queries that read it, with EXPLAIN"
    large = [
        statement(
            f"CREATE INDEX CONCURRENTLY ON {key.quoted_table} ({key.columns});",
            f"{identifier(key.name)}, {format_size(key.size_bytes)}",
        )
        for key in keys
        if key.size_bytes >= min_bytes
    ]
    double = duplicates(found)
    within = covered(found)
    return [
        _none(
            "tables read mostly as a whole",
            [f"{name_first(missing)}: {change}"] if missing else [],
            len(missing),
            "an index is advised",
            f"PgHero: at least {MIN_ROWS:,} rows and more than {MAX_SHARE:.0%} sequential scans; here also "
            f"{format_size(min_bytes)} and {MIN_ROWS:,} rows a scan",
        ),
        _none(
            "foreign keys without an index",
            large,
            len(large),
            "each delete in the referenced table reads this table",
            "PostgreSQL documentation, 5.4.5 Foreign Keys",
        ),
        _unused(rarely_used(found, supporting, min_bytes), counted_for),
        _none(
            "duplicate indexes",
            [_drop(spare, f"{format_size(spare.size_bytes)}, as {kept.quoted}") for spare, kept in double],
            len(double),
            "each write updates both",
            "PostgreSQL documentation, 11.12 Examining Index Usage",
        ),
        _none(
            "indexes covered by another",
            [_drop(spare, f"{format_size(spare.size_bytes)}, {kept.quoted} begins alike") for spare, kept in within],
            len(within),
            "unless a query needs the smaller one",
            "PostgreSQL documentation, 11.3 Multicolumn Indexes",
        ),
    ]


def _unused(idle: Sequence[Index], counted_for: timedelta) -> Criterion:
    days = counted_for.days
    young = f"empty: the server has counted scans for {days} of {STATISTICS_AGE.days} days"
    names = [_drop(index, f"{format_size(index.size_bytes)}, {index.scans} scans") for index in idle]
    return Criterion(
        "unused indexes",
        len(idle),
        warn_above=0,
        unknown=young if counted_for < STATISTICS_AGE else "",
        optional=True,
        hint=printable(f"in {days} days; check the replicas first: {name_first(names)}") if idle else "",
        rule=f"at most {RARELY_SCANNED} scans (PgHero) in {STATISTICS_AGE.days} days; PostgreSQL documentation, 11.12",
    )


def _drop(index: Index, about: str) -> str:
    return statement(f"DROP INDEX CONCURRENTLY {index.quoted};", about)


def _none(name: str, items: Sequence[str], count: int, why: str, rule: str) -> Criterion:
    hint = printable(f"{why}: {name_first(items)}") if items else ""
    return Criterion(name, count, warn_above=0, hint=hint, rule=rule)
