"""Base classes of contenders: the workload, what a run comes with, installation and start."""

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

# The cheapest job for a scheduler that runs commands.
SHELL_BODY = "echo {entry} $(date +%s%N) >> {journal}"


class UnavailableError(Exception):
    """The contender cannot take part; the text is the reason, which the table shows."""


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
        """Return when that entry is due, in seconds since 1970; None: not during the measurement."""
        return self.at + entry // self.burst * self.gap if entry < self.due else None

    def document(self) -> dict[str, object]:
        """Return the workload as JSON for the programs in `programs/`."""
        instants = [self.instant(entry) for entry in range(self.entries)]
        return {"journal": str(self.journal), "folder": str(self.folder), "instants": instants, "hold": self.hold}


@dataclass(frozen=True)
class Promises:
    """What a run of this contender comes with, which explains its cost.

    `durable` is the result of the row `kill` (`compare.py --only kill` warns of a difference): the start is on record
    while the run is running and after a kill -9, and a finished run has both times. `own`: this comparison writes the
    rows, to show their cost; there is no package that does.
    """

    isolates: bool
    durable: bool
    logs: bool
    description: str
    own: bool = False


@dataclass
class Started:
    """A running contender. `shift` is how many seconds its clock is ahead of this machine's."""

    daemons: list[Daemon]
    ready_seconds: float
    shift: float = 0.0
    servers: list[psutil.Process] = field(default_factory=list)

    @property
    def commands(self) -> list[str]:
        return [daemon.command for daemon in self.daemons]


class Peer(ABC):
    """A contender. One instance exists for the whole comparison."""

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
        """Install its pinned packages into its own environment in the cache folder, unless they are there."""
        if self.requirements:
            make_venv(self.venv, HERE / f"requirements-{self.requirements}.txt")

    @cached_property
    def version(self) -> str:
        code = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
        return f"{self.package} {output(self.python, '-c', code, self.package)}"

    def lead(self, work: Workload) -> float:
        """Return the seconds from its start until it can wait for the first instant."""
        return 2.0 + work.entries / 1000

    @abstractmethod
    @contextmanager
    def started(self, work: Workload) -> Iterator[Started]:
        """Start it with this workload and wait until it is ready; stop it at the end."""

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment without variables of maintd, with the peer's programs first in PATH."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("MAINTD_", "PYTHONDONT"))}
        path = f"{self.venv / 'bin'}:{plain.get('PATH', '')}" if self.requirements else plain.get("PATH", "")
        return plain | {"PATH": path, "PYTHONPATH": str(PROGRAMS)} | more

    def settings(self, work: Workload) -> dict[str, str]:
        """Return the environment of its daemons and commands for this workload."""
        return self.environment()

    status_words: ClassVar[str] = ""

    def status_argv(self, work: Workload) -> list[str] | None:
        """Return its cheapest status command, once started; None: it has none."""
        return None


class Recorder(Peer):
    """A contender that writes a row per run, which can be queried.

    `batch` is the number of trivial runs for the row of runs per second; `under_way` are its own states for a run
    that is running; `keeps` is how long it keeps rows according to its manual, and what else explains the row `kill`.
    """

    batch: ClassVar[int] = 1000
    under_way: ClassVar[tuple[str, ...]] = ("running",)
    keeps: ClassVar[str]

    @abstractmethod
    def finished(self, work: Workload) -> int:
        """Return the number of runs whose end is durably recorded."""

    @abstractmethod
    def records(self, work: Workload) -> list[Record]:
        """Return all runs in its store, also when it is not running."""

    def afterwards(self, work: Workload) -> Workload:
        """Return the workload for a start after the due instant: the same by default.

        Contenders that take an instant instead of a rule override it: they would run a past instant at once, while a
        rule would be due in the future.
        """
        return work


class Queue(Recorder):
    """A contender that also accepts runs without a calendar; others get entries that are due at one instant."""

    @abstractmethod
    def enqueue(self, work: Workload, count: int) -> None:
        """Request `count` runs from another process."""


def make_venv(venv: Path, pins: Path) -> None:
    """Create an environment with exactly these pins and compiled bytecode."""
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
    """Return the output of a command, stripped. Raises UnavailableError if it fails or does not exist."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{argv[0]}: {error}") from error
    if done.returncode:
        raise UnavailableError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()


def next_year() -> datetime:
    """Return the due time of entries that must not be due: the first hour of next year."""
    return datetime(datetime.now(UTC).year + 1, 1, 1, tzinfo=UTC)
