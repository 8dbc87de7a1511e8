"""Due times: phrases, cron and OnCalendar expressions to instants in UTC, and back to plain English.

All of it is pure. What a rule means where clocks are changed is said in `maintd.schedule.walls`.
"""

from maintd.schedule.blackouts import blackout_covering, blackout_problem, first_outside
from maintd.schedule.compiled import (
    MAX_DUE,
    Due,
    Schedule,
    compile_rule,
    due_between,
    jitter_of,
    upcoming,
    zone_problem,
)
from maintd.schedule.english import describe, local_text

__all__ = [
    "MAX_DUE", "Due", "Schedule", "blackout_covering", "blackout_problem", "compile_rule", "describe", "due_between",
    "first_outside", "jitter_of", "local_text", "upcoming", "zone_problem",
]  # fmt: skip
