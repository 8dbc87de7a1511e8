"""A daemon with the shipped calendar on a made stack; it is started again when it was killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.servers.base import free_port, wait_for
from support.servers.maintd import CommandResult, DaemonProcess, Shell, clean_environ, serve
from support.window_stack import SHIPPED, WindowStack

from maintd.clock import SystemClock
from maintd.store import Store, open_store

NO_DAEMON = 6  # exit code


class WindowNode:
    """The daemon, and two persons with tokens: bob requests, ada approves."""

    def __init__(self, stack: WindowStack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self._overlay = folder / "schedules.local.yaml"
        self._tokens: dict[str, str] = {}
        self._url = f"http://127.0.0.1:{free_port()}"
        self._process: DaemonProcess | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        shutil.copy(SHIPPED, folder / "schedules.yaml")
        self._overlay.write_text(stack.overlay(), encoding="utf-8")

    def start(self) -> Store:
        """Start the daemon; return its store once it is ready."""
        self._start()
        wait_for(lambda: "daemon_ready" in self.log(), "the daemon is ready", 300)
        self._keeper.start()
        for name, role in (("ada", "approver"), ("bob", "operator")):
            made = self.command("token", "create", "--role", role, "--person", name, name, "--json")
            self._tokens[name] = made.json["token"]
        return open_store(f"sqlite:///{self.folder}/state/maintd.db", clock=SystemClock(), migrate=False)

    def stop(self) -> None:
        self._stopping.set()
        if self._keeper.ident is not None:
            self._keeper.join()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def overlay(self, text: str) -> None:
        """Use another overlay."""
        if text == self._overlay.read_text(encoding="utf-8"):
            return
        self._overlay.write_text(text, encoding="utf-8")
        done = self.command("reload")
        assert done.code == 0, done.out + done.err

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def kill(self) -> None:
        """Kill the daemon, as a power cut does."""
        with self._lock:
            assert self._process is not None
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def command(self, *words: str) -> CommandResult:
        """Run a command at the socket, again while the daemon is being started."""
        return self._answered(Shell(self.folder, self._environ()), *words)

    def by(self, person: str, *words: str) -> CommandResult:
        """Run a command with the token of a person."""
        environ = {"MAINTD_URL": self._url, "MAINTD_TOKEN": self._tokens[person]}
        return self._answered(Shell(self.folder, environ), *words)

    def _answered(self, shell: Shell, *words: str) -> CommandResult:
        def answered() -> CommandResult | None:
            done = shell.maintd(*words)
            gone = done.code == NO_DAEMON or "cannot be reached" in done.err or "connection failed" in done.err
            return None if gone else done

        return wait_for(answered, f"the daemon answers {words}", every=0.3)

    def _environ(self) -> dict[str, str]:
        return {
            "MAINTD_STATE_DIR": str(self.folder / "state"),
            "MAINTD_NODE": "n1",
            "MAINTD_LISTEN": self._url.removeprefix("http://"),
            "MAINTD_CALENDAR": str(self.folder / "schedules.yaml"),
            "MAINTD_LEASE": "8s",
            "MAINTD_HEARTBEAT": "500ms",
            "MAINTD_GRACE": "500ms",
            "MAINTD_REPORTS_DIR": str(self.folder / "reports"),
        }

    def _start(self) -> None:
        self._process = serve(self.folder, self.folder / "log", clean_environ(**self._environ()))

    def _keep(self) -> None:
        while not self._stopping.wait(0.1):
            with self._lock:
                if self._process is not None and self._process.poll() is not None:
                    self._start()


@contextmanager
def window_node(stack: WindowStack, folder: Path) -> Iterator[WindowNode]:
    """Prepare a daemon in an empty folder; stop it at the end."""
    node = WindowNode(stack, folder)
    try:
        yield node
    finally:
        node.stop()


def kill_process(pid: int) -> None:
    """Kill a process that may have ended; wait until it is gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
