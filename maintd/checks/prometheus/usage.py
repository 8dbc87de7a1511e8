"""Memory and CPU use of containers or processes by hour, from the first metric with data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from maintd.checks.prometheus.promql_window import (
    Values,
    Window,
    aligned,
    coverage,
    first_with_data,
    names_of,
    ranged,
)
from maintd.clients.prometheus import Prometheus
from maintd.errors import TargetError


@dataclass(frozen=True)
class Use:
    """One series: mean and highest value of each hour; `started` marks the hours with a restart."""

    name: str
    source: str
    mean: Values
    highest: Values
    coverage: float | None
    new_since: datetime | None = None
    started: tuple[bool, ...] = ()


def memory(server: Prometheus, gauges: Sequence[str], window: Window) -> list[Use]:
    """Query memory in bytes. Raises TargetError."""
    selector, found = first_with_data(server, gauges, lambda text: f"avg_over_time({text}[$step])", window)
    highest = {
        frozenset(series.labels.items()): aligned(series, window.times)
        for series in ranged(server, f"max_over_time({selector}[$step])", window)
    }
    starts = _starts(server, window)
    covered = coverage(server, window)
    uses = []
    for name, series in zip(names_of(found), found, strict=True):
        mean = aligned(series, window.times)
        started = starts.get((series.labels.get("job", ""), series.labels.get("instance", "")), ())
        top = highest.get(frozenset(series.labels.items()), mean)
        labels = dict(series.labels)
        source = f"{selector} in {server.name}"
        uses.append(Use(name, source, mean, top, covered.of(labels), covered.new_since(labels), started))
    return uses


def cpu(server: Prometheus, counters: Sequence[str], window: Window) -> list[Use]:
    """Query the number of busy CPUs. Raises TargetError."""
    selector, found = first_with_data(server, counters, lambda text: f"sum without (cpu) (rate({text}[$step]))", window)
    covered = coverage(server, window)
    uses = []
    for name, series in zip(names_of(found), found, strict=True):
        values = aligned(series, window.times)
        labels = dict(series.labels)
        source = f"rate of {selector} in {server.name}"
        uses.append(Use(name, source, values, values, covered.of(labels), covered.new_since(labels)))
    return uses


def _starts(server: Prometheus, window: Window) -> dict[tuple[str, str], tuple[bool, ...]]:
    """Return the hours with a start of the process, by scrape target; empty when that is not exported."""
    try:
        found = ranged(server, "changes(process_start_time_seconds[$step])", window)
    except TargetError as error:
        if error.cause != "empty":
            raise
        return {}
    return {
        (series.labels.get("job", ""), series.labels.get("instance", "")): tuple(
            bool(value) for value in aligned(series, window.times)
        )
        for series in found
    }
