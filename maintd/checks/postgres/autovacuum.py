"""What autovacuum has left undone: tables over its thresholds, tables that are too old."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from maintd.checks.postgres.tables import Table
from maintd.checks.postgres.wraparound import KINDS, age_limits
from maintd.clients.postgres import Postgres
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus

ANALYZE_EVERY = timedelta(days=7)
"""A changed table with older statistics is analyzed, however few its changes are."""
MIN_ROWS = 10_000
"""The share of dead rows of a smaller table means nothing."""


@dataclass(frozen=True)
class Autovacuum:
    """The server's settings of autovacuum, and how many of its workers are busy."""

    settings: Mapping[str, str]
    workers: int

    @property
    def enabled(self) -> bool:
        """It runs, and the server collects the counts that it needs."""
        return self.settings["autovacuum"] == "on" and self.settings["track_counts"] == "on"

    @property
    def max_workers(self) -> int:
        """How many tables it can vacuum at the same time."""
        return int(self.settings["autovacuum_max_workers"])

    def number(self, name: str, table: Table | None = None) -> float:
        """A setting by its name; the table's own storage parameter has precedence. -1 when the server has none."""
        own = table.options.get(name) if table else None
        return float(own if own is not None else self.settings.get(name, "-1"))


class VacuumNeed(NamedTuple):
    """What a table needs and why.

    `gain` orders tables: the bytes to be freed; more than any size when its age is the reason.
    """

    vacuum: bool
    analyze: bool
    freeze: bool
    why: str
    gain: float

    def __bool__(self) -> bool:
        return self.vacuum or self.analyze


def autovacuum(session: Postgres) -> Autovacuum:
    """The server's settings and busy workers. Raises TargetError."""
    rows = session.rows("SELECT name, setting FROM pg_settings WHERE name ~ '^autovacuum' OR name = 'track_counts'")
    workers = session.one("SELECT count(*) AS n FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'")["n"]
    return Autovacuum({row["name"]: row["setting"] for row in rows}, workers)


def need(table: Table, server: Autovacuum, now: datetime, factor: float = 1.0) -> VacuumNeed:
    """What the table needs by autovacuum's own rules, with its thresholds multiplied by `factor`."""
    rows = max(table.rows, 0.0)

    def threshold(kind: str) -> float:
        base = server.number(f"autovacuum_{kind}_threshold", table)
        return factor * (base + server.number(f"autovacuum_{kind}_scale_factor", table) * rows)

    reasons = []
    freeze = table.xid_age > server.number("autovacuum_freeze_max_age", table) or table.mxid_age > server.number(
        "autovacuum_multixact_freeze_max_age", table
    )
    if freeze:
        reasons.append(f"its oldest row is {max(table.xid_age, table.mxid_age):,} transactions old")
    vacuum = table.dead > threshold("vacuum")
    if vacuum:
        reasons.append(f"{table.dead:,} dead rows, threshold {threshold('vacuum'):,.0f}")
    inserted = server.number("autovacuum_vacuum_insert_threshold", table) >= 0 and table.inserts > threshold(
        "vacuum_insert"
    )
    if inserted:
        reasons.append(f"{table.inserts:,} rows inserted since the last vacuum")
    stale = table.mods > 0 and (table.analyzed_at is None or now - table.analyzed_at > ANALYZE_EVERY)
    analyze = stale or table.mods > threshold("analyze")
    if analyze:
        since = f"since the last analyze on {table.analyzed_at:%Y-%m-%d}" if table.analyzed_at else "and never analyzed"
        reasons.append(f"{table.mods:,} rows changed {since}")
    gain = max(table.size_bytes, table.dead) * table.dead_share + (1e15 + table.xid_age if freeze else 0)
    return VacuumNeed(vacuum or inserted or freeze, analyze, freeze, "; ".join(reasons), gain)


def autovacuum_criteria(server: Autovacuum, tables: Sequence[Table]) -> list[Criterion]:
    """Whether autovacuum is enabled, for every table, and has a free worker."""
    disabled = [t.label for t in tables if t.options.get("autovacuum_enabled", "true").lower() in ("false", "off")]
    return [
        Criterion(
            "autovacuum",
            "on" if server.enabled else "off",
            equals="on",
            severity=CheckStatus.WARN,
            hint="set autovacuum and track_counts to on: a weekly job is no substitute",
        ),
        Criterion(
            "autovacuum workers busy",
            server.workers,
            warn_above=server.max_workers - 1,
            hint="all are busy: raise autovacuum_max_workers or autovacuum_vacuum_cost_limit",
        ),
        Criterion(
            "tables without autovacuum",
            len(disabled),
            warn_above=0,
            hint="ALTER TABLE … RESET (autovacuum_enabled): " + ", ".join(disabled[:5]) if disabled else "",
        ),
    ]


def table_criteria(server: Autovacuum, tables: Sequence[Table], excluded: set[int]) -> list[Criterion]:
    """The oldest table and the largest share of dead rows; `excluded` are oids that do not count for the share."""
    criteria = []
    for kind, name, setting in KINDS:
        aged = [(getattr(table, kind), age_limits(server.number(setting, table)), table) for table in tables]
        age, limits, oldest = max(aged, key=lambda item: item[0] / item[1].fail, default=(0, age_limits(2e8), None))
        hint = f"VACUUM (FREEZE) {oldest.label}, and find out why autovacuum has not" if oldest else ""
        criteria.append(
            Criterion(f"oldest {name} of a table", age, at_most=limits.fail, warn_above=limits.warn, hint=hint)
        )
    counted = [t for t in tables if t.dead + max(t.live, t.rows) > MIN_ROWS and t.oid not in excluded]
    worst = max(counted, key=lambda table: table.dead_share, default=None)
    share = round(worst.dead_share, 3) if worst else 0.0
    hint = f"in {worst.label}: vacuum it, or lower its autovacuum_vacuum_scale_factor" if worst else ""
    criteria.append(Criterion("largest share of dead rows", share, warn_above=0.2, at_most=0.4, hint=hint))
    return criteria
