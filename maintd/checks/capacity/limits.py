"""What is too full, or soon will be, and what could be given back; with the next command for each."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from maintd.checks.assessment import Assessment
from maintd.job.criterion import Criterion
from maintd.reports import formats
from maintd.reports.document import Finding, Mark
from maintd.reports.forecast import MIN_DAYS, Forecast
from maintd.reports.resources import Backtest, Resource, reached

STORAGE, MEMORY, NETWORK, COST = "Storage scaling", "Memory scaling", "Network optimization", "Cost optimization"
MEASURING = "Measuring"
_GIB = 1024**3
# The column that draws from a sequence: it is what must become bigint.
_OWNER = "SELECT refobjid::regclass, refobjsubid FROM pg_depend WHERE objid = '{}'::regclass AND deptype IN ('a', 'i')"

# Used percent that warns and that fails, by kind.
_FULL: dict[str, tuple[float, float | None]] = {
    "file system": (80, 90),
    "inodes": (80, 90),
    "memory": (80, 90),
    "container memory": (80, 90),
    "redis memory": (80, 90),
    "connections": (80, None),
    "sequence": (75, 90),
}
# Days until the part of the capacity is met, by kind: the part, and the days that warn and that fail.
_SOON: dict[str, tuple[float, float, float | None]] = {
    "file system": (1.0, 45, 14),
    "inodes": (1.0, 45, 14),
    "memory": (0.9, 30, None),
    "container memory": (0.9, 30, None),
    "redis memory": (0.9, 30, None),
    "sequence": (1.0, 180, None),
}
_AREA = {"memory": MEMORY, "container memory": MEMORY, "redis memory": MEMORY}


def assess(item: Resource, grows_most: str = "") -> Iterator[Assessment]:
    """The resource against its limits, now and by its forecast. `grows_most` names what fills a file system."""
    figure = item.figure
    area = _AREA.get(figure.kind, STORAGE)
    if figure.kind in _FULL and figure.percent is not None:
        warn, fail = _FULL[figure.kind]
        used, capacity = formats.amount(figure.percent, "%"), formats.amount(figure.capacity or 0, figure.unit)
        yield Assessment(
            area,
            item.key,
            Criterion(f"{item.key} used", round(figure.percent, 1), unit="%", at_most=fail, warn_above=warn),
            meaning=f"{used} of {capacity} used",
            command=_command(item),
        )
    if figure.kind in _SOON and isinstance(item.outlook, Forecast) and figure.capacity:
        part, warn_days, fail_days = _SOON[figure.kind]
        reach = item.outlook.reach(part * figure.capacity)
        if reach is not None:
            what = "full" if part == 1 else f"{part:.0%} full"
            says = f"{what} in {reached(reach)} at the present growth" + (f"; {grows_most}" if grows_most else "")
            yield Assessment(
                area,
                item.key,
                Criterion(
                    f"{item.key} {what} in",
                    round(reach.earliest, 1),
                    unit="days",
                    at_least=fail_days,
                    warn_below=warn_days,
                ),
                meaning=says,
                command=_command(item),
            )


def unread(item: Resource) -> Assessment | None:
    """A figure that was asked for and not measured."""
    figure = item.figure
    if figure.value is not None:
        return None
    return Assessment(MEASURING, item.key, Criterion(f"{item.key} measured", unknown=figure.cause))


def too_young(resources: Sequence[Resource]) -> Assessment | None:
    """Whether no file system has been followed for long enough to be forecast."""
    days = [item.outlook.days for item in resources if item.figure.kind == "file system" and item.outlook is not None]
    if not days or max(days) >= MIN_DAYS:
        return None
    cause = f"insufficient history: {max(days)} of {MIN_DAYS} days"
    return Assessment(MEASURING, "forecasts", Criterion("forecasts", unknown=cause), command="maintd next --days 1")


def held(past: Backtest) -> Assessment | None:
    """Whether last month's forecasts had what came in their band; of fewer than five nothing is said."""
    if past.count < 5:
        return None
    says = "less than 60 % of last month's forecasts had what came in their P10–P90 band: doubt the dates"
    part = round(100 * past.inside, 1)
    return Assessment(MEASURING, "forecasts", Criterion("forecasts that held", part, unit="%", warn_below=60), says)


def fullness(percent: float) -> Mark:
    """80 and 90 percent, as the runbook has it."""
    return "fail" if percent > 90 else "warn" if percent > 80 else "ok"


def growing_most(resources: Sequence[Resource]) -> str:
    """What of all that lies on disks grows most, in words; empty when nothing does."""
    kinds = ("folder", "relation", "volume", "docker", "write-ahead log")
    found = [
        (item.outlook.slope, item.key)
        for item in resources
        if item.figure.kind in kinds and isinstance(item.outlook, Forecast) and item.outlook.trend == "growing"
    ]
    if not found:
        return ""
    slope, key = max(found)
    return f"{key} grows most, by {formats.amount(slope * 30, 'B')} a month"


def opportunities(resources: Sequence[Resource]) -> list[Finding]:
    """What could be given back: limits that nothing comes near, and what the engine keeps for nobody."""
    found = []
    for item in resources:
        figure = item.figure
        if figure.kind == "docker" and figure.details.get("unused", 0) >= _GIB:
            says = f"{formats.amount(figure.details['unused'], 'B')} of {figure.name} are used by no container"
            found.append(Finding("", COST, item.key, says, "docker system df -v"))
        # Two weeks must have been seen before a limit can be called too large.
        if figure.kind == "container memory" and figure.capacity and isinstance(item.outlook, Forecast):
            most = max(value for _, value in item.history)
            if most and figure.capacity > 4 * most:
                says = (
                    f"its limit of {formats.amount(figure.capacity, 'B')} is {figure.capacity / most:.0f} times "
                    f"the most that it was seen to hold; {formats.amount(2 * most, 'B')} would do"
                )
                found.append(Finding("", COST, item.key, says, "docker stats --no-stream"))
    return found


def _command(item: Resource) -> str:
    """A command that only looks, to find what to do."""
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
