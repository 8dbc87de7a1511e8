"""Late runs, counted from rows, on both stores: in the summary of a period and in the digest."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update
from support.stores import NOON, at, claim, due, ended, entry, plan_runs, queue, sync

from maintd.model.entry import Rule, ScheduleKind
from maintd.model.notice import Channel, NoticeRules, NotifyConfig
from maintd.model.run import RunState, SkipReason
from maintd.notify.incidents import IncidentRecorder
from maintd.operations.lateness import allowed_lateness, count_late, is_late
from maintd.operations.period import summary_of
from maintd.schedule import jitter_of
from maintd.store import Store
from maintd.store.tables import runs

GRACE = timedelta(minutes=10)
TICK = timedelta(microseconds=1)
CHANNELS = {"mail": Channel(name="mail")}
WITHOUT = NotifyConfig()
WITH = NotifyConfig(channels=CHANNELS, rules=NoticeRules(to=("mail",)))


@pytest.mark.parametrize(
    ("after", "late"),
    [(timedelta(0), False), (GRACE - TICK, False), (GRACE, False), (GRACE + TICK, True), (-GRACE, False)],
)
def test_a_run_is_late_beyond_its_grace_and_not_at_it(after: timedelta, late: bool) -> None:
    assert is_late(after, allowed_lateness(WITHOUT, "a", None, NOON)) is late


def test_the_jitter_of_an_entry_is_no_lateness() -> None:
    rule = Rule(kind=ScheduleKind.CRON, text="* * * * *", timezone="UTC", jitter=timedelta(hours=1))

    assert allowed_lateness(WITHOUT, "a", rule, NOON) == GRACE + jitter_of("a", NOON, rule.jitter)
    assert jitter_of("a", NOON, rule.jitter) > timedelta(0)


@pytest.mark.parametrize("none", [NoticeRules(late=None), NoticeRules()])
def test_the_grace_is_ten_minutes_unless_the_rules_have_another(none: NoticeRules) -> None:
    config = NotifyConfig(rules=none, entries={"b": NoticeRules(late=timedelta(minutes=1))})

    assert (config.grace_of("a"), config.grace_of("b")) == (GRACE, timedelta(minutes=1))
    assert config.least_grace == timedelta(minutes=1)


def started(store: Store, name: str, due_minutes: float, after: timedelta, **columns: object) -> int:
    """Add a run that was due at that minute and started that long after it; return its id."""
    (run_id,) = plan_runs(store, name, due_minutes - 1, due_minutes, due(name, due_minutes, **columns)) or []
    run = claim(store, run_id, due_minutes)
    assert store.runs.apply(run.id, run.fence, 1, [ended(RunState.SUCCEEDED, due_minutes + 60)])
    moved = update(runs).where(runs.c.id == run_id).values(started_at=at(due_minutes) + after)
    store.write(lambda conn: conn.execute(moved))
    return run_id


def count(store: Store, config: NotifyConfig, now: float = 1000, until: float = 1000) -> int:
    return store.read(lambda conn: count_late(conn, config, at(0), at(until), at(now)))


@pytest.mark.parametrize("config", [WITHOUT, WITH])
def test_late_runs_are_counted_with_and_without_channels(store: Store, config: NotifyConfig) -> None:
    sync(store, entry("a"))
    for number, after in enumerate((timedelta(0), GRACE - TICK, GRACE, GRACE + TICK, timedelta(hours=5))):
        started(store, "a", number + 1, after)

    assert count(store, config) == 2
    counted = store.read(lambda conn: summary_of(conn, config, at(0), at(1000), at(1000)))
    assert (counted.ran, counted.late) == (5, 2)


def test_each_entry_has_its_own_grace(store: Store) -> None:
    sync(store, entry("a"), entry("b"))
    started(store, "a", 1, timedelta(minutes=5))
    started(store, "b", 1, timedelta(minutes=5))
    config = NotifyConfig(entries={"b": NoticeRules(late=timedelta(minutes=2))})

    assert (count(store, WITHOUT), count(store, config)) == (0, 1)


def test_a_run_that_still_waits_is_late_when_its_grace_is_over(store: Store) -> None:
    sync(store, entry("a"))
    plan_runs(store, "a", 0, 1, due("a", 1))

    assert [count(store, WITHOUT, now=minutes) for minutes in (1, 11, 11.1)] == [0, 0, 1]


def test_what_never_starts_has_no_due_time_or_is_a_dry_run_is_not_late(store: Store) -> None:
    sync(store, entry("a"))
    plan_runs(store, "a", 0, 1, due("a", 1, RunState.SKIPPED, skip_reason=SkipReason.MISSED))
    queue(store, "a", 2)
    started(store, "a", 2, timedelta(hours=2), dry_run=True)
    started(store, "a", 3, timedelta(hours=2))

    assert count(store, WITHOUT) == 1
    assert count(store, WITHOUT, until=2.5) == 0  # queued outside of the period


def test_the_start_of_an_entry_with_jitter_is_late_by_its_delayed_time(store: Store) -> None:
    rule = Rule(kind=ScheduleKind.CRON, text="* * * * *", timezone="UTC", jitter=timedelta(hours=1))
    sync(store, entry("a").model_copy(update={"rule": rule}))
    delay = jitter_of("a", at(1), rule.jitter)
    run_id = started(store, "a", 1, delay + GRACE)

    in_time = count(store, WITHOUT)
    moved = update(runs).where(runs.c.id == run_id).values(started_at=at(1) + delay + GRACE + TICK)
    store.write(lambda conn: conn.execute(moved))

    assert (in_time, count(store, WITHOUT)) == (0, 1)


def test_the_digest_has_the_number_of_the_summary(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from maintd.model.notice import Digest

    sync(store, entry("a"))
    for number in range(3):
        started(store, "a", number + 1, timedelta(minutes=11))
    monkeypatch.setattr(store, "now", lambda: at(62))
    rule = Rule(kind=ScheduleKind.CRON, text="0 13 * * *", timezone="UTC")
    config = WITH.model_copy(update={"digest": Digest(rule=rule, to=("mail",))})

    IncidentRecorder(store, lambda: config, lambda: {"a"}, "n1").sweep([], 0)

    (digest,) = [notice for notice in store.notices.recent() if notice.details.get("summary")]
    assert digest.details["summary"]["late"] == 3
    assert ", 3 late, " in digest.title
    counted = store.read(lambda conn: summary_of(conn, WITHOUT, at(60) - timedelta(days=1), at(60), at(62)))
    assert counted.late == 3
