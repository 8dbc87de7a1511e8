"""Which incidents open and close, who is notified, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.stores import NOON, at

from maintd.model.entry import Rule, ScheduleKind
from maintd.model.notice import Incident, Mute, NoticeKind, NoticeRules, NotifyConfig, QuietHours
from maintd.model.run import RunState, RunSummary, SkipReason, Trigger
from maintd.notify.selection import (
    EndDecision,
    decide_end,
    is_late,
    longest,
    muting,
    next_reminder,
    recovery_channels,
    reminder_channels,
    send_at,
)

FAILED, UNKNOWN, LATE, MISSED, TOO_LONG = (
    NoticeKind.FAILED,
    NoticeKind.UNKNOWN,
    NoticeKind.LATE,
    NoticeKind.MISSED,
    NoticeKind.TOO_LONG,
)
MAIL = NoticeRules(to=("mail",))


def run(number: int, state: RunState, *, skip: SkipReason | None = None, dry: bool = False) -> RunSummary:
    return RunSummary(
        id=number,
        entry="a",
        title="A",
        trigger=Trigger.SCHEDULE,
        state=state,
        skip_reason=skip,
        queued_at=NOON,
        not_before=NOON,
        dry_run=dry,
    )


def incident(kind: NoticeKind, number: int = 1, last: int | None = None) -> Incident:
    return Incident(
        id=int(number * 100 + list(NoticeKind).index(kind)),
        subject="a",
        kind=kind,
        opened_at=NOON,
        run_id=number,
        last_run_id=last or number,
        why="",
    )


def outcome(decision: EndDecision) -> tuple[NoticeKind | None, list[NoticeKind], list[NoticeKind]]:
    return (
        decision.opens,
        [found.kind for found in decision.recovered],
        [found.kind for found in decision.superseded],
    )


@pytest.mark.parametrize(
    ("state", "skip", "opened", "expected"),
    [
        (RunState.FAILED, None, [], (FAILED, [], [])),
        (RunState.TIMED_OUT, None, [], (FAILED, [], [])),
        (RunState.LOST, None, [], (FAILED, [], [])),
        (RunState.UNKNOWN, None, [], (UNKNOWN, [], [])),
        (RunState.SUCCEEDED, None, [], (None, [], [])),
        (RunState.WARNED, None, [], (None, [], [])),
        (RunState.SUCCEEDED, None, [FAILED, TOO_LONG], (None, [FAILED, TOO_LONG], [])),
        (RunState.WARNED, None, [UNKNOWN], (None, [UNKNOWN], [])),
        (RunState.FAILED, None, [FAILED], (FAILED, [], [])),
        (RunState.FAILED, None, [UNKNOWN, MISSED, LATE], (FAILED, [], [UNKNOWN, MISSED, LATE])),
        (RunState.UNKNOWN, None, [FAILED], (FAILED, [], [])),
        (RunState.UNKNOWN, None, [MISSED], (UNKNOWN, [], [MISSED])),
        (RunState.CANCELLED, None, [FAILED, LATE, TOO_LONG], (None, [], [LATE, TOO_LONG])),
        (RunState.SKIPPED, SkipReason.MISSED, [], (MISSED, [], [])),
        (RunState.SKIPPED, SkipReason.MISFIRE, [LATE], (MISSED, [], [LATE])),
        (RunState.SKIPPED, SkipReason.DEPENDENCY, [FAILED], (MISSED, [], [])),
        (RunState.SKIPPED, SkipReason.PAUSED, [FAILED], (None, [], [])),
        (RunState.SKIPPED, SkipReason.COALESCED, [], (None, [], [])),
        (RunState.SKIPPED, SkipReason.OVERLAP, [], (None, [], [])),
    ],
)
def test_the_end_of_a_run_opens_and_closes(
    state: RunState,
    skip: SkipReason | None,
    opened: list[NoticeKind],
    expected: tuple[NoticeKind | None, list[NoticeKind], list[NoticeKind]],
) -> None:
    assert outcome(decide_end(run(5, state, skip=skip), [incident(kind) for kind in opened])) == expected


def test_a_dry_run_changes_nothing() -> None:
    assert decide_end(run(5, RunState.FAILED, dry=True), [incident(LATE)]) == EndDecision()


def test_evidence_that_comes_after_a_later_run_changes_nothing_but_what_the_run_itself_is() -> None:
    opened = [incident(FAILED, 2, last=7)]

    assert outcome(decide_end(run(5, RunState.SUCCEEDED), opened)) == (None, [], [])


def test_a_run_that_was_lost_and_then_succeeded_recovers() -> None:
    opened = [incident(FAILED, 5)]

    assert outcome(decide_end(run(5, RunState.SUCCEEDED), opened)) == (None, [FAILED], [])


def test_an_acknowledged_failure_opens_nothing_but_does_not_close_what_is_open() -> None:
    failed = run(5, RunState.FAILED)

    assert outcome(decide_end(failed, [], acknowledged=True)) == (None, [], [])
    assert outcome(decide_end(failed, [incident(FAILED)], acknowledged=True)) == (FAILED, [], [])


ends = st.tuples(st.sampled_from([state for state in RunState if state.final]), st.sampled_from(list(SkipReason)))


@given(st.lists(ends, max_size=20))
def test_after_a_success_nothing_is_open_and_a_failure_is_always_open(
    given_ends: list[tuple[RunState, SkipReason]],
) -> None:
    opened: dict[NoticeKind, Incident] = {}
    sent: list[NoticeKind] = []
    for number, (state, skip) in enumerate(given_ends, 1):
        decision = decide_end(run(number, state, skip=skip if state is RunState.SKIPPED else None), [*opened.values()])
        for closed in (*decision.recovered, *decision.superseded):
            del opened[closed.kind]
        if decision.opens is not None and decision.opens not in opened:
            opened[decision.opens] = incident(decision.opens, number)
            sent.append(decision.opens)

        if state in (RunState.SUCCEEDED, RunState.WARNED):
            assert not opened
        if state in (RunState.FAILED, RunState.TIMED_OUT, RunState.LOST):
            assert FAILED in opened  # none is lost
        if state is RunState.UNKNOWN:
            assert {FAILED, UNKNOWN} & opened.keys()
        assert not {FAILED, UNKNOWN} <= opened.keys()  # and none is sent twice


def test_a_run_is_late_after_its_grace() -> None:
    queued = run(1, RunState.QUEUED)

    assert not is_late(queued, MAIL, at(10))
    assert is_late(queued, MAIL, at(10.1))
    assert not is_late(queued, MAIL.model_copy(update={"kinds": {LATE: ()}}), at(60))


@pytest.mark.parametrize(
    ("rules", "typical", "limit"),
    [
        ({}, None, None),  # nothing is known yet
        ({}, timedelta(minutes=10), timedelta(minutes=30)),
        ({}, timedelta(seconds=1), timedelta(minutes=5, seconds=1)),
        ({"too_long": timedelta(hours=2), "too_long_factor": None}, timedelta(minutes=10), timedelta(hours=2)),
        ({"kinds": {TOO_LONG: ()}}, timedelta(minutes=10), None),
    ],
)
def test_how_long_a_run_may_take(rules: dict[str, object], typical: timedelta | None, limit: timedelta | None) -> None:
    assert longest(MAIL.model_copy(update=rules), typical) == limit


def test_the_interval_of_reminders_doubles_up_to_a_limit() -> None:
    found = [next_reminder(MAIL, number, NOON) for number in (0, 1, 2, 3, 4, 5, 60)]

    hours = [1, 2, 4, 8, 16, 24, 24]
    assert found == [NOON + timedelta(hours=number) for number in hours]
    assert next_reminder(MAIL.model_copy(update={"kinds": {NoticeKind.STILL_FAILING: ()}}), 0, NOON) is None


def mute(entries: str, minutes: float) -> Mute:
    return Mute(id=1, entries=entries, why="", by="", since=NOON, until=at(minutes))


def test_the_mute_that_lasts_longest_counts() -> None:
    mutes = [mute("backup-*", 5), mute("*", 3), mute("backup-db", 9), mute("other", 99)]

    found = muting(mutes, "backup-db")

    assert found is not None
    assert found.until == at(9)
    assert muting(mutes[:1], "health") is None


def daily(time: str, zone: str) -> Rule:
    return Rule(kind=ScheduleKind.PHRASE, text=f"every day at {time}", timezone=zone)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2026-03-02 20:59:59", "2026-03-02 21:00:02"),  # 21:59:59 in Berlin
        ("2026-03-02 21:00:00", "2026-03-03 06:00:00"),
        ("2026-03-03 05:59:59", "2026-03-03 06:00:00"),
        ("2026-03-03 06:00:00", "2026-03-03 06:00:03"),
        ("2026-03-28 22:00:00", "2026-03-29 05:00:00"),  # in the night in which summer time begins
    ],
)
def test_quiet_hours_delay_a_notice_to_their_end(now: str, expected: str) -> None:
    quiet = QuietHours(start=daily("22:00", "Europe/Berlin"), end=daily("07:00", "Europe/Berlin"))

    assert send_at(quiet, critical=False, now=utc(now)) == utc(expected)
    assert send_at(quiet, critical=True, now=utc(now)) == utc(now) + timedelta(seconds=3)


def test_channels_with_a_notice_of_an_incident_get_its_end() -> None:
    channels = dict.fromkeys(["mail", "pager"])
    config = NotifyConfig.model_construct(channels=channels, rules=MAIL, entries={})  # type: ignore[arg-type]
    off = NotifyConfig.model_construct(
        channels=channels,  # type: ignore[arg-type]
        rules=MAIL.model_copy(update={"kinds": {NoticeKind.RECOVERED: (), NoticeKind.STILL_FAILING: ("pager",)}}),
        entries={},
    )

    assert recovery_channels(config, incident(FAILED), {"pager", "gone"}) == ("pager",)
    assert recovery_channels(config, incident(FAILED), set()) == ()  # it was muted when it began
    assert recovery_channels(off, incident(FAILED), {"pager"}) == ()
    assert reminder_channels(config, incident(FAILED)) == ("mail",)
    assert reminder_channels(off, incident(FAILED)) == ("pager",)
