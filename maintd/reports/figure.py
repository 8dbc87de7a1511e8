"""A number that a report may state: with where it comes from, over which time, and how much of that time was seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True)
class Figure:
    """What was measured of one subject, or why it was not: `value` is None exactly when `cause` says why.

    `kind` is the group it belongs to ("file system"), `name` the subject within it ("/"). `unit` is B, B/s, /s, s, %,
    cores or empty for a count.
    """

    kind: str
    name: str
    value: float | None
    unit: str
    source: str
    window: str = "now"
    coverage: float | None = None  # seen share of the window, 0 to 1; None: it has no length
    capacity: float | None = None  # where it ends, in the same unit; None: not known or none
    cause: str = ""
    measure: str = ""  # the name under which it is kept for trends; empty: not kept
    labels: Mapping[str, str] = field(default_factory=dict)
    counter: bool = False  # only ever grows; a smaller value is a new beginning
    details: Mapping[str, float] = field(default_factory=dict)  # its parts and companions
    before: float | None = None  # the same over the window before; None: not known
    at_least: bool = False  # the true value may be higher, as above the highest bucket of a histogram

    @property
    def percent(self) -> float | None:
        """Of the capacity; None without one."""
        return 100 * self.value / self.capacity if self.value is not None and self.capacity else None


@dataclass(frozen=True)
class Track:
    """A figure over time, oldest first; None where there is no value."""

    kind: str
    name: str
    unit: str
    points: tuple[tuple[datetime, float | None], ...]


def unmeasured(kind: str, name: str, unit: str, source: str, cause: str, window: str = "now") -> Figure:
    """A figure that could not be had, with the cause. Never a zero."""
    return Figure(kind, name, None, unit, source, window, cause=cause)
