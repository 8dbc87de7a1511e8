"""A host, read from its proc file system and by statvfs: memory, load, pressure, mounts, counters of the kernel.

Everything is read below `root` and `proc` of the target, so that a sidecar sees its host (`/host`, `/host/proc`) and
not itself. The figures are the kernel's: MemAvailable, not "free"; a mount's use as `df` counts it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.target import HostTarget

# Not storage that can fill up: made by the kernel, kept in memory, read-only by nature, or a view of another mount.
UNREAL = frozenset(
    {
        "autofs",
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "erofs",
        "fuse.gvfsd-fuse",
        "fuse.lxcfs",
        "fuse.portal",
        "fuse.snapfuse",
        "fusectl",
        "hugetlbfs",
        "iso9660",
        "mqueue",
        "nsfs",
        "overlay",
        "proc",
        "pstore",
        "ramfs",
        "rpc_pipefs",
        "securityfs",
        "selinuxfs",
        "squashfs",
        "sysfs",
        "tmpfs",
        "tracefs",
        "udf",
    }
)
_KIB = 1024


@dataclass(frozen=True)
class Memory:
    """Bytes. `available` is what can be had without swapping."""

    total: int
    available: int
    swap_total: int
    swap_free: int

    @property
    def available_percent(self) -> float:
        """Of the total."""
        return 100 * self.available / self.total

    @property
    def swap_used_percent(self) -> float | None:
        """Of the swap space; None without any."""
        return 100 * (self.swap_total - self.swap_free) / self.swap_total if self.swap_total else None


@dataclass(frozen=True)
class Load:
    """The load averages and the number of CPUs they are shared by."""

    one: float
    five: float
    fifteen: float
    cpus: int


@dataclass(frozen=True)
class Pressure:
    """Percent of the last 300 s in which some, or all, tasks waited for the resource: cpu, memory or io."""

    resource: str
    some: float
    full: float | None  # kernels before 5.13 have none for the CPU


@dataclass(frozen=True)
class Mount:
    """A mounted file system. `point` is the host's name for it, `path` where this process finds it."""

    point: str
    path: Path
    kind: str
    device: str
    number: str  # major:minor of the device
    whole: bool  # not only a folder or a file of it, as a bind mount is
    read_only: bool  # the file system itself, as after an error, not only this mount of it


@dataclass(frozen=True)
class Counters:
    """Counters of the kernel at one moment; two of them make a rate. CPU times are in ticks."""

    at: float  # monotonic seconds
    cpu_busy: int
    cpu_total: int
    swapped_in: int  # pages
    swapped_out: int


@dataclass(frozen=True)
class Gauge:
    """How much of a kernel-wide table is in use."""

    name: str
    used: int
    limit: int


