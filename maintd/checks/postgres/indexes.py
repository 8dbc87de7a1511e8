"""Indexes of a Postgres database: which are invalid, redundant or unused, and how full their pages are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from psycopg import sql

from maintd.checks.postgres.statement_hints import identifier
from maintd.checks.postgres.tables import LOCKED_RELATIONS
from maintd.clients.postgres import Postgres

# pg_relation_size and pg_get_expr take a lock: a locked table's indexes have only what the catalog stores.
_INDEXES = """
SELECT i.indexrelid::bigint AS oid, i.indrelid::bigint AS table_oid, n.nspname AS schema, c.relname AS name,
       t.relname AS table_name, pg_get_userbyid(t.relowner) AS owner, m.amname AS method,
       CASE WHEN b.oid IS NULL THEN coalesce(pg_relation_size(i.indexrelid), 0)
            ELSE c.relpages * current_setting('block_size')::bigint END AS size_bytes,
       c.reltuples AS rows, i.indisvalid AS valid, i.indisunique AS is_unique, i.indisprimary AS is_primary,
       i.indisexclusion AS is_exclusion, c.relispartition AS is_part, c.relpersistence = 't' AS temporary,
       i.indnatts::int AS columns,
       k.conname AS constraint_name,
       CASE WHEN b.oid IS NULL THEN pg_get_indexdef(i.indexrelid) ELSE 'not readable while locked' END AS definition,
       coalesce(pg_stat_get_numscans(i.indexrelid), 0) AS scans,
       CASE WHEN b.oid IS NOT NULL THEN 'locked ' || i.indexrelid ELSE
       concat_ws('|', i.indrelid, m.amname, i.indkey::text, i.indclass::text, i.indcollation::text, i.indoption::text,
                 coalesce(pg_get_expr(i.indexprs, i.indrelid), ''), coalesce(pg_get_expr(i.indpred, i.indrelid), ''))
       END AS signature,
       i.indrelid IN (SELECT relid FROM pg_stat_progress_create_index) AS building,
       pg_has_role(t.relowner, 'USAGE') AS permitted, obj_description(i.indexrelid, 'pg_class') AS comment,
       coalesce((SELECT option_value::int FROM pg_options_to_table(c.reloptions) WHERE option_name = 'fillfactor'), 90)
           AS fillfactor
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i'
  JOIN pg_class t ON t.oid = i.indrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_am m ON m.oid = c.relam
  LEFT JOIN (SELECT conindid, min(conname) AS conname FROM pg_constraint WHERE contype IN ('p', 'u', 'x')
              GROUP BY conindid) k ON k.conindid = i.indexrelid  -- no index of the catalog is on conindid
  LEFT JOIN busy b ON b.oid = i.indexrelid
 WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
 ORDER BY i.indexrelid
"""

# The width of an entry's columns; statistics of expressions are stored under the index's own name.
_WIDTH = """
SELECT sum(coalesce(e.avg_width, s.avg_width)) AS width, count(coalesce(e.avg_width, s.avg_width)) AS known
  FROM pg_attribute a
  JOIN pg_index i ON i.indexrelid = a.attrelid
  LEFT JOIN pg_attribute b ON b.attrelid = i.indrelid AND b.attnum = i.indkey[a.attnum - 1] AND b.attnum > 0
  LEFT JOIN pg_stats s ON s.schemaname = %(schema)s AND s.tablename = %(table)s AND s.attname = b.attname
                      AND NOT s.inherited
  LEFT JOIN pg_stats e ON e.schemaname = %(schema)s AND e.tablename = %(name)s AND e.attname = a.attname
 WHERE a.attrelid = %(oid)s::oid AND a.attnum > 0
