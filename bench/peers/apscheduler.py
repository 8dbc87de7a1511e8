"""Raw APScheduler 3: jobs in its threads, with or without a process each. No history, no isolation, no recovery."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.background import BackgroundScheduler

IDLE = """
import sys, time
from apscheduler.schedulers.background import BackgroundScheduler
scheduler = BackgroundScheduler(timezone="UTC")
for number in range(int(sys.argv[1])):
    scheduler.add_job(print, "cron", day=1, month=1, hour=number % 24, id=str(number))
scheduler.start()
print("ready", flush=True)
time.sleep(3600)
"""

STAMP = "import sys, time; sys.stdout.write(str(time.time_ns()))"


def first_lines(count: int, *, process: bool) -> list[float]:
    """Milliseconds from the due time of `count` jobs to the first line of each, in order."""
    scheduler = BackgroundScheduler(timezone=UTC)
    stamps: list[int] = []
    done = threading.Event()

    def in_thread() -> None:
        keep(time.time_ns())

    def in_process() -> None:
        # `-I -S` is the cheapest Python there is; a job that imports something waits longer.
        argv = [sys.executable, "-I", "-S", "-c", STAMP]
        keep(int(subprocess.run(argv, check=True, capture_output=True).stdout))

    def keep(stamp: int) -> None:
        stamps.append(stamp)
        if len(stamps) == count:
            done.set()

    due = datetime.now(UTC) + timedelta(seconds=0.3 + count * 0.002)
    for _ in range(count):
        scheduler.add_job(in_process if process else in_thread, "date", run_date=due, misfire_grace_time=None)
    scheduler.start()
    done.wait(60)
    scheduler.shutdown()
    return sorted((stamp - int(due.timestamp() * 1e9)) / 1e6 for stamp in stamps)
