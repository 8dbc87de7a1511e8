"""How long the API takes with a long history while runs are written, and what followers of a live log cost.

    python bench/api.py [--runs 1000000] [--seconds 30] [--followers 50] [--store FILE]

A real daemon on SQLite with that many runs in its history executes entries that are due every second. One client polls
over TCP; the table has the median and the 99th percentile of each request. Then these entries are paused, and many
followers read the log of a run that writes ten lines a second; the table has the daemon's CPU time as a share of one
core. With `--store`, the history is kept in that file for the next measurement. The tables are rows of
docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from history import fill_fast

PROGRAM = Path(sys.executable).parent / "maintd"
QUICK_ENTRIES = 5
SETTLING_SECONDS = 10  # until the runs of the paused entries are over and reviewed
GOAL_MS = 50
GOAL_SHARE = 0.10

WRITER = '''"""Log ten lines a second."""

import time

from maintd.job import Context, Duration, JobParams, job


class Params(JobParams):
    lasts: Duration


@job(timeout="1h")
def run(ctx: Context, params: Params) -> None:
    until = time.monotonic() + params.lasts.total_seconds()
    while time.monotonic() < until:
        ctx.log(f"the time is {time.time()}")
        time.sleep(0.1)
    ctx.check("lines", 1, at_least=1)
'''
QUICK = '''"""End at once."""

from maintd.job import Context, JobParams, job


@job()
def run(ctx: Context, params: JobParams) -> None:
    ctx.check("done", 1, at_least=1)
    ctx.measure("figure", 1.5, "s")
'''
REQUESTS = ("/api/v1/entries", "/api/v1/runs", "/api/v1/runs?entry=quick-1", "/api/v1/status", "/api/v1/findings")


class Daemon:
    """A daemon, requests to it, each over a new connection, and commands."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, folder: Path, environ: dict[str, str]) -> None:
        self.process = process
        self.port = port
        self.folder = folder
        self.environ = environ

    def maintd(self, *words: str) -> None:
        """Run a command; it must succeed."""
        argv = [PROGRAM, *words]
        subprocess.run(argv, env=self.environ, cwd=self.folder, check=True, stdout=subprocess.DEVNULL)

    def get(self, path: str) -> tuple[int, float]:
        """Status and milliseconds of a GET over a new connection."""
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status, (time.perf_counter() - began) * 1000

    def cpu_seconds(self) -> float:
        """CPU time of the daemon's own process, without its children."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def daemon(folder: Path, runs: int, log_lasts: int, kept: Path | None) -> Iterator[Daemon]:
    """Start a daemon on a store with that many runs, a copy of `kept` if it is there; stop it at the end."""
    (folder / "jobs").mkdir()
    (folder / "jobs/quick.py").write_text(QUICK)
    (folder / "jobs/writer.py").write_text(WRITER)
    entries = "".join(f"  quick-{number}: {{job: quick, every: 1s}}\n" for number in range(QUICK_ENTRIES))
    entries += "".join(f"  entry-{number}: {{job: quick}}\n" for number in range(25))
    entries += f"  writer: {{job: writer, params: {{lasts: {log_lasts}s}}, timeout: 1h}}\n"
    (folder / "schedules.yaml").write_text(f"timezone: UTC\nentries:\n{entries}")
    (folder / "state").mkdir()
    if kept is None or not kept.exists():
        fill_fast(kept or folder / "state/maintd.db", runs)
    if kept is not None:
        shutil.copyfile(kept, folder / "state/maintd.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {
        **os.environ,
        "MAINTD_STATE_DIR": str(folder / "state"),
        "MAINTD_CALENDAR": str(folder / "schedules.yaml"),
        "MAINTD_JOBS_PATH": str(folder / "jobs"),
        "MAINTD_LISTEN": f"127.0.0.1:{port}",
        "MAINTD_LOG_LEVEL": "warning",
        "MAINTD_DRAIN": "1s",
        # Otherwise most of the history is older than is kept, and is pruned all the time.
        "MAINTD_RETENTION__RUNS": "4000d",
        "MAINTD_RETENTION__RUNS_PER_ENTRY": "10000000",
        "MAINTD_RETENTION__LEDGER": "8000d",
    }
    process = subprocess.Popen([PROGRAM, "serve"], env=environ, cwd=folder)
    found = Daemon(process, port, folder, environ)
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError):
                if found.get("/readyz")[0] == 200:
                    break
            time.sleep(0.1)
        found.maintd("trigger", "writer")
        yield found
    finally:
        process.terminate()
        process.wait()


def poll(found: Daemon, seconds: int) -> None:
    """Request each path in turn and print how long it took."""
    times: dict[str, list[float]] = {path: [] for path in REQUESTS}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for path in REQUESTS:
            status, took = found.get(path)
            assert status == 200, f"{path}: {status}"
            times[path].append(took)
        time.sleep(0.02)
    print("| request | median | p99 | / goal of 50 ms | requests |\n|---|---|---|---|---|")
    for path, taken in times.items():
        p99 = statistics.quantiles(taken, n=100)[98]
        print(f"| `{path}` | {statistics.median(taken):.1f} ms | {p99:.1f} ms | {p99 / GOAL_MS:.2f} | {len(taken):,} |")


def follow(found: Daemon, run_path: str, followers: int, seconds: int) -> None:
    """Follow one log many times, and print the daemon's CPU share without and with them."""
    lines = [0] * followers
    stop = threading.Event()

    def read(number: int) -> None:
        # Each peer may have some followers only, so they come from several addresses of this machine.
        source = (f"127.0.1.{1 + number // 10}", 0)
        connection = http.client.HTTPConnection("127.0.0.1", found.port, timeout=60, source_address=source)
        connection.request("GET", f"{run_path}/log/stream", headers={"Accept": "text/event-stream"})
        answer = connection.getresponse()
        while not stop.is_set() and (line := answer.readline()):
            lines[number] += line.startswith(b"data:")
        connection.close()

    time.sleep(SETTLING_SECONDS)
    alone = share(found, seconds)
    threads = [threading.Thread(target=read, args=(number,), daemon=True) for number in range(followers)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    followed = share(found, seconds)
    stop.set()
    more = followed - alone
    print(
        "\n| followers of one live log | share of a core | / goal of 10 % | events that each got |\n|---|---|---|---|"
    )
    print(f"| none | {alone:.1%} | | |")
    print(f"| {followers} | {followed:.1%}, {more:.1%} more | {more / GOAL_SHARE:.2f} | {min(lines)} to {max(lines)} |")


def share(found: Daemon, seconds: int) -> float:
    """The daemon's CPU time in that time, as a share of one core."""
    before, began = found.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    return (found.cpu_seconds() - before) / (time.monotonic() - began)


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--followers", type=int, default=50)
    parser.add_argument("--store", type=Path, help="file for the history; created if it is not there")
    options = parser.parse_args()
    lasts = options.seconds * 4 + 60
    with tempfile.TemporaryDirectory() as folder, daemon(Path(folder), options.runs, lasts, options.store) as found:
        print(f"{options.runs:,} runs, load before {os.getloadavg()[0]:.1f}\n", flush=True)
        poll(found, options.seconds)
        for number in range(QUICK_ENTRIES):
            found.maintd("pause", f"quick-{number}", "--why", "followers are measured without them")
        run = writer_run(found)
        follow(found, f"/api/v1/runs/{run}", options.followers, options.seconds)


def writer_run(found: Daemon) -> int:
    """The number of the run that writes the log."""
    connection = http.client.HTTPConnection("127.0.0.1", found.port, timeout=60)
    connection.request("GET", "/api/v1/runs?entry=writer&limit=1")
    runs = json.loads(connection.getresponse().read())["runs"]
    return int(runs[0]["id"])


if __name__ == "__main__":
    main()
