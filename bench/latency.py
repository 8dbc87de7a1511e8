"""The executor alone, without planner and daemon: from due time to the first line, and trivial runs per second.

    python bench/latency.py [--rounds 40] [--bursts 5] [--many 100] [--runs 600] [--store postgresql://…]

Everything is real: the row is written at the due time, as the planner does, then claimed, and made in a process of its
own that writes down when its first line ran. The floor is `os.fork` from an empty Python process, one after the other.
"""

from __future__ import annotations

import argparse
import logging
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import structlog

from maintd.clock import SystemClock
from maintd.config.settings import Settings
from maintd.executor.executor import LocalExecutor
from maintd.job.description import load_job
from maintd.model.entry import StepPlan
from maintd.model.run import NewRun, RunState, Trigger
from maintd.model.target import Targets
from maintd.store import Store, open_store

OURS = "maintd's executor: isolated, recorded"
FLOOR = "floor: fork loop"

JOB = '''"""Write down when this line ran."""

import os
import time

from maintd.job import Context, JobParams, job


class Params(JobParams):
    into: str


@job(timeout="1m")
def run(ctx: Context, params: Params) -> None:
    now = time.time_ns()
    out = os.open(params.into, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(out, b"%d\\n" % now)
    os.close(out)
'''


class Bench:
    """An executor on a store of its own."""

    def __init__(self, folder: Path, url: str | None, slots: int) -> None:
        self.folder = folder
        path = folder / "first_line.py"
        path.write_text(JOB, encoding="utf-8")
        job = load_job(path).description
        clock = SystemClock()
        self.settings = Settings(state_dir=folder / "state", slots=slots, node="bench", _env_file=None)
        self.store: Store = open_store(
            url or self.settings.store, clock=clock, migrate=True, state_dir=self.settings.state_dir
        )
        self.executor = LocalExecutor(
            self.store,
            self.settings,
            clock,
            jobs=lambda: {job.name: job},
            targets=Targets,
            incarnation="1",
            calendar_jobs=lambda: [job.name],
        )
        self.executor.start()

    def queue(self, count: int, into: Path, prefix: str) -> list[int]:
        plan = (StepPlan(name="first_line", job="first_line", params={"into": str(into)}),)
        now = self.store.now()
        return [
            self.store.runs.add(
                NewRun(
                    entry=f"{prefix}{n}",
                    title="t",
                    trigger=Trigger.SCHEDULE,
                    state=RunState.QUEUED,
                    not_before=now,
                    plan=plan,
                ),
                now,
            )[0]
            for n in range(count)
        ]

    def make_warm(self) -> None:
        self.executor.expect(self.store.now() + timedelta(seconds=1))
        wait_until(lambda: self.executor.template_ready, "the template is warm")
        time.sleep(0.3)

    def wait_for(self, ids: Sequence[int], into: Path) -> None:
        """Until all have run, without taking the machine's time by looking."""
        size = len(ids) * 20
        wait_until(lambda: into.exists() and into.stat().st_size >= size, "the first lines", every=0.02)
        wait_until(lambda: not self.executor.running, "the ends", every=0.02)
        wait_until(lambda: all(run.state.final for run in map(self.store.history.run, ids[-1:]) if run), "the last run")
        wait_until(self._is_idle, "every run")

    def _is_idle(self) -> bool:
        counts = self.store.history.counts(self.store.now())
        return not (counts["running"] or counts["queued"])

    def stop(self) -> None:
        self.executor.stop(timedelta(seconds=5))
        self.store.close()


def wait_until(condition, what: str, seconds: float = 60.0, every: float = 0.01) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)


def one_due(bench: Bench, rounds: int) -> list[float]:
    took = []
    for n in range(rounds):
        into = bench.folder / f"one-{n}"
        time.sleep(0.2)
        due = time.time_ns()
        ids = bench.queue(1, into, "one-")
        bench.executor.wake()
        bench.wait_for(ids, into)
        took.append((int(into.read_text()) - due) / 1e6)
    return took


def many_due(bench: Bench, count: int, prefix: str) -> list[float]:
    """All rows are there before the due time, as they are when the planner has written them in one transaction."""
    into = bench.folder / f"many-{prefix}"
    plan = (StepPlan(name="first_line", job="first_line", params={"into": str(into)}),)
    entries = [f"{prefix}{n}" for n in range(count)]
    start = bench.store.now() + timedelta(seconds=1.5)
    ids = [
        bench.store.runs.add(
            NewRun(entry=name, title="t", trigger=Trigger.SCHEDULE, state=RunState.QUEUED, not_before=start, plan=plan),
            bench.store.now(),
        )[0]
        for name in entries
    ]
    bench.executor.wake()
    bench.wait_for(ids, into)
    due = int(start.timestamp() * 1e9)
    return sorted((int(line) - due) / 1e6 for line in into.read_text().split())


