"""PromQL over a window in equal steps, and the coverage of the window by successful scrapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import mean, median

from maintd.clients.prometheus import Prometheus, Series
from maintd.errors import TargetError
from maintd.units import format_duration

HOUR = timedelta(hours=1)
_MAX_STEPS = 11_000  # of a range query; Prometheus refuses more
Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Window:
    """A window of `count` steps that ends at `end`. The value at a time covers the step before it."""

    start: datetime
    end: datetime
    step: timedelta = HOUR

    def __post_init__(self) -> None:
        if not 1 <= self.count <= _MAX_STEPS:
            raise ValueError(f"{self.count} steps; Prometheus returns at most {_MAX_STEPS}")

    @property
    def count(self) -> int:
        """The number of steps."""
        return round((self.end - self.start) / self.step)

    @property
    def times(self) -> list[datetime]:
        """The end of each step."""
        return [self.start + self.step * (index + 1) for index in range(self.count)]

    @property
    def before(self) -> Window:
        """The window just before, with the same length."""
        return Window(self.start - (self.end - self.start), self.start, self.step)

    def __str__(self) -> str:
        """`7 days until 2026-11-24`."""
        days = (self.end - self.start) / timedelta(days=1)
        until = f"{self.end:%Y-%m-%d}" if self.end.time() == datetime.min.time() else f"{self.end:%Y-%m-%d %H:%M}"
        return (
            f"{days:g} days until {until}" if days >= 1 else f"{format_duration(self.end - self.start)} until {until}"
        )


def whole_days(now: datetime, days: int) -> Window:
    """Return the window of `days` whole UTC days until the last midnight."""
    end = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return Window(end - timedelta(days=days), end)


@dataclass(frozen=True)
class New:
    """A scrape target without data before the step that begins at `since`. `share`: its coverage from then on."""

    since: datetime
    share: float


@dataclass(frozen=True)
class Coverage:
    """The share of the expected samples that exist, 0 to 1, by (job, instance).

    `present` is the share of the window in which Prometheus scraped, whether or not targets answered.
    """

    by_target: Mapping[tuple[str, str], float]
    present: float
    new: Mapping[tuple[str, str], New] = field(default_factory=dict)

    def of(self, labels: Mapping[str, str]) -> float | None:
        """The coverage of a series: of its scrape target, or the mean of all of them; None when nothing was scraped."""
        chosen = [self.by_target[key] for key in self._chosen(labels)]
        return mean(chosen) if chosen else None

    def new_since(self, labels: Mapping[str, str], least: float = 0.9) -> datetime | None:
        """Since when a series has been complete, if only the time before its first data is missing; else None."""
        chosen = self._chosen(labels)
        since = [self.new[key].since for key in chosen if key in self.new]
        shares = [self.new[key].share if key in self.new else self.by_target[key] for key in chosen]
        return max(since) if since and min(shares) >= least else None

    @property
    def begun(self) -> datetime | None:
        """The first scrape, if Prometheus has none before the window either."""
        return min(new.since for new in self.new.values()) if len(self.new) == len(self.by_target) > 0 else None

    def _chosen(self, labels: Mapping[str, str]) -> list[tuple[str, str]]:
        wanted = [labels.get("job"), labels.get("instance")]
        found = [
            key
            for key in self.by_target
            if all(value is None or value == own for value, own in zip(wanted, key, strict=True))
        ]
        return found or list(self.by_target)


def coverage(server: Prometheus, window: Window) -> Coverage:
    """Compute the coverage from `up`: successful scrapes against the median number per step. Raises TargetError.

    A target with no scrape in the first step and in all of the window before is new.
    """
    both = Window(window.before.start, window.end, window.step)
    by, count = "sum by (job, instance)", window.count
    tried = {key(s.labels): aligned(s, both.times) for s in ranged(server, f"{by} (count_over_time(up[$step]))", both)}
    good = {key(s.labels): aligned(s, window.times) for s in ranged(server, f"{by} (sum_over_time(up[$step]))", window)}
    by_target, new, present = {}, {}, 0.0
    for target, values in tried.items():
        earlier, counts = values[:count], values[count:]
        if not any(counts):
            continue
        typical = median(value for value in counts if value)
        expected = typical * count
        scraped = sum(min(value or 0.0, typical) for value in good.get(target, ()))
        by_target[target] = min(1.0, scraped / expected)
        present = max(present, sum(min(value or 0.0, typical) for value in counts) / expected)
        first = next(index for index, value in enumerate(counts) if value)
        if first > 0 and not any(earlier):
            since = min(counts[first] or 0.0, typical) + typical * (count - first - 1)
            new[target] = New(window.start + window.step * first, min(1.0, scraped / since))
    if not by_target:
        raise TargetError(f"{server.name}: no scrape in {window}", "check its scrape configuration", cause="empty")
    return Coverage(by_target, min(1.0, present), new)


def begins_after(server: Prometheus, window: Window) -> bool:
    """Whether Prometheus scrapes now, and has no scrape in the window or in the one before. Raises TargetError."""
    length = (window.end - window.before.start).total_seconds()
    try:
        server.query(f"count(count_over_time(up[{length:.0f}s]))", window.end)
    except TargetError as error:
        if error.cause != "empty":
            raise
    else:
        return False
    try:
        server.query("count(up)")
    except TargetError as error:
        if error.cause != "empty":
            raise
        return False
    return True


def key(labels: Mapping[str, str]) -> tuple[str, str]:
    """Return the scrape target of a series: (job, instance)."""
    return labels.get("job", ""), labels.get("instance", "")


def ranged(server: Prometheus, promql: str, window: Window) -> list[Series]:
    """Run a range query with a value at the end of each step; `$step` is the length of a step. Raises TargetError."""
    text = promql.replace("$step", f"{window.step.total_seconds():.0f}s")
    return server.query_range(text, window.start + window.step, window.end, window.step)


def aligned(series: Series, times: Sequence[datetime]) -> Values:
    """Return the values of a series at these times; None where it has none."""
    found = {round(at.timestamp()): value for at, value in series.points}
    return tuple(found.get(round(at.timestamp())) for at in times)


def first_with_data(
    server: Prometheus, selectors: Sequence[str], promql: Callable[[str], str], window: Window
) -> tuple[str, list[Series]]:
    """Return the first selector with data, and its series. Raises TargetError, `empty` when none has data."""
    for selector in selectors:
        try:
            return selector, ranged(server, promql(selector), window)
        except TargetError as error:
            if error.cause != "empty":
                raise
    names = " or ".join(selectors) or "any metric"
    raise TargetError(
        f"{server.name}: no data for {names}",
        "check that it is scraped, with this name and these labels",
        cause="empty",
    )


def names_of(found: Sequence[Series]) -> list[str]:
    """Name each series by its container, else its instance; by all labels where that is ambiguous."""
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
