"""PromQL over a window: in equal steps, with how much of it Prometheus really saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import mean, median

from maintd.clients.prometheus import Prometheus, Series
from maintd.errors import TargetError
from maintd.units import format_duration

HOUR = timedelta(hours=1)
_MOST_STEPS = 11_000  # of a series, above which Prometheus refuses
Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Window:
    """`count` steps that end at `end`. Each value stands for the step before its time, so a window is half open."""

    start: datetime
    end: datetime
    step: timedelta = HOUR

    def __post_init__(self) -> None:
        if not 1 <= self.count <= _MOST_STEPS:
            raise ValueError(f"{self.count} steps; Prometheus answers at most {_MOST_STEPS}")

    @property
    def count(self) -> int:
        """How many steps it has."""
        return round((self.end - self.start) / self.step)

    @property
    def times(self) -> list[datetime]:
        """The end of each step."""
        return [self.start + self.step * (index + 1) for index in range(self.count)]

    @property
    def before(self) -> Window:
        """The one just before, as long as this."""
        return Window(self.start - (self.end - self.start), self.start, self.step)

    def __str__(self) -> str:
        """`7 days until 2026-11-24`."""
        days = (self.end - self.start) / timedelta(days=1)
        until = f"{self.end:%Y-%m-%d}" if self.end.time() == datetime.min.time() else f"{self.end:%Y-%m-%d %H:%M}"
        return (
            f"{days:g} days until {until}" if days >= 1 else f"{format_duration(self.end - self.start)} until {until}"
        )


def whole_days(now: datetime, days: int) -> Window:
    """That many whole UTC days until the last midnight."""
    end = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return Window(end - timedelta(days=days), end)


@dataclass(frozen=True)
class Coverage:
    """Which part of the samples that should be there are there, by (job, instance).

    `present` is the part of the window in which Prometheus scraped at all, whether or not a target answered.
    """

    seen: Mapping[tuple[str, str], float]
    present: float

    def of(self, labels: Mapping[str, str]) -> float | None:
        """Of a series: of the scrape target it came from, or of all of them; None when nothing was scraped."""
        wanted = [labels.get("job"), labels.get("instance")]
        found = [
            share
            for key, share in self.seen.items()
            if all(value is None or value == own for value, own in zip(wanted, key, strict=True))
        ]
        chosen = found or list(self.seen.values())
        return mean(chosen) if chosen else None


def coverage(server: Prometheus, window: Window) -> Coverage:
    """From `up`: successful scrapes against the usual number in a step. Raises TargetError."""
    times = window.times
    by = "sum by (job, instance)"
    tried = {key(s.labels): aligned(s, times) for s in ranged(server, f"{by} (count_over_time(up[$step]))", window)}
    good = {key(s.labels): aligned(s, times) for s in ranged(server, f"{by} (sum_over_time(up[$step]))", window)}
    seen, present = {}, 0.0
    for target, counts in tried.items():
        usual = median(count for count in counts if count)
        whole = usual * window.count
        seen[target] = min(1.0, sum(min(value or 0.0, usual) for value in good.get(target, ())) / whole)
        present = max(present, sum(min(value or 0.0, usual) for value in counts) / whole)
    return Coverage(seen, min(1.0, present))


def key(labels: Mapping[str, str]) -> tuple[str, str]:
    """The scrape target of a series."""
    return labels.get("job", ""), labels.get("instance", "")


def ranged(server: Prometheus, promql: str, window: Window) -> list[Series]:
    """The series of a query, a value at the end of each step; `$step` is the step's length. Raises TargetError."""
    text = promql.replace("$step", f"{window.step.total_seconds():.0f}s")
    return server.query_range(text, window.start + window.step, window.end, window.step)


def aligned(series: Series, times: Sequence[datetime]) -> Values:
    """Its values at these times; None where it has none."""
    found = {round(at.timestamp()): value for at, value in series.points}
    return tuple(found.get(round(at.timestamp())) for at in times)


def first_with_data(
    server: Prometheus, selectors: Sequence[str], promql: Callable[[str], str], window: Window
) -> tuple[str, list[Series]]:
    """The first of the selectors for which there is data, and the data. Raises TargetError(empty) that names all."""
    for selector in selectors:
        try:
            return selector, ranged(server, promql(selector), window)
        except TargetError as error:
            if error.cause != "empty":
                raise
    names = " or ".join(selectors) or "any metric"
    raise TargetError(
        f"{server.name}: no data for {names}", "is it scraped under that name and those labels?", cause="empty"
    )


def names_of(found: Sequence[Series]) -> list[str]:
    """What a person calls each series: its container, else its instance, with the job where that is not enough."""
    short = [_short(series.labels) for series in found]
    return [
        name if short.count(name) == 1 else ", ".join(f"{k}={v}" for k, v in sorted(series.labels.items()))
        for name, series in zip(short, found, strict=True)
    ]


def _short(labels: Mapping[str, str]) -> str:
    for label in ("name", "container", "service", "instance", "job"):
        if labels.get(label):
            return labels[label]
    return ", ".join(f"{k}={v}" for k, v in sorted(labels.items()) if k != "__name__") or "all"
