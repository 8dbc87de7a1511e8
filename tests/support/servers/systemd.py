"""systemd as process 1: of a container that has this machine's programs below a layer of its own, and no network."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from support.servers.base import needs_root, require_program, running, unavailable, wait_for

# Arguments: a folder for the layer, one that becomes /opt/maintd, the control group, the unit to start.
BOOT = """
set -eu
echo $$ >"$3/cgroup.procs"
exec unshare --mount --propagation private --pid --net --uts --ipc --cgroup --fork --kill-child sh -euc '
ip link set lo up
mount -t tmpfs -o mode=755 maintd-test "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" maintd-test "$1/root"
cd "$1/root"
mkdir -p opt/maintd .old
mount --bind "$2" opt/maintd
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -o remount,bind,ro sys
for place in run tmp var/tmp root home dev; do mount -t tmpfs -o mode=755 maintd-test $place; done
chmod 1777 tmp var/tmp
for device in null zero full random urandom tty; do
  : >dev/$device
  mount --bind /dev/$device dev/$device
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 maintd-test dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
# There is no network to wait for.
for unit in systemd-networkd NetworkManager ifupdown; do
  ln -sf /dev/null etc/systemd/system/$unit-wait-online.service
done
pivot_root . .old
cd /
umount -l .old
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit="$3"
' boot "$1" "$2" "$4"
"""


@dataclass(frozen=True)
class Machine:
    """A running system. `pid`: of its process 1."""

    pid: int

    def path(self, path: str) -> Path:
        """Where a file of the system is found from outside."""
        return Path(f"/proc/{self.pid}/root") / path.lstrip("/")

    def run(self, *argv: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command in the system, as root."""
        enter = [require_program("nsenter", "util-linux"), "--target", str(self.pid), "--all"]
        return subprocess.run(
            [*enter, *argv],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **(environ or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def output(self, *argv: str, environ: dict[str, str] | None = None) -> str:
        """Return the standard output of a command that must succeed."""
        done = self.run(*argv, environ=environ)
        assert done.returncode == 0, f"{argv}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def property(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.output("systemctl", "show", "--value", "--property", name, unit).strip()


@contextmanager
def booted(maintd: Path, unit: str = "basic.target") -> Iterator[Machine]:
    """Start systemd with this folder as /opt/maintd, up to this unit; kill all of it at the end."""
    needs_root("starts systemd as process 1 of a container")
    for program, package in (("unshare", "util-linux"), ("ip", "iproute2"), ("systemctl", "systemd")):
        require_program(program, package)
    with tempfile.TemporaryDirectory(prefix="systemd-") as name, _control_group() as group:
        layer = Path(name) / "layer"
        layer.mkdir()
        log = Path(name) / "log"
        with running(["sh", "-c", BOOT, "sh", layer, maintd, group, unit], log) as process:
            machine: list[Machine] = []

            def is_up() -> bool:
                # Before it is systemd, it still has the root and the systemd of this machine.
                machine[:] = [Machine(child.pid) for child in _children(process) if child.name() == "systemd"]
                started = ("systemctl", "is-active", "--quiet", unit)
                return bool(machine) and machine[0].run(*started).returncode == 0

            try:
                wait_for(lambda: is_up() or process.poll() is not None, "systemd has started", seconds=180, every=0.5)
                if process.poll() is not None:
                    unavailable(f"systemd that starts in a container here; {log.read_text()[-300:]}")
                yield machine[0]
            finally:
                for child in _children(process):
                    child.kill()  # and so the whole container


def _children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children() if process.poll() is None else []


@contextmanager
def _control_group() -> Iterator[Path]:
    """Make a control group for the container, below the one of this process."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    roots = [Path(words[1]) for words in mounts if words[2] == "cgroup2"]
    own = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    if not roots or not own:
        unavailable("control groups of version 2")
    group = roots[0] / own[0].lstrip("/") / f"maintd-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        unavailable(f"a control group that can be written: {error}")
    try:
        yield group
    finally:
        wait_for(lambda: _removed(group), "the container's control groups are empty", every=0.2)


def _removed(group: Path) -> bool:
    for folder, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):
            Path(folder).rmdir()
    return not group.exists()
