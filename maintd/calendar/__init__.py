"""The calendar: reads schedules.yaml as a whole into entries, or reports every error with its line and a correction."""

from maintd.calendar.diff import changes_between
from maintd.calendar.fingerprint import fingerprint_of
from maintd.calendar.loading import (
    Calendar,
    calendar_path,
    entry_for_job,
    load_calendar,
    load_configured,
    overlay_beside,
    overlay_path,
    parse_calendar,
)
from maintd.calendar.overlay import OverlayText

__all__ = [
    "Calendar",
    "OverlayText",
    "calendar_path",
    "changes_between",
    "entry_for_job",
    "fingerprint_of",
    "load_calendar",
    "load_configured",
    "overlay_beside",
    "overlay_path",
    "parse_calendar",
]
