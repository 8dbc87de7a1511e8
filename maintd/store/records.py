"""The chain of records: a digest of each ended run and of each note, and a head that depends on all of them.

The digest of a run is the SHA-256 of its rows as canonical JSON: keys sorted, no spaces, times in UTC, other values as
they are stored. The head is the SHA-256 of the earlier head and of the record's own columns, so a record that is
changed, removed, inserted or exchanged does not fit. When a run is pruned its record stays, with the time in
`pruned_at`. The digest of the list of artifacts is a column of its own, since artifacts are pruned before their runs.

Who can write to the store can also write another chain. The head that is kept elsewhere shows it.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Boolean, Select, Table, func, or_, select, type_coerce, update
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import NullType

from maintd.model.records import ChainHead, RecordKind
from maintd.model.run import Note, RunState
from maintd.store.audit import add_event
from maintd.store.database import Database
from maintd.store.prepared import PreparedForValues, insert_rows
from maintd.store.tables import (
    EPOCH,
    MICROSECOND,
    NOT_REVIEWED,
    UtcDateTime,
    artifacts,
    attempts,
    changes,
    checks,
    entries,
    gate_decisions,
    handed_values,
    notes,
    plans,
    records,
    run_events,
    run_links,
    runs,
    steps,
)

CHAIN = "chain of records"
"""The name that a transaction locks before it adds records: one after another."""

FORMAT = 1
"""Of the canonical JSON. A change of RECORDED must keep the digests of earlier formats verifiable."""

RECORDED: dict[Table, tuple[str, ...]] = {
    runs: (
        "id",
        "title",
        "trigger",
        "state",
        "skip_reason",
        "reason",
        "due_at",
        "queued_at",
        "not_before",
        "started_at",
        "finished_at",
        "node",
        "incarnation",
        "fence",
        "cancel_requested",
        "requested_by",
        "why",
        "dry_run",
        "params",
        "idempotency_key",
        "emergency",
        "window_from",
    ),
    steps: ("run_id", "step", "state", "reason", "started_at", "finished_at"),
    attempts: (
        "run_id",
        "step",
        "number",
        "state",
        "reason",
        "started_at",
        "finished_at",
        "pid",
        "exit_code",
        "signal",
        "complete",
        "phase",
        "progress",
    ),
    checks: (
        "id",
        "run_id",
        "step",
        "attempt",
        "name",
        "observed",
        "expected",
        "unit",
        "status",
        "hint",
        "optional",
        "because",
    ),
    changes: ("id", "run_id", "step", "attempt", "action", "target", "details", "number", "state", "cause"),
    artifacts: ("id", "run_id", "step", "attempt", "name", "path", "size_bytes", "sha256", "media_type"),
    gate_decisions: ("id", "run_id", "step", "kind", "item", "by", "origin", "at", "note", "emergency"),
    handed_values: ("run_id", "name", "value", "step", "at"),
    run_links: ("run_id", "kind", "other_run_id"),
    notes: ("id", "run_id", "at", "by", "origin", "text"),
}
"""The columns that a record depends on; a run's also on its entry's name and its plan."""

LEFT_OUT: dict[Table, dict[str, str]] = {
    runs: {
        "entry_id": "the entry's name is recorded",
        "plan_id": "the plan's steps and policy are recorded",
        "lease_until": "of a claim, not of the run",
        "recorded_seq": "a counter of the claim's updates",
        "waiting_step": "empty after the end",
        "waiting_until": "empty after the end",
        "held": "ends later, when the run is resumed, undone or released",
        "waited": "the sum of times at gates, which are recorded",
    },
    steps: {"left_by": "which run it follows is recorded, and so are the steps of that one"},
    attempts: {
        "log_lines": "the log is pruned before the run",
        "log_bytes": "the log is pruned before the run",
        "log_lines_left_out": "the log is pruned before the run",
    },
    checks: {
        "missed_limit": "it is in the text of what was expected",
        "rule": "where a limit comes from, not what was observed",
    },
}
"""Columns of the same tables that no record depends on, and why."""

_ORDER: dict[Table, tuple[str, ...]] = {
    steps: ("step",),
    attempts: ("step", "number"),
    checks: ("id",),
    changes: ("id",),
    artifacts: ("id",),
    gate_decisions: ("id",),
    handed_values: ("name",),
    run_links: ("kind",),
    notes: ("id",),
}


def _as_stored(table: Table) -> list[Any]:
    """The recorded columns as the database returns them: a value that was tampered with must not raise an error."""
    return [type_coerce(table.c[name], NullType()).label(name) for name in RECORDED[table]]


def _query(table: Table) -> Select[Any]:
    order = [table.c.run_id, *(table.c[name] for name in _ORDER[table])]
    return select(*_as_stored(table)).order_by(*order)


_RUNS = PreparedForValues(
    select(
        *_as_stored(runs),
        type_coerce(entries.c.name, NullType()).label("entry"),
        plans.c.steps.label("plan_steps"),
        plans.c.policy.label("plan_policy"),
    )
    .join_from(runs, entries, entries.c.id == runs.c.entry_id)
    .join(plans, plans.c.id == runs.c.plan_id),
    runs.c.id,
)
_PARTS = {
    table: PreparedForValues(_query(table), table.c.run_id)
    for table in (steps, attempts, checks, changes, artifacts, gate_decisions, handed_values, run_links)
}
_NOTES = PreparedForValues(_query(notes), notes.c.id)
_KNOWN = PreparedForValues(
    select(records.c.id, records.c.run_id, records.c.kind, records.c.digest)
    .where(or_(records.c.kind == RecordKind.RUN.value, records.c.kind == RecordKind.LOST.value))
    .order_by(records.c.run_id, records.c.id),
    records.c.run_id,
)
"""The records of runs; the others have the number of a run, too."""

_ABOUT_RUNS = (RecordKind.RUN.value, RecordKind.LOST.value, RecordKind.NOTE.value)
"""Records of which a pruning can delete what they are about."""


class Content(NamedTuple):
    """What a record depends on, as digests in hex; `artifacts` is None for a note."""

    digest: str
    artifacts: str | None
    state: str = ""  # of the run


class Records:
    """The chain of records."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def head(self) -> ChainHead | None:
        """The head of the chain; None without a record."""
        return self._database.read(chain_head)

    def last_of_run(self, run_id: int) -> int | None:
        """The number of the last record of a run; None without one."""
        rows = self._database.read(lambda conn: _KNOWN.rows(conn, [run_id]))
        return max((row.id for row in rows), default=None)

    def synced_head(self, kind: str, text: str, now: datetime) -> ChainHead | None:
        """The head, after a synced commit of an event in the audit log: no power failure takes its records back.

        None, and no event, without a record. The event's text is `text` and the head.
        """

        def transaction(conn: Connection) -> ChainHead | None:
            found = chain_head(conn)
            if found is not None:
                add_event(conn, kind, by="maintd", at=now, text=f"{text}; record {found.record}, head {found.head}")
            return found

        return self._database.write(transaction)

    def add_ends(self, conn: Connection, run_ids: Sequence[int], now: datetime) -> int:
        """Add a record of each of these ended runs, in this order, within the transaction; return their number.

        Left out are runs that have their last record already, and lost ones whose record still fits.
        """
        if not run_ids:
            return 0
        self._database.lock_names(conn, [CHAIN])
        known = {row.run_id: row for row in _KNOWN.rows(conn, run_ids)}  # the last record of each
        ended = {run_id for run_id, row in known.items() if row.kind == RecordKind.RUN.value}
        contents = run_contents(conn, [run_id for run_id in dict.fromkeys(run_ids) if run_id not in ended])
        new = []
        for run_id, content in contents.items():
            kind = RecordKind.LOST if content.state == RunState.LOST.value else RecordKind.RUN
            if run_id in known and kind is RecordKind.LOST and known[run_id].digest == content.digest:
                continue
            if RunState(content.state).final:
                new.append((kind, run_id, None, content))
        _append(conn, new, now, but=set(run_ids))
        return len(new)

    def add_evidence_of_lost(self, conn: Connection, run_id: int, now: datetime) -> None:
        """Add a further record of a lost run whose evidence arrives late, within the transaction that writes it.

        Without a record so far there is nothing to do: the review of its end adds the first.
        """
        self._database.lock_names(conn, [CHAIN])
        if _KNOWN.rows(conn, [run_id]):
            self.add_ends(conn, [run_id], now)

    def add_note(self, run_id: int, *, text: str, by: str, origin: str, now: datetime) -> Note | None:
        """Add a person's note about a run, with its record; None for an unknown run."""

        def transaction(conn: Connection) -> Note | None:
            of_run = select(entries.c.name).join_from(runs, entries, entries.c.id == runs.c.entry_id)
            # Locked, so that the run is not pruned before the commit.
            entry = conn.execute(of_run.where(runs.c.id == run_id).with_for_update(of=runs)).scalar_one_or_none()
            if entry is None:
                return None
            columns = {"run_id": run_id, "at": now, "by": by, "origin": origin, "text": text}
            note_id = conn.execute(notes.insert().values(columns).returning(notes.c.id)).scalar_one()
            self._database.lock_names(conn, [CHAIN])
            content = note_contents(conn, [note_id])[note_id]
            _append(conn, [(RecordKind.NOTE, run_id, note_id, content)], now, but=set())
            add_event(conn, "note_added", subject=entry, by=by, origin=origin, why=text, text=f"run {run_id}", at=now)
            return Note(id=note_id, **columns)

        return self._database.write(transaction)


