"""A daemon with 20 entries and nothing due: start to ready, memory and CPU, beside raw APScheduler.

    python bench/idle.py [--entries 20] [--starts 5] [--seconds 25]

Start to ready is that of a second start: the store is there and the jobs' catalogue is cached. Memory is the
proportional set size of all processes; CPU comes from the scheduler's own count, not from ticks.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from peers.apscheduler import IDLE
from peers.processes import cpu_seconds, environment, maintd_argv, pss_mib, started, write_calendar

SETTLE = 8.0  # seconds after the start, for what is done once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=20)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=25)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="maintd-bench-") as name:
        folder = Path(name)
        write_calendar(folder / "schedules.yaml", asked.entries)
        env = environment(folder)
        ways = {
            "raw APScheduler": ([sys.executable, "-c", IDLE, str(asked.entries)], "ready"),
            "maintd": (maintd_argv(folder, "serve"), "daemon_ready"),
        }
        with started(ways["maintd"][0], "daemon_ready", env):
            pass  # the first start makes the store
        starts: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(asked.starts):
            for way, (argv, word) in ways.items():
                with started(argv, word, env) as (process, took):
                    starts[way].append((took, cpu_seconds(process)))
        with (
            started(*ways["raw APScheduler"], env) as (raw, _),
            started(*ways["maintd"], env) as (ours, _),
        ):
            time.sleep(SETTLE)
            both = {"raw APScheduler": raw, "maintd": ours}
            before = {way: cpu_seconds(process) for way, process in both.items()}
            time.sleep(asked.seconds)
            shares = {way: (cpu_seconds(both[way]) - before[way]) / asked.seconds * 100 for way in both}
            memory = {way: pss_mib(process) for way, process in both.items()}
            count = {way: 1 + len(process.children(recursive=True)) for way, process in both.items()}
    ready = {way: statistics.median(took for took, _ in of) for way, of in starts.items()}
    first = "raw APScheduler"
    print(f"{asked.entries} entries, none due; {asked.starts} starts, then {asked.seconds:.0f} s of idling\n")
    print("| | × ready | × memory | ready s: median | best | CPU s of a start | PSS MiB | processes | CPU % |")
    print("|---|---|---|---|---|---|---|---|---|")
    for way in ways:
        print(f"| {way} | {ready[way] / ready[first]:.1f} | {memory[way] / memory[first]:.1f} | {ready[way]:.2f} "
              f"| {min(took for took, _ in starts[way]):.2f} | {min(cpu for _, cpu in starts[way]):.2f} "
              f"| {memory[way]:.1f} | {count[way]} | {shares[way]:.3f} |")  # fmt: skip


if __name__ == "__main__":
    main()
