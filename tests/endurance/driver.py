"""One endurance run: inject faults, end them, wait until all runs have ended, audit."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psycopg

from endurance import invariants, journal, leftovers, plan_audit, run_checks, schedule
from endurance.cluster import Cluster, Node, cluster
from endurance.fault_injector import WHY, FaultInjector
from endurance.outcome import Outcome
from maintd.clock import SystemClock
from maintd.errors import StoreError
from maintd.model.entry import EntryState
from maintd.model.run import Run
from maintd.schedule import compile_rule
from maintd.store import Store, read_store

EMPTY = "timezone: UTC\nentries: {}\n"
READY_WITHIN = 120.0
REST_WITHIN = 180.0
CALM = 8.0  # seconds without faults before the last reload
QUEUE_ENDS_WITHIN = 30.0
"""Seconds after which queued runs are cancelled: a clock that was set forward may queue more than can run."""
PAGE = 1000


def run_endurance(
    seed: int,
    seconds: float,
    *,
    kind: str,
    nodes: int,
    entries: int = 50,
    keep: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Run daemons on a store of this kind under faults for `seconds`, then audit."""
    outcome = Outcome(kind, seed, seconds)
    with cluster(seed, kind=kind, nodes=nodes, entries=entries, keep=keep) as made:
        _wait(lambda: all(node.ask("GET", "/api/v1/version") for node in made.nodes), READY_WITHIN, "ready")
        plan_audit.install(made.store_url())
        injector = FaultInjector(made, seed, seconds)
        injector.inject(report)
        made.heal()
        outcome.take(injector.did)
        _come_to_rest(made, injector, outcome)
        outcome.starts = sum(node.starts for node in made.nodes)
        outcome.violations += _check(made, injector, outcome)
        outcome.integrity_checks = made.integrity_checks
        outcome.violations += made.damage
        if keep is not None:
            (keep / "outcome").write_text(outcome.text() + "\n")
    return outcome


def _come_to_rest(made: Cluster, injector: FaultInjector, outcome: Outcome) -> None:
    """Plan all due times, load an empty calendar, and let queued runs finish."""
    _wait(lambda: all(node.ask("GET", "/readyz", timeout=2) for node in made.nodes), REST_WITHIN, "ready again")
    injector.did.changing.append(datetime.now(UTC))
    confirmed = [_reloads(node) for node in made.nodes]
    with_store = read_store(made.store_url(), clock=SystemClock())
    try:
        if all(confirmed):
            injector.did.confirmed.append((0, datetime.now(UTC)))
        time.sleep(min(CALM, outcome.seconds / 4))
        # Half a period of the sweep before now; everything up to here must be planned.
        made.planned_until = with_store.now() - timedelta(seconds=2)
        if not _wait(lambda: _planned(with_store, made), REST_WITHIN, "planned", must=False):
            outcome.violations.append("not every due time was planned after the faults ended")
        injector.did.changing.append(made.planned_until)
        for node in made.nodes:
            node.calendar.write_text(EMPTY)
            # A node that has not loaded it would go on to plan while the runs are counted.
            _wait(partial(_reloads, node), REST_WITHIN, "loaded: the empty calendar")
        if not _wait(lambda: _resting(with_store), min(QUEUE_ENDS_WITHIN, outcome.seconds), "at rest", must=False):
            _cancel_queued(made)
        if not _wait(lambda: _resting(with_store), REST_WITHIN, "at rest", must=False):
            outcome.violations.append(
                f"not at rest after {REST_WITHIN:.0f} s: {with_store.history.counts(with_store.now())}"
            )
        _wait(lambda: not any(leftovers.files([node.state_dir for node in made.nodes])), 20, "spool empty", must=False)
    finally:
        with_store.close()


def _reloads(node: Node) -> bool:
    return node.ask("POST", "/api/v1/reload", {}, timeout=30) is not None


def _cancel_queued(made: Cluster) -> None:
    while listed := made.nodes[0].ask("GET", "/api/v1/runs?state=queued&limit=200"):
        for run in listed["runs"]:
            made.nodes[0].ask("POST", f"/api/v1/runs/{run['id']}/cancel", {"by": "fault-injector", "why": WHY})
        if not listed["runs"]:
            return


def _planned(store: Store, made: Cluster) -> bool:
    try:
        states = store.entries.states().values()
    except StoreError:
        return False
    return all(_next(state) > made.planned_until for state in states if state.active)


