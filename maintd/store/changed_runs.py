"""Which runs belong in the change log, and which run with a job came after another."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import exists, or_, select
from sqlalchemy.engine import Connection

from maintd.model.evidence import ChangeState
from maintd.model.run import Run, RunState
from maintd.store.database import Database
from maintd.store.history import load_runs
from maintd.store.run_plans import RunPlans
from maintd.store.tables import changes, entries, gate_decisions, plan_jobs, runs

_ENDED_BADLY = [
    state.value for state in (RunState.FAILED, RunState.UNKNOWN, RunState.TIMED_OUT, RunState.CANCELLED, RunState.LOST)
]


class ChangedRuns:
    """Runs that changed something, or can have done so."""

    def __init__(self, database: Database, plans: RunPlans) -> None:
        self._database = database
        self._plans = plans

    def page(
        self, *, entry: str | None = None, since: datetime | None = None, before_id: int | None = None, limit: int = 50
    ) -> list[Run]:
        """Runs with all their evidence, newest first: with a change, with a decision at a gate, or with a bad end, of
        which the caller looks whether they can have changed something. Dry runs are left out.
        """
        changed = exists().where(changes.c.run_id == runs.c.id, changes.c.state != ChangeState.PLANNED.value)
        decided = exists().where(gate_decisions.c.run_id == runs.c.id)
        badly = runs.c.started_at.is_not(None) & runs.c.state.in_(_ENDED_BADLY)
        query = select(runs.c.id).where(or_(changed, decided, badly), runs.c.dry_run.is_(False))
        if entry is not None:
            query = query.where(
                runs.c.entry_id == select(entries.c.id).where(entries.c.name == entry).scalar_subquery()
            )
        if before_id is not None:
            query = query.where(runs.c.id < before_id)
        if since is not None:
            first = select(runs.c.id).where(runs.c.queued_at >= since).order_by(runs.c.queued_at, runs.c.id).limit(1)
            query = query.where(runs.c.id >= first.scalar_subquery(), runs.c.queued_at >= since)
        query = query.order_by(runs.c.id.desc()).limit(limit)

        def transaction(conn: Connection) -> list[Run]:
            ids = conn.execute(query).scalars().all()
            found = load_runs(conn, self._plans, dict.fromkeys(ids, True))
            return [found[run_id] for run_id in ids if run_id in found]

        return self._database.read(transaction)

    def next_with_job(self, job: str, after_id: int, at: datetime) -> Run | None:
        """The first ended run with a step of that job that is newer than a run and started at or after that time."""
        final = [state.value for state in RunState if state.final]

        def transaction(conn: Connection) -> Run | None:
            plan_ids = conn.execute(select(plan_jobs.c.plan_id).where(plan_jobs.c.job == job)).scalars().all()
            found: list[int] = []
            for plan_id in plan_ids:  # each seeks in its index
                query = select(runs.c.id).where(
                    runs.c.plan_id == plan_id,
                    runs.c.id > after_id,
                    runs.c.started_at >= at,
                    runs.c.state.in_(final),
                    runs.c.dry_run.is_(False),
                )
                found += conn.execute(query.order_by(runs.c.id).limit(1)).scalars()
            if not found:
                return None
            return load_runs(conn, self._plans, {min(found): True}).get(min(found))

        return self._database.read(transaction)
