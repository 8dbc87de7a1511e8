"""Statements that pg_stat_statements has counted: whether it can be read, and a snapshot of its counters.

Source of the columns: PostgreSQL documentation, F.32 pg_stat_statements, of versions 13 to 18. The view has the columns
of the extension's version, which an upgrade of the server does not change.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from maintd.clients.postgres import Postgres
from maintd.errors import TargetError

EXTENSION = "pg_stat_statements"
RULE = "PostgreSQL documentation, F.32 pg_stat_statements"
MAX_TEXT = 2000
"""Characters of a statement's text that are kept."""
COUNTERS = ("calls", "exec_ms", "plan_ms", "rows", "temp_blocks", "wal_bytes", "io_ms")
"""The counters of a statement, by which it is ranked and compared."""

# The first of a counter's alternatives whose columns the view has; a counter without one is not measured.
_ALTERNATIVES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "calls": (("calls",),),
    "exec_ms": (("total_exec_time",), ("total_time",)),  # 13 and later; before
    "plan_ms": (("total_plan_time",),),
    "rows": (("rows",),),
    "temp_blocks": (("temp_blks_read", "temp_blks_written"),),
    "wal_bytes": (("wal_bytes",),),
    "io_ms": (
        ("shared_blk_read_time", "shared_blk_write_time", "local_blk_read_time", "local_blk_write_time"),  # 17
        ("blk_read_time", "blk_write_time"),
    ),
}
_TEMPORARY_IO = ("temp_blk_read_time", "temp_blk_write_time")  # 15 and later, beside either of the two above

# One token of SQL at a time: what can hold a value is replaced, names stay. A literal that does not end is replaced to
# the end of the text.
_TOKEN = re.compile(
    r"""
    (?P<comment> /\* | --[^\n]*)
  | (?P<dollar> \$(?P<tag>(?:[^\W\d]\w*)?)\$ .*? (?:\$(?P=tag)\$|\Z))
  | (?P<escape> \b[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z))
  | (?P<string> (?:\b[uU]&|\b[bBxXnN])?'(?:[^']|'')*(?:'|\Z))
  | (?P<name> "(?:[^"]|"")*(?:"|\Z) | [^\W\d][\w$]* | \$\d+)
  | (?P<number> \d[\w.]*)
    """,
    re.VERBOSE | re.DOTALL,
)

_COMMENT_MARK = re.compile(r"/\*|\*/")
# The value of a setting can be an identifier. UPDATE has SET as well, and its literals are parameters.
_NAME = r'(?:"(?:[^"]|"")*"|[^\W\d][\w$]*)'
_SETTING = re.compile(
    rf"(\bSET\s+(?:SESSION\s+|LOCAL\s+)?{_NAME}(?:\.{_NAME})*\s*(?:=|\bTO\b)).*", re.IGNORECASE | re.DOTALL
)
_WITH_SETTING = ("SET", "ALTER", "CREATE")


@dataclass(frozen=True)
class Statement:
    """One statement of one role and its counters since `since`, or since the last reset. Times are milliseconds.

    A counter is None when this version does not have it, or the server does not measure it.
    """

    role: str
    role_id: int
    database_id: int
    query_id: int
    toplevel: bool  # False: executed within a function
    text: str  # without literals
    counters: Mapping[str, float | None]
    since: datetime | None = None  # 17 and later: when its counting began

    @property
    def key(self) -> str:
        """What identifies it between snapshots."""
        return f"{self.role_id}.{self.database_id}.{self.query_id}.{'t' if self.toplevel else 'n'}"


@dataclass(frozen=True)
class Snapshot:
    """The statements of this database with the longest total time. `total`: how many there are."""

    at: datetime
    reset_at: datetime | None  # None: not known, up to extension version 1.8
    evictions: int | None  # how often statements were dropped to make room
    total: int
    statements: tuple[Statement, ...]
    timed: bool  # track_io_timing is on


def columns_for(available: Collection[str]) -> dict[str, str | None]:
    """The SQL expression of each counter for a view with these columns; None: the view does not have it."""
    found: dict[str, str | None] = {}
    for counter, alternatives in _ALTERNATIVES.items():
        chosen = next((names for names in alternatives if set(names) <= set(available)), None)
        if chosen is not None and counter == "io_ms":
            chosen += tuple(name for name in _TEMPORARY_IO if name in available)
        found[counter] = " + ".join(f"s.{name}" for name in chosen) if chosen else None
    return found


def redacted(text: str) -> str:
    """The statement without literals and comments; a utility statement is recorded with its literals, such as the
    password of ALTER ROLE."""
    parts: list[str] = []
    at = 0
    while token := _TOKEN.search(text, at):
        parts.append(text[at : token.start()])
        at = _end_of_comment(text, token.end()) if token.group() == "/*" else token.end()
        kind = token.lastgroup if token.lastgroup != "tag" else "dollar"
        if kind == "name":
            parts.append(token.group())
        elif kind == "comment":
            parts.append(" ")
        else:
            parts.append("?")
            # Whether the backslash escapes the quote depends on standard_conforming_strings of that session.
            if kind == "string" and "\\'" in token.group():
                at = len(text)
                parts.append(" …")
                break
    words = "".join([*parts, text[at:]]).split()
    shortened = " ".join(words)
    if words and words[0].upper() in _WITH_SETTING:
        shortened = _SETTING.sub(r"\1 ?", shortened)
    return shortened if len(shortened) <= MAX_TEXT else shortened[:MAX_TEXT] + "…"


