"""Ages of transaction and multixact ids of a Postgres server, against their wraparound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from maintd.clients.postgres import Postgres, Row
from maintd.job.criterion import Criterion

WRAPAROUND = 2**31
"""Ids between the oldest row and the newest transaction, at most."""
MAX_AGE = 1_000_000_000
"""About half of them; the server's own failsafe begins at 1.6e9."""
KINDS = (
    ("xid_age", "transaction id", "autovacuum_freeze_max_age"),
    ("mxid_age", "multixact id", "autovacuum_multixact_freeze_max_age"),
)

DATABASES = """
SELECT datname AS name, age(datfrozenxid) AS xid_age, mxid_age(datminmxid) AS mxid_age FROM pg_database
"""


class AgeLimits(NamedTuple):
    """The age that warns and the age that fails."""

    warn: int
    fail: int


def databases(session: Postgres) -> list[Row]:
    """Every database of the server with `name`, `xid_age`, `mxid_age`. Raises TargetError."""
    return session.rows(DATABASES)


def age_limits(freeze_max_age: float) -> AgeLimits:
    """Autovacuum freezes at `freeze_max_age`: 10 % above it warns, 25 % above it or 1e9 fails.

    Source: the thresholds of Crunchy Data's pgMonitor.
    """
    return AgeLimits(warn=round(min(freeze_max_age * 1.10, MAX_AGE)), fail=round(min(freeze_max_age * 1.25, MAX_AGE)))


def percent_used(row: Row) -> float:
    """How much of the ids a database with `xid_age` and `mxid_age` has used up; 100: the server refuses writes."""
    return float(100 * max(row["xid_age"], row["mxid_age"]) / WRAPAROUND)


def used_criterion(databases: Sequence[Row], warn_percent: float, fail_percent: float) -> Criterion:
    """How much of the ids the oldest database has used up."""
    oldest = max(databases, key=percent_used)
    return Criterion(
        "transaction ids used up",
        round(percent_used(oldest), 2),
        at_most=fail_percent,
        warn_above=warn_percent,
        unit="%",
        hint=f"in database {oldest['name']}: {_ADVICE}",
    )


def age_criteria(databases: Sequence[Row], freeze_max_ages: Mapping[str, float]) -> list[Criterion]:
    """The oldest ids of a database against the server's settings, by the settings' names."""
    criteria = []
    for kind, name, setting in KINDS:
        oldest = max(databases, key=lambda row: row[kind])
        limits = age_limits(freeze_max_ages[setting])
        criteria.append(
            Criterion(
                f"oldest {name} of a database",
                oldest[kind],
                at_most=limits.fail,
                warn_above=limits.warn,
                hint=f"in database {oldest['name']}: {_ADVICE}",
            )
        )
    return criteria


_ADVICE = "VACUUM (FREEZE) it as its owner or a superuser; find the oldest open transaction"
