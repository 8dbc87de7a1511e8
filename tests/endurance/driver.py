"""One endurance run: let it work and suffer, heal it, let it come to rest, check the books."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from endurance import audit, invariants, journal, leftovers, schedule, truth
from endurance.adversary import WHY, Adversary
from endurance.outcome import Outcome
from endurance.world import World, world
from maintd.clock import SystemClock
from maintd.errors import StoreError
from maintd.model.entry import EntryState
from maintd.model.run import Run
from maintd.schedule import compile_rule
from maintd.store import Store, read_store

EMPTY = "timezone: UTC\nentries: {}\n"
READY_WITHIN = 120.0
REST_WITHIN = 180.0
STRETCH = 8.0  # seconds in which nothing happens but what the calendar owes
QUEUE_ENDS_WITHIN = 30.0
"""Seconds after which what is still queued is cancelled: a clock that was set forward may owe more than can be run."""
PAGE = 1000


def endure(
    seed: int,
    seconds: float,
    *,
    kind: str,
    nodes: int,
    entries: int = 50,
    keep: Path | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Run daemons on a store of this kind under faults for so long, then check."""
    outcome = Outcome(kind, seed, seconds)
    with world(seed, kind=kind, nodes=nodes, entries=entries, keep=keep) as made:
        _wait(lambda: all(node.ask("GET", "/api/v1/version") for node in made.nodes), READY_WITHIN, "ready")
        audit.install(made.store_url())
        adversary = Adversary(made, seed, seconds)
        adversary.strike(told)
        made.heal()
        outcome.take(adversary.did)
        _come_to_rest(made, adversary, outcome)
        outcome.starts = sum(node.starts for node in made.nodes)
        outcome.violations += _check(made, adversary, outcome)
        outcome.integrity_checks = made.integrity_checks
        outcome.violations += made.damage
        if keep is not None:
            (keep / "outcome").write_text(outcome.text() + "\n")
    return outcome


def _come_to_rest(made: World, adversary: Adversary, outcome: Outcome) -> None:
    """Whole again: plan what is owed to the end, then owe nothing more, then let what is queued finish."""
    _wait(lambda: all(node.ask("GET", "/readyz", timeout=2) for node in made.nodes), REST_WITHIN, "ready again")
    adversary.did.changing.append(datetime.now(UTC))
    confirmed = [node.ask("POST", "/api/v1/reload", {}, timeout=30) is not None for node in made.nodes]
    with_store = read_store(made.store_url(), clock=SystemClock())
    try:
        if all(confirmed):
            adversary.did.confirmed.append((0, datetime.now(UTC)))
        time.sleep(min(STRETCH, outcome.seconds / 4))
        # Half a period of the sweep before now: everything up to here must be planned.
        made.owed_until = with_store.now() - timedelta(seconds=2)
        if not _wait(lambda: _planned(with_store, made), REST_WITHIN, "planned", must=False):
            outcome.violations.append("not everything that was owed was planned after healing")
        adversary.did.changing.append(made.owed_until)
        for node in made.nodes:
            node.calendar.write_text(EMPTY)
            node.ask("POST", "/api/v1/reload", {}, timeout=30)
        if not _wait(lambda: _resting(with_store), min(QUEUE_ENDS_WITHIN, outcome.seconds), "at rest", must=False):
            _cancel_queued(made)
        if not _wait(lambda: _resting(with_store), REST_WITHIN, "at rest", must=False):
            outcome.violations.append(f"not at rest after {REST_WITHIN:.0f} s: {with_store.history.counts()}")
        _wait(lambda: not any(leftovers.files([node.state_dir for node in made.nodes])), 20, "spool empty", must=False)
    finally:
        with_store.close()


def _cancel_queued(made: World) -> None:
    while listed := made.nodes[0].ask("GET", "/api/v1/runs?state=queued&limit=200"):
        for run in listed["runs"]:
            made.nodes[0].ask("POST", f"/api/v1/runs/{run['id']}/cancel", {"by": "adversary", "why": WHY})
        if not listed["runs"]:
            return


def _planned(store: Store, made: World) -> bool:
    try:
        states = store.entries.states().values()
    except StoreError:
        return False
    return all(_next(state) > made.owed_until for state in states if state.active)


def _next(state: EntryState) -> datetime:
    """The first instant of an entry that is not planned."""
    found = None if state.rule is None else compile_rule(state.rule).next_after(state.planned_through)
    return found or datetime.max.replace(tzinfo=UTC)


def _resting(store: Store) -> bool:
    try:
        counts = store.history.counts()
    except StoreError:
        return False
    return counts["running"] == counts["queued"] == 0


def _check(made: World, adversary: Adversary, outcome: Outcome) -> Iterator[str]:
    did = adversary.did
    lines = journal.read(made.journal)
    store = read_store(made.store_url(), clock=SystemClock())
    try:
        runs = _all_runs(store)
        outcome.count(runs, lines)
        periods = schedule.periods(*made.calendars)
        yield from (f"trigger {key}: two runs were named" for key in did.twofold)
        yield from invariants.owed_once(store.entries.states(), runs, periods, made.owed_until)
        planned = audit.read(made.store_url())
        outcome.calendar_changes = sum(one.period != other.period for one, other in _successive(planned))
        yield from invariants.moving(planned, runs)
        if made.postgres is not None:  # one clock for all; on SQLite the daemon's own is stepped
            found = adversary.stretches()
            outcome.stretches = len(found)
            variants = [{name: min(step) for name, step in schedule.periods(text).items()} for text in made.calendars]
            yield from invariants.stretches(found, variants, runs)
        yield from invariants.started_once(lines)
        yield from invariants.held_alone(lines)
        yield from invariants.triggered_once(runs, did.accepted)
        what = truth.Did(frozenset(did.killed), frozenset(did.paused), frozenset(did.steps))
        yield from truth.endings(runs, what)
        yield from truth.evidence(runs, lines, lambda run, step, number: _logged(store, run, step, number), what)
        yield from leftovers.processes(made.folder)
        yield from leftovers.files([node.state_dir for node in made.nodes])
        yield from leftovers.claims(runs, store.locks.holders(store.now()), _leases(made))
    finally:
        store.close()
    yield from _stopped_politely(made)


def _all_runs(store: Store) -> list[Run]:
    """Every run with its evidence, oldest first."""
    ids: list[int] = []
    before: int | None = None
    while page := store.history.runs(before_id=before, limit=PAGE):
        ids += [run.id for run in page]
        before = page[-1].id
    return [run for run in map(store.history.run, reversed(ids)) if run is not None]


def _logged(store: Store, run_id: int, step: int, attempt: int) -> list[str]:
    found = store.history.log(run_id, step=step, attempt=attempt, limit=5000)
    return [row.line.text for row in found if row.line.stream == "log"]


def _successive(planned: list[audit.Planned]) -> Iterator[tuple[audit.Planned, audit.Planned]]:
    last: dict[str, audit.Planned] = {}
    for one in planned:
        if one.entry in last:
            yield last[one.entry], one
        last[one.entry] = one


def _leases(made: World) -> list[int]:
    query = "SELECT id FROM runs WHERE lease_until IS NOT NULL"
    if made.postgres is not None:
        with psycopg.connect(made.store_url(), autocommit=True) as conn:
            return [row[0] for row in conn.execute(query.encode())]
    with closing(sqlite3.connect(made.store_url().removeprefix("sqlite:///"), timeout=30)) as sqlite:
        return [row[0] for row in sqlite.execute(query)]


def _stopped_politely(made: World) -> Iterator[str]:
    """Stopped politely, the daemons leave a sound store and no session."""
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
