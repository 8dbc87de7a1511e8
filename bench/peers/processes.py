"""A daemon as a process: started until it is ready, weighed with all its children, stopped."""

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
    """A process in its own group, its output in a file: started, waited for, weighed, stopped with all its children."""

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
        """Seconds since it was started, when its log has that word or the condition holds; a look each 2 ms."""
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
        """TERM to it, and KILL to whatever of its group is left afterwards."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def kill_at_once(daemons: Sequence[Daemon]) -> None:
    """KILL to all of them and all their children, stopped before, so that none sees another end and writes it down."""
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
    """So that the word of readiness in a log is that of the next start."""
    for log in [folder / "log", *folder.glob("*.log")]:
        log.unlink(missing_ok=True)


class DaemonError(Exception):
    """It did not start, or not in time."""


def pss_mib(process: psutil.Process) -> float:
    """Of it and all its children."""
    family = [process, *process.children(recursive=True)]
    return sum(one.memory_full_info().pss for one in family) / 2**20


def cpu_seconds(process: psutil.Process) -> float:
    """Of it and all its children so far, to the nanosecond: the ticks of /proc/PID/stat are too coarse for an idler."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        for task in Path(f"/proc/{one.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9
