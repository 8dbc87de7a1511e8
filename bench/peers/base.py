"""What every contender has in common: what it works on, what it promises, and how it is installed and started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import psutil

from peers.processes import Daemon
from peers.servers import Servers
from peers.stores import Record

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maintd-bench"

# One shell word less than a Python body: the cheapest job that a scheduler of commands can be given.
SHELL_BODY = "echo {entry} $(date +%s%N) >> {journal}"


class UnavailableError(Exception):
    """A contender that cannot take part here; the text is the reason that the table prints."""


@dataclass(frozen=True)
class Workload:
    """A calendar. The first `rounds * burst` entries are due, a burst in each round; the others not before next year.

    `at` is the first round's instant in seconds since 1970, a whole number; `gap` seconds lie between rounds. A body
    ends after its first line, or `hold` seconds later.
    """

    folder: Path
    entries: int
    burst: int = 0
    rounds: int = 1
    gap: int = 1
    at: int = 0
    hold: int = 0

    @property
    def journal(self) -> Path:
        """Each body appends `entry nanoseconds` to it with O_APPEND, in one write."""
        return self.folder / "journal"

    @property
    def due(self) -> int:
        return self.rounds * self.burst

    def instant(self, entry: int) -> int | None:
        """When that entry is due, in seconds since 1970; None: not while it is looked at."""
        return self.at + entry // self.burst * self.gap if entry < self.due else None

    def document(self) -> dict[str, object]:
        """As the programs in `programs/` read it."""
        instants = [self.instant(entry) for entry in range(self.entries)]
        return {"journal": str(self.journal), "folder": str(self.folder), "instants": instants, "hold": self.hold}


@dataclass(frozen=True)
class Promises:
    """What a run of this contender comes with: it explains a price.

    `durable` is what the row `kill` saw (`compare.py --only kill`, which warns where it sees something else): its start
    is on record while it runs and still after a kill -9, and once it has ended both its times are. `own`: the rows were
    written for this comparison, to show what they cost; there is nothing to install that writes them.
    """

    isolates: bool
    durable: bool
    logs: bool
    told: str
    own: bool = False


@dataclass
class Started:
    """A contender at work. `shift` is how many seconds its clock is ahead of this machine's."""

    daemons: list[Daemon]
    ready_seconds: float
    shift: float = 0.0
    servers: list[psutil.Process] = field(default_factory=list)

    @property
    def commands(self) -> list[str]:
        return [daemon.command for daemon in self.daemons]


class Peer(ABC):
    """A contender. One instance lives for the whole run of the comparison."""

    name: ClassVar[str]
    promises: ClassVar[Promises]
    requirements: ClassVar[str] = ""
    package: ClassVar[str] = ""
    resolution: ClassVar[str] = "1 s"
    gap: ClassVar[int] = 1
    note: ClassVar[str] = ""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers

    @property
    def venv(self) -> Path:
        return CACHE / self.requirements

    @property
    def python(self) -> str:
        return str(self.venv / "bin" / "python")

    def install(self) -> None:
        """Into its own environment below the cache folder, pinned; nothing to do when it is there."""
        if self.requirements:
            make_venv(self.venv, HERE / f"requirements-{self.requirements}.txt")

    @cached_property
    def version(self) -> str:
        code = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
        return f"{self.package} {output(self.python, '-c', code, self.package)}"

    def lead(self, work: Workload) -> float:
        """Seconds that it needs from its start until it can be waiting for the first instant."""
        return 2.0 + work.entries / 1000

    @abstractmethod
    @contextmanager
    def started(self, work: Workload) -> Iterator[Started]:
        """At work on this calendar until the end of the `with`; ready when it is handed out."""

    def environment(self, **more: str) -> dict[str, str]:
        """This process's, with the peer's own programs in front and nothing of maintd's."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("MAINTD_", "PYTHONDONT"))}
        path = f"{self.venv / 'bin'}:{plain.get('PATH', '')}" if self.requirements else plain.get("PATH", "")
        return plain | {"PATH": path, "PYTHONPATH": str(PROGRAMS)} | more

    def settings(self, work: Workload) -> dict[str, str]:
        """The environment of its daemons and commands for this workload."""
        return self.environment()

    status_words: ClassVar[str] = ""

    def status_argv(self, work: Workload) -> list[str] | None:
        """The cheapest command by which it tells how things stand, once started; None: it has none."""
        return None


class Recorder(Peer):
    """A contender that leaves a row for each run, and so can be asked what it knows of them.

    `batch` is how many trivial runs it is given when runs per second are counted; `under_way` its own words for a run
    that goes on; `keeps` tells how long its rows stay by its manual, and what else explains what the row `kill` shows.
    """

    batch: ClassVar[int] = 1000
    under_way: ClassVar[tuple[str, ...]] = ("running",)
    keeps: ClassVar[str]

    @abstractmethod
    def finished(self, work: Workload) -> int:
        """Runs whose end is durably recorded."""

    @abstractmethod
    def records(self, work: Workload) -> list[Record]:
        """All runs in its store, whether it is up or not."""

    def afterwards(self, work: Workload) -> Workload:
        """The calendar for a start after the due instant: the same.

        Not so for those that are given an instant where a user has a rule: such a rule would be due in the future then,
        an instant that has passed would be run at once.
        """
        return work


class Queue(Recorder):
    """One that can also be handed runs without a calendar. The others are given them as entries due at one instant."""

    @abstractmethod
    def enqueue(self, work: Workload, count: int) -> None:
        """Ask for so many runs, from a process of its own."""


def make_venv(venv: Path, pins: Path) -> None:
    """The environment with exactly these pins and with its bytecode compiled."""
    stamp = venv / "pins.txt"
    if stamp.exists() and stamp.read_text() == pins.read_text():
        return
    shutil.rmtree(venv, ignore_errors=True)
    venv.parent.mkdir(parents=True, exist_ok=True)
    uv = [sys.executable, "-m", "uv"]
    for argv in (
        [*uv, "venv", "--quiet", "--python", sys.executable, str(venv)],
        [*uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", f"{venv}/bin/python", "-r", str(pins)],
    ):
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(venv, ignore_errors=True)
            raise UnavailableError(f"not installed: {done.stderr.strip().splitlines()[-1:]}")
    shutil.copyfile(pins, stamp)


def output(*argv: str, env: Mapping[str, str] | None = None) -> str:
    """What a command prints, without the line's end. Raises UnavailableError when it fails or is not there."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{argv[0]}: {error}") from error
    if done.returncode:
        raise UnavailableError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()


def next_year() -> datetime:
    """When entries are due that are not to be due: the first hour of the year after this."""
    return datetime(datetime.now(UTC).year + 1, 1, 1, tzinfo=UTC)
