"""The record of an interrupted run: all processes of a contender are killed while a job works, then started again.

The servers and the machine keep running: this distinguishes a history that is written during runs from one that is
written at their end. It does not show what is left after a loss of power, which is what fsync is for.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from peers.base import Recorder, Started, UnavailableError, Workload
from peers.processes import DaemonError, forget_logs, kill_at_once
from peers.stores import Record
from table import Figure, Row, log_progress

from rows.due import bounded

HOLD = 60  # seconds that the body works: longer than the measurement
WINDOW = 60.0  # seconds after its instant in which a body must start, and a short run must have ended
PATIENCE = 3.0  # seconds after the first line in which a start may still be written: some do it beside the body
SPARE = 4.0  # seconds more than a contender typically needs until it waits for the instant
AFTER = 15.0  # seconds after the restart in which a contender can notice the interrupted run
BOUND = 300  # seconds for one contender
TITLE = f"all of it killed (-9) while a run works for {HOLD} s, then started again"
DURABLE = "durable history"


@dataclass
class Seen:
    """Records while it worked, while it was dead and after the restart; bodies begun; the record of a finished run."""

    before: list[Record] = field(default_factory=list)
    dead: list[Record] = field(default_factory=list)
    restarted: list[Record] = field(default_factory=list)
    bodies: int = 0
    finished: list[Record] = field(default_factory=list)

    @property
    def start_kept(self) -> bool | None:
        """Return whether the start on record was still there after the kill; None: there was none."""
        before, dead = ({record.started for record in found} - {None} for found in (self.before, self.dead))
        return before <= dead if before else None

    @property
    def durable(self) -> bool:
        """Return whether the history is durable as the verdicts of all rows define it; see `Promises`."""
        return bool(self.start_kept) and _times(self.finished) == "start and end"

    def columns(self, under_way: Sequence[str]) -> dict[str, float | str]:
        """Return the columns of the table."""
        return {
            "start on record": _start(self.before),
            "still when dead": {True: "yes", False: "no", None: "-"}[self.start_kept],
            f"{AFTER:.0f} s after the restart": _after(self.restarted, under_way),
            "bodies begun": str(self.bodies),
            "a finished run keeps": _times(self.finished),
            DURABLE: "yes" if self.durable else "no",
        }


def measure(peers: Sequence[Recorder]) -> Row:
    """Measure all; the row has a warning for each contender whose `Promises` differ from the result."""
    figures = [_figure(peer) for peer in peers]
    seen = [figure for figure in figures if DURABLE in figure.more]
    remarks = [
        f"{words}: {', '.join(names)}"
        for words, mark in (("record durably", "yes"), ("do not", "no"))
        if (names := [figure.contender for figure in seen if figure.more[DURABLE] == mark])
    ]
    for figure in seen:
        promised = "yes" if figure.promises and figure.promises.durable else "no"
        if figure.more[DURABLE] != promised:
            remarks.append(
                f"**warning**: {figure.contender}: {DURABLE}: seen {figure.more[DURABLE]}, the other rows "
                f"take it as {promised} (its Promises in bench/peers)"
            )
    return Row("kill", TITLE, "", figures, per_run=False, remarks=remarks)


def _figure(peer: Recorder) -> Figure:
    figure = Figure(peer.name, promises=peer.promises, note=peer.keeps)
    seen = Seen()
    log_progress(f"kill: {peer.name}")
    try:
        with bounded(BOUND):
            _finish(peer, seen)
            _cut_short(peer, seen, figure)
    except (UnavailableError, DaemonError) as error:
        figure.missing = str(error)[:300]
    else:
        figure.more = seen.columns(peer.under_way)
    return figure


def _finish(peer: Recorder, seen: Seen) -> None:
    """A short run, an end by TERM, and another start, which is when some tidy up."""
    with tempfile.TemporaryDirectory(prefix="maintd-bench-", dir="/var/tmp") as name:
        with _at_work(peer, Path(name), 0) as (work, _):
            _wait(lambda: peer.finished(work) > 0, work, "a short run had not ended")
        with _again(peer, work):
            seen.finished = peer.records(work)


def _cut_short(peer: Recorder, seen: Seen, figure: Figure) -> None:
    """A long run, the end of all of it, and another start."""
    with tempfile.TemporaryDirectory(prefix="maintd-bench-", dir="/var/tmp") as name:
        with _at_work(peer, Path(name), HOLD) as (work, started):
            figure.command = "; ".join(started.commands)
            _wait(lambda: _bodies(work) > 0, work, "no body had begun")
            deadline = time.monotonic() + PATIENCE
            while not any(record.started for record in peer.records(work)) and time.monotonic() < deadline:
                time.sleep(0.1)
            seen.before = peer.records(work)
            kill_at_once(started.daemons)
            seen.dead = peer.records(work)
        with _again(peer, work):
            time.sleep(AFTER)
            seen.restarted, seen.bodies = peer.records(work), _bodies(work)


@contextmanager
def _at_work(peer: Recorder, folder: Path, hold: int) -> Iterator[tuple[Workload, Started]]:
    """Start it with one entry that is due soon and whose body works for `hold` seconds."""
    plain = Workload(folder, 1, 1, hold=hold)
    work = replace(plain, at=int(time.time() + peer.lead(plain) + SPARE))
    with peer.started(work) as started:
        if time.time() > work.at - 0.5:
            raise DaemonError(f"was not ready within {peer.lead(plain) + SPARE:.0f} s")
        yield work, started


@contextmanager
def _again(peer: Recorder, work: Workload) -> Iterator[None]:
    forget_logs(work.folder)
    with peer.started(peer.afterwards(work)):
        yield


def _bodies(work: Workload) -> int:
    return work.journal.read_bytes().count(b"\n") if work.journal.exists() else 0


def _wait(done: Callable[[], bool], work: Workload, what: str) -> None:
    while not done():
        if time.time() > work.at + WINDOW:
            raise DaemonError(f"{what} {WINDOW:.0f} s after its instant")
        time.sleep(0.1)


def _start(records: Sequence[Record]) -> str:
    with_times = [record for record in records if record.started is not None]
    return f"yes: {_states(with_times)}" if with_times else "no: a row without a time" if records else "no row"


def _after(records: Sequence[Record], under_way: Sequence[str]) -> str:
    """Return the states in the contender's own terms, and whether they claim that the run is still running."""
    goes_on = all(record.state in under_way for record in records)
    return f"{'still' if goes_on else 'ended:'} {_states(records)}" if records else "nothing"


def _times(records: Sequence[Record]) -> str:
    """Which times the first of them holds."""
    if not records:
        return "no row"
    held = [name for name, at in (("start", records[0].started), ("end", records[0].ended)) if at is not None]
    return " and ".join(held) + (" only" if len(held) == 1 else "") if held else "no times"


def _states(records: Sequence[Record]) -> str:
    return ", ".join(record.state for record in records)
