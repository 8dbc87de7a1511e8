"""The policy of a class of data: where it is, how long it must be kept, how long it may be, and a hold."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Self

from pydantic import model_validator

from maintd.checks.limits import Limits
from maintd.units import Duration

KINDS = ("folder", "backup_sets", "table", "prometheus", "loki", "stream", "reports", "history")


class DataClass(Limits):
    """One class: exactly one of folder, backup_sets, table, prometheus, loki, stream, reports and history."""

    folder: str | None = None
    """A folder target with dated files."""
    pattern: str = "*"
    """Of its files by the path below it, or of reports: `access*.log*`, `archive/*`."""
    backup_sets: str | None = None
    """A folder target with backup sets of maintd."""
    table: str | None = None
    """A table with its schema: `public.audit_events`."""
    column: str = ""
    """Its column with the time of a row."""
    server: str = "main"
    """The postgres or redis target of a table or stream."""
    prometheus: str | None = None
    """A prometheus target."""
    loki: str | None = None
    """The http target of a Loki. Its configuration is examined, not its data."""
    stream: str | None = None
    """The key of a Redis stream."""
    reports: bool = False
    """The folder to which maintd writes reports."""
    history: bool = False
    """What maintd keeps in its store, by the measures of the earlier runs of this job."""
    keep_at_least: Duration | None = None
    """History must reach back so far; less fails."""
    keep_at_most: Duration | None = None
    """Older data warns."""
    grace: Duration = timedelta(days=1)
    """Beyond either limit: what deletes does not run all the time. Weekly: 8d."""
    every: Duration | None = None
    """The longest time between two items of a folder or of backup sets; a longer one fails."""
    started: date | None = None
    """The first day of this data, UTC: no history is missing from before."""
    hold: str = ""
    """Why nothing of it may be deleted now. Then nothing is too old, and nothing may be missing."""
    hold_since: date | None = None
    """The day, UTC, from which on everything must be there, beside what was there at the last run."""
    personal: bool = False
    """It has personal data: then a maximum is required."""
    deleted_by: str = ""
    """What deletes it, for the hint; by default the job of maintd for its kind."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        named = [kind for kind in KINDS if getattr(self, kind)]
        if len(named) != 1:
            raise ValueError(f"give exactly one of {', '.join(KINDS)}")
        if self.table is not None and not self.column:
            raise ValueError("a table needs its column with the time")
        if self.keep_at_least is None and self.keep_at_most is None and not self.hold:
            raise ValueError("give keep_at_least, keep_at_most or hold")
        if self.keep_at_least and self.keep_at_most and self.keep_at_least > self.keep_at_most:
            raise ValueError("keep_at_least is longer than keep_at_most")
        if self.hold_since is not None and not self.hold:
            raise ValueError("hold_since needs hold, the reason")
        return self

    @property
    def kind(self) -> str:
        """Which of the places it has."""
        return next(kind for kind in KINDS if getattr(self, kind))

    @property
    def place(self) -> str:
        """The place as text."""
        value = getattr(self, self.kind)
        return self.kind if value is True else f"{self.kind} {value}"
