"""Retention: old evidence goes in short transactions, so that nobody waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Table, delete, exists, func, select, tuple_, update
from sqlalchemy.engine import Connection

from maintd.config.settings import Retention
from maintd.model.base import Model
from maintd.model.run import RunState
from maintd.store.database import Database
from maintd.store.last_runs import last_outcome_ids
from maintd.store.tables import RUN_TABLES, artifacts, attempts, entries, events, ledger, log_lines, plans, runs

MOST = 5000
"""Most rows of a batch."""

HOLD = timedelta(milliseconds=20)
"""How long a batch should take; the next one is made smaller or larger by how long the last one took."""

UNUSED_PLANS_STAY = timedelta(days=1)

_FINAL = tuple(state.value for state in RunState if state.final)


class PruneResult(Model):
    """What was deleted, and the longest that one batch held the store."""

    runs: int = 0
    log_lines: int = 0
    artifacts: int = 0
    instants: int = 0  # of the ledger
    events: int = 0
    plans: int = 0
    batches: int = 0
    longest_batch: timedelta = timedelta(0)

    def __str__(self) -> str:
        counted = ("runs", "log_lines", "artifacts", "instants", "events", "plans")
        return ", ".join(f"{getattr(self, name)} {name.replace('_', ' ')}" for name in counted)


@dataclass
class _Batches:
    """Performs acts of a growing or shrinking size until one finds nothing more to do."""

    database: Database
    on_batch: Callable[[int], None] | None
    count: int = 0
    longest: float = 0.0
    size: int = 200
    files: list[str] = field(default_factory=list)

    def run(self, transaction: Callable[[Connection, int], int]) -> int:
        """`act(conn, most)` deletes at most so many and says how many; the sum."""
        total = 0
        while done := self.database.write(lambda conn: self._timed(conn, transaction)):
            total += done
            self.count += 1
            if self.on_batch is not None:
                self.on_batch(done)
        return total

    def _timed(self, conn: Connection, transaction: Callable[[Connection, int], int]) -> int:
        started = time.perf_counter()
        done = transaction(conn, self.size)
        took = time.perf_counter() - started
        self.longest = max(self.longest, took)
        if took > HOLD.total_seconds():
            self.size = max(20, self.size // 2)
        elif took < HOLD.total_seconds() / 2 and done >= self.size:
            self.size = min(MOST, self.size * 2)
        return done


def prune(
    database: Database,
    retention: Retention,
    now: datetime,
    *,
    on_batch: Callable[[int], None] | None = None,
    artifacts_dir: Path | None = None,
) -> PruneResult:
    """See `Upkeep.prune`. Logs go first, then artifacts, runs by age and by number, at last what nothing refers to."""
    batches = _Batches(database, on_batch)
    kept = database.read(last_outcome_ids)
    lines = sum(batches.run(transaction) for transaction in _logs(database, now - retention.logs, kept))
    files = _Files(artifacts_dir)
    old_artifacts = batches.run(files.of_old_runs(now - retention.artifacts, kept))
    files.delete()
    pruned = batches.run(_runs_before(now - retention.runs, files))
    files.delete()
    for entry_id, last_id in database.read(lambda conn: _beyond(conn, retention.runs_per_entry)):
        pruned += batches.run(_runs_up_to(entry_id, last_id, files))
        files.delete()
    instants = sum(
        batches.run(_instants_before(entry_id, now - retention.ledger))
        for entry_id in database.read(lambda conn: _with_instants_before(conn, now - retention.ledger))
    )
    old_events = batches.run(_events_before(now - retention.ledger))
    unused = batches.run(_plans_unused_since(now - UNUSED_PLANS_STAY))
    return PruneResult(
        runs=pruned,
        log_lines=lines,
        artifacts=old_artifacts,
        instants=instants,
        events=old_events,
        plans=unused,
        batches=batches.count,
        longest_batch=timedelta(seconds=batches.longest),
    )


# --- logs -----------------------------------------------------------------------------------------------------------


def _logs(database: Database, before: datetime, kept: set[int]) -> Iterator[Callable[[Connection, int], int]]:
    """One act for each run with a log that is too old, oldest first."""
    last = 0
    while True:
        found = database.read(partial(_next_with_log, after=last))
        if found is None or found.queued_at >= before:
            return
        last = found.id
        if last not in kept and found.finished_at is not None and found.finished_at < before:
            yield _lines_of(last)


def _next_with_log(conn: Connection, after: int) -> Any:
    first = select(func.min(log_lines.c.run_id)).where(log_lines.c.run_id > after).scalar_subquery()
    query = select(runs.c.id, runs.c.queued_at, runs.c.finished_at).where(runs.c.id == first)
    return conn.execute(query).one_or_none()


def _lines_of(run_id: int) -> Callable[[Connection, int], int]:
    key = (log_lines.c.step, log_lines.c.attempt, log_lines.c.seq)
    of_run = log_lines.c.run_id == run_id

    def transaction(conn: Connection, most: int) -> int:
        first_kept = conn.execute(select(*key).where(of_run).order_by(*key).offset(most * 10).limit(1)).one_or_none()
        gone = delete(log_lines).where(of_run)
        if first_kept is not None:
            gone = gone.where(tuple_(*key) < tuple(first_kept))
        else:
            forgotten = {"log_lines_left_out": attempts.c.log_lines_left_out + attempts.c.log_lines}
            conn.execute(
                update(attempts).where(attempts.c.run_id == run_id).values(**forgotten, log_lines=0, log_bytes=0)
            )
        return conn.execute(gone).rowcount

    return transaction


# --- runs and their files -------------------------------------------------------------------------------------------


class _Files:
    """Artifact files whose rows are gone; deleted after the commit, so that no row names a file that is not there."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = None if folder is None else folder.resolve()
        self._waiting: list[str] = []

    def of_runs(self, conn: Connection, run_ids: Sequence[int]) -> None:
        """Note the files of runs that are about to go."""
        query = select(artifacts.c.path).where(artifacts.c.run_id.in_(run_ids))
        self._waiting += conn.execute(query).scalars()

    def of_old_runs(self, before: datetime, kept: set[int]) -> Callable[[Connection, int], int]:
        """An act that forgets artifacts of runs older than that."""

        def transaction(conn: Connection, most: int) -> int:
            old = (
                select(artifacts.c.id, artifacts.c.path)
                .join(runs)
                .where(runs.c.queued_at < before, runs.c.state.in_(_FINAL), artifacts.c.run_id.not_in(kept))
                .order_by(artifacts.c.id)
                .limit(most)
            )
            found = conn.execute(old).all()
            self._waiting += [row.path for row in found]
            return conn.execute(delete(artifacts).where(artifacts.c.id.in_([row.id for row in found]))).rowcount

        return transaction

    def delete(self) -> None:
        """Delete what was noted, and folders that are empty then. Paths that lead outside are left alone."""
        waiting, self._waiting = self._waiting, []
        if self._folder is None:
            return
        for path in waiting:
            file = (self._folder / path).resolve()
            if not file.is_relative_to(self._folder):
                continue
            file.unlink(missing_ok=True)
            for folder in file.parents:
                if folder == self._folder or not _removed(folder):
                    break


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:  # not empty, or gone
        return False
    return True


