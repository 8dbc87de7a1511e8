"""Contents of a Postgres database: sizes of relations, sequences, foreign keys, collations, counters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from maintd.checks.postgres.indexes import Index, duplicates, invalid, unused
from maintd.checks.postgres.tables import LOCKED_RELATIONS, PARTITIONS
from maintd.clients.postgres import Postgres, Row
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.units import format_size

STATISTICS_AGE = timedelta(days=30)
"""How long scans must have been counted before an index is reported as unused; a monthly report may need it."""
NAMED = 5  # items of a longer list in a hint

# By oid: a name composed of schema and table is wrong for upper case and quotes.
_RELATIONS = """, sizes AS (
    SELECT c.oid, pg_relation_size(c.oid) AS heap, pg_indexes_size(c.oid) AS indexes,
           pg_total_relation_size(nullif(c.reltoastrelid, 0)) AS toast, pg_total_relation_size(c.oid) AS total
      FROM pg_class c
     WHERE c.relkind IN ('r', 'm') AND c.oid NOT IN (SELECT oid FROM busy)
)
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,
       coalesce(s.heap, c.relpages * p.bytes) AS heap_bytes, coalesce(s.indexes, k.pages * p.bytes, 0) AS index_bytes,
       coalesce(s.toast, t.relpages * p.bytes, 0) AS toast_bytes,
       coalesce(s.total, (c.relpages + coalesce(k.pages, 0) + coalesce(t.relpages, 0)) * p.bytes) AS total_bytes,
       greatest(c.reltuples, 0) AS rows
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  CROSS JOIN (SELECT current_setting('block_size')::bigint AS bytes) p
  LEFT JOIN sizes s ON s.oid = c.oid
  LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
  LEFT JOIN LATERAL (SELECT sum(x.relpages)::bigint AS pages FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                      WHERE i.indrelid = c.oid) k ON s.oid IS NULL
 WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_toast'
 ORDER BY total_bytes DESC, c.oid
"""

_DATABASE = """
SELECT pg_database_size(d.oid) AS size_bytes, s.deadlocks, s.temp_bytes, s.temp_files, s.checksum_failures,
       s.blks_hit, s.blks_read, s.stats_reset, clock_timestamp() AS now,
       current_setting('data_checksums') = 'on' AS checksums,
       pg_size_bytes(current_setting('max_wal_size')) AS max_wal_bytes,
       pg_is_in_recovery() AS standby
  FROM pg_database d JOIN pg_stat_database s ON s.datid = d.oid WHERE d.datname = current_database()
"""

# The type of the column may end long before the sequence does.
_SEQUENCES = """
SELECT n.nspname AS schema, c.relname AS name, s.seqincrement AS step, s.seqmin AS min_value, s.seqmax AS max_value,
       s.seqcycle AS cycles, a.atttypid::regtype::text AS column_type,
       has_sequence_privilege(c.oid, 'USAGE,SELECT') AS readable,
       CASE WHEN has_sequence_privilege(c.oid, 'USAGE,SELECT') THEN pg_sequence_last_value(c.oid::regclass) END AS last
  FROM pg_sequence s
  JOIN pg_class c ON c.oid = s.seqrelid AND c.relpersistence <> 't'
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
                       AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
  LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
"""

_FOREIGN_KEYS = """
SELECT n.nspname || '.' || t.relname AS table_name, k.conname AS name,
       CASE WHEN t.oid IN (SELECT oid FROM busy) THEN t.relpages * current_setting('block_size')::bigint
            WHEN t.relkind = 'p' THEN (
                WITH RECURSIVE {partitions}
                SELECT coalesce(sum(CASE WHEN b.oid IS NULL THEN pg_relation_size(k.oid)
                                         ELSE k.relpages * current_setting('block_size')::bigint END), 0)
                  FROM partitions p JOIN pg_class k ON k.oid = p.relid AND k.relkind <> 'p'
                  LEFT JOIN busy b ON b.oid = k.oid)
            ELSE pg_relation_size(t.oid) END::bigint AS size_bytes,
       quote_ident(n.nspname) || '.' || quote_ident(t.relname) AS quoted_table,
       (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.place)
          FROM unnest(k.conkey) WITH ORDINALITY u(number, place)
          JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number) AS columns
  FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
 WHERE k.contype = 'f' AND k.conparentid = 0
   AND NOT EXISTS (SELECT 1 FROM pg_index i
                    WHERE i.indrelid = k.conrelid AND i.indisvalid AND i.indpred IS NULL
                      AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
                      AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] <@ k.conkey)
 ORDER BY 3 DESC
"""

_COLLATIONS = """
SELECT c.collname AS name, c.collversion AS recorded, pg_collation_actual_version(c.oid) AS actual
  FROM pg_collation c
 WHERE c.collversion IS NOT NULL AND c.collversion IS DISTINCT FROM pg_collation_actual_version(c.oid)
   AND EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attcollation = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
