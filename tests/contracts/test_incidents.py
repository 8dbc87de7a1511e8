"""Incidents and notices that follow from ends of runs and from sweeps, on both stores."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from support.clock import ManualClock
from support.stores import NOON, at, claim, due, ended, entry, evidence, finished, plan_runs, queue, sync

from maintd.model.entry import Gate, Rule, ScheduleKind, StepPlan
from maintd.model.evidence import Check, CheckStatus
from maintd.model.notice import Channel, Digest, Notice, NoticeKind, NoticeRules, NotifyConfig, QuietHours
from maintd.model.run import AttemptState, DecisionKind, GateDecision, RunState, SkipReason, StepState
from maintd.model.run_updates import (
    AttemptFinished,
    AttemptReported,
    AttemptStarted,
    RunWaiting,
    StepFinished,
    StepStarted,
)
from maintd.notify.incidents import IncidentRecorder
from maintd.notify.messages import message_of
from maintd.notify.selection import OwnProblem
from maintd.operations.review import review_ends
from maintd.present import runs_text
from maintd.store import Store
from maintd.store.gates import end_wait

CHANNELS = {"mail": Channel(name="mail"), "pager": Channel(name="pager")}
DISK = OwnProblem(NoticeKind.MAINTD, "disk", "the disk is full: 3 MiB free")


class Site:
    """A store with entries, and what records their incidents."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self.config = NotifyConfig(channels=CHANNELS, rules=NoticeRules(to=("mail",)))
        self.names = {"a", "b"}
        self.recorder = IncidentRecorder(store, lambda: self.config, lambda: self.names, "n1", "http://maintd:8420")
        sync(store, entry("a"), entry("b"))

    def configure(self, **columns: Any) -> None:
        self.config = self.config.model_copy(update=columns)

    def rules(self, **columns: Any) -> None:
        self.configure(rules=self.config.rules.model_copy(update=columns))

    def review(self) -> None:
        while review_ends(self.store, self.recorder.record_review):
            pass

    def end(self, name: str, minutes: float, state: RunState) -> int:
        run_id = finished(self.store, name, minutes, state)
        self.review()
        return run_id

    def sweep(self, *problems: OwnProblem, elapsed: float = 0) -> None:
        self.recorder.sweep(problems, elapsed)

    def notices(self) -> list[Notice]:
        return self.store.notices.recent()[::-1]

    def kinds(self) -> list[str]:
        return [notice.kind.value for notice in self.notices()]

    def opened(self) -> list[tuple[str, str]]:
        return [(found.subject, found.kind.value) for found in self.store.notices.open_incidents()]