def chain_head(conn: Connection) -> ChainHead | None:
    """See `Records.head`."""
    row = conn.execute(select(records).order_by(records.c.id.desc()).limit(1)).one_or_none()
    return None if row is None else ChainHead(record=row.id, head=row.head, at=row.at)


def run_contents(conn: Connection, run_ids: Collection[int]) -> dict[int, Content]:
    """The digests of runs by id, in the given order; those that were deleted are left out."""
    if not run_ids:
        return {}
    found = {row.id: row for row in _RUNS.rows(conn, run_ids)}
    parts: dict[int, dict[str, list[Any]]] = defaultdict(lambda: {table.name: [] for table in _PARTS})
    for table, query in _PARTS.items():
        for row in query.rows(conn, found):
            parts[row.run_id][table.name].append(canonical_row(table, row))
    contents = {}
    for run_id in run_ids:
        row = found.get(run_id)
        if row is None:
            continue
        of_run: dict[str, Any] = parts[run_id]
        of_run["artifacts"] = digest_of(of_run["artifacts"])
        plan = {"entry": row.entry, "steps": row.plan_steps, "policy": row.plan_policy}
        content = {"format": FORMAT, "run": canonical_row(runs, row), "plan": plan, **of_run}
        contents[run_id] = Content(digest_of(content), of_run["artifacts"], str(row.state))
    return contents


