"""The queue of runs: added, claimed under a fence, kept by a lease, finished. Every change of state is conditional."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    CompoundSelect,
    Integer,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from maintd.model.run import (
    TRANSITIONS,
    DecisionKind,
    GateDecision,
    NewRun,
    Run,
    RunState,
    RunSummary,
    StepState,
)
from maintd.model.run_updates import RunUpdate
from maintd.store import mapping, prepared
from maintd.store.apply_updates import TAKES_OVER, apply_updates, mark_run_lost
from maintd.store.database import ConflictError, Database, insert_into
from maintd.store.entries import entry_id_of, insert_runs, run_row
from maintd.store.gates import end_wait
from maintd.store.history import load_runs
from maintd.store.prepared import Prepared, PreparedForValues
from maintd.store.records import Records
from maintd.store.run_events import RunChanged, add_run_events
from maintd.store.run_plans import RunPlans
from maintd.store.run_summaries import summaries
from maintd.store.tables import (
    HAS_KEY,
    IS_HELD,
    IS_QUEUED,
    IS_RUNNING,
    IS_WAITING,
    UtcDateTime,
    entries,
    is_in_progress,
    is_to_continue,
    locks,
    run_events,
    runs,
    steps,
)

MAX_PLANNED = 200
"""Most runs for later times that are shown."""

_PLANNED = Prepared(
    select(runs.c.id)
    .where(IS_QUEUED, runs.c.not_before > bindparam("now"), runs.c.due_at.is_(None), runs.c.started_at.is_(None))
    .order_by(runs.c.not_before, runs.c.id)
    .limit(MAX_PLANNED)
)

IS_UNFINISHED = or_(*(runs.c.state == state.value for state in RunState if not state.final))

_other, _held, _next = runs.alias("other"), runs.alias("held_run"), runs.alias("to_continue")
# Not correlated, so that SQLite reads the few such runs, not all of the entry.
_WITH_HELD = select(_held.c.entry_id).where(_held.c.held.is_(literal_column("true")))
_TO_CONTINUE = select(_next.c.entry_id).where(is_to_continue(_next))
_ENTRY_IS_FREE = and_(
    ~exists().where(_other.c.entry_id == runs.c.entry_id, is_in_progress(_other)),
    runs.c.entry_id.not_in(_WITH_HELD),
    or_(
        runs.c.started_at.is_not(None),
        and_(is_to_continue(), runs.c.entry_id.not_in(_TO_CONTINUE.where(_next.c.started_at.is_not(None)))),
        runs.c.entry_id.not_in(_TO_CONTINUE),
    ),
)
"""Whether it is the turn of a queued run: only one of an entry is in the middle of its steps.

1. No run of the entry is running or waits at a gate, and none is held.
2. First comes one that has begun: after a gate, or after the wait for a lock in the middle.
3. Then one that resumes or undoes another run, whose effects and locks it has. Then any other.
"""


_QUEUE_INDEX = "ix_runs_queued"
"""Without a hint SQLite reads and sorts all queued runs for each query."""

_OTHERS = {_next.name: "ix_runs_to_continue"}
"""Without a hint SQLite reads all queued runs for each run that it may claim."""

_CLAIM = PreparedForValues(
    update(runs)
    .where(IS_QUEUED, runs.c.not_before <= bindparam("now"), _ENTRY_IS_FREE)
    .values(
        state=RunState.RUNNING.value,
        fence=runs.c.fence + 1,
        recorded_seq=0,
        node=bindparam("by_node"),
        incarnation=bindparam("by_incarnation"),
        lease_until=bindparam("until"),
        started_at=func.coalesce(runs.c.started_at, bindparam("now", type_=UtcDateTime())),
    )
    .returning(runs.c.id, runs.c.fence, runs.c.trigger),
    runs.c.id,
    _OTHERS,
)

_CLAIMABLE = Prepared(
    select(runs.c.id, runs.c.entry_id)
    .where(IS_QUEUED, runs.c.not_before <= bindparam("now"), _ENTRY_IS_FREE)
    .order_by(runs.c.not_before, runs.c.id)
    .limit(bindparam("most", type_=Integer())),
    index=_QUEUE_INDEX,
    alias_indexes=_OTHERS,
)

_NEXT_NOT_BEFORE = Prepared(
    select(runs.c.not_before).where(IS_QUEUED, _ENTRY_IS_FREE).order_by(runs.c.not_before).limit(1),
    index=_QUEUE_INDEX,
    alias_indexes=_OTHERS,
)

_RENEW = (
    update(runs)
    .where(runs.c.id == bindparam("of_id"), runs.c.fence == bindparam("of_fence"), IS_RUNNING)
    .values(lease_until=bindparam("until"))
    .returning(runs.c.cancel_requested)
)


_UNFINISHED = PreparedForValues(
    mapping.select_runs(*mapping.SUMMARY).where(IS_UNFINISHED).order_by(entries.c.name), entries.c.name
)
"""Not ordered by id: SQLite would then read the entry's whole history, which has that order."""

