"""Apply the updates of a claimed run, combined into as few statements as possible."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Table, bindparam, delete, insert, select, update
from sqlalchemy.engine import Connection

from maintd.model.entry import merged_locks
from maintd.model.evidence import (
    Artifact,
    Change,
    ChangeState,
    Check,
    Handed,
    LogLine,
    LogTrim,
    Measure,
    Phase,
    Progress,
    Report,
)
from maintd.model.run import TRANSITIONS, AttemptState, RunState, StepState, Trigger
from maintd.model.run_updates import (
    AttemptFinished,
    AttemptReported,
    AttemptStarted,
    RunFinished,
    RunRequeued,
    RunUpdate,
    RunWaiting,
    StepFinished,
    StepStarted,
    StepWaiting,
)
from maintd.store import prepared
from maintd.store.mapping import AnyRow
from maintd.store.prepared import COUNTERS, Prepared
from maintd.store.run_events import RunChanged, add_run_events
from maintd.store.run_plans import RunPlans
from maintd.store.tables import (
    HELD_BY_RUN,
    IS_RUNNING,
    artifacts,
    attempts,
    changes,
    checks,
    handed_values,
    locks,
    log_lines,
    measures,
    runs,
    series,
    steps,
)

ACCEPTS_EVIDENCE = (RunState.RUNNING, RunState.LOST)

TAKES_OVER = (Trigger.RESUME.value, Trigger.UNDO.value)
"""Triggers of runs that have steps of an earlier run before they start."""

_CLAIM = Prepared(
    select(
        runs.c.state,
        runs.c.fence,
        runs.c.recorded_seq,
        runs.c.entry_id,
        runs.c.plan_id,
        runs.c.trigger,
        runs.c.cancel_requested,
        runs.c.queued_at,
        runs.c.started_at,
        runs.c.reason,
        runs.c.finished_at,
    )
    .where(runs.c.id == bindparam("run_id"))
    .with_for_update()
)

_SERIES = Prepared(select(series.c.id, series.c.job, series.c.name).where(series.c.entry_id == bindparam("entry_id")))


def apply_updates(
    conn: Connection,
    plans: RunPlans,
    run_id: int,
    fence: int,
    first_seq: int,
    updates: Sequence[RunUpdate],
    on_late_evidence: Callable[[Connection], None] = lambda conn: None,
) -> bool:
    """See `Runs.apply`. `on_late_evidence` is called when a lost run got evidence, but no outcome.

    1. Return False, before anything is written, for an old fence, an update that the run's state does not allow, and a
       step that the plan does not have.
    2. Leave out the updates that were recorded before.
    3. Record the evidence. Attempts of a lost run stay lost.
    4. Finish or requeue the run, and release its locks.
    """
    claim = _CLAIM.one_or_none(conn, {"run_id": run_id})
    if claim is None or claim.fence != fence:
        return False
    new = updates[max(0, claim.recorded_seq + 1 - first_seq) :]
    if not new:
        return True
    end = next((update for update in new if isinstance(update, RunFinished | RunRequeued | RunWaiting)), None)
    if not _allowed(RunState(claim.state), new, end):
        return False
    plan = plans.load(conn, [claim.plan_id])[claim.plan_id]
    if not all(0 <= getattr(update, "step", 0) < len(plan.steps) for update in new):
        return False
    batch = _UpdateBatch(run_id, claim.entry_id, [step.job for step in plan.steps])
    for run_update in new:
        batch.add(conn, run_update)
    batch.flush(conn)
    last = first_seq + len(updates) - 1
    if end is None:
        prepared.update_row(conn, runs, {"id": run_id}, {"recorded_seq": last})
        if claim.state == RunState.LOST.value:
            mark_attempts_lost(conn, run_id, claim.reason, claim.finished_at)
            on_late_evidence(conn)
        return True
    state = _finish(conn, run_id, claim, end, last)
    if any(step.locks for step in plan.steps):
        if state.final:
            prepared.delete_rows_of_run(conn, locks, run_id)
        elif plan.policy.hold_locks:
            conn.execute(update(locks).where(locks.c.run_id == run_id).values(held=True))
        else:  # those that it has from a held run stay until its end
            conn.execute(delete(locks).where(locks.c.run_id == run_id, locks.c.held.is_(False)))
    return True


_End = RunFinished | RunRequeued | RunWaiting


def _allowed(state: RunState, new: Sequence[RunUpdate], end: _End | None) -> bool:
    if state not in ACCEPTS_EVIDENCE:
        return False
    if end is None:
        return True
    if end is not new[-1]:
        return False
    if isinstance(end, RunFinished):
        return end.state.final and end.state in TRANSITIONS[state]
    return (RunState.WAITING if isinstance(end, RunWaiting) else RunState.QUEUED) in TRANSITIONS[state]


def _finish(conn: Connection, run_id: int, claim: AnyRow, end: _End, last: int) -> RunState:
    """Record the end of a claim; the state that the run has then."""
    columns: dict[str, Any] = {"reason": end.reason, "lease_until": None}
    if isinstance(end, RunFinished):
        skip = None if end.skip_reason is None else end.skip_reason.value
        columns |= {"state": end.state.value, "skip_reason": skip, "finished_at": end.at, "recorded_seq": last}
        columns["held"] = False
    elif isinstance(end, RunWaiting):
        columns |= {"state": RunState.WAITING.value, "waiting_step": end.step, "waiting_until": end.until}
        columns |= {"node": None, "incarnation": None, "recorded_seq": 0}
        if claim.cancel_requested:  # it must not wait: the next claim ends it
            columns |= {"state": RunState.QUEUED.value, "not_before": end.at}
            columns |= {"waiting_step": None, "waiting_until": None}
    elif claim.trigger in TAKES_OVER or _has_finished_steps(conn, run_id):  # it continues, after a gate or another run
        columns |= {"state": RunState.QUEUED.value, "not_before": end.not_before, "recorded_seq": 0}
        columns |= {"node": None, "incarnation": None}
        # One that takes over steps and has run none itself has not begun: it has waited for the end of a freeze.
        began_now = claim.started_at is not None and claim.started_at >= claim.queued_at
        if began_now and not _has_finished_steps(conn, run_id, claim.queued_at):
            columns["started_at"] = None
        waited = update(steps).where(steps.c.run_id == run_id, steps.c.state == StepState.RUNNING.value)
        conn.execute(waited.values(state=StepState.PENDING.value, reason="", started_at=None))
    elif claim.cancel_requested:  # requested while it was running: it must not start again
        reason = f"cancelled by {claim.cancel_requested}"
        columns |= {"state": RunState.CANCELLED.value, "reason": reason, "finished_at": end.at, "recorded_seq": last}
    else:
        columns |= {"state": RunState.QUEUED.value, "not_before": end.not_before, "recorded_seq": 0}
        # Nothing has started: the next claim sets the start, and the time in the queue is no part of the duration.
        columns |= {"node": None, "incarnation": None, "started_at": None}
        unfinished = (StepState.PENDING.value, StepState.RUNNING.value)
        of_claim = (steps.c.run_id == run_id, steps.c.left_by.is_(None))
        conn.execute(delete(steps).where(*of_claim, steps.c.state.in_(unfinished)))
    prepared.update_row(conn, runs, {"id": run_id}, columns)
    state = RunState(columns["state"])
    add_run_events(conn, [RunChanged(run_id, state, end.at)])
    return state


def _has_finished_steps(conn: Connection, run_id: int, since: datetime | None = None) -> bool:
    unfinished = (StepState.PENDING.value, StepState.RUNNING.value)
    finished = select(steps.c.step).where(steps.c.run_id == run_id, steps.c.state.not_in(unfinished)).limit(1)
    if since is not None:
        finished = finished.where(steps.c.finished_at >= since)
    return conn.execute(finished).one_or_none() is not None


def mark_run_lost(conn: Connection, run_id: int, fence: int, reason: str, now: datetime, *, if_expired: bool) -> bool:
    """Running → lost, with its steps, and release its locks. False: the claim with this fence is over.

    A run with undo steps of which a step had started is held: it keeps the locks of all its steps.

    With `if_expired` also False when the lease has not expired: the node can have renewed it since it was read.
    """
    claim = update(runs).where(runs.c.id == run_id, runs.c.fence == fence, IS_RUNNING)
    if if_expired:
        claim = claim.where(runs.c.lease_until < now)
    lost = claim.values(state=RunState.LOST.value, reason=reason, finished_at=now, lease_until=None)
    if conn.execute(lost).rowcount != 1:
        return False
    add_run_events(conn, [RunChanged(run_id, RunState.LOST, now)])
    mark_attempts_lost(conn, run_id, reason, now)
    prepared.delete_rows_of_run(conn, locks, run_id)
    _hold(conn, run_id, fence, now)
    return True


def _hold(conn: Connection, run_id: int, fence: int, now: datetime) -> None:
    """Hold a lost run if there is something to undo, which for a run that follows from a held one is not asked."""
    plan_id, trigger = conn.execute(select(runs.c.plan_id, runs.c.trigger).where(runs.c.id == run_id)).one()
    plan = RunPlans().load(conn, [plan_id])[plan_id].steps
    started = select(steps.c.step).where(steps.c.run_id == run_id, steps.c.started_at.is_not(None))
    made = {plan[index].name for index in conn.execute(started).scalars() if not plan[index].gate}
    if not (made or trigger in TAKES_OVER) or not any(step.undoes for step in plan):
        return
    conn.execute(update(runs).where(runs.c.id == run_id).values(held=True))
    modes = merged_locks(plan)
    kept = {"run_id": run_id, "step": HELD_BY_RUN, "fence": fence, "since": now, "held": True}
    if modes:
        conn.execute(insert(locks), [{"lock": name, "mode": mode, **kept} for name, mode in sorted(modes.items())])


def mark_attempts_lost(conn: Connection, run_id: int, reason: str, at: datetime) -> None:
    """Mark the run's running steps and attempts as lost."""
    for table, running, lost in (
        (steps, StepState.RUNNING, StepState.LOST),
        (attempts, AttemptState.RUNNING, AttemptState.LOST),
    ):
        unfinished = update(table).where(table.c.run_id == run_id, table.c.state == running.value)
        conn.execute(unfinished.values(state=lost.value, reason=reason, finished_at=at))
    intended = update(changes).where(changes.c.run_id == run_id, changes.c.state == ChangeState.INTENDED.value)
    conn.execute(intended.values(state=ChangeState.UNCERTAIN.value, cause=reason))


