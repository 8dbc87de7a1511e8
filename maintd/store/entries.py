"""Entries, how far each is planned, and the ledger of all due times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    String,
    bindparam,
    cast,
    delete,
    exists,
    extract,
    func,
    insert,
    literal,
    select,
    type_coerce,
    update,
)
from sqlalchemy.engine import Connection

from maintd.errors import UnknownNameError
from maintd.model.entry import Entry, EntryState, Pause, Policy, Rule
from maintd.model.run import NewRun
from maintd.store import mapping
from maintd.store.audit import add_event
from maintd.store.database import Database, dialect_insert, insert_into
from maintd.store.prepared import Prepared, PreparedForValues
from maintd.store.run_events import RunChanged, add_run_events
from maintd.store.run_plans import RunPlans
from maintd.store.tables import EPOCH, MICROSECOND, entries, findings, ledger, measures, runs, series

IS_MANUAL_ONLY = entries.c.fingerprint.is_(None)  # a job that was run under its own name

_SET_LEDGER_RUN = Prepared(
    update(ledger)
    .where(ledger.c.entry_id == bindparam("of_entry"), ledger.c.due_at == bindparam("at"))
    .values(run_id=bindparam("run"))
)

_CALENDAR_ENTRIES = select(entries).where(~IS_MANUAL_ONLY).order_by(entries.c.name)
_CALENDAR_ENTRIES_BY_NAME = PreparedForValues(_CALENDAR_ENTRIES, entries.c.name)

# Ordered by name, so that two nodes cannot deadlock.
_FOR_PLANNING = PreparedForValues(
    select(
        entries.c.id,
        entries.c.name,
        entries.c.planned_through,
        entries.c.rule,
        entries.c.active,
        entries.c.pause_since,
    )
    .order_by(entries.c.name)
    .with_for_update(),
    entries.c.name,
)

_SET_PLANNED_THROUGH = Prepared(
    update(entries).where(entries.c.id == bindparam("of_id")).values(planned_through=bindparam("through"))
)

_ID = Prepared(select(entries.c.id).where(entries.c.name == bindparam("of_name")))


def planning_statements(conn: Connection) -> list[Prepared | PreparedForValues]:
    """Return what every plan executes."""
    into_ledger = _insert_due_time(conn.dialect.name)
    return [_CALENDAR_ENTRIES_BY_NAME, _FOR_PLANNING, _SET_PLANNED_THROUGH, into_ledger, _SET_LEDGER_RUN]


class EntryVersion(NamedTuple):
    """The values of an entry's row that change when a node loads a calendar or plans."""

    name: str
    fingerprint: str
    active: bool
    planned_through: datetime

    @classmethod
    def parse(cls, text: str) -> EntryVersion:
        """Parse an item of `Entries.versions`."""
        name, fingerprint, active, through = text.rsplit(" ", 3)
        return cls(name, fingerprint, active == "1", EPOCH + int(through) * MICROSECOND)


class EntryPlan(NamedTuple):
    """New runs of an entry for its due times in (planned_after, through]."""

    name: str
    planned_after: datetime  # planned_through as the planner read it
    through: datetime
    runs: tuple[NewRun, ...]
    rule: Rule | None = None  # as the planner read it; None: neither it nor the pause is compared
    paused_since: datetime | None = None  # as the planner read it


