"""From due time to the first line of the job: one due, and many due at once; trivial runs per second; memory.

    python bench/latency.py [--rounds 100] [--many 100] [--runs 600] [--store postgresql://…]

Everything is real: the row is written at the due time, as the planner does, then claimed, and made in a process of its
own that writes down when its first line ran. The last column is the bare floor taken in the same run: `os.fork` from an
empty Python process, one after the other.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import psutil

from maintd.clock import SystemClock
from maintd.execution.local import LocalExecutor
from maintd.job import load_job
from maintd.model import NewRun, RunState, StepPlan, Trigger
from maintd.settings import Settings, Targets
from maintd.store import Store, open_store

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
            self.store, self.settings, clock, jobs=lambda: {job.name: job}, targets=Targets, incarnation="1"
        )
        self.executor.start()

    def queue(self, count: int, into: Path, prefix: str) -> list[int]:
        plan = (StepPlan(name="first_line", job="first_line", params={"into": str(into)}),)
        now = self.store.now()
        return [
            self.store.runs.add(
                NewRun(entry=f"{prefix}{n}", title="t", trigger=Trigger.SCHEDULE, state=RunState.QUEUED,
                       not_before=now, plan=plan), now)[0]
            for n in range(count)
        ]  # fmt: skip

    def make_warm(self) -> None:
        self.executor.expect(self.store.now() + timedelta(seconds=1))
        wait_until(lambda: self.executor.warm, "the template is warm")
        time.sleep(0.3)

    def wait_for(self, ids: Sequence[int], into: Path) -> None:
        """Until all have run, without taking the machine's time by looking."""
        size = len(ids) * 20
        wait_until(lambda: into.exists() and into.stat().st_size >= size, "the first lines", every=0.02)
        wait_until(lambda: not self.executor.running, "the ends", every=0.02)
        wait_until(lambda: all(run.state.final for run in map(self.store.history.run, ids[-1:]) if run), "the last run")
        wait_until(lambda: not self.store.history.counts()["running"] and not self.store.history.counts()["queued"],
                   "every run")  # fmt: skip

    def stop(self) -> None:
        self.executor.stop(timedelta(seconds=5))
        self.store.close()


def wait_until(condition, what: str, seconds: float = 60.0, every: float = 0.01) -> None:  # type: ignore[no-untyped-def]
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
    import subprocess

    text = subprocess.run([sys.executable, "-S", "-c", code], check=True, capture_output=True, text=True).stdout
    return sorted(int(word) / 1e6 for word in text.split())


def pss_mib(pid: int) -> float:
    return psutil.Process(pid).memory_full_info().pss / 2**20


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--many", type=int, default=100)
    parser.add_argument("--runs", type=int, default=600)
    parser.add_argument("--store")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="maintd-bench-") as folder:
        bench = Bench(Path(folder), options.store, slots=options.many)
        idle = pss_mib(os.getpid())
        bench.make_warm()
        one = one_due(bench, options.rounds)
        print(f"one due: p50 {statistics.median(one):.1f} ms, p99 {quantile(one, 0.99):.1f}, worst {max(one):.1f}")
        for n in range(3):
            bench.make_warm()
            many = many_due(bench, options.many, f"r{n}-")
            floor = fork_floor(options.many)
            print(f"{len(many)} due at once: p50 {statistics.median(many):.0f} ms, last {many[-1]:.0f}; "
                  f"fork loop: last {floor[-1]:.0f}")  # fmt: skip
        bench.make_warm()
        children = psutil.Process().children(recursive=True)
        print(f"memory: idle {idle:.1f} MiB PSS; warm {pss_mib(os.getpid()):.1f} + "
              f"{sum(pss_mib(child.pid) for child in children):.1f} in {len(children)} processes; "
              f"template {max(child.memory_info().rss for child in children) / 2**20:.1f} RSS")  # fmt: skip
        bench.stop()
        slots = (
            Bench(Path(folder) / "second", options.store, slots=16)
            if (Path(folder) / "second").mkdir() is None
            else bench
        )
        slots.make_warm()
        print(f"trivial recorded runs: {throughput(slots, options.runs):.0f} per second with 16 slots")
        slots.stop()


if __name__ == "__main__":
    main()
