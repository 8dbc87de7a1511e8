"""Evaluation of capacity: what is full or will be soon, what can be freed, and the command to run next for each."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from maintd.checks.assessment import Assessment
from maintd.job.criterion import Criterion
from maintd.reports import formatting
from maintd.reports.capacity_report import COST, MEASURING, MEMORY, STORAGE
from maintd.reports.document import Finding, Mark
from maintd.reports.figure import Figure
from maintd.reports.forecast import MIN_DAYS, Forecast
from maintd.reports.resource import Backtest, Resource, reach_text

_GIB = 1024**3
# The column that draws from a sequence: this is what must become bigint.
_OWNER = "SELECT refobjid::regclass, refobjsubid FROM pg_depend WHERE objid = '{}'::regclass AND deptype IN ('a', 'i')"

# Used percent that warns and that fails, by kind.
_USAGE_LIMITS: dict[str, tuple[float, float | None]] = {
    "file system": (80, 90),
    "inodes": (80, 90),
    "memory": (80, 90),
    "container memory": (80, 90),
    "redis memory": (80, 90),
    "connections": (80, None),
    "sequence": (75, 90),
}
# By kind: a share of the capacity, and how many days before it is reached warn and fail.
_FORECAST_LIMITS: dict[str, tuple[float, float, float | None]] = {
    "file system": (1.0, 45, 14),
    "inodes": (1.0, 45, 14),
    "memory": (0.9, 30, None),
    "container memory": (0.9, 30, None),
    "redis memory": (0.9, 30, None),
    "sequence": (1.0, 180, None),
}
_AREA = {"memory": MEMORY, "container memory": MEMORY, "redis memory": MEMORY}


def evaluate(resources: Sequence[Resource]) -> list[Assessment]:
    """Compare every resource with its limits, now and by its forecast; a resource without a value is unknown."""
    largest_growth = fastest_growing(resources)
    assessments = [
        assessment
        for item in resources
        for assessment in _evaluate(item, largest_growth if item.figure.unit == "B" else "")
    ]
    return assessments + [_not_measured(item) for item in resources if item.figure.value is None]


def _evaluate(item: Resource, largest_growth: str) -> Iterator[Assessment]:
    figure = item.figure
    area = _AREA.get(figure.kind, STORAGE)
    if figure.kind in _USAGE_LIMITS and figure.percent is not None:
        warn, fail = _USAGE_LIMITS[figure.kind]
        yield Assessment(
            area,
            item.key,
            Criterion(f"{item.key} used", round(figure.percent, 1), unit="%", at_most=fail, warn_above=warn),
            meaning=f"{formatting.amount(figure.percent, '%')} of {_capacity(figure)} used",
            command=_command(item),
        )
    if figure.kind in _FORECAST_LIMITS and isinstance(item.outlook, Forecast) and figure.capacity:
        part, warn_days, fail_days = _FORECAST_LIMITS[figure.kind]
        reach = item.outlook.reach(part * figure.capacity)
        if reach is not None:
            what = "full" if part == 1 else f"{part:.0%} full"
            days = round(reach.earliest, 1)
            yield Assessment(
                area,
                item.key,
                Criterion(f"{item.key} {what} in", days, unit="day", at_least=fail_days, warn_below=warn_days),
                meaning=f"{what} in {reach_text(reach)} at the current growth"
                + (f"; {largest_growth}" if largest_growth else ""),
                command=_command(item),
            )


def _not_measured(item: Resource) -> Assessment:
    new = item.figure.new_since is not None
    return Assessment(MEASURING, item.key, Criterion(f"{item.key} measured", unknown=item.figure.cause, optional=new))


def evaluate_history(resources: Sequence[Resource]) -> list[Assessment]:
    """Return an unknown assessment when no file system has enough history for a forecast, else nothing."""
    days = [item.outlook.days for item in resources if item.figure.kind == "file system" and item.outlook is not None]
    if not days or max(days) >= MIN_DAYS:
        return []
    missing = Criterion("forecasts", unknown=f"{max(days)} of {MIN_DAYS} days of history", optional=True)
    return [Assessment(MEASURING, "forecasts", missing, command="maintd next --days 1")]


def evaluate_backtest(past: Backtest) -> list[Assessment]:
    """Evaluate how many of last month's forecasts hold. Fewer than five forecasts are not evaluated."""
    if past.count < 5:
        return []
    inside = Criterion("forecasts that held", round(100 * past.inside, 1), unit="%", warn_below=60)
    meaning = (
        "less than 60 % of the actual values are inside the P10–P90 range forecast a month ago: distrust the dates"
    )
    return [Assessment(MEASURING, "forecasts", inside, meaning)]


def usage_mark(percent: float | None) -> Mark:
    """Mark how full something is: above 80 % warns and above 90 % fails, as in the runbook."""
    if percent is None:
        return ""
    return "fail" if percent > 90 else "warn" if percent > 80 else "ok"


def fastest_growing(resources: Sequence[Resource]) -> str:
    """Describe what grows fastest on the disks; empty when nothing does."""
    kinds = ("folder", "relation", "volume", "docker", "write-ahead log")
    growing = [
        (item.outlook.slope, item.key)
        for item in resources
        if item.figure.kind in kinds and isinstance(item.outlook, Forecast) and item.outlook.trend == "growing"
    ]
    if not growing:
        return ""
    slope, key = max(growing)
    return f"{key} grows fastest, by {formatting.amount(slope * 30, 'B')} a month"


def savings(resources: Sequence[Resource]) -> list[Finding]:
    """Find what can be freed: unused data of a Docker engine, and memory limits far above the use."""
    found = []
    for item in resources:
        figure = item.figure
        if figure.kind == "docker" and figure.details.get("unused", 0) >= _GIB:
            meaning = f"{formatting.amount(figure.details['unused'], 'B')} of {figure.name} are used by no container"
            found.append(Finding("", COST, item.key, meaning, "docker system df -v"))
        # A limit is called too large only after the two weeks of history that a forecast needs.
        if figure.kind == "container memory" and figure.capacity and isinstance(item.outlook, Forecast):
            peak = max(value for _, value in item.history)
            if peak and figure.capacity > 4 * peak:
                meaning = (
                    f"its limit of {formatting.amount(figure.capacity, 'B')} is {figure.capacity / peak:.0f} times "
                    f"its highest use; {formatting.amount(2 * peak, 'B')} would be enough"
                )
                found.append(Finding("", COST, item.key, meaning, "docker stats --no-stream"))
    return found


def _command(item: Resource) -> str:
    """A read-only command that helps to find the cause."""
    name = shlex.quote(item.figure.name)
    match item.figure.kind:
        case "file system":
            return f"du -xh --max-depth=3 {name} | sort -rh | head -20"
        case "inodes":
            return f"du -x --inodes --max-depth=3 {name} | sort -rn | head -20"
        case "memory":
            return "ps -eo rss,pid,args --sort=-rss | head -15"
        case "container memory":
            return "docker stats --no-stream"
        case "redis memory":
            return "redis-cli --bigkeys"
        case "sequence":
            return f"psql -c {shlex.quote(_OWNER.format(item.figure.name.replace(chr(39), chr(39) * 2)))}"
        case _:
            return 'psql -c "SELECT usename, state, count(*) FROM pg_stat_activity GROUP BY 1, 2 ORDER BY 3 DESC"'


def _capacity(figure: Figure) -> str:
    return formatting.amount(figure.capacity or 0, figure.unit)
