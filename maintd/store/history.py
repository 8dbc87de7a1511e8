"""Queries of the history. Each seeks in an index and reads few more rows than it returns, whatever the table's size."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import BaseModel
from sqlalchemy import Select, Table, bindparam, exists, func, literal_column, or_, select, tuple_, union_all
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from maintd.model.evidence import LogLine
from maintd.model.responses import SeriesPoint
from maintd.model.run import GateDecision, HandedValue, Note, Run, RunLink, RunState, RunSummary
from maintd.store import mapping
from maintd.store.database import Database
from maintd.store.last_runs import LastRuns, last_runs, last_success
from maintd.store.mapping import AnyRow
from maintd.store.prepared import Prepared, PreparedForValues
from maintd.store.run_plans import RunPlan, RunPlans
from maintd.store.tables import (
    IS_HELD,
    IS_QUEUED,
    artifacts,
    attempts,
    changes,
    checks,
    entries,
    gate_decisions,
    handed_values,
    log_lines,
    measures,
    notes,
    plan_jobs,
    run_events,
    run_links,
    runs,
    series,
    steps,
)

__all__ = ["History", "LastRuns", "LogRow", "MeasurePoint", "load_runs"]

_of_job = select(series.c.id, series.c.name).where(series.c.job == bindparam("of_job"))
_SERIES_OF_JOB = Prepared(_of_job)
_SERIES_OF_ENTRY = Prepared(_of_job.join(entries).where(entries.c.name == bindparam("of_entry")))

_RUNS = PreparedForValues(mapping.select_runs(*mapping.FULL).order_by(runs.c.id), runs.c.id)

START_STATEMENTS = (_RUNS, _SERIES_OF_ENTRY)
"""What every start of a run executes."""

# The number of points that the newest run has in a series: one for each combination of labels.
_LABEL_SETS = select(func.count()).where(
    measures.c.series_id == bindparam("of_series"),
    measures.c.run_id
    == select(func.max(measures.c.run_id)).where(measures.c.series_id == bindparam("of_series")).scalar_subquery(),
)

_STEPS = Prepared(select(steps).where(steps.c.run_id == bindparam("of_run")))
_ATTEMPTS = Prepared(
    select(attempts).where(attempts.c.run_id == bindparam("of_run")).order_by(attempts.c.step, attempts.c.number)
)
_LINKS = Prepared(
    select(run_links)
    .where(or_(run_links.c.run_id == bindparam("of_run"), run_links.c.other_run_id == bindparam("of_run")))
    .order_by(run_links.c.run_id)
)


def _of_run(table: Table, order: ColumnElement[Any]) -> Prepared:
    return Prepared(select(table).where(table.c.run_id == bindparam("of_run")).order_by(order))


_OF_PROCEDURE: tuple[tuple[str, Prepared, type[BaseModel]], ...] = (
    ("decisions", _of_run(gate_decisions, gate_decisions.c.id), GateDecision),
    ("handed", _of_run(handed_values, handed_values.c.name), HandedValue),
    ("notes", _of_run(notes, notes.c.id), Note),
)
"""Fields of a run with their rows and types."""

_NAMED_MEASURES = select(measures, series.c.name).join(series).where(measures.c.run_id == bindparam("of_run"))

_EVIDENCE: tuple[tuple[str, Prepared, Callable[[AnyRow], Any]], ...] = (
    ("checks", _of_run(checks, checks.c.id), mapping.check),
    ("measures", Prepared(_NAMED_MEASURES.order_by(measures.c.id)), mapping.measure),
    ("changes", _of_run(changes, changes.c.id), mapping.change),
    ("artifacts", _of_run(artifacts, artifacts.c.id), mapping.artifact),
)
"""Fields of an attempt with their rows and how one is read."""

_LAST_RUNS = 20


def _ended_between() -> Select[Any]:
    of_entry = select(entries.c.id).where(entries.c.name == bindparam("of_entry")).scalar_subquery()
    newest = select(runs.c.id, runs.c.finished_at).where(runs.c.entry_id == of_entry, runs.c.started_at.is_not(None))
    last = newest.order_by(runs.c.id.desc()).limit(literal_column(str(_LAST_RUNS))).subquery()
    unfinished: list[ColumnElement[str]] = [literal_column(f"'{state.value}'") for state in RunState if not state.final]
    end = exists().where(
        run_events.c.run_id == last.c.id,
        run_events.c.id < bindparam("of_event"),
        run_events.c.state.not_in(unfinished),
    )
    return select(last.c.id).where(last.c.finished_at > bindparam("ended_after"), last.c.id != bindparam("of_run"), end)


_ENDED_BETWEEN = Prepared(_ended_between())

MAX_POINTS = 20_000
"""Most points of one name that are read, of all labels together."""

MAX_RANGES = 200
"""Most index ranges in one statement; SQLite allows 500."""


class LogRow(NamedTuple):
    """A log line and its position in the run. (step, attempt, line.seq) is the cursor for the next page."""

    step: int
    step_name: str
    attempt: int
    line: LogLine


class MeasurePoint(NamedTuple):
    """A measure as a point of its series; `at` is when the run finished."""

    run_id: int
    at: datetime
    name: str
    value: float
    unit: str
    labels: dict[str, str]


class History:
    """Runs with their evidence, logs and measures."""

    def __init__(self, database: Database, plans: RunPlans) -> None:
        self._database = database
        self._plans = plans

    def run(self, run_id: int) -> Run | None:
        """A run with its steps, attempts and evidence, but without log lines."""
        return self._database.read(lambda conn: load_runs(conn, self._plans, {run_id: True}).get(run_id))

    def state(self, run_id: int) -> RunState | None:
        """The state of a run; None if there is none with this id."""
        query = select(runs.c.state).where(runs.c.id == run_id)
        found = self._database.read(lambda conn: conn.execute(query).scalar_one_or_none())
        return None if found is None else RunState(found)

    def runs(
        self,
        *,
        entry: str | None = None,
        states: Collection[RunState] | None = None,
        since: datetime | None = None,
        before_id: int | None = None,
        limit: int = 50,
        job: str | None = None,
    ) -> list[RunSummary]:
        """A page of runs, newest first. Its last id is `before_id` of the next page; `since` limits queued_at."""

        def transaction(conn: Connection) -> list[RunSummary]:
            bounds: list[ColumnElement[bool]] = [] if before_id is None else [runs.c.id < before_id]
            if since is not None:
                first = select(runs.c.id).where(runs.c.queued_at >= since).order_by(runs.c.queued_at, runs.c.id)
                bounds += [runs.c.id >= first.limit(1).scalar_subquery(), runs.c.queued_at >= since]
            ranges = list(_ranges(conn, entry, states, job))
            ids = _newest(conn, ranges, bounds, limit)
            query = mapping.select_runs(*mapping.SUMMARY).where(runs.c.id.in_(ids)).order_by(runs.c.id.desc())
            return [mapping.summary(row) for row in conn.execute(query)]

        return self._database.read(transaction)

    def last_per_entry(self, names: Sequence[str]) -> dict[str, LastRuns]:
        """The last runs of each of these entries; for one that the store does not know, all fields are empty."""
        return self._database.read(lambda conn: last_runs(conn, names))

    def last_success_since(self, entry: str, since: datetime) -> RunSummary | None:
        """The entry's last success if it finished at `since` or later. Dry runs do not count."""
        return self._database.read(lambda conn: last_success(conn, entry, since))

    def log(
        self,
        run_id: int,
        *,
        after: tuple[int, int, int] | None = None,
        step: int | str | None = None,
        attempt: int | None = None,
        limit: int = 1000,
    ) -> list[LogRow]:
        """Log lines in order, after the cursor (step, attempt, seq). `step` is an index or a name."""

        def transaction(conn: Connection) -> list[LogRow]:
            plan_id = conn.execute(select(runs.c.plan_id).where(runs.c.id == run_id)).scalar_one_or_none()
            if plan_id is None:
                return []
            names = [plan.name for plan in self._plans.load(conn, [plan_id])[plan_id].steps]
            place = (log_lines.c.step, log_lines.c.attempt, log_lines.c.seq)
            query = select(log_lines).where(log_lines.c.run_id == run_id).order_by(*place).limit(limit)
            if after is not None:
                query = query.where(tuple_(*place) > after)
            if step is not None:
                query = query.where(log_lines.c.step == (_index(names, step) if isinstance(step, str) else step))
            if attempt is not None:
                query = query.where(log_lines.c.attempt == attempt)
            return [
                LogRow(row.step, names[row.step], row.attempt, mapping.log_line(row)) for row in conn.execute(query)
            ]

        return self._database.read(transaction)

    def points(
        self,
        name: str,
        *,
        entry: str | None = None,
        job: str | None = None,
        since: datetime | None = None,
        after: int = 0,
        limit: int = 1000,
    ) -> list[SeriesPoint]:
        """Measures of a name, oldest first, after the id of a point; dry runs do not count. `since` limits when their
        runs were queued."""

        def transaction(conn: Connection) -> list[SeriesPoint]:
            of_name = select(series.c.id, series.c.job, entries.c.name).join(entries).where(series.c.name == name)
            if entry is not None:
                of_name = of_name.where(entries.c.name == entry)
            if job is not None:
                of_name = of_name.where(series.c.job == job)
            known = {row.id: row for row in conn.execute(of_name)}
            bounds: list[ColumnElement[bool]] = [measures.c.id > after]
            if since is not None:
                first = select(runs.c.id).where(runs.c.queued_at >= since).order_by(runs.c.queued_at, runs.c.id)
                bounds += [measures.c.run_id >= first.limit(1).scalar_subquery(), runs.c.queued_at >= since]
            found: list[AnyRow] = []
            for series_id in known:  # each seeks in its index
                query = (
                    select(measures, runs.c.finished_at)
                    .join(runs)
                    .where(measures.c.series_id == series_id, *bounds)
                    .where(runs.c.finished_at.is_not(None), runs.c.dry_run.is_(False))
                    .order_by(measures.c.id)
                    .limit(limit)
                )
                found += conn.execute(query)
            return [
                SeriesPoint(
                    id=row.id,
                    at=row.finished_at,
                    run_id=row.run_id,
                    entry=known[row.series_id].name,
                    job=known[row.series_id].job,
                    value=float("nan") if row.value is None else row.value,
                    unit=row.unit,
                    labels=row.labels,
                )
                for row in sorted(found, key=lambda row: row.id)[:limit]
            ]

        return self._database.read(transaction)

    def log_end(self, run_id: int) -> tuple[int, ...]:
        """The position (step, attempt, seq) of the last line of a run's log; empty without a line."""
        place = (log_lines.c.step, log_lines.c.attempt, log_lines.c.seq)
        query = select(*place).where(log_lines.c.run_id == run_id).order_by(*(column.desc() for column in place))
        row = self._database.read(lambda conn: conn.execute(query.limit(1)).one_or_none())
        return () if row is None else tuple(row)

    def last_log_lines(self, run_id: int, limit: int) -> list[str]:
        """The texts of a run's last log lines, oldest first."""
        place = (log_lines.c.step.desc(), log_lines.c.attempt.desc(), log_lines.c.seq.desc())
        query = select(log_lines).where(log_lines.c.run_id == run_id).order_by(*place).limit(limit)
        return self._database.read(lambda conn: [mapping.log_line(row).text for row in conn.execute(query)][::-1])

    def series(
        self, entry: str | None, job: str, names: Sequence[str] | None = None, limit: int = 400
    ) -> list[MeasurePoint]:
        """Measures of a job, oldest first, at most `limit` points of each name and labels; dry runs do not count.

        With `entry` None, those of all entries.
        """

        def transaction(conn: Connection) -> list[MeasurePoint]:
            query, of = (_SERIES_OF_JOB, {}) if entry is None else (_SERIES_OF_ENTRY, {"of_entry": entry})
            points: dict[str, list[AnyRow]] = {}
            for found in query.rows_without_transaction(conn, {"of_job": job, **of}):
                if names is not None and found.name not in names:
                    continue
                label_sets = max(1, conn.execute(_LABEL_SETS, {"of_series": found.id}).scalar_one())
                points.setdefault(found.name, []).extend(
                    conn.execute(_points(found.id, min(limit * label_sets, MAX_POINTS)))
                )
            newest = [(row, name) for name, of_name in points.items() for row in _newest_of_each(of_name, limit)]
            return [_point(row, name) for row, name in sorted(newest, key=lambda item: item[0].id)]

        return self._database.read(transaction)

    def unfinished_with_values(self) -> list[tuple[int, str, bool, dict[str, Any]]]:
        """Runs that have not ended or are held, oldest first, with what they have handed over: id, entry, held, values
        by name. Those without values, and dry runs, are left out."""
        columns = (runs.c.id, entries.c.name.label("entry"), runs.c.held, handed_values.c.name, handed_values.c.value)
        of_runs = runs.join(handed_values, handed_values.c.run_id == runs.c.id)
        has_values = select(*columns).select_from(of_runs.join(entries, entries.c.id == runs.c.entry_id))
        live = [state.value for state in RunState if not state.final]

        def transaction(conn: Connection) -> list[tuple[int, str, bool, dict[str, Any]]]:
            found: dict[int, tuple[int, str, bool, dict[str, Any]]] = {}
            # Two queries: each has its own index, and a condition with OR has none.
            for which in (runs.c.state.in_(live), IS_HELD):
                for row in conn.execute(has_values.where(which, runs.c.dry_run.is_(False))):
                    found.setdefault(row.id, (row.id, row.entry, row.held, {}))[3][row.name] = row.value
            return [found[run_id] for run_id in sorted(found)]

        return self._database.read(transaction)

    def handed_over(self, names: Collection[str], after: int) -> tuple[bool, int]:
        """Whether a run that has not ended, or is held, or has a higher id than `after`, has handed over one of these
        values; and the highest id of any run. Dry runs do not count."""
        of_name = select(handed_values.c.run_id).where(handed_values.c.name.in_(sorted(names)))
        live = [state.value for state in RunState if not state.final]

        def transaction(conn: Connection) -> tuple[bool, int]:
            newest: int = conn.execute(select(func.max(runs.c.id))).scalar_one() or 0
            has_values = of_name.where(handed_values.c.run_id == runs.c.id).exists()
            # Three queries: each has its own index, and a condition with OR has none.
            for which in (runs.c.state.in_(live), IS_HELD, runs.c.id > after):
                query = select(runs.c.id).where(which, runs.c.dry_run.is_(False), has_values).limit(1)
                if conn.execute(query).first() is not None:
                    return True, newest
            return False, newest

        return self._database.read(transaction)

    def counts(self, now: datetime) -> dict[str, int]:
        """The number of unfinished runs by state, without the queued ones whose time has not come: those are `later`.

        `runs` is the approximate number of all runs.
        """

        def transaction(conn: Connection) -> dict[str, int]:
            unfinished = [state.value for state in RunState if not state.final]
            query = select(runs.c.state, func.count()).where(runs.c.state.in_(unfinished)).group_by(runs.c.state)
            found = {row[0]: row[1] for row in conn.execute(query)}
            planned = select(func.count()).select_from(runs).where(IS_QUEUED, runs.c.not_before > now)
            later: int = conn.execute(planned).scalar_one()
            queued = RunState.QUEUED.value
            found[queued] = found.get(queued, 0) - later
            counts = {state: found.get(state, 0) for state in unfinished}
            return counts | {"later": later, "runs": _approximate_count(conn)}

        return self._database.read(transaction)


