"""Plans: steps and policy of runs. Runs with equal ones share a row, which never changes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.engine import Connection

from maintd.model.entry import Policy, StepPlan
from maintd.model.run import NewRun
from maintd.store.database import dialect_insert
from maintd.store.prepared import Prepared, PreparedForValues, insert_missing_rows
from maintd.store.tables import plan_jobs, plans

_STEPS: TypeAdapter[tuple[StepPlan, ...]] = TypeAdapter(tuple[StepPlan, ...])

CACHE_SIZE = 2048
"""Most parsed plans in memory; a calendar has some tens, and each takes about 2 KiB."""

_PLANS = PreparedForValues(select(plans.c.id, plans.c.steps, plans.c.policy).order_by(plans.c.id), plans.c.id)


def plan_statements(conn: Connection) -> list[Prepared | PreparedForValues]:
    """Return what writes and reads the plans of runs."""
    return [_upsert_plan(conn.dialect.name), _PLANS]


@dataclass(frozen=True)
class RunPlan:
    """The steps and the policy of a run."""

    steps: tuple[StepPlan, ...]
    policy: Policy


class RunPlans:
    """Inserts plans and caches the parsed ones."""

    def __init__(self) -> None:
        self._parsed: dict[int, RunPlan] = {}
        self._lock = threading.Lock()

    def ids_of(self, conn: Connection, runs: Iterable[NewRun], now: datetime) -> list[int]:
        """The id of each run's plan, inserted if it does not exist."""
        digests: list[str] = []
        rows: dict[str, dict[str, Any]] = {}
        jobs: dict[str, set[str]] = {}
        for run in runs:
            steps, policy = _STEPS.dump_json(run.plan).decode(), run.policy.model_dump_json()
            digest = hashlib.sha256(f"{steps}\n{policy}".encode()).hexdigest()
            digests.append(digest)
            rows[digest] = {"digest": digest, "steps": steps, "policy": policy, "used_at": now}
            jobs[digest] = {step.job for step in run.plan if step.job}
        if not rows:
            return []
        # Sorted, so that two nodes cannot deadlock.
        used = _upsert_plan(conn.dialect.name).rows_of_each(conn, [rows[digest] for digest in sorted(rows)])
        ids = {row.digest: row.id for row in used}
        found = [{"job": job, "plan_id": ids[digest]} for digest in sorted(jobs) for job in sorted(jobs[digest])]
        if found:
            insert_missing_rows(conn, plan_jobs, found)
        return [ids[digest] for digest in digests]

    def load(self, conn: Connection, ids: Iterable[int]) -> dict[int, RunPlan]:
        """Plans by id."""
        wanted = set(ids)
        with self._lock:
            found = {id_: self._parsed[id_] for id_ in wanted if id_ in self._parsed}
        missing = wanted - found.keys()
        if missing:
            loaded = {
                row.id: RunPlan(_STEPS.validate_json(row.steps), Policy.model_validate_json(row.policy))
                for row in _PLANS.rows(conn, missing)
            }
            found |= loaded
            with self._lock:
                if len(self._parsed) + len(loaded) > CACHE_SIZE:
                    self._parsed.clear()
                self._parsed |= loaded
        return found


@cache
def _upsert_plan(dialect: str) -> Prepared:
    """Insert a plan or update its used_at, which also locks the row against a concurrent prune of unused plans."""
    names = ("digest", "steps", "policy", "used_at")
    statement = dialect_insert(dialect, plans)
    statement = statement.on_conflict_do_update(index_elements=["digest"], set_={"used_at": statement.excluded.used_at})
    return Prepared(statement.returning(plans.c.id, plans.c.digest), names)
