"""schedules.yaml → entries: read whole or not at all, with every error in it and what to write instead."""

from maintd.calendar.diff import changes_between, fingerprint_of
from maintd.calendar.loading import Calendar, calendar_path, entry_for_job, load_calendar, parse_calendar

__all__ = [
    "Calendar",
    "calendar_path",
    "changes_between",
    "entry_for_job",
    "fingerprint_of",
    "load_calendar",
    "parse_calendar",
]
