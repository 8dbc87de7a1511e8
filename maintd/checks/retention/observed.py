"""What there is of a class: its oldest and newest data, and how each place is asked for it. Nothing is changed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from maintd.checks.backup_sets.layout import find_sets
from maintd.checks.hints import printable
from maintd.checks.logs.loki_retention import parse_period, read_period
from maintd.checks.redis.streams import added_at
from maintd.clients import exposition, files, postgres, prometheus
from maintd.clients import redis as redis_client
from maintd.clients.http import Api
from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.target import HttpTarget, PostgresTarget, PrometheusTarget, RedisTarget

MAX_FILES = 500_000
AGREES = timedelta(days=2)
"""A file of a day may still be written at its end, by a machine of another time zone."""

_DATE = re.compile(
    r"(?<!\d)((?:19|20)\d\d)([-_.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])"
    r"(?:[T_-]?([01]\d|2[0-3])([-:]?)([0-5]\d)\6([0-5]\d))?(?!\d)"
)
_NEVER = timedelta(days=100_000)
_EMPTY = (2**63 - 1) / 1000
"""The oldest sample of an empty Prometheus, in seconds."""
_FIRST, _LAST = 946_684_800, 253_402_300_799
"""The years 2000 to 9999, as Unix time: what is outside is no time of a sample."""


@dataclass(frozen=True)
class Item:
    """A file or a set. `modified_at` only where the name has the date, which wins."""

    name: str
    at: datetime
    modified_at: datetime | None = None

    @property
    def conflicts(self) -> bool:
        """Whether the date in the name and the modification time are of different days."""
        return self.modified_at is not None and abs(self.modified_at - self.at) > AGREES


@dataclass(frozen=True)
class Observed:
    """Of one class. `items`: where there are such, oldest first. `oldest_at` is None without data, or where it is not
    examined. `deletes_after`: by its configuration; None: not known, or there is none. `problems`: what could not be
    seen of it."""

    count: int | None = None
    oldest_at: datetime | None = None
    newest_at: datetime | None = None
    items: tuple[Item, ...] = ()
    deletes_after: timedelta | None = None
    configured: bool = False  # whether deletes_after is the whole answer, None for never
    examined: bool = True  # whether oldest_at is
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def date_in(name: str) -> datetime | None:
    """The end of the day, or the second, that a file name has; the last one of several. None without a valid one."""
    found = None
    for match in _DATE.finditer(name):
        year, _, month, day, hour, _, minute, second = match.groups()
        try:
            at = datetime(int(year), int(month), int(day), tzinfo=UTC)
        except ValueError:
            continue
        if hour:
            found = at.replace(hour=int(hour), minute=int(minute), second=int(second))
        else:
            found = at + timedelta(days=1) - timedelta(seconds=1)
    return found


def read_folder(root: Path, pattern: str) -> Observed:
    """The files below a folder that match, by the date in their name or else their modification time."""
    items, problems = list[Item](), list[str]()
    with files.Tree(root) as tree:
        for entry in tree.walk():
            if not entry.regular or not fnmatchcase(entry.relative, pattern):
                continue
            if len(items) == MAX_FILES:
                problems.append(f"only the first {MAX_FILES:,} files were examined")
                break
            dated = date_in(entry.name)
            name = files.shown(entry.relative)
            items.append(Item(name, entry.modified_at) if dated is None else Item(name, dated, entry.modified_at))
        problems += tree.unread
        problems += [f"{name}: on another device" for name in tree.foreign]
    return _of_items(items, problems)


def read_sets(root: Path) -> Observed:
    """The good backup sets in a folder; one that is not good does not count, and is named."""
    try:
        found = find_sets(root)
    except OSError as error:
        cause = "not_found" if isinstance(error, FileNotFoundError) else "denied"
        raise TargetError(f"{root}: {error.strerror}", cause=cause) from error
    unread = [f"{one.path.name}: {one.problem}" for one in found if one.problem.startswith("cannot be read")]
    notes = tuple(f"{one.path.name} does not count: {one.problem}" for one in found if not one.good)
    made = _of_items([Item(one.path.name, one.made_at) for one in found if one.good], unread)
    return Observed(made.count, made.oldest_at, made.newest_at, made.items, problems=made.problems, notes=notes)


def _of_items(items: Sequence[Item], problems: Sequence[str]) -> Observed:
    ordered = sorted(items, key=lambda item: (item.at, item.name))
    return Observed(
        count=len(ordered),
        oldest_at=ordered[0].at if ordered else None,
        newest_at=ordered[-1].at if ordered else None,
        items=tuple(ordered),
        problems=tuple(problems),
    )


_TABLE = """
SELECT c.oid, t.typname, row_security_active(c.oid) AS limited,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL
                 AND i.indkey[0] = a.attnum) AS indexed,
       greatest(pg_relation_size(c.oid), (SELECT coalesce(sum(pg_relation_size(p.relid)), 0)
                                            FROM pg_partition_tree(c.oid) p))::bigint AS bytes
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped JOIN pg_type t ON t.oid = a.atttypid
WHERE c.oid = to_regclass(%(table)s) AND a.attname = %(column)s
"""
_TYPES = ("timestamptz", "timestamp", "date")


def read_table(target: PostgresTarget, name: str, table: str, column: str, timeout: timedelta, scan: int) -> Observed:
    """The first and the last time of a table's rows, by an index, or by a scan of at most `scan` bytes."""
    with (
        postgres.connect(target, "retention_compliance", name=name, timeout=timeout) as server,
        server.statement_timeout(timeout),
    ):
        found = server.rows(_TABLE, {"table": table, "column": column})
        if not found:
            text = f"{name}: there is no table {printable(table)} with a column {printable(column)}"
            raise TargetError(
                text,
                "correct table and column; without its schema a table is looked for in the search_path",
                cause="not_found",
            )
        about = found[0]
        if about["typname"] not in _TYPES:
            raise TargetError(f"{name}: {printable(column)} is a {about['typname']}, not a time", cause="unfamiliar")
        if about["limited"]:
            hint = "grant the login BYPASSRLS, or a policy for all rows"
            raise TargetError(f"{name}: row security hides rows of {printable(table)}", hint, cause="denied")
        if not about["indexed"] and about["bytes"] > scan:
            hint = f"create an index that begins with {printable(column)}, or raise scan_at_most"
            text = f"{name}: {printable(table)} has {about['bytes']:,} bytes and no index of {printable(column)}"
            raise TargetError(text, hint, cause="too_large")
        row = _first_and_last(server, int(about["oid"]), column)
    notes = () if about["indexed"] else (f"{printable(column)} has no index: the table was read as a whole",)
    return Observed(None, row[0], row[1], notes=notes)


