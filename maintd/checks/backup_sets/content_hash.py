"""Rows and content hashes of tables, by which a restored database is compared with the snapshot of its dump."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import sql

from maintd.clients.postgres import Postgres, lock_timed_out
from maintd.errors import TargetError

HASH = r"sum(hashtextextended(concat_ws(E'\x1f', coalesce(COLUMN::text, E'\x1e'), …), 0)), columns by name"
"""The content hash of a table: independent of the order of rows and columns, and of where they are stored; from
Postgres 11. Two and a half times as fast as that of whole rows, whose text is quoted by the server."""
ROW_HASH = "sum(hashtextextended((t.*)::text, 0)::numeric)"
"""The content hash of a table `t` in the manifests of maintd until November 2026."""
_METHODS = (HASH, ROW_HASH)
_MOST_ARGUMENTS = 90  # of one function; Postgres allows 100

SETTINGS = {
    "search_path": "",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "lc_monetary": "C",
    "row_security": "off",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}
"""What the text of a row depends on; a reader that computes the hash again sets the same. `row_security` off: a policy
that would hide rows is an error, as in pg_dump. The last ones leave the server's other cores to its clients."""

TABLES = """
SELECT n.nspname AS schema, c.relname AS name
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND (c.relpersistence = 'p' OR (c.relpersistence = 'u' AND NOT pg_catalog.pg_is_in_recovery()))
  AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""
"""Tables whose rows pg_dump writes; those of extensions are made by the extension."""

_COLUMNS = """
SELECT n.nspname AS schema, c.relname AS name,
  ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attname::text COLLATE "C") AS columns
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
"""


def lock_tables(session: Postgres) -> tuple[list[tuple[str, str]], list[str]]:
    """Schema and name of every table whose rows are dumped, locked against changes of their definition.

    Then the names of those that cannot be locked at once, since a change of them waits already. Raises TargetError.
    """
    tables = [(str(row["schema"]), str(row["name"])) for row in session.rows(TABLES)]
    if not tables or _lock(session, tables):
        return tables, []
    locked = [table for table in tables if _lock(session, [table])]
    return locked, [".".join(table) for table in tables if table not in locked]


def _lock(session: Postgres, tables: Sequence[tuple[str, str]]) -> bool:
    names = sql.SQL(", ").join(sql.SQL("ONLY {}").format(sql.Identifier(*table)) for table in tables)
    session.rows("SAVEPOINT unlocked")
    try:
        session.rows(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE NOWAIT").format(names))
    except TargetError as error:
        if not (lock_timed_out(error) or error.cause == "empty"):  # held, or dropped since the snapshot
            raise
        session.rows("ROLLBACK TO SAVEPOINT unlocked")
        return False
    return True


def count_tables(session: Postgres, tables: Sequence[tuple[str, str]], method: str | None) -> dict[str, dict[str, Any]]:
    """Rows and content hash of tables, by `schema.table`, in the session's transaction.

    method: how the hash is computed, as in the manifest: HASH, or ROW_HASH; None: rows are only counted. Raises
    TargetError, also for another method.
    """
    if method is not None and method not in _METHODS:
        raise TargetError(
            f"the manifest has hashes that this maintd does not know: {method[:100]}",
            "use the version of maintd that made the set, or a newer one",
            cause="unfamiliar",
        )
    for setting, value in SETTINGS.items():
        session.rows("SELECT pg_catalog.set_config(%s, %s, true)", (setting, value))
    hashed = method is not None and session.version >= 11
    columns: Mapping[tuple[str, str], list[str]] = {}
    if hashed and method == HASH:
        columns = {(str(row["schema"]), str(row["name"])): list(row["columns"]) for row in session.rows(_COLUMNS)}
    found: dict[str, dict[str, Any]] = {}
    for table in tables:
        content = _content(columns.get(table, []) if method == HASH else None) if hashed else sql.SQL("NULL::text")
        query = sql.SQL("SELECT count(*) AS rows, {} AS hash FROM ONLY {} AS t")
        row = session.one(query.format(content, sql.Identifier(*table)))
        found[".".join(table)] = {"rows": int(row["rows"]), "hash": row["hash"]}
    return found


def _content(columns: Sequence[str] | None) -> sql.Composable:
    """The content hash of the table `t` with these columns; None: by ROW_HASH."""
    if columns is None:
        return sql.SQL(f"coalesce({ROW_HASH}, 0)::text")
    # A value that is null differs from an empty one, and from a column that is not there.
    texts: list[sql.Composable] = [
        sql.SQL(r"coalesce(t.{}::text, E'\x1e')").format(sql.Identifier(column)) for column in columns
    ]
    while len(texts) > _MOST_ARGUMENTS:
        groups = [texts[start : start + _MOST_ARGUMENTS] for start in range(0, len(texts), _MOST_ARGUMENTS)]
        texts = [_joined(group) for group in groups]
    row = _joined(texts) if texts else sql.SQL("''")
    return sql.SQL("coalesce(sum(hashtextextended({}, 0)), 0)::text").format(row)


def _joined(texts: Sequence[sql.Composable]) -> sql.Composable:
    return sql.SQL(r"concat_ws(E'\x1f', {})").format(sql.SQL(", ").join(texts))