MAX_UNFINISHED = 100
"""Most unfinished runs of all entries that are shown."""


def _newest_unfinished() -> CompoundSelect[Any]:
    """The highest ids of each unfinished state: a range of an index for each."""
    ranges = []
    for state in RunState:
        if not state.final:
            of_state = select(runs.c.id).where(runs.c.state == literal_column(f"'{state.value}'"))
            ranges.append(select(of_state.order_by(runs.c.id.desc()).limit(MAX_UNFINISHED).subquery().c.id))
    return union_all(*ranges)


_NEWEST_UNFINISHED = Prepared(_newest_unfinished())


CLAIM_STATEMENTS = (_UNFINISHED, _CLAIMABLE, _CLAIM, _NEXT_NOT_BEFORE)
"""What every plan and every claim executes."""


class Runs:
    """The queue of runs."""

    def __init__(self, database: Database, plans: RunPlans) -> None:
        self._database = database
        self._plans = plans

    def add(self, run: NewRun, now: datetime) -> tuple[int, bool]:
        """Queue a requested run; return its id and whether it is new.

        If another run has the same idempotency key, its id is returned instead.
        """

        def transaction(conn: Connection) -> tuple[int, bool]:
            entry_id = entry_id_of(conn, run.entry, run.title, now)
            if run.idempotency_key is None:
                return insert_runs(conn, self._plans, [(entry_id, run, now)])[0], True
            same = select(runs.c.id).where(runs.c.idempotency_key == run.idempotency_key)
            # An insert that conflicts uses up a number, and a gap in the numbers looks like a run that was deleted.
            known = conn.execute(same).scalar_one_or_none()
            if known is not None:
                return known, False
            plan_id = self._plans.ids_of(conn, [run], now)[0]
            statement = insert_into(conn, runs).values(run_row(entry_id, run, now, plan_id))
            statement = statement.on_conflict_do_nothing(index_elements=["idempotency_key"], index_where=HAS_KEY)
            new = conn.execute(statement.returning(runs.c.id)).scalar_one_or_none()
            if new is not None:
                add_run_events(conn, [RunChanged(new, run.state, now)])
                return new, True
            return conn.execute(same).scalar_one(), False

        return self._database.write(transaction)

    def add_claimed(self, run: NewRun, node: str, incarnation: str, lease_until: datetime, now: datetime) -> Run | None:
        """Add a run and claim it for this process. None: another run of the entry is running."""

        def transaction(conn: Connection) -> Run | None:
            entry_id = entry_id_of(conn, run.entry, run.title, now)
            # A row that is deleted below leaves a gap in the numbers, which looks like a run that was deleted.
            busy = select(runs.c.id).where(runs.c.entry_id == entry_id, or_(IS_RUNNING, IS_WAITING, IS_HELD)).limit(1)
            if conn.execute(busy).first() is not None:
                return None
            run_id = insert_runs(conn, self._plans, [(entry_id, run, now)])[0]
            claimed = _claim(conn, self._plans, [run_id], _Claim(node, incarnation, lease_until, now))
            if not claimed:
                conn.execute(delete(run_events).where(run_events.c.run_id == run_id))
                conn.execute(delete(runs).where(runs.c.id == run_id))
            return claimed.get(run_id)

        try:
            return self._database.write(transaction)
        except ConflictError:  # another run of the entry was claimed in the meantime
            return None

    def claimable(self, now: datetime, limit: int = 100) -> list[int]:
        """Ids of queued runs that can start now, longest waiting first.

        An entry with a running or a held run has none; any other has one, for which its further runs wait.
        """
        wanted = {"now": now, "most": limit}
        first: dict[int, int] = {}
        for row in self._database.read(lambda conn: _CLAIMABLE.rows_without_transaction(conn, wanted)):
            first.setdefault(row.entry_id, row.id)
        return list(first.values())

    def next_not_before(self) -> datetime | None:
        """When the next queued run can start; runs that wait for another run of their entry do not count."""
        found = self._database.read(lambda conn: _NEXT_NOT_BEFORE.rows_without_transaction(conn, {}))
        return found[0].not_before if found else None

    def planned(self, now: datetime) -> list[Run]:
        """The first MAX_PLANNED runs that were requested for a later time, soonest first, with their policy."""

        def transaction(conn: Connection) -> list[Run]:
            ids = [row.id for row in _PLANNED.rows(conn, {"now": now})]
            found = load_runs(conn, self._plans, dict.fromkeys(ids, False))
            return [found[run_id] for run_id in ids]

        return self._database.read(transaction)

    def unfinished(self, names: Sequence[str]) -> list[RunSummary]:
        """Queued and running runs of these entries, ordered by entry and age."""
        if not names:
            return []
        found = self._database.read(lambda conn: [mapping.summary(row) for row in _UNFINISHED.rows(conn, names)])
        return sorted(found, key=lambda run: (run.entry, run.id))

    def newest_unfinished(self) -> list[RunSummary]:
        """The newest MAX_UNFINISHED runs of all entries that are not over, newest first."""

        def transaction(conn: Connection) -> list[RunSummary]:
            ids = sorted((row.id for row in _NEWEST_UNFINISHED.rows(conn, {})), reverse=True)[:MAX_UNFINISHED]
            found = summaries(conn, ids)
            return [found[run_id] for run_id in ids]

        return self._database.read(transaction)

    def claim(self, run_id: int, node: str, incarnation: str, lease_until: datetime, now: datetime) -> Run | None:
        """Claim a queued run under a new fence. None: it is claimed, over or not due, or its entry has one that is
        running or held."""
        by = _Claim(node, incarnation, lease_until, now)
        try:
            return self._database.write(lambda conn: _claim(conn, self._plans, [run_id], by)).get(run_id)
        except ConflictError:  # another run of the entry was claimed in the meantime
            return None

    def claim_many(
        self, run_ids: Sequence[int], node: str, incarnation: str, lease_until: datetime, now: datetime
    ) -> list[Run]:
        """Like `claim`, for several runs in one transaction; returns those that it claimed."""
        by = _Claim(node, incarnation, lease_until, now)
        try:
            claimed = self._database.write(lambda conn: _claim(conn, self._plans, run_ids, by))
        except ConflictError:
            found = [self.claim(run_id, *by) for run_id in run_ids]
            return [run for run in found if run is not None]
        return [claimed[run_id] for run_id in run_ids if run_id in claimed]

    def renew(self, run_id: int, fence: int, lease_until: datetime) -> str | None:
        """Extend the lease. Returns None when the claim is over, else the cancel request, or an empty text."""
        held = {"of_id": run_id, "of_fence": fence, "until": lease_until}
        return self._database.write(lambda conn: conn.execute(_RENEW, held).scalar_one_or_none())

    def renew_all(
        self, node: str, incarnation: str, lease_until: datetime, fences: Mapping[int, int]
    ) -> dict[int, str | None]:
        """Like `renew`, for all runs of a node at once; `fences` by run id."""
        held = (
            update(runs)
            .where(IS_RUNNING, runs.c.node == node, runs.c.incarnation == incarnation, runs.c.id.in_(list(fences)))
            .values(lease_until=lease_until)
            .returning(runs.c.id, runs.c.fence, runs.c.cancel_requested)
        )

        def transaction(conn: Connection) -> dict[int, str | None]:
            answers: dict[int, str | None] = dict.fromkeys(fences)
            for row in conn.execute(held):
                if row.fence == fences[row.id]:
                    answers[row.id] = row.cancel_requested
            return answers

        return self._database.write(transaction) if fences else {}

    def apply(self, run_id: int, fence: int, first_seq: int, updates: Sequence[RunUpdate]) -> bool:
        """Record updates of a run, numbered from `first_seq`, in one transaction; those recorded before are left out.

        False: the claim with that fence is over, or the run's state does not allow the updates; nothing is recorded,
        and a retry cannot succeed. A gap in the numbers means lost evidence; later updates are recorded.
        """

        def on_late_evidence(conn: Connection) -> None:
            Records(self._database).add_evidence_of_lost(conn, run_id, self._database.now())

        return self._database.write(
            lambda conn: apply_updates(conn, self._plans, run_id, fence, first_seq, updates, on_late_evidence)
        )

    def request_cancel(self, run_id: int, by: str, why: str, now: datetime) -> RunState | None:
        """Cancel a queued run, or record the request for one that has started. Returns its state, None if unknown.

        A run that has started a step ends only after its undo and its `always` steps, at a gate too; and so does one
        that resumes or undoes another run, whose effects and locks it has, also before it has started.
        """
        text = f"{by}: {why}" if why else by
        has_steps = exists().where(steps.c.run_id == runs.c.id)
        at_once = _transition(run_id, RunState.CANCELLED, only_from=(RunState.QUEUED,))
        at_once = at_once.where(~has_steps, runs.c.trigger.not_in(TAKES_OVER)).values(
            reason=f"cancelled by {text}", cancel_requested=text, finished_at=now
        )
        unfinished = update(runs).where(runs.c.id == run_id, or_(IS_RUNNING, IS_QUEUED, IS_WAITING))
        request = unfinished.values(cancel_requested=text)

        def transaction(conn: Connection) -> RunState | None:
            if conn.execute(at_once).rowcount == 1:
                prepared.delete_rows_of_run(conn, locks, run_id)
                add_run_events(conn, [RunChanged(run_id, RunState.CANCELLED, now)])
            else:
                conn.execute(request)
                decision = GateDecision(step=0, kind=DecisionKind.CANCELLED, by=by, at=now, note=why)
                end_wait(conn, run_id, decision, StepState.CANCELLED, f"cancelled by {text}")
            state = conn.execute(select(runs.c.state).where(runs.c.id == run_id)).scalar_one_or_none()
            return None if state is None else RunState(state)

        return self._database.write(transaction)

    def expired(self, now: datetime) -> list[RunSummary]:
        """Running runs whose lease ended before `now`."""
        return self._summaries(mapping.select_runs(*mapping.SUMMARY).where(IS_RUNNING, runs.c.lease_until < now))

    def claimed_by_earlier_process(self, node: str, incarnation: str) -> list[RunSummary]:
        """Running runs of this node that an earlier process claimed; `incarnation` is the current process."""
        query = mapping.select_runs(*mapping.SUMMARY).where(
            IS_RUNNING, runs.c.node == node, runs.c.incarnation != incarnation
        )
        return self._summaries(query)

    def mark_lost(self, run_id: int, fence: int, reason: str, now: datetime, *, if_expired: bool = False) -> bool:
        """Running → lost, with its steps, and release its locks. False: the claim with this fence is over.

        With `if_expired` also False when the lease has not expired.
        """
        return self._database.write(lambda conn: mark_run_lost(conn, run_id, fence, reason, now, if_expired=if_expired))

    def _summaries(self, query: Any) -> list[RunSummary]:
        return self._database.read(lambda conn: [mapping.summary(row) for row in conn.execute(query)])


