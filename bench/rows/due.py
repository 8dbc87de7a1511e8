"""From the due time of entries to the first line of each job."""

from __future__ import annotations

import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from peers.base import Peer, Started, UnavailableError, Workload
from peers.prefect import Prefect
from peers.processes import DaemonError
from table import Figure, Row, log_progress

from rows import floors

WINDOW = 60.0  # seconds after the last instant in which a start still counts
BOUND = 300  # seconds for one contender in one row
REGISTERED = 100  # deployments that Prefect registers in reasonable time: some eight a second


@dataclass(frozen=True)
class Shape:
    """How many entries, how many of them due at once, how often."""

    key: str
    title: str
    entries: int
    burst: int
    rounds: int
    metric: str  # the value that is compared


SHAPES = [
    Shape("due-1", "due to first line, one due", 20, 1, 10, "median"),
    Shape("due-100", "due to first line, 100 due at once, the last of them", 100, 100, 3, "last"),
    Shape("due-1000", "due to first line, 1,000 due at once, the last of them", 1000, 1000, 1, "last"),
    Shape(
        "due-5-of-10000", "due to first line, 5 due at once of 10,000 entries, the last of them", 10_000, 5, 1, "last"
    ),
]


def measure(shape: Shape, peers: Sequence[Peer], repeat: int) -> Row:
    """Measure one shape. Contenders that know only minutes are restarted for each round, at most `repeat` times."""
    figures = [_figure(shape, peer, repeat) for peer in peers]
    if shape.burst > 1:
        for name, act in (("floor: fork", floors.fork_burst), ("floor: fork and exec", floors.exec_burst)):
            found = [sorted(act(shape.burst)) for _ in range(3)]
            figures.append(Figure(name, [each[-1] for each in found], more=_columns(found)))
    return Row(shape.key, shape.title, "ms", figures)


def _figure(shape: Shape, peer: Peer, repeat: int) -> Figure:
    rounds, starts = (shape.rounds, 1) if peer.gap < 60 else (1, min(shape.rounds, repeat))
    if isinstance(peer, Prefect):  # slow: few rounds, in one start
        rounds, starts = (3, 1) if shape.burst == 1 else (1, 1)
    figure = Figure(peer.name, promises=peer.promises, note="; ".join(filter(None, [_resolution(peer), peer.note])))
    found: list[list[float]] = []
    log_progress(f"{shape.key}: {peer.name}")
    try:
        with bounded(BOUND * starts):
            for _ in range(starts):
                found += _bursts(shape, peer, rounds, figure)
    except (UnavailableError, DaemonError) as error:
        figure.missing = str(error)[:300]
    complete = [each for each in found if len(each) == shape.burst]
    if complete:
        figure.values = [each[-1] for each in complete]
        if shape.metric == "median":
            figure.values = [statistics.median(each) for each in complete]
        figure.more = _columns(complete)
    if any(each and each[0] < 0 for each in found):
        figure.note += f"; starts up to {-min(each[0] for each in found if each):.0f} ms early"
    return figure


@contextmanager
def bounded(seconds: int) -> Iterator[None]:
    """Raise DaemonError after this time, wherever the body waits: one that hangs must not stop the others."""

    def over(*_: object) -> None:
        raise DaemonError(f"not measured: not finished within {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _resolution(peer: Peer) -> str:
    return f"resolution {peer.resolution}" if peer.resolution != "1 s" else ""


def _columns(found: Sequence[Sequence[float]]) -> dict[str, float | str]:
    """Return median, p99 and last over all rounds together."""
    together = sorted(value for each in found for value in each)
    at = [min(len(together) - 1, int(len(together) * share)) for share in (0.5, 0.99)]
    return {"median": together[at[0]], "p99": together[at[1]], "last": together[-1]}


def _bursts(shape: Shape, peer: Peer, rounds: int, figure: Figure) -> list[list[float]]:
    """Return the milliseconds of each job in order, per round. Raises DaemonError if it did not start in time."""
    if isinstance(peer, Prefect) and shape.entries > REGISTERED:
        raise UnavailableError(f"not tried: more than {REGISTERED} deployments; it registers some eight a second")
    lead = peer.lead(Workload(Path(), shape.entries))
    for longer in (1, 4):
        with tempfile.TemporaryDirectory(prefix="maintd-bench-", dir="/var/tmp") as name:
            gap = max(peer.gap, 1 + shape.burst // 40)
            plain = Workload(Path(name), max(shape.entries, shape.burst * rounds), shape.burst, rounds, gap)
            work = replace(plain, at=int(time.time() + lead * longer) + 1)
            with peer.started(work) as started:
                figure.command = "; ".join(started.commands)
                if time.time() < work.at - 0.5:
                    return _watch(work, started, figure)
    raise DaemonError(f"was not ready within {4 * lead:.0f} s")


def _watch(work: Workload, started: Started, figure: Figure) -> list[list[float]]:
    """Wait for all starts, polling every 0.1 s; note how many did not start within the window."""
    last = work.at + (work.rounds - 1) * work.gap
    size, due = -1, work.due
    while time.time() < last + WINDOW:
        time.sleep(0.1)
        if not work.journal.exists() or work.journal.stat().st_size == size:
            continue
        size = work.journal.stat().st_size
        if work.journal.read_bytes().count(b"\n") >= due:
            break
    found: list[list[float]] = [[] for _ in range(work.rounds)]
    for line in work.journal.read_text().splitlines() if work.journal.exists() else []:
        entry, stamped = map(int, line.split())
        instant = work.instant(entry)
        if instant is not None:
            found[entry // work.burst].append(stamped / 1e6 - instant * 1e3)
    fired = sum(map(len, found))
    if fired < due:
        figure.missing = f"{fired} of {due} started within {WINDOW:.0f} s"
        late = sorted(value for each in found for value in each)
        if late:
            figure.missing += f", the last of those after {late[-1] / 1e3:.1f} s"
    return [sorted(each) for each in found]