def load_runs(conn: Connection, plans: RunPlans, started: Mapping[int, bool]) -> dict[int, Run]:
    """Runs by id, see `History.run`. For a run that has not `started`, no evidence is read."""
    found = _RUNS.rows(conn, started)
    known = plans.load(conn, {row.plan_id for row in found})
    return {row.id: _run(conn, row, known[row.plan_id], started=started[row.id]) for row in found}


def runs_that_ended_between(conn: Connection, plans: RunPlans, run: Run, after: datetime, event_id: int) -> list[Run]:
    """Other runs of the entry that ended after that time, but before that event, of the entry's last ones.

    One run at a time of an entry is running, so there are some only where a lost run came back late.
    """
    place = {"of_entry": run.entry, "of_run": run.id, "of_event": event_id, "ended_after": after}
    ids = [row.id for row in _ENDED_BETWEEN.rows(conn, place)]
    return list(load_runs(conn, plans, dict.fromkeys(ids, True)).values()) if ids else []


def _run(conn: Connection, row: AnyRow, plan: RunPlan, *, started: bool) -> Run:
    columns = row._asdict()
    del columns["plan_id"], columns["entry_id"]
    more = _of_procedure(conn, row.id) if started else {}
    known = _steps(conn, row.id) if started else {}
    attempts_by_step = _attempts(conn, row.id) if started else {}
    return Run(
        **columns,
        **more,
        policy=plan.policy,
        plan=plan.steps,
        steps=tuple(
            mapping.step(index, step, known.get(index), tuple(attempts_by_step.get(index, ())))
            for index, step in enumerate(plan.steps)
        ),
    )


