"""The verification of the chain of records: which is the first that does not fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import func, select, type_coerce
from sqlalchemy.engine import Connection
from sqlalchemy.types import NullType

from maintd.model.records import ChainProblem, RecordKind, VerifiedPart
from maintd.model.run import RunState
from maintd.store.database import Database
from maintd.store.records import (
    Content,
    chain_head,
    head_after,
    note_contents,
    pruning_content,
    run_content_without_artifacts,
    run_contents,
)
from maintd.store.tables import NOT_REVIEWED, notes, records, run_events, runs

_OF_RUNS = (RecordKind.RUN.value, RecordKind.LOST.value)

_RECORDS = select(*(type_coerce(column, NullType()).label(column.name) for column in records.c)).order_by(records.c.id)

_FINAL = [state.value for state in RunState if state.final]


class _Counts(NamedTuple):
    pruned: int = 0
    artifacts_pruned: int = 0


class Chain:
    """The chain of records as a whole."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def verify(self, after: int, limit: int, heads: Mapping[int, str]) -> VerifiedPart:
        """Verify the records after that id, at most `limit`, against the rows they are about; and `heads`, known from
        elsewhere, by the ids of their records. The last part also finds what has no record.
        """
        verify = partial(_verify, after=after, limit=limit, heads=heads)
        part = self._database.read(verify)
        # On Postgres rows and records were read at different moments: what is wrong is still wrong now.
        return part if part.problem is None else self._database.read(verify)


def _verify(conn: Connection, *, after: int, limit: int, heads: Mapping[int, str]) -> VerifiedPart:
    rows = conn.execute(_RECORDS.where(records.c.id > after).limit(limit)).all()
    head, kept, problem = "", 0, None
    if after:
        earlier = conn.execute(select(records.c.head).where(records.c.id == after)).scalar_one_or_none()
        if earlier is None:
            problem = ChainProblem(record=after, text=f"record {after} was removed during the verification")
        head = earlier or ""
    counts = _Counts()
    if problem is None:
        problem, kept = _links(rows, after, head, heads)
    contents, prunings = _contents(conn, rows[:kept]), _prunings(conn, rows[:kept])
    for index, row in enumerate(rows[:kept]):
        wrong, counts = _content_problem(conn, row, contents, prunings, counts)
        if wrong is not None:
            problem, kept = wrong, index
            break
    final = problem is None and len(rows) < limit
    more = _without_record(conn, heads, rows[-1].id if rows else after) if final else {}
    return VerifiedPart(
        records=kept,
        last=rows[kept - 1].id if kept else after,
        final=final,
        head=chain_head(conn) if final else None,
        **counts._asdict(),
        **({"problem": problem} | more),
    )


def _links(rows: Sequence[Any], after: int, head: str, heads: Mapping[int, str]) -> tuple[ChainProblem | None, int]:
    """The first record whose number or head does not fit, and how many fit before it."""
    for index, row in enumerate(rows):
        expected = after + index + 1
        if row.id != expected:
            return ChainProblem(record=expected, text=f"record {expected} was removed"), index
        head = head_after(head, row)
        if row.head != head:
            text = f"record {row.id} was changed, inserted or exchanged: its head is not that of its columns"
            return _problem(row, text), index
        if heads.get(row.id, head) != head:
            text = f"record {row.id} has the head {head}, but {heads[row.id]} was kept: the chain was written again"
            return _problem(row, text), index
    return None, len(rows)


def _contents(conn: Connection, rows: Sequence[Any]) -> dict[tuple[str, int], Content]:
    """What the runs and notes of records look like now, by kind and id."""
    run_ids = {row.run_id for row in rows if row.kind in _OF_RUNS and row.artifacts_pruned_by is None}
    note_ids = {row.note_id for row in rows if row.kind == RecordKind.NOTE.value}
    found = {("run", run_id): content for run_id, content in run_contents(conn, run_ids).items()}
    return found | {("note", note_id): content for note_id, content in note_contents(conn, note_ids).items()}


