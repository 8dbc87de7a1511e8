"""yacron: crontabs in YAML, each run a shell command; it checks its calendar each minute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peers.base import SHELL_BODY, Peer, Promises, Started, Workload
from peers.fake_clock import FORGET, ahead, faketime
from peers.processes import Daemon

RUN = f"{FORGET}; from yacron.__main__ import main; main()"


class Yacron(Peer):
    """As shipped; only the daemon's clock is shifted, so that no one waits for a full minute."""

    name = "yacron"
    requirements = "yacron"
    package = "yacron"
    resolution = "1 min"
    gap = 60
    note = "reads its whole file again each minute before it starts anything"
    status_words = "curl its /status"
    promises = Promises(True, False, False, "a shell command for each run; output to its own log")

    def lead(self, work: Workload) -> float:
        return 3.0 + work.entries / 200

    @contextmanager
    def started(self, work: Workload) -> Iterator[Started]:
        path = work.folder / "yacron.yaml"
        path.write_text(configuration(work))
        shift = ahead(work.at)
        env = self.environment(**faketime(shift))
        daemon = Daemon([self.python, "-c", RUN, "-c", str(path), "-l", "INFO"], work.folder / "log", env=env)
        daemon.command = "yacron -c yacron.yaml"
        try:
            # It does not report when it has read its calendar; its web server listens after that.
            yield Started([daemon], daemon.wait_for("web: started listening", 240), shift)
        finally:
            daemon.stop(1)

    def status_argv(self, work: Workload) -> list[str] | None:
        return ["curl", "-fsS", "--unix-socket", str(work.folder / "yacron.sock"), "http://localhost/status"]


def configuration(work: Workload) -> str:
    """Each entry as a job in its words."""
    socket: Path = work.folder / "yacron.sock"
    lines = ["web:", "  listen:", f"    - unix://{socket}", "jobs:"]
    for entry in range(work.entries):
        at = work.instant(entry)
        schedule = f"{entry % 60} {entry // 60 % 24} 1 1 *" if at is None else "0 12 15 6 *"
        command = SHELL_BODY.format(entry=entry, journal=work.journal)
        lines += [f"  - name: entry-{entry}", f"    command: {command}", f'    schedule: "{schedule}"', "    utc: true"]
    return "\n".join(lines) + "\n"
