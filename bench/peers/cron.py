"""Debian's cron, unpacked from its package below the cache folder and run in a mount namespace of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from peers.base import CACHE, SHELL_BODY, Peer, Promises, Started, UnavailableError, Workload
from peers.fake_clock import ahead, faketime
from peers.processes import Daemon

FOLDER = CACHE / "cron"
PROGRAM = FOLDER / "usr/sbin/cron"

# What cron reads and writes lies at fixed paths: they are covered, for this process and its children alone.
COVER = """set -e
mount -t tmpfs none /run
mkdir -p /var/spool/cron /etc/cron.d
mount -t tmpfs none /var/spool/cron
mount -t tmpfs none /etc/cron.d
mkdir /var/spool/cron/crontabs
[ ! -e /etc/crontab ] || mount --bind /dev/null /etc/crontab
cp "$1" /etc/cron.d/bench
chmod 644 /etc/cron.d/bench
exec env $3 "$2" -f -L 0
"""


class Cron(Peer):
    """As shipped; `env` gives it the moved clock, which its children do not inherit."""

    name = "Debian cron"
    resolution = "1 min"
    gap = 60
    promises = Promises(True, False, False, "a shell command for each run; one line in syslog")

    def install(self) -> None:
        if os.geteuid() != 0:
            raise UnavailableError("needs root: cron reads fixed paths, which are covered in a mount namespace")
        if PROGRAM.exists():
            return
        FOLDER.mkdir(parents=True, exist_ok=True)
        for argv in (["apt-get", "update", "-qq"], ["apt-get", "download", "-qq", "cron"]):
            done = subprocess.run(argv, cwd=FOLDER, capture_output=True, text=True, check=False)
            if done.returncode:
                raise UnavailableError(f"{' '.join(argv)}: {done.stderr.strip()[-200:]}")
        package = next(FOLDER.glob("cron_*.deb"))
        subprocess.run(["dpkg", "-x", str(package), str(FOLDER)], check=True)

    @cached_property
    def version(self) -> str:
        return next(FOLDER.glob("cron_*.deb")).name.removesuffix(".deb").replace("_", " ", 1)

    def lead(self, work: Workload) -> float:
        return 3.0 + work.entries / 500

    @contextmanager
    def started(self, work: Workload) -> Iterator[Started]:
        path = work.folder / "crontab"
        path.write_text(crontab(work))
        shift = ahead(work.at)
        preload = [f"{name}={value}" for name, value in faketime(shift).items()]
        argv = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            COVER.replace("$3", " ".join(preload)),
            "cover",
            str(path),
            str(PROGRAM),
        ]
        daemon = Daemon(argv, work.folder / "log", env=self.environment())
        daemon.command = "cron -f, /etc/cron.d/bench"
        try:
            # Debian's writes its pid when it has read its tables; its own /run can be seen through its root.
            pid = Path(f"/proc/{daemon.process.pid}/root/run/crond.pid")
            yield Started([daemon], daemon.wait_for(pid.exists), shift)
        finally:
            daemon.stop(1)


def crontab(work: Workload) -> str:
    """A line for each entry."""
    lines = ["SHELL=/bin/sh", "PATH=/usr/bin:/bin"]
    for entry in range(work.entries):
        at = work.instant(entry)
        schedule = f"{entry % 60} {entry // 60 % 24} 1 1 *" if at is None else "0 12 15 6 *"
        command = SHELL_BODY.format(entry=entry, journal=work.journal).replace("%", "\\%")
        lines.append(f"{schedule} root {command}")
    return "\n".join(lines) + "\n"