"""

_REBUILD_NAME = re.compile(r"(?P<stem>.+)_(?P<label>cc(?:new|old)\d*)", re.DOTALL)
_NAME_BYTES = 63


@dataclass(frozen=True)
class Index:
    """An index by catalog and statistics."""

    oid: int
    table_oid: int
    schema: str
    name: str
    table_name: str
    owner: str
    method: str
    size_bytes: int
    rows: float
    valid: bool
    is_unique: bool
    is_primary: bool
    is_exclusion: bool
    is_part: bool  # belongs to an index of a partitioned table
    temporary: bool
    columns: int
    constraint_name: str | None
    definition: str
    scans: int
    signature: str  # equal for duplicates
    building: bool  # an index of this table is being built
    permitted: bool  # this session may rebuild and drop it
    comment: str | None
    fillfactor: int

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


class Density(NamedTuple):
    """How full the leaf pages are in percent, 90 after a rebuild. `measured` by reading the index, or estimated."""

    percent: float
    measured: bool


def indexes(session: Postgres) -> list[Index]:
    """All indexes in user schemas. Raises TargetError."""
    return [Index(**row) for row in session.rows(LOCKED_RELATIONS + _INDEXES)]


def invalid(indexes: Sequence[Index]) -> list[Index]:
    """Indexes that a failed build has left: no query uses them, but every write updates them."""
    return [index for index in indexes if not index.valid and not index.building and not index.temporary]


def duplicates(indexes: Sequence[Index]) -> list[tuple[Index, Index]]:
    """Pairs of an index to drop and its equal to keep: a constraint's before a plain one, then the older."""
    usable = sorted((i for i in indexes if i.valid and not i.is_part and not i.temporary), key=lambda i: i.signature)
    pairs = []
    for _, group in groupby(usable, key=lambda index: index.signature):
        first, *others = sorted(group, key=lambda i: (i.constraint_name is None, not i.is_unique, i.oid))
        pairs += [(other, first) for other in others if other.constraint_name is None]
    return pairs


def unused(indexes: Sequence[Index], min_bytes: int) -> list[Index]:
    """Indexes without a scan in the statistics that enforce no constraint."""
    return [
        index
        for index in indexes
        if index.scans == 0
        and index.valid
        and index.size_bytes >= min_bytes
        and not (index.is_unique or index.is_exclusion or index.constraint_name or index.is_part or index.temporary)
    ]


def is_leftover_of(name: str, base: str) -> bool:
    """Whether this is the name of a temporary index of REINDEX CONCURRENTLY on `base`: `…_ccnew`, `…_ccold1`.

    The server cuts a long base so that the name fits into 63 bytes (makeObjectName).
    """
    match = _REBUILD_NAME.fullmatch(name)
    if match is None:
        return False
    room = _NAME_BYTES - 1 - len(match["label"])
    return match["stem"] == base.encode()[:room].decode(errors="ignore")


def density(session: Postgres, index: Index) -> Density | None:
    """Measured by pgstatindex where this session may call it (it reads the whole index), else estimated; None: neither.

    Raises TargetError.
    """
    schema = session.extension_schema("pgstattuple")
    if schema is not None and session.can_execute(schema, "pgstatindex(regclass)"):
        query = sql.SQL("SELECT avg_leaf_density AS leaf FROM {}(%s::oid::regclass)").format(
            sql.Identifier(schema, "pgstatindex")
        )
        leaf = float(session.one(query, (index.oid,))["leaf"])
        return Density(leaf, measured=True) if leaf == leaf else None  # NaN: it has no leaf pages
    row = session.one(_WIDTH, {"schema": index.schema, "table": index.table_name, "name": index.name, "oid": index.oid})
    if index.rows <= 0 or row["known"] < index.columns:
        return None
    # An entry has a line pointer of 4 bytes, a header of 8 and the columns, aligned to 8 bytes. Postgres 13 and later
    # store equal keys once, so the estimate is too high for an index with many of them.
    entry = 4 + -(-(8 + float(row["width"])) // 8) * 8
    return Density(min(100.0, 100 * index.rows * entry / max(index.size_bytes - 8192, 1)), measured=False)