def _first_and_last(server: postgres.Postgres, oid: int, column: str) -> tuple[datetime | None, datetime | None]:
    from psycopg import sql

    named = server.one(
        "SELECT %(oid)s::oid::regclass::text AS name, quote_ident(%(column)s) AS quoted", {"oid": oid, "column": column}
    )
    # The name is the server's own, quoted by it. Epochs: a time of the year 10000 or infinity is no datetime.
    ident, quoted = sql.SQL(named["name"]), sql.SQL(named["quoted"])
    query = sql.SQL(
        "SELECT extract(epoch FROM min({0}))::float8 AS first, extract(epoch FROM max({0}))::float8 AS last FROM {1}"
    ).format(quoted, ident)
    row = server.one(query)
    return _instant(row["first"], server.name), _instant(row["last"], server.name)


def _instant(epoch: Any, where: str) -> datetime | None:
    if epoch is None:
        return None
    try:
        return datetime.fromtimestamp(epoch, UTC)  # infinity raises OverflowError
    except (ValueError, OverflowError, OSError) as error:
        raise TargetError(f"{where}: a time is infinite or beyond the year 9999", cause="unfamiliar") from error


def read_stream(target: RedisTarget, name: str, stream: str) -> Observed:
    """The first entry of a stream, and the last one ever added, by their ids."""
    with redis_client.connect(target, name=name) as server:
        first, last = server.span(stream)
    if first is None:
        return Observed(0)
    oldest, newest = added_at(first), added_at(last)
    if oldest is None or newest is None:
        raise TargetError(f"{name}: the ids of {printable(stream)} are no times", cause="unfamiliar")
    return Observed(None, oldest, newest)


def read_prometheus(target: PrometheusTarget, name: str) -> Observed:
    """After which time it deletes, and the time of its oldest sample.

    Source: Prometheus, `storageRetention` of /api/v1/status/runtimeinfo (`15d`, `10GB`, `15d or 10GB`), and its own
    metric `prometheus_tsdb_lowest_timestamp_seconds`.
    """
    api = Api.of(resolved(target))
    info = api.get("/api/v1/status/runtimeinfo")
    data = info.get("data") if isinstance(info, dict) else None
    text = data.get("storageRetention") if isinstance(data, dict) else None
    if not isinstance(text, str):
        raise TargetError(f"{name}: runtimeinfo has no storageRetention", cause="unfamiliar")
    by_time = [part for part in text.split(" or ") if not re.search(r"[KMGTPE]?i?B$", part)]
    by_size = [part for part in text.split(" or ") if part not in by_time]
    notes = [f"deletes earlier when it has {printable(part)[:40]}" for part in by_size]
    metrics = prometheus.connect(target, name=name).own_metrics()
    lowest = sum(exposition.sums(metrics, "prometheus_tsdb_lowest_timestamp_seconds").values())
    if not lowest:
        notes.append("its own metrics do not have its oldest sample")
    oldest = None
    problem = "" if lowest else "the time of its oldest sample is not known"
    if lowest and not math.isclose(lowest, _EMPTY):
        if _FIRST < lowest < _LAST:
            oldest = datetime.fromtimestamp(lowest, UTC)
        else:
            problem = f"the time of its oldest sample is {lowest:g}, which is no time"
    period = parse_period(by_time[0]) if by_time else None
    return Observed(
        None,
        oldest,
        None,
        deletes_after=period or None,
        configured=not by_size or period is not None,
        notes=tuple(notes),
        problems=(problem,) if problem else (),
    )


def read_loki(target: HttpTarget, name: str) -> Observed:
    """After which time Loki deletes, by its configuration; what it has is not examined."""
    period = read_period(target, name)
    return Observed(deletes_after=period, configured=True, examined=False)


Read = Callable[[], Observed]