class Host:
    """One host. Nothing is opened before it is asked."""

    def __init__(self, target: HostTarget, name: str) -> None:
        self.target = target
        self.name = name

    @property
    def local(self) -> bool:
        """Whether this process' own file systems and control group are the host's, as far as it can tell."""
        return self.target.proc == Path("/proc") and self.target.root == Path("/")

    def memory(self) -> Memory:
        """From meminfo. Raises TargetError."""
        fields = {
            key: int(value.split()[0]) * _KIB
            for key, _, value in (line.partition(":") for line in self._lines("meminfo"))
            if value.split()[:1] and value.split()[0].isdigit()
        }
        try:
            return Memory(fields["MemTotal"], fields["MemAvailable"], fields["SwapTotal"], fields["SwapFree"])
        except KeyError as error:
            raise self._malformed("meminfo") from error

    def load(self) -> Load:
        """From loadavg and stat. Raises TargetError."""
        try:
            one, five, fifteen = (float(word) for word in self._text("loadavg").split()[:3])
        except ValueError as error:
            raise self._malformed("loadavg") from error
        cpus = sum(1 for line in self._lines("stat") if re.match(r"cpu\d", line))
        return Load(one, five, fifteen, max(1, cpus))

    def pressure(self) -> list[Pressure]:
        """From pressure/*; empty where the kernel was built or started without it."""
        found = []
        for resource in ("cpu", "memory", "io"):
            try:
                text = (self.target.proc / "pressure" / resource).read_text()
            except OSError:
                continue
            average = {kind: float(value) for kind, value in re.findall(r"(some|full) .*?avg300=([\d.]+)", text)}
            if "some" in average:
                found.append(Pressure(resource, average["some"], average.get("full")))
        return found

    def counters(self) -> Counters:
        """CPU and swap counters since boot. Raises TargetError."""
        try:
            ticks = [int(word) for word in self._lines("stat")[0].split()[1:9]]  # guest time is within user time
            pages = dict(line.split(maxsplit=1) for line in self._lines("vmstat"))
            idle = ticks[3] + ticks[4]
            return Counters(
                time.monotonic(), sum(ticks) - idle, sum(ticks), int(pages["pswpin"]), int(pages["pswpout"])
            )
        except (ValueError, KeyError, IndexError) as error:
            raise self._malformed("stat or vmstat") from error

    def gauges(self) -> list[Gauge]:
        """Open files and tracked connections of the whole host, where the kernel tells."""
        found = []
        files = self._numbers("sys/fs/file-nr")
        if len(files) == 3:
            found.append(Gauge("open files", files[0] - files[1], files[2]))
        connections = self._numbers("sys/net/netfilter/nf_conntrack_count")
        most = self._numbers("sys/net/netfilter/nf_conntrack_max")
        if connections and most:
            found.append(Gauge("tracked connections", connections[0], most[0]))
        return found

    def mounts(self) -> list[Mount]:
        """The mounts to watch: those the target names, or every real file system, each once. Raises TargetError.

        One that is named and not mounted is left out: compare with the target's.
        """
        found = _mounts(self._mountinfo(), self.target.root)
        if self.target.mounts:
            last = {mount.point: mount for mount in found}  # what was mounted last over a point is what is seen there
            return [last[point] for point in self.target.mounts if point in last]
        return distinct(found) or [mount for mount in found if mount.point == "/"][-1:]

    def _mountinfo(self) -> str:
        # In a sidecar the host's view is that of its first process; where that is hidden, ours is the best there is.
        if not self.local:
            try:
                return (self.target.proc / "1/mountinfo").read_text()
            except OSError:
                pass
        return self._text("self/mountinfo")

    def _numbers(self, name: str) -> list[int]:
        try:
            return [int(word) for word in (self.target.proc / name).read_text().split()]
        except (OSError, ValueError):
            return []

    def _lines(self, name: str) -> list[str]:
        return self._text(name).splitlines()

    def _text(self, name: str) -> str:
        path = self.target.proc / name
        try:
            return path.read_text()
        except OSError as error:
            raise TargetError(
                f"{self.name}: {path}: {error.strerror}",
                "mount the host's /proc there, or correct the target's proc",
                cause="denied" if isinstance(error, PermissionError) else "failed",
            ) from error

    def _malformed(self, name: str) -> TargetError:
        return TargetError(f"{self.name}: {self.target.proc / name} is not as Linux writes it", cause="malformed")


def connect(target: HostTarget, *, name: str = "local") -> Host:
    """A host; nothing is read yet."""
    return Host(resolved(target), name)


def distinct(mounts: list[Mount]) -> list[Mount]:
    """The real file systems, each by its best mount: of the whole of it, with the shortest name. Sorted by name."""
    best: dict[str, Mount] = {}
    for mount in mounts:
        if mount.kind in UNREAL:
            continue
        other = best.get(mount.number)
        if other is None or _rank(mount) < _rank(other):
            best[mount.number] = mount
    return sorted(best.values(), key=lambda mount: mount.point)


def _rank(mount: Mount) -> tuple[bool, int, str]:
    return not mount.whole, len(mount.point), mount.point


def _mounts(mountinfo: str, root: Path) -> list[Mount]:
    """Every line of a mountinfo, in its order. Source of the format: proc(5)."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        here, there = left.split(), right.split(" ")
        if len(here) < 6 or len(there) < 3:
            continue
        point = _unescaped(here[4])
        found.append(
            Mount(
                point=point,
                path=root / point.lstrip("/"),
                kind=there[0],
                device=_unescaped(there[1]),
                number=here[2],
                whole=here[3] == "/",
                read_only="ro" in there[2].split(","),
            )
        )
    return found


def _unescaped(text: str) -> str:
    r"""Spaces, tabs, newlines and backslashes are written as \040 and the like."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def rates(first: Counters, second: Counters) -> Mapping[str, float]:
    """Between two looks: `cpu` in percent of all CPUs; `swap_in`, `swap_out` in bytes per second."""
    seconds = max(second.at - first.at, 1e-9)
    page = os.sysconf("SC_PAGESIZE")
    return {
        "cpu": 100 * (second.cpu_busy - first.cpu_busy) / max(second.cpu_total - first.cpu_total, 1),
        "swap_in": (second.swapped_in - first.swapped_in) * page / seconds,
        "swap_out": (second.swapped_out - first.swapped_out) * page / seconds,
    }