def throughput(bench: Bench, count: int) -> float:
    into = bench.folder / "through"
    began = time.perf_counter()
    ids = bench.queue(count, into, "through-")
    bench.executor.wake()
    bench.wait_for(ids, into)
    return count / (time.perf_counter() - began)


def fork_floor(count: int) -> list[float]:
    code = (
        "import os,time\n"
        "r,w=os.pipe()\n"
        "t=time.time_ns()\n"
        f"for _ in range({count}):\n"
        "  if os.fork()==0: os.write(w,b'%20d'%(time.time_ns()-t)); os._exit(0)\n"
        f"for _ in range({count}): os.wait()\n"
        f"data=os.read(r,20*{count})\n"
        "print(*[data[n:n+20].decode().strip() for n in range(0,len(data),20)])\n"
    )
    text = subprocess.run([sys.executable, "-S", "-c", code], check=True, capture_output=True, text=True).stdout
    return sorted(int(word) / 1e6 for word in text.split())


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def fsyncs(folder: Path, seconds: float = 2.0) -> float:
    """Runs per second when a run is two durable commits by plain sqlite3 and nothing else."""
    connection = sqlite3.connect(folder / "floor.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE runs (id INTEGER PRIMARY KEY, entry TEXT, state TEXT)")
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        done = connection.execute("INSERT INTO runs (entry, state) VALUES ('e', 'running')")
        connection.execute("UPDATE runs SET state = 'succeeded' WHERE id = ?", (done.lastrowid,))
        count += 1
    connection.close()
    return count / (time.perf_counter() - began)


def fork_rate(count: int = 500) -> float:
    """Children per second, one after the other, from an empty Python process."""
    code = (
        "import os,time\n"
        "t=time.perf_counter()\n"
        f"for _ in range({count}):\n"
        "  p=os.fork()\n"
        "  if p==0: os._exit(0)\n"
        "  os.waitpid(p,0)\n"
        f"print({count}/(time.perf_counter()-t))\n"
    )
    return float(subprocess.run([sys.executable, "-S", "-c", code], check=True, capture_output=True, text=True).stdout)


def table(title: str, unit: str, rows: dict[str, list[float]], against: str) -> None:
    """Ratios first: to the row `against`, by the median."""
    base = statistics.median(rows[against])
    print(f"\n| {title} | × | median {unit} | p99 | worst |\n|---|---|---|---|---|")
    for name, each in rows.items():
        print(
            f"| {name} | {statistics.median(each) / base:.1f} | {statistics.median(each):.1f} "
            f"| {quantile(each, 0.99):.1f} | {max(each):.1f} |",
            flush=True,
        )


def quiet() -> None:
    """The daemon's log would stand between the tables."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--bursts", type=int, default=5)
    parser.add_argument("--many", type=int, default=100)
    parser.add_argument("--runs", type=int, default=600)
    parser.add_argument("--store", help="an empty Postgres database instead of SQLite")
    options = parser.parse_args()
    quiet()
    one: dict[str, list[float]] = {}
    last: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="maintd-bench-") as name:
        folder = Path(name)
        bench = Bench(folder, options.store, slots=options.many)
        bench.make_warm()
        one[OURS] = one_due(bench, options.rounds)
        one[FLOOR] = [fork_floor(1)[0] for _ in range(options.rounds)]
        ways: dict[str, Callable[[int], float]] = {
            OURS: lambda n: many_due(bench, options.many, f"r{n}-")[-1],
            FLOOR: lambda n: fork_floor(options.many)[-1],
        }
        for n in range(options.bursts):
            for way, act in ways.items():
                if way == OURS:
                    bench.make_warm()
                last.setdefault(way, []).append(act(n))
        bench.stop()
        table("due time → first line, one due", "ms", one, FLOOR)
        table(f"due time → first line of the last of {options.many}", "ms", last, FLOOR)
        (folder / "second").mkdir()
        bench = Bench(folder / "second", options.store, slots=16)
        bench.make_warm()
        rate = throughput(bench, options.runs)
        bench.stop()
        floors = {"two fsynced commits, sqlite3": fsyncs(folder), "fork and wait, bare Python": fork_rate()}
    print("\n| trivial runs, ours 16 at a time, the others one after the other | × | per second |\n|---|---|---|")
    for what, each in {f"{OURS}, durable, 16 slots": rate, **floors}.items():
        print(f"| {what} | {each / rate:.1f} | {each:.0f} |")


if __name__ == "__main__":
    main()