def _of_procedure(conn: Connection, run_id: int) -> dict[str, Any]:
    """What a run has beside its steps: decisions at gates, values handed over, links and notes."""
    of_run = {"of_run": run_id}
    fields: dict[str, Any] = {}
    for field, query, to in _OF_PROCEDURE:
        names = to.model_fields.keys()
        fields[field] = tuple(to(**{name: getattr(row, name) for name in names}) for row in query.rows(conn, of_run))
    return fields | {"links": tuple(RunLink(**row._asdict()) for row in _LINKS.rows(conn, of_run))}


def _steps(conn: Connection, run_id: int) -> dict[int, AnyRow]:
    return {row.step: row for row in _STEPS.rows(conn, {"of_run": run_id})}


def _attempts(conn: Connection, run_id: int) -> dict[int, list[Any]]:
    of_run = {"of_run": run_id}
    found = _ATTEMPTS.rows(conn, of_run)
    evidence: dict[tuple[int, int], dict[str, list[Any]]] = {}
    if found:
        for name, query, read in _EVIDENCE:
            for row in query.rows(conn, of_run):
                evidence.setdefault((row.step, row.attempt), {}).setdefault(name, []).append(read(row))
    attempts_by_step: dict[int, list[Any]] = {}
    for row in found:
        attempts_by_step.setdefault(row.step, []).append(mapping.attempt(row, evidence.get((row.step, row.number), {})))
    return attempts_by_step


