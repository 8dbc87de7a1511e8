"""A SQLite store whose log is truncated at any byte, as after a power failure, opens with all synced writes."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from support.clock import ManualClock
from support.stores import at, entry, plan, sync

from maintd.model.run import NewRun, RunState, Trigger
from maintd.store import open_store

NOON = at(0)
CUTS = 60


def wanted(number: int) -> NewRun:
    return NewRun(
        entry="a",
        title="A",
        trigger=Trigger.MANUAL,
        state=RunState.QUEUED,
        not_before=NOON,
        plan=plan("vacuum"),
        idempotency_key=f"key-{number}",
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_acknowledged_writes_survive_a_power_failure(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    live, wal = tmp_path / "live.db", tmp_path / "live.db-wal"
    store = open_store(f"sqlite:///{live}", clock=ManualClock(NOON), migrate=True)
    sync(store, entry("a"))
    first = wal.stat().st_size
    acknowledged: list[tuple[int, int]] = []  # bytes of the log when the run was acknowledged, its id
    for number in range(40):
        run_id, _ = store.runs.add(wanted(number), at(0))
        acknowledged.append((wal.stat().st_size, run_id))
    whole = wal.stat().st_size
    assert whole > first, "the log was written back meanwhile, so that this test proves nothing"

    for number in range(CUTS):
        cut = draw.randint(first, whole)
        copy = tmp_path / f"cut-{number}.db"
        shutil.copyfile(live, copy)
        copied_wal = copy.with_name(copy.name + "-wal")
        shutil.copyfile(wal, copied_wal)
        with copied_wal.open("r+b") as file:
            file.truncate(cut)

        again = open_store(f"sqlite:///{copy}", clock=ManualClock(NOON), migrate=False)
        found = {run.id for run in again.history.runs(limit=1000)}
        problems = again.maintenance.check()
        again.close()

        assert problems == []
        assert {run_id for size, run_id in acknowledged if size <= cut} <= found
        for path in tmp_path.glob(f"{copy.name}*"):
            path.unlink()
    store.close()


def test_a_commit_is_synced_before_it_is_acknowledged(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/maintd.db"
    store = open_store(url, clock=ManualClock(NOON), migrate=True)
    try:
        journal = store._database.read(lambda conn: conn.exec_driver_sql("PRAGMA journal_mode").scalar_one())
        level = store._database.write(lambda conn: conn.exec_driver_sql("PRAGMA synchronous").scalar_one())
    finally:
        store.close()

    assert journal == "wal"
    assert level == 2  # FULL: the log is synced at each commit
