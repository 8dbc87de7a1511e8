"""History queries, on both databases."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete
from support.stores import at, claim, due, ended, entry, evidence, finished, manual_run, plan, plan_runs, queue, sync

from maintd.config.settings import Retention
from maintd.model.evidence import LogLine, Measure
from maintd.model.run import RunState, SkipReason
from maintd.model.run_updates import AttemptReported, AttemptStarted, StepStarted
from maintd.store import LastRuns, Store
from maintd.store.tables import run_events


def lines(*seqs: int) -> tuple[LogLine, ...]:
    return tuple(LogLine(seq=seq, at=at(1), stream="log", text=f"line {seq}") for seq in seqs)


def test_a_queued_run_shows_its_planned_steps(store: Store) -> None:
    run = store.history.run(queue(store, "weekly", plan=plan("vacuum", "reindex")))

    assert [(step.index, step.job, step.state) for step in run.steps] == [
        (0, "vacuum", "pending"),
        (1, "reindex", "pending"),
    ]


def test_a_run_that_does_not_exist_is_none(store: Store) -> None:
    assert store.history.run(1) is None
    assert store.history.log(1) == []


def test_pages_follow_each_other_without_gap_or_overlap(store: Store) -> None:
    ids = [queue(store, f"e{n % 3}", n) for n in range(20)]

    pages, before = [], None
    while page := store.history.runs(limit=6, before_id=before):
        pages.append([run.id for run in page])
        before = page[-1].id

    assert [len(page) for page in pages] == [6, 6, 6, 2]
    assert [run_id for page in pages for run_id in page] == ids[::-1]


def test_runs_are_filtered_by_any_combination_of_entry_state_job_and_time(store: Store) -> None:
    a = finished(store, "a", 0, RunState.FAILED, plan=plan("vacuum", "reindex"))
    b = finished(store, "b", 5, RunState.SUCCEEDED, plan=plan("vacuum"))
    c = finished(store, "a", 9, RunState.SUCCEEDED, dry_run=True)
    d = queue(store, "b", 12, plan=plan("reindex"))

    def found(**asked: object) -> list[int]:
        return [run.id for run in store.history.runs(**asked)]

    assert found() == [d, c, b, a]
    assert found(entry="a") == [c, a]
    assert found(states=[RunState.SUCCEEDED]) == [c, b]
    assert found(states=[RunState.FAILED, RunState.QUEUED]) == [d, a]
    assert found(entry="a", states=[RunState.SUCCEEDED, RunState.FAILED]) == [c, a]
    assert found(job="reindex") == [d, a]
    assert found(job="vacuum", entry="a", states=[RunState.FAILED]) == [a]
    assert found(since=at(5)) == [d, c, b]
    assert found(since=at(5), job="vacuum", before_id=c) == [b]
    assert found(since=at(99)) == found(entry="unknown") == found(job="unknown") == found(states=[]) == []


def test_an_entry_without_runs_has_empty_last_runs(store: Store) -> None:
    sync(store, entry("vacuum"))

    assert store.history.last_per_entry(["vacuum", "unknown"]) == {"vacuum": LastRuns(), "unknown": LastRuns()}


def test_the_last_runs_of_an_entry_are_distinguished(store: Store) -> None:
    sync(store, entry("a"))
    success = finished(store, "a", 0, RunState.WARNED)
    finished(store, "a", 2, RunState.FAILED)
    failure = finished(store, "a", 4, RunState.TIMED_OUT)
    cancelled = finished(store, "a", 6, RunState.CANCELLED)
    skipped = due("a", 8, RunState.SKIPPED, skip_reason=SkipReason.OVERLAP)
    (skipped_id,) = plan_runs(store, "a", 0, 8, skipped)
    active = queue(store, "a", 9)

    last = store.history.last_per_entry(["a"])["a"]

    assert (last.last_success.id, last.last_failure.id, last.last_finished.id) == (success, failure, cancelled)
    assert (last.last_run.id, last.active.id) == (skipped_id, active)
    assert (last.failing_since, last.failures_in_a_row) == (at(3), 2)


def test_the_last_run_is_the_one_that_ended_last_whatever_its_number(store: Store) -> None:
    sync(store, entry("a"))
    at_gate = queue(store, "a", 0)
    claimed = claim(store, at_gate, 0)
    (skipped,) = plan_runs(store, "a", 0, 2, due("a", 2, RunState.SKIPPED, skip_reason=SkipReason.OVERLAP))
    assert store.history.last_per_entry(["a"])["a"].last_run.id == skipped
    planned = queue(store, "a", 3)
    store.runs.apply(at_gate, claimed.fence, 1, [ended(RunState.SUCCEEDED, 5)])
    assert store.history.last_per_entry(["a"])["a"].last_run.id == at_gate
    failed = finished(store, "a", 6, RunState.FAILED)

    store.runs.apply(planned, claim(store, planned, 8).fence, 1, [ended(RunState.SUCCEEDED, 9)])

    last = store.history.last_per_entry(["a"])["a"]
    assert (last.last_run.id, last.last_finished.id, last.last_success.id) == (planned, planned, planned)
    assert (last.failing_since, last.last_failure.id) == (None, failed)
    assert store.history.last_success_since("a", at(9)).id == planned


def test_a_failure_after_a_success_with_a_higher_number_is_a_failure(store: Store) -> None:
    planned = queue(store, "a", 0)
    finished(store, "a", 2)

    store.runs.apply(planned, claim(store, planned, 4).fence, 1, [ended(RunState.FAILED, 5)])

    last = store.history.last_per_entry(["a"])["a"]
    assert (last.last_finished.id, last.failing_since, last.failures_in_a_row) == (planned, at(5), 1)


def test_the_order_of_ends_whose_events_are_pruned_is_that_of_their_times(store: Store) -> None:
    planned = queue(store, "a", 0)
    finished(store, "a", 2, RunState.FAILED)
    store.runs.apply(planned, claim(store, planned, 4).fence, 1, [ended(RunState.SUCCEEDED, 5)])
    store.write(lambda conn: conn.execute(delete(run_events)) and None)

    assert store.history.last_per_entry(["a"])["a"].last_finished.id == planned


def test_a_success_ends_a_streak_of_failures(store: Store) -> None:
    finished(store, "a", 0, RunState.FAILED)
    finished(store, "a", 2, RunState.SUCCEEDED)

    last = store.history.last_per_entry(["a"])["a"]

    assert (last.failing_since, last.failures_in_a_row) == (None, 0)
    assert last.last_failure is not None


def test_an_entry_without_success_has_been_failing_since_its_first_failure(store: Store) -> None:
    sync(store, entry("a"), entry("b"))
    for minute in (0, 2, 4):
        finished(store, "a", minute, RunState.FAILED)
    finished(store, "b", 6, RunState.FAILED)

    last = store.history.last_per_entry(["a", "b"])

    assert (last["a"].failing_since, last["a"].failures_in_a_row) == (at(1), 3)
    assert (last["b"].failing_since, last["b"].failures_in_a_row) == (at(7), 1)


def test_dry_runs_count_only_while_they_are_unfinished(store: Store) -> None:
    finished(store, "a", 0, RunState.SUCCEEDED, dry_run=True)
    running = claim(store, queue(store, "a", 3, dry_run=True), 3)

    last = store.history.last_per_entry(["a"])["a"]

    assert (last.last_success, last.last_run, last.typical_duration) == (None, None, None)
    assert last.active.id == running.id


def test_the_typical_duration_is_the_median_of_the_last_twenty_successes(store: Store) -> None:
    for n in range(5):
        finished(store, "a", n, took=1000)
    # Of the last twenty, ten took 1 and ten took 3 minutes: the median is 2.
    for n in range(20):
        finished(store, "a", 10 + n, RunState.WARNED if n % 2 else RunState.SUCCEEDED, took=3 if n % 2 else 1)

    assert store.history.last_per_entry(["a"])["a"].typical_duration == timedelta(minutes=2)


def test_a_success_counts_only_when_it_is_recent_and_no_dry_run(store: Store) -> None:
    run_id = finished(store, "backup", 0, took=5)
    finished(store, "backup", 6, RunState.FAILED)
    finished(store, "dry", 0, dry_run=True)

    assert store.history.last_success_since("backup", at(5)).id == run_id
    assert store.history.last_success_since("backup", at(5.1)) is None
    assert store.history.last_success_since("dry", at(0)) is None
    assert store.history.last_success_since("unknown", at(0)) is None


def test_log_lines_are_ordered_and_continue_after_a_cursor(store: Store) -> None:
    run = claim(store, queue(store, "weekly", plan=plan("vacuum", "reindex")), 0)
    store.runs.apply(run.id, 1, 1, evidence(*lines(1, 2, 3)))
    store.runs.apply(run.id, 1, 6, evidence(*lines(1, 2), step=1))

    head = store.history.log(run.id, limit=2)
    last = head[-1]
    tail = store.history.log(run.id, after=(last.step, last.attempt, last.line.seq))

    assert [(row.step_name, row.line.seq) for row in head] == [("vacuum", 1), ("vacuum", 2)]
    assert [(row.step_name, row.line.seq) for row in tail] == [("vacuum", 3), ("reindex", 1), ("reindex", 2)]
    assert store.history.log(run.id, step="reindex") == store.history.log(run.id, step=1) == tail[1:]
    assert store.history.log(run.id, step="unknown") == store.history.log(run.id, attempt=2) == []


def test_series_have_the_last_points_of_finished_real_runs_oldest_first(store: Store) -> None:
    def run(name: str, minutes: float, value: float, **columns: object) -> int:
        measures = (Measure(name="bytes", value=value, unit="B", labels={"t": "x"}), Measure(name="rows", value=1))
        run = claim(store, queue(store, name, minutes, **columns), minutes)
        store.runs.apply(run.id, 1, 1, [*evidence(*measures), ended(RunState.FAILED, minutes + 1)])
        return run.id

    first, second, third = (run("a", minute, minute) for minute in (0, 2, 4))
    run("a", 6, 99, dry_run=True)
    other = run("b", 8, 8)
    unfinished = claim(store, queue(store, "a", 20), 20)
    store.runs.apply(unfinished.id, 1, 1, evidence(Measure(name="bytes", value=77)))

    points = store.history.series("a", "vacuum", ["bytes"], limit=2)

    assert [(point.run_id, point.at, point.value) for point in points] == [(second, at(3), 2), (third, at(5), 4)]
    assert (points[0].name, points[0].unit, points[0].labels) == ("bytes", "B", {"t": "x"})
    assert [point.run_id for point in store.history.series(None, "vacuum", ["bytes"])] == [first, second, third, other]
    assert {point.name for point in store.history.series("a", "vacuum")} == {"bytes", "rows"}
    assert store.history.series("a", "reindex") == []


def test_the_end_of_a_log_is_the_place_of_its_last_line(store: Store) -> None:
    run = claim(store, queue(store, "a", plan=plan("vacuum", "reindex")))
    empty = store.history.log_end(run.id)
    begun = [StepStarted(step=1, at=at(1)), *(AttemptStarted(step=1, attempt=n, at=at(1), pid=7) for n in (9, 10))]
    reported = [AttemptReported(step=1, attempt=n, items=lines(1, 100 // n)) for n in (9, 10)]
    first = [*evidence(*lines(500)), *begun, *reported]
    assert store.runs.apply(run.id, run.fence, 1, first)
    other = claim(store, queue(store, "b"))
    assert store.runs.apply(other.id, other.fence, 1, evidence(*lines(3)))

    assert empty == ()
    assert store.history.log_end(run.id) == (1, 10, 10)  # of the last attempt, though attempt 9 has a later line
    assert store.history.log_end(other.id) == (0, 1, 3)
    assert store.history.log_end(4711) == ()
    assert store.history.log(run.id, after=(1, 10, 10)) == []


def measured(store: Store, name: str, minutes: float, *values: float, job: str = "vacuum", **columns: object) -> int:
    """Add a run of a job that has ended, with a measure `bytes` for each value; return its id."""
    run = claim(store, queue(store, name, minutes, plan=plan(job), **columns), minutes)
    items = [Measure(name="bytes", value=value, unit="B", labels={"n": str(n)}) for n, value in enumerate(values)]
    assert store.runs.apply(run.id, run.fence, 1, [*evidence(*items), ended(RunState.SUCCEEDED, minutes + 1)])
    return run.id


def test_points_of_a_measure_are_paged_in_order_without_gap_or_overlap(store: Store) -> None:
    runs = [measured(store, name, minutes, minutes, -minutes) for name, minutes in (("a", 1), ("b", 2), ("a", 3))]
    whole = store.history.points("bytes")

    pages, after = [], 0
    while page := store.history.points("bytes", after=after, limit=2):
        pages.append(page)
        after = page[-1].id

    assert [point for page in pages for point in page] == whole
    assert [len(page) for page in pages] == [2, 2, 2]
    assert [point.run_id for point in whole] == [run for run in runs for _ in range(2)]
    assert sorted(point.id for point in whole) == [point.id for point in whole]
    first = whole[0]
    assert (first.at, first.entry, first.job, first.unit) == (at(2), "a", "vacuum", "B")
    assert [(point.value, point.labels) for point in whole[:2]] == [(1, {"n": "0"}), (-1, {"n": "1"})]


def test_points_are_those_of_an_entry_a_job_and_a_period(store: Store) -> None:
    old = measured(store, "a", 1, 1)
    other = measured(store, "b", 2, 2, job="reindex")
    new = measured(store, "a", 30, 3)

    def of(**wanted: Any) -> list[int]:
        return [point.run_id for point in store.history.points("bytes", **wanted)]

    assert of() == [old, other, new]
    assert of(entry="a") == [old, new]
    assert of(job="reindex") == [other]
    assert of(entry="a", job="reindex") == []
    assert of(since=at(2)) == [other, new]
    assert of(since=at(31)) == []
    assert of(entry="nothing") == []
    assert store.history.points("rows") == []


def test_points_are_of_runs_that_ended_and_were_not_dry(store: Store) -> None:
    measured(store, "a", 1, 1, dry_run=True)
    running = claim(store, queue(store, "a", 2), 2)
    items = evidence(Measure(name="bytes", value=2, unit="B"), Measure(name="bytes", value=float("nan")))
    assert store.runs.apply(running.id, running.fence, 1, items)
    unfinished = store.history.points("bytes")
    assert store.runs.apply(running.id, running.fence, 1 + len(items), [ended(RunState.FAILED, 4)])

    found = store.history.points("bytes")

    assert unfinished == []
    assert [point.run_id for point in found] == [running.id] * 2
    assert found[0].value == 2
    assert math.isnan(found[1].value)


def test_a_pruned_due_time_gets_no_second_run(store: Store) -> None:
    sync(store, entry("a"))
    old, last = plan_runs(store, "a", 0, 2, *(due("a", minute) for minute in (1, 2)))
    for run_id, minute in ((old, 3), (last, 5)):
        store.runs.apply(claim(store, run_id, minute).id, 1, 1, [ended(RunState.SUCCEEDED, minute)])

    store.maintenance.prune(Retention(runs=timedelta(days=1)), at(60 * 24 * 2))

    store.entries.set_planned_through("a", at(2), at(0), "to plan it again")
    again = plan_runs(store, "a", 0, 3, *(due("a", minute) for minute in (1, 2, 3)))
    assert [store.history.run(run_id).due_at for run_id in again] == [at(3)]


def test_counts_have_the_unfinished_runs_by_state(store: Store) -> None:
    queue(store, "a")
    claim(store, queue(store, "b"), 0)
    finished(store, "c", 0)

    queue(store, "d", 10)

    counts = {"waiting": 0, "queued": 1, "running": 1, "later": 1, "runs": 4}
    assert store.history.counts(at(9)) == counts
    assert store.history.counts(at(10)) == counts | {"queued": 2, "later": 0}


def test_manual_runs_keep_who_requested_them_and_why(store: Store) -> None:
    run_id, new = store.runs.add(manual_run("a", why="disk is full", params={"keep": 3}), at(0))

    run = store.history.run(run_id)
    assert (new, run.requested_by, run.why, run.params, run.due_at) == (True, "ada", "disk is full", {"keep": 3}, None)


@pytest.mark.parametrize("name", ["nodes", "events"])
def test_an_empty_store_answers_every_query(store: Store, name: str) -> None:
    assert {"nodes": store.nodes.all(), "events": store.audit.recent()}[name] == []
