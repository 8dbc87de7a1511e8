"""Windows: times that they must not contain, weekdays with a time, announcements, and confined jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from maintd.calendar import parse_calendar
from maintd.errors import CalendarError
from maintd.executor.run_supervisor import rollback_point
from maintd.job.description import load_job
from maintd.model.entry import Policy, Window
from maintd.model.job import JobDescription
from maintd.model.run import Run, RunState, Trigger
from maintd.notify.announcements import due_announcement
from maintd.operations.windows import across_text
from maintd.schedule.weekday_time import is_weekday_time, next_weekday_time

HOUR = timedelta(hours=1)
SATURDAY = datetime(2026, 12, 5, 1, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("not_across", "start", "fits"),
    [
        ("00:00 UTC", SATURDAY, True),
        ("00:00 UTC", SATURDAY.replace(hour=23), False),
        ("00:00 UTC", SATURDAY.replace(hour=22), True),  # it ends at midnight
        ("00:00 UTC", SATURDAY.replace(hour=0), True),  # it begins at midnight
        ("00:00 Europe/Berlin", SATURDAY.replace(hour=22), False),  # midnight in Berlin is 23:00 UTC
        ("", SATURDAY.replace(hour=23), True),
    ],
)
def test_a_window_must_not_contain_the_time_of_not_across(not_across: str, start: datetime, fits: bool) -> None:
    policy = Policy(window=Window(lasts=2 * HOUR, not_across=not_across))

    text = across_text(policy, start)

    assert (text == "") is fits
    assert fits or f"(not_across {not_across})" in text
    assert across_text(Policy(), start) == ""


@pytest.mark.parametrize(
    ("text", "zone", "now", "expected"),
    [
        ("sat 01:00", "UTC", SATURDAY - HOUR, SATURDAY),
        ("sat 01:00", "UTC", SATURDAY, SATURDAY + timedelta(days=7)),
        ("Saturday 1:00", "UTC", SATURDAY - timedelta(days=6), SATURDAY),
        ("sat 01:00", "Europe/Berlin", SATURDAY - timedelta(days=1), SATURDAY - HOUR),
        ("fri 23:30", "America/New_York", SATURDAY, datetime(2026, 12, 5, 4, 30, tzinfo=UTC)),
        # In Berlin 02:30 does not occur on 29 March 2026; 02:00 CET, the end of the gap, is 01:00 UTC.
        ("sun 02:30", "Europe/Berlin", datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 3, 29, 1, tzinfo=UTC)),
        # On 25 October it occurs twice; the first is in summer time, UTC+2.
        ("sun 02:30", "Europe/Berlin", datetime(2026, 10, 24, tzinfo=UTC), datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),
    ],
)
def test_a_weekday_with_a_time_is_its_next_instant(text: str, zone: str, now: datetime, expected: datetime) -> None:
    assert is_weekday_time(text)
    assert next_weekday_time(text, ZoneInfo(zone), now) == expected


@pytest.mark.parametrize("text", ["sat", "sat 25:00", "xyz 01:00", "01:00", "satt 01:00", ""])
def test_what_is_no_weekday_with_a_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="weekday"):
        next_weekday_time(text, ZoneInfo("UTC"), SATURDAY)


DAY_AND_HOUR = (24 * HOUR, HOUR)


@pytest.mark.parametrize(
    ("before", "offset"),
    [
        (25 * HOUR, None),
        (24 * HOUR, 24 * HOUR),
        (2 * HOUR, 24 * HOUR),
        (HOUR, HOUR),
        (timedelta(minutes=1), HOUR),
        (timedelta(0), None),
        (-HOUR, None),
    ],
)
def test_the_last_announcement_whose_time_has_come_is_due_but_none_after_the_start(
    before: timedelta, offset: timedelta | None
) -> None:
    assert due_announcement(DAY_AND_HOUR, SATURDAY, SATURDAY - before) == offset
    assert due_announcement((), SATURDAY, SATURDAY - before) is None


def test_work_ends_rollback_by_before_the_end_of_the_window_which_begins_at_the_first_claim() -> None:
    run = Run(
        id=1,
        entry="e",
        title="E",
        trigger=Trigger.MANUAL,
        state=RunState.RUNNING,
        queued_at=SATURDAY,
        not_before=SATURDAY,
        started_at=SATURDAY,
        policy=Policy(window=Window(lasts=2 * HOUR, rollback_by=HOUR / 2)),
    )

    assert rollback_point(run, SATURDAY + HOUR) == SATURDAY + HOUR * 1.5
    assert rollback_point(run.model_copy(update={"started_at": None}), SATURDAY + HOUR) == SATURDAY + HOUR * 2.5
    assert rollback_point(run.model_copy(update={"policy": Policy()}), SATURDAY) is None


JOB = '''"""Change what must not be changed outside of a window."""

from maintd.job import Context, JobParams, job


@job(mutates=True, only_in_window=True)
def run(ctx: Context, params: JobParams) -> None:
    pass
'''


@pytest.fixture
def confined(tmp_path: Path) -> JobDescription:
    path = tmp_path / "confined.py"
    path.write_text(JOB)
    return load_job(path).description


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ("{title: E, job: confined}", 3),
        ("{title: E, steps: [confined]}", 3),
        ("{title: E, steps: [gate: {ask: Now?}, confined: {}]}", 3),
        ("\n    title: E\n    steps:\n      - confined", 6),
        ("\n    title: E\n    steps:\n      - gate: {ask: Now?}\n    always:\n      - confined", 8),
        ("{title: E, window: {lasts: 2h}, steps: [confined], always: [confined]}", None),
        ("{title: E, window: {lasts: 2h}, job: confined}", None),
    ],
)
def test_a_job_that_runs_only_in_a_window_is_refused_at_load_without_one(
    confined: JobDescription, entry: str, line: int | None
) -> None:
    text = f"timezone: UTC\nentries:\n  e: {entry}\n"
    assert confined.only_in_window

    if line is None:
        found = parse_calendar(text, "schedules.yaml", {"confined": confined}).entries[0]
        assert all(step.only_in_window for step in found.steps)
        return
    with pytest.raises(CalendarError) as error:
        parse_calendar(text, "schedules.yaml", {"confined": confined})

    (problem,) = error.value.problems
    assert problem.startswith(f"schedules.yaml:{line}:") and "runs only in a window" in problem