@pytest.fixture
def site(store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(store, "now", clock.now)  # that of Postgres is the server's
    return Site(store, clock)


def failing_run(site: Site, name: str, minutes: float) -> int:
    """A run that ends by a check that failed."""
    run = claim(site.store, queue(site.store, name, minutes), minutes)
    failed = Check(name="stones", observed=3, expected="at most 0", status=CheckStatus.FAIL)
    updates = [
        StepStarted(step=0, at=at(minutes)),
        AttemptStarted(step=0, attempt=1, at=at(minutes), pid=77),
        AttemptReported(step=0, attempt=1, items=(failed,)),
        AttemptFinished(
            step=0, attempt=1, state=AttemptState.FAILED, at=at(minutes), exit_code=0, reason="a check failed"
        ),
        StepFinished(step=0, state=StepState.FAILED, at=at(minutes)),
        ended(RunState.FAILED, minutes),
    ]
    assert site.store.runs.apply(run.id, run.fence, 1, updates)
    site.review()
    return run.id


# --- ends of runs ---


def test_a_failure_is_one_notice_and_its_end_another(site: Site) -> None:
    site.end("a", 1, RunState.FAILED)
    site.end("a", 2, RunState.FAILED)
    site.end("a", 3, RunState.SUCCEEDED)

    failed, recovered = site.notices()
    assert (failed.kind, failed.channel, failed.details["run_id"]) == (NoticeKind.FAILED, "mail", 1)
    assert recovered.kind is NoticeKind.RECOVERED
    assert recovered.incident_id == failed.incident_id
    assert site.opened() == []


def test_a_notice_states_what_one_needs_to_know(site: Site) -> None:
    other = claim(site.store, queue(site.store, "b"))
    run = claim(site.store, queue(site.store, "a"))
    failed = Check(
        name="dead tuples", observed=31, expected="at most 20 %", unit="%", status=CheckStatus.FAIL, hint="wait"
    )
    unseen = Check(name="swap", observed="denied", expected="0", status=CheckStatus.UNKNOWN, optional=True)
    updates = [*evidence(failed, unseen), ended(RunState.FAILED, 5)]
    assert site.store.runs.apply(run.id, run.fence, 1, updates)
    site.review()

    notice = site.notices()[0]
    assert notice.title == "a failed: vacuum: dead tuples: 31 %, expected at most 20 %"
    assert [(found["name"], found["optional"]) for found in notice.details["checks"]] == [
        ("dead tuples", False),
        ("swap", True),
    ]
    for part in (
        "vacuum: dead tuples: 31 %, expected at most 20 %",
        "since   Mon 2026-03-02 12:05 UTC",
        "hint    wait",
        f"type    maintd show {run.id}",
        f"page    http://maintd:8420/runs/{run.id}",
        f"running now: b (run {other.id})",
    ):
        assert part in notice.body


def test_nothing_is_written_for_what_is_not_in_the_calendar_or_without_channels(site: Site) -> None:
    site.names = {"b"}
    site.end("a", 1, RunState.FAILED)
    site.names = {"a", "b"}
    site.configure(channels={})
    site.end("a", 2, RunState.FAILED)

    assert (site.notices(), site.opened()) == ([], [])


def test_a_kind_that_is_off_is_followed_without_a_notice(site: Site) -> None:
    site.rules(kinds={NoticeKind.UNKNOWN: ()})
    site.end("a", 1, RunState.UNKNOWN)
    site.end("a", 2, RunState.SUCCEEDED)

    assert site.notices() == []


def test_each_channel_of_a_rule_gets_a_notice(site: Site) -> None:
    site.configure(entries={"b": NoticeRules(to=("mail", "pager"), critical=True)})
    site.end("b", 1, RunState.FAILED)

    assert [(notice.channel, notice.critical) for notice in site.notices()] == [("mail", True), ("pager", True)]


def test_two_nodes_that_review_write_each_notice_once(site: Site, open_another: Callable[[], Store]) -> None:
    from support.stores import run_concurrently

    for number in range(20):
        finished(site.store, "a" if number % 2 else "b", number, RunState.FAILED)
    other = open_another()
    second = IncidentRecorder(other, lambda: site.config, lambda: site.names, "n2")

    def review_all() -> None:
        while review_ends(other, second.record_review, limit=3):
            pass

    run_concurrently([site.review, review_all])

    assert sorted(site.opened()) == [("a", "failed"), ("b", "failed")]
    assert len(site.notices()) == 2


def test_a_due_time_that_was_missed_is_reported_until_a_run_succeeds(site: Site) -> None:
    plan_runs(site.store, "a", 0, 5, due("a", 5, RunState.SKIPPED, skip_reason=SkipReason.MISSED, reason="too old"))
    site.review()
    assert site.kinds() == ["missed"]
    assert "missed: too old" in site.notices()[0].title

    site.end("a", 6, RunState.SUCCEEDED)
    assert site.kinds() == ["missed", "recovered"]


def test_the_title_of_a_message_of_several_notices_has_the_worst_first(site: Site) -> None:
    site.end("b", 1, RunState.FAILED)
    before = len(site.notices())
    site.end("b", 2, RunState.SUCCEEDED)
    site.end("b", 3, RunState.UNKNOWN)
    site.end("b", 4, RunState.SUCCEEDED)
    site.end("a", 5, RunState.FAILED)

    kinds = (NoticeKind.RECOVERED, NoticeKind.FAILED)
    title, body = message_of([notice for notice in site.notices()[before:] if notice.kind in kinds])
    assert title == "1 failed, 2 recovered: a, b"
    assert body.startswith("b recovered")  # in the order of time


# --- mutes ---


def test_a_muted_entry_is_followed_and_reported_after_the_mute(site: Site) -> None:
    site.store.mutes.add("a", why="new disk", by="ada", until=at(120), now=NOON)
    site.end("a", 1, RunState.FAILED)
    site.end("b", 1, RunState.FAILED)
    assert [notice.details["entry"] for notice in site.notices()] == ["b"]
    assert ("a", "failed") in site.opened()

    site.clock.advance(timedelta(minutes=121))
    site.sweep()

    sent = [notice for notice in site.notices() if notice.details["entry"] == "a"]
    assert [notice.kind for notice in sent] == [NoticeKind.STILL_FAILING]


def test_what_recovers_during_a_mute_is_not_reported(site: Site) -> None:
    site.store.mutes.add("*", why="new disk", by="ada", until=at(120), now=NOON)
    site.end("a", 1, RunState.FAILED)
    site.end("a", 2, RunState.SUCCEEDED)

    assert (site.notices(), site.opened()) == ([], [])


def test_what_is_not_over_is_reported_at_once_when_a_mute_is_ended_by_hand(site: Site) -> None:
    site.store.mutes.add("a", why="new disk", by="ada", until=at(6000), now=NOON)
    site.end("a", 1, RunState.FAILED)
    site.clock.advance(timedelta(hours=2))
    site.sweep()
    assert site.kinds() == []

    assert site.store.mutes.end("a", by="ada", now=site.clock.now())
    site.recorder.sweep_gates()
    site.sweep()
    assert site.kinds() == ["still_failing"]


def test_what_was_reported_before_a_mute_is_again_at_its_end(site: Site) -> None:
    site.rules(remind_first=timedelta(hours=20))
    site.end("a", 1, RunState.FAILED)
    site.store.mutes.add("a", why="new disk", by="ada", until=at(120), now=NOON)
    site.clock.advance(timedelta(minutes=30))
    site.sweep()
    assert site.kinds() == ["failed"]
    assert site.recorder.seconds_to_reminder() == 90 * 60

    site.clock.advance(timedelta(minutes=90))
    site.sweep()
    assert site.kinds() == ["failed", "still_failing"]


def test_a_shorter_mute_in_place_of_a_longer_one_ends_at_its_own_end(site: Site) -> None:
    site.store.mutes.add("a", why="new disk", by="ada", until=at(6000), now=NOON)
    site.end("a", 1, RunState.FAILED)
    site.clock.advance(timedelta(hours=2))
    site.sweep()
    site.store.mutes.add("a", why="sooner", by="ada", until=at(150), now=site.clock.now())
    site.clock.advance(timedelta(minutes=20))
    site.sweep()
    assert site.kinds() == []

    site.clock.advance(timedelta(minutes=10))
    site.sweep()
    assert site.kinds() == ["still_failing"]


def test_the_end_of_one_mute_reports_nothing_that_another_one_silences(site: Site) -> None:
    site.store.mutes.add("a", why="new disk", by="ada", until=at(60), now=NOON)
    site.store.mutes.add("*", why="move", by="ada", until=at(90), now=NOON)
    site.end("a", 1, RunState.FAILED)
    site.clock.advance(timedelta(minutes=61))
    site.sweep()
    assert site.kinds() == []

    site.clock.advance(timedelta(minutes=30))
    site.sweep()
    assert site.kinds() == ["still_failing"]


def test_what_began_during_a_mute_is_reported_at_its_end_also_without_reminders(site: Site) -> None:
    site.rules(kinds={NoticeKind.STILL_FAILING: ()})
    site.store.mutes.add("a", why="new disk", by="ada", until=at(60), now=NOON)
    site.end("a", 1, RunState.FAILED)
    site.clock.advance(timedelta(minutes=60))
    site.sweep()
    site.clock.advance(timedelta(days=3))
    site.sweep()

    assert [(notice.kind.value, notice.channel) for notice in site.notices()] == [("still_failing", "mail")]


@pytest.mark.parametrize("remind", [None, timedelta(hours=20)])
def test_a_wait_at_a_gate_that_was_muted_is_reported_when_the_mute_ends(site: Site, remind: timedelta | None) -> None:
    site.store.mutes.add("a", why="new disk", by="ada", until=at(6000), now=NOON)
    at_gate(site, 0, remind=remind)
    site.sweep()
    site.clock.advance(timedelta(minutes=30))
    site.sweep()
    assert site.kinds() == []

    assert site.store.mutes.end("a", by="ada", now=site.clock.now())
    site.recorder.sweep_gates()
    site.sweep()
    assert site.kinds() == ["waiting"]


def test_a_mute_of_all_entries_does_not_silence_maintd_itself(site: Site) -> None:
    site.store.mutes.add("*", why="new disk", by="ada", until=at(6000), now=NOON)
    site.sweep(DISK, elapsed=0)
    site.sweep(DISK, elapsed=31)
    site.clock.advance(timedelta(hours=2))
    site.sweep(DISK, elapsed=7200)

    assert site.kinds() == ["maintd", "still_failing"]


# --- acknowledgements ---


def test_an_acknowledged_failure_is_not_reminded_of_until_the_acknowledgement_is_over(site: Site) -> None:
    failing_run(site, "a", 1)
    finding = site.store.findings.all()[0]
    site.store.findings.acknowledge(finding.key, why="known", by="ada", until=at(600), now=at(3))
    failing_run(site, "a", 4)
    site.clock.advance(timedelta(minutes=599))
    site.sweep()
    assert site.kinds() == ["failed"]

    site.clock.advance(timedelta(minutes=2))
    site.review()
    site.sweep()

    assert site.kinds() == ["failed", "still_failing"]


def test_a_failure_that_was_acknowledged_before_its_notice_is_reported_when_that_is_over(site: Site) -> None:
    site.configure(channels={})
    failing_run(site, "a", 1)
    finding = site.store.findings.all()[0]
    site.store.findings.acknowledge(finding.key, why="known", by="ada", until=at(600), now=at(3))
    site.configure(channels=CHANNELS)
    failing_run(site, "a", 4)
    assert site.kinds() == []

    site.clock.advance(timedelta(minutes=601))
    site.review()

    assert site.kinds() == ["failed"]


def acknowledge(site: Site, until: float) -> str:
    """Acknowledge the only finding, and return its key."""
    (finding,) = site.store.findings.all()
    now = site.clock.now()
    assert site.store.findings.acknowledge(finding.key, why="known", by="ada", until=at(until), now=now)
    return finding.key


def test_nothing_is_reminded_of_once_all_is_acknowledged_without_another_run(site: Site) -> None:
    failing_run(site, "a", 1)
    site.clock.advance(timedelta(minutes=5))
    acknowledge(site, 600)
    for _ in range(19):
        site.clock.advance(timedelta(minutes=30))
        site.sweep()
    assert site.kinds() == ["failed"]

    site.clock.advance(timedelta(minutes=30))  # the time is over
    site.review()
    site.sweep()
    assert site.kinds() == ["failed", "still_failing"]


def test_a_withdrawn_acknowledgement_makes_a_failure_reported_again_at_once(site: Site) -> None:
    failing_run(site, "a", 1)
    key = acknowledge(site, 6000)
    site.clock.advance(timedelta(minutes=90))
    site.sweep()
    assert site.kinds() == ["failed"]

    assert site.store.findings.withdraw(key, by="ada", now=site.clock.now())
    site.recorder.sweep_gates()
    site.review()
    site.sweep()
    assert site.kinds() == ["failed", "still_failing"]


def test_a_failure_that_was_never_reported_is_when_its_acknowledgement_is_withdrawn(site: Site) -> None:
    site.configure(channels={})
    failing_run(site, "a", 1)
    key = acknowledge(site, 6000)
    site.configure(channels=CHANNELS)
    failing_run(site, "a", 4)
    site.sweep()
    assert site.kinds() == []

    assert site.store.findings.withdraw(key, by="ada", now=site.clock.now())
    site.sweep()
    site.sweep()
    assert site.kinds() == ["failed"]


def test_a_failure_that_has_something_else_beside_what_is_acknowledged_is_reminded_of(site: Site) -> None:
    failing_run(site, "a", 1)
    acknowledge(site, 6000)
    site.end("a", 2, RunState.FAILED)  # not by a check
    site.clock.advance(timedelta(minutes=90))
    site.sweep()

    assert site.kinds() == ["failed", "still_failing"]


def test_an_acknowledgement_that_is_over_does_not_remind_of_a_gate_without_reminders(site: Site) -> None:
    failing_run(site, "a", 1)
    acknowledge(site, 60)
    at_gate(site, 2, remind=None)
    site.clock.advance(timedelta(minutes=3))
    site.sweep()
    site.clock.advance(timedelta(minutes=61))
    site.review()
    site.sweep()

    assert sorted(site.kinds()) == ["failed", "still_failing", "waiting"]


# --- gates ---


def at_gate(site: Site, minutes: float, *, step: int = 0, run_id: int | None = None, **gate: Any) -> int:
    """Return a run of `a` that waits at a gate since then."""
    columns = {"ask": "Start now?", "remind": timedelta(minutes=30)} | gate
    plan = [StepPlan(name=name, job="", gate=Gate.model_validate(columns)) for name in ("gate", "gate-2")]
    run_id = queue(site.store, "a", minutes, plan=plan) if run_id is None else run_id
    run = claim(site.store, run_id, minutes)
    waits = RunWaiting(step=step, at=at(minutes), until=at(minutes + 600), reason="waits for approval by an operator")
    assert site.store.runs.apply(run_id, run.fence, 1, [waits])
    return run_id


def decide(site: Site, run_id: int, minutes: float) -> None:
    decision = GateDecision(step=0, kind=DecisionKind.APPROVED, by="ada", at=at(minutes))
    assert site.store.write(lambda conn: end_wait(conn, run_id, decision, StepState.SUCCEEDED, "approved by ada"))


def test_a_run_that_waits_is_reported_once_with_reminders_until_it_is_decided(site: Site) -> None:
    run_id = at_gate(site, 0)
    site.sweep()
    site.sweep()
    (notice,) = site.notices()
    assert (notice.kind, notice.details["next_step"]) == (NoticeKind.WAITING, "maintd gates")
    assert notice.title == "a waits for an operator" and "without a decision it ends" in notice.body

    site.clock.advance(timedelta(minutes=29))
    site.sweep()
    assert len(site.notices()) == 1
    site.clock.advance(timedelta(minutes=2))
    site.sweep()
    site.sweep()
    assert site.kinds() == ["waiting", "waiting"]
    assert site.notices()[1].title == "a still waits after 31m for an operator"

    decide(site, run_id, 31)
    site.clock.advance(timedelta(minutes=5))
    site.sweep()
    assert site.kinds() == ["waiting", "waiting"]
    assert site.store.notices.open_incidents() == []


def test_each_gate_of_a_run_is_reported(site: Site) -> None:
    run_id = at_gate(site, 0, remind=None)
    site.sweep()
    decide(site, run_id, 1)
    site.clock.advance(timedelta(minutes=2))
    at_gate(site, 2, step=1, run_id=run_id, remind=None)
    site.clock.advance(timedelta(days=1))
    site.sweep()
    site.sweep()
    assert site.kinds() == ["waiting", "waiting"]
    assert len(site.store.notices.open_incidents()) == 1


def test_the_end_of_another_run_does_not_end_what_is_known_about_a_wait(site: Site) -> None:
    at_gate(site, 0)
    site.sweep()
    plan_runs(site.store, "a", 0, 1, due("a", 1, RunState.SKIPPED, skip_reason=SkipReason.OVERLAP))
    site.review()
    site.sweep()
    assert site.kinds() == ["waiting"]
    assert [one.kind for one in site.store.notices.open_incidents()] == [NoticeKind.WAITING]


# --- reminders ---


def test_reminders_come_at_growing_intervals_until_it_is_over(site: Site) -> None:
    site.end("a", 1, RunState.FAILED)
    for _ in range(24 * 4):
        site.clock.advance(timedelta(minutes=15))
        site.sweep()

    reminders = [notice for notice in site.notices() if notice.kind is NoticeKind.STILL_FAILING]
    hours = [round((notice.created_at - NOON) / timedelta(hours=1)) for notice in reminders]
    assert hours == [1, 3, 7, 15]  # 1, 2, 4 and 8 hours apart

    site.end("a", 99, RunState.SUCCEEDED)
    site.clock.advance(timedelta(days=3))
    site.sweep()
    assert site.kinds()[-1] == "recovered"


def test_a_paused_entry_is_not_reminded_of(site: Site) -> None:
    site.end("a", 1, RunState.FAILED)
    site.store.entries.pause("a", why="known", by="ada", until=None, now=NOON)
    site.clock.advance(timedelta(hours=5))
    site.sweep()

    assert site.kinds() == ["failed"]


def test_an_incident_of_an_entry_that_was_removed_is_closed(site: Site) -> None:
    site.end("a", 1, RunState.FAILED)
    site.names = {"b"}
    site.sweep()
    assert site.opened() == [("a", "failed")]  # another node may have it in its calendar

    sync(site.store, entry("b"))
    site.sweep()
    assert site.opened() == []
    assert site.kinds() == ["failed"]


# --- late and too long ---


def test_a_run_that_does_not_start_is_late_once_and_then_started(site: Site) -> None:
    run_id = queue(site.store, "a")
    site.clock.advance(timedelta(minutes=9))
    site.sweep()
    assert site.kinds() == []

    site.clock.advance(timedelta(minutes=2))
    site.sweep()
    site.sweep()
    assert site.kinds() == ["late"]
    assert site.notices()[0].title == "a is late by 11m"

    claim(site.store, run_id, minutes=12)
    site.clock.advance(timedelta(minutes=1))
    site.sweep()
    assert site.kinds() == ["late", "recovered"]
    assert site.opened() == []


def test_a_grace_of_an_entry_counts_for_it(site: Site) -> None:
    site.configure(entries={"b": NoticeRules(to=("mail",), late=timedelta(minutes=1))})
    queue(site.store, "a")
    queue(site.store, "b")
    site.clock.advance(timedelta(minutes=2))
    site.sweep()

    assert [notice.details["entry"] for notice in site.notices()] == ["b"]


def test_a_run_that_takes_too_long_is_reported_while_it_runs(site: Site) -> None:
    site.rules(too_long=timedelta(minutes=30), too_long_factor=None)
    run = claim(site.store, queue(site.store, "a"), lease=600)
    site.clock.advance(timedelta(minutes=31))
    site.sweep()
    site.sweep()
    assert site.kinds() == ["too_long"]
    assert "expected at most 30m" in site.notices()[0].body

    assert site.store.runs.apply(run.id, run.fence, 1, [ended(RunState.SUCCEEDED, 40)])
    site.review()
    assert site.kinds() == ["too_long", "recovered"]


def test_the_time_at_gates_does_not_count_as_too_long(site: Site) -> None:
    site.rules(too_long=timedelta(minutes=30), too_long_factor=None, to=("mail",))
    run_id = at_gate(site, 10, remind=None)
    decide(site, run_id, 300)
    run = claim(site.store, run_id, 301, lease=600)
    site.clock.advance(timedelta(minutes=329))  # 29 since its first claim, without the 290 at the gate
    site.sweep()
    assert "too_long" not in site.kinds()
    site.clock.advance(timedelta(minutes=2))
    site.sweep()
    assert site.kinds()[-1] == "too_long"
    body = site.notices()[-1].body
    assert "running for 31m beside 4h50m at gates, expected at most 30m" in body, body

    assert site.store.runs.apply(run_id, run.fence, 1, [ended(RunState.SUCCEEDED, 340)])
    last = site.store.history.last_per_entry(["a"])["a"]
    assert last.last_success is not None
    assert last.last_success.waited == timedelta(minutes=290)
    assert last.last_success.duration == last.typical_duration == timedelta(minutes=40)
    assert "took 40m, and 4h50m at gates" in runs_text([last.last_success], now=at(340))


# --- maintd itself ---


def test_a_problem_of_maintd_that_lasts_is_reported_and_so_is_its_end(site: Site) -> None:
    site.sweep(DISK, elapsed=0)
    site.sweep(elapsed=15)  # it comes and goes
    site.sweep(DISK, elapsed=30)
    assert site.kinds() == []

    site.sweep(DISK, elapsed=61)
    assert site.kinds() == ["maintd"]
    assert site.notices()[0].critical
    assert site.notices()[0].title == "node n1: the disk is full: 3 MiB free"

    site.sweep(elapsed=70)
    site.sweep(DISK, elapsed=80)
    site.sweep(elapsed=90)
    site.sweep(elapsed=121)
    assert site.kinds() == ["maintd", "recovered"]


def test_several_problems_of_a_node_are_several_incidents(site: Site) -> None:
    loop = OwnProblem(NoticeKind.MAINTD, "loop", "the loop is blocked")
    site.sweep(DISK, loop, elapsed=0)
    site.sweep(DISK, loop, elapsed=31)

    assert site.opened() == [("maintd@n1:disk", "maintd"), ("maintd@n1:loop", "maintd")]


# --- quiet hours and digest ---


def daily(time: str) -> Rule:
    return Rule(kind=ScheduleKind.PHRASE, text=f"every day at {time}", timezone="UTC")


def test_quiet_hours_delay_what_is_not_critical(site: Site) -> None:
    site.configure(
        quiet=QuietHours(start=daily("11:00"), end=daily("14:00")),
        entries={"b": NoticeRules(to=("mail",), critical=True)},
    )
    site.end("a", 1, RunState.FAILED)
    site.end("b", 1, RunState.FAILED)

    times = {notice.details["entry"]: notice.not_before for notice in site.notices()}
    assert times == {"a": at(120), "b": NOON + timedelta(seconds=3)}


def test_a_calendar_that_is_refused_does_not_wait_and_its_end_is_that_it_is_accepted(site: Site) -> None:
    site.configure(quiet=QuietHours(start=daily("11:00"), end=daily("20:00")))
    refused = OwnProblem(NoticeKind.CALENDAR_REFUSED, "calendar", "line 3: unknown job")
    site.sweep(refused, elapsed=0)
    site.sweep(refused, elapsed=31)
    site.clock.advance(timedelta(hours=1))
    site.sweep(refused, elapsed=3631)
    site.sweep(elapsed=3640)
    site.sweep(elapsed=3671)

    assert [(notice.title, notice.critical) for notice in site.notices()] == [
        ("the calendar was refused", True),
        ("the calendar is still refused on node n1 after 1h", True),
        ("the calendar was accepted again after 1h", True),
    ]
    assert site.notices()[0].not_before == NOON + timedelta(seconds=3)
    assert site.notices()[2].body.startswith("The calendar was accepted again on node n1 at Mon 2026-03-02 13:00 UTC")


def test_the_digest_counts_a_day_and_is_sent_once(site: Site, open_another: Callable[[], Store]) -> None:
    for minutes, state in enumerate([RunState.SUCCEEDED] * 3 + [RunState.WARNED, RunState.FAILED, RunState.UNKNOWN]):
        site.end("a", minutes, state)
    plan_runs(site.store, "b", 0, 5, due("b", 5, RunState.SKIPPED, skip_reason=SkipReason.MISSED))
    site.configure(digest=Digest(rule=daily("13:00"), to=("mail", "pager")))
    site.sweep()
    assert NoticeKind.DIGEST not in [notice.kind for notice in site.notices()]

    site.clock.advance(timedelta(minutes=61))
    site.sweep()
    site.sweep()

    digests = [notice for notice in site.notices() if notice.kind is NoticeKind.DIGEST]
    assert [notice.channel for notice in digests] == ["mail", "pager"]
    assert digests[0].title == "6 ran, 3 ok, 1 warned, 1 unknown, 1 failed, 0 late, 1 missed"
    assert "Findings: 0 new, 0 old, 0 gone." in digests[0].body
    assert "a, failed since" in digests[0].body


def test_a_digest_that_is_long_past_is_left_out(site: Site) -> None:
    site.configure(digest=Digest(rule=daily("13:00"), to=("mail",)))
    site.clock.advance(timedelta(hours=8))
    site.sweep()

    assert site.notices() == []
