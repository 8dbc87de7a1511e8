"""What the fuzzers found, each with the answer that it gets now. The inputs are kept in tests/fuzz/corpus."""

from __future__ import annotations

import fcntl
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.calendars import problems

from maintd.config.file import read_config
from maintd.config.state_directory import LOCK, daemon_pid
from maintd.errors import SettingsError
from maintd.model.entry import Rule, ScheduleKind
from maintd.schedule import compile_rule
from maintd.units import format_duration, parse_duration, parse_size


@pytest.mark.parametrize(
    ("policy", "what"),
    [
        ("timeout: 999999999d", "timeout"),
        ("catch_up_window: 99999999999s", "catch_up_window"),
        ("jitter: 999999d", "jitter"),
        ("blackout: [{cron: 0 0 * * *, lasting: 999999d}]", "lasting"),
    ],
)
def test_a_duration_that_no_date_can_bear_is_refused(policy: str, what: str) -> None:
    (told,) = problems(f"entries:\n  a:\n    job: look\n    every: 1h\n    {policy}\n")

    assert told.startswith("schedules.yaml:6:")
    assert f"{what}: " in told
    assert told.endswith("is longer than a century")


@pytest.mark.parametrize("text", ["9999-12-31T23:59-23:59", "0001-01-01T00:00+23:59", "2200-01-01T00:00"])
def test_a_time_that_cannot_be_told_in_utc_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not in the years 1970 to 2199"):
        compile_rule(Rule(kind=ScheduleKind.AT, text=text, timezone="Asia/Tokyo"))


def test_a_digit_that_is_no_number_is_answered_in_words() -> None:
    with pytest.raises(ValueError, match="write for example"):
        compile_rule(Rule(kind=ScheduleKind.PHRASE, text="every ² minutes", timezone="UTC"))


@pytest.mark.parametrize("zone", ["localtime", "Factory", "x" * 300, "Europe/" + "é" * 200])
def test_an_oncalendar_expression_with_the_hosts_zone_or_none_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match=r"see systemd\.time"):
        compile_rule(Rule(kind=ScheduleKind.ONCALENDAR, text=f"Sat 01:00 {zone}", timezone="UTC"))


def test_a_rule_of_every_second_is_asked_for_its_next_time_cheaply_on_a_day_when_clocks_change() -> None:
    schedule = compile_rule(Rule(kind=ScheduleKind.ONCALENDAR, text="*:*:*", timezone="Europe/Berlin"))
    at = datetime(2026, 3, 29, 12, tzinfo=UTC)
    schedule.next_after(at)  # the first look works out the day

    began = time.process_time()
    for _ in range(100):
        following = schedule.next_after(at)
        assert following == at + timedelta(seconds=1)
        at = following
    took = time.process_time() - began

    assert took < 1.0  # it took 50 s when each look worked out the day again


@pytest.mark.parametrize("text", ["991999s900070915d", "1.001s", "0.5ms", "7d1h1m1s1ms"])
def test_a_duration_that_is_written_again_is_the_same_to_half_a_millisecond(text: str) -> None:
    duration = parse_duration(text)

    assert abs(parse_duration(format_duration(duration)) - duration) <= timedelta(microseconds=500)


@pytest.mark.parametrize("text", ["9" * 400 + "TB", "9" * 30, "9000000TiB"])
def test_a_size_that_no_database_holds_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="too large for a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: " + "[" * 3000, ":1: more than 20 levels deep"),
        ("b: 1\na: 2026-13-45", ":2:4: not a value of the type timestamp"),
        ("a: " + "9" * 5000, ":1:4: not a value of the type int"),
        ("a: !!int x", ":1:4: not a value of the type int"),
        ("a: !!int ''", ":1:4: not a value of the type int"),
        ("a: !!bool x", ":1:4: not a value of the type bool"),
        ("a: !!timestamp x", ":1:4: not a value of the type timestamp"),
        ("a: 2026-01-01 00:00:00 +99:99", ":1:4: not a value of the type timestamp"),
        ("a: \0", "special characters are not allowed"),
    ],
)
def test_settings_that_yaml_itself_stumbles_on_are_refused_with_their_place(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "maintd.yaml"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(SettingsError) as error:
        read_config(path)
    assert told in str(error.value)


@pytest.mark.parametrize("disconnected", ["²", "-1", "x\0", "", "9" * 5000])
def test_a_pid_that_somebody_overwrote_is_unknown_or_a_number(tmp_path: Path, left: str) -> None:
    (tmp_path / LOCK).write_text(left, encoding="utf-8")
    held = os.open(tmp_path / LOCK, os.O_RDWR)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert daemon_pid(tmp_path) in (None, int("9" * 32))
    finally:
        os.close(held)
