"""Regression tests for what the fuzzers found. The inputs are kept in tests/fuzz/corpus."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.calendars import problems

from maintd.config.file import read_config
from maintd.errors import SettingsError
from maintd.model.entry import Rule, ScheduleKind
from maintd.schedule import compile_rule
from maintd.units import format_duration, parse_duration, parse_size
from tests.support.effort import calls_of


@pytest.mark.parametrize(
    ("policy", "what"),
    [
        ("timeout: 999999999d", "timeout"),
        ("catch_up_window: 99999999999s", "catch_up_window"),
        ("jitter: 999999d", "jitter"),
        ("blackout: [{cron: 0 0 * * *, lasting: 999999d}]", "lasting"),
    ],
)
def test_a_duration_longer_than_100_years_is_refused(policy: str, what: str) -> None:
    (problem,) = problems(f"entries:\n  a:\n    job: look\n    every: 1h\n    {policy}\n")

    assert problem.startswith("schedules.yaml:6:")
    assert f"{what}: " in problem
    assert problem.endswith("is longer than 100 years")


@pytest.mark.parametrize("text", ["9999-12-31T23:59-23:59", "0001-01-01T00:00+23:59", "2200-01-01T00:00"])
def test_a_time_without_an_equivalent_in_utc_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is outside of the years 1970 to 2199"):
        compile_rule(Rule(kind=ScheduleKind.AT, text=text, timezone="Asia/Tokyo"))


def test_a_digit_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="for example"):
        compile_rule(Rule(kind=ScheduleKind.PHRASE, text="every ² minutes", timezone="UTC"))


@pytest.mark.parametrize("zone", ["localtime", "Factory", "x" * 300, "Europe/" + "é" * 200])
def test_an_oncalendar_expression_with_the_hosts_zone_or_none_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match=r"see systemd\.time"):
        compile_rule(Rule(kind=ScheduleKind.ONCALENDAR, text=f"Sat 01:00 {zone}", timezone="UTC"))


def test_the_next_due_time_of_an_entry_due_every_second_is_cheap_on_a_day_with_a_clock_change() -> None:
    schedule = compile_rule(Rule(kind=ScheduleKind.ONCALENDAR, text="*:*:*", timezone="Europe/Berlin"))
    at = datetime(2026, 3, 29, 12, tzinfo=UTC)
    schedule.next_after(at)  # the first look works out the day

    def take_100() -> None:
        nonlocal at
        for _ in range(100):
            following = schedule.next_after(at)
            assert following == at + timedelta(seconds=1)
            at = following

    assert calls_of(take_100) < 20_000  # a call that computed the day again made hundreds of thousands


@pytest.mark.parametrize("text", ["991999s900070915d", "1.001s", "0.5ms", "7d1h1m1s1ms"])
def test_a_formatted_duration_differs_by_at_most_half_a_millisecond(text: str) -> None:
    duration = parse_duration(text)

    assert abs(parse_duration(format_duration(duration)) - duration) <= timedelta(microseconds=500)


@pytest.mark.parametrize("text", ["9" * 400 + "TB", "9" * 30, "9000000TiB"])
def test_a_size_that_does_not_fit_into_a_database_column_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="too large for a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: " + "[" * 3000, ":1:33: nested more than 30 levels deep"),
        ("a: !!int x", ':1:4: the tag "tag:yaml.org,2002:int" is not supported'),
        ("b: 1\na: !!bool ''", ':2:4: the tag "tag:yaml.org,2002:bool" is not supported'),
        ("a: !!timestamp x", ':1:4: the tag "tag:yaml.org,2002:timestamp" is not supported'),
        ("a: \0", ":1:4: the character 0 is not allowed in YAML"),
    ],
)
def test_a_settings_file_that_is_not_plain_yaml_is_refused_with_line_and_column(
    tmp_path: Path, text: str, expected: str
) -> None:
    path = tmp_path / "maintd.yaml"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(SettingsError) as error:
        read_config(path)
    assert expected in str(error.value)


@pytest.mark.parametrize("text", ["2026-13-45", "2026-01-01 00:00:00 +99:99", "0755", "12:30:45", "yes"])
def test_what_only_yaml_1_1_converts_is_text_in_a_settings_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "maintd.yaml"
    path.write_text(f"a: {text}\n", encoding="utf-8")

    assert read_config(path).values == {"a": text}
