"""The files of the change log in the reports folder, and the evidence of a later run, on both stores."""

from __future__ import annotations

from pathlib import Path

from support.chains import verified
from support.stores import at, check, claim, ended, evidence, plan, queue

from maintd.model.changelog import BoxState
from maintd.model.evidence import Change
from maintd.model.run import RunState
from maintd.operations.changelog import record_of
from maintd.operations.changelog_files import HEAD_FILE, LOG_FILE, write_files
from maintd.operations.review import review_ends
from maintd.store import Store


def changed(store: Store, minutes: float) -> int:
    run = claim(store, queue(store, "tidy", minutes), minutes)
    change = Change(number=1, action="delete", target=f"/var/{minutes:.0f}.log")
    writes = [*evidence(change, minutes=minutes), ended(RunState.SUCCEEDED, minutes + 2)]
    assert store.runs.apply(run.id, run.fence, 1, writes)
    review_ends(store)
    return run.id


def kept(folder: Path) -> dict[int, str]:
    lines = [line.split() for line in (folder / HEAD_FILE).read_text().splitlines()]
    return {int(number): head for number, head, _ in lines}


def test_the_log_is_replaced_and_each_head_is_kept(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "reports"
    assert write_files(store, folder, at(0)) is None
    changed(store, 1)
    write_files(store, folder, at(5))
    write_files(store, folder, at(6))
    changed(store, 10)
    write_files(store, folder, at(20))

    text = (folder / LOG_FILE).read_text()

    assert text.index("/var/10.log") < text.index("/var/1.log")
    assert list(kept(folder)) == [2, 3]
    assert verified(store, kept(folder)).problem is None
    assert sorted(path.name for path in folder.iterdir()) == [HEAD_FILE, LOG_FILE]
    events = [event.kind for event in store.audit.recent()]
    assert events == ["changelog_written"] * 3


def test_the_next_run_with_a_health_check_validates_a_change(store: Store) -> None:
    number = changed(store, 1)
    run = claim(store, queue(store, "morning", 10, plan=plan("health_check")), 10)
    writes = [*evidence(check("postgres"), minutes=10), ended(RunState.SUCCEEDED, 12)]
    assert store.runs.apply(run.id, run.fence, 1, writes)
    found = store.history.run(number)
    assert found is not None

    health, performance, _ = record_of(store, found).validation

    assert (health.state, health.at) == (BoxState.DONE, at(11))
    assert health.evidence == f"health_check of run {run.id} (morning) succeeded, 1 of 1 checks ok"
    assert performance.state is BoxState.OPEN