class Entries:
    """The entries of all calendars so far."""

    def __init__(self, database: Database, plans: RunPlans) -> None:
        self._database = database
        self._plans = plans

    def states(self, names: Sequence[str] | None = None) -> dict[str, EntryState]:
        """The state of every entry that is or was in a calendar, by name; with `names`, only of these."""

        def transaction(conn: Connection) -> dict[str, EntryState]:
            found = conn.execute(_CALENDAR_ENTRIES) if names is None else _CALENDAR_ENTRIES_BY_NAME.rows(conn, names)
            return {row.name: mapping.entry_state(row) for row in found}

        return self._database.read(transaction)

    def versions(self) -> frozenset[str]:
        """The version of every entry that is or was in a calendar, as text for `EntryVersion.parse`.

        The difference of two results has the entries that changed. The query returns one value, since ten thousand rows
        take fifty times as long to fetch.
        """

        def transaction(conn: Connection) -> str | None:
            active, through = cast(cast(entries.c.active, Integer), String), cast(_microseconds(conn), String)
            line: ColumnElement[str] = type_coerce(entries.c.name, String)
            for word in (type_coerce(entries.c.fingerprint, String), active, through):
                line = line + literal(" ") + word
            query = select(func.aggregate_strings(line, "\n")).where(~IS_MANUAL_ONLY)
            found: str | None = conn.execute(query).scalar_one()
            return found

        return frozenset((self._database.read(transaction) or "").splitlines())

    def sync(self, wanted: Sequence[Entry], fingerprints: Mapping[str, str], now: datetime) -> None:
        """Update the rows from the calendar.

        1. An entry with `formerly` takes over the row of that name, with its planning, pause, ledger and history.
        2. A new entry, and one that was inactive, is planned from now on.
        3. Any other entry keeps its planned_through and takes over the calendar's rule and policy.
        4. Rows of entries that are not in the calendar, or not enabled, become inactive.
        """
        enabled = {entry.name: entry for entry in wanted if entry.enabled}
        self._database.write(lambda conn: _sync(conn, enabled, fingerprints, now))

    def plan(self, wanted: Sequence[EntryPlan]) -> list[list[int] | None]:
        """Write the plans in one transaction, each only if its entry's planned_through, rule and pause are unchanged.

        Returns for each plan the ids of its new runs in order, or None when another node planned the entry or loaded
        another calendar, or an operator paused or unpaused it. A due time in the ledger gets no second run.
        """
        if not wanted:
            return []
        # After a power failure the due times are planned again; a claim, without which no run starts, syncs this too.
        return self._database.write(lambda conn: self._plan(conn, wanted), synced=False)

    def set_planned_through(self, name: str, planned_after: datetime, to: datetime, why: str) -> bool:
        """Set planned_through without planning, after the clock was set back. False: another node changed it."""

        def transaction(conn: Connection) -> bool:
            moved = update(entries).where(entries.c.name == name, entries.c.planned_through == planned_after)
            if conn.execute(moved.values(planned_through=to)).rowcount != 1:
                return False
            add_event(conn, "planning_moved", subject=name, text=why, at=to)
            return True

        return self._database.write(transaction)

    def pause(self, name: str, *, why: str, by: str, until: datetime | None, now: datetime, origin: str = "") -> Pause:
        """Pause an entry from now on, replacing an earlier pause. Raises UnknownNameError."""

        def transaction(conn: Connection) -> None:
            columns = {"pause_why": why, "pause_by": by, "pause_since": now, "pause_until": until}
            if conn.execute(update(entries).where(entries.c.name == name).values(**columns)).rowcount != 1:
                raise UnknownNameError("entry", name, conn.execute(select(entries.c.name)).scalars())
            text = "" if until is None else f"until {until:%Y-%m-%d %H:%MZ}"
            add_event(conn, "entry_paused", subject=name, by=by, origin=origin, why=why, text=text, at=now)

        self._database.write(transaction)
        return Pause(entry=name, why=why, by=by, since=now, until=until)

    def unpause(self, name: str, *, by: str, now: datetime, origin: str = "", why: str = "") -> bool:
        """End an entry's pause; False when it was not paused."""

        def transaction(conn: Connection) -> bool:
            columns = dict.fromkeys(("pause_why", "pause_by", "pause_since", "pause_until"))
            paused = update(entries).where(entries.c.name == name, entries.c.pause_since.is_not(None))
            if conn.execute(paused.values(**columns)).rowcount != 1:
                return False
            add_event(conn, "entry_unpaused", subject=name, by=by, origin=origin, why=why, at=now)
            return True

        return self._database.write(transaction)

    def _plan(self, conn: Connection, wanted: Sequence[EntryPlan]) -> list[list[int] | None]:
        """Write the plans within a transaction."""
        won = _advance(conn, wanted)
        new = [(won[plan.name], run, plan.through) for plan in wanted if plan.name in won for run in plan.runs]
        taken = _add_to_ledger(conn, [(entry_id, run.due_at) for entry_id, run, _ in new if run.due_at is not None])
        new = [item for item in new if item[1].due_at is None or (item[0], item[1].due_at) in taken]
        ids = insert_runs(conn, self._plans, new)
        written: dict[int, list[int]] = {}
        for (entry_id, _, _), run_id in zip(new, ids, strict=True):
            written.setdefault(entry_id, []).append(run_id)
        return [written.get(won[plan.name], []) if plan.name in won else None for plan in wanted]


