"""The last runs of each entry, since when it fails, and its typical duration.

The status page reads this for all entries at once, so it takes one index seek per entry and state, whatever the number
of runs. Dry runs count as unfinished runs, but neither as successes nor as failures.

The last run is the one that ended last: a run can wait at a gate, or for its planned time, while others come and go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from statistics import median
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Text, case, cast, func, literal_column, select, type_coerce
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from maintd.model.run import RunState, RunSummary
from maintd.store.mapping import AnyRow
from maintd.store.prepared import PreparedForValues
from maintd.store.run_summaries import summaries
from maintd.store.tables import entries, run_events, runs

ACTIVE = (RunState.RUNNING, RunState.WAITING, RunState.QUEUED)
"""A queued run waits for the one at a gate."""
SUCCESSES = (RunState.SUCCEEDED, RunState.WARNED)
FAILURES = (RunState.FAILED, RunState.TIMED_OUT, RunState.LOST)
UNSUCCESSFUL = (*FAILURES, RunState.UNKNOWN)
"""An unknown run neither ends a row of failures nor counts as one."""
FINISHED = (*SUCCESSES, *UNSUCCESSFUL, RunState.CANCELLED)

MAX_COUNTED = 1000
"""Failures in a row are counted up to this number."""

TYPICAL_OF = 20
"""How many of the last successes the typical duration is the median of."""

CANDIDATES = 3
"""Of one state, by their numbers: of these, the one that ended last is taken."""


class LastRuns(NamedTuple):
    """The last runs of an entry. A run that warned counts as a success, an unknown one does not."""

    last_run: RunSummary | None = None  # that is over, skipped ones included
    last_finished: RunSummary | None = None  # that is over and was not skipped
    last_success: RunSummary | None = None
    active: RunSummary | None = None  # running, else waiting, else queued
    last_failure: RunSummary | None = None
    failing_since: datetime | None = None  # end of the first failed or unknown run after the last success
    failures_in_a_row: int = 0  # since the last success, at most MAX_COUNTED
    typical_duration: timedelta | None = None  # median of the last successes


def last_runs(conn: Connection, names: Sequence[str]) -> dict[str, LastRuns]:
    """The last runs by entry name, see `History.last_per_entry`."""
    found = {row.name: row for row in _of_entries(conn.dialect.name).rows(conn, names)}
    last = {name: _ends_of(row) for name, row in found.items()}
    streaks = _streaks(conn, {found[name].id: of_entry for name, of_entry in last.items() if _is_failing(of_entry)})
    wanted = {end.run_id for of_entry in last.values() for end in of_entry.values()}
    runs_by_id = summaries(conn, wanted | {first for first, _ in streaks.values()})
    return {
        name: _last_runs_of(found[name], last[name], streaks, runs_by_id) if name in found else LastRuns()
        for name in names
    }


def active_of(unfinished: Iterable[RunSummary], now: datetime) -> RunSummary | None:
    """The unfinished run of an entry that `LastRuns.active` is to be: none that is planned for later."""
    found = [run for run in unfinished if not run.is_planned(now)]
    return min(found, key=lambda run: (ACTIVE.index(run.state), -run.id), default=None)


def last_success(conn: Connection, entry: str, since: datetime) -> RunSummary | None:
    """See `History.last_success_since`."""
    rows = _of_entries(conn.dialect.name).rows(conn, [entry])
    run_id = next((_last(_ends_of(row), SUCCESSES) for row in rows), None)
    run = None if run_id is None else summaries(conn, {run_id})[run_id]
    return run if run is not None and run.finished_at is not None and run.finished_at >= since else None


def last_outcome_ids(conn: Connection) -> set[int]:
    """The ids of the last success and the last failure of every entry."""
    query = select(*_columns_of_ends(conn.dialect.name)).select_from(entries)
    last = [_ends_of(row) for row in conn.execute(query)]
    found = {_last(of_entry, states) for of_entry in last for states in (SUCCESSES, FAILURES, [RunState.UNKNOWN])}
    return {run_id for run_id in found if run_id is not None}


@cache
def _of_entries(dialect: str) -> PreparedForValues:
    """By name: the entry's id, the ends of its runs, and how long its successes lasted."""
    columns = (entries.c.id, entries.c.name, *_columns_of_ends(dialect), *_durations_of_successes(dialect))
    return PreparedForValues(select(*columns), entries.c.name)


