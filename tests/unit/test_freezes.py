"""Freezes: which entry is frozen when, by the calendar, a file or a command."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.planning import HOUR, MINUTE, NOON, entry

from maintd.calendar import parse_calendar
from maintd.config.freeze_file import NO_REASON, read_freeze_file
from maintd.errors import CalendarError
from maintd.job.description import JobDescription
from maintd.job.registry import JobRegistry
from maintd.model.entry import Freeze, Gate, Pause, StepPlan
from maintd.model.run import RunState, SkipReason
from maintd.schedule.freezes import freeze_covering, mutates
from maintd.scheduler.planner import decide

CLOSING = Freeze(why="the year-end closing", by="ada", since=NOON, until=NOON + HOUR)


@pytest.mark.parametrize(
    ("freeze", "name", "at", "frozen"),
    [
        (CLOSING, "tidy", NOON, True),
        (CLOSING, "tidy", NOON - MINUTE, False),
        (CLOSING, "tidy", NOON + HOUR - MINUTE, True),
        (CLOSING, "tidy", NOON + HOUR, False),
        (CLOSING.model_copy(update={"entries": "ti*"}), "tidy", NOON, True),
        (CLOSING.model_copy(update={"entries": "backup-*"}), "tidy", NOON, False),
        (CLOSING.model_copy(update={"since": None, "until": None}), "tidy", NOON - 999 * HOUR, True),
    ],
)
def test_a_freeze_covers_its_entries_from_its_start_to_just_before_its_end(
    freeze: Freeze, name: str, at: datetime, frozen: bool
) -> None:
    assert (freeze_covering([freeze], name, at) is not None) is frozen


READS = StepPlan(name="look", job="look", mutates=False)
WRITES = StepPlan(name="work", job="work")
GATE = StepPlan(name="gate", job="", gate=Gate(ask="Go on?"), mutates=True)


@pytest.mark.parametrize(
    ("steps", "changes"), [((READS,), False), ((GATE, READS), False), ((READS, WRITES), True), ((), False)]
)
def test_an_entry_changes_something_if_one_of_its_jobs_does(steps: tuple[StepPlan, ...], changes: bool) -> None:
    assert mutates(steps) is changes


@pytest.mark.parametrize(
    ("steps", "pause", "expected"),
    [
        ((WRITES,), None, ["queued", "frozen", "frozen", "queued"]),
        ((READS,), None, ["queued", "queued", "queued", "queued"]),
        ((WRITES,), Pause(entry="tidy", why="x", by="bob", since=NOON), ["queued", "paused", "paused", "paused"]),
    ],
)
def test_due_times_in_a_freeze_are_skipped_with_who_and_why(
    steps: tuple[StepPlan, ...], pause: Pause | None, expected: list[str]
) -> None:
    tidy = entry().model_copy(update={"steps": steps})
    assert tidy.rule is not None
    due = [NOON - MINUTE, NOON, NOON + HOUR - MINUTE, NOON + HOUR]

    rows = decide(tidy, tidy.rule, tidy.policy, due, now=NOON + HOUR, pause=pause, freezes=[CLOSING])

    assert [str(row.skip_reason or row.state) for row in rows] == expected
    frozen = [row.reason for row in rows if row.skip_reason is SkipReason.FROZEN]
    assert frozen in ([], ["frozen by ada until Mon 2026-03-02 13:00 UTC: the year-end closing"] * 2)
    assert all(row.state in (RunState.QUEUED, RunState.SKIPPED) for row in rows)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"deploying 4.2\nmore", "deploying 4.2"),
        (b"", NO_REASON),
        (b"\n\n", NO_REASON),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"x" * 10_000, "x" * 4096),
    ],
)
def test_a_freeze_file_freezes_everything_with_its_first_line_as_the_reason(
    tmp_path: Path, content: bytes, why: str
) -> None:
    path = tmp_path / "frozen"
    path.write_bytes(content)

    found = read_freeze_file(path)

    assert found == Freeze(entries="*", why=why, by=f"the file {path}")


def test_nothing_is_frozen_without_the_file(tmp_path: Path) -> None:
    assert read_freeze_file(None) is None
    assert read_freeze_file(tmp_path / "frozen") is None


def test_a_freeze_file_that_cannot_be_read_freezes(tmp_path: Path) -> None:
    folder, link, pipe, below_a_file = (tmp_path / name for name in ("folder", "link", "pipe", "file/frozen"))
    folder.mkdir()
    link.symlink_to(tmp_path / "nowhere")
    os.mkfifo(pipe)
    below_a_file.parent.write_text("")

    found = {path.name: read_freeze_file(path) for path in (folder, link, pipe, below_a_file)}

    whys = {name: freeze.why for name, freeze in found.items() if freeze is not None}
    assert whys == {
        "folder": "the file cannot be read: Is a directory",
        "link": "it is a link to a file that does not exist",
        "pipe": NO_REASON,
        "frozen": "whether the file exists or why is unknown: Not a directory",
    }


CALENDAR = """timezone: Europe/Berlin
freezes:
{freezes}
entries:
  tidy: {{title: T, steps: [vacuum]}}
