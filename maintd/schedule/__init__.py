"""Due times: phrases, cron and OnCalendar expressions to instants in UTC, and to descriptions in English.

All functions are pure. `maintd.schedule.wall_time` documents what a schedule means on days with a clock change.
"""

from maintd.schedule.blackouts import blackout_covering, blackout_problem, first_outside
from maintd.schedule.cron import uneven_steps
from maintd.schedule.description import describe, local_text
from maintd.schedule.schedule import (
    MAX_DUE,
    Due,
    Schedule,
    compile_rule,
    due_between,
    jitter_of,
    upcoming,
    zone_problem,
)

__all__ = [
    "MAX_DUE",
    "Due",
    "Schedule",
    "blackout_covering",
    "blackout_problem",
    "compile_rule",
    "describe",
    "due_between",
    "first_outside",
    "jitter_of",
    "local_text",
    "uneven_steps",
    "upcoming",
    "zone_problem",
]