class _Claim(NamedTuple):
    node: str
    incarnation: str
    lease_until: datetime
    now: datetime


def _claim(conn: Connection, plans: RunPlans, run_ids: Sequence[int], by: _Claim) -> dict[int, Run]:
    wanted = {"now": by.now, "by_node": by.node, "by_incarnation": by.incarnation, "until": by.lease_until}
    claimed = _CLAIM.rows(conn, run_ids, wanted)
    add_run_events(conn, [RunChanged(row.id, RunState.RUNNING, by.now) for row in claimed])
    return load_runs(conn, plans, {row.id: row.fence > 1 or row.trigger in TAKES_OVER for row in claimed})


def _transition(run_id: int, to: RunState, *, only_from: Iterable[RunState]) -> Any:
    """An UPDATE to a state, conditional on the current state being one of `only_from`."""
    origins = tuple(only_from)
    assert all(to in TRANSITIONS[state] for state in origins), f"{origins} → {to} is not an allowed transition"
    allowed: ColumnElement[bool] = runs.c.state.in_([state.value for state in origins])
    return update(runs).where(runs.c.id == run_id, allowed).values(state=to.value)


def overdue_runs(conn: Connection, before: datetime, limit: int) -> list[RunSummary]:
    """Queued runs that could have started before that time, longest waiting first.

    One that waits until a person has decided at the gate of an earlier run is not late.
    """
    at_gate = exists().where(_other.c.entry_id == runs.c.entry_id, _other.c.state == literal_column("'waiting'"))
    query = mapping.select_runs(*mapping.SUMMARY).where(IS_QUEUED, runs.c.not_before <= before, ~at_gate)
    return [mapping.summary(row) for row in conn.execute(query.order_by(runs.c.not_before, runs.c.id).limit(limit))]


def running_runs(conn: Connection, limit: int) -> list[RunSummary]:
    """Running runs, oldest first."""
    query = mapping.select_runs(*mapping.SUMMARY).where(IS_RUNNING).order_by(runs.c.id).limit(limit)
    return [mapping.summary(row) for row in conn.execute(query)]