def entry_states(conn: Connection, names: Sequence[str]) -> dict[str, EntryState]:
    """See `Entries.states`, within a transaction."""
    return {row.name: mapping.entry_state(row) for row in _CALENDAR_ENTRIES_BY_NAME.rows(conn, names)}


def _microseconds(conn: Connection) -> ColumnElement[int]:
    """planned_through in microseconds since 1970, which is SQLite's representation."""
    if conn.dialect.name == "sqlite":
        return type_coerce(entries.c.planned_through, BigInteger)
    return cast(extract("epoch", entries.c.planned_through) * 1_000_000, BigInteger)


def _advance(conn: Connection, wanted: Sequence[EntryPlan]) -> dict[str, int]:
    """Set planned_through of the entries that have not changed; their ids by name."""
    found = {row.name: row for row in _FOR_PLANNING.rows(conn, [plan.name for plan in wanted])}
    won = [plan for plan in wanted if _is_unchanged(found.get(plan.name), plan)]
    if won:
        _SET_PLANNED_THROUGH.execute_many(
            conn, [{"of_id": found[plan.name].id, "through": plan.through} for plan in won]
        )
    return {plan.name: found[plan.name].id for plan in won}


def _is_unchanged(row: Any, plan: EntryPlan) -> bool:
    if row is None or row.planned_through != plan.planned_after:
        return False
    # Otherwise due times of the old rule would get runs, and those of the new rule never.
    if plan.rule is None:
        return True
    if not row.active or row.rule is None or row.pause_since != plan.paused_since:
        return False
    return mapping.rule(row.rule) == plan.rule


def _add_to_ledger(conn: Connection, due_times: Sequence[tuple[int, datetime]]) -> set[tuple[int, datetime]]:
    """Insert due times into the ledger; return those that were not in it."""
    if not due_times:
        return set()
    rows = [{"entry_id": entry_id, "due_at": due_at} for entry_id, due_at in due_times]
    return {(row.entry_id, row.due_at) for row in _insert_due_time(conn.dialect.name).rows_of_each(conn, rows)}


@cache
def _insert_due_time(dialect: str) -> Prepared:
    statement = dialect_insert(dialect, ledger).on_conflict_do_nothing()
    return Prepared(statement.returning(ledger.c.entry_id, ledger.c.due_at), ("entry_id", "due_at"))


@cache
def _insert_run(names: tuple[str, ...]) -> Prepared:
    return Prepared(insert(runs).returning(runs.c.id, sort_by_parameter_order=True), names)


def insert_runs(conn: Connection, plans: RunPlans, new: Sequence[tuple[int, NewRun, datetime]]) -> list[int]:
    """Insert runs given as (entry id, run, queued_at), and set them in the ledger; their ids in the same order."""
    if not new:
        return []
    plan_ids = plans.ids_of(conn, [run for _, run, _ in new], new[0][2])
    values = [run_row(*item, plan_id) for item, plan_id in zip(new, plan_ids, strict=True)]
    ids = [row.id for row in _insert_run(tuple(values[0])).rows_of_each(conn, values)]
    ledger_rows = [
        {"of_entry": entry_id, "at": run.due_at, "run": run_id}
        for (entry_id, run, _), run_id in zip(new, ids, strict=True)
        if run.due_at is not None
    ]
    if ledger_rows:
        _SET_LEDGER_RUN.execute_many(conn, ledger_rows)
    changed = [RunChanged(run_id, run.state, queued_at) for (_, run, queued_at), run_id in zip(new, ids, strict=True)]
    add_run_events(conn, changed)
    return ids


def run_row(entry_id: int, run: NewRun, queued_at: datetime, plan_id: int) -> dict[str, Any]:
    """The columns of a new run."""
    columns = run.model_dump(exclude={"entry", "plan", "policy"})
    return columns | {
        "entry_id": entry_id,
        "plan_id": plan_id,
        "state": run.state.value,
        "trigger": run.trigger.value,
        "skip_reason": None if run.skip_reason is None else run.skip_reason.value,
        "queued_at": queued_at,
        "finished_at": queued_at if run.state.final else None,
        "fence": 0,
        "recorded_seq": 0,
        "cancel_requested": "",
    }


