"""Tables that are read mostly as a whole, and the columns by which their queries would use an index.

Advice only: no index is created. Where HypoPG is installed, the planner estimates each candidate with an index that
exists in this session only; the statement is planned, never executed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from psycopg import sql

from maintd.checks.postgres.statement_hints import identifier
from maintd.checks.postgres.statement_history import Executed
from maintd.checks.postgres.tables import LOCKED_RELATIONS
from maintd.clients.postgres import Postgres
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.units import format_size

MIN_BYTES = 10 * 1024 * 1024
MIN_ROWS = 10_000
MAX_SHARE = 0.05
"""Source: PgHero reports tables of at least 10,000 rows whose scans use an index in less than 95 %."""
MIN_SCANS = 100
"""Fewer sequential scans are backups and reports, which read all rows on purpose."""
_MAX_TABLES, _MAX_STATEMENTS, _MAX_CANDIDATES = 10, 20, 6
_MIN_COST, _MIN_SAVING = 100.0, 0.5  # Source: dexter's defaults for advising an index
_PARAMETER = re.compile(r"\$(\d+)")

_TABLES = """
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name,
       CASE WHEN b.oid IS NULL THEN coalesce(pg_relation_size(c.oid), 0)
            ELSE greatest(c.relpages, 0) * current_setting('block_size')::bigint END AS size_bytes,
       greatest(pg_stat_get_live_tuples(c.oid), c.reltuples::bigint, 0)::bigint AS rows,
       coalesce(pg_stat_get_numscans(c.oid), 0) AS seq_scans,
       coalesce(pg_stat_get_tuples_returned(c.oid), 0) AS seq_rows,
       coalesce((SELECT sum(pg_stat_get_numscans(i.indexrelid)) FROM pg_index i WHERE i.indrelid = c.oid), 0)::bigint
           AS index_scans
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN busy b ON b.oid = c.oid
 WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND n.nspname <> 'information_schema'
   AND n.nspname !~ '^pg_'
 ORDER BY size_bytes DESC, c.oid
"""


class ScannedTable(NamedTuple):
    """A table and how often it was read, since the server's statistics were reset."""

    oid: int
    schema: str
    name: str
    size_bytes: int
    rows: int
    seq_scans: int
    seq_rows: int
    index_scans: int

    @property
    def label(self) -> str:
        """Its name in checks and reports."""
        return f"{self.schema}.{self.name}"

    @property
    def quoted(self) -> str:
        """Its quoted name as text, for a hint."""
        return identifier(self.schema, self.name)

    @property
    def sequential_share(self) -> float | None:
        """Sequential scans of all scans, 0 to 1; None without any."""
        total = self.seq_scans + self.index_scans
        return self.seq_scans / total if total else None

    @property
    def rows_per_scan(self) -> float:
        """Rows that a sequential scan has read on average."""
        return self.seq_rows / self.seq_scans if self.seq_scans else 0.0


@dataclass(frozen=True)
class Candidate:
    """An index that would serve a statement. `cost`: planned, without and with it; None without HypoPG."""

    table: ScannedTable
    columns: tuple[str, ...]
    statement: Executed
    cost: tuple[float, float] | None = None
    size_bytes: int | None = None

    @property
    def statement_text(self) -> str:
        """The SQL to create it."""
        names = ", ".join(identifier(column) for column in self.columns)
        return f"CREATE INDEX CONCURRENTLY ON {self.table.quoted} ({names});"

    @property
    def saving(self) -> float | None:
        """The share of the planned cost that it saves, 0 to 1; None: not estimated."""
        return None if self.cost is None else 1 - self.cost[1] / self.cost[0]

    @property
    def text(self) -> str:
        """The SQL, with the estimate."""
        if self.cost is None or self.saving is None:
            return f"{self.statement_text} (gain not estimated)"
        size = f", size about {format_size(self.size_bytes)}" if self.size_bytes else ""
        return (
            f"{self.statement_text} (planned cost of query {self.statement.statement.query_id}: "
            f"{self.cost[0]:,.0f} → {self.cost[1]:,.0f}, −{self.saving:.0%}{size})"
        )


def scanned_tables(session: Postgres) -> list[ScannedTable]:
    """All tables and materialized views of user schemas, largest first. Raises TargetError."""
    return [ScannedTable(**row) for row in session.rows(LOCKED_RELATIONS + _TABLES)]


def read_as_a_whole(tables: Sequence[ScannedTable], min_bytes: int) -> list[ScannedTable]:
    """The tables that lack an index by their counters, those with the most rows read first."""
    found = [
        table
        for table in tables
        if table.size_bytes > min_bytes
        and table.rows >= MIN_ROWS
        and table.seq_scans >= MIN_SCANS
        and (table.sequential_share or 0) > MAX_SHARE
        and table.rows_per_scan >= MIN_ROWS
    ]
    return sorted(found, key=lambda table: -table.seq_rows)