def _content_problem(
    conn: Connection,
    row: Any,
    contents: Mapping[tuple[str, int], Content],
    prunings: Collection[int],
    counts: _Counts,
) -> tuple[ChainProblem | None, _Counts]:
    """Why the rows of a record do not fit it, if they do not."""
    if row.kind == RecordKind.START.value:
        return None, counts
    of_run = row.kind in _OF_RUNS
    content = contents.get(("run", row.run_id) if of_run else ("note", row.note_id))
    if row.kind == RecordKind.PRUNED.value:
        return _pruning_problem(conn, row), counts
    if of_run and row.artifacts_pruned_by is not None:
        if row.artifacts_pruned_by not in prunings or row.artifacts_pruned_by <= row.id:
            text = f"the artifacts of run {row.run_id} are marked as pruned without a record of that"
            return _problem(row, text), counts
        content = run_content_without_artifacts(conn, row.run_id, row.artifacts)
        if content is not None:
            counts = counts._replace(artifacts_pruned=counts.artifacts_pruned + 1)
    what = f"run {row.run_id}" if of_run else f"note {row.note_id} of run {row.run_id}"
    if content is None:
        if row.pruned_by is None:
            return _problem(row, f"{what} is gone, but was not pruned"), counts
        if row.pruned_by not in prunings or row.pruned_by <= row.id:
            return _problem(row, f"{what} is gone, and is marked as pruned without a record of that"), counts
        return None, counts._replace(pruned=counts.pruned + 1)
    if content.digest == row.digest and content.artifacts == row.artifacts:
        return None, counts
    if row.kind == RecordKind.LOST.value and _has_later(conn, row):
        return None, counts
    return _problem(row, f"the rows of {what} were changed after its record was made"), counts


def _prunings(conn: Connection, rows: Sequence[Any]) -> set[int]:
    """The ids of the records of prunings that these records are marked with."""
    marks = {mark for row in rows for mark in (row.pruned_by, row.artifacts_pruned_by) if isinstance(mark, int)}
    found = select(records.c.id).where(records.c.id.in_(marks), records.c.kind == RecordKind.PRUNED.value)
    return set(conn.execute(found).scalars()) if marks else set()


def _pruning_problem(conn: Connection, row: Any) -> ChainProblem | None:
    """Why the records that are marked as pruned by a pruning are not those that it deleted, if they are not."""
    columns = {"pruned_by": records.c.pruned_by, "artifacts_pruned_by": records.c.artifacts_pruned_by}
    for name, column in columns.items():
        marked = conn.execute(select(records.c.id, records.c.digest).where(column == row.id)).all()
        if marked and pruning_content(name, [(each.id, each.digest) for each in marked]).digest == row.digest:
            return None
    text = f"record {row.id} is about a pruning, and other records are marked as pruned by it than it deleted"
    return ChainProblem(record=row.id, text=text)


def _has_later(conn: Connection, row: Any) -> bool:
    """Whether a lost run has a further record, or gets one with the review of its late outcome."""
    later = select(records.c.id).where(
        records.c.run_id == row.run_id, records.c.id > row.id, records.c.kind.in_(_OF_RUNS)
    )
    if conn.execute(later.limit(1)).first() is not None:
        return True
    waits = select(run_events.c.id).where(run_events.c.run_id == row.run_id, NOT_REVIEWED)
    return conn.execute(waits.limit(1)).first() is not None


def _without_record(conn: Connection, heads: Mapping[int, str], last: int) -> dict[str, Any]:
    """What the end of the chain lacks: records whose heads are known, and those of ended runs and notes."""
    missing = min((record for record in heads if record > last), default=None)
    if missing is not None:
        text = f"the chain ends with record {last}, but the head of record {missing} was kept: records were removed"
        return {"problem": ChainProblem(record=last + 1, text=text)}
    start = conn.execute(select(records.c.run_id).where(records.c.kind == RecordKind.START.value)).scalars().first()
    recorded = select(records.c.run_id).where(records.c.kind.in_(_OF_RUNS), records.c.run_id == runs.c.id).exists()
    waiting = select(run_events.c.run_id).where(run_events.c.run_id == runs.c.id, NOT_REVIEWED).exists()
    of_ended = select(func.count()).select_from(runs).where(runs.c.state.in_(_FINAL), ~recorded)
    to_follow = conn.execute(of_ended.where(waiting)).scalar_one()
    bound = runs.c.id <= (start or 0)
    before = conn.execute(of_ended.where(~waiting, bound)).scalar_one()
    counts = {"to_follow": to_follow, "before": before}
    lacking = select(func.min(runs.c.id)).where(runs.c.state.in_(_FINAL), ~recorded, ~waiting, ~bound)
    run_id = conn.execute(lacking).scalar_one_or_none()
    if run_id is not None:
        text = f"run {run_id} has ended, but has no record: it was inserted or its record was removed"
        return counts | {"problem": ChainProblem(record=None, run_id=run_id, text=text)}
    noted = select(records.c.id).where(records.c.note_id == notes.c.id).exists()
    note = conn.execute(select(notes.c.id, notes.c.run_id).where(~noted).order_by(notes.c.id).limit(1)).one_or_none()
    if note is not None:
        text = f"note {note.id} of run {note.run_id} has no record: it was inserted or its record was removed"
        return counts | {"problem": ChainProblem(record=None, run_id=note.run_id, text=text)}
    return counts


def _problem(row: Any, text: str) -> ChainProblem:
    return ChainProblem(record=row.id, run_id=row.run_id if isinstance(row.run_id, int) else None, text=text)
