"""Notices in a storm: many entries fail within a minute; how many messages arrive, and how long after each failure.

    python bench/notices.py [--failures 1000]

Everything is real: a daemon on SQLite with that many entries that are due every minute, a run in a process of its own
for each, and a webhook that receives the messages. The goal is that every failure is delivered within 60 s, once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

GOAL_SECONDS = 60
LONGEST_SECONDS = 900  # of the whole measurement
SECRET = "a secret of more than 16 characters"

JOB = '''"""Fail by a check."""

from maintd.job import Context, JobParams, job


@job(timeout="1m")
def run(ctx: Context, params: JobParams) -> None:
    ctx.check("stones", 3, at_most=0, hint="pick them up")
'''


class Receiver(ThreadingHTTPServer):
    """A webhook that notes when it got what."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.messages: list[tuple[float, list[dict[str, Any]]]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.messages.append((time.time(), body["notices"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        pass


@contextlib.contextmanager
def daemon(folder: Path, failures: int, url: str) -> Iterator[httpx.Client]:
    """A daemon with that many entries that fail; yields a client of its control socket."""
    (folder / "jobs").mkdir()
    (folder / "jobs/stumble.py").write_text(JOB)
    entries = "".join(f'  entry-{number}: {{job: stumble, cron: "* * * * *"}}\n' for number in range(failures))
    channel = f'{{webhook: "{url}", secret: "{SECRET}"}}'
    calendar = f"timezone: UTC\nnotify: {{channels: {{pager: {channel}}}}}\nentries:\n{entries}"
    (folder / "schedules.yaml").write_text(calendar)
    environ = {
        **os.environ,
        "MAINTD_STATE_DIR": str(folder / "state"),
        "MAINTD_CALENDAR": str(folder / "schedules.yaml"),
        "MAINTD_JOBS_PATH": str(folder / "jobs"),
        "MAINTD_LISTEN": "",
        "MAINTD_LOG_LEVEL": "warning",
    }
    program = Path(sys.executable).parent / "maintd"
    process = subprocess.Popen([program, "serve"], env=environ, cwd=folder)
    try:
        transport = httpx.HTTPTransport(uds=str(folder / "state/maintd.sock"))
        with httpx.Client(transport=transport, base_url="http://maintd/api/v1", timeout=60) as client:
            while process.poll() is None:
                with contextlib.suppress(httpx.HTTPError):
                    if client.get("/version").status_code == 200:
                        break
                time.sleep(0.1)
            yield client
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Run the storm and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--failures", type=int, default=1000)
    options = parser.parse_args()
    receiver = Receiver()
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    print(f"load before {os.getloadavg()[0]:.1f}\n", flush=True)
    url = f"http://127.0.0.1:{receiver.server_port}/"
    with tempfile.TemporaryDirectory() as folder, daemon(Path(folder), options.failures, url):
        deadline = time.monotonic() + LONGEST_SECONDS
        while sum(len(notices) for _, notices in receiver.messages) < options.failures and time.monotonic() < deadline:
            time.sleep(0.1)
    report(receiver.messages)


def report(messages: list[tuple[float, list[dict[str, Any]]]]) -> None:
    """Print what arrived, and how long after the end of the run that failed."""
    failed = [(at, notice) for at, notices in messages for notice in notices if notice["kind"] == "failed"]
    ends = [datetime.fromisoformat(notice["since"]).timestamp() for _, notice in failed]
    delays = [at - end for (at, _), end in zip(failed, ends, strict=True)]
    counted = Counter(notice["entry"] for _, notice in failed)
    rows = [
        ("failures", f"{len(counted):,} entries within {max(ends) - min(ends):.0f} s"),
        ("reported twice", f"{sum(number > 1 for number in counted.values()):,}"),
        ("messages", f"{len(messages)}, the largest of {max(len(notices) for _, notices in messages):,} notices"),
        ("failure → delivery", f"median {statistics.median(delays):.1f} s, longest {max(delays):.1f} s"),
        (f"later than {GOAL_SECONDS} s", f"{sum(delay > GOAL_SECONDS for delay in delays):,}"),
    ]
    print("| what | measured |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