"""


@pytest.fixture(scope="module")
def vacuum(tmp_path_factory: pytest.TempPathFactory) -> JobDescription:
    registry = JobRegistry((), tmp_path_factory.mktemp("cache") / "jobs.json")
    found = registry.jobs["vacuum"]
    registry.close()
    assert isinstance(found, JobDescription)
    return found


def freezes_of(vacuum: JobDescription, *lines: str) -> tuple[Freeze, ...]:
    text = CALENDAR.format(freezes="\n".join(f"  - {line}" for line in lines))
    return parse_calendar(text, "schedules.yaml", {"vacuum": vacuum}).freezes


def test_freezes_of_the_calendar_have_days_or_times_in_its_time_zone(vacuum: JobDescription) -> None:
    days, times, offset = freezes_of(
        vacuum,
        "{from: 2026-12-24, until: 2027-01-02, why: the year-end closing}",
        "{from: 2026-06-01 18:00, until: 2026-06-01 19:30, why: an audit, entries: ti*}",
        "{from: 2026-06-01T18:00Z, until: 2026-06-02T18:00+02:00, why: an audit}",
    )

    assert days.since == datetime(2026, 12, 23, 23, tzinfo=UTC)  # midnight of the 24th in Berlin
    assert days.until == datetime(2027, 1, 2, 23, tzinfo=UTC)  # the end of 2 January
    assert (days.entries, days.by) == ("*", "the calendar (line 3)")
    assert times.entries == "ti*" and times.until is not None and times.since is not None
    assert (times.since, times.until - times.since) == (datetime(2026, 6, 1, 16, tzinfo=UTC), timedelta(minutes=90))
    assert (offset.since, offset.until) == (
        datetime(2026, 6, 1, 18, tzinfo=UTC),
        datetime(2026, 6, 2, 16, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{from: 2026-12-24, until: 2026-12-20, why: x}", "is not after from"),
        ("{from: 2026-12-24 10:00, until: 2026-12-24 10:00, why: x}", "is not after from"),
        ("{from: 2026-12-24, until: 2026-12-28}", 'a freeze has no "why"'),
        ("{until: 2026-12-28, why: x}", 'a freeze has no "from"'),
        ("{from: 2026-12-24, why: x}", 'a freeze has no "until"'),
        ("{from: christmas, until: 2026-12-28, why: x}", 'from "christmas" is not a day or a time'),
        ("{from: 0001-01-01, until: 9999-12-31, why: x}", 'until "9999-12-31" is not a day or a time'),
        ("{from: 2026-12-24, until: 2026-12-28, why: x, entries: tdy}", 'did you mean "tidy"?'),
        ("{from: 2026-12-24, until: 2026-12-28, why: x, entry: tidy}", 'unknown key "entry"'),
        ("tidy", "a freeze must be a mapping"),
    ],
)
def test_an_error_in_a_freeze_of_the_calendar_names_its_line(vacuum: JobDescription, line: str, problem: str) -> None:
    with pytest.raises(CalendarError) as error:
        freezes_of(vacuum, line)

    assert any(problem in text and text.startswith("schedules.yaml:3:") for text in error.value.problems), (
        error.value.problems
    )