def run_content_without_artifacts(conn: Connection, run_id: int, artifacts_digest: str | None) -> Content | None:
    """As `run_contents` for a run whose artifacts were pruned, with the digest that their list had."""
    row = next(iter(_RUNS.rows(conn, [run_id])), None)
    if row is None:
        return None
    of_run: dict[str, Any] = {
        table.name: [canonical_row(table, one) for one in query.rows(conn, [run_id])]
        for table, query in _PARTS.items()
        if table is not artifacts
    }
    plan = {"entry": row.entry, "steps": row.plan_steps, "policy": row.plan_policy}
    content = {"format": FORMAT, "run": canonical_row(runs, row), "plan": plan, **of_run, "artifacts": artifacts_digest}
    return Content(digest_of(content), artifacts_digest, str(row.state))


def note_contents(conn: Connection, note_ids: Collection[int]) -> dict[int, Content]:
    """The digests of notes by id; those that were deleted are left out."""
    found = _NOTES.rows(conn, note_ids) if note_ids else []
    return {row.id: Content(digest_of({"format": FORMAT, "note": canonical_row(notes, row)}), None) for row in found}


def head_after(earlier: str, row: Any) -> str:
    """The head of a record: `row` has the columns of `records`; `earlier` is the head before it, at first empty."""
    own = {name: getattr(row, name) for name in ("id", "kind", "run_id", "note_id", "digest", "artifacts")}
    return digest_of({"earlier": earlier, "at": _time_text(row.at), **own})