def _in_state(state: RunState, *, dry: bool) -> list[ColumnElement[bool]]:
    """Conditions of a subquery on the outer query's entry: a range of the index on entry, state, dry_run and id.

    A run that undid another one is no success of the entry: what the entry is for was not done.
    """
    found = [
        runs.c.entry_id == entries.c.id,
        runs.c.state == literal_column(f"'{state.value}'"),
        runs.c.dry_run.is_(dry),
    ]
    return [*found, runs.c.trigger != literal_column("'undo'")] if state in SUCCESSES else found


def _columns_of_ends(dialect: str) -> list[Any]:
    """For each state one column: the ends of its runs with the highest ids, as "run:event:microseconds,…", in no order.

    The event is the run's last one, 0 if it was pruned; without an end, the microseconds are -1.
    """
    at = runs.c.finished_at
    stored = type_coerce(at, BigInteger) if dialect == "sqlite" else _microseconds(func.extract("epoch", at))
    ended = func.coalesce(stored, -1)
    columns = []
    for state, dry in [*((state, False) for state in RunState), *((state, True) for state in ACTIVE)]:
        newest = select(runs.c.id, ended.label("ended")).where(*_in_state(state, dry=dry)).correlate(entries)
        last = newest.order_by(runs.c.id.desc()).limit(CANDIDATES).subquery()
        event = select(func.max(run_events.c.id)).where(run_events.c.run_id == last.c.id).scalar_subquery()
        fields = (last.c.id, func.coalesce(event, 0), last.c.ended)
        columns.append(_joined(dialect, *fields).label(f"dry_{state.value}" if dry else state.value))
    return columns


def _joined(dialect: str, *fields: Any) -> Any:
    """The rows of a subquery as one text: ":" between fields, "," between rows."""
    text: ColumnElement[str]
    text, *others = (cast(field, Text) for field in fields)
    for field in others:
        text = text + literal_column("':'") + field
    join = func.group_concat if dialect == "sqlite" else func.string_agg
    return select(join(text, literal_column("','"))).scalar_subquery()


def _microseconds(seconds: ColumnElement[Any]) -> ColumnElement[int]:
    return cast(seconds * 1_000_000, BigInteger)


class _End(NamedTuple):
    """When a run got its state, in order: by the id of that event, which is 0 if it was pruned, then by the clock."""

    event_id: int
    at: int  # microseconds since 1970, -1 without an end
    run_id: int


def _ends_of(row: AnyRow) -> dict[RunState, _End]:
    """By state: the run that got it last."""
    texts = {state: [getattr(row, state.value)] for state in RunState}
    for state in ACTIVE:
        texts[state].append(getattr(row, f"dry_{state.value}"))
    joined = {state: ",".join(filter(None, of_state)) for state, of_state in texts.items()}
    return {state: max(map(_end, text.split(","))) for state, text in joined.items() if text}


def _end(text: str) -> _End:
    run_id, event_id, at = map(int, text.split(":"))
    return _End(event_id, at, run_id)


def _last(ends: Mapping[RunState, _End], states: Iterable[RunState]) -> int | None:
    last = max((ends[state] for state in states if state in ends), default=None)
    return None if last is None else last.run_id


_NEVER = _End(0, -1, 0)


def _is_failing(ends: Mapping[RunState, _End]) -> bool:
    unsuccessful = max(ends.get(state, _NEVER) for state in UNSUCCESSFUL)
    return unsuccessful > max(ends.get(state, _NEVER) for state in SUCCESSES)