def _end_of_comment(text: str, at: int) -> int:
    """The end of a comment whose text begins at `at`: comments of Postgres can contain others."""
    depth = 1
    for mark in _COMMENT_MARK.finditer(text, at):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(text)


def require_readable(session: Postgres) -> str:
    """The schema of the extension. Raises TargetError that states what is missing, with the exact steps.

    Cause `not_configured`: not loaded or not created; `denied`: the role may not read statements of others.
    """
    loaded = session.one("SELECT current_setting('pg_stat_statements.max', true) AS max")["max"] is not None
    schema = session.extension_schema(EXTENSION)
    if not loaded:
        raise TargetError(
            f"{session.name}: {EXTENSION} is not loaded by the server", _how_to_load(session), cause="not_configured"
        )
    if schema is None:
        raise TargetError(
            f"{session.name}: {EXTENSION} is loaded, but not created in this database",
            f"in this database, as superuser: CREATE EXTENSION {EXTENSION};",
            cause="not_configured",
        )
    if not session.one("SELECT pg_has_role('pg_read_all_stats', 'USAGE') AS ok")["ok"]:
        raise TargetError(
            f"{session.name}: this user may not read the statements of other users",
            "GRANT pg_read_all_stats TO the target's user; pg_monitor includes it: see deploy/roles.sql",
            cause="denied",
        )
    return schema


def _how_to_load(session: Postgres) -> str:
    """The steps, with the libraries that are loaded already, as far as this user may see them."""
    query = "SELECT setting FROM pg_settings WHERE name = 'shared_preload_libraries'"
    others = [name.strip() for row in session.rows(query) for name in str(row["setting"]).split(",")]
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in [*filter(None, others), EXTENSION])
    return (
        f"1. as superuser: ALTER SYSTEM SET shared_preload_libraries = {names}; or in the compose file: "
        f"command: postgres -c shared_preload_libraries={','.join([*filter(None, others), EXTENSION])}; "
        "2. restart the server in a maintenance window; "
        f"3. in each database: CREATE EXTENSION {EXTENSION};"
    )


def snapshot(session: Postgres, schema: str, limit: int) -> Snapshot:
    """The `limit` statements of this database with the longest total time. Raises TargetError."""
    view = sql.Identifier(schema, EXTENSION)
    available = {
        str(row["name"])
        for row in session.rows(
            "SELECT a.attname AS name FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped",
            (schema, EXTENSION),
        )
    }
    counters = columns_for(available)
    missing = [name for name in ("calls", "exec_ms") if counters[name] is None]
    if missing:
        raise TargetError(
            f"{session.name}: {EXTENSION} has no column for {', '.join(missing)}",
            f"ALTER EXTENSION {EXTENSION} UPDATE",
            cause="unfamiliar",
        )
    query = sql.SQL(
        "SELECT s.userid::bigint AS role_id, s.dbid::bigint AS database_id, s.queryid AS query_id, {toplevel} AS"
        " toplevel, {since} AS since, left(s.query, 20000) AS text, count(*) OVER () AS total,"
        " coalesce(r.rolname, s.userid::text) AS role, {counters}"
        " FROM {view} s LEFT JOIN pg_roles r ON r.oid = s.userid"
        " WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND s.queryid IS NOT NULL"
        " ORDER BY {exec} DESC, s.queryid LIMIT {limit}"
    ).format(
        toplevel=sql.SQL("s.toplevel" if "toplevel" in available else "true"),
        since=sql.SQL("s.stats_since" if "stats_since" in available else "NULL::timestamptz"),
        counters=sql.SQL(", ").join(
            sql.SQL("({})::float8 AS {}").format(sql.SQL(text or "NULL"), sql.Identifier(name))
            for name, text in counters.items()
        ),
        view=view,
        exec=sql.SQL(counters["exec_ms"]),  # type: ignore[arg-type]
        limit=sql.Literal(limit),
    )
    state = session.one(
        "SELECT clock_timestamp() AS at, current_setting('track_io_timing') = 'on' AS timed,"
        " to_regclass(quote_ident(%s) || '.pg_stat_statements_info') IS NOT NULL AS informed",
        (schema,),
    )
    reset_at = evictions = None
    if state["informed"]:
        info = sql.SQL("SELECT stats_reset, dealloc FROM {}").format(sql.Identifier(schema, "pg_stat_statements_info"))
        row = session.one(info)
        reset_at, evictions = row["stats_reset"], row["dealloc"]
    rows = session.rows(query)
    statements = []
    for row in rows:
        counted = {name: row[name] for name in COUNTERS}
        if not state["timed"]:
            counted["io_ms"] = None  # the server counts zero
        statements.append(
            Statement(
                row["role"],
                row["role_id"],
                row["database_id"],
                row["query_id"],
                row["toplevel"],
                redacted(row["text"] or ""),
                counted,
                row["since"],
            )
        )
    total = rows[0]["total"] if rows else 0
    return Snapshot(state["at"], reset_at, evictions, total, tuple(statements), state["timed"])
