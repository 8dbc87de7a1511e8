"""Typing commands: real processes of the installed `maintd`, with an environment of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.servers.base import free_port, running, wait_for

MAINTD = Path(sys.executable).parent / "maintd"


def clean_environ(**more: str) -> dict[str, str]:
    """This process's environment without anything of maintd's, of a terminal's or of a colour's."""
    dropped = ("MAINTD_", "COLUMNS", "NO_COLOR", "XDG_STATE_HOME", "SUDO_USER")
    return {key: value for key, value in os.environ.items() if not key.startswith(dropped)} | more


@dataclass(frozen=True)
class CommandResult:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, which must be one JSON value and nothing else."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Shell:
    """Where commands are typed: a folder, and the environment."""

    cwd: Path
    environ: Mapping[str, str] = field(default_factory=dict)

    def maintd(self, *words: str | Path, seconds: float = 60, **more: str) -> CommandResult:
        """Type `maintd WORDS` and wait for its end."""
        done = subprocess.run(
            [str(MAINTD), *map(str, words)],
            cwd=self.cwd,
            env=clean_environ(**{**self.environ, **more}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        return CommandResult(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str | Path, out: int | Any = subprocess.PIPE) -> subprocess.Popen[str]:
        """Type it and do not wait."""
        return subprocess.Popen(
            [str(MAINTD), *map(str, words)],
            cwd=self.cwd,
            env=clean_environ(**self.environ),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        )


# --- a daemon ---------------------------------------------------------------------------------------------------------

JOBS = Path(__file__).parent / "small_jobs"

CALENDAR = """
timezone: Europe/Berlin
entries:
  greeting:
    title: Greet somebody
    schedule: every sunday at 02:30
    steps: [greet]
  night-round:
    title: Two steps in the night
    schedule: every day at 03:00
    steps:
      - greet: {whom: moon}
      - dawdle: {seconds: 0}
  stumbling:
    title: Fails, and says why
    steps: [stumble]
  hurried:
    title: Stopped at its deadline
    timeout: 1s
    steps:
      - dawdle: {seconds: 60}
"""
"""A small calendar of jobs that need no server; `small_jobs` holds them."""


@dataclass(frozen=True)
class RunningDaemon(Shell):
    """A real daemon on SQLite, and a shell in which commands find it."""

    process: subprocess.Popen[bytes] = field(kw_only=True)
    log: Path = field(kw_only=True)
    state_dir: Path = field(kw_only=True)
    calendar: Path = field(kw_only=True)
    page: str = field(kw_only=True)

    @property
    def socket(self) -> Path:
        return self.state_dir / "maintd.sock"

    def log_text(self) -> str:
        """What it logged so far."""
        return self.log.read_text(errors="replace")


@contextmanager
def maintd_daemon(folder: Path, calendar: str = CALENDAR, jobs: Path = JOBS, **more: str) -> Iterator[RunningDaemon]:
    """`maintd serve` in this folder until the end of the `with`; ready when it is handed out."""
    path = folder / "schedules.yaml"
    path.write_text(calendar)
    listen = f"127.0.0.1:{free_port()}"
    environ = {
        "MAINTD_STATE_DIR": str(folder / "state"),
        "MAINTD_CALENDAR": str(path),
        "MAINTD_JOBS_PATH": str(jobs),
        "MAINTD_LISTEN": listen,
        "MAINTD_LOG_FORMAT": "json",
    } | more
    log = folder / "daemon.log"
    with running([MAINTD, "serve"], log, env=clean_environ(**environ), cwd=folder) as process:
        daemon = RunningDaemon(
            folder,
            environ,
            process=process,
            log=log,
            state_dir=Path(environ["MAINTD_STATE_DIR"]),
            calendar=path,
            page=f"http://{listen}",
        )
        wait_for(
            lambda: process.poll() is not None or "daemon_ready" in daemon.log_text(), "the daemon is ready", seconds=30
        )
        assert process.poll() is None, f"the daemon ended with {process.returncode}:\n{daemon.log_text()}"
        yield daemon
