"""The chain of records, on both stores: whatever is changed, removed, exchanged or inserted is found."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection
from support.chains import another_value, recorded_columns, rows_of, set_value, verified
from support.stores import at, check, claim, due, ended, evidence, finished, queue, run_concurrently, sync
from support.stores import entry as calendar_entry

from maintd.config.settings import Retention
from maintd.model.evidence import Artifact, Change, Handed
from maintd.model.run import DecisionKind, GateDecision, LinkKind, RunState
from maintd.operations.review import review_ends
from maintd.store import Store
from maintd.store.gates import add_decision
from maintd.store.records import LEFT_OUT, RECORDED
from maintd.store.tables import (
    RUN_TABLES,
    artifacts,
    checks,
    log_lines,
    measures,
    notes,
    plans,
    records,
    run_events,
    run_links,
    runs,
)

DAY = 24 * 60


def run_with_everything(store: Store, name: str = "a", minutes: float = 0) -> int:
    """A run with a row in each table that a record depends on."""
    run = claim(store, queue(store, name, minutes, why="to see", params={"x": 1}), minutes)
    change = Change(number=1, action="delete", target="/var/a.log", details={"bytes": 7})
    artifact = Artifact(name="report", path=f"{run.id}/report", size_bytes=1, sha256="ab")
    items = [check("x"), change, artifact, Handed(name="set", value={"id": 1}, at=at(minutes))]
    decision = GateDecision(step=0, kind=DecisionKind.APPROVED, by="ada", at=at(minutes), note="seen")

    def add_rows(conn: Connection) -> None:
        add_decision(conn, run.id, decision)
        conn.execute(insert(run_links).values(run_id=run.id, kind=LinkKind.RESUMES.value, other_run_id=run.id * 1000))

    store.write(add_rows)
    writes = [*evidence(*items, minutes=minutes), ended(RunState.WARNED, minutes + 1)]
    assert store.runs.apply(run.id, run.fence, 1, writes)
    return run.id


def chain(store: Store, length: int = 5) -> list[int]:
    """Runs with everything, reviewed, of which the second has a note. The records are a start, the runs, the note."""
    made = [run_with_everything(store, "a", minutes * 10) for minutes in range(length)]
    review_ends(store)
    note = store.records.add_note(made[1], text="looked at it", by="ada", origin="cli", now=at(99))
    assert note is not None
    return made


def record_of(store: Store, run_id: int) -> int:
    query = select(records.c.id).where(records.c.run_id == run_id, records.c.kind == "run")
    return store.read(lambda conn: conn.execute(query).scalars().one())


def test_every_ended_run_has_one_record_in_the_order_of_the_ends(store: Store) -> None:
    first, second = (claim(store, queue(store, name)) for name in ("a", "b"))
    assert store.runs.apply(second.id, second.fence, 1, [ended(RunState.FAILED, 1)])
    assert store.runs.apply(first.id, first.fence, 1, [ended(RunState.SUCCEEDED, 2)])
    review_ends(store)
    finished(store, "c", 3)
    review_ends(store)
    review_ends(store)

    kept = store.read(lambda conn: conn.execute(select(records).order_by(records.c.id)).all())

    assert [(row.kind, row.run_id) for row in kept[1:]] == [
        ("run", second.id),
        ("run", first.id),
        ("run", first.id + 2),
    ]
    assert [row.id for row in kept] == [1, 2, 3, 4]
    assert verified(store).problem is None


def test_a_due_time_that_was_skipped_has_a_record_too(store: Store) -> None:
    from support.stores import plan_runs

    sync(store, calendar_entry("a"))
    plan_runs(store, "a", 0, 1, due("a", 1, RunState.SKIPPED))
    review_ends(store)

    assert (verified(store).records, verified(store).problem) == (2, None)


def test_each_changed_value_of_a_recorded_row_is_found_and_names_the_record(store: Store) -> None:
    made = chain(store)
    without_rows = finished(store, "b", 200)
    review_ends(store)
    wanted, untouched = record_of(store, made[2]), []
    for column in recorded_columns():
        table = column.table
        if column is runs.c.id:
            continue  # the database refuses it: other rows refer to it
        of_run = {runs: "id", records: "id"}.get(table, "run_id")
        subject = made[1] if table is notes else wanted if table is records else made[2]
        row = next(row for row in store.read(lambda conn, t=table: rows_of(conn, t)) if row[of_run] == subject)
        new = another_value(column, row[column.name]) if row[column.name] is not None else _first_value(column)
        if column.name == "run_id" and table is not records:
            new = without_rows
        if column.name == "id":
            new = 1000
        key = {part.name: row[part.name] for part in table.primary_key}
        store.write(lambda conn, c=column, k=key, n=new: set_value(conn, c, k, n))
        problem = verified(store).problem
        if problem is None:
            untouched.append(f"{table.name}.{column.name}")
        elif table is not notes:
            assert problem.record == wanted, f"{table.name}.{column.name}: {problem}"
        changed = key | ({column.name: new} if column.name in key else {})
        store.write(lambda conn, c=column, k=changed, o=row[column.name]: set_value(conn, c, k, o))

    assert untouched == []
    assert verified(store).problem is None


def _first_value(column: object) -> object:
    from sqlalchemy import Column, Integer

    from maintd.store.tables import UtcDateTime

    assert isinstance(column, Column)
    if isinstance(column.type, UtcDateTime):
        return at(0)
    return 1 if isinstance(column.type, Integer) else "x"


def test_each_column_of_the_recorded_tables_is_recorded_or_left_out_for_a_reason() -> None:
    for table, names in RECORDED.items():
        left_out = set(LEFT_OUT.get(table, {}))
        assert {column.name for column in table.c} == set(names) | left_out, table.name
        assert not left_out & set(names)
    not_recorded = {table.name for table in RUN_TABLES} - {table.name for table in RECORDED}
    assert not_recorded == {log_lines.name, measures.name, run_events.name, "locks"}


def test_a_removed_record_is_found(store: Store) -> None:
    made = chain(store)
    gone = record_of(store, made[2])
    store.write(lambda conn: conn.execute(delete(records).where(records.c.id == gone)))

    problem = verified(store).problem

    assert problem is not None
    assert (problem.record, problem.text) == (gone, f"record {gone} was removed")


def test_the_last_record_that_is_removed_is_found_without_a_head_that_was_kept(store: Store) -> None:
    made = chain(store)
    store.write(lambda conn: conn.execute(delete(records).where(records.c.id >= record_of(store, made[4]))))

    problem = verified(store).problem

    assert problem is not None
    assert problem.run_id == made[4]
    assert problem.text == f"run {made[4]} has ended, but has no record: it was inserted or its record was removed"


def test_two_exchanged_records_are_found(store: Store) -> None:
    made = chain(store)
    one, two = record_of(store, made[1]), record_of(store, made[2])

    def exchange(conn: Connection) -> None:
        for old, new in ((one, 1000), (two, one), (1000, two)):
            conn.execute(update(records).where(records.c.id == old).values(id=new))

    store.write(exchange)
    problem = verified(store).problem

    assert problem is not None
    assert problem.record == one


def test_an_inserted_record_is_found(store: Store) -> None:
    made = chain(store)
    last = store.records.head()
    assert last is not None
    columns = {"kind": "run", "run_id": made[0], "at": at(99), "digest": "00", "artifacts": "00", "head": last.head}
    store.write(lambda conn: conn.execute(insert(records).values(id=last.record + 1, **columns)))

    problem = verified(store).problem

    assert problem is not None
    assert problem.record == last.record + 1


def test_an_inserted_run_check_or_note_is_found(store: Store) -> None:
    made = chain(store)

    def insert_note(conn: Connection) -> None:
        conn.execute(insert(notes).values(run_id=made[0], at=at(1), by="eve", origin="", text="all was well"))

    def remove_note(conn: Connection) -> None:
        conn.execute(delete(notes).where(notes.c.by == "eve"))

    store.write(insert_note)
    of_note = verified(store).problem
    store.write(remove_note)
    more = {"name": "y", "observed": 1, "expected": "", "unit": "", "status": "ok", "hint": ""}
    store.write(lambda conn: conn.execute(insert(checks).values(run_id=made[0], step=0, attempt=1, **more)))
    of_check = verified(store).problem

    assert of_note is not None
    assert of_note.text == f"note 2 of run {made[0]} has no record: it was inserted or its record was removed"
    assert of_check is not None
    assert of_check.record == record_of(store, made[0])


def test_a_run_that_was_deleted_otherwise_than_by_retention_is_found(store: Store) -> None:
    made = chain(store)

    def remove(conn: Connection) -> None:
        for table in RUN_TABLES:
            conn.execute(delete(table).where(table.c.run_id == made[3]))
        conn.execute(delete(runs).where(runs.c.id == made[3]))

    store.write(remove)
    problem = verified(store).problem

    assert problem is not None
    assert problem.text == f"run {made[3]} is gone, but was not pruned"


def test_a_run_that_is_marked_as_pruned_by_another_record_was_not(store: Store) -> None:
    made = chain(store)

    def remove(conn: Connection) -> None:
        for table in RUN_TABLES:
            conn.execute(delete(table).where(table.c.run_id == made[3]))
        conn.execute(delete(runs).where(runs.c.id == made[3]))
        conn.execute(update(records).where(records.c.run_id == made[3]).values(pruned_by=2))

    store.write(remove)
    problem = verified(store).problem

    assert problem is not None
    assert problem.text == f"run {made[3]} is gone, and is marked as pruned without a record of that"


def delete_by_hand(conn: Connection, run_id: int) -> None:
    for table in RUN_TABLES:
        conn.execute(delete(table).where(table.c.run_id == run_id))
    conn.execute(delete(runs).where(runs.c.id == run_id))


def test_a_run_that_was_deleted_by_hand_and_marked_with_a_pruning_that_did_not_is_found(store: Store) -> None:
    made = chain(store)
    late = run_with_everything(store, "late", 500 * DAY)
    run_with_everything(store, "late", 500 * DAY + 10)  # the last of its entry, which is kept
    review_ends(store)
    store.maintenance.prune(Retention(), at(500 * DAY))
    assert verified(store).problem is None
    pruning = store.read(lambda conn: [row["id"] for row in rows_of(conn, records) if row["kind"] == "pruned"])[-1]

    store.write(lambda conn: delete_by_hand(conn, late))
    marked = update(records).where(records.c.run_id == late, records.c.kind == "run").values(pruned_by=pruning)
    store.write(lambda conn: conn.execute(marked))
    problem = verified(store).problem

    assert store.history.run(made[0]) is None
    assert problem is not None
    assert (problem.record, "other records are marked as pruned by it" in problem.text) == (pruning, True)


def test_a_record_that_is_not_marked_as_pruned_any_more_does_not_fit(store: Store) -> None:
    chain(store)
    store.maintenance.prune(Retention(), at(500 * DAY))

    store.write(lambda conn: conn.execute(update(records).where(records.c.id == 2).values(pruned_by=None)))
    problem = verified(store).problem

    assert problem is not None
    assert (problem.record, "is gone, but was not pruned" in problem.text) == (2, True)


def test_artifacts_that_were_deleted_by_hand_and_marked_as_pruned_are_found(store: Store) -> None:
    made = chain(store)

    def remove(conn: Connection) -> None:
        conn.execute(delete(artifacts).where(artifacts.c.run_id == made[3]))
        conn.execute(update(records).where(records.c.run_id == made[3]).values(artifacts_pruned_by=2))

    store.write(remove)
    problem = verified(store).problem

    assert problem is not None
    assert problem.text == f"the artifacts of run {made[3]} are marked as pruned without a record of that"


def test_records_of_pruned_runs_stay_and_verify(store: Store) -> None:
    made = chain(store)

    store.maintenance.prune(Retention(), at(500 * DAY))

    assert store.history.run(made[1]) is None
    found = verified(store)
    assert (found.problem, found.records, found.pruned) == (
        None,
        9,
        5,
    )  # four runs and a note; the last run is kept. One record is of their artifacts, one of them
    store.write(lambda conn: conn.execute(update(records).where(records.c.id == 3).values(digest="00")))
    problem = verified(store).problem
    assert problem is not None
    assert problem.record == 3


def test_artifacts_that_are_pruned_before_their_run_leave_their_digest(store: Store) -> None:
    made = chain(store)
    retention = Retention(artifacts=timedelta(days=1))

    store.maintenance.prune(retention, at(2 * DAY))

    assert store.history.run(made[0]) is not None
    assert store.read(lambda conn: len(rows_of(conn, artifacts))) == 1  # of the last outcome
    found = verified(store)
    assert (found.problem, found.artifacts_pruned) == (None, 4)
    store.write(lambda conn: conn.execute(update(runs).where(runs.c.id == made[0]).values(reason="all was well")))
    problem = verified(store).problem
    assert problem is not None
    assert problem.record == record_of(store, made[0])


def test_a_lost_run_that_gets_evidence_and_its_outcome_late_has_further_records(store: Store) -> None:
    run = claim(store, queue(store, "a"))
    assert store.runs.mark_lost(run.id, run.fence, "no heartbeat", at(5))
    review_ends(store)
    assert verified(store).problem is None
    updates = [*evidence(check("x")), ended(RunState.SUCCEEDED, 6)]
    assert store.runs.apply(run.id, run.fence, 1, updates[:3])
    assert verified(store).problem is None
    assert store.runs.apply(run.id, run.fence, 4, updates[3:])
    assert verified(store).problem is None
    review_ends(store)

    kinds = store.read(lambda conn: [row["kind"] for row in rows_of(conn, records)])

    assert kinds == ["start", "lost", "lost", "run"]
    assert verified(store).problem is None


def test_evidence_of_a_lost_run_before_its_review_is_in_its_first_record(store: Store) -> None:
    run = claim(store, queue(store, "a"))
    assert store.runs.mark_lost(run.id, run.fence, "no heartbeat", at(5))
    assert store.runs.apply(run.id, run.fence, 1, evidence(check("x"))[:3])
    review_ends(store)

    assert (verified(store).records, verified(store).problem) == (2, None)


def test_runs_that_ended_before_the_chain_began_are_counted(store: Store) -> None:
    for minutes in range(3):
        finished(store, "a", minutes)
    store.run_events.review(lambda conn, ends: None)  # as an earlier version did
    finished(store, "b", 9)
    review_ends(store)

    found = verified(store)

    assert (found.problem, found.records, found.before, found.to_follow) == (None, 2, 3, 0)


def test_a_run_that_waits_for_its_review_is_counted(store: Store) -> None:
    chain(store)
    finished(store, "b", 100)

    assert (verified(store).problem, verified(store).to_follow) == (None, 1)


def test_a_chain_that_was_written_again_does_not_fit_the_head_that_was_kept(store: Store) -> None:
    made = chain(store)
    kept = store.records.head()
    assert kept is not None
    assert verified(store, {kept.record: kept.head}).problem is None

    def write_again(conn: Connection) -> None:
        conn.execute(update(runs).where(runs.c.id == made[0]).values(requested_by="eve"))
        conn.execute(delete(notes))
        conn.execute(delete(records))
        store.records.add_ends(conn, made, at(200))

    store.write(write_again)
    assert verified(store).problem is None, "only a head that was kept elsewhere shows it"
    problem = verified(store, {kept.record: kept.head}).problem
    assert problem is not None
    assert (
        problem.text
        == f"the chain ends with record 6, but the head of record {kept.record} was kept: records were removed"
    )
    problem = verified(store, {2: "00"}).problem
    assert problem is not None
    assert problem.record == 2


def test_two_nodes_add_records_at_once_without_a_gap(open_another: Callable[[], Store]) -> None:
    stores = [open_another() for _ in range(4)]
    made = [finished(stores[0], f"e{number}", 1) for number in range(20)]

    def work(store: Store, number: int) -> None:
        for _ in range(5):
            review_ends(store, limit=2)
            store.records.add_note(made[number], text="seen", by="ada", origin="", now=at(2))

    run_concurrently([lambda store=store, n=n: work(store, n) for n, store in enumerate(stores)])
    while review_ends(stores[0]):
        pass

    found = verified(stores[0])
    assert (found.problem, found.records) == (None, 1 + 20 + 20)


def test_the_digest_of_a_run_is_the_same_on_both_stores(store: Store) -> None:
    run = claim(store, queue(store, "a", why="tö \x00 see", dry_run=True), 0)
    writes = [*evidence(check("x")), ended(RunState.SUCCEEDED, 3)]
    assert store.runs.apply(run.id, run.fence, 1, writes)
    store.write(lambda conn: conn.execute(update(plans).values(steps="[]", policy="{}")))  # they gain fields

    review_ends(store)

    digest = store.read(lambda conn: rows_of(conn, records)[1]["digest"])
    assert digest == DIGEST, f"digest {digest}: a change of the canonical JSON makes every earlier record wrong"


DIGEST = "a3523e9a8ed3f32e4e181396873debcc1b30a436e3520c368e15d919afe2b3a9"


def test_a_note_needs_a_run(store: Store) -> None:
    assert store.records.add_note(7, text="x", by="ada", origin="", now=at(0)) is None
    assert store.records.head() is None
