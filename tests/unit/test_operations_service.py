"""What the operator service returns and starts, on a real store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from support.stores import claim, queue
from support.web_services import NOON, Harness, at, check, entry, harness, run_with

from maintd.config.settings import Settings
from maintd.errors import CalendarError, DaemonUnavailableError, RefusedError, UnknownNameError, UsageError
from maintd.model.evidence import CheckStatus
from maintd.model.run import RunState, Trigger
from maintd.model.status import NodeState
from maintd.operations import (
    Health,
    TriggerRequest,
    cancel,
    due,
    entry_status,
    find_entry,
    find_run,
    open_service,
    pause,
    status,
    trigger,
    unpause,
)
from maintd.present import status_text


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Harness]:
    with harness(tmp_path) as made:
        yield made


def ask(here: Harness, name: str, **fields: object) -> tuple[object, bool]:
    return trigger(here.service(), TriggerRequest.model_validate({"name": name, **fields}))


# --- names ---


def test_a_name_is_looked_up_as_an_entry_then_as_a_job(here: Harness) -> None:
    here.use(entry("vacuum", "reindex"))

    assert find_entry(here.service(), "vacuum").jobs == ("reindex",)
    assert find_entry(here.service(), "reindex").rule is None


def test_an_unknown_name_is_refused_with_a_similar_one(here: Harness) -> None:
    with pytest.raises(UnknownNameError) as unknown:
        find_entry(here.service(), "vacum")

    assert str(unknown.value) == 'no entry or job named "vacum"; did you mean "vacuum"?'


@pytest.mark.parametrize("run_id", [0, -1, 99, 2**63, 10**30])
def test_an_unknown_run_id_is_refused_whatever_its_size(here: Harness, run_id: int) -> None:
    with pytest.raises(UnknownNameError):
        find_run(here.service(), run_id)


# --- asking for a run ---


def test_a_triggered_run_is_queued_and_audited_and_wakes_the_daemon(here: Harness) -> None:
    run, created = trigger(here.service(), TriggerRequest(name="nightly-vacuum", by="ada", why="disk is full"))

    assert created
    assert (run.state, run.trigger, run.requested_by, run.why) == (
        RunState.QUEUED,
        Trigger.MANUAL,
        "ada",
        "disk is full",
    )
    assert here.woken == 1
    event = here.store.audit.recent(1)[0]
    assert (event.kind, event.subject, event.by, event.why, event.text) == (
        "run_triggered",
        "nightly-vacuum",
        "ada",
        "disk is full",
        f"run {run.id}",
    )


def test_a_job_can_be_triggered_by_its_name_with_params(here: Harness) -> None:
    run, _ = trigger(here.service(), TriggerRequest(name="vacuum", params={"keep": "7"}, dry_run=True))

    stored = find_run(here.service(), run.id)
    assert stored.plan[0].params == {"keep": "7"}
    assert stored.plan[0].locks == {"postgres": "exclusive"}
    assert stored.dry_run


def test_params_of_the_wrong_type_are_refused_by_step_and_name(here: Harness) -> None:
    with pytest.raises(UsageError, match=r"vacuum\.keep: should be a valid integer"):
        ask(here, "vacuum", params={"keep": "many"})

    assert here.store.history.runs() == []


def test_a_run_can_be_triggered_for_later_but_not_in_the_past_or_in_years(here: Harness) -> None:
    run, _ = trigger(here.service(), TriggerRequest(name="vacuum", at=at(90)))

    assert run.not_before == at(90)
    for moment in (at(-5), NOON + timedelta(days=400)):
        with pytest.raises(UsageError):
            ask(here, "vacuum", at=moment)


def test_the_same_idempotency_key_returns_the_same_run(here: Harness) -> None:
    first, created = trigger(here.service(), TriggerRequest(name="vacuum", idempotency_key="k1"))
    again, created_again = trigger(here.service(), TriggerRequest(name="vacuum", idempotency_key="k1"))

    assert (created, created_again) == (True, False)
    assert first.id == again.id
    assert len(here.store.audit.recent()) == 1
    with pytest.raises(RefusedError, match=f"belongs to run {first.id} of vacuum"):
        ask(here, "reindex", idempotency_key="k1")


def test_a_paused_entry_can_be_triggered_and_the_run_mentions_the_pause(here: Harness) -> None:
    pause(here.service(), "nightly-vacuum", "disk is being replaced", "bob", None)

    run, _ = trigger(here.service(), TriggerRequest(name="nightly-vacuum"))

    assert run.reason == "triggered although the entry is paused by bob: disk is being replaced"


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("off", 'entry "off" is disabled in schedules.yaml:0'),
        ("broken-one", 'entry "broken-one" cannot run: /jobs/wrecked.py:3: invalid syntax'),
        ("wrecked", 'job "wrecked" is broken: /jobs/wrecked.py:3: invalid syntax'),
    ],
)
def test_triggering_a_disabled_entry_or_a_broken_job_is_refused_with_the_reason(
    here: Harness, name: str, result: str
) -> None:
    with pytest.raises(RefusedError) as refused:
        ask(here, name)

    assert refused.value.message == result
    assert refused.value.hint


def test_triggering_a_job_that_no_longer_exists_is_refused(here: Harness) -> None:
    del here.jobs["vacuum"]

    with pytest.raises(RefusedError, match='job "vacuum" no longer exists'):
        ask(here, "nightly-vacuum")


# --- cancel, pause ---


def test_a_queued_run_is_cancelled_at_once_and_the_stop_of_a_running_one_is_requested(here: Harness) -> None:
    waiting = queue(here.store, "nightly-vacuum")
    working = claim(here.store, queue(here.store, "probe")).id

    cancelled = cancel(here.service(), waiting, "ada", "wrong day")
    result = cancel(here.service(), working, "ada", "")

    assert (cancelled.state, cancelled.reason) == (RunState.CANCELLED, "cancelled by ada: wrong day")
    assert result.state is RunState.RUNNING
    assert find_run(here.service(), working).cancel_requested == "ada"
    assert [event.kind for event in here.store.audit.recent()] == ["run_cancelled", "run_cancelled"]
    with pytest.raises(RefusedError, match="has already ended: cancelled"):
        cancel(here.service(), waiting, "ada", "")


def test_a_pause_needs_a_reason_a_future_end_and_an_entry(here: Harness) -> None:
    service = here.service()

    with pytest.raises(UsageError, match="no reason given"):
        pause(service, "probe", "  ", "ada", None)
    with pytest.raises(UsageError, match="is in the past"):
        pause(service, "probe", "x", "ada", at(-1))
    with pytest.raises(UsageError, match="is a job, not an entry"):
        pause(service, "vacuum", "x", "ada", None)
    with pytest.raises(UnknownNameError, match='did you mean "probe"'):
        pause(service, "prob", "x", "ada", None)


def test_a_pause_is_shown_in_the_status_until_it_ends(here: Harness) -> None:
    service = here.service()
    pause(service, "probe", "noise", "ada", at(60))

    paused = entry_status(service, "probe")
    assert paused.pause is not None
    assert paused.next_step == "maintd unpause probe"

    assert unpause(service, "probe", "bob")
    assert not unpause(service, "probe", "bob")
    pause(service, "probe", "noise", "ada", at(60))
    here.clock.advance(timedelta(minutes=61))
    assert entry_status(service, "probe").pause is None


# --- status ---


def test_a_planned_run_hides_neither_the_last_outcome_of_its_entry_nor_its_next_due_time(here: Harness) -> None:
    for name in ("nightly-vacuum", "by-hand"):
        run_with(here.store, name, 0, RunState.FAILED, items=(check("dead tuples", CheckStatus.FAIL, 31),))
    here.clock.advance(timedelta(minutes=20))
    later, _ = trigger(here.service(), TriggerRequest(name="by-hand", at=at(2000), by="ada", why="a new disk"))
    sooner, _ = trigger(here.service(), TriggerRequest(name="by-hand", at=at(1000), by="ada"))
    scheduled, _ = trigger(here.service(), TriggerRequest(name="nightly-vacuum", at=at(90), by="ada"))

    report = status(here.service())

    manual = next(item for item in report.entries if item.entry == "by-hand")
    assert (manual.state, manual.active_run) == ("failed", None)
    assert manual.last_finished is not None
    assert [run.id for run in manual.planned_runs] == [sooner.id, later.id]
    assert (manual.next_due_at, manual.next_due_local[:3]) == (at(1000), f"{at(1000):%a}")
    first = report.entries[0]
    assert (first.state, [run.id for run in first.planned_runs]) == ("failed", [scheduled.id])
    assert f"{first.next_due_at:%Y-%m-%d %H:%M}" == "2026-03-03 03:00"
    text = " ".join(status_text(report).split())
    assert f"planned: run {later.id} at" in text
    assert f"by ada: a new disk; cancel it with: maintd cancel {later.id}" in text


def test_a_run_that_is_due_is_active_besides_a_later_one_that_is_planned(here: Harness) -> None:
    due_now, _ = trigger(here.service(), TriggerRequest(name="by-hand"))
    planned, _ = trigger(here.service(), TriggerRequest(name="by-hand", at=at(90)))

    found = entry_status(here.service(), "by-hand")

    assert found.active_run is not None
    assert (found.active_run.id, [run.id for run in found.planned_runs]) == (due_now.id, [planned.id])
    here.clock.advance(timedelta(minutes=91))
    assert entry_status(here.service(), "by-hand").planned_runs == ()


def test_the_status_lists_the_entries_in_the_order_of_the_calendar(here: Harness) -> None:
    run_with(here.store, "nightly-vacuum", 0)
    failed = run_with(
        here.store, "nightly-vacuum", 10, RunState.FAILED, items=(check("dead tuples", CheckStatus.FAIL, 31),)
    )
    here.clock.advance(timedelta(minutes=20))

    report = status(here.service())

    assert [item.entry for item in report.entries] == [
        "nightly-vacuum",
        "weekly-cleanup",
        "probe",
        "by-hand",
        "off",
        "broken-one",
    ]
    first = report.entries[0]
    assert first.last_run is not None
    assert first.last_run.id == failed
    assert (first.why, first.next_step) == ("vacuum: dead tuples: 31, expected at most 20", f"maintd show {failed}")
    assert (first.last_success_at, first.failing_since, first.failures_in_a_row) == (at(2), at(12), 1)
    assert first.typical_duration == timedelta(minutes=2)
    # 04:00 in Berlin in winter is 03:00 UTC.
    assert first.next_due_at is not None
    assert f"{first.next_due_at:%Y-%m-%d %H:%M}" == "2026-03-03 03:00"
    assert "04:00 CET" in first.next_due_local
    assert report.entries[3].next_due_at is None
    assert report.entries[4].next_due_at is None
    assert (report.node, report.started_at) == ("n1", NOON - timedelta(hours=2))


def test_the_status_lists_the_problems_of_maintd_itself(here: Harness) -> None:
    here.use(*here.calendar.entries, warnings=("schedules.yaml:7: two entries hold postgres at 04:00",))
    here.health = Health(alive=True, ready=False, problems=("the clock jumped",))

    report = status(here.service())

    assert report.problems == (
        "the clock jumped",
        'job "wrecked" is broken: /jobs/wrecked.py:3: invalid syntax',
        'entry "broken-one" cannot run: /jobs/wrecked.py:3: invalid syntax',
    )
    assert report.remarks == ("schedules.yaml:7: two entries hold postgres at 04:00",)


def test_a_calendar_warning_is_shown_but_does_not_need_attention(here: Harness) -> None:
    here.jobs = {name: job for name, job in here.jobs.items() if name != "wrecked"}
    here.use(entry("tidy", "vacuum"), broken={}, warnings=("schedules.yaml:7: two entries hold postgres at 04:00",))

    report = status(here.service())

    assert report.problems == ()
    assert not report.needs_attention
    assert "remark: schedules.yaml:7: two entries hold postgres at 04:00" in status_text(report)


def test_the_status_shows_unfinished_runs_outside_the_calendar_with_locks_and_nodes(
    here: Harness,
) -> None:
    run = claim(here.store, queue(here.store, "reindex"), lease=60)
    here.store.locks.acquire(run.id, run.fence, "reindex", {"postgres": "exclusive"}, NOON)
    here.store.nodes.heartbeat(
        NodeState(name="n1", incarnation="i", pid=1, started_at=NOON, seen_at=NOON, version="0", slots=4)
    )

    report = status(here.service())

    assert [other.id for other in report.others] == [run.id]
    assert [lock.lock for lock in report.locks] == ["postgres"]
    assert [node.name for node in report.nodes] == ["n1"]


def test_the_status_is_unknown_while_the_store_does_not_answer(here: Harness) -> None:
    run_with(here.store, "probe", 0)
    here.store.close()
    (here.folder / "maintd.db").rename(here.folder / "gone.db")
    (here.folder / "maintd.db").write_bytes(b"this is no database, and never was one" * 100)

    report = status(here.service())

    assert any("the store does not answer" in problem for problem in report.problems)
    assert all(item.why.startswith("unknown: ") and item.needs_attention for item in report.entries)
    assert "weekly-cleanup: unknown" not in status_text(report)  # the problem is named once, on top
    assert report.entries[0].next_due_at is not None


def test_the_status_of_an_entry_removed_from_the_calendar_comes_from_the_store(here: Harness) -> None:
    run_with(here.store, "probe", 0)
    here.use(entry("nightly-vacuum"))

    gone = entry_status(here.service(), "probe")

    assert gone.last_run is not None
    assert (gone.enabled, gone.next_due_at) == (False, None)
    with pytest.raises(UnknownNameError):
        entry_status(here.service(), "never-was")


# --- due ---


def test_due_times_are_in_order_with_the_reason_of_a_coming_skip(here: Harness) -> None:
    here.use(entry("early", cron="0 4 * * *"), entry("late", cron="0 5 * * *"), entry("off", enabled=False))
    pause(here.service(), "late", "noise", "ada", NOON + timedelta(days=1, hours=12))

    found, limited = due(here.service(), 2)

    assert limited == []

    assert [(item.entry, f"{item.due_at:%d %H:%M}", item.note) for item in found] == [
        ("early", "03 03:00", ""),
        ("late", "03 04:00", "paused by ada: noise"),
        ("early", "04 03:00", ""),
        ("late", "04 04:00", ""),
    ]


@pytest.mark.parametrize("days", [0, -1, 3_661])
def test_the_number_of_days_has_bounds(here: Harness, days: int) -> None:
    with pytest.raises(UsageError):
        due(here.service(), days)


# --- without a daemon ---


def write_calendar(folder: Path, text: str) -> Settings:
    (folder / "schedules.yaml").write_text(text)
    return Settings(state_dir=folder, calendar=folder / "schedules.yaml", _env_file=None)  # type: ignore[call-arg]


def test_a_service_without_a_daemon_reads_calendar_and_history_and_reports_the_missing_daemon(
    here: Harness,
) -> None:
    run_with(here.store, "probe", 0, RunState.FAILED, reason="no")
    settings = write_calendar(
        here.folder, "timezone: UTC\nentries:\n  probe:\n    schedule: every day at 04:00\n    steps: [health_check]\n"
    )
    service = open_service(settings, write=False)

    try:
        report = status(service)
    finally:
        service.store.close()

    assert [(item.entry, item.why) for item in report.entries] == [("probe", "failed: no")]
    assert report.started_at is None
    assert any("no daemon answers" in problem for problem in report.problems)
    for act in (service.wake, service.reload):
        with pytest.raises(DaemonUnavailableError):
            act()


def test_commands_write_rows_without_a_daemon(here: Harness) -> None:
    settings = write_calendar(
        here.folder, "timezone: UTC\nentries:\n  probe:\n    schedule: every day at 04:00\n    steps: [health_check]\n"
    )
    service = open_service(settings, write=True)

    try:
        pause(service, "probe", "noise", "ada", None)
    finally:
        service.store.close()

    assert here.store.entries.states(["probe"])["probe"].pause is not None


def test_a_broken_calendar_does_not_hide_the_history(here: Harness) -> None:
    run_with(here.store, "probe", 0, RunState.FAILED, reason="no")
    settings = write_calendar(here.folder, "timezone: Mars/Olympus\nentries: {}\n")
    service = open_service(settings, write=False)

    try:
        report = status(service)
        with pytest.raises(CalendarError):
            find_entry(service, "probe")
    finally:
        service.store.close()

    assert "failed: no" in [item.why for item in report.entries if item.entry == "probe"]
    assert any("schedules.yaml:1" in problem for problem in report.problems)