class _UpdateBatch:
    """Collects the changes of several updates, so that each row is written once."""

    def __init__(self, run_id: int, entry_id: int, jobs: Sequence[str]) -> None:
        self._run_id = run_id
        self._entry_id = entry_id
        self._jobs = jobs
        self._steps: dict[int, dict[str, Any]] = {}
        self._attempts: dict[tuple[int, int], dict[str, Any]] = {}
        self._lines: dict[tuple[int, int], dict[int, LogLine]] = {}
        self._changes: dict[tuple[int, int, int], dict[str, Any]] = {}  # rows of this batch
        self._handed: dict[str, dict[str, Any]] = {}
        self._rows: dict[Table, list[dict[str, Any]]] = {checks: [], changes: [], artifacts: [], measures: []}

    def add(self, conn: Connection, update: RunUpdate) -> None:
        match update:
            case StepStarted():
                step = {"state": StepState.RUNNING.value, "reason": "", "started_at": update.at, "finished_at": None}
                self._steps[update.step] = step
            case RunWaiting():
                step = {"state": StepState.WAITING.value, "reason": update.reason, "started_at": update.at}
                self._steps[update.step] = step | {"finished_at": None}
            case StepWaiting():
                self._steps.setdefault(update.step, {})["reason"] = update.reason
            case StepFinished():
                step = {"state": update.state.value, "reason": update.reason, "finished_at": update.at}
                self._steps.setdefault(update.step, {}).update(step)
            case AttemptStarted():
                self._attempt(update).update(
                    {
                        "state": AttemptState.RUNNING.value,
                        "reason": "",
                        "started_at": update.at,
                        "finished_at": None,
                        "pid": update.pid,
                        "phase": "",
                    }
                )
            case AttemptFinished():
                self._attempt(update).update(
                    {
                        "state": update.state.value,
                        "reason": update.reason,
                        "finished_at": update.at,
                        "exit_code": update.exit_code,
                        "signal": update.signal,
                        "complete": update.complete,
                    }
                )
            case AttemptReported():
                for item in update.items:
                    self._add_evidence(conn, update, item)
            case RunFinished() | RunRequeued():
                pass

    def _attempt(self, update: AttemptStarted | AttemptFinished | AttemptReported) -> dict[str, Any]:
        return self._attempts.setdefault((update.step, update.attempt), {})

    def _add_evidence(self, conn: Connection, update: AttemptReported, item: Report) -> None:
        where = {"run_id": self._run_id, "step": update.step, "attempt": update.attempt}
        match item:
            case Check():
                row = item.model_dump(exclude={"type", "status"})
                self._rows[checks].append(where | row | {"status": item.status.value})
            case Change():
                self._change(conn, where, item)
            case Artifact():
                self._rows[artifacts].append(where | item.model_dump(exclude={"type"}))
            case Measure():
                self._rows[measures].append(where | item.model_dump(exclude={"type"}))
            case Phase():
                self._attempt(update)["phase"] = item.name
            case Progress():
                self._attempt(update)["progress"] = item.model_dump_json()
            case LogLine():
                self._lines.setdefault((update.step, update.attempt), {})[item.seq] = item
            case LogTrim():
                self._trim(conn, update, item)
            case Handed():
                self._handed[item.name] = {"value": item.value, "step": update.step, "at": item.at}

    def _change(self, conn: Connection, where: dict[str, Any], change: Change) -> None:
        """Insert a change, or update one that was intended with what became of it."""
        row = where | change.model_dump(exclude={"type", "state", "done"}) | {"state": change.state.value}
        key = (row["step"], row["attempt"], change.number)
        waiting = self._changes.get(key)
        if change.number and change.state not in (ChangeState.PLANNED, ChangeState.INTENDED):
            if waiting is not None:
                waiting.update(row)
                return
            intended = update(changes).where(
                *(changes.c[name] == row[name] for name in ("run_id", "step", "attempt", "number"))
            )
            outcome = {name: row[name] for name in ("state", "cause", "details")}
            if conn.execute(intended.values(outcome)).rowcount:
                return
        self._changes[key] = row
        self._rows[changes].append(row)

    def _trim(self, conn: Connection, update: AttemptReported, trim: LogTrim) -> None:
        waiting = self._lines.get((update.step, update.attempt), {})
        attempt = self._attempt(update)
        for seq in [seq for seq in waiting if trim.first <= seq <= trim.last]:
            del waiting[seq]
        gone = delete(log_lines).where(
            log_lines.c.run_id == self._run_id,
            log_lines.c.step == update.step,
            log_lines.c.attempt == update.attempt,
            log_lines.c.seq.between(trim.first, trim.last),
        )
        texts = conn.execute(gone.returning(log_lines.c.text)).scalars().all()
        _count(attempt, "log_lines", -len(texts))
        _count(attempt, "log_bytes", -sum(map(_size, texts)))
        _count(attempt, "log_lines_left_out", trim.last - trim.first + 1)

    def flush(self, conn: Connection) -> None:
        """Write the collected changes."""
        for name, columns in self._handed.items():
            prepared.upsert_row(conn, handed_values, {"run_id": self._run_id, "name": name}, columns, {})
        for index, columns in self._steps.items():
            self._upsert(conn, steps, {"step": index}, {"reason": ""}, columns)
        self._flush_log(conn)
        for (step, number), columns in self._attempts.items():
            defaults = {"reason": "", "phase": "", **dict.fromkeys(COUNTERS, 0)}
            self._upsert(conn, attempts, {"step": step, "number": number}, defaults, columns)
        if self._rows[measures]:
            self._set_series_ids(conn)
        for table, rows in self._rows.items():
            if rows:
                prepared.insert_rows(conn, table, rows)

    def _upsert(
        self, conn: Connection, table: Table, key: dict[str, int], defaults: dict[str, Any], columns: dict[str, Any]
    ) -> None:
        key = {"run_id": self._run_id, **key}
        if "started_at" not in columns and (prepared.update_row(conn, table, key, columns) or table is attempts):
            return
        prepared.upsert_row(conn, table, key, columns, defaults)  # started, or a skipped step

    def _flush_log(self, conn: Connection) -> None:
        rows = []
        for (step, attempt), lines in self._lines.items():
            where = {"run_id": self._run_id, "step": step, "attempt": attempt}
            rows += [
                where | {"seq": line.seq, "at": line.at, "stream": line.stream, "text": line.text}
                for line in lines.values()
            ]
            counters = self._attempts.setdefault((step, attempt), {})
            _count(counters, "log_lines", len(lines))
            _count(counters, "log_bytes", sum(_size(line.text) for line in lines.values()))
        if rows:
            prepared.insert_missing_rows(conn, log_lines, rows)

    def _set_series_ids(self, conn: Connection) -> None:
        rows = self._rows[measures]
        wanted = {(self._jobs[row["step"]], row["name"]) for row in rows}
        known = self._series(conn)
        if missing := wanted - known.keys():
            values = [{"entry_id": self._entry_id, "job": job, "name": name} for job, name in sorted(missing)]
            prepared.insert_missing_rows(conn, series, values)
            known = self._series(conn)
        for row in rows:
            row["series_id"] = known[self._jobs[row["step"]], row.pop("name")]
            row["value"] = None if math.isnan(row["value"]) else row["value"]

    def _series(self, conn: Connection) -> dict[tuple[str, str], int]:
        found = _SERIES.rows(conn, {"entry_id": self._entry_id})
        return {(row.job, row.name): row.id for row in found}


def _count(counters: dict[str, Any], name: str, by: int) -> None:
    counters[name] = counters.get(name, 0) + by


def _size(text: str) -> int:
    return len(text.encode(errors="replace"))