def _ranges(
    conn: Connection, entry: str | None, states: Collection[RunState] | None, job: str | None
) -> Iterator[list[ColumnElement[bool]]]:
    """Conditions whose union selects the runs; each is one range of an index that is ordered by id."""
    wanted = [None] if states is None else list(dict.fromkeys(RunState(state).value for state in states))
    if job is not None:
        plan_ids = conn.execute(select(plan_jobs.c.plan_id).where(plan_jobs.c.job == job)).scalars().all()
        narrower: list[ColumnElement[bool]] = [] if states is None else [runs.c.state.in_(wanted)]
        if entry is not None:
            narrower.append(runs.c.entry_id == _id_of(entry))
        yield from ([runs.c.plan_id == plan_id, *narrower] for plan_id in plan_ids)
    elif entry is not None:
        for state in wanted:
            if state is None:
                yield [runs.c.entry_id == _id_of(entry)]
            else:
                for dry in (False, True):
                    yield [runs.c.entry_id == _id_of(entry), runs.c.state == state, runs.c.dry_run.is_(dry)]
    else:
        yield from ([] if state is None else [runs.c.state == state] for state in wanted)


def _id_of(entry: str) -> Any:
    return select(entries.c.id).where(entries.c.name == entry).scalar_subquery()


def _newest(
    conn: Connection, ranges: Sequence[list[ColumnElement[bool]]], bounds: list[ColumnElement[bool]], limit: int
) -> list[int]:
    """The `limit` highest ids of all ranges together, in descending order."""
    ids: set[int] = set()
    for start in range(0, len(ranges), MAX_RANGES):
        seeks: list[Select[Any]] = []
        for conditions in ranges[start : start + MAX_RANGES]:
            seek = select(runs.c.id).where(*conditions, *bounds).order_by(runs.c.id.desc()).limit(limit)
            seeks.append(select(seek.subquery().c.id))
        ids.update(conn.execute(seeks[0] if len(seeks) == 1 else union_all(*seeks)).scalars())
    return sorted(ids, reverse=True)[:limit]


