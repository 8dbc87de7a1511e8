"""A Huey application on SQLite; entries that are due are scheduled by eta, the others by its crontab.

It checks its crontab once a minute, counted from the start of the consumer, so a job may be a minute late.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from huey import SqliteHuey, crontab
from stamp import stamp

document = json.loads(Path(os.environ["BENCH_WORKLOAD"]).read_text())
huey = SqliteHuey(
    filename=document["folder"] + "/huey.db",
    fsync="BENCH_FSYNC" in os.environ,
    store_none=True,  # otherwise a run that returns nothing leaves nothing
    utc=True,
)


@huey.task()
def stamped(entry: int) -> None:
    stamp(document["journal"], entry, document["hold"])


def body(entry: int):
    def run() -> None:
        stamp(document["journal"], entry)

    return run


for number, at in enumerate(document["instants"]):
    if at is None:
        when = crontab(minute=str(number % 60), hour=str(number // 60 % 24), month="1", day="1")
        huey.periodic_task(when, name=f"entry_{number}")(body(number))


def schedule() -> None:
    for number, at in enumerate(document["instants"]):
        if at is not None:
            stamped.schedule((number,), eta=datetime.fromtimestamp(at, UTC).replace(tzinfo=None))


def enqueue(count: int) -> None:
    for number in range(count):
        stamped(number)
