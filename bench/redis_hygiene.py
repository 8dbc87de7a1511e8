"""How long other clients wait while a million keys are cleaned: the runbook's script against the paced job.

    python bench/redis_hygiene.py [--keys 1000000] [--match 250000] [--load 0.2 1]

Each way gets a fresh server with the same keys. Another process sends PING each millisecond and keeps each answer's
time. Prints milliseconds and the ratio to the runbook's worst stall. `idle` is the probe alone: what this machine's
scheduler adds by itself.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing.synchronize import Event
from pathlib import Path

from redis import Redis

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from jobs.running import run_job  # noqa: E402
from servers.redis import RedisServer, redis  # noqa: E402

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
        client.eval(RUNBOOK, 0, "cache:tmp:*")  # type: ignore[no-untyped-call]


def job(server: RedisServer, load: float) -> None:
    """The shipped job: all keys counted with their expiry, then those below the prefix looked at again and unlinked."""
    params = {
        "save": False, "load": load, "unlink": {"cache:tmp:": "0s"}, "max_share": 1, "max_keys": 10_000_000,
    }  # fmt: skip
    result = run_job("redis_maintenance", params, {"redis": {"main": {"url": server.url}}})
    if result.error or not result.changes:
        raise SystemExit(result.told())


def measure(
    name: str, act: Callable[[RedisServer], None], keys: int, match: int
) -> tuple[str, float, list[float], int]:
    """The seconds it took, the waits beside it, and the keys that were left."""
    with redis("--enable-debug-command", "local") as server, tempfile.NamedTemporaryFile() as file:
        with closing(server.client()) as client:
            client.execute_command("DEBUG", "POPULATE", match, "cache:tmp")  # type: ignore[no-untyped-call]
            client.execute_command("DEBUG", "POPULATE", keys - match, "user")  # type: ignore[no-untyped-call]
            stopped = multiprocessing.Event()
            probe = multiprocessing.Process(target=ping, args=(server.port, stopped, file.name))
            probe.start()
            time.sleep(0.5)
            began = time.perf_counter()
            act(server)
            took = time.perf_counter() - began
            stopped.set()
            probe.join()
            left = int(client.dbsize())  # type: ignore[arg-type]
        return name, took, [float(line) * 1000 for line in Path(file.name).read_text().split()], left


def main() -> None:
    """Measure each way and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--match", type=int, default=250_000)
    parser.add_argument("--load", type=float, nargs="+", default=[0.2, 1.0])
    options = parser.parse_args()
    ways: list[tuple[str, Callable[[RedisServer], None]]] = [("idle", lambda _: time.sleep(3)), ("runbook", script)]
    ways += [(f"job, load {load:g}", lambda server, load=load: job(server, load)) for load in options.load]
    rows = [measure(name, act, options.keys, options.match) for name, act in ways]
    worst = next(max(waits) for name, _, waits, _ in rows if name == "runbook")
    print(f"{options.keys:,} keys, {options.match:,} to clean; PING each millisecond from another process")
    print(f"{'way':<16}{'total s':>9}{'p50 ms':>9}{'p99 ms':>9}{'worst ms':>10}{'of runbook':>12}{'keys left':>12}")
    for name, took, waits, left in rows:
        p99 = statistics.quantiles(waits, n=100)[98]
        print(
            f"{name:<16}{took:>9.2f}{statistics.median(waits):>9.3f}{p99:>9.2f}{max(waits):>10.1f}"
            f"{max(waits) / worst:>12.3f}{left:>12,}"
        )


if __name__ == "__main__":
    main()
