"""Charts, due times by day and the end of a log."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from support.web_services import HOSTILE, NOON, at

from maintd.model.run import Attempt, AttemptState, Run, RunState, Step, StepState, Trigger
from maintd.model.status import DueTime
from maintd.web.charts import HEIGHT, WIDTH, ChartPoint, line_chart
from maintd.web.views import due_by_day, log_tail_cursor

NAMESPACE = "{http://www.w3.org/2000/svg}"


def points(*values: float) -> list[ChartPoint]:
    return [ChartPoint(at(60 * number), value, number + 1) for number, value in enumerate(values)]


def polyline(svg: str) -> list[tuple[float, float]]:
    text = next(part.get("points") for part in ET.fromstring(svg) if part.tag == "polyline")
    assert text is not None
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split())]


def test_a_chart_starts_at_zero_and_has_a_text_description() -> None:
    chart = line_chart("Size", points(5, 10), lambda value: f"{value:.0f} MB")

    assert chart is not None
    # The highest value, 10, is 8 px below the top; 0 is 8 px above the bottom; 5 is half way, at 48.
    assert [y for _, y in polyline(chart.svg)] == [48.0, 8.0]
    assert 'aria-label="Size: 2 values, latest 10 MB, from 5 MB to 10 MB"' in chart.svg
    assert (chart.latest, chart.lowest, chart.highest, chart.values) == ("10 MB", "5 MB", "10 MB", 2)


def test_a_failed_run_has_another_shape_in_a_chart() -> None:
    marked = [point._replace(failed=point.run_id == 2) for point in points(1, 2, 3)]

    chart = line_chart("Duration", marked, str)

    assert chart is not None
    assert (chart.svg.count("<circle"), chart.svg.count("<rect")) == (2, 1)
    assert ", failed</title></rect>" in chart.svg


def test_fewer_than_two_finite_values_are_no_chart() -> None:
    assert line_chart("x", [], str) is None
    assert line_chart("x", points(1), str) is None
    assert line_chart("x", points(1, float("nan"), float("inf")), str) is None


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=2, max_size=20))
def test_every_point_is_inside_the_chart(values: list[float]) -> None:
    chart = line_chart(HOSTILE, points(*values), str)

    if chart is not None:
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in polyline(chart.svg))


def instant(entry: str, when: datetime) -> DueTime:
    return DueTime(entry=entry, title=entry, due_at=when, local="", jobs=("vacuum",))


def test_due_times_are_grouped_by_day_in_the_calendars_time_zone() -> None:
    # 23:30 UTC on Monday is 00:30 on Tuesday in Berlin.
    week = due_by_day([instant("late", datetime(2026, 3, 2, 23, 30, tzinfo=UTC))], NOON, "Europe/Berlin")

    assert [day.name for day in week] == ["today", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    assert [(item.time, item.entry) for item in week[1].items] == [("00:30", "late")]
    assert week[0].items == ()


def test_an_entry_that_is_due_often_is_one_line_of_its_day() -> None:
    often = [instant("often", NOON + timedelta(minutes=15 * number)) for number in range(10)]
    seldom = [instant("seldom", NOON + timedelta(hours=number)) for number in range(4)]

    today = due_by_day(sorted([*often, *seldom], key=lambda item: item.due_at), NOON, "UTC")[0]

    assert [(item.time, item.entry, item.times) for item in today.items] == [
        ("12:00", "often", 10),
        ("12:00", "seldom", 1),
        ("13:00", "seldom", 1),
        ("14:00", "seldom", 1),
        ("15:00", "seldom", 1),
    ]


def a_run(*lines: tuple[int, int]) -> Run:
    attempts = tuple(
        Attempt(number=n, state=AttemptState.FAILED, started_at=NOON, log_lines=kept, log_lines_left_out=left_out)
        for n, (kept, left_out) in enumerate(lines, 1)
    )
    step = Step(index=0, name="vacuum", job="vacuum", state=StepState.FAILED, attempts=attempts)
    return Run(
        id=1,
        entry="x",
        title="X",
        trigger=Trigger.MANUAL,
        state=RunState.FAILED,
        queued_at=NOON,
        not_before=NOON,
        steps=(step,),
    )


def test_the_log_tail_is_in_the_last_attempt_with_log_lines() -> None:
    assert log_tail_cursor(a_run((10, 0), (800, 200)), 500) == "0.2.500"
    assert log_tail_cursor(a_run((800, 0), (0, 0)), 500) == "0.1.300"
    assert log_tail_cursor(a_run((10, 0)), 500) is None
    assert log_tail_cursor(a_run(), 500) is None
