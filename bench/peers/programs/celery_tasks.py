"""A Celery application whose beat schedule is the workload named by BENCH_WORKLOAD.

Celery's crontab knows minutes. An interval of a day, last run a day before the instant, is due at that very second.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from celery import Celery
from celery.schedules import crontab
from stamp import stamp

DAY = timedelta(days=1)
document = json.loads(Path(os.environ["BENCH_WORKLOAD"]).read_text())
app = Celery("celery_tasks", broker=os.environ["BENCH_BROKER"], backend=os.environ["BENCH_BACKEND"])
app.conf.worker_hijack_root_logger = False
app.conf.task_track_started = "BENCH_TRACK_STARTED" in os.environ


@app.task
def stamped(entry: int) -> None:
    stamp(document["journal"], entry, document["hold"])


def entry_of(entry: int, at: int | None) -> dict[str, object]:
    fixed = {"task": "celery_tasks.stamped", "args": (entry,)}
    if at is None:
        return fixed | {"schedule": crontab(entry % 60, entry // 60 % 24, "*", 1, 1)}
    return fixed | {"schedule": DAY, "last_run_at": datetime.fromtimestamp(at, UTC) - DAY}


app.conf.beat_schedule = {f"entry-{entry}": entry_of(entry, at) for entry, at in enumerate(document["instants"])}

if __name__ == "__main__":
    if sys.argv[1] == "enqueue":
        for number in range(int(sys.argv[2])):
            stamped.delay(number)
    if sys.argv[1] == "load":
        from celery.beat import PersistentScheduler

        began = time.perf_counter()
        scheduler = PersistentScheduler(app, schedule_filename=document["folder"] + "/load-schedule")
        scheduler.tick()
        print(time.perf_counter() - began)
