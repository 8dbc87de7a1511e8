"""How long other clients wait while a million keys are cleaned: the runbook's script against the paced job.

    python bench/redis_hygiene.py [--keys 1000000] [--match 250000] [--load 1 0.2]

Each way gets a fresh server with the same keys. Another process sends PING each millisecond and keeps each answer's
time; one more does the same to an unused server, in the same seconds: what that waits is this machine's
scheduler. Prints milliseconds and the ratio to the runbook's worst stall.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path

from redis import Redis

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.job_runs import run_job  # noqa: E402
from support.servers.redis import RedisServer, redis  # noqa: E402

RUNBOOK = """
local keys = redis.call('keys', ARGV[1])
for i = 1, #keys, 5000 do
  redis.call('del', unpack(keys, i, math.min(i + 4999, #keys)))
end
return #keys
"""


def ping(port: int, stopped: Event, file: str) -> None:
    """Keep the time of each answer until stopped."""
    waits = []
    with closing(Redis(port=port)) as client:
        while not stopped.is_set():
            began = time.perf_counter()
            client.ping()
            waits.append(time.perf_counter() - began)
            time.sleep(0.001)
    Path(file).write_text("\n".join(map(str, waits)))


def script(server: RedisServer) -> None:
    """As the runbook has it, with a pattern that hits the keys to clean."""
    with closing(server.client()) as client:
        client.eval(RUNBOOK, 0, "cache:tmp:*")


def job(server: RedisServer, load: float) -> None:
    """Run the shipped job: count all keys with their expiry, then check those with the prefix again and unlink them."""
    params = {
        "save": False,
        "load": load,
        "unlink": {"cache:tmp:": "0s"},
        "max_share": 1,
        "max_keys": 10_000_000,
    }
    result = run_job("redis_maintenance", params, {"redis": {"main": {"url": server.url}}})
    if result.error or not result.changes:
        raise SystemExit(result.text())


@dataclass(frozen=True)
class Row:
    """One way: how long it took, what other clients waited in that time (milliseconds), the remaining keys."""

    name: str
    seconds: float
    waits: list[float]
    control: list[float]
    left: int


def measure(name: str, act: Callable[[RedisServer], None], keys: int, match: int) -> Row:
    """One way on a server of its own."""
    with (
        redis("--enable-debug-command", "local") as server,
        redis() as unused,
        tempfile.TemporaryDirectory() as folder,
        closing(server.client()) as client,
    ):
        client.execute_command("DEBUG", "POPULATE", match, "cache:tmp")
        client.execute_command("DEBUG", "POPULATE", keys - match, "user")
        stopped = multiprocessing.Event()
        files = {port: f"{folder}/{port}" for port in (server.port, unused.port)}
        probes = [multiprocessing.Process(target=ping, args=(port, stopped, file)) for port, file in files.items()]
        for probe in probes:
            probe.start()
        time.sleep(0.5)
        began = time.perf_counter()
        act(server)
        took = time.perf_counter() - began
        stopped.set()
        for probe in probes:
            probe.join()
        waits, control = ([float(line) * 1000 for line in Path(file).read_text().split()] for file in files.values())
        return Row(name, took, waits, control, int(client.dbsize()))


def main() -> None:
    """Measure each way and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--match", type=int, default=250_000)
    parser.add_argument("--load", type=float, nargs="+", default=[1.0, 0.2])
    options = parser.parse_args()
    ways: list[tuple[str, Callable[[RedisServer], None]]] = [("runbook", script)]
    ways += [(f"job, load {load:g}", partial(job, load=load)) for load in options.load]
    rows = [measure(name, act, options.keys, options.match) for name, act in ways]
    worst = max(rows[0].waits)
    print(f"{options.keys:,} keys, {options.match:,} to clean; PING each millisecond from another process")
    print(
        f"{'way':<14}{'total s':>9}{'p50 ms':>8}{'p99 ms':>8}{'p99.9 ms':>10}{'worst ms':>10}{'of runbook':>12}"
        f"{'unused server, worst':>22}{'keys left':>11}"
    )
    for row in rows:
        ranked = sorted(row.waits)
        p50, p99, p999 = (ranked[int(len(ranked) * share)] for share in (0.5, 0.99, 0.999))
        print(
            f"{row.name:<14}{row.seconds:>9.2f}{p50:>8.2f}{p99:>8.2f}{p999:>10.2f}{ranked[-1]:>10.1f}"
            f"{ranked[-1] / worst:>12.3f}{max(row.control):>22.1f}{row.left:>11,}"
        )


if __name__ == "__main__":
    main()
