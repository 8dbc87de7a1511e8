"""Entries, planning and the ledger, on both databases."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.stores import at, due, entry, finished, plan_runs, queue, run_concurrently, sync

from maintd.errors import UnknownNameError
from maintd.model.run import RunState
from maintd.store import EntryPlan, Store


def test_a_new_entry_is_planned_from_the_moment_it_is_first_seen(store: Store) -> None:
    sync(store, entry("vacuum"), now=3)

    state = store.entries.states()["vacuum"]

    assert (state.planned_through, state.first_seen_at, state.active) == (at(3), at(3), True)
    assert state.rule == entry("vacuum").rule


def test_an_edited_entry_keeps_its_planned_through(store: Store) -> None:
    sync(store, entry("vacuum"), now=0)

    sync(store, entry("vacuum", timeout=5), now=9, fingerprint="2")

    state = store.entries.states()["vacuum"]
    assert (state.planned_through, state.fingerprint) == (at(0), "2")
    assert state.policy == entry("vacuum", timeout=5).policy


@pytest.mark.parametrize("absent", [(), (entry("vacuum", enabled=False),)], ids=["not there", "disabled"])
def test_an_entry_that_is_active_again_is_planned_from_then_on(store: Store, absent: tuple) -> None:
    sync(store, entry("vacuum"), now=0)
    sync(store, *absent, now=5)
    gone = store.entries.states()["vacuum"]

    sync(store, entry("vacuum"), now=9)

    back = store.entries.states()["vacuum"]
    assert (gone.active, gone.planned_through) == (False, at(0))
    assert (back.active, back.planned_through, back.first_seen_at) == (True, at(9), at(0))


def test_a_renamed_entry_keeps_planning_pause_ledger_and_history(store: Store) -> None:
    sync(store, entry("old"), now=0)
    (run_id,) = plan_runs(store, "old", 0, 2, due("old", 1))
    store.entries.pause("old", why="broken disk", by="ada", until=None, now=at(2))

    sync(store, entry("new", formerly="old"), now=5)

    states = store.entries.states()
    assert list(states) == ["new"]
    assert states["new"].planned_through == at(2)
    assert states["new"].pause is not None and states["new"].pause.why == "broken disk"
    assert [run.id for run in store.history.runs(entry="new")] == [run_id]
    assert store.audit.recent()[0].kind == "entry_renamed"
    assert store.entries.set_planned_through("new", at(2), at(0), "to plan it again")
    assert plan_runs(store, "new", 0, 2, due("new", 1)) == []


def test_a_rename_leaves_the_row_of_an_entry_that_still_exists(store: Store) -> None:
    sync(store, entry("old"), now=0)

    sync(store, entry("old"), entry("new", formerly="old"), now=5)

    states = store.entries.states()
    assert (states["old"].planned_through, states["new"].planned_through) == (at(0), at(5))


def test_a_renamed_entry_takes_over_manual_runs_under_its_new_name(store: Store) -> None:
    sync(store, entry("old"), now=0)
    before, manual_run = finished(store, "old", 1), finished(store, "new", 2)

    sync(store, entry("new", formerly="old"), now=5)

    assert [run.id for run in store.history.runs(entry="new")] == [manual_run, before]


def test_a_job_run_under_its_own_name_is_not_an_entry(store: Store) -> None:
    queue(store, "vacuum")

    assert store.entries.states() == {}


def test_a_manually_run_job_becomes_an_entry_when_the_calendar_has_it(store: Store) -> None:
    run_id = finished(store, "vacuum", 1)

    sync(store, entry("vacuum"), now=7)

    assert store.entries.states()["vacuum"].planned_through == at(7)
    assert [run.id for run in store.history.runs(entry="vacuum")] == [run_id]


def test_planning_inserts_runs_and_sets_planned_through(store: Store) -> None:
    sync(store, entry("vacuum"))

    ids = plan_runs(store, "vacuum", 0, 2, due("vacuum", 1, RunState.SKIPPED), due("vacuum", 2))

    assert [run.id for run in store.history.runs(entry="vacuum")] == sorted(ids, reverse=True)
    assert [store.history.run(run_id).due_at for run_id in ids] == [at(1), at(2)]
    assert store.entries.states()["vacuum"].planned_through == at(2)


def test_planning_with_an_outdated_planned_through_writes_nothing(store: Store) -> None:
    sync(store, entry("vacuum"))
    plan_runs(store, "vacuum", 0, 1, due("vacuum", 1))

    late = plan_runs(store, "vacuum", 0, 2, due("vacuum", 2))

    assert late is None
    assert len(store.history.runs(entry="vacuum")) == 1
    assert len(plan_runs(store, "vacuum", 1, 2, due("vacuum", 2))) == 1


def test_a_due_time_never_gets_a_second_run(store: Store) -> None:
    sync(store, entry("vacuum"))
    plan_runs(store, "vacuum", 0, 2, due("vacuum", 1), due("vacuum", 2))
    store.entries.set_planned_through("vacuum", at(2), at(0), "the clock was set back")

    again = plan_runs(store, "vacuum", 0, 3, *(due("vacuum", n) for n in (1, 2, 3)))

    assert again is not None and len(again) == 1
    assert len(store.history.runs(entry="vacuum")) == 3


def test_planning_by_a_replaced_rule_writes_nothing(store: Store) -> None:
    sync(store, entry("vacuum"), now=0)
    seen = store.entries.states()["vacuum"].rule
    changed = entry("vacuum").model_copy(update={"rule": entry("vacuum").rule.model_copy(update={"text": "7m"})})
    sync(store, changed, now=1)

    by_the_old = store.entries.plan([EntryPlan("vacuum", at(0), at(2), (due("vacuum", 1),), seen)])
    by_the_new = store.entries.plan([EntryPlan("vacuum", at(0), at(2), (due("vacuum", 1),), changed.rule)])

    assert by_the_old == [None]
    assert by_the_new == [[1]]


def test_each_of_several_plans_has_its_own_condition(store: Store) -> None:
    sync(store, entry("a"), entry("b"), entry("c"))
    plan_runs(store, "b", 0, 1)

    wanted = [EntryPlan(name, at(0), at(2), (due(name, 1), due(name, 2))) for name in ("c", "b", "a")]
    ids = store.entries.plan([*wanted, EntryPlan("unknown", at(0), at(2), ())])

    assert ids[1] is None and ids[3] is None
    assert [store.history.run(run_id).entry for run_id in ids[0] + ids[2]] == ["c", "c", "a", "a"]


def test_moving_planning_back_needs_the_current_planned_through(store: Store) -> None:
    sync(store, entry("vacuum"), now=5)

    assert not store.entries.set_planned_through("vacuum", at(4), at(1), "why")
    assert store.entries.set_planned_through("vacuum", at(5), at(1), "was 4m ahead of the clock")
    assert store.audit.recent()[0].text == "was 4m ahead of the clock"


def test_two_stores_that_plan_the_same_due_times_insert_each_once(open_another: Callable[[], Store]) -> None:
    one, other = open_another(), open_another()
    sync(one, *(entry(f"e{n}") for n in range(5)))

    for step in range(8):
        seen, through = at(step), at(step + 1)
        wanted = [EntryPlan(f"e{n}", seen, through, (due(f"e{n}", step + 1),)) for n in range(5)]
        results = run_concurrently(
            [
                lambda wanted=wanted: one.entries.plan(wanted),
                lambda wanted=wanted: other.entries.plan(wanted[::-1])[::-1],
            ]
        )
        assert all((first is None) != (second is None) for first, second in zip(*results, strict=True))

    runs = one.history.runs(limit=100)
    assert len(runs) == len({(run.entry, run.due_at) for run in runs}) == 40


def test_a_pause_is_kept_with_its_reason_until_unpause(store: Store) -> None:
    sync(store, entry("vacuum"))
    pause = store.entries.pause("vacuum", why="disk", by="ada", until=at(60), now=at(1))

    held = store.entries.states(["vacuum"])["vacuum"].pause
    lifted = store.entries.unpause("vacuum", by="bob", now=at(2))

    assert held == pause
    assert lifted and store.entries.states()["vacuum"].pause is None
    assert not store.entries.unpause("vacuum", by="bob", now=at(3))
    assert [event.kind for event in store.audit.recent()] == ["entry_unpaused", "entry_paused"]


def test_a_pause_of_an_unknown_entry_suggests_a_similar_name(store: Store) -> None:
    sync(store, entry("vacuum"))

    with pytest.raises(UnknownNameError, match='did you mean "vacuum"'):
        store.entries.pause("vacum", why="", by="ada", until=None, now=at(1))