def candidates(
    ctx: Context, session: Postgres, tables: Sequence[ScannedTable], executed: Sequence[Executed]
) -> tuple[list[Candidate], bool]:
    """Indexes for these tables from the statements that read them, and whether HypoPG estimated them.

    With HypoPG, only those that save at least half of a statement's planned cost. Raises TargetError.
    """
    schema = session.extension_schema("hypopg")
    found: list[Candidate] = []
    slowest = sorted(executed, key=lambda item: -item.exec_ms)
    for table in tables[:_MAX_TABLES]:
        query = "SELECT attname AS name FROM pg_attribute WHERE attrelid = %s::oid AND attnum > 0 AND NOT attisdropped"
        columns = {str(row["name"]) for row in session.rows(query, (table.oid,))}
        word = re.compile(rf'(?<![\w"$]){re.escape(table.name)}(?![\w$])|"{re.escape(table.name)}"')
        using = [item for item in slowest if _is_query(item.statement.text) and word.search(item.statement.text)]
        of_table: list[Candidate] = []
        for item in using[:_MAX_STATEMENTS]:
            for names in _column_sets(item.statement.text, columns):
                one = Candidate(table, names, item)
                if schema is None:
                    of_table.append(one)
                    continue
                try:
                    estimated = _estimated(session, schema, one)
                except TargetError as error:
                    if error.cause in ("partial", "timed_out"):
                        raise
                    ctx.log(f"{session.name}: query {item.statement.query_id} cannot be planned: {error.message}")
                    break
                if estimated is not None:
                    of_table.append(estimated)
        found += _best(of_table)
    return found, schema is not None


def _best(found: Sequence[Candidate]) -> list[Candidate]:
    """Each set of columns once; of one statement the index with the lowest cost, the narrowest of equals."""
    order = sorted(found, key=lambda one: (one.cost[1] if one.cost else 0.0, len(one.columns)))
    by_statement: dict[str, Candidate] = {}
    for one in order:
        by_statement.setdefault(one.statement.statement.key, one)
    return list({one.columns: one for one in by_statement.values()}.values())


def _is_query(text: str) -> bool:
    return text.lower().startswith("select") and ";" not in text.rstrip("; ") and "…" not in text and "?" not in text


def _column_sets(text: str, columns: set[str]) -> Iterator[tuple[str, ...]]:
    """The columns that the statement compares with a value, alone and in pairs; those compared by `=` come first."""
    equal, other = dict[str, None](), dict[str, None]()
    compared = re.compile(
        r'(?:\w+\.)?(?:"([^"]+)"|(\b[^\W\d][\w$]*))\s*(=\s*(?:any\s*\(\s*)?\$\d|in\s*\(\s*\$\d|[<>]=?\s*\$\d|between\s+\$\d)',
        re.IGNORECASE,
    )
    for match in compared.finditer(text):
        name = match[1] or match[2].lower()
        if name in columns:
            (equal if match[3][0] in "=iI" else other)[name] = None
    singles = [*equal, *(name for name in other if name not in equal)]
    pairs = [pair for pair in itertools.permutations(singles, 2) if pair[0] in equal]
    yield from itertools.islice([*((name,) for name in singles), *pairs], _MAX_CANDIDATES)


def _estimated(session: Postgres, schema: str, one: Candidate) -> Candidate | None:
    """The candidate with its costs; None when it saves too little. Raises TargetError."""
    text = one.statement.statement.text
    before = _planned_cost(session, text)
    if before < _MIN_COST:
        return None
    hypothetical = one.statement_text.rstrip(";").replace(" CONCURRENTLY", "", 1)
    create = sql.SQL("SELECT indexrelid FROM {}({})").format(
        sql.Identifier(schema, "hypopg_create_index"), sql.Literal(hypothetical)
    )
    try:
        oid = session.one(create)["indexrelid"]
        after = _planned_cost(session, text)
        measure = sql.SQL("SELECT {}({}::oid) AS size").format(
            sql.Identifier(schema, "hypopg_relation_size"), sql.Literal(oid)
        )
        size = session.one(measure)["size"]
    finally:
        session.rows(sql.SQL("SELECT {}()").format(sql.Identifier(schema, "hypopg_reset")))
    if 1 - after / before < _MIN_SAVING:
        return None
    return Candidate(one.table, one.columns, one.statement, (before, after), size)


def _planned_cost(session: Postgres, text: str) -> float:
    """The cost of the plan for any values of its parameters. Nothing is executed. Raises TargetError."""
    if session.version >= 16:
        return _cost(session.one(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {text}"))
    count = max((int(match[1]) for match in _PARAMETER.finditer(text)), default=0)
    values = f"({', '.join(['NULL'] * count)})" if count else ""
    session.rows("SET plan_cache_mode = force_generic_plan")
    session.rows(f"PREPARE maintd_advice AS {text}")
    try:
        return _cost(session.one(f"EXPLAIN (FORMAT JSON) EXECUTE maintd_advice{values}"))
    finally:
        session.rows("DEALLOCATE maintd_advice")


def _cost(row: dict[str, object]) -> float:
    plan: object = row["QUERY PLAN"]
    try:
        return float(plan[0]["Plan"]["Total Cost"])  # type: ignore[index]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise TargetError(f"unexpected form of a plan: {error!r}", cause="malformed") from error