def _index(names: Sequence[str], step: str) -> int:
    return names.index(step) if step in names else -1


def _points(series_id: int, limit: int) -> Select[Any]:
    return (
        select(measures, runs.c.finished_at)
        .join(runs)
        .where(measures.c.series_id == series_id, runs.c.finished_at.is_not(None), runs.c.dry_run.is_(False))
        .order_by(measures.c.id.desc())
        .limit(limit)
    )


def _newest_of_each(points: Sequence[AnyRow], limit: int) -> Iterator[AnyRow]:
    taken: Counter[str] = Counter()
    for row in sorted(points, key=lambda row: row.id, reverse=True):
        labels = json.dumps(row.labels, sort_keys=True)
        taken[labels] += 1
        if taken[labels] <= limit:
            yield row


def _point(row: AnyRow, name: str) -> MeasurePoint:
    value = float("nan") if row.value is None else row.value
    return MeasurePoint(row.run_id, row.finished_at, name, value, row.unit, row.labels)


def _approximate_count(conn: Connection) -> int:
    """The distance of the highest and the lowest id; counting would read the whole table."""
    low, high = conn.execute(select(select(func.min(runs.c.id)).scalar_subquery(), _highest())).one()
    return 0 if high is None else high - low + 1


def _highest() -> Any:
    return select(func.max(runs.c.id)).scalar_subquery()
