"""The status command, from exec to exit, with a short and a very long history."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import history
from peers.base import Peer, Promises, Queue, Recorder, UnavailableError, Workload
from peers.maintd import COMMAND, Maintd
from peers.processes import DaemonError
from table import Figure, Row, log_progress

TRIVIAL = 200  # runs in a peer's history
RUNS_MATTER = Promises(True, True, True, "all entries with their last outcome and what needs attention")


@dataclass(frozen=True)
class Way:
    """A command to time."""

    name: str
    argv: list[str]
    env: Mapping[str, str]
    promises: Promises | None
    note: str


def measure(peers: Sequence[Peer], sizes: Sequence[int], repeat: int) -> Row:
    """Time all commands in turns, while all daemons are up, so that a busy machine affects all."""
    figures: dict[str, Figure] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="maintd-bench-", dir="/var/tmp")))
        ways = [
            way
            for peer in peers
            if isinstance(peer, Maintd)
            for size in reversed(sizes)
            for way in _ours(peer, size, folder / str(size), stack)
        ]
        for peer in peers:
            if not isinstance(peer, Maintd):
                ways += _theirs(peer, folder / peer.name.split()[0], stack, figures)
        ways += _floors(folder / str(sizes[-1]) / "state/maintd.db")
        took: dict[str, list[float]] = {way.name: [] for way in ways}
        for _ in range(repeat):
            for way in ways:
                took[way.name].append(_milliseconds(way))
    ours = [
        Figure(
            way.name,
            took[way.name],
            way.promises,
            note=way.note,
            command=f"{Path(way.argv[0]).name} {shlex.join(way.argv[1:])}",
        )
        for way in ways
    ]
    return Row("status", "the status command, daemon up", "ms", ours + list(figures.values()), per_run=False)


def _ours(peer: Maintd, size: int, folder: Path, stack: ExitStack) -> list[Way]:
    """Start one daemon on a history of that size, without retention, which would prune it."""
    (folder / "state").mkdir(parents=True, mode=0o700)
    work = Workload(folder, history.ENTRIES)
    began = time.perf_counter()
    history.fill_fast(folder / "state/maintd.db", size)
    took, size_bytes = time.perf_counter() - began, (folder / "state/maintd.db").stat().st_size
    log_progress(f"status: {size:,} runs written in {took:.0f} s, {size_bytes / size:.0f} bytes a run")
    kept = {"MAINTD_RETENTION__RUNS_PER_ENTRY": "100000000", "MAINTD_RETENTION__RUNS": "20000d"}
    stack.enter_context(Kept(peer.servers, kept).started(work))
    argv = peer.status_argv(work)
    env = peer.environment()
    return [
        Way(f"maintd status, {size:,} runs", argv, env, RUNS_MATTER, f"{history.ENTRIES} entries"),
        Way(f"maintd status --quiet, {size:,} runs", [*argv, "--quiet"], env, RUNS_MATTER, "the daemon's health"),
    ]


class Kept(Maintd):
    """maintd with further settings."""

    def __init__(self, servers: object, more: Mapping[str, str]) -> None:
        super().__init__(servers)
        self.more = more

    def settings(self, work: Workload) -> dict[str, str]:
        return super().settings(work) | self.more


def _theirs(peer: Peer, folder: Path, stack: ExitStack, missing: dict[str, Figure]) -> list[Way]:
    log_progress(f"status: {peer.name}")
    folder.mkdir()
    work = Workload(folder, 20)
    argv = peer.status_argv(work)
    if argv is None:
        missing[peer.name] = Figure(peer.name, promises=peer.promises, missing="has no such command")
        return []
    note = "no history"
    try:
        stack.enter_context(peer.started(work))
        if isinstance(peer, Queue):
            peer.enqueue(work, TRIVIAL)
            _drained(peer, work)
            note = f"{TRIVIAL} runs in its history"
        way = Way(f"{peer.name}: {peer.status_words}", argv, peer.settings(work), peer.promises, note)
        _milliseconds(way)
    except (UnavailableError, DaemonError) as error:
        missing[peer.name] = Figure(peer.name, promises=peer.promises, missing=str(error)[:300])
        return []
    return [way]


def _drained(peer: Recorder, work: Workload) -> None:
    deadline = time.monotonic() + 60
    while peer.finished(work) < TRIVIAL and time.monotonic() < deadline:
        time.sleep(0.1)


def _floors(database: Path) -> list[Way]:
    query = "SELECT state FROM runs ORDER BY id DESC LIMIT 1"
    code = f"import sqlite3; print(sqlite3.connect('file:{database}?mode=ro', uri=True).execute({query!r}).fetchone())"
    ways = [
        Way("floor: python -c pass", [sys.executable, "-c", "pass"], {}, None, ""),
        Way("floor: python's sqlite3 reads a row", [sys.executable, "-c", code], {}, None, "of the largest history"),
    ]
    if shell := shutil.which("sqlite3"):
        ways.append(Way("floor: sqlite3 reads a row", [shell, str(database), query], {}, None, "the C program"))
    return ways


def _milliseconds(way: Way) -> float:
    began = time.perf_counter()
    done = subprocess.run(way.argv, env=dict(way.env) or None, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    took = (time.perf_counter() - began) * 1000
    # maintd exits with 1 when an entry needs attention, which is a valid answer.
    if done.returncode not in ((0, 1) if way.argv[0] == COMMAND else (0,)):
        raise UnavailableError(f"{' '.join(way.argv)}: exit {done.returncode}: {done.stdout.decode()[-200:]}")
    return took
