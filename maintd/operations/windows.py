"""Windows: whether one fits at a time, when a planned run starts, and which jobs run only in one."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from maintd.errors import RefusedError, UsageError
from maintd.model.entry import Entry, Policy
from maintd.model.status import StartTime
from maintd.operations.lookup import find_entry
from maintd.operations.service import OperatorService
from maintd.present import utc_minute
from maintd.schedule import local_text
from maintd.schedule.time_of_day import first_within
from maintd.schedule.weekday_time import next_weekday_time
from maintd.units import format_duration


def across_text(policy: Policy, start: datetime) -> str:
    """Why a window that starts at this time would contain what it must not; empty if it does not. Pure."""
    window = policy.window
    if window is None or not window.not_across:
        return ""
    at = first_within(window.not_across, start, start + window.lasts)
    if at is None:
        return ""
    text = f"its window of {format_duration(window.lasts)} from {utc_minute(start)} would contain {utc_minute(at)}"
    return f"{text} (not_across {window.not_across})"


def refuse_across(entry: Entry, start: datetime) -> None:
    """Raise RefusedError if the window of a run that starts at this time would contain what it must not."""
    problem = across_text(entry.policy, start)
    if problem:
        raise RefusedError(f"{entry.name} cannot start at {utc_minute(start)}: {problem}", "choose another time: --at")


def refuse_without_window(entry: Entry) -> None:
    """Raise RefusedError if a step's job runs only in a window, and the entry, or the job by its name, has none."""
    confined = [step.job for step in entry.steps if step.only_in_window]
    if confined and entry.policy.window is None:
        raise RefusedError(
            f'job "{confined[0]}" runs only in a window, and {entry.name} has none',
            "trigger an entry that has it as a step and a window",
        )


def start_time(service: OperatorService, name: str, text: str) -> StartTime:
    """The next such weekday and time, `sat 01:00`, in the time zone of the entry, for jobs in that of the calendar.

    Raises UnknownNameError, and UsageError for a text that cannot be read.
    """
    entry = find_entry(service, name)
    timezone = entry.timezone or service.calendar().timezone
    try:
        at = next_weekday_time(text, ZoneInfo(timezone), service.store.now())
    except ValueError as error:
        raise UsageError(str(error), "or a time with its zone: 2026-12-06T02:00Z") from None
    window = entry.policy.window
    ends_at = None if window is None else at + window.lasts
    return StartTime(entry=entry.name, at=at, local=local_text(at, timezone), window_ends_at=ends_at)
