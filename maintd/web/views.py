"""What the page shows, prepared for the templates: due times by day, charts, the end of a log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from maintd.model.run import Run, RunState, RunSummary
from maintd.model.status import DueTime
from maintd.operations import OperatorService
from maintd.store import MeasurePoint
from maintd.units import duration_text, value_text
from maintd.web.charts import Chart, ChartPoint, line_chart
from maintd.web.dependencies import log_cursor

MAX_LINES_PER_DAY = 4
"""An entry that is due more often than this on a day is shown as one line with a count."""

MAX_CHARTS = 24

CHART_RUNS = 90
"""Runs in a chart."""

FAILED_STATES = frozenset({RunState.FAILED, RunState.TIMED_OUT, RunState.LOST})


class DueItem(NamedTuple):
    """An entry on a day: its first due time `HH:MM`, and the number of due times from then on."""

    time: str
    entry: str
    title: str
    times: int
    jobs: tuple[str, ...]
    note: str


class DueDay(NamedTuple):
    """A day in the calendar's time zone."""

    day: date
    name: str
    today: bool
    items: tuple[DueItem, ...]


def due_by_day(dues: Sequence[DueTime], now: datetime, timezone: str, days: int = 7) -> list[DueDay]:
    """Group due times by day, from today on, in the given time zone."""
    zone = ZoneInfo(timezone)
    today = now.astimezone(zone).date()
    by_day: dict[date, list[DueTime]] = {today + timedelta(days=offset): [] for offset in range(days)}
    for instant in dues:
        day = instant.due_at.astimezone(zone).date()
        if day in by_day:
            by_day[day].append(instant)
    return [
        DueDay(day, "today" if day == today else f"{day:%A}", day == today, tuple(_items(of_day, zone)))
        for day, of_day in by_day.items()
    ]


def _items(dues: Sequence[DueTime], zone: ZoneInfo) -> Iterable[DueItem]:
    counts: dict[str, int] = {}
    for instant in dues:
        counts[instant.entry] = counts.get(instant.entry, 0) + 1
    shown: set[str] = set()
    for instant in dues:
        grouped = counts[instant.entry] > MAX_LINES_PER_DAY
        if grouped and instant.entry in shown:
            continue
        shown.add(instant.entry)
        time = f"{instant.due_at.astimezone(zone):%H:%M}"
        times = counts[instant.entry] if grouped else 1
        yield DueItem(time, instant.entry, instant.title, times, instant.jobs, instant.note)


def duration_chart(runs: Sequence[RunSummary]) -> Chart | None:
    """The durations of an entry's runs, which are given newest first; None when fewer than two have one."""
    points = [
        ChartPoint(run.finished_at, run.duration.total_seconds(), run.id, run.state in FAILED_STATES)
        for run in reversed(runs)
        if run.duration is not None and run.finished_at is not None and not run.dry_run
    ]
    return line_chart("Duration", points, lambda seconds: duration_text(timedelta(seconds=seconds)))


def measure_charts(service: OperatorService, entry: str, jobs: Sequence[str]) -> tuple[list[Chart], int]:
    """A chart for each series of measures of an entry, and the number of charts above MAX_CHARTS."""
    charts: list[Chart] = []
    for job in jobs:
        for title, points in sorted(_by_series(service.store.history.series(entry, job, limit=CHART_RUNS)).items()):
            unit = points[-1].unit
            values = [ChartPoint(point.at, point.value, point.run_id) for point in points[-CHART_RUNS:]]
            chart = line_chart(title, values, lambda value, unit=unit: value_text(value, unit))  # type: ignore[misc]
            if chart is not None:
                charts.append(chart)
    return charts[:MAX_CHARTS], max(0, len(charts) - MAX_CHARTS)


def _by_series(points: Iterable[MeasurePoint]) -> Mapping[str, list[MeasurePoint]]:
    series: dict[str, list[MeasurePoint]] = {}
    for point in points:
        labels = ", ".join(f"{key} {value}" for key, value in sorted(point.labels.items()))
        series.setdefault(f"{point.name} ({labels})" if labels else point.name, []).append(point)
    return series


def log_tail_cursor(run: Run, lines: int) -> str | None:
    """The cursor from which about the last `lines` lines of a run follow; None for the start of the log."""
    for step in reversed(run.steps):
        for attempt in reversed(step.attempts):
            if attempt.log_lines > lines:
                last = attempt.log_lines + attempt.log_lines_left_out
                return log_cursor(step.index, attempt.number, last - lines)
            if attempt.log_lines:
                return None
    return None
