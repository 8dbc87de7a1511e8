"""What is in a Postgres database: how large each relation is, sequences, foreign keys, collations, counters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from maintd.checks.postgres.tables import BUSY
from maintd.clients.postgres import Postgres, Row

# By oid: a name put together from schema and table is wrong for upper case and quotes.
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

# An int4 column ends long before its bigint sequence does.
_SEQUENCES = """
SELECT n.nspname AS schema, c.relname AS name, s.seqincrement AS step, s.seqmin AS least, s.seqmax AS most,
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
            WHEN t.relkind = 'p' THEN (SELECT coalesce(sum(pg_relation_size(relid)), 0) FROM pg_partition_tree(t.oid))
            ELSE pg_relation_size(t.oid) END::bigint AS size_bytes
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

_COLUMN_MOST = {"smallint": 2**15 - 1, "integer": 2**31 - 1}


class Relation(NamedTuple):
    """A table or materialized view with its parts, in bytes. The heap has its maps in `total_bytes` only."""

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
        """Belongs to Postgres itself."""
        return self.schema in ("pg_catalog", "information_schema")

    @property
    def label(self) -> str:
        """How it is called in reports."""
        return f"{self.schema}.{self.name}"


class Counters(NamedTuple):
    """The database as a whole; counters since `stats_reset`."""

    size_bytes: int
    deadlocks: int
    temp_bytes: int
    temp_files: int
    checksum_failures: int | None  # None: there are no checksums
    blks_hit: int
    blks_read: int
    stats_reset: datetime | None
    now: datetime
    checksums: bool
    max_wal_bytes: int
    standby: bool


@dataclass(frozen=True)
class Sequence:
    """A sequence and the column that it feeds."""

    schema: str
    name: str
    step: int
    least: int
    most: int
    cycles: bool
    column_type: str | None
    readable: bool
    last: int | None  # None: never used, or not readable

    @property
    def label(self) -> str:
        """How it is called in reports, with its column's type."""
        return f"{self.schema}.{self.name}" + (f" ({self.column_type})" if self.column_type else "")

    @property
    def used(self) -> float:
        """The share of its values that is gone, 0 to 1; of the column's values where that is fewer."""
        if self.last is None or self.cycles:
            return 0.0
        most = min(self.most, _COLUMN_MOST.get(self.column_type or "", self.most))
        if self.step < 0:
            return (most - self.last + 1) / (most - self.least + 1)
        return (self.last - self.least + 1) / (most - self.least + 1)


class ForeignKey(NamedTuple):
    """A foreign key without an index on its own side: each delete on the other side reads this whole table."""

    table_name: str
    name: str
    size_bytes: int


class WalFolder(NamedTuple):
    """The server's folder of write-ahead log."""

    files: int
    size_bytes: int


def relations(session: Postgres) -> list[Relation]:
    """Every table and materialized view, the largest first. Raises TargetError."""
    return [Relation(**row) for row in session.rows(BUSY + _RELATIONS)]


def counters(session: Postgres) -> Counters:
    """The database's size and counters. Raises TargetError."""
    return Counters(**session.one(_DATABASE))


def sequences(session: Postgres) -> list[Sequence]:
    """Every sequence that is not temporary. Raises TargetError."""
    return [Sequence(**row) for row in session.rows(_SEQUENCES)]


def unindexed_foreign_keys(session: Postgres) -> list[ForeignKey]:
    """Foreign keys that no index begins with, on the largest table first. Raises TargetError."""
    return [ForeignKey(**row) for row in session.rows(BUSY + _FOREIGN_KEYS)]


def changed_collations(session: Postgres) -> list[Row]:
    """Collations in use whose library has another version than the indexes were built with: `name`, `recorded`,
    `actual`. Raises TargetError."""
    return session.rows(_COLLATIONS) + (session.rows(_DATABASE_COLLATION) if session.version >= 15 else [])


def wal_folder(session: Postgres) -> WalFolder:
    """Needs pg_monitor. Raises TargetError."""
    return WalFolder(
        **session.one("SELECT count(*) AS files, coalesce(sum(size), 0)::bigint AS size_bytes FROM pg_ls_waldir()")
    )


def since(now: float, last: float | None) -> float | None:
    """What a counter has counted since it stood at `last`; it may have begun anew. None: nothing to compare with."""
    if last is None:
        return None
    return now - last if now >= last else now
