"""A year of a calendar of thirty entries, and the load of one of ten thousand, beside cronsim's own iteration.

python bench/schedules.py
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim

from maintd.calendar import parse_calendar
from maintd.catalogue import Catalogue
from maintd.model import Rule, ScheduleKind
from maintd.schedule import compile_rule, upcoming

ZONE = "Europe/Berlin"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
END = BEGIN + timedelta(days=365)
CRONS = [f"{number} {hour} * * {day}" for number, hour, day in
         [*((n, n % 24, "*") for n in range(20)), *((n, 2, n % 7) for n in range(9)), ("*/15", "*", "*")]]  # fmt: skip


def ours() -> int:
    rules = [compile_rule(Rule(kind=ScheduleKind.CRON, text=text, timezone=ZONE)) for text in CRONS]
    return sum(1 for rule in rules for _ in upcoming(rule, BEGIN, END))


def theirs() -> int:
    return sum(1 for text in CRONS for _ in _until_end(CronSim(text, BEGIN.astimezone(ZoneInfo(ZONE)))))


def _until_end(instants: Iterator[datetime]) -> Iterator[datetime]:
    for at in instants:
        if at > END:
            return
        yield at


def load() -> int:
    entries = "".join(f"  e{n}: {{schedule: 'every day at {n % 24:02}:{n % 60:02}', steps: [command: {{argv: [x]}}]}}\n"
                      for n in range(10_000))  # fmt: skip
    return len(parse_calendar(f"timezone: UTC\nentries:\n{entries}", "x.yaml", Catalogue().jobs).entries)


def timed(act: Callable[[], int]) -> tuple[float, int]:
    """Best of three, in seconds, and what came of it."""
    return min((_once(act) for _ in range(3)), key=lambda item: item[0])


def _once(act: Callable[[], int]) -> tuple[float, int]:
    began = time.perf_counter()
    found = act()
    return time.perf_counter() - began, found


def main() -> None:
    mine, found = timed(ours)
    cronsim, others = timed(theirs)
    print("| a year of 30 entries | × | s | instants |\n|---|---|---|---|")
    print(f"| maintd | {mine / cronsim:.2f} | {mine:.2f} | {found} |")
    print(f"| cronsim, iterated | 1.00 | {cronsim:.2f} | {others} |")
    took, count = timed(load)
    print(f"\n| a calendar file | s | entries |\n|---|---|---|\n| read, checked, compiled | {took:.1f} | {count} |")


if __name__ == "__main__":
    main()
