"""One endurance run: let it work and suffer, heal it, let it come to rest, check the books."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import psycopg

from endurance import invariants, journal, schedule
from endurance.adversary import Adversary
from endurance.world import World, world
from maintd.clock import SystemClock
from maintd.errors import StoreError
from maintd.store import Store, read_store

EMPTY = "timezone: UTC\nentries: {}\n"
READY_WITHIN = 120.0
REST_WITHIN = 120.0


@dataclass
class Outcome:
    """What was done and what was found."""

    seed: int
    seconds: float
    runs: int = 0
    states: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    processes: int = 0
    triggers: int = 0
    violations: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For a person."""
        done = (
            f"{self.runs} rows, {self.processes} job processes, {self.triggers} triggers, {self.starts} daemon starts"
        )
        lines = [
            f"seed {self.seed}, {self.seconds:.0f} s: {done}",
            "  states: " + ", ".join(f"{count} {state}" for state, count in self.states.most_common()),
            "  faults: " + ", ".join(f"{count} × {fault}" for fault, count in self.faults.most_common()),
            f"  invariants violated: {len(self.violations)}",
        ]
        return "\n".join([*lines, *(f"    {line}" for line in self.violations[:40])])


def endure(
    seed: int, seconds: float, *, kind: str, nodes: int, entries: int = 50, keep: Path | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> Outcome:  # fmt: skip
    """Run daemons on a store of this kind under faults for so long, then check."""
    outcome = Outcome(seed, seconds)
    with world(seed, kind=kind, nodes=nodes, entries=entries, keep=keep) as made:
        _wait(lambda: all(node.ask("GET", "/api/v1/version") for node in made.nodes), READY_WITHIN, "ready")
        adversary = Adversary(made, seed)
        adversary.strike_until(time.monotonic() + seconds, told)
        made.heal()
        outcome.faults = adversary.done
        outcome.triggers = len(adversary.accepted)
        outcome.violations += [f"trigger {key}: two runs" for key in adversary.twofold]
        _come_to_rest(made, outcome)
        _check(made, adversary, outcome)
        outcome.starts = sum(node.starts for node in made.nodes)
    return outcome


def _come_to_rest(made: World, outcome: Outcome) -> None:
    """Whole again: plan what is owed to the end, then owe nothing more, then let what is queued finish."""
    _wait(lambda: all(_ready(node.ask("GET", "/readyz", timeout=2)) for node in made.nodes), REST_WITHIN, "ready again")
    for node in made.nodes:
        node.ask("POST", "/api/v1/reload", {}, timeout=30)
    time.sleep(3)
    with_store = read_store(made.store_url(), clock=SystemClock())
    try:
        # Half a period of the sweep before now: everything up to here must be planned.
        made.owed_until = with_store.now() - timedelta(seconds=2)
        if not _wait(lambda: _planned(with_store, made), REST_WITHIN, "planned", must=False):
            outcome.violations.append("not everything that was owed was planned after healing")
        for node in made.nodes:
            node.calendar.write_text(EMPTY)
            node.ask("POST", "/api/v1/reload", {}, timeout=30)
        if not _wait(lambda: _resting(with_store), REST_WITHIN, "at rest", must=False):
            outcome.violations.append(f"not at rest after {REST_WITHIN:.0f} s: {with_store.history.counts()}")
        _wait(lambda: not any(_spooled(node.state_dir) for node in made.nodes), 20, "spool empty", must=False)
    finally:
        with_store.close()


def _ready(answer: object) -> bool:
    return answer is not None


def _planned(store: Store, made: World) -> bool:
    try:
        states = store.entries.states().values()
    except StoreError:
        return False
    return all(state.planned_through >= made.owed_until for state in states if state.active)


def _resting(store: Store) -> bool:
    try:
        counts = store.history.counts()
    except StoreError:
        return False
    return counts["running"] == counts["queued"] == 0


def _spooled(state_dir: Path) -> bool:
    return any(path.is_file() for path in (state_dir / "spool").rglob("*"))


def _check(made: World, adversary: Adversary, outcome: Outcome) -> None:
    lines = journal.read(made.journal)
    outcome.processes = sum(line.what == "began" for line in lines)
    store = read_store(made.store_url(), clock=SystemClock())
    try:
        runs = invariants.all_runs(store)
        outcome.runs = len(runs)
        outcome.states = Counter(str(run.skip_reason or run.state) for run in runs)
        periods = schedule.periods(*made.calendars)
        outcome.violations += [
            *invariants.instants(store, runs, periods, made.owed_until),
            *invariants.starts(lines),
            *invariants.endings(store, runs, adversary.accepted),
            *invariants.reported(store, runs, lines),
            *invariants.leftovers([node.state_dir for node in made.nodes], store, made.folder),
        ]
    finally:
        store.close()
    if made.postgres is None:
        with sqlite3.connect(made.nodes[0].state_dir / "maintd.db") as conn:
            answer = conn.execute("PRAGMA integrity_check").fetchone()[0]
        conn.close()
        if answer != "ok":
            outcome.violations.append(f"integrity_check: {answer}")
    else:
        _sessions_end(made, outcome)


def _sessions_end(made: World, outcome: Outcome) -> None:
    """Stopped politely, the daemons leave no session on the server."""
    assert made.postgres is not None
    for node in made.nodes:
        node.wanted = False
        daemon = node.daemon()
        if daemon is not None:
            daemon.terminate()
    _wait(lambda: all(node.daemon() is None for node in made.nodes), 30, "daemons end", must=False)
    with psycopg.connect(made.postgres.url("postgres"), autocommit=True) as conn:
        row = conn.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = 'maintd'").fetchone()
    if row != (0,):
        outcome.violations.append(f"Postgres sessions left: {row}")


def _wait(condition: Callable[[], object], seconds: float, what: str, *, must: bool = True) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            if must:
                raise AssertionError(f"not {what} within {seconds:.0f} s")
            return False
        time.sleep(0.2)
    return True
