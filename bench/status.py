"""`maintd status` with 1 k and with 1 M runs in the store, a daemon answering, beside `python -c pass`.

    python bench/status.py [--repeat 21] [runs …]

Wall time from exec to exit, in turns, so that a busy machine is busy for all.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import history
from peers.processes import environment, started, write_calendar

from maintd.clock import SystemClock
from maintd.store import open_store

PROGRAM = Path(sys.executable).with_name("maintd")


def milliseconds(argv: Sequence[str], env: dict[str, str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    took = (time.perf_counter() - began) * 1000
    if done.returncode not in (0, 1, 2):  # entries that failed are part of the answer
        sys.exit(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout.decode()}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=21)
    parser.add_argument("runs", nargs="*", type=int, default=[1_000, 1_000_000])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="maintd-bench-", dir="/var/tmp") as name, ExitStack() as stack:
        env = environment(Path(name))
        ways: dict[str, list[str]] = {"python -c pass": [sys.executable, "-c", "pass"]}
        for count in asked.runs:
            folder = Path(name) / str(count)
            folder.mkdir()
            write_calendar(folder / "schedules.yaml", history.ENTRIES)
            state = folder / "state"
            state.mkdir(mode=0o700)
            store = open_store(f"sqlite:///{state / 'maintd.db'}", clock=SystemClock(), migrate=True)
            history.fill(store, count)
            store.close()
            # Retention would prune what was just written.
            own = (
                environment(folder)
                | {"MAINTD_LISTEN": ""}
                | {
                    "MAINTD_RETENTION__RUNS_PER_ENTRY": "1000000",
                    "MAINTD_RETENTION__RUNS": "20000d",
                }
            )
            argv = [str(PROGRAM), "--state-dir", str(state)]
            stack.enter_context(started([*argv, "serve"], "daemon_ready", own))
            ways[f"maintd status, {count:,} runs"] = [*argv, "status"]
        argv = [str(PROGRAM), "--state-dir", str(state), "status", "--quiet"]
        ways[f"maintd status --quiet, {count:,} runs"] = argv
        took: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(asked.repeat):
            for way, argv in ways.items():
                took[way].append(milliseconds(argv, env))
    floor = statistics.median(took["python -c pass"])
    print(f"median of {asked.repeat}\n\n| | × python -c pass | ms | best ms |\n|---|---|---|---|")
    for way, each in took.items():
        print(f"| {way} | {statistics.median(each) / floor:.2f} | {statistics.median(each):.1f} | {min(each):.1f} |")


if __name__ == "__main__":
    main()
