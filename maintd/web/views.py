"""What the page shows, put together from what the operator service returns. Pure but for reading the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from maintd.model.evidence import LogLine
from maintd.model.run import Run, RunState, RunSummary
from maintd.model.status import DueTime
from maintd.operations import OperatorService
from maintd.present import duration_text, value_text
from maintd.store import MeasurePoint
from maintd.web.charts import Chart, ChartPoint, line_chart

FEW = 4
"""An entry that is due more often than this in a day is one line of the week."""

MOST_CHARTS = 24
POINTS = 90

BAD = frozenset({RunState.FAILED, RunState.TIMED_OUT, RunState.LOST})


class WeekItem(NamedTuple):
    """An entry in a day: when first, and how many times from then on."""

    time: str
    entry: str
    title: str
    times: int
    jobs: tuple[str, ...]
    note: str


class WeekDay(NamedTuple):
    """A day of the calendar's time zone."""

    day: date
    name: str
    today: bool
    items: tuple[WeekItem, ...]


def week_of(dues: Sequence[DueTime], now: datetime, timezone: str, days: int = 7) -> list[WeekDay]:
    """The days from today on, each with what falls due in it, by the calendar's wall clock."""
    zone = ZoneInfo(timezone)
    today = now.astimezone(zone).date()
    by_day: dict[date, list[DueTime]] = {today + timedelta(days=offset): [] for offset in range(days)}
    for instant in dues:
        day = instant.due_at.astimezone(zone).date()
        if day in by_day:
            by_day[day].append(instant)
    return [
        WeekDay(day, "today" if day == today else f"{day:%A}", day == today, tuple(_items(of_day, zone)))
        for day, of_day in by_day.items()
    ]


def _items(dues: Sequence[DueTime], zone: ZoneInfo) -> Iterable[WeekItem]:
    counts: dict[str, int] = {}
    for instant in dues:
        counts[instant.entry] = counts.get(instant.entry, 0) + 1
    shown: set[str] = set()
    for instant in dues:
        many = counts[instant.entry] > FEW
        if many and instant.entry in shown:
            continue
        shown.add(instant.entry)
        time = f"{instant.due_at.astimezone(zone):%H:%M}"
        times = counts[instant.entry] if many else 1
        yield WeekItem(time, instant.entry, instant.title, times, instant.jobs, instant.note)


def duration_chart(runs: Sequence[RunSummary]) -> Chart | None:
    """How long an entry's runs took, oldest first."""
    points = [
        ChartPoint(run.finished_at, run.duration.total_seconds(), run.id, run.state in BAD)
        for run in reversed(runs)
        if run.duration is not None and run.finished_at is not None and not run.dry_run
    ]
    return line_chart("Duration", points, lambda seconds: duration_text(timedelta(seconds=seconds)))


def measure_charts(service: OperatorService, entry: str, jobs: Sequence[str]) -> tuple[list[Chart], int]:
    """A chart for each series of measures of an entry, and how many more there are."""
    charts: list[Chart] = []
    for job in jobs:
        for title, points in sorted(_by_series(service.store.history.series(entry, job, limit=POINTS)).items()):
            unit = points[-1].unit
            values = [ChartPoint(point.at, point.value, point.run_id) for point in points[-POINTS:]]
            chart = line_chart(title, values, lambda value, unit=unit: value_text(value, unit))  # type: ignore[misc]
            if chart is not None:
                charts.append(chart)
    return charts[:MOST_CHARTS], max(0, len(charts) - MOST_CHARTS)


def _by_series(points: Iterable[MeasurePoint]) -> Mapping[str, list[MeasurePoint]]:
    series: dict[str, list[MeasurePoint]] = {}
    for point in points:
        labels = ", ".join(f"{key} {value}" for key, value in sorted(point.labels.items()))
        series.setdefault(f"{point.name} ({labels})" if labels else point.name, []).append(point)
    return series


class LogRowView(NamedTuple):
    """A line of the log as it is shown; `step` is set where another step or attempt begins."""

    step: str
    line: LogLine


def log_tail_cursor(run: Run, lines: int) -> str | None:
    """Where to begin to read so that about the last `lines` of a run are seen; None: from the start."""
    for step in reversed(run.steps):
        for attempt in reversed(step.attempts):
            if attempt.log_lines > lines:
                last = attempt.log_lines + attempt.log_lines_left_out
                return f"{step.index}.{attempt.number}.{last - lines}"
            if attempt.log_lines:
                return None
    return None
