"""Places in a run's log as text: `step.attempt.seq`, with the step's index."""

from __future__ import annotations

import re

from maintd.errors import UsageError
from maintd.store import LogRow

_CURSOR = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,18})", re.ASCII)


def parse_cursor(text: str) -> tuple[int, int, int]:
    """Raises UsageError for what no answer gave."""
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise UsageError(f'"{text[:60]}" is not a place in a log', "give the cursor of an earlier answer, like 0.1.250")
    return int(found[1]), int(found[2]), int(found[3])


def cursor_of(row: LogRow) -> str:
    """The place of a line."""
    return f"{row.step}.{row.attempt}.{row.line.seq}"