def _next(state: EntryState) -> datetime:
    """Return the first due time of an entry that is not planned."""
    found = None if state.rule is None else compile_rule(state.rule).next_after(state.planned_through)
    return found or datetime.max.replace(tzinfo=UTC)


def _resting(store: Store) -> bool:
    try:
        counts = store.history.counts(store.now())
    except StoreError:
        return False
    return counts["running"] == counts["queued"] == counts["later"] == 0


def _check(made: Cluster, injector: FaultInjector, outcome: Outcome) -> Iterator[str]:
    did = injector.did
    lines = journal.read(made.journal)
    store = read_store(made.store_url(), clock=SystemClock())
    try:
        runs = _all_runs(store)
        outcome.count(runs, lines)
        periods = schedule.periods(*made.calendars)
        yield from (f"trigger {key}: two runs were returned" for key in did.duplicate_runs)
        yield from invariants.one_row_per_due_time(store.entries.states(), runs, periods, made.planned_until)
        planned = plan_audit.read(made.store_url())
        outcome.calendar_changes = sum(one.period != other.period for one, other in _successive(planned))
        yield from invariants.rows_follow_schedule(planned, runs)
        if made.postgres is not None:  # all nodes use the server's clock; on SQLite the daemon's own clock is stepped
            found = injector.confirmed_periods()
            outcome.confirmed_periods = len(found)
            variants = [{name: min(step) for name, step in schedule.periods(text).items()} for text in made.calendars]
            yield from invariants.rows_match_calendar(found, variants, runs)
        yield from invariants.mutating_steps_start_once(lines)
        yield from invariants.locks_are_exclusive(lines)
        yield from invariants.one_run_per_trigger(runs, did.accepted)
        what = run_checks.KnownFaults(frozenset(did.killed), frozenset(did.paused), frozenset(did.steps))
        yield from run_checks.endings(runs, what)
        yield from run_checks.evidence(runs, lines, lambda run, step, number: _logged(store, run, step, number), what)
        yield from leftovers.processes(made.folder)
        yield from leftovers.files([node.state_dir for node in made.nodes])
        yield from leftovers.claims(runs, store.locks.holders(store.now()), _leases(made))
    finally:
        store.close()
    yield from _stop_daemons(made)


def _all_runs(store: Store) -> list[Run]:
    """Return every run with its evidence, oldest first."""
    ids: list[int] = []
    before: int | None = None
    while page := store.history.runs(before_id=before, limit=PAGE):
        ids += [run.id for run in page]
        before = page[-1].id
    return [run for run in map(store.history.run, reversed(ids)) if run is not None]


def _logged(store: Store, run_id: int, step: int, attempt: int) -> list[str]:
    found = store.history.log(run_id, step=step, attempt=attempt, limit=5000)
    return [row.line.text for row in found if row.line.stream == "log"]


def _successive(planned: list[plan_audit.Planned]) -> Iterator[tuple[plan_audit.Planned, plan_audit.Planned]]:
    last: dict[str, plan_audit.Planned] = {}
    for one in planned:
        if one.entry in last:
            yield last[one.entry], one
        last[one.entry] = one


def _leases(made: Cluster) -> list[int]:
    query = "SELECT id FROM runs WHERE lease_until IS NOT NULL"
    if made.postgres is not None:
        with psycopg.connect(made.store_url(), autocommit=True) as conn:
            return [row[0] for row in conn.execute(query.encode())]
    with closing(sqlite3.connect(made.store_url().removeprefix("sqlite:///"), timeout=30)) as sqlite:
        return [row[0] for row in sqlite.execute(query)]


def _stop_daemons(made: Cluster) -> Iterator[str]:
    """Stop the daemons with SIGTERM; they must leave an intact store and no session."""
    for node in made.nodes:
        node.wanted = False
        daemon = node.daemon()
        if daemon is not None:
            daemon.terminate()
    ends = _wait(lambda: all(node.daemon() is None for node in made.nodes), 30, "daemons end", must=False)
    if not ends:
        yield "a daemon did not end within 30 s of SIGTERM"
    if made.postgres is None:
        made.check_integrity(made.nodes[0])
        return
    with psycopg.connect(made.postgres.url("postgres"), autocommit=True) as conn:
        row = conn.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = 'maintd'").fetchone()
    yield from leftovers.sessions(row[0] if row is not None else 0)


def _wait(condition: Callable[[], object], seconds: float, what: str, *, must: bool = True) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            if must:
                raise AssertionError(f"not {what} within {seconds:.0f} s")
            return False
        time.sleep(0.2)
    return True
