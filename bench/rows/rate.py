"""Recorded trivial runs per second: from the first line of the first job until the end of the last is recorded."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from peers.base import Peer, Promises, Queue, Recorder, UnavailableError, Workload
from peers.prefect import Prefect
from peers.processes import DaemonError
from table import Figure, Row, log_progress

from rows import floors

LONGEST = 120.0  # seconds
POLL = 0.05
CALLS = Promises(False, True, True, "flows called one after the other in one process; rows of run and states")


class LateError(DaemonError):
    """The runs were due before the contender was ready."""


def measure(store: str, peers: Sequence[Peer], repeat: int) -> Row:
    """Contenders that record in SQLite, or in Postgres; those without a queue are given entries due at one instant."""
    figures = [_figure(peer, repeat) for peer in peers]
    found = {
        "floor: fork and wait, one by one": [floors.fork_rate() for _ in range(3)],
        "floor: fork, exec and wait, one by one": [floors.exec_rate() for _ in range(3)],
    }
    if store == "SQLite":
        found["floor: SQLite, two commits with fsync"] = [floors.sqlite_rate() for _ in range(3)]
    else:
        servers = peers[0].servers
        found["floor: Postgres, two commits with fsync"] = [
            floors.postgres_rate(servers.database("floor_bench")) for _ in range(3)
        ]
    figures += [Figure(name, values) for name, values in found.items()]
    title = f"recorded trivial runs a second, history in {store}"
    return Row(f"runs-{store.lower()}", title, "runs/s", figures, more_is_better=True)


def _figure(peer: Peer, repeat: int) -> Figure:
    figure = Figure(peer.name, promises=peer.promises)
    log_progress(f"runs: {peer.name}")
    try:
        if isinstance(peer, Prefect):  # too slow to be repeated
            figure.promises = CALLS
            figure.values.append(_calls(peer, figure))
        elif isinstance(peer, Recorder):
            figure.values += [_in_time(peer, figure) for _ in range(repeat)]
    except (UnavailableError, DaemonError) as error:
        figure.missing = str(error)[:300]
    return figure


def _calls(peer: Prefect, figure: Figure) -> float:
    with tempfile.TemporaryDirectory(prefix="maintd-bench-", dir="/var/tmp") as name:
        work = Workload(Path(name), 1)
        with peer.started(work) as started:
            figure.command = started.commands[0] + "; python prefect_flows.py calls 30"
            return peer.calls_per_second(work, 30)


def _in_time(peer: Recorder, figure: Figure) -> float:
    """Runs a second. When it was not ready before its entries were due, it is given more time."""
    lead = peer.lead(Workload(Path(), peer.batch))
    for longer in (1, 3):
        with tempfile.TemporaryDirectory(prefix="maintd-bench-", dir="/var/tmp") as name:
            try:
                return _runs(peer, Path(name), figure, lead * longer)
            except LateError:
                if longer > 1:
                    raise
    raise AssertionError("the last turn returns or raises")


def _runs(peer: Recorder, folder: Path, figure: Figure, lead: float) -> float:
    count = peer.batch
    plain = Workload(folder, 20) if isinstance(peer, Queue) else Workload(folder, count, count)
    work = replace(plain, at=int(time.time() + lead) + 1)
    with peer.started(work) as started:
        if plain.due and time.time() > work.at - 0.5:
            raise LateError(f"was not ready within {lead:.0f} s")
        figure.command = "; ".join(started.commands)
        figure.note = f"{count:,} runs" + ("" if isinstance(peer, Queue) else ", due at one instant")
        if isinstance(peer, Queue):
            client = threading.Thread(target=peer.enqueue, args=(work, count))
            client.start()
        try:
            return count / _seconds(peer, work, count)
        finally:
            if isinstance(peer, Queue):
                client.join()


def _seconds(peer: Recorder, work: Workload, count: int) -> float:
    """Return the seconds until all runs are recorded, ± 0.05 s. Raises DaemonError after LONGEST seconds."""
    deadline = time.time() + LONGEST
    while peer.finished(work) < count:
        if time.time() > deadline:
            raise DaemonError(f"{peer.finished(work)} of {count} runs recorded within {LONGEST:.0f} s")
        time.sleep(POLL)
    ended = time.time_ns()
    stamps = [int(line.split()[1]) for line in work.journal.read_text().splitlines()]
    return (ended - min(stamps)) / 1e9
