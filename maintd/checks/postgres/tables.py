"""Tables of a Postgres database by catalog and statistics, and their bloat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import NamedTuple

from psycopg import sql

from maintd.checks.postgres.statement_hints import identifier
from maintd.clients.postgres import Postgres
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.job.criterion import Criterion

MEASURE_TIMEOUT = timedelta(minutes=5)  # pgstattuple reads every page that is not all-visible

LOCKED_RELATIONS = """
WITH locked AS (
    SELECT l.relation AS oid FROM pg_locks l
     WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.pid <> pg_backend_pid()
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
), busy AS (
    SELECT oid FROM locked
    UNION SELECT i.indrelid FROM pg_index i JOIN locked ON locked.oid = i.indexrelid
    UNION SELECT i.indexrelid FROM pg_index i JOIN locked ON locked.oid = i.indrelid
)
"""
"""A WITH clause `busy`: relations whose lock would block pg_relation_size; relpages must do for their size."""

PARTITIONS = """partitions(relid) AS (
           SELECT inhrelid FROM pg_inherits WHERE inhparent = {of}
           UNION ALL SELECT i.inhrelid FROM pg_inherits i JOIN partitions p ON i.inhparent = p.relid
       )"""
"""A recursive query of all partitions below `of`. pg_partition_tree would wait for the lock of each of them."""

_TABLES = """
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, pg_get_userbyid(c.relowner) AS owner,
       pg_has_role(c.relowner, 'USAGE') OR pg_has_role(d.datdba, 'USAGE') {maintain} AS permitted,
       c.reltuples AS rows, greatest(c.relpages, 0) * current_setting('block_size')::bigint AS size_bytes,
       coalesce(pg_stat_get_dead_tuples(c.oid), 0) AS dead, coalesce(pg_stat_get_live_tuples(c.oid), 0) AS live,
       coalesce(parts.changed, pg_stat_get_mod_since_analyze(c.oid), 0) AS mods,
       coalesce(pg_stat_get_ins_since_vacuum(c.oid), 0) AS inserts,
       greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid)) AS vacuumed_at,
       greatest(pg_stat_get_last_analyze_time(c.oid), pg_stat_get_last_autoanalyze_time(c.oid)) AS analyzed_at,
       coalesce(greatest(age(nullif(c.relfrozenxid, '0'::xid)), age(nullif(t.relfrozenxid, '0'::xid))), 0) AS xid_age,
       coalesce(greatest(mxid_age(nullif(c.relminmxid, '0'::xid)), mxid_age(nullif(t.relminmxid, '0'::xid))), 0)
           AS mxid_age,
       c.relkind = 'p' AS partitioned,
       coalesce((SELECT jsonb_object_agg(option_name, option_value) FROM pg_options_to_table(c.reloptions)), '{{}}')
           AS options
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_database d ON d.datname = current_database()
  LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
  LEFT JOIN LATERAL (
       WITH RECURSIVE {partitions}
       SELECT coalesce(sum(pg_stat_get_mod_since_analyze(leaf.relid)
              + CASE WHEN pg_stat_get_last_analyze_time(c.oid) IS NULL
                       OR greatest(pg_stat_get_last_analyze_time(leaf.relid),
                                   pg_stat_get_last_autoanalyze_time(leaf.relid))
                          > pg_stat_get_last_analyze_time(c.oid) + interval '1 hour'
                     THEN pg_stat_get_live_tuples(leaf.relid) ELSE 0 END), 0)::bigint AS changed
         FROM partitions leaf JOIN pg_class k ON k.oid = leaf.relid AND k.relkind <> 'p'
       ) parts ON c.relkind = 'p'
 WHERE (c.relkind IN ('r', 'm') OR {parents} AND c.relkind = 'p' AND NOT c.relispartition) AND c.relpersistence <> 't'
   AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
   AND (%(oid)s::oid IS NULL OR c.oid = %(oid)s::oid)
 ORDER BY c.oid
"""
# Temporary tables belong to another session and are not listed. Autovacuum never analyzes a partitioned table, and the
# server counts no changes of it: they are its partitions' changes, and all rows of a partition that was analyzed later.
# Up to Postgres 13 the server does not record when it was analyzed either, so it is not listed there.
# The view pg_stat_all_tables groups all tables by all their indexes each time that it is asked for one.
# The size is that of the last VACUUM or ANALYZE: pg_relation_size would wait for a lock.

_ESTIMATE = """
SELECT sum((1 - s.null_frac) * s.avg_width) AS width, max(s.null_frac) AS nulls, count(*) AS columns
  FROM pg_stats s WHERE s.schemaname = %(schema)s AND s.tablename = %(name)s AND NOT s.inherited
