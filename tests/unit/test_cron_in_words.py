"""A cron rule is described by what it does: each description is checked against the minutes that are due."""

from __future__ import annotations

import re

import pytest
from support.calendars import jobs

from maintd.calendar import parse_calendar
from maintd.errors import CalendarError
from maintd.model.entry import Rule, ScheduleKind
from maintd.schedule import describe
from maintd.schedule.cron import read_cron


def words(text: str, kind: ScheduleKind = ScheduleKind.CRON) -> str:
    return describe(Rule(kind=kind, text=text, timezone="UTC")).removesuffix(" (UTC)")


@pytest.mark.parametrize("step", range(2, 60))
def test_a_step_of_minutes_is_an_interval_only_if_it_divides_the_hour(step: int) -> None:
    text = words(f"*/{step} * * * *")

    if text.startswith("every hour at"):
        assert {int(minute) for minute in re.findall(r":(\d\d)", text)} == read_cron(f"*/{step} * * * *").minutes
    else:
        assert text == f"every {step} minutes"
    assert text.startswith("every hour at") == (60 % step != 0 or step == 60)


@pytest.mark.parametrize(
    ("cron", "text"),
    [
        ("*/45 * * * *", "every hour at :00 and :45"),
        ("*/45 9-17 * * *", "at minute 0 and 45 of hour 9 to 17, every day"),
        ("0 */5 * * *", "every day at 00:00, 05:00, 10:00, 15:00 and 20:00"),
        ("*/7 */5 * * 1", "at minute 0, 7, 14, 21, 28, 35, 42, 49 and 56 of hour 0, 5, 10, 15 and 20, on Monday"),
        ("5/25 * * * *", "every hour at :05, :30 and :55"),
        ("*/15 * * * *", "every 15 minutes"),
    ],
)
def test_uneven_steps_are_described_by_their_times(cron: str, text: str) -> None:
    assert words(cron) == text


@pytest.mark.parametrize("oncalendar", ["*-*-* 00/5:00/7", "Mon *-*-* *:00/45:00/25"])
def test_oncalendar_steps_are_no_intervals_either(oncalendar: str) -> None:
    text = words(oncalendar, ScheduleKind.ONCALENDAR)

    assert not re.search(r"every (5|7|25|45) (hours|minutes|seconds)", text)


@pytest.mark.parametrize("step", [7, 11, 45, 59])
def test_an_uneven_step_warns_with_what_to_write(step: int) -> None:
    text = f'timezone: UTC\nentries:\n  a: {{cron: "*/{step} * * * *", steps: [vacuum]}}\n'

    (warning,) = parse_calendar(text, "c.yaml", jobs()).warnings

    assert f'"*/{step}" is not an interval' in warning
    assert "use the key `every`" in warning


@pytest.mark.parametrize("prefix", ["CRON_TZ=Europe/Berlin", "TZ=Europe/Berlin", 'CRON_TZ="Europe/Berlin"'])
def test_a_time_zone_before_the_fields_is_reported_with_the_key(prefix: str) -> None:
    text = f"timezone: UTC\nentries:\n  a: {{cron: '{prefix} 0 2 * * *', steps: [vacuum]}}\n"

    with pytest.raises(CalendarError) as caught:
        parse_calendar(text, "c.yaml", jobs())

    assert "write `timezone: Europe/Berlin` beside `cron`" in str(caught.value)
