"""How long reads of the history take as it grows: the same queries on a store with 1 k and with 1 M runs.

    python bench/history.py [--url postgresql://…] [runs …]

Prints milliseconds (median of 30) and the ratio between the largest and the smallest store. Each size gets its own
SQLite file, or its own rows in the (empty) database of --url, one size per call then.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import insert, text
from sqlalchemy.engine import Connection

from maintd.clock import SystemClock
from maintd.config.settings import Retention
from maintd.model.entry import Entry, StepPlan
from maintd.model.run import NewRun, RunState, Trigger
from maintd.store import Store, open_store
from maintd.store.tables import checks, runs

ENTRIES = 30
START = datetime(2023, 1, 1, tzinfo=UTC)
STATES = ["succeeded"] * 17 + ["warned", "failed", "skipped"]


def fill(store: Store, count: int) -> None:
    """Write rows as after three years: 30 entries, of which three run rarely and one never succeeded."""
    entries = [Entry(name=f"entry-{n}", title="t", steps=(StepPlan(name="job", job="job"),)) for n in range(ENTRIES)]
    store.entries.sync(entries, {entry.name: "1" for entry in entries}, START)
    for entry in entries:
        row = NewRun(entry=entry.name, title="t", trigger=Trigger.MANUAL, state=RunState.SKIPPED, not_before=START)
        store.runs.add(row.model_copy(update={"plan": entry.steps}), START)

    def act(conn: Connection) -> None:
        pending = rows(count)
        while chunk := list(islice(pending, 20_000)):
            conn.execute(insert(runs), chunk)
        conn.execute(insert(checks), list(evidence(min(count, 100_000))))

    store._database.write(act)


def fill_fast(path: Path, count: int) -> None:
    """Write the same runs to a new SQLite file by SQL alone, without evidence: ten million in a minute or two."""
    store = open_store(f"sqlite:///{path}", clock=SystemClock(), migrate=True)
    fill(store, 1000)
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA journal_mode=OFF")
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'runs' AND sql IS NOT NULL"
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        connection.execute("CREATE TEMP TABLE pattern AS SELECT * FROM runs WHERE due_at IS NOT NULL ORDER BY id")
        connection.execute("DELETE FROM checks")
        connection.execute("DELETE FROM runs WHERE due_at IS NOT NULL")
        # The same thousand again and again, its times spread so that all together fill three years.
        columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(runs)") if name != "id"]
        moments = [name for name in columns if name.endswith("_at") or name in ("not_before", "lease_until")]
        moved = [
            f"{name} - due_at + :start + (block * 1000 + pattern.rowid - 1) * :apart" if name in moments else name
            for name in columns
        ]
        connection.execute(
            "WITH RECURSIVE blocks (block) AS (VALUES (0) UNION ALL SELECT block + 1 FROM blocks WHERE block < :last) "
            f"INSERT INTO runs ({', '.join(columns)}) SELECT {', '.join(moved)} FROM blocks CROSS JOIN pattern",
            {
                "start": int(START.timestamp() * 1e6),
                "apart": int(timedelta(days=1095) / timedelta(microseconds=1) / count),
                "last": max(count // 1000, 1) - 1,
            },
        )
        for _, statement in indexes:
            connection.execute(statement)
        connection.execute("PRAGMA journal_mode=WAL")


def rows(count: int) -> Iterator[dict[str, Any]]:
    """One run every so often, so that all of them fill three years."""
    apart = timedelta(days=1095) / count
    for n in range(count):
        at = START + n * apart
        rare = n % 1000 < 3
        entry = 1 + (n % 1000 if rare else 4 + n % (ENTRIES - 4))
        state = STATES[n * 7 % len(STATES)]
        ran = state != "skipped"
        yield {
            "entry_id": entry,
            "plan_id": 1,
            "title": "title",
            "trigger": "schedule",
            "state": "failed" if entry == 10 else state,
            "skip_reason": None if ran else "missed",
            "reason": "",
            "due_at": at,
            "queued_at": at,
            "not_before": at,
            "started_at": at if ran else None,
            "finished_at": at + timedelta(seconds=n % 90),
            "fence": 1,
            "recorded_seq": 1,
            "cancel_requested": "",
            "requested_by": "",
            "why": "",
            "dry_run": False,
            "params": {},
        }


def evidence(count: int) -> Iterator[dict[str, Any]]:
    for n in range(count):
        fixed = {"step": 0, "attempt": 1, "name": "age", "observed": n, "expected": "at most 5", "unit": "s"}
        yield fixed | {"run_id": ENTRIES + 1 + n, "status": "ok", "hint": ""}


def questions(store: Store, count: int) -> dict[str, Callable[[], object]]:
    """Return the queries of the page, the CLI and the planner."""
    history, names = store.history, [f"entry-{n}" for n in range(ENTRIES)]
    now = START + timedelta(days=1095)
    return {
        "last runs of all 30 entries": lambda: history.last_per_entry(names),
        "newest 50": lambda: history.runs(),
        "newest 50 of an entry": lambda: history.runs(entry="entry-12"),
        "newest 50 of a rare entry": lambda: history.runs(entry="entry-1"),
        "newest 50 failed": lambda: history.runs(states=[RunState.FAILED]),
        "newest 50 failed or lost of an entry": lambda: history.runs(
            entry="entry-12", states=[RunState.FAILED, RunState.LOST]
        ),
        "newest 50 of a job": lambda: history.runs(job="job"),
        "50 in the middle": lambda: history.runs(before_id=count // 2),
        "of the last day": lambda: history.runs(since=now - timedelta(days=1)),
        "one run": lambda: history.run(count // 2 + ENTRIES),
        "unfinished of an entry": lambda: store.runs.unfinished("entry-12"),
        "claimable": lambda: store.runs.claimable(now),
        "a success within a day": lambda: history.last_success_since("entry-12", now),
        "counts": history.counts,
    }


def milliseconds(act: Callable[[], object]) -> float:
    took = []
    for _ in range(30):
        started = time.perf_counter()
        act()
        took.append(time.perf_counter() - started)
    return statistics.median(took) * 1000


def measure(url: str, count: int) -> dict[str, float]:
    store = open_store(url, clock=SystemClock(), migrate=True)
    started = time.perf_counter()
    fill(store, count)
    if store.url_masked.startswith("postgresql"):
        store._database.write(lambda conn: conn.execute(text("ANALYZE")))
    found = {"fill, s": time.perf_counter() - started}
    for name, act in questions(store, count).items():
        act()
        found[name] = milliseconds(act)
    started = time.perf_counter()
    pruned = store.maintenance.prune(Retention(runs_per_entry=1_000_000), START + timedelta(days=1095 + 200))
    found["prune, k rows/s"] = pruned.runs / (time.perf_counter() - started) / 1000
    found["prune, longest batch"] = pruned.longest_batch.total_seconds() * 1000
    found["size, bytes per run"] = store.maintenance.size_bytes() / count
    store.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="an empty Postgres database")
    parser.add_argument("runs", nargs="*", type=int, default=[1_000, 1_000_000])
    asked = parser.parse_args()
    sizes = asked.runs[:1] if asked.url else asked.runs
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(asked.url or f"sqlite:///{folder}/{count}.db", count) for count in sizes]
    print(f"{'':40}" + "".join(f"{count:>12,}" for count in sizes) + f"{'ratio':>9}")
    for name in results[0]:
        values = [result[name] for result in results]
        print(f"{name:40}" + "".join(f"{value:12.2f}" for value in values) + f"{values[-1] / (values[0] or 1):9.1f}")


if __name__ == "__main__":
    main()
