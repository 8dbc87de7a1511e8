"""Due times on days with a clock change; due times increase strictly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from maintd.model.entry import Rule, ScheduleKind
from maintd.schedule import MAX_DUE, compile_rule, due_between, jitter_of, upcoming

BERLIN = "Europe/Berlin"  # 2026: 02:00 → 03:00 on 29 March at 01:00Z; 03:00 → 02:00 on 25 October at 01:00Z
LORD_HOWE = "Australia/Lord_Howe"  # 2026: 02:00 → 02:30 on 4 October at 15:30Z the day before; back on 5 April
DAY = timedelta(days=1)


def due(kind: str, text: str, day: str, zone: str = BERLIN) -> list[str]:
    """Wall times with their offset that are due on a local day."""
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
    schedule = compile_rule(Rule(kind=ScheduleKind(kind), text=text, timezone=zone))
    just_before = start.astimezone(UTC) - timedelta(microseconds=1)
    times = upcoming(schedule, just_before, (start + DAY).astimezone(UTC) - timedelta(microseconds=1))
    return [f"{at.astimezone(ZoneInfo(zone)):%H:%M%z}" for at in times]


@pytest.mark.parametrize(
    ("kind", "text"), [("cron", "30 2 * * *"), ("phrase", "every day at 02:30"), ("phrase", "every sunday at 02:30")]
)
def test_a_fixed_time_in_the_gap_falls_at_the_first_instant_after_it(kind: str, text: str) -> None:
    assert due(kind, text, "2026-03-29") == ["03:00+0200"]


@pytest.mark.parametrize(
    ("kind", "text"), [("cron", "30 2 * * *"), ("phrase", "every day at 02:30"), ("oncalendar", "02:30")]
)
def test_a_fixed_time_in_the_fold_counts_once_at_its_first_occurrence(kind: str, text: str) -> None:
    assert due(kind, text, "2026-10-25") == ["02:30+0200"]


def test_two_fixed_times_in_one_gap_are_one_due_time() -> None:
    assert due("phrase", "every day at 02:10, 02:50, 03:00", "2026-03-29") == ["03:00+0200"]


def test_a_repeating_schedule_continues_in_the_fold_and_has_no_due_time_in_the_gap() -> None:
    assert due("cron", "*/30 1-3 * * *", "2026-10-25") == [
        "01:00+0200",
        "01:30+0200",
        "02:00+0200",
        "02:30+0200",
        "02:00+0100",
        "02:30+0100",
        "03:00+0100",
        "03:30+0100",
    ]
    assert due("cron", "*/30 1-3 * * *", "2026-03-29") == ["01:00+0100", "01:30+0100", "03:00+0200", "03:30+0200"]
    assert len(due("phrase", "every hour at :20", "2026-10-25")) == 25
    assert len(due("phrase", "every hour at :20", "2026-03-29")) == 23


def test_an_oncalendar_time_in_the_gap_is_not_due_as_in_systemd() -> None:
    assert due("oncalendar", "02:30", "2026-03-29") == []


def test_a_gap_of_half_an_hour_ends_at_half_past() -> None:
    assert due("phrase", "every day at 02:10", "2026-10-04", LORD_HOWE) == ["02:30+1100"]


def test_a_time_on_a_skipped_day_is_due_at_the_next_midnight() -> None:
    # Samoa went from 29 to 31 December 2011; the 30th did not occur.
    zone = ZoneInfo("Pacific/Apia")
    schedule = compile_rule(Rule(kind=ScheduleKind.CRON, text="0 8 * * *", timezone=zone.key))

    times = islice(schedule.instants(datetime(2011, 12, 29, 12, tzinfo=zone).astimezone(UTC)), 2)

    assert [f"{at.astimezone(zone):%d %H:%M}" for at in times] == ["31 00:00", "31 08:00"]


def test_a_start_within_a_repeated_hour_repeats_no_due_time() -> None:
    schedule = compile_rule(Rule(kind=ScheduleKind.CRON, text="45 2 * * *", timezone=BERLIN))
    second_0210 = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)

    assert schedule.next_after(second_0210) == datetime(2026, 10, 26, 1, 45, tzinfo=UTC)


def test_a_single_date_and_time_is_treated_as_a_fixed_time() -> None:
    assert due("at", "2026-03-29T02:30", "2026-03-29") == ["03:00+0200"]
    assert due("at", "2026-10-25T02:30", "2026-10-25") == ["02:30+0200"]
    assert due("at", "2026-10-25T02:30+01:00", "2026-10-25") == ["02:30+0100"]


def test_zero_and_seven_are_sunday() -> None:
    for text in ("0 2 * * 0", "0 2 * * 7", "0 2 * * SUN"):
        at = compile_rule(Rule(kind=ScheduleKind.CRON, text=text, timezone="UTC")).next_after(
            datetime(2026, 3, 2, tzinfo=UTC)
        )
        assert at == datetime(2026, 3, 8, 2, 0, tzinfo=UTC)  # a Sunday


def test_day_of_month_and_day_of_week_are_ored() -> None:
    schedule = compile_rule(Rule(kind=ScheduleKind.CRON, text="0 1 13 * 5", timezone="UTC"))

    times = islice(schedule.instants(datetime(2026, 3, 1, tzinfo=UTC)), 4)

    assert [at.day for at in times] == [6, 13, 20, 27]  # Fridays; the 13th is one of them


def test_an_interval_counts_from_1970_in_every_time_zone() -> None:
    schedule = compile_rule(Rule(kind=ScheduleKind.EVERY, text="7h", timezone=BERLIN))

    at = schedule.next_after(datetime(2026, 3, 2, tzinfo=UTC))

    assert at is not None
    assert (at - datetime(1970, 1, 1, tzinfo=UTC)) % timedelta(hours=7) == timedelta(0)


@pytest.mark.parametrize(("kind", "text", "seconds"), [("cron", "* * * * *", 60), ("every", "7s", 7)])
def test_the_latest_due_times_are_kept_and_the_others_counted(kind: str, text: str, seconds: int) -> None:
    schedule = compile_rule(Rule(kind=ScheduleKind(kind), text=text, timezone="UTC"))
    until = datetime.fromtimestamp(seconds * 30_000_000, UTC)  # itself a due time, for both rules

    found = due_between(schedule, until - timedelta(seconds=seconds * 20_000), until)

    assert len(found.times) == MAX_DUE
    assert found.times[-1] == until
    assert found.left_out == 20_000 - MAX_DUE


def test_a_span_excludes_its_start_and_includes_its_end() -> None:
    schedule = compile_rule(Rule(kind=ScheduleKind.CRON, text="0 * * * *", timezone="UTC"))
    noon = datetime(2026, 3, 2, 12, tzinfo=UTC)

    assert due_between(schedule, noon, noon + timedelta(hours=1)).times == [noon + timedelta(hours=1)]


def test_jitter_is_the_same_for_the_same_entry_and_due_time_and_spreads_the_others() -> None:
    noon, most = datetime(2026, 3, 2, 12, tzinfo=UTC), timedelta(minutes=10)

    waits = {jitter_of(f"entry-{number}", noon, most) for number in range(100)}

    assert jitter_of("tidy", noon, most) == jitter_of("tidy", noon.astimezone(ZoneInfo(BERLIN)), most)
    assert all(timedelta(0) <= wait <= most for wait in waits)
    assert max(waits) - min(waits) > most / 2
    assert jitter_of("tidy", noon, timedelta(0)) == timedelta(0)
