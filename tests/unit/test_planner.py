"""Every due time has exactly one row, whatever happens to the clock, the calendar and the daemon."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clock import ManualClock
from support.planning import HOUR, MINUTE, NOON, PlanningNode, entry, node

from maintd.model.entry import Blackout, CatchUp, Entry, Overlap, Policy, StepPlan
from maintd.model.evidence import Handed
from maintd.model.run import NewRun, RunState, SkipReason, Trigger
from maintd.model.run_updates import AttemptReported, AttemptStarted, RunFinished, StepStarted
from maintd.scheduler.planner import LARGE_STEP, SETTLING_TIME, decide


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


def test_a_due_time_gets_a_queued_run(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, entry()) as one:
        one.pass_time(10 * MINUTE)

        assert one.times() == ["12:10"]
        (run,) = one.rows().values()
        assert (run.state, run.trigger) == (RunState.QUEUED, Trigger.SCHEDULE)


WATCHING = StepPlan(name="watch", job="watch", watches=("halts",))


def watcher() -> Entry:
    return entry("watch", "* * * * *").model_copy(update={"steps": (WATCHING,)})


def window(one: PlanningNode, value: str) -> Callable[[], None]:
    """Begin a run that hands over a value of this name; return what ends it."""
    store = one.store
    now = store.now()
    plan = (StepPlan(name="halt", job="halt"),)
    new = NewRun(
        entry="w", title="w", trigger=Trigger.MANUAL, state=RunState.QUEUED, not_before=now, plan=plan, policy=Policy()
    )
    run_id, _ = store.runs.add(new, now)
    claimed = store.runs.claim(run_id, "n1", "1", now + HOUR, now)
    assert claimed is not None
    handed = AttemptReported(step=0, attempt=1, items=(Handed(name=value, value={"a": 1}, at=now),))
    begun = [StepStarted(step=0, at=now), AttemptStarted(step=0, attempt=1, at=now, pid=7), handed]
    assert store.runs.apply(run_id, claimed.fence, 1, begun)

    def end() -> None:
        finished = RunFinished(state=RunState.SUCCEEDED, at=store.now())
        assert store.runs.apply(run_id, claimed.fence, len(begun) + 1, [finished])

    return end


def test_an_entry_that_only_watches_has_rows_only_while_there_is_something_to_watch(
    tmp_path: Path, clock: ManualClock
) -> None:
    with node(tmp_path, clock, watcher()) as one:
        one.pass_time(30 * MINUTE)
        first = one.times("watch")
        end = window(one, "halts")
        one.pass_time(10 * MINUTE)
        while_it_runs = one.times("watch")[len(first) :]
        end()
        one.pass_time(30 * MINUTE)
        after_it = one.times("watch")[len(first) + len(while_it_runs) :]
        window(one, "another value")
        one.pass_time(10 * MINUTE)
        rows = len(one.rows("watch"))
    clock.advance(2 * HOUR)
    with node(tmp_path, clock, watcher()) as again:
        again.planner.sweep()
        after_downtime = again.times("watch")[rows:]

    assert first == [f"12:0{minute}" for minute in range(1, 6)], "after a start, which may have missed an end"
    assert while_it_runs == [f"12:{minute}" for minute in range(31, 41)]
    assert after_it == ["12:41", "12:42", "12:43", "12:44"]
    assert rows == len(first) + len(while_it_runs) + len(after_it)
    assert after_downtime == ["15:20"], "what it would have watched before that is over"


def test_a_run_between_two_due_times_is_watched_afterwards(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, watcher()) as one:
        one.pass_time(30 * MINUTE)
        before = len(one.times("watch"))
        window(one, "halts")()

        one.pass_time(10 * MINUTE)

        assert one.times("watch")[before:] == ["12:31", "12:32", "12:33", "12:34", "12:35"]


def test_a_new_entry_has_no_due_times_before_it_was_first_seen(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, entry(cron="0 * * * *")) as one:
        one.pass_time(59 * MINUTE)

        assert one.times() == []
        assert one.planner.next_due == NOON + HOUR


def test_after_downtime_the_latest_due_time_runs_and_the_others_are_coalesced(
    tmp_path: Path, clock: ManualClock
) -> None:
    tidy = entry(catch_up=CatchUp.LATEST)
    with node(tmp_path, clock, tidy) as one:
        one.pass_time(10 * MINUTE)
    clock.advance(45 * MINUTE)

    with node(tmp_path, clock, tidy) as again:
        again.planner.sweep()

        assert again.times() == ["12:10", "12:20", "12:30", "12:40", "12:50"]
        assert again.states() == ["queued", "coalesced", "coalesced", "coalesced", "queued"]
        assert "2026-03-02 12:50:00 UTC" in again.rows()[NOON + 20 * MINUTE].reason
        assert again.rows()[NOON + 50 * MINUTE].trigger is Trigger.CATCH_UP


def test_after_downtime_every_due_time_runs_with_catch_up_all(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, entry()):
        clock.advance(35 * MINUTE)
    with node(tmp_path, clock, entry()) as again:
        again.planner.sweep()

        assert again.states() == ["queued"] * 3


def test_after_downtime_nothing_is_caught_up_with_catch_up_none(tmp_path: Path, clock: ManualClock) -> None:
    tidy = entry(catch_up=CatchUp.NONE)
    with node(tmp_path, clock, tidy):
        clock.advance(21 * MINUTE)
    with node(tmp_path, clock, tidy) as again:
        again.planner.sweep()

        # 12:20 is planned 60 s after it was due, which a slow store alone can cause; 12:10 was missed.
        assert again.states() == ["missed", "queued"]


def test_a_due_time_older_than_the_catch_up_window_is_missed(tmp_path: Path, clock: ManualClock) -> None:
    tidy = entry(catch_up_window=timedelta(minutes=25))
    with node(tmp_path, clock, tidy):
        clock.advance(50 * MINUTE)
    with node(tmp_path, clock, tidy) as again:
        again.planner.sweep()

        assert again.states() == ["missed", "missed", "queued", "queued", "queued"]
        assert again.rows()[NOON + 10 * MINUTE].reason == "planned 40m after it was due; the catch-up window is 25m"


def test_a_long_suspend_is_downtime(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, entry(catch_up=CatchUp.LATEST)) as one:
        clock.advance(9 * HOUR)  # wall and elapsed time advanced, and nothing was planned
        one.planner.sweep()

        assert not one.planner.suspended
        assert one.states().count("queued") == 1
        assert len(one.rows()) == 54


def test_a_paused_entry_has_a_row_for_each_due_time_and_continues_afterwards(
    tmp_path: Path, clock: ManualClock
) -> None:
    with node(tmp_path, clock, entry()) as one:
        one.store.entries.pause("tidy", why="restoring", by="ada", until=NOON + 25 * MINUTE, now=clock.now())
        one.pass_time(30 * MINUTE)

        assert one.states() == ["paused", "paused", "queued"]
        assert one.rows()[NOON + 10 * MINUTE].reason == "paused by ada: restoring"


SHORTLY = timedelta(milliseconds=10)


def test_a_pause_that_begins_shortly_before_a_due_time_is_in_force(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, entry()) as one:
        clock.advance(10 * MINUTE - SHORTLY)
        one.planner.plan()  # the alarm wakes the loop so early
        one.store.entries.pause("tidy", why="restoring", by="ada", until=None, now=clock.now())
        clock.advance(SHORTLY)

        one.planner.plan()
        one.planner.plan()

        assert one.states() == ["paused"]


def test_a_pause_that_ends_shortly_before_a_due_time_is_over(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, entry()) as one:
        one.store.entries.pause("tidy", why="restoring", by="ada", until=None, now=clock.now())
        clock.advance(10 * MINUTE - SHORTLY)
        one.planner.plan()
        one.store.entries.unpause("tidy", by="ada", now=clock.now())
        clock.advance(SHORTLY)

        one.planner.plan()
        one.planner.plan()

        assert one.states() == ["queued"]


def test_another_nodes_plan_and_calendar_shortly_before_a_due_time_are_in_force(
    tmp_path: Path, clock: ManualClock
) -> None:
    with node(tmp_path, clock, entry(), entry("other")) as one, node(tmp_path, clock, entry(), entry("other")) as two:
        clock.advance(10 * MINUTE - SHORTLY)
        one.planner.plan()
        two.planner.load([entry(), entry("other", cron="5 * * * *")])
        clock.advance(SHORTLY)
        two.planner.plan()

        one.planner.plan()
        one.planner.plan()

        assert (one.times(), one.times("other")) == (["12:10"], [])


def test_a_row_that_was_read_ahead_is_used_for_one_due_time_only(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, entry()) as one:
        clock.advance(10 * MINUTE - SHORTLY)
        one.planner.plan()
        one.pass_time(30 * MINUTE)

        assert one.states() == ["queued"] * 3
        assert one.times() == ["12:10", "12:20", "12:30"]


def test_an_entry_whose_run_is_unfinished_is_not_queued_again(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, entry(overlap=Overlap.SKIP)) as one:
        one.pass_time(20 * MINUTE)

        first, second = one.rows().values()
        assert (first.state, second.skip_reason) == (RunState.QUEUED, SkipReason.OVERLAP)
        assert second.reason == f"run {first.id} has been queued since 2026-03-02 12:10:00 UTC"


def test_a_manual_run_queued_for_later_does_not_block_a_due_time(tmp_path: Path, clock: ManualClock) -> None:
    tidy = entry(overlap=Overlap.SKIP)
    with node(tmp_path, clock, tidy) as one:
        manual = NewRun(
            entry="tidy",
            title="Tidy",
            trigger=Trigger.MANUAL,
            state=RunState.QUEUED,
            not_before=NOON + HOUR,
            plan=tidy.steps,
            policy=tidy.policy,
        )
        one.store.runs.add(manual, clock.now())

        one.pass_time(10 * MINUTE)

        assert one.states() == ["queued"]


def test_a_due_time_in_a_blackout_is_skipped(tmp_path: Path, clock: ManualClock) -> None:
    closed = Blackout(name="stocktaking", date=NOON.date())
    with node(tmp_path, clock, entry(blackout=(closed,))) as one:
        one.pass_time(10 * MINUTE)

        assert one.states() == ["blackout"]
        assert one.rows()[NOON + 10 * MINUTE].reason == "in the blackout stocktaking"


def test_due_times_within_a_small_step_forward_are_planned_late(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, entry()) as one:
        clock.step(31 * MINUTE)
        one.planner.sweep()

        assert one.times() == ["12:10", "12:20", "12:30"]
        assert next(event.kind for event in one.store.audit.recent()) == "clock_stepped"


def test_a_large_step_forward_suspends_planning_until_the_clock_has_settled(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, entry(catch_up=CatchUp.LATEST)) as one:
        clock.step(LARGE_STEP * 24)
        one.planner.sweep()
        assert one.planner.suspended
        assert one.rows() == {}

        one.pass_time(SETTLING_TIME)

        assert not one.planner.suspended
        assert one.states().count("queued") == 1


def test_a_large_step_forward_that_is_reversed_has_no_effect(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, entry()) as one:
        clock.step(LARGE_STEP * 24 * 365)
        one.planner.sweep()
        clock.step(-LARGE_STEP * 24 * 365)
        one.planner.sweep()
        one.pass_time(20 * MINUTE)

        assert one.times() == ["12:10", "12:20"]
        assert one.states() == ["queued", "queued"]


def test_a_step_back_neither_repeats_nor_loses_a_due_time(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, entry()) as one:
        one.pass_time(35 * MINUTE)
        clock.step(-20 * MINUTE)
        one.pass_time(50 * MINUTE)

        assert one.times() == ["12:10", "12:20", "12:30", "12:40", "12:50", "13:00"]
        assert set(one.states()) == {"queued"}


def test_after_an_edit_while_down_the_old_due_times_count_until_now_and_the_new_ones_from_now(
    tmp_path: Path, clock: ManualClock
) -> None:
    with node(tmp_path, clock, entry(cron="15 * * * *")):
        clock.advance(31 * MINUTE)
    with node(tmp_path, clock, entry(cron="20,40 * * * *")) as again:
        again.pass_time(30 * MINUTE)

        # 12:20 was not in the calendar when it passed, so it gets no row.
        assert again.times() == ["12:15", "12:40"]


def test_moving_an_entry_to_an_earlier_time_starts_nothing_at_once(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, entry(cron="50 * * * *")) as one:
        one.pass_time(30 * MINUTE)
        one.planner.load([entry(cron="10 * * * *")])
        one.pass_time(41 * MINUTE)

        assert one.times() == ["13:10"]


def test_a_renamed_entry_continues_from_where_it_was_planned(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, entry()) as one:
        one.pass_time(15 * MINUTE)
    clock.advance(10 * MINUTE)
    with node(tmp_path, clock, entry("sweep", "5 * * * *", formerly="tidy")) as again:
        again.pass_time(45 * MINUTE)

        # 12:20 was due by the old rule while no daemon ran; 13:05 is due by the new one.
        assert again.times("sweep") == ["12:10", "12:20", "13:05"]
        assert again.rows("tidy") == {}


def test_an_entry_that_is_removed_and_added_again_is_planned_from_then_on(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, entry()) as one:
        one.planner.load([])
        one.pass_time(30 * MINUTE)
        one.planner.load([entry()])
        one.pass_time(10 * MINUTE)

        assert one.times() == ["12:40"]


def test_of_two_nodes_with_different_calendars_the_one_loaded_last_is_active(
    tmp_path: Path, clock: ManualClock
) -> None:
    with node(tmp_path, clock, entry(cron="0 * * * *")) as old, node(tmp_path, clock, entry(cron="30 * * * *")) as new:
        for _ in range(65):
            clock.advance(MINUTE)
            old.planner.sweep()
            new.planner.sweep()

        assert old.times() == ["12:30"]
        assert old.planner.overruled == {"tidy"}
        assert new.planner.overruled == frozenset()


def test_an_entry_that_another_node_removed_is_not_planned(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, entry()) as old, node(tmp_path, clock) as new:
        clock.advance(30 * MINUTE)
        old.planner.sweep()
        new.planner.sweep()

        assert old.rows() == {}
        assert old.planner.overruled == {"tidy"}


def test_of_two_nodes_only_one_plans_a_due_time(tmp_path: Path, clock: ManualClock) -> None:
    with node(tmp_path, clock, entry()) as one, node(tmp_path, clock, entry()) as two:
        for minute in range(60):
            clock.advance(MINUTE)
            for planner in (one.planner, two.planner) if minute % 2 else (two.planner, one.planner):
                planner.sweep()

        assert len(one.rows()) == 6


@given(
    due=st.lists(st.integers(0, 5000), min_size=1, max_size=30, unique=True).map(sorted),
    catch_up=st.sampled_from(CatchUp),
    window=st.integers(0, 3000),
)
def test_each_due_time_gets_one_row_and_latest_queues_at_most_one(
    due: list[int], catch_up: CatchUp, window: int
) -> None:
    tidy = entry(catch_up=catch_up, catch_up_window=timedelta(minutes=window))
    times = [NOON + minute * MINUTE for minute in due]
    now = NOON + 5000 * MINUTE
    assert tidy.rule is not None

    rows = decide(tidy, tidy.rule, tidy.policy, times, now=now)

    assert [row.due_at for row in rows] == times
    queued = [row for row in rows if row.state is RunState.QUEUED]
    assert all((row.skip_reason is None) == (row.state is RunState.QUEUED) for row in rows)
    assert all(row.reason for row in rows if row.state is RunState.SKIPPED)
    if catch_up is CatchUp.LATEST:
        assert len(queued) <= 1
    assert all(now - row.due_at <= max(timedelta(minutes=window), 90 * timedelta(seconds=1)) for row in queued)  # type: ignore[operator]


ACTS = st.one_of(
    st.tuples(st.just("pass"), st.integers(1, 90)),
    st.tuples(st.just("suspend"), st.integers(1, 600)),
    st.tuples(st.just("step"), st.integers(-50, 50)),
    st.tuples(st.just("restart"), st.integers(0, 120)),
)


@settings(max_examples=25)
@given(acts=st.lists(ACTS, min_size=1, max_size=8))
def test_whatever_the_clock_does_no_due_time_is_without_a_row(acts: list[tuple[str, int]]) -> None:
    clock = ManualClock(NOON)
    with tempfile.TemporaryDirectory() as name:
        farthest = lowest = NOON
        one = PlanningNode(f"sqlite:///{name}/maintd.db", clock, entry(catch_up=CatchUp.LATEST))
        for act, minutes in acts:
            if act == "pass":
                one.pass_time(minutes * MINUTE)
            elif act == "suspend":
                clock.advance(minutes * MINUTE)
            elif act == "step":
                clock.step(minutes * MINUTE)
            else:
                one.store.close()
                clock.advance(minutes * MINUTE)
                one = PlanningNode(f"sqlite:///{name}/maintd.db", clock, entry(catch_up=CatchUp.LATEST))
            one.planner.sweep()
            farthest, lowest = max(farthest, clock.now()), min(lowest, clock.now())
        rows = one.rows()
        one.store.close()

    # A clock that was set to before the entry was first seen can pass earlier due times, which then have rows.
    assert [at for at in rows if at > NOON] == _every_ten_minutes(NOON, farthest)
    assert set(rows) <= set(_every_ten_minutes(lowest.replace(hour=0, minute=0), farthest))


def _every_ten_minutes(after: datetime, until: datetime) -> list[datetime]:
    return [after + n * 10 * MINUTE for n in range(1, int((until - after) / (10 * MINUTE)) + 1)]