def _runs_before(before: datetime, files: _Files) -> Callable[[Connection, int], int]:
    place = (runs.c.queued_at, runs.c.id)

    def transaction(conn: Connection, most: int) -> int:
        old = select(runs.c.id).where(runs.c.queued_at < before, runs.c.state.in_(_FINAL)).order_by(*place)
        return _delete_runs(conn, old, most, files)

    return transaction


def _beyond(conn: Connection, per_entry: int) -> list[tuple[int, int]]:
    """(entry, run): of that run and earlier ones the entry has more than it may keep."""
    # One statement: with ten thousand entries a question for each would take seconds.
    newest = select(runs.c.id).where(runs.c.entry_id == entries.c.id).order_by(runs.c.id.desc())
    last = newest.offset(per_entry).limit(1).scalar_subquery()
    found = select(entries.c.id, last.label("last")).subquery()
    return [(row.id, row.last) for row in conn.execute(select(found).where(found.c.last.is_not(None)))]


def _runs_up_to(entry_id: int, last_id: int, files: _Files) -> Callable[[Connection, int], int]:
    def transaction(conn: Connection, most: int) -> int:
        query = select(runs.c.id).where(runs.c.entry_id == entry_id, runs.c.id <= last_id, runs.c.state.in_(_FINAL))
        return _delete_runs(conn, query.order_by(runs.c.id), most, files)

    return transaction


def _delete_runs(conn: Connection, candidates: Any, most: int, files: _Files) -> int:
    kept = last_outcome_ids(conn)
    ids = conn.execute(candidates.where(runs.c.id.not_in(kept)).limit(most)).scalars().all()
    if not ids:
        return 0
    files.of_runs(conn, ids)
    for table in RUN_TABLES:
        conn.execute(delete(table).where(table.c.run_id.in_(ids)))
    return conn.execute(delete(runs).where(runs.c.id.in_(ids))).rowcount


# --- what is left ---------------------------------------------------------------------------------------------------


def _with_instants_before(conn: Connection, before: datetime) -> Sequence[int]:
    """The entries that have any: a transaction for each of ten thousand that have none would take many seconds."""
    old = exists().where(ledger.c.entry_id == entries.c.id, ledger.c.due_at < before)
    return conn.execute(select(entries.c.id).where(old)).scalars().all()


def _instants_before(entry_id: int, before: datetime) -> Callable[[Connection, int], int]:
    def transaction(conn: Connection, most: int) -> int:
        old = [ledger.c.entry_id == entry_id, ledger.c.due_at < before]
        query = select(ledger.c.due_at).where(*old).order_by(ledger.c.due_at)
        until = conn.execute(query.offset(most * 10).limit(1)).scalar_one_or_none()
        return conn.execute(delete(ledger).where(*old, *([] if until is None else [ledger.c.due_at < until]))).rowcount

    return transaction


def _events_before(before: datetime) -> Callable[[Connection, int], int]:
    def transaction(conn: Connection, most: int) -> int:
        ids = conn.execute(select(events.c.id).order_by(events.c.id).where(events.c.at < before).limit(most)).scalars()
        return _delete_by_id(conn, events, ids.all())

    return transaction


def _plans_unused_since(before: datetime) -> Callable[[Connection, int], int]:
    used = exists().where(runs.c.plan_id == plans.c.id)

    def transaction(conn: Connection, most: int) -> int:
        ids = conn.execute(select(plans.c.id).where(plans.c.used_at < before, ~used).limit(most)).scalars().all()
        # The condition again: on Postgres a run may have taken the plan up since it was read.
        gone = delete(plans).where(plans.c.id.in_(ids), plans.c.used_at < before)
        return conn.execute(gone).rowcount if ids else 0

    return transaction


def _delete_by_id(conn: Connection, table: Table, ids: Sequence[int]) -> int:
    return conn.execute(delete(table).where(table.c.id.in_(ids))).rowcount if ids else 0
