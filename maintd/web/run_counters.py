"""Counters and histograms of the runs that ended since this process started, from the store's events of runs.

Every daemon on one store counts all of its runs, whichever node executed them: aggregate with `max`, not with `sum`.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from maintd.errors import MaintdError
from maintd.operations import OperatorService
from maintd.operations.lateness import allowed_lateness, is_late
from maintd.operations.period import notify_config
from maintd.store.run_events import EndedRun

MAX_ENTRIES = 1000
"""Entries with counters of their own; further ones are counted together as `other`."""

OTHER = "other"
PAGE = 500
MAX_PAGES = 20  # in one scrape; a scrape after a longer backlog continues where this one stopped

DURATIONS = (0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 7200.0, 21600.0)  # seconds
LATENESS = (0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 43200.0)
LOCK_WAITS = (0.1, 1.0, 10.0, 60.0, 300.0, 600.0, 1800.0)


@dataclass
class Histogram:
    """Counts by upper bound, and the sum of all observations."""

    bounds: Sequence[float]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Add an observation, at least zero."""
        value = max(value, 0.0)
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds with the numbers of observations up to them."""
        found, below = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            below += count
            found.append((bound, float(below)))
        return found


class RunCounters:
    """Counts ends of runs. Each scrape reads only what is new. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._after: int | None = None
        self._entries: set[str] = set()
        self._runs: Counter[tuple[str, str]] = Counter()
        self._skipped: Counter[tuple[str, str]] = Counter()
        self._durations: dict[str, Histogram] = {}
        self._late: Counter[str] = Counter()
        self._lateness: dict[str, Histogram] = {}
        self._lock_waits: dict[str, Histogram] = {}

    def update(self, service: OperatorService) -> None:
        """Count the runs that ended since the last call; the first call sets the start. Raises StoreError."""
        with self._lock:
            if self._after is None:
                self._after = service.store.run_events.bounds()[1]
                return
            for _ in range(MAX_PAGES):
                last, ended = service.store.run_events.ends_after(self._after, PAGE)
                allowed = _allowed_lateness(service)
                for run in ended:
                    self._count(run, allowed)
                self._after = last
                if len(ended) < PAGE:
                    return

    def families(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        with self._lock:
            yield _counter("maintd_entry_runs", "Ended runs by final state", "state", self._runs)
            yield _counter("maintd_entry_skipped", "Due times without a run, by reason", "reason", self._skipped)
            late = CounterMetricFamily(
                "maintd_entry_late", "Ended runs that had started later than their entry allows", labels=("entry",)
            )
            for entry in sorted(self._entries | set(self._late)):
                late.add_metric((entry,), float(self._late[entry]))
            yield late
            for name, text, found in (
                ("maintd_run_duration_seconds", "Duration of runs", self._durations),
                ("maintd_run_lateness_seconds", "Time from the due time to the start", self._lateness),
                ("maintd_lock_wait_seconds", "Time that steps with locks waited before their start", self._lock_waits),
            ):
                family = HistogramMetricFamily(name, text, labels=("entry",))
                for entry, histogram in found.items():
                    family.add_metric((entry,), histogram.buckets(), histogram.total)
                yield family

    def _count(self, run: EndedRun, allowed: Callable[[EndedRun], timedelta] = lambda run: timedelta.max) -> None:
        entry = self._named(run.entry)
        if run.lateness is not None and not run.dry_run and is_late(run.lateness, allowed(run)):
            self._late[entry] += 1
        self._runs[entry, run.state.value] += 1
        if run.skip_reason is not None:
            self._skipped[entry, run.skip_reason.value] += 1
        for found, bounds, value in (
            (self._durations, DURATIONS, run.duration),
            (self._lateness, LATENESS, run.lateness),
            (self._lock_waits, LOCK_WAITS, run.lock_wait),
        ):
            if value is not None:
                found.setdefault(entry, Histogram(bounds)).observe(value.total_seconds())

    def _named(self, entry: str) -> str:
        if entry not in self._entries and len(self._entries) >= MAX_ENTRIES:
            return OTHER
        self._entries.add(entry)
        return entry


def _allowed_lateness(service: OperatorService) -> Callable[[EndedRun], timedelta]:
    """How late a run with a due time may start, by the active calendar."""
    config = notify_config(service)
    try:
        rules = {entry.name: entry.rule for entry in service.calendar().entries}
    except MaintdError:
        rules = {}

    def allowed(run: EndedRun) -> timedelta:
        if run.due_at is None:
            return timedelta(0)
        return allowed_lateness(config, run.entry, rules.get(run.entry), run.due_at)

    return allowed


def _counter(name: str, text: str, label: str, found: Counter[tuple[str, str]]) -> Metric:
    family = CounterMetricFamily(name, text, labels=("entry", label))
    for (entry, value), count in found.items():
        family.add_metric((entry, value), float(count))
    return family
