"""A daemon as a process: start it, wait until it is ready, measure it with all its children, stop it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

# The development tools bring `rich`, which structlog then imports; an installed maintd has none.
MAINTD = "import sys; sys.modules['rich'] = None; from maintd.__main__ import main; sys.exit(main())"


class Daemon:
    """A process in its own group, with its output in a file; measured and stopped with all its children."""

    def __init__(
        self, argv: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.command = shlex.join(Path(word).name if word == argv[0] else word for word in argv)
        self.log = log
        self.began = time.perf_counter()
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=cwd, start_new_session=True
            )
        self.root = psutil.Process(self.process.pid)

    def wait_for(self, ready: str | Callable[[], object], seconds: float = 60.0) -> float:
        """Wait until the log has that word or the condition is true; return the seconds since the start (± 2 ms)."""
        deadline = self.began + seconds
        while not (ready in self.log_text() if isinstance(ready, str) else ready()):
            if self.process.poll() is not None:
                raise DaemonError(f"{self.command}: ended with {self.process.returncode}: {self.log_text()[-400:]}")
            if time.perf_counter() > deadline:
                raise DaemonError(f"{self.command}: not ready within {seconds:.0f} s: {self.log_text()[-400:]}")
            time.sleep(0.002)
        return time.perf_counter() - self.began

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, seconds: float = 8.0) -> None:
        """Send SIGTERM to the process, then SIGKILL to what is left of its group."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def kill_at_once(daemons: Sequence[Daemon]) -> None:
    """Stop all daemons and their children, then kill them, so that none records the end of another."""
    stopped: list[psutil.Process] = []
    while fresh := [one for one in _family(daemons) if one not in stopped]:  # what was forked while others were stopped
        stopped += fresh
        _send(fresh, signal.SIGSTOP)
    _send(stopped, signal.SIGKILL)
    for daemon in daemons:
        daemon.process.wait()
    while any(map(_works, stopped)):
        time.sleep(0.01)


def _family(daemons: Sequence[Daemon]) -> list[psutil.Process]:
    return [one for daemon in daemons for one in (daemon.root, *daemon.root.children(recursive=True))]


def _send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            one.send_signal(number)


def _works(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def forget_logs(folder: Path) -> None:
    """Delete the logs, so that the next start is not taken for ready by an old log."""
    for log in [folder / "log", *folder.glob("*.log")]:
        log.unlink(missing_ok=True)


class DaemonError(Exception):
    """The daemon did not start in time."""


def pss_mib(process: psutil.Process) -> float:
    """Return the PSS in MiB of the process and all its children."""
    family = [process, *process.children(recursive=True)]
    return sum(one.memory_full_info().pss for one in family) / 2**20


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU seconds of the process and its children so far; /proc/PID/stat is too coarse for an idle one."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        for task in Path(f"/proc/{one.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9
