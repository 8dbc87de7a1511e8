"""Prune, check and backup, on both databases."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from support.clock import ManualClock
from support.stores import at, check, claim, due, ended, entry, evidence, finished, plan_runs, queue, sync

from maintd.config.settings import Retention
from maintd.errors import RefusedError, StoreError
from maintd.model.evidence import Artifact, LogLine, Measure
from maintd.model.run import RunState
from maintd.model.status import AuditEvent, NodeState
from maintd.store import Store, open_store

DAY = 24 * 60
KEEP_ALL = Retention()


def run_with_evidence(store: Store, name: str, minutes: float, state: RunState, path: str = "") -> int:
    run = claim(store, queue(store, name, minutes), minutes)
    items = [check("x"), Measure(name="m", value=1)]
    items += [LogLine(seq=seq, at=at(minutes), stream="log", text="x") for seq in range(1, 4)]
    if path:
        items.append(Artifact(name=path, path=path, size_bytes=1, sha256="ab"))
    writes = [*evidence(*items, minutes=minutes), ended(state, minutes + 1)]
    assert store.runs.apply(run.id, run.fence, 1, writes)
    return run.id


def ids(store: Store, name: str | None = None) -> list[int]:
    return [run.id for run in store.history.runs(entry=name, limit=1000)]


def replan(store: Store) -> list[int] | None:
    """Plan the due times at minutes 1 and 2 once more; the ids of the new rows."""
    assert store.entries.set_planned_through("a", at(2), at(0), "to plan it again")
    return plan_runs(store, "a", 0, 2, due("a", 1, RunState.SKIPPED), due("a", 2, RunState.SKIPPED))


def test_prune_deletes_old_runs_but_keeps_the_last_success_and_failure(store: Store) -> None:
    states = [RunState.SUCCEEDED, RunState.FAILED, RunState.WARNED, RunState.LOST, RunState.CANCELLED]
    runs = {
        (name, state): finished(store, name, minute, state if state is not RunState.LOST else RunState.TIMED_OUT)
        for name in ("a", "b")
        for minute, state in enumerate(states)
    }
    queued = queue(store, "c", 0)

    result = store.maintenance.prune(KEEP_ALL, at(500 * DAY))

    kept = {runs[name, state] for name in ("a", "b") for state in (RunState.WARNED, RunState.LOST)}
    assert set(ids(store)) == kept | {queued}
    assert result.runs == 6
    assert store.maintenance.check() == []


def test_kept_runs_keep_their_evidence(store: Store) -> None:
    run_id = run_with_evidence(store, "a", 0, RunState.SUCCEEDED)

    store.maintenance.prune(KEEP_ALL, at(1000 * DAY))

    attempt = store.history.run(run_id).steps[0].attempts[0]
    assert (len(attempt.checks), len(attempt.measures), len(store.history.log(run_id))) == (1, 1, 3)


def test_prune_limits_the_number_of_runs_per_entry(store: Store) -> None:
    many = [finished(store, "a", minute) for minute in range(12)]
    few = [finished(store, "b", minute) for minute in range(3)]
    failure = finished(store, "c", 0, RunState.FAILED)
    others = [finished(store, "c", minute) for minute in range(1, 8)]

    store.maintenance.prune(Retention(runs_per_entry=5), at(60))

    assert ids(store, "a") == many[:-6:-1]
    assert ids(store, "b") == few[::-1]
    assert ids(store, "c") == [*others[:-6:-1], failure]


def test_logs_are_deleted_earlier_than_their_runs(store: Store) -> None:
    old = run_with_evidence(store, "a", 0, RunState.SUCCEEDED)
    new = run_with_evidence(store, "a", 50 * DAY, RunState.SUCCEEDED)

    result = store.maintenance.prune(KEEP_ALL, at(70 * DAY))

    attempt = store.history.run(old).steps[0].attempts[0]
    assert (result.log_lines, result.runs) == (3, 0)
    assert (store.history.log(old), attempt.log_lines, attempt.log_lines_left_out) == ([], 0, 3)
    assert len(store.history.log(new)) == 3


def test_artifact_files_are_deleted_with_their_rows(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "artifacts"
    for name in ("1/old.md", "2/new.md"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("x")
    (tmp_path / "precious").write_text("x")
    run_with_evidence(store, "a", 0, RunState.SUCCEEDED, "1/old.md")
    run_with_evidence(store, "a", 2, RunState.SUCCEEDED, "../precious")
    run_with_evidence(store, "a", 20 * DAY, RunState.SUCCEEDED, "2/new.md")

    result = store.maintenance.prune(Retention(artifacts=timedelta(days=10)), at(21 * DAY), artifacts_dir=folder)

    assert result.artifacts == 2
    assert [path.name for path in folder.rglob("*")] == ["2", "new.md"]
    assert (tmp_path / "precious").exists()


def test_artifact_files_are_deleted_with_their_runs(store: Store, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1/report.md").write_text("x")
    run_with_evidence(store, "a", 0, RunState.SUCCEEDED, "1/report.md")
    last = finished(store, "a", 5)

    store.maintenance.prune(Retention(runs=timedelta(days=1)), at(9 * DAY), artifacts_dir=tmp_path)

    assert ids(store) == [last]
    assert not (tmp_path / "1").exists()


def test_the_ledger_and_the_audit_outlive_runs_for_a_time(store: Store) -> None:
    sync(store, entry("a"))
    plan_runs(store, "a", 0, 2, due("a", 1, RunState.SKIPPED), due("a", 2, RunState.SKIPPED))
    store.audit.add("calendar_loaded", at=at(0))

    first = store.maintenance.prune(KEEP_ALL, at(500 * DAY))
    outlived = replan(store)
    second = store.maintenance.prune(KEEP_ALL, at(801 * DAY))

    assert (first.runs, first.due_times, outlived) == (2, 0, [])
    assert (second.due_times, second.events, store.audit.recent()) == (2, 2, [])
    assert len(replan(store)) == 2


def test_unused_plans_are_deleted(store: Store) -> None:
    for minute in range(4):
        finished(store, "a", minute, params={}, policy={"retries": minute})

    result = store.maintenance.prune(Retention(runs=timedelta(days=2)), at(9 * DAY))

    assert (result.runs, result.plans) == (3, 3)
    assert store.history.run(ids(store)[0]).policy.retries == 3


def test_prune_works_in_short_batches(store: Store) -> None:
    sync(store, entry("a"))
    for start in range(0, 3000, 1000):
        rows = [due("a", minute, RunState.SKIPPED) for minute in range(start + 1, start + 1001)]
        plan_runs(store, "a", start, start + 1000, *rows)
    batches: list[int] = []

    result = store.maintenance.prune(KEEP_ALL, at(500 * DAY), on_batch=batches.append)

    assert (result.runs, result.plans, sum(batches), len(batches)) == (3000, 1, 3001, result.batches)
    assert len(batches) > 2


def test_a_second_prune_deletes_nothing(store: Store) -> None:
    for minute in range(5):
        run_with_evidence(store, "a", minute, RunState.FAILED)
    store.maintenance.prune(KEEP_ALL, at(500 * DAY))

    again = store.maintenance.prune(KEEP_ALL, at(500 * DAY))

    assert (again.batches, again.runs) == (0, 0)


def test_check_of_an_intact_store_finds_no_problem(store: Store) -> None:
    run_with_evidence(store, "a", 0, RunState.SUCCEEDED)

    assert store.maintenance.check() == []
    assert store.maintenance.size_bytes() > 10_000


def test_a_backup_has_the_content_of_the_store(store: Store, store_url: str, tmp_path: Path) -> None:
    run_id = run_with_evidence(store, "a", 0, RunState.SUCCEEDED)
    folder = tmp_path / "backups"
    folder.mkdir()

    copy = store.maintenance.backup(folder)

    assert list(folder.iterdir()) == [copy]
    assert copy.stat().st_mode & 0o077 == 0
    if store_url.startswith("sqlite"):
        restored = open_store(f"sqlite:///{copy}", clock=ManualClock(at(0)), migrate=False)
        assert restored.history.run(run_id) == store.history.run(run_id)
        restored.close()
    else:
        assert copy.read_bytes().startswith(b"PGDMP")


def test_a_backup_replaces_an_older_one_only_when_it_is_complete(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    target.write_text("older")

    store.maintenance.backup(target, replace=True)

    assert target.stat().st_size > 1000
    with pytest.raises(StoreError, match="cannot write the backup"):
        store.maintenance.backup(tmp_path / "missing" / "copy")


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "socket"])
def test_a_backup_replaces_nothing_unless_that_is_requested(store: Store, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "copy"
    other = tmp_path / "other"
    if kind == "file":
        target.write_text("payroll")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(target))
    else:
        target.symlink_to(other)
        if kind == "link":
            other.write_text("payroll")
    before = target.lstat()

    with pytest.raises(RefusedError, match="exists; name another file, or replace it with --force"):
        store.maintenance.backup(target)

    assert (target.lstat().st_ino, target.lstat().st_size) == (before.st_ino, before.st_size)
    assert not list(target.parent.glob(".*.part"))


def test_a_backup_of_a_file_store_never_replaces_the_store(tmp_path: Path) -> None:
    path = tmp_path / "maintd.db"
    store = open_store(f"sqlite:///{path}", clock=ManualClock(at(0)), migrate=True)
    before = path.lstat()

    with pytest.raises(RefusedError, match="exists"):
        store.maintenance.backup(path)

    assert path.lstat().st_ino == before.st_ino
    assert store.maintenance.check() == []
    store.close()


def test_check_finds_rows_without_a_run(open_another: Callable[[], Store], store_url: str) -> None:
    store = open_another()
    if not store_url.startswith("sqlite"):
        assert store.maintenance.check() == []  # Postgres cannot have them: its foreign keys cannot be switched off
        return
    raw = sqlite3.connect(store_url.removeprefix("sqlite:///"))
    raw.execute("INSERT INTO steps (run_id, step, state, reason) VALUES (99, 0, 'running', '')")
    raw.commit()
    raw.close()

    (problem,) = store.maintenance.check()

    assert problem.startswith('table "steps"')


def test_nodes_have_their_last_heartbeat(store: Store) -> None:
    def beat(name: str, seen: float) -> NodeState:
        columns = {"incarnation": "i", "pid": 7, "version": "1", "slots": 4}
        return NodeState(name=name, started_at=at(0), seen_at=at(seen), **columns)

    for node in (beat("n2", 1), beat("n1", 1), beat("n2", 9)):
        store.nodes.heartbeat(node)

    assert store.nodes.all() == [beat("n1", 1), beat("n2", 9)]


def test_the_audit_is_read_newest_first(store: Store) -> None:
    for minute in range(3):
        store.audit.add("clock_stepped", subject="host", by="ntp", text=f"{minute}s", at=at(minute))

    recent = store.audit.recent(limit=2)

    assert recent == [
        AuditEvent(at=at(n), kind="clock_stepped", subject="host", by="ntp", text=f"{n}s") for n in (2, 1)
    ]