"""
_DATABASE_COLLATION = """
SELECT 'the database''s default' AS name, datcollversion AS recorded,
       pg_database_collation_actual_version(oid) AS actual
  FROM pg_database
 WHERE datname = current_database() AND datcollversion IS NOT NULL
   AND datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid)
"""

_COLUMN_MAX = {"smallint": 2**15 - 1, "integer": 2**31 - 1}


class Relation(NamedTuple):
    """A table or materialized view. `total_bytes` has the free space and visibility maps, too."""

    oid: int
    schema: str
    name: str
    kind: str
    heap_bytes: int
    index_bytes: int
    toast_bytes: int
    total_bytes: int
    rows: float

    @property
    def of_catalog(self) -> bool:
        """Whether it belongs to Postgres itself."""
        return self.schema in ("pg_catalog", "information_schema")

    @property
    def label(self) -> str:
        """Its name in checks and reports."""
        return f"{self.schema}.{self.name}"


class Counters(NamedTuple):
    """Size and counters of the whole database; the server counts since `stats_reset`."""

    size_bytes: int
    deadlocks: int
    temp_bytes: int
    temp_files: int
    checksum_failures: int | None  # None: data checksums are off
    blks_hit: int
    blks_read: int
    stats_reset: datetime | None
    now: datetime
    checksums: bool
    max_wal_bytes: int
    standby: bool


@dataclass(frozen=True)
class Sequence:
    """A sequence and the type of the column that owns it."""

    schema: str
    name: str
    step: int
    min_value: int
    max_value: int
    cycles: bool
    column_type: str | None
    readable: bool
    last: int | None  # None: never used, or not readable

    @property
    def label(self) -> str:
        """Its name in checks and reports, with its column's type."""
        return f"{self.schema}.{self.name}" + (f" ({self.column_type})" if self.column_type else "")

    @property
    def used(self) -> float:
        """The share of its values that is used up, 0 to 1; of the column type's values where those are fewer."""
        if self.last is None or self.cycles:
            return 0.0
        maximum = min(self.max_value, _COLUMN_MAX.get(self.column_type or "", self.max_value))
        if self.step < 0:
            return (maximum - self.last + 1) / (maximum - self.min_value + 1)
        return (self.last - self.min_value + 1) / (maximum - self.min_value + 1)


class ForeignKey(NamedTuple):
    """A foreign key without an index: each delete in the referenced table scans this table."""

    table_name: str
    name: str
    size_bytes: int
    quoted_table: str
    columns: str  # quoted, separated by commas


class WalFolder(NamedTuple):
    """The server's pg_wal."""

    files: int
    size_bytes: int


def relations(session: Postgres) -> list[Relation]:
    """All tables and materialized views, largest first. Raises TargetError."""
    return [Relation(**row) for row in session.rows(LOCKED_RELATIONS + _RELATIONS)]


def counters(session: Postgres) -> Counters:
    """The database's size and counters. Raises TargetError."""
    return Counters(**session.one(_DATABASE))


def sequences(session: Postgres) -> list[Sequence]:
    """All sequences but temporary ones. Raises TargetError."""
    return [Sequence(**row) for row in session.rows(_SEQUENCES)]


def unindexed_foreign_keys(session: Postgres) -> list[ForeignKey]:
    """Foreign keys that are not the first columns of any index, largest table first. Raises TargetError."""
    query = _FOREIGN_KEYS.format(partitions=PARTITIONS.format(of="t.oid"))
    return [ForeignKey(**row) for row in session.rows(LOCKED_RELATIONS + query)]


def changed_collations(session: Postgres) -> list[Row]:
    """Collations in use with a changed version: `name`, `recorded`, `actual`. Raises TargetError."""
    return session.rows(_COLLATIONS) + (session.rows(_DATABASE_COLLATION) if session.version >= 15 else [])


def wal_folder(session: Postgres) -> WalFolder:
    """Number and size of the WAL files. Needs pg_monitor. Raises TargetError."""
    return WalFolder(
        **session.one("SELECT count(*) AS files, coalesce(sum(size), 0)::bigint AS size_bytes FROM pg_ls_waldir()")
    )


def growth_criteria(now_bytes: int, last_bytes: float | None, max_share: float, floor_bytes: int) -> list[Criterion]:
    """Growth since the last run: at most `max_share` of the size then, or `floor_bytes` for small databases."""
    if last_bytes is None:
        return []
    grown = now_bytes - last_bytes
    limit = max(last_bytes * max_share, floor_bytes)
    hint = f"from {format_size(last_bytes)} to {format_size(now_bytes)}: see the largest relations in the artifact"
    return [Criterion("growth since the last run", round(grown), warn_above=round(limit), unit="B", hint=hint)]