def digest_of(value: Any) -> str:
    """SHA-256 in hex of a value as canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=repr).encode()).hexdigest()


def canonical_row(table: Table, row: Any) -> dict[str, Any]:
    """The recorded columns of a row, equal on both databases."""
    values: dict[str, Any] = {}
    for name in RECORDED[table]:
        value, kind = getattr(row, name), table.c[name].type
        if value is None:
            values[name] = None
        elif isinstance(kind, UtcDateTime):
            values[name] = _time_text(value)
        elif isinstance(kind, Boolean) and value in (0, 1):
            values[name] = bool(value)
        else:
            values[name] = value
    return values


def _time_text(value: Any) -> str:
    """A time in UTC with microseconds; what is no time, as it is."""
    if isinstance(value, int):
        try:
            value = EPOCH + value * MICROSECOND
        except OverflowError:
            return repr(value)
    return value.astimezone(UTC).isoformat(timespec="microseconds") if isinstance(value, datetime) else repr(value)


class _New(NamedTuple):
    id: int
    kind: str
    run_id: int
    note_id: int | None
    at: datetime
    digest: str
    artifacts: str | None


def _append(
    conn: Connection, new: Iterable[tuple[RecordKind, int, int | None, Content]], now: datetime, *, but: set[int]
) -> int:
    """Append records; the first of all is preceded by the start, for which the runs `but` do not count. Returns the
    number of the last record."""
    last = conn.execute(select(records.c.id, records.c.head).order_by(records.c.id.desc()).limit(1)).one_or_none()
    number, head = (0, "") if last is None else (last.id, last.head)
    items = list(new)
    if last is None and items:
        before = _last_ended_before(conn, but)
        items.insert(0, (RecordKind.START, before, None, Content(digest_of({"format": FORMAT, "run": before}), None)))
    rows = []
    for kind, run_id, note_id, content in items:
        number += 1
        row = _New(number, kind.value, run_id, note_id, now, content.digest, content.artifacts)
        head = head_after(head, row)
        rows.append({**row._asdict(), "head": head})
    if rows:
        insert_rows(conn, records, rows)
    return number


def _last_ended_before(conn: Connection, but: set[int]) -> int:
    """The highest id of a run that ended before the chain began; 0 without any."""
    final = [state.value for state in RunState if state.final]
    waiting = select(run_events.c.run_id).where(NOT_REVIEWED)
    query = select(func.max(runs.c.id)).where(runs.c.state.in_(final), runs.c.id.not_in(waiting))
    return conn.execute(query.where(runs.c.id.not_in(but)) if but else query).scalar_one_or_none() or 0


def mark_pruned(database: Database, conn: Connection, run_ids: Sequence[int], now: datetime) -> None:
    """Add a record of a pruning, and note it in the records of the runs that it deletes, within its transaction.

    The caller has deleted the runs: a transaction that locks a run and the chain locks the run first.
    """
    wanted = records.c.run_id.in_(run_ids) & records.c.kind.in_(_ABOUT_RUNS) & records.c.pruned_by.is_(None)
    _mark(database, conn, wanted, "pruned_by", now)


def mark_artifacts_pruned(database: Database, conn: Connection, run_ids: Sequence[int], now: datetime) -> None:
    """As `mark_pruned`, for a pruning that deletes the artifacts of runs."""
    wanted = records.c.run_id.in_(run_ids) & records.c.artifacts.is_not(None)
    _mark(database, conn, wanted & records.c.artifacts_pruned_by.is_(None), "artifacts_pruned_by", now)


def _mark(database: Database, conn: Connection, wanted: ColumnElement[bool], column: str, now: datetime) -> None:
    database.lock_names(conn, [CHAIN])
    found = conn.execute(select(records.c.id, records.c.run_id, records.c.digest).where(wanted)).all()
    if found:
        content = pruning_content(column, [(row.id, row.digest) for row in found])
        number = _append(conn, [(RecordKind.PRUNED, max(row.run_id for row in found), None, content)], now, but=set())
        conn.execute(update(records).where(wanted).values({column: number}))


def pruning_content(column: str, pruned: Iterable[tuple[int, str]]) -> Content:
    """What the record of a pruning depends on: the ids and digests of the records that it marks in that column."""
    return Content(digest_of({"format": FORMAT, column: sorted(map(list, pruned))}), None)
