"""Claims, leases, cancel requests and updates, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from support.stores import (
    at,
    check,
    claim,
    due,
    ended,
    entry,
    evidence,
    finished,
    manual_run,
    plan,
    queue,
    run_concurrently,
    sync,
)

from maintd.model.evidence import Artifact, Change, LogLine, LogTrim, Measure, Phase, Progress
from maintd.model.run import AttemptState, RunState, StepState
from maintd.model.run_updates import AttemptReported, AttemptStarted, RunRequeued, StepFinished, StepStarted
from maintd.store import EntryPlan, Store


def test_only_runs_that_can_start_are_claimable_longest_waiting_first(store: Store) -> None:
    ids = {minute: queue(store, f"e{minute}", minute) for minute in (3, 1, 2)}

    claimable = store.runs.claimable(at(2))

    assert claimable == [ids[1], ids[2]]
    assert store.runs.claim(ids[3], "n1", "i", at(9), at(2)) is None


def test_a_claim_returns_the_run_with_pending_steps(store: Store) -> None:
    run_id = queue(store, "weekly", plan=plan("vacuum", "reindex"), params={"keep": "30d"}, why="asked")

    run = claim(store, run_id, 1, node="n1")

    assert (run.state, run.fence, run.node, run.started_at) == (RunState.RUNNING, 1, "n1", at(1))
    assert (run.lease_until, run.params, run.why) == (at(6), {"keep": "30d"}, "asked")
    assert [(step.name, step.state) for step in run.steps] == [
        ("vacuum", StepState.PENDING),
        ("reindex", StepState.PENDING),
    ]


def test_a_store_that_prepared_its_statements_claims_as_before(store: Store) -> None:
    store.prepare()
    run_id = queue(store, "weekly")

    assert store.runs.claimable(at(1)) == [run_id]
    assert claim(store, run_id, 1, node="n1").node == "n1"


def test_of_twelve_claims_of_one_run_exactly_one_succeeds(open_another: Callable[[], Store]) -> None:
    stores = [open_another() for _ in range(3)]
    run_id = queue(stores[0], "vacuum")

    claims = run_concurrently(
        [lambda n=n: stores[n % 3].runs.claim(run_id, f"n{n}", "i", at(5), at(0)) for n in range(12)],
    )

    won = [run for run in claims if run is not None]
    assert len(won) == 1
    assert stores[0].history.run(run_id).node == won[0].node


def test_two_runs_of_one_entry_are_never_claimed_at_the_same_time(open_another: Callable[[], Store]) -> None:
    stores = [open_another() for _ in range(2)]

    for round_ in range(10):
        ids = [queue(stores[0], f"e{round_}") for _ in range(4)]
        claims = run_concurrently(
            [lambda n=n, ids=ids: stores[n % 2].runs.claim(ids[n], f"n{n}", "i", at(5), at(0)) for n in range(4)]
        )
        assert sum(run is not None for run in claims) == 1


def test_a_run_waits_while_another_of_its_entry_is_running(store: Store) -> None:
    first, second = queue(store, "vacuum", 0), queue(store, "vacuum", 1)
    run = claim(store, first, 2)

    blocked = (
        store.runs.claimable(at(2)),
        store.runs.next_not_before(),
        store.runs.claim(second, "n", "i", at(9), at(2)),
    )
    store.runs.apply(run.id, run.fence, 1, [ended(RunState.SUCCEEDED, 3)])

    assert blocked == ([], None, None)
    assert store.runs.claimable(at(3)) == [second]
    assert store.runs.next_not_before() == at(1)


def test_renewing_a_lease_extends_it_and_returns_a_cancel_request(store: Store) -> None:
    run = claim(store, queue(store, "vacuum"), 0, lease=5)

    first = store.runs.renew(run.id, run.fence, at(20))
    state = store.runs.request_cancel(run.id, "ada", "wrong host", at(2))
    second = store.runs.renew(run.id, run.fence, at(30))

    assert (first, state, second) == ("", RunState.RUNNING, "ada: wrong host")
    assert store.history.run(run.id).lease_until == at(30)
    assert store.runs.renew(run.id, run.fence + 1, at(40)) is None


def test_a_node_renews_all_its_runs_at_once(store: Store) -> None:
    mine = [claim(store, queue(store, f"e{n}"), 0, node="n1") for n in range(3)]
    other = claim(store, queue(store, "other"), 0, node="n2")
    store.runs.request_cancel(mine[1].id, "ada", "", at(1))
    store.runs.apply(mine[2].id, 1, 1, [ended(RunState.FAILED, 1)])

    answers = store.runs.renew_all("n1", "n1-1", at(30), {run.id: 1 for run in [*mine, other]})

    assert answers == {mine[0].id: "", mine[1].id: "ada", mine[2].id: None, other.id: None}
    assert store.history.run(mine[0].id).lease_until == at(30)
    assert store.history.run(other.id).lease_until == at(5)


def test_evidence_is_kept_in_order_with_its_attempt(store: Store) -> None:
    run = claim(store, queue(store, "vacuum", plan=plan("vacuum", "reindex")), 0)
    items = (
        check("dead rows"),
        check("age"),
        Measure(name="bytes", value=12.5, unit="B", labels={"table": "t"}),
        Change(action="delete", target="/tmp/x", details={"bytes": 5}),
        Artifact(name="report", path="1/report.md", size_bytes=9, sha256="ab"),
        Phase(name="read"),
        Phase(name="write"),
        Progress(done=3, total=9, unit="row"),
        LogLine(seq=1, at=at(1), stream="stdout", text="hällo"),
    )

    applied = store.runs.apply(run.id, run.fence, 1, evidence(*items))

    step = store.history.run(run.id).steps[0]
    attempt = step.attempts[0]
    assert applied
    assert (step.state, step.started_at, step.finished_at) == (StepState.SUCCEEDED, at(1), at(2))
    assert (attempt.number, attempt.pid, attempt.exit_code) == (1, 77, 0)
    assert attempt.checks == items[:2]
    assert (attempt.measures, attempt.changes, attempt.artifacts) == (items[2:3], items[3:4], items[4:5])
    assert (attempt.phase, attempt.progress) == ("write", items[7])
    assert (attempt.log_lines, attempt.log_bytes) == (1, 6)


@pytest.mark.parametrize("text", ["nul \0 byte", "half \ud83d pair", "whole 🛠 sign", ""])
def test_text_that_databases_reject_is_stored_with_replacement_characters(store: Store, text: str) -> None:
    run = claim(store, queue(store, "vacuum"), 0)

    store.runs.apply(run.id, 1, 1, evidence(LogLine(seq=1, at=at(1), stream="stdout", text=text)))

    kept = store.history.log(run.id)[0].line.text
    assert kept == text.replace("\0", "\ufffd").replace("\ud83d", "\ufffd" * (3 if "\ud83d" in text else 1))


@pytest.mark.parametrize("observed", [True, 0, 2**70, -1.5, float("inf"), "text", "5", None])
def test_the_observed_value_of_a_check_is_read_back_unchanged(store: Store, observed: object) -> None:
    run = claim(store, queue(store, "vacuum"), 0)

    store.runs.apply(run.id, 1, 1, evidence(check("x").model_copy(update={"observed": observed})))

    kept = store.history.run(run.id).steps[0].attempts[0].checks[0].observed
    assert kept == observed and type(kept) is type(observed)


def test_updates_that_are_sent_twice_are_applied_once(store: Store) -> None:
    run = claim(store, queue(store, "vacuum"), 0)
    writes = evidence(check("one"), LogLine(seq=1, at=at(1), stream="log", text="x"))
    store.runs.apply(run.id, run.fence, 1, writes[:3])

    again = store.runs.apply(run.id, run.fence, 2, writes[1:])
    and_again = store.runs.apply(run.id, run.fence, 1, writes)

    attempt = store.history.run(run.id).steps[0].attempts[0]
    assert again and and_again
    assert (len(attempt.checks), attempt.log_lines, attempt.state) == (1, 1, AttemptState.SUCCEEDED)


def test_updates_with_an_older_fence_are_refused_as_a_whole(store: Store) -> None:
    run = claim(store, queue(store, "vacuum"), 0)
    store.runs.apply(run.id, 1, 1, [RunRequeued(at=at(1), not_before=at(1), reason="shutting down")])
    second = claim(store, run.id, 2)

    refused = store.runs.apply(run.id, 1, 1, [*evidence(check("old")), ended(RunState.SUCCEEDED, 3)])

    kept = store.history.run(run.id)
    assert (refused, second.fence) == (False, 2)
    assert (kept.state, kept.steps[0].attempts) == (RunState.RUNNING, ())


def test_evidence_of_an_unknown_step_is_refused_as_a_whole(store: Store) -> None:
    run = claim(store, queue(store, "vacuum"), 0)

    refused = store.runs.apply(run.id, 1, 1, [StepStarted(step=0, at=at(1)), *evidence(check("whose?"), step=9)])

    kept = store.history.run(run.id)
    assert (refused, kept.state, [step.state for step in kept.steps]) == (False, RunState.RUNNING, [StepState.PENDING])
    assert store.runs.apply(run.id, 1, 1, evidence(check("its own")))


def test_a_requeued_run_starts_when_it_is_claimed_again(store: Store) -> None:
    run = claim(store, queue(store, "vacuum"), 1)
    store.locks.acquire(run.id, 1, "vacuum", {"postgres": "exclusive"}, at(1))
    put_back = RunRequeued(at=at(2), not_before=at(4), reason="lock postgres is busy")

    store.runs.apply(run.id, 1, 1, [StepStarted(step=0, at=at(1)), put_back])
    queued = store.history.run(run.id)
    again = claim(store, run.id, 4, node="n2")

    assert (queued.state, queued.not_before, queued.reason) == (RunState.QUEUED, at(4), "lock postgres is busy")
    assert (queued.node, queued.lease_until, queued.steps[0].state) == (None, None, StepState.PENDING)
    assert (queued.started_at, again.fence, again.started_at) == (None, 2, at(4))
    assert store.locks.holders(at(4)) == []
    assert store.runs.apply(run.id, 2, 1, evidence(check("now")))


@pytest.mark.parametrize("shutdowns", [1, 2, 3])
def test_time_in_the_queue_is_no_part_of_a_runs_duration(store: Store, shutdowns: int) -> None:
    run = claim(store, queue(store, "vacuum"), 0)
    for number in range(shutdowns):
        later = at(60 * (number + 1))
        put_back = RunRequeued(at=later, not_before=later, reason="shutting down")
        assert store.runs.apply(run.id, run.fence, 1, [put_back])
        run = claim(store, run.id, 60 * (number + 1))

    store.runs.apply(run.id, run.fence, 1, [ended(RunState.SUCCEEDED, 60 * shutdowns + 2)])

    assert store.history.run(run.id).duration == timedelta(minutes=2)


def test_a_run_with_a_cancel_request_is_not_requeued(store: Store) -> None:
    run = claim(store, queue(store, "vacuum"), 0)
    store.runs.request_cancel(run.id, "ada", "enough", at(1))

    store.runs.apply(run.id, 1, 1, [RunRequeued(at=at(2), not_before=at(4), reason="shutting down")])

    kept = store.history.run(run.id)
    assert (kept.state, kept.reason) == (RunState.CANCELLED, "cancelled by ada: enough")


def test_a_finished_run_accepts_no_updates(store: Store) -> None:
    run = claim(store, queue(store, "vacuum"), 0)
    store.runs.apply(run.id, 1, 1, [ended(RunState.FAILED, 1, "no space")])

    late = store.runs.apply(run.id, 1, 2, [ended(RunState.SUCCEEDED, 2)])

    kept = store.history.run(run.id)
    assert (late, kept.state, kept.reason, kept.finished_at) == (False, RunState.FAILED, "no space", at(1))


def test_a_lost_run_has_lost_steps_and_no_locks(store: Store) -> None:
    run = claim(store, queue(store, "vacuum"), 0)
    store.runs.apply(run.id, 1, 1, evidence(check("x"))[:3])
    store.locks.acquire(run.id, 1, "vacuum", {"postgres": "shared"}, at(1))

    lost = store.runs.mark_lost(run.id, 1, "node n1 is silent", at(9))

    kept = store.history.run(run.id)
    assert lost and not store.runs.mark_lost(run.id, 1, "again", at(10))
    assert (kept.state, kept.reason, kept.finished_at) == (RunState.LOST, "node n1 is silent", at(9))
    assert (kept.steps[0].state, kept.steps[0].attempts[0].state) == (StepState.LOST, AttemptState.LOST)
    assert store.locks.holders(at(2)) == []


def test_a_run_with_a_renewed_lease_is_not_marked_lost(store: Store) -> None:
    run = claim(store, queue(store, "vacuum"), 0)
    assert [found.id for found in store.runs.expired(at(9))] == [run.id]
    store.runs.renew(run.id, 1, at(12))

    lost = store.runs.mark_lost(run.id, 1, "node n1 is silent", at(9), if_expired=True)

    assert (lost, store.history.run(run.id).state) == (False, RunState.RUNNING)
    assert store.runs.mark_lost(run.id, 1, "node n1 is silent", at(13), if_expired=True)


def test_late_evidence_finishes_a_lost_run(store: Store) -> None:
    run = claim(store, queue(store, "vacuum"), 0)
    writes = [*evidence(check("x")), ended(RunState.SUCCEEDED, 3)]
    store.runs.apply(run.id, 1, 1, writes[:2])
    store.runs.mark_lost(run.id, 1, "node n1 is silent", at(9))

    settled = store.runs.apply(run.id, 1, 1, writes)

    kept = store.history.run(run.id)
    assert settled
    assert (kept.state, kept.finished_at, kept.steps[0].state) == (RunState.SUCCEEDED, at(3), StepState.SUCCEEDED)
    assert kept.steps[0].attempts[0].state == AttemptState.SUCCEEDED


def test_late_evidence_without_an_outcome_leaves_a_run_lost(store: Store) -> None:
    run = claim(store, queue(store, "vacuum"), 0)
    store.runs.mark_lost(run.id, 1, "node n1 is silent", at(9))

    applied = store.runs.apply(run.id, 1, 1, evidence(check("x"))[:3])

    kept = store.history.run(run.id)
    assert (applied, kept.state, kept.steps[0].state) == (True, RunState.LOST, StepState.LOST)
    assert len(kept.steps[0].attempts[0].checks) == 1


def test_a_step_that_never_started_can_be_skipped_with_a_reason(store: Store) -> None:
    run = claim(store, queue(store, "vacuum"), 0)

    store.runs.apply(run.id, 1, 1, [StepFinished(step=0, state=StepState.SKIPPED, at=at(1), reason="no target")])

    step = store.history.run(run.id).steps[0]
    assert (step.state, step.reason, step.started_at) == (StepState.SKIPPED, "no target", None)


def test_the_trimmed_middle_of_a_log_is_deleted_and_counted(store: Store) -> None:
    run = claim(store, queue(store, "vacuum"), 0)
    lines = [LogLine(seq=seq, at=at(1), stream="log", text="12345") for seq in range(1, 9)]
    begun = [StepStarted(step=0, at=at(1)), AttemptStarted(step=0, attempt=1, at=at(1))]
    store.runs.apply(run.id, 1, 1, [*begun, AttemptReported(step=0, attempt=1, items=tuple(lines[:6]))])

    trimmed = (*lines[6:], LogTrim(first=3, last=7, size_bytes=25))
    store.runs.apply(run.id, 1, 4, [AttemptReported(step=0, attempt=1, items=trimmed)])

    attempt = store.history.run(run.id).steps[0].attempts[0]
    assert [row.line.seq for row in store.history.log(run.id)] == [1, 2, 8]
    assert (attempt.log_lines, attempt.log_bytes, attempt.log_lines_left_out) == (3, 15, 5)


def test_the_same_idempotency_key_returns_the_same_run(open_another: Callable[[], Store]) -> None:
    stores = [open_another(), open_another()]

    added = run_concurrently(
        [lambda n=n: stores[n % 2].runs.add(manual_run("vacuum", idempotency_key="k1"), at(0)) for n in range(6)]
    )

    assert len({run_id for run_id, _ in added}) == 1
    assert sum(new for _, new in added) == 1
    assert stores[0].history.run(added[0][0]).idempotency_key == "k1"


def test_a_repeated_idempotency_key_uses_up_no_number(open_another: Callable[[], Store]) -> None:
    stores = [open_another(), open_another()]
    first, _ = stores[0].runs.add(manual_run("vacuum", idempotency_key="k1"), at(0))

    again = [stores[n % 2].runs.add(manual_run("vacuum", idempotency_key="k1"), at(n)) for n in range(1, 5)]
    other, new = stores[1].runs.add(manual_run("vacuum", idempotency_key="k2"), at(9))

    assert again == [(first, False)] * 4
    assert (other, new) == (first + 1, True)


def test_a_run_in_the_foreground_that_is_refused_uses_up_no_number(store: Store) -> None:
    running = claim(store, queue(store, "vacuum", 0), 0)

    refused = store.runs.add_claimed(manual_run("vacuum"), "n", "i", at(9), at(1))

    assert refused is None
    assert store.runs.add(manual_run("other"), at(2))[0] == running.id + 1


def test_a_queued_run_is_cancelled_at_once(store: Store) -> None:
    queued, waiting = queue(store, "a"), queue(store, "b", 9)

    states = [store.runs.request_cancel(run_id, "ada", "not today", at(1)) for run_id in (queued, waiting, 999)]

    kept = store.history.run(queued)
    assert states == [RunState.CANCELLED, RunState.CANCELLED, None]
    assert (kept.reason, kept.finished_at) == ("cancelled by ada: not today", at(1))
    assert store.runs.claim(queued, "n", "i", at(9), at(2)) is None


def test_cancelling_a_finished_run_returns_its_state(store: Store) -> None:
    run_id = finished(store, "vacuum", 0, RunState.WARNED)

    assert store.runs.request_cancel(run_id, "ada", "", at(5)) == RunState.WARNED


def test_expired_runs_are_those_with_an_expired_lease(store: Store) -> None:
    silent, alive = (claim(store, queue(store, name), 0, lease=lease) for name, lease in (("a", 5), ("b", 50)))

    assert [run.id for run in store.runs.expired(at(10))] == [silent.id]
    assert alive.id not in [run.id for run in store.runs.expired(at(5))]


def test_runs_of_an_earlier_process_of_a_node_are_found(store: Store) -> None:
    old = store.runs.claim(queue(store, "a"), "n1", "first", at(99), at(0))
    store.runs.claim(queue(store, "b"), "n1", "second", at(99), at(0))
    store.runs.claim(queue(store, "c"), "n2", "first", at(99), at(0))

    dead = store.runs.claimed_by_earlier_process("n1", "second")

    assert old is not None and [(run.id, run.fence) for run in dead] == [(old.id, 1)]


def test_unfinished_runs_of_an_entry_are_ordered_by_age(store: Store) -> None:
    running = claim(store, queue(store, "a"), 0).id
    finished(store, "b", 0)
    queued, waiting = queue(store, "a", 1), queue(store, "a", 2)

    assert [run.id for run in store.runs.unfinished(["a"])] == [running, queued, waiting]
    assert store.runs.unfinished(["b"]) == store.runs.unfinished(["unknown"]) == []


def test_times_are_read_back_as_aware_utc(store: Store) -> None:
    moment = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)
    sync(store, entry("vacuum"))

    rows = (due("vacuum", 0, due_at=moment, not_before=moment),)
    (ids,) = store.entries.plan([EntryPlan("vacuum", at(0), moment, rows)])

    run = store.history.run(ids[0])
    assert run.due_at == moment and run.due_at.tzinfo is UTC