def _streaks(conn: Connection, failing: Mapping[int, Mapping[RunState, _End]]) -> dict[int, tuple[int, int]]:
    """By entry id: the first failed or unknown run after the last success, and the number of failures since then."""
    if not failing:
        return {}
    success = case({entry_id: _last(ends, SUCCESSES) or 0 for entry_id, ends in failing.items()}, value=entries.c.id)
    columns = []
    for state in UNSUCCESSFUL:
        after = select(runs.c.id).where(*_in_state(state, dry=False), runs.c.id > success).correlate(entries)
        counted = after.limit(MAX_COUNTED).subquery()
        columns += [
            after.order_by(runs.c.id).limit(1).scalar_subquery(),
            select(func.count()).select_from(counted).scalar_subquery(),
        ]
    query = select(entries.c.id, *columns).where(entries.c.id.in_(list(failing)))
    streaks = {}
    for entry_id, *found in conn.execute(query):
        last = _last(failing[entry_id], UNSUCCESSFUL) or 0
        first = min((run_id for run_id in found[::2] if run_id is not None), default=last)
        failed = sum(found[1 : 2 * len(FAILURES) : 2])
        # One that ended after a success with a higher number is the only one that is certain.
        is_failure = last in (failing[entry_id].get(state, _NEVER).run_id for state in FAILURES)
        streaks[entry_id] = (first, min(MAX_COUNTED, max(failed, int(is_failure))))
    return streaks


def _durations_of_successes(dialect: str) -> list[Any]:
    """For each success state one column: "run:microseconds,…" of the last runs."""
    duration: Any
    if dialect == "sqlite":
        duration = type_coerce(runs.c.finished_at, BigInteger) - type_coerce(runs.c.started_at, BigInteger)
    else:
        duration = _microseconds(func.extract("epoch", runs.c.finished_at - runs.c.started_at))
    columns = []
    for state in SUCCESSES:
        ended = [runs.c.started_at.is_not(None), runs.c.finished_at.is_not(None)]
        query = (
            select(runs.c.id, (duration - type_coerce(runs.c.waited, BigInteger)).label("duration"))
            .where(*_in_state(state, dry=False), *ended)
            .correlate(entries)
        )
        last = query.order_by(runs.c.id.desc()).limit(TYPICAL_OF).subquery()
        columns.append(_joined(dialect, last.c.id, last.c.duration).label(f"duration_{state.value}"))
    return columns


def _typical_duration(row: AnyRow) -> timedelta | None:
    joined = ",".join(filter(None, (getattr(row, f"duration_{state.value}") for state in SUCCESSES)))
    if not joined:
        return None
    pairs = [pair.split(":") for pair in joined.split(",")]
    last = sorted(((int(run_id), int(duration)) for run_id, duration in pairs), reverse=True)[:TYPICAL_OF]
    return timedelta(microseconds=round(median(duration for _, duration in last)))


def _last_runs_of(
    row: AnyRow,
    last: Mapping[RunState, _End],
    streaks: Mapping[int, tuple[int, int]],
    runs_by_id: Mapping[int, RunSummary],
) -> LastRuns:
    def run(run_id: int | None) -> RunSummary | None:
        return None if run_id is None else runs_by_id.get(run_id)

    first, count = streaks.get(row.id, (None, 0))
    first_failure = run(first)
    return LastRuns(
        last_run=run(_last(last, (*FINISHED, RunState.SKIPPED))),
        last_finished=run(_last(last, FINISHED)),
        last_success=run(_last(last, SUCCESSES)),
        active=run(next((last[state].run_id for state in ACTIVE if state in last), None)),
        last_failure=run(_last(last, FAILURES)),
        failing_since=None if first_failure is None else first_failure.finished_at,
        failures_in_a_row=count,
        typical_duration=_typical_duration(row),
    )