"""


@dataclass(frozen=True)
class Table:
    """A table that can be vacuumed. Its ages are the larger of its own and its TOAST table's."""

    oid: int
    schema: str
    name: str
    owner: str
    permitted: bool  # this session may vacuum it
    rows: float  # estimate of the last VACUUM or ANALYZE; below 0: never counted
    size_bytes: int  # of the heap, at the last VACUUM or ANALYZE
    dead: int
    live: int
    mods: int  # since the last analyze
    inserts: int  # since the last vacuum
    vacuumed_at: datetime | None
    analyzed_at: datetime | None
    xid_age: int
    mxid_age: int
    partitioned: bool = False  # has no rows of its own; ANALYZE collects the statistics of all its partitions
    options: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def label(self) -> str:
        """Its name in checks and reports."""
        return f"{self.schema}.{self.name}"

    @property
    def identifier(self) -> sql.Identifier:
        """Its quoted name for a statement."""
        return sql.Identifier(self.schema, self.name)

    @property
    def quoted(self) -> str:
        """Its quoted name as text, for a hint."""
        return identifier(self.schema, self.name)

    @property
    def dead_share(self) -> float:
        """Dead rows of all rows, 0 to 1."""
        return self.dead / max(self.dead + max(self.live, self.rows), 1)


def tables(session: Postgres, oid: int | None = None) -> list[Table]:
    """All tables and materialized views of user schemas, or only that of `oid`. Raises TargetError."""
    maintain = "OR has_table_privilege(c.oid, 'MAINTAIN')" if session.version >= 17 else ""
    parents = str(session.version >= 14).lower()
    query = _TABLES.format(maintain=maintain, parents=parents, partitions=PARTITIONS.format(of="c.oid"))
    return [Table(**row) for row in session.rows(query, {"oid": oid})]


def selected(found: Sequence[Table], include: Sequence[str], exclude: Sequence[str]) -> list[Table]:
    """The tables whose name or `schema.name` matches a pattern of `include` and none of `exclude`."""

    def matches(table: Table, patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for name in (table.label, table.name) for pattern in patterns)

    return [table for table in found if matches(table, include) and not matches(table, exclude)]


class Bloat(NamedTuple):
    """The free space within a table's file."""

    size_bytes: int
    free_bytes: int
    source: str  # pgstattuple or estimate

    @property
    def share(self) -> float:
        """Free bytes of all bytes, 0 to 1."""
        return self.free_bytes / max(self.size_bytes, 1)

    @property
    def excessive(self) -> bool:
        """At least half and 10 MB, or a quarter and 1 GB. Source: pgexperts' bloat queries."""
        return (self.share >= 0.5 and self.free_bytes >= 10_000_000) or (
            self.share >= 0.25 and self.free_bytes >= 1_000_000_000
        )


def bloat(session: Postgres, table: Table) -> Bloat | None:
    """Measured by pgstattuple where this session may call it, else estimated from statistics; None without either."""
    schema = session.extension_schema("pgstattuple")
    if schema is not None and session.can_execute(schema, "pgstattuple_approx(regclass)"):
        query = sql.SQL("SELECT table_len, approx_free_space FROM {}(%s::oid::regclass)").format(
            sql.Identifier(schema, "pgstattuple_approx")
        )
        row = session.one(query, (table.oid,))
        return Bloat(row["table_len"], round(row["approx_free_space"]), "pgstattuple")
    row = session.one(_ESTIMATE, {"schema": table.schema, "name": table.name})
    if not row["columns"] or table.rows < 0:
        return None
    # A row has a line pointer of 4 bytes, a header of 23 and a bitmap when it has NULLs, aligned to 8 bytes.
    header = 24 + (row["columns"] / 8 if row["nulls"] else 0)
    fill = float(table.options.get("fillfactor", 100)) / 100
    needed = table.rows * (4 + -(-(header + row["width"]) // 8) * 8) / fill
    return Bloat(table.size_bytes, max(0, table.size_bytes - round(needed)), "estimate")


def bloat_criterion(table: Table, bloat: Bloat) -> Criterion:
    """The empty space that VACUUM has freed within the file; only a rebuild returns it to the file system."""
    return Criterion(
        f"empty space in {table.label}",
        bloat.free_bytes if bloat.excessive else 0,
        warn_above=0,
        unit="B",
        hint=f"{bloat.source}: {bloat.share:.0%} empty; rebuild it with pg_repack in a maintenance window",
    )


def report_bloat(ctx: Context, session: Postgres, table: Table) -> None:
    """Measure a table's bloat and report it."""
    name = f"{session.name}: empty space in {table.label}"
    hint = "CREATE EXTENSION pgstattuple, or GRANT pg_read_all_data TO the target's user"
    try:
        with session.statement_timeout(min(MEASURE_TIMEOUT, ctx.remaining * 0.5)):
            found = bloat(session, table)
    except TargetError as error:
        ctx.unknown(name, error.message, hint=error.hint or hint)
        return
    if found is None:
        ctx.unknown(name, "neither pgstattuple nor the table's statistics can be read", hint=hint)
        return
    ctx.measure("pg_table_free_ratio", found.share, target=session.name, table=table.label, source=found.source)
    ctx.report([bloat_criterion(table, found)], session.name)
