"""Steps and policy of runs. Runs that were queued with the same share one row, which never changes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from pydantic import TypeAdapter
from sqlalchemy import bindparam, select
from sqlalchemy.engine import Connection

from maintd.model import NewRun, Policy, StepPlan
from maintd.store.engine import dialect_insert
from maintd.store.statements import Prepared, PreparedOfSeveral, add_new
from maintd.store.tables import plan_jobs, plans

_STEPS: TypeAdapter[tuple[StepPlan, ...]] = TypeAdapter(tuple[StepPlan, ...])

KEPT = 2048
"""Most plans that are kept parsed; a calendar has some tens, and each takes some 2 KiB."""

_PLANS = PreparedOfSeveral(select(plans.c.id, plans.c.steps, plans.c.policy).order_by(plans.c.id), plans.c.id)


@dataclass(frozen=True)
class Plan:
    """What a run is to do, and how it is treated."""

    steps: tuple[StepPlan, ...]
    policy: Policy


class Plans:
    """Writes plans, each once, and reads them, parsed once."""

    def __init__(self) -> None:
        self._parsed: dict[int, Plan] = {}
        self._lock = threading.Lock()

    def ids_of(self, conn: Connection, runs: Iterable[NewRun], now: datetime) -> list[int]:
        """The plan's row for each of the runs, made where there is none."""
        known: dict[str, int] = {}
        found: list[int] = []
        for run in runs:
            steps, policy = _STEPS.dump_json(run.plan).decode(), run.policy.model_dump_json()
            digest = hashlib.sha256(f"{steps}\n{policy}".encode()).hexdigest()
            if digest not in known:
                known[digest] = _row_of(conn, digest, steps, policy, run, now)
            found.append(known[digest])
        return found

    def load(self, conn: Connection, ids: Iterable[int]) -> dict[int, Plan]:
        """The plans of these ids."""
        wanted = set(ids)
        with self._lock:
            found = {id_: self._parsed[id_] for id_ in wanted if id_ in self._parsed}
        missing = wanted - found.keys()
        if missing:
            fresh = {
                row.id: Plan(_STEPS.validate_json(row.steps), Policy.model_validate_json(row.policy))
                for row in _PLANS.all(conn, missing)
            }
            found |= fresh
            with self._lock:
                if len(self._parsed) + len(fresh) > KEPT:
                    self._parsed.clear()
                self._parsed |= fresh
        return found


def _row_of(conn: Connection, digest: str, steps: str, policy: str, run: NewRun, now: datetime) -> int:
    dialect = conn.dialect.name
    plan = {"digest": digest, "steps": steps, "policy": policy, "used_at": now}
    plan_id: int = _use_plan(dialect).one_or_none(conn, plan).id
    jobs = [{"job": job, "plan_id": plan_id} for job in dict.fromkeys(step.job for step in run.plan)]
    if jobs:
        add_new(conn, plan_jobs, jobs)
    return plan_id


@cache
def _use_plan(dialect: str) -> Prepared:
    """used_at is written also when the row exists: that locks it against a prune that finds it unused."""
    names = ("digest", "steps", "policy", "used_at")
    statement = dialect_insert(dialect, plans).values({name: bindparam(name) for name in names})
    statement = statement.on_conflict_do_update(index_elements=["digest"], set_={"used_at": statement.excluded.used_at})
    return Prepared(statement.returning(plans.c.id), names)
