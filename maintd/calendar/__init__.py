"""The calendar: reads schedules.yaml as a whole into entries, or reports every error with its line and a correction."""

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