def counter_criteria(now: Counters, deadlocks: int | None, *, require_checksums: bool) -> list[Criterion]:
    """Deadlocks since the last run (None: there is none), and data checksums."""
    criteria = []
    if deadlocks is not None:
        criteria.append(
            Criterion(
                "deadlocks since the last run",
                deadlocks,
                warn_above=0,
                hint="find the statements in the server's log, and take locks in the same order",
            )
        )
    if now.checksum_failures is not None:
        criteria.append(checksum_criterion("pages with a wrong checksum", now.checksum_failures))
    if require_checksums:
        criteria.append(
            Criterion(
                "data checksums",
                "on" if now.checksums else "off",
                equals="on",
                severity=CheckStatus.WARN,
                hint="pg_checksums --enable while the server is stopped",
            )
        )
    return criteria


def checksum_criterion(name: str, failures: int) -> Criterion:
    """Pages that failed their checksum: all of pg_stat_database, or those since the last run."""
    return Criterion(
        name,
        failures,
        equals=0,
        hint="pages are damaged: stop writing, copy the disk, restore from a backup; the server's log has the files",
    )


def wal_criterion(folder: WalFolder, max_wal_bytes: int) -> Criterion:
    """The size of pg_wal, which exceeds max_wal_size when a slot or a failing archiver retains WAL."""
    return Criterion(
        "write-ahead log",
        folder.size_bytes,
        warn_above=max_wal_bytes * 2,
        at_most=max_wal_bytes * 8,
        unit="B",
        hint="find inactive replication slots, or a failing archive_command",
    )


def sequence_criteria(sequences: list[Sequence]) -> list[Criterion]:
    """The fullest sequence; sequences that this user cannot read are unknown."""
    fullest = max(sequences, key=lambda sequence: sequence.used, default=None)
    criteria = [
        Criterion(
            "fullest sequence",
            round(fullest.used, 4) if fullest else 0.0,
            warn_above=0.75,
            at_most=0.90,
            hint=f"widen the column to bigint: {fullest.label}" if fullest else "",
        )
    ]
    if hidden := [sequence.label for sequence in sequences if not sequence.readable]:
        criteria.append(
            Criterion(
                "sequences read",
                unknown=f"{len(hidden)} cannot be read: {', '.join(hidden[:NAMED])}",
                hint="GRANT SELECT ON ALL SEQUENCES IN SCHEMA … TO the target's user, or pg_read_all_data",
            )
        )
    return criteria


def index_criteria(indexes: list[Index], counted_for: timedelta | None, min_bytes: int) -> list[Criterion]:
    """Invalid, duplicate and unused indexes. `counted_for`: age of the statistics of scans, None when unknown."""
    pairs = [f"{spare.label} (as {kept.name}, {format_size(spare.size_bytes)})" for spare, kept in duplicates(indexes)]
    criteria = [
        invalid_criterion(indexes),
        _none("duplicate indexes", pairs, "DROP INDEX CONCURRENTLY"),
    ]
    if counted_for is not None and counted_for >= STATISTICS_AGE:
        idle = [f"{index.label} ({format_size(index.size_bytes)})" for index in unused(indexes, min_bytes)]
        hint = f"no scan in {counted_for.days} days; check the replicas, then drop"
        criteria.append(_none("unused indexes", idle, hint))
    return criteria


def invalid_criterion(indexes: list[Index]) -> Criterion:
    """Indexes that a failed build has left."""
    labels = [index.label for index in invalid(indexes)]
    return _none("invalid indexes", labels, "a build failed: DROP INDEX CONCURRENTLY, or REINDEX each")


def foreign_key_criterion(keys: list[ForeignKey], min_bytes: int) -> Criterion:
    """Foreign keys without an index, on tables of at least `min_bytes`."""
    large = [f"{key.table_name}.{key.name}" for key in keys if key.size_bytes >= min_bytes]
    return _none("foreign keys without an index", large, "CREATE INDEX CONCURRENTLY on its columns")


def collation_criterion(changed: list[Row]) -> Criterion:
    """Collations with a changed version: they may sort differently, and indexes on text are wrong until rebuilt."""
    names = [f"{row['name']} ({row['recorded']} when built, {row['actual']} now)" for row in changed]
    hint = (
        "REINDEX every index on text, then ALTER COLLATION or DATABASE … REFRESH VERSION; "
        f"never replace an alpine image with a debian one in place: {', '.join(names[:NAMED])}"
    )
    return Criterion("collations of another version", len(names), at_most=0, hint=hint if names else "")


def _none(name: str, labels: list[str], hint: str) -> Criterion:
    """None is expected; the hint names the first few."""
    more = f" and {len(labels) - NAMED} more" if len(labels) > NAMED else ""
    return Criterion(
        name, len(labels), warn_above=0, hint=f"{hint}: {', '.join(labels[:NAMED])}{more}" if labels else ""
    )
