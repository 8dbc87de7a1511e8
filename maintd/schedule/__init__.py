"""Due times: phrases, cron and OnCalendar expressions to instants in UTC, and back to plain English.

All of it is pure. What a rule means where clocks are changed is said in `maintd.schedule.wall_time`.
"""

from maintd.schedule.blackouts import blackout_covering, blackout_problem, first_outside
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
    "upcoming",
    "zone_problem",
]
