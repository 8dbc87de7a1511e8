"""Figures: measured numbers with their source, window and coverage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True)
class Figure:
    """A measured number, or the cause why it could not be measured: `value` is None exactly when `cause` is set.

    `kind` is the group it belongs to ("file system"), `name` the subject within it ("/"). `unit` is B, B/s, /s, s, %,
    cores or empty for a count.
    """

    kind: str
    name: str
    value: float | None
    unit: str
    source: str
    window: str = "now"
    coverage: float | None = None  # share of the expected samples, 0 to 1; None: a single reading
    capacity: float | None = None  # the limit of the value, in the same unit; None: unknown, or none
    cause: str = ""
    hint: str = ""  # what to do about the cause
    measure: str = ""  # name of the measure that keeps its history; empty: none
    labels: Mapping[str, str] = field(default_factory=dict)
    counter: bool = False  # monotonic; a smaller value means that it was reset
    details: Mapping[str, float] = field(
        default_factory=dict
    )  # parts and related numbers, in the same unit unless named otherwise
    before: float | None = None  # the value of the previous window; None: unknown
    new_since: datetime | None = None  # there are no earlier data: the coverage is low only because it is new
    at_least: bool = False  # a lower bound, as for a quantile above the highest bucket

    def __post_init__(self) -> None:
        """Raise TypeError for what is no number: where it is read, not where the whole report is evaluated."""
        if self.value is None and not self.cause:
            raise TypeError(f"{self.kind} {self.name}: no value, and no cause")
        for number in (self.value, self.coverage, self.capacity, self.before, *self.details.values()):
            if number is not None:
                float(number)

    @property
    def cause_and_hint(self) -> str:
        """Why it could not be measured, and what to do about it."""
        return f"{self.cause}; {self.hint}" if self.hint else self.cause

    @property
    def percent(self) -> float | None:
        """The value in percent of the capacity; None without a value or a capacity."""
        return 100 * self.value / self.capacity if self.value is not None and self.capacity else None


@dataclass(frozen=True)
class TimeSeries:
    """Values over time, oldest first; None where there is no value."""

    kind: str
    name: str
    unit: str
    points: tuple[tuple[datetime, float | None], ...]


def unmeasured(
    kind: str,
    name: str,
    unit: str,
    source: str,
    cause: str,
    window: str = "now",
    *,
    hint: str = "",
    new_since: datetime | None = None,
) -> Figure:
    """Make a figure without a value. What could not be measured is never reported as zero."""
    return Figure(kind, name, None, unit, source, window, cause=cause, hint=hint, new_since=new_since)
