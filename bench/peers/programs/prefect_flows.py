"""Prefect deployments served by one runner, which starts a process for each flow run."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect import flow, serve
from prefect.schedules import Cron, Interval
from stamp import stamp


@flow(name="stamped", log_prints=False)
def stamped(journal: str, entry: int, hold: int = 0) -> None:
    stamp(journal, entry, hold)


def deployment(journal: str, entry: int, at: int | None, hold: int):
    if at is None:
        schedule = Cron(f"{entry % 60} {entry // 60 % 24} 1 1 *", timezone="UTC")
    else:
        schedule = Interval(timedelta(days=1), anchor_date=datetime.fromtimestamp(at, UTC))
    parameters = {"journal": journal, "entry": entry, "hold": hold}
    return stamped.to_deployment(f"entry-{entry}", schedule=schedule, parameters=parameters)


def main() -> None:
    document = json.loads(Path(os.environ["BENCH_WORKLOAD"]).read_text())
    if sys.argv[1] == "calls":
        stamped(document["journal"], 0)
        count, began = int(sys.argv[2]), time.perf_counter()
        for number in range(count):
            stamped(document["journal"], number)
        print(count / (time.perf_counter() - began))
    else:
        journal, hold = document["journal"], document["hold"]
        serve(*(deployment(journal, *pair, hold) for pair in enumerate(document["instants"])), limit=10)


if __name__ == "__main__":
    main()
