"""Retention: delete old evidence in short transactions, so that other writers do not wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Table, delete, exists, false, func, select, tuple_, update
from sqlalchemy.engine import Connection

from maintd.config.settings import Retention
from maintd.model.base import Model
from maintd.model.run import RunState
from maintd.store.database import Database
from maintd.store.freezes import delete_freezes_before
from maintd.store.last_runs import last_outcome_ids
from maintd.store.mutes import delete_mutes_before
from maintd.store.notices import delete_incidents_before, delete_notices_before
from maintd.store.records import mark_artifacts_pruned, mark_pruned
from maintd.store.tables import (
    RUN_TABLES,
    artifacts,
    attempts,
    entries,
    events,
    findings,
    ledger,
    log_lines,
    plans,
    run_events,
    run_links,
    runs,
)

MAX_BATCH = 5000
"""Most rows of a batch."""

BATCH_DURATION = timedelta(milliseconds=20)
"""How long a batch should take; the size of the next batch is adjusted to it."""

UNUSED_PLANS_KEPT = timedelta(days=1)

RUN_EVENTS_KEPT = timedelta(days=7)
"""How long events of runs are kept, for followers that resume; those that wait for their review are kept until then."""

_FINAL = tuple(state.value for state in RunState if state.final)


class PruneResult(Model):
    """The numbers of deleted rows, and the longest time that one batch took."""

    runs: int = 0
    log_lines: int = 0
    artifacts: int = 0
    due_times: int = 0  # of the ledger
    events: int = 0
    plans: int = 0
    run_events: int = 0
    findings: int = 0  # gone, or not checked any more
    notices: int = 0  # with their incidents, mutes and freezes
    batches: int = 0
    longest_batch: timedelta = timedelta(0)

    def __str__(self) -> str:
        counted = (
            "runs",
            "log_lines",
            "artifacts",
            "due_times",
            "events",
            "plans",
            "run_events",
            "findings",
            "notices",
        )
        return ", ".join(_counted(getattr(self, name), name.replace("_", " ")) for name in counted)


def _counted(number: int, plural: str) -> str:
    return f"{number} {plural.removesuffix('s') if number == 1 else plural}"


@dataclass
class _Batches:
    """Executes deletions in batches, whose size is adjusted, until one deletes nothing."""

    database: Database
    on_batch: Callable[[int], None] | None
    count: int = 0
    longest: float = 0.0
    size: int = 200
    files: list[str] = field(default_factory=list)

    def run(self, transaction: Callable[[Connection, int], int]) -> int:
        """Repeat `transaction(conn, most)`, which deletes at most that many rows; return the number of deleted rows."""
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
        duration = time.perf_counter() - started
        self.longest = max(self.longest, duration)
        if duration > BATCH_DURATION.total_seconds():
            self.size = max(20, self.size // 2)
        elif duration < BATCH_DURATION.total_seconds() / 2 and done >= self.size:
            self.size = min(MAX_BATCH, self.size * 2)
        return done


def prune(
    database: Database,
    retention: Retention,
    now: datetime,
    *,
    on_batch: Callable[[int], None] | None = None,
    artifacts_dir: Path | None = None,
) -> PruneResult:
    """See `Maintenance.prune`. The order is logs, artifacts, runs by age, runs by number, ledger, events, plans,
    events of runs, findings, notices.
    """
    batches = _Batches(database, on_batch)
    kept = database.read(last_outcome_ids)
    lines = sum(batches.run(transaction) for transaction in _logs(database, now - retention.logs, kept))
    files = _Files(database, artifacts_dir, now)
    old_artifacts = batches.run(files.of_old_runs(now - retention.artifacts, kept))
    files.delete()
    pruned = batches.run(_runs_before(now - retention.runs, files))
    files.delete()
    for entry_id, last_id in database.read(lambda conn: _beyond(conn, retention.runs_per_entry)):
        pruned += batches.run(_runs_up_to(entry_id, last_id, files))
        files.delete()
    due_times = sum(
        batches.run(_due_times_before(entry_id, now - retention.ledger))
        for entry_id in database.read(lambda conn: _entries_with_due_times_before(conn, now - retention.ledger))
    )
    old_events = batches.run(_events_before(now - retention.ledger))
    unused = batches.run(_plans_unused_since(now - UNUSED_PLANS_KEPT))
    old_run_events = batches.run(_reviewed_events_before(now - RUN_EVENTS_KEPT))
    old_findings = batches.run(_findings_checked_before(now - retention.runs))
    old_notices = sum(
        batches.run(partial(_before, delete, now - retention.runs))
        for delete in (delete_notices_before, delete_incidents_before, delete_mutes_before, delete_freezes_before)
    )
    return PruneResult(
        runs=pruned,
        log_lines=lines,
        artifacts=old_artifacts,
        due_times=due_times,
        events=old_events,
        plans=unused,
        run_events=old_run_events,
        findings=old_findings,
        notices=old_notices,
        batches=batches.count,
        longest_batch=timedelta(seconds=batches.longest),
    )


# --- logs -----------------------------------------------------------------------------------------------------------


def _logs(database: Database, before: datetime, kept: set[int]) -> Iterator[Callable[[Connection, int], int]]:
    """A transaction for each run whose log is too old, oldest first."""
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
            omitted = {"log_lines_left_out": attempts.c.log_lines_left_out + attempts.c.log_lines}
            conn.execute(
                update(attempts).where(attempts.c.run_id == run_id).values(**omitted, log_lines=0, log_bytes=0)
            )
        return conn.execute(gone).rowcount

    return transaction


# --- runs and their files -------------------------------------------------------------------------------------------


class _Files:
    """Artifact files of deleted rows, deleted after the commit, so that no row refers to a missing file."""

    def __init__(self, database: Database, folder: Path | None, now: datetime) -> None:
        self._database = database
        self._folder = None if folder is None else folder.resolve()
        self.now = now
        self._waiting: list[str] = []

    def of_runs(self, conn: Connection, run_ids: Sequence[int]) -> None:
        """Collect the files of runs that are about to be deleted."""
        query = select(artifacts.c.path).where(artifacts.c.run_id.in_(run_ids))
        self._waiting += conn.execute(query).scalars()

    def of_old_runs(self, before: datetime, kept: set[int]) -> Callable[[Connection, int], int]:
        """A transaction that deletes the artifacts of runs queued before that time."""

        def transaction(conn: Connection, most: int) -> int:
            old = (
                select(artifacts.c.id, artifacts.c.path, artifacts.c.run_id)
                .join(runs)
                .where(runs.c.queued_at < before, runs.c.state.in_(_FINAL), artifacts.c.run_id.not_in(kept))
                .order_by(artifacts.c.id)
                .limit(most)
            )
            found = conn.execute(old).all()
            self._waiting += [row.path for row in found]
            if found:
                mark_artifacts_pruned(self._database, conn, list({row.run_id for row in found}), self.now)
            return conn.execute(delete(artifacts).where(artifacts.c.id.in_([row.id for row in found]))).rowcount

        return transaction

    def mark_pruned(self, conn: Connection, run_ids: Sequence[int]) -> None:
        """Record that these runs were deleted."""
        mark_pruned(self._database, conn, run_ids, self.now)

    def delete(self) -> None:
        """Delete the collected files, and their folders if empty. Paths outside the artifacts folder are ignored."""
        waiting, self._waiting = self._waiting, []
        if self._folder is None:
            return
        for path in waiting:
            file = (self._folder / path).resolve()
            if not file.is_relative_to(self._folder):
                continue
            file.unlink(missing_ok=True)
            for folder in file.parents:
                if folder == self._folder or not _remove_folder(folder):
                    break


def _remove_folder(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:  # not empty, or already deleted
        return False
    return True


def _runs_before(before: datetime, files: _Files) -> Callable[[Connection, int], int]:
    place = (runs.c.queued_at, runs.c.id)

    def transaction(conn: Connection, most: int) -> int:
        old = select(runs.c.id).where(runs.c.queued_at < before, runs.c.state.in_(_FINAL)).order_by(*place)
        return _delete_runs(conn, old, most, files)

    return transaction


def _beyond(conn: Connection, per_entry: int) -> list[tuple[int, int]]:
    """(entry id, run id): this run and older ones exceed the number of runs that the entry keeps."""
    # One statement: with ten thousand entries, a query for each would take seconds.
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
    # As long as an earlier run is kept, so is what followed from it: it must not be resumed or undone once more.
    earlier = runs.alias("earlier")
    follow = select(run_links.c.run_id).join(earlier, earlier.c.id == run_links.c.other_run_id)
    wanted = candidates.where(runs.c.id.not_in(kept), runs.c.held.is_(false()), runs.c.id.not_in(follow))
    ids = conn.execute(wanted.limit(most)).scalars().all()
    if not ids:
        return 0
    files.of_runs(conn, ids)
    for table in RUN_TABLES:
        conn.execute(delete(table).where(table.c.run_id.in_(ids)))
    deleted = conn.execute(delete(runs).where(runs.c.id.in_(ids))).rowcount
    files.mark_pruned(conn, ids)
    return deleted


# --- ledger, events and plans ---------------------------------------------------------------------------------------


def _entries_with_due_times_before(conn: Connection, before: datetime) -> Sequence[int]:
    """The ids of entries that have any; a transaction for each of ten thousand entries would take many seconds."""
    old = exists().where(ledger.c.entry_id == entries.c.id, ledger.c.due_at < before)
    return conn.execute(select(entries.c.id).where(old)).scalars().all()


def _due_times_before(entry_id: int, before: datetime) -> Callable[[Connection, int], int]:
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


def _reviewed_events_before(before: datetime) -> Callable[[Connection, int], int]:
    last = 0  # events up to here are deleted or wait for their review

    def transaction(conn: Connection, most: int) -> int:
        nonlocal last
        query = select(run_events.c.id, run_events.c.at, run_events.c.reviewed).order_by(run_events.c.id).limit(most)
        while found := conn.execute(query.where(run_events.c.id > last)).all():
            old = [row for row in found if row.at < before]
            ids = [row.id for row in old if row.reviewed]
            if ids or not old:
                return _delete_by_id(conn, run_events, ids)
            last = old[-1].id
        return 0

    return transaction


def _findings_checked_before(before: datetime) -> Callable[[Connection, int], int]:
    """Of runs that are deleted by now, whether they were gone or never checked again."""

    def transaction(conn: Connection, most: int) -> int:
        last = func.coalesce(findings.c.gone_at, findings.c.last_seen_at)
        old = select(findings.c.id).where(findings.c.last_seen_at < before, last < before).limit(most)
        return _delete_by_id(conn, findings, conn.execute(old).scalars().all())

    return transaction


def _before(delete: Callable[[Connection, datetime, int], int], before: datetime, conn: Connection, most: int) -> int:
    return delete(conn, before, most)


def _plans_unused_since(before: datetime) -> Callable[[Connection, int], int]:
    used = exists().where(runs.c.plan_id == plans.c.id)

    def transaction(conn: Connection, most: int) -> int:
        ids = conn.execute(select(plans.c.id).where(plans.c.used_at < before, ~used).limit(most)).scalars().all()
        # Repeat the condition: on Postgres a new run can use the plan since it was read.
        gone = delete(plans).where(plans.c.id.in_(ids), plans.c.used_at < before)
        return conn.execute(gone).rowcount if ids else 0

    return transaction


def _delete_by_id(conn: Connection, table: Table, ids: Sequence[int]) -> int:
    return conn.execute(delete(table).where(table.c.id.in_(ids))).rowcount if ids else 0
