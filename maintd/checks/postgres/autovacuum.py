"""What autovacuum goes by and leaves undone: thresholds, ages towards wraparound, who keeps dead rows alive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from maintd.checks.postgres.blockers import Holder
from maintd.checks.postgres.tables import Table
from maintd.clients.postgres import Postgres, Row
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus

ANALYZE_EVERY = timedelta(days=7)
"""A changed table whose statistics are older than this is analyzed, however few its changes are."""
XID_FAIL = 1_000_000_000
"""Half of what is left to a 2^31 wraparound; Postgres' own failsafe begins at 1.6e9."""
COUNTED = 10_000
"""Rows; of a smaller table the share of dead ones says nothing."""
HELD = timedelta(hours=1), timedelta(hours=6)
"""How long a snapshot may be held before that warns, and fails."""


@dataclass(frozen=True)
class Autovacuum:
    """What the server's autovacuum goes by, and how busy it is."""

    settings: Mapping[str, str]
    workers: int

    @property
    def on(self) -> bool:
        """It runs, and has the counts that it needs."""
        return self.settings["autovacuum"] == "on" and self.settings["track_counts"] == "on"

    @property
    def most_workers(self) -> int:
        """How many tables it can clean at once."""
        return int(self.settings["autovacuum_max_workers"])

    def number(self, name: str, table: Table | None = None) -> float:
        """A setting by its name, as the table has it where it has its own."""
        own = table.options.get(name) if table else None
        return float(own if own is not None else self.settings.get(name, "-1"))


class Need(NamedTuple):
    """What a table is owed, why, and how much it would gain: bytes, more than any size when its age is the reason."""

    vacuum: bool
    analyze: bool
    freeze: bool
    why: str
    gain: float

    def __bool__(self) -> bool:
        return self.vacuum or self.analyze


class Limits(NamedTuple):
    """From which age on a warning and a failure are due."""

    warn: int
    fail: int


def autovacuum(session: Postgres) -> Autovacuum:
    """The server's settings and how many of its workers are busy. Raises TargetError."""
    rows = session.rows("SELECT name, setting FROM pg_settings WHERE name ~ '^autovacuum' OR name = 'track_counts'")
    workers = session.one("SELECT count(*) AS n FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'")["n"]
    return Autovacuum({row["name"]: row["setting"] for row in rows}, workers)


def age_limits(freeze_max_age: float) -> Limits:
    """Autovacuum must have begun at its own limit: 10 % later warns, 25 % later or 1e9 fails (as pgmonitor has it)."""
    return Limits(warn=round(min(freeze_max_age * 1.10, XID_FAIL)), fail=round(min(freeze_max_age * 1.25, XID_FAIL)))


def need(table: Table, server: Autovacuum, now: datetime, factor: float = 1.0) -> Need:
    """What is due by autovacuum's own rules, its thresholds multiplied by `factor`."""
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
        since = f"since it was analyzed on {table.analyzed_at:%Y-%m-%d}" if table.analyzed_at else "and never analyzed"
        reasons.append(f"{table.mods:,} rows changed {since}")
    gain = max(table.size_bytes, table.dead) * table.dead_share + (1e15 + table.xid_age if freeze else 0)
    return Need(vacuum or inserted or freeze, analyze, freeze, "; ".join(reasons), gain)


def server_criteria(
    server: Autovacuum, tables: Sequence[Table], databases: Sequence[Row], holders: Sequence[Holder], *, sighted: bool
) -> list[Criterion]:
    """Is autovacuum at work, is wraparound far, does nobody hold old rows. `sighted`: others' sessions are shown."""
    disabled = [t.label for t in tables if t.options.get("autovacuum_enabled", "true").lower() in ("false", "off")]
    made = [
        Criterion(
            "autovacuum",
            "on" if server.on else "off",
            equals="on",
            severity=CheckStatus.WARN,
            hint="set autovacuum and track_counts to on: a weekly job is no substitute",
        ),
        Criterion(
            "autovacuum workers busy",
            server.workers,
            warn_above=server.most_workers - 1,
            hint="all are busy: raise autovacuum_max_workers or autovacuum_vacuum_cost_limit",
        ),
        Criterion(
            "tables without autovacuum",
            len(disabled),
            warn_above=0,
            hint="ALTER TABLE … RESET (autovacuum_enabled): " + ", ".join(disabled[:5]) if disabled else "",
        ),
    ]
    for kind, name, setting in _AGES:
        worst = max(databases, key=lambda row: row[kind])
        limits = age_limits(server.number(setting))
        made.append(
            Criterion(
                f"oldest {name} of a database",
                worst[kind],
                at_most=limits.fail,
                warn_above=limits.warn,
                hint=f'database "{worst["name"]}": vacuum it as its owner or a superuser, before writes stop',
            )
        )
    if not sighted:
        made.append(
            Criterion(
                "oldest snapshot",
                unknown="others' sessions are not shown to this user",
                hint="GRANT pg_monitor TO the target's user",
            )
        )
        return made
    timed = [(holder.held, holder) for holder in holders if holder.held]
    held, longest = max(timed, key=lambda item: item[0], default=(timedelta(0), None))
    made.append(
        Criterion(
            "oldest snapshot",
            held,
            warn_above=HELD[0],
            at_most=HELD[1],
            hint=f"held by {longest or 'nobody'}; no row that it may see is ever removed",
        )
    )
    slots = [holder for holder in holders if holder.kind == "inactive slot"]
    made.append(
        Criterion(
            "inactive slots that hold rows",
            len(slots),
            warn_above=0,
            hint="drop it or start its consumer: " + ", ".join(map(str, slots[:5])) if slots else "",
        )
    )
    return made


_AGES = (
    ("xid_age", "transaction id", "autovacuum_freeze_max_age"),
    ("mxid_age", "multixact id", "autovacuum_multixact_freeze_max_age"),
)


def table_criteria(server: Autovacuum, tables: Sequence[Table], excused: set[int]) -> list[Criterion]:
    """Ages and dead rows as they are afterwards. `excused`: oids whose dead rows have been judged already."""
    made = []
    for kind, name, setting in _AGES:
        aged = [(getattr(table, kind), age_limits(server.number(setting, table)), table) for table in tables]
        age, limits, worst = max(aged, key=lambda item: item[0] / item[1].fail, default=(0, age_limits(2e8), None))
        hint = f"{worst.label} is the oldest: VACUUM (FREEZE) it, and find out why it was not done" if worst else ""
        made.append(Criterion(f"oldest {name} of a table", age, at_most=limits.fail, warn_above=limits.warn, hint=hint))
    counted = [t for t in tables if t.dead + max(t.live, t.rows) > COUNTED and t.oid not in excused]
    deadest = max(counted, key=lambda table: table.dead_share, default=None)
    share = round(deadest.dead_share, 3) if deadest else 0.0
    hint = f"{deadest.label} has it: vacuum it, or lower its scale factor" if deadest else ""
    made.append(Criterion("largest share of dead rows", share, warn_above=0.2, at_most=0.4, hint=hint))
    return made
