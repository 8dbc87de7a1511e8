"""A Procrastinate application whose periodic tasks are the workload; its cron has a sixth field for the second."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from procrastinate import App, PsycopgConnector
from stamp import stamp

document = json.loads(Path(os.environ["BENCH_WORKLOAD"]).read_text())
app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_DATABASE"]))


def cron(entry: int, at: int | None) -> str:
    if at is None:
        return f"{entry % 60} {entry // 60 % 24} 1 1 *"
    return f"{datetime.fromtimestamp(at, UTC):%-M %-H %-d %-m * %-S}"


@app.task(name="stamped")
async def stamped(entry: int, timestamp: int = 0) -> None:
    stamp(document["journal"], entry)
    if document["hold"]:
        await asyncio.sleep(document["hold"])


def register() -> None:
    for entry, at in enumerate(document["instants"]):
        app.periodic(cron=cron(entry, at), periodic_id=f"entry-{entry}", task_kwargs={"entry": entry})(stamped)


async def enqueue(count: int) -> None:
    async with app.open_async():
        await stamped.batch_defer_async(*({"entry": entry} for entry in range(count)))


began = time.perf_counter()
register()
if __name__ == "__main__":
    if sys.argv[1] == "enqueue":
        asyncio.run(enqueue(int(sys.argv[2])))
    if sys.argv[1] == "load":
        print(time.perf_counter() - began)
