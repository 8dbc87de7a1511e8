"""APScheduler 3 as its manual has it: apscheduler_daemon.py WORKLOAD (thread|process) [rows].

With `rows` each run is also inserted when it starts and updated when it ends, in two commits with fsync.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from apscheduler.schedulers.background import BackgroundScheduler
from stamp import stamp

PROGRAM = Path(__file__).with_name("stamp.py")
STARTED = "INSERT INTO runs (entry, state, started_ns) VALUES (?, 'running', ?)"
ENDED = "UPDATE runs SET state = 'succeeded', finished_ns = ? WHERE id = ?"


class Rows:
    """A connection for each thread of the pool."""

    def __init__(self, path: str) -> None:
        self.path, self.local = path, threading.local()
        self.connect().execute(
            "CREATE TABLE IF NOT EXISTS runs "
            "(id INTEGER PRIMARY KEY, entry INT, state TEXT, started_ns INT, finished_ns INT)"
        )

    def connect(self) -> sqlite3.Connection:
        if not hasattr(self.local, "connection"):
            connection = sqlite3.connect(self.path, isolation_level=None, timeout=30)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            self.local.connection = connection
        return self.local.connection


def main() -> None:
    document = json.loads(Path(sys.argv[1]).read_text())
    form, journal, hold = sys.argv[2], document["journal"], document["hold"]
    rows = Rows(document["folder"] + "/rows.db") if "rows" in sys.argv[3:] else None

    def run(entry: int) -> None:
        if form == "process":
            subprocess.run([sys.executable, "-I", "-S", str(PROGRAM), journal, str(entry), str(hold)], check=True)
        else:
            stamp(journal, entry, hold)

    def recorded(entry: int) -> None:
        connection = rows.connect()
        row = connection.execute(STARTED, (entry, time.time_ns())).lastrowid
        run(entry)
        connection.execute(ENDED, (time.time_ns(), row))

    scheduler = BackgroundScheduler(timezone="UTC")
    for entry, at in enumerate(document["instants"]):
        when = {"trigger": "cron", "month": 1, "day": 1, "hour": entry % 24}
        if at is not None:
            when = {"trigger": "date", "run_date": datetime.fromtimestamp(at, UTC)}
        act = recorded if rows else run
        scheduler.add_job(act, **when, args=[entry], id=str(entry), misfire_grace_time=None)
    scheduler.start()
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