def entry_id_of(conn: Connection, name: str, title: str, now: datetime) -> int:
    """The id of the entry. For a job that is run under its own name for the first time, an inactive row is inserted."""
    found = _ID.one_or_none(conn, {"of_name": name})
    if found is not None:
        return int(found.id)
    columns = {"name": name, "title": title, "policy": "{}", "active": False}
    statement = insert_into(conn, entries).values(**columns, planned_through=now, first_seen_at=now)
    conn.execute(statement.on_conflict_do_nothing())
    return int(_ID.one_or_none(conn, {"of_name": name}).id)


def _sync(conn: Connection, wanted: Mapping[str, Entry], fingerprints: Mapping[str, str], now: datetime) -> None:
    found = {row.name: row for row in conn.execute(select(entries).order_by(entries.c.name).with_for_update())}
    new, changed = [], []
    policies: dict[Policy, str] = {}
    for name, entry in sorted(wanted.items()):
        row = found.get(name)
        old = None if entry.formerly is None or entry.formerly in wanted else found.get(entry.formerly)
        if old is not None and old.fingerprint is not None and (row is None or row.fingerprint is None):
            _rename(conn, old, row, name, now)
            row = old
        columns = _columns(entry, fingerprints[name], policies)
        if row is None:
            new.append({**columns, "name": name, "planned_through": now, "first_seen_at": now, "active": True})
        elif not row.active:
            changed.append({**columns, "of_id": row.id, "planned_through": now, "active": True})
        elif any(getattr(row, key) != value for key, value in columns.items()):
            changed.append({**columns, "of_id": row.id, "planned_through": row.planned_through, "active": True})
    if new:
        # Another node can insert the same rows at the same time.
        conn.execute(insert_into(conn, entries).on_conflict_do_nothing(), new)
    if changed:
        conn.execute(update(entries).where(entries.c.id == bindparam("of_id")), changed)
    active = entries.c.active.is_(True)
    if conn.execute(select(func.count()).select_from(entries).where(active)).scalar_one() == len(wanted):
        return
    active_rows = conn.execute(select(entries.c.id, entries.c.name).where(active)).all()
    gone = [{"of_id": row.id} for row in active_rows if row.name not in wanted]
    if gone:
        conn.execute(update(entries).where(entries.c.id == bindparam("of_id")).values(active=False), gone)


def _columns(entry: Entry, fingerprint: str, policies: dict[Policy, str]) -> dict[str, Any]:
    policy = policies.get(entry.policy)  # cached: a large calendar has few different ones
    if policy is None:
        policy = policies[entry.policy] = entry.policy.model_dump_json()
    return {
        "title": entry.title,
        "rule": None if entry.rule is None else entry.rule.model_dump_json(),
        "policy": policy,
        "fingerprint": fingerprint,
    }


def _rename(conn: Connection, old: Any, manual: Any | None, name: str, now: datetime) -> None:
    if manual is not None:  # a job that was run under the new name
        _merge_series(conn, manual.id, old.id)
        _merge_findings(conn, manual.id, old.id)
        conn.execute(update(runs).where(runs.c.entry_id == manual.id).values(entry_id=old.id))
        conn.execute(delete(entries).where(entries.c.id == manual.id))
    conn.execute(update(entries).where(entries.c.id == old.id).values(name=name))
    add_event(conn, "entry_renamed", subject=name, text=f"was {old.name}", at=now)


def _merge_findings(conn: Connection, source: int, target: int) -> None:
    """Give one entry the findings of another; of a check that both have, those of the target stay."""
    same = findings.alias("same")
    both = exists().where(same.c.entry_id == target, same.c.step == findings.c.step, same.c.check == findings.c.check)
    conn.execute(delete(findings).where(findings.c.entry_id == source, both))
    conn.execute(update(findings).where(findings.c.entry_id == source).values(entry_id=target))


def _merge_series(conn: Connection, source: int, target: int) -> None:
    for row in conn.execute(select(series).where(series.c.entry_id == source)).all():
        same = select(series.c.id).where(
            series.c.entry_id == target, series.c.job == row.job, series.c.name == row.name
        )
        into = conn.execute(same).scalar_one_or_none()
        if into is None:
            conn.execute(update(series).where(series.c.id == row.id).values(entry_id=target))
        else:
            conn.execute(update(measures).where(measures.c.series_id == row.id).values(series_id=into))
            conn.execute(delete(series).where(series.c.id == row.id))
