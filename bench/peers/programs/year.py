"""Work out a year of thirty crontabs: year.py (maintd|cronsim|croniter|apscheduler) REPEATS. Prints JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from zoneinfo import ZoneInfo

ZONE = "Europe/Berlin"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
END = BEGIN + timedelta(days=365)
CRONS = [
    *(f"{number} {number} * * *" for number in range(20)),
    *(f"{number} 2 * * {number % 7}" for number in range(9)),
    "*/15 * * * *",
]


def maintd() -> Iterator[datetime]:
    from maintd.model.entry import Rule, ScheduleKind
    from maintd.schedule import compile_rule, upcoming

    for text in CRONS:
        yield from upcoming(compile_rule(Rule(kind=ScheduleKind.CRON, text=text, timezone=ZONE)), BEGIN, END)


def cronsim() -> Iterator[datetime]:
    from cronsim import CronSim

    for text in CRONS:
        yield from until_end(CronSim(text, BEGIN.astimezone(ZoneInfo(ZONE))))


def croniter() -> Iterator[datetime]:
    from croniter import croniter as each

    for text in CRONS:
        yield from until_end(each(text, BEGIN.astimezone(ZoneInfo(ZONE)), ret_type=datetime))


def apscheduler() -> Iterator[datetime]:
    from apscheduler.triggers.cron import CronTrigger

    for text in CRONS:
        trigger, last, asked = CronTrigger.from_crontab(text, ZONE), None, BEGIN
        while (at := trigger.get_next_fire_time(last, asked)) is not None and at <= END:
            # At the end of summer time it answers with instants that have been, for ever: those are passed over.
            if last is not None and at.timestamp() <= last.timestamp():
                asked += timedelta(minutes=15)
                last = None if asked > last + timedelta(hours=3) else last
                continue
            yield at
            last, asked = at, at + timedelta(microseconds=1)


def until_end(instants: Iterator[datetime]) -> Iterator[datetime]:
    for at in instants:
        if at > END:
            return
        yield at


def main() -> None:
    name, repeats = sys.argv[1], int(sys.argv[2])
    act = {"maintd": maintd, "cronsim": cronsim, "croniter": croniter, "apscheduler": apscheduler}[name]
    seconds, found = [], 0
    for _ in range(repeats):
        began = time.perf_counter()
        found = sum(1 for _ in act())
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": seconds, "found": found, "version": version(name)}))


if __name__ == "__main__":
    main()
