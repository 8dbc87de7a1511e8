"""Runs commands of the installed `maintd` as processes, with a clean environment; and a real daemon.

They are forked from a server that has imported maintd (see `fork_server`), where this makes no difference.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from support.servers.base import free_port, terminated_at_exit, wait_for
from support.servers.fork_server import ForkedProcess, fork_server

MAINTD = Path(sys.executable).parent / "maintd"

NOT_INSTALLED = Path(__file__).parents[1] / "not_installed"
"""In the place of libraries that an installation of maintd does not have."""


def clean_environ(**more: str) -> dict[str, str]:
    """Return the environment without variables of maintd, the terminal or colours, and without NOT_INSTALLED."""
    dropped = ("MAINTD_", "COLUMNS", "NO_COLOR", "XDG_STATE_HOME", "SUDO_USER")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    searched = [str(NOT_INSTALLED), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(searched)} | more


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output, which must be one JSON value."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Shell:
    """A working directory and an environment in which commands run."""

    cwd: Path
    environ: Mapping[str, str] = field(default_factory=dict)

    def maintd(self, *words: str | Path, seconds: float = 200, **more: str) -> CommandResult:
        """Run `maintd WORDS` to its end."""
        argv = [str(MAINTD), *map(str, words)]
        environ = clean_environ(**{**self.environ, **more})
        server = fork_server(environ)
        if server is None:
            code, out, err = run(argv, environ, self.cwd, seconds)
        else:
            code, out, err = server.run(argv, environ, self.cwd, seconds)
        return CommandResult(code, _text(out), _text(err))

    def start(self, *words: str | Path, out: int | Any = subprocess.PIPE) -> subprocess.Popen[str]:
        """Start `maintd WORDS` without waiting for its end."""
        return subprocess.Popen(
            [str(MAINTD), *map(str, words)],
            cwd=self.cwd,
            env=clean_environ(**self.environ),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_heed_ctrl_c,
        )


def run(argv: Sequence[str], environ: Mapping[str, str], cwd: Path, seconds: float) -> tuple[int, bytes, bytes]:
    """Run a program to its end, without any input; return its exit code, standard output and standard error."""
    done = subprocess.run(
        argv, env=environ, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
    )
    return done.returncode, done.stdout, done.stderr


def _text(written: bytes) -> str:
    return io.TextIOWrapper(io.BytesIO(written)).read()


def _heed_ctrl_c() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so does all that it starts, this test among them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


# --- a daemon ---------------------------------------------------------------------------------------------------------

JOBS = Path(__file__).parent / "small_jobs"

CALENDAR = """
timezone: Europe/Berlin
entries:
  greeting:
    title: Greet a person
    schedule: every sunday at 02:30
    steps: [greet]
  night-round:
    title: Two steps in the night
    schedule: every day at 03:00
    steps:
      - greet: {whom: moon}
      - dawdle: {seconds: 0}
  stumbling:
    title: Fails, with a reason
    steps: [stumble]
  hurried:
    title: Stopped at its deadline
    timeout: 1s
    steps:
      - dawdle: {seconds: 60}
"""
"""A small calendar of the jobs in `small_jobs`, which need no server."""


DaemonProcess: TypeAlias = subprocess.Popen[bytes] | ForkedProcess


@dataclass(frozen=True)
class RunningDaemon(Shell):
    """A real daemon on SQLite, and a shell for commands that connect to it."""

    process: DaemonProcess = field(kw_only=True)
    log: Path = field(kw_only=True)
    state_dir: Path = field(kw_only=True)
    calendar: Path = field(kw_only=True)
    page: str = field(kw_only=True)

    @property
    def socket(self) -> Path:
        return self.state_dir / "maintd.sock"

    def log_text(self) -> str:
        """Return its log so far."""
        return self.log.read_text(errors="replace")


DESCRIPTIONS = "job_descriptions.json"
"""A file of a state directory: what the daemon found out about jobs, by their content. Importing them takes seconds."""

KEPT_ANSWERS = 500
"""About jobs and their params, of the daemons of a session."""


def _kept_descriptions() -> Path:
    return Path(tempfile.gettempdir()) / f"kept_{DESCRIPTIONS}"


def _reuse_descriptions(state_dir: Path) -> None:
    """Hand on what earlier daemons of the session found out, as if they had run here before."""
    if _kept_descriptions().exists() and not state_dir.exists():
        state_dir.mkdir(parents=True, mode=0o750)
        shutil.copyfile(_kept_descriptions(), state_dir / DESCRIPTIONS)
        (state_dir / DESCRIPTIONS).chmod(0o640)


def _keep_descriptions(state_dir: Path) -> None:
    """Add what a daemon found out; several workers may do so at the same time."""
    with _kept_descriptions().with_suffix(".lock").open("w") as lock, suppress(FileNotFoundError):
        found = json.loads((state_dir / DESCRIPTIONS).read_text())
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = json.loads(_kept_descriptions().read_text()) if _kept_descriptions().exists() else {"answers": {}}
        if kept == found | {"answers": kept["answers"] | found["answers"]}:
            return
        earlier = kept["answers"] if kept.get("computed_by") == found["computed_by"] else {}
        answers = [*(earlier | found["answers"]).items()][-KEPT_ANSWERS:]
        part = Path(tempfile.mkstemp(dir=tempfile.gettempdir())[1])
        part.write_text(json.dumps({**found, "answers": dict(answers)}))
        part.replace(_kept_descriptions())


def serve(
    folder: Path, log: Path, environ: Mapping[str, str], program: Path = MAINTD, *, own_python: bool = False
) -> DaemonProcess:
    """Start `maintd serve` in this folder, with its output at the end of `log`."""
    argv = [str(program), "serve"]
    with log.open("ab") as out:
        server = None if own_python or program != MAINTD else fork_server(environ)
        if server is not None:
            return server.start(argv, environ, folder, [os.dup(out.fileno()), os.dup(out.fileno())])
        return subprocess.Popen(argv, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder)


@contextmanager
def maintd_daemon(
    folder: Path,
    calendar: str = CALENDAR,
    jobs: Path = JOBS,
    program: Path = MAINTD,
    *,
    own_python: bool = False,
    **more: str,
) -> Iterator[RunningDaemon]:
    """Start `maintd serve` in this folder and wait until it is ready; stop it at the end.

    `own_python`: start the program, for a test that measures the process.
    """
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
    state_dir = Path(environ["MAINTD_STATE_DIR"])
    if program == MAINTD:
        _reuse_descriptions(state_dir)
    process = serve(folder, log, clean_environ(**environ), program, own_python=own_python)
    with terminated_at_exit(process):
        daemon = RunningDaemon(
            folder,
            environ,
            process=process,
            log=log,
            state_dir=state_dir,
            calendar=path,
            page=f"http://{listen}",
        )
        wait_for(
            lambda: process.poll() is not None or "daemon_ready" in daemon.log_text(),
            "the daemon is ready",
            seconds=180,
        )
        assert process.poll() is None, f"the daemon ended with {process.returncode}:\n{daemon.log_text()}"
        if program == MAINTD:
            _keep_descriptions(state_dir)
        yield daemon
