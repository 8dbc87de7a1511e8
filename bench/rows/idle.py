"""An idle daemon: time from start to ready with few and with many entries, memory and CPU while idle."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import yaml
from peers import maintd
from peers.base import PROGRAMS, Peer, Started, UnavailableError, Workload, output
from peers.celery import Celery
from peers.processes import Daemon, DaemonError, cpu_seconds, forget_logs, pss_mib
from table import Figure, Row, log_progress

SETTLE = 20.0  # seconds after the last start, for what is done once
ENTRIES = 20
MANY = 10_000
SLEEPER = "import time; print('ready', flush=True); time.sleep(3600)"


def start(peers: Sequence[Peer], repeat: int) -> Row:
    """Measure the seconds until it reports ready, at each start except the first, which creates the store."""
    figures = [_starts(peer, repeat, ENTRIES) for peer in peers]
    figures.append(Figure("floor: python -c pass", [_seconds([sys.executable, "-c", "pass"]) for _ in range(10)]))
    return Row("start", f"second start to ready, {ENTRIES} entries", "s", figures, per_run=False)


def load(peers: Sequence[Peer]) -> Row:
    """The same with a large calendar. Celery's beat reports ready too early, so its scheduler is timed alone."""
    figures = [_scheduler_alone(peer) if isinstance(peer, Celery) else _starts(peer, 1, MANY) for peer in peers]
    text = maintd.calendar(Workload(Path("/tmp"), MANY))
    took = []
    for _ in range(3):
        began = time.perf_counter()
        yaml.load(text, yaml.CSafeLoader)
        took.append(time.perf_counter() - began)
    figures.append(Figure("floor: libyaml reads maintd's file", took))
    return Row("load", f"second start to ready, {MANY:,} entries", "s", figures, per_run=False)


def _starts(peer: Peer, repeat: int, entries: int) -> Figure:
    figure = Figure(peer.name, promises=peer.promises)
    log_progress(f"start, {entries:,} entries: {peer.name}")
    try:
        with tempfile.TemporaryDirectory(prefix="maintd-bench-", dir="/var/tmp") as name:
            work = Workload(Path(name), entries)
            for turn in range(1 + repeat):
                forget_logs(work.folder)
                with peer.started(work) as started:
                    figure.command = "; ".join(started.commands)
                    if turn:
                        figure.values.append(started.ready_seconds)
    except (UnavailableError, DaemonError) as error:
        figure.missing = str(error)[:300]
    return figure


def _scheduler_alone(peer: Celery) -> Figure:
    figure = Figure(peer.name, promises=peer.promises, note="its scheduler and the first tick alone, no process")
    with tempfile.TemporaryDirectory(prefix="maintd-bench-", dir="/var/tmp") as name:
        work = Workload(Path(name), MANY)
        try:
            peer.prepare(work)
            figure.command = "python celery_tasks.py load"
            figure.values = [
                float(output(peer.python, str(PROGRAMS / "celery_tasks.py"), "load", env=peer.settings(work)))
            ]
        except UnavailableError as error:
            figure.missing = str(error)[:300]
    return figure


def idle(peers: Sequence[Peer], seconds: float) -> list[Row]:
    """Measure all at the same time; their servers are listed separately, since several contenders may share one."""
    memory: list[Figure] = []
    share: list[Figure] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="maintd-bench-", dir="/var/tmp")))
        running: dict[str, Started] = {}
        for peer in peers:
            own = folder / peer.name.translate(str.maketrans(" ,()+/", "______"))
            own.mkdir()
            figures = [Figure(peer.name, promises=peer.promises) for _ in range(2)]
            memory.append(figures[0])
            share.append(figures[1])
            try:
                running[peer.name] = stack.enter_context(peer.started(Workload(own, ENTRIES)))
            except (UnavailableError, DaemonError) as error:
                figures[0].missing = figures[1].missing = str(error)[:300]
        floor = Daemon([sys.executable, "-S", "-c", SLEEPER], folder / "log")
        stack.callback(floor.stop)
        running["floor: python -S, asleep"] = Started([floor], floor.wait_for("ready"))
        for figures in (memory, share):
            figures.append(Figure("floor: python -S, asleep"))
        time.sleep(SETTLE)
        before = {name: _cpu(started) for name, started in running.items()}
        time.sleep(seconds)
        for heavy, busy in zip(memory, share, strict=True):
            if heavy.contender not in running:
                continue
            started = running[heavy.contender]
            heavy.command = busy.command = "; ".join(started.commands)
            heavy.values = [sum(pss_mib(daemon.root) for daemon in started.daemons)]
            busy.values = [(_cpu(started) - before[heavy.contender]) / seconds * 100]
            heavy.more = {
                "processes": float(sum(1 + len(daemon.root.children(recursive=True)) for daemon in started.daemons)),
                "its servers, MiB": sum(map(pss_mib, started.servers), 0.0),
            }
    return [
        Row("idle-memory", f"memory (PSS) of all processes, {ENTRIES} entries, none due", "MiB", memory, per_run=False),
        Row("idle-cpu", f"CPU over {seconds:.0f} s, {ENTRIES} entries, none due", "% of a core", share, per_run=False),
    ]


def _cpu(started: Started) -> float:
    return sum(cpu_seconds(daemon.root) for daemon in started.daemons)


def _seconds(argv: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, check=True)
    return time.perf_counter() - began
