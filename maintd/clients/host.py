"""Host client on /proc, statvfs and adjtimex: memory, load, pressure, mounts, file systems, counters, clock.

Everything is read below `root` and `proc` of the target, so that a sidecar reads its host (`/host`, `/host/proc`) and
not its own container. The figures are the kernel's: MemAvailable, not "free"; file systems are counted as by `df`.
"""

from __future__ import annotations

import ctypes
import errno
import json
import math
import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.target import HostTarget
from maintd.units import duration_text

# Not storage that can fill up: virtual, in memory, read-only by design, or a view of another mount.
VIRTUAL_FILE_SYSTEMS = frozenset(
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
TRACKED_CONNECTIONS = "tracked connections"
"""The name of a gauge that belongs to a network namespace."""

_FILES_OF_ENGINES = frozenset({"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/run/.containerenv"})
_KIB = 1024
_STA_UNSYNC, _STA_NANO = 0x0040, 0x2000

# Prints one line per path as soon as it is known. With -S and -I, without site packages, it starts in 10 ms.
_STATVFS_SCRIPT = """
import json, os, sys
for path in sys.argv[1:]:
    try:
        s, d = os.statvfs(path), os.stat(path).st_dev
        answer = [s.f_frsize, s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_favail, os.major(d), os.minor(d)]
    except OSError as error:
        answer = error.errno
    print(json.dumps(answer), flush=True)
"""
_SUBVOLUME_DEVICES = {"btrfs"}  # each of its subvolumes has its own device number


@dataclass(frozen=True)
class Memory:
    """Bytes. `available`: the memory for new processes without swapping."""

    total: int
    available: int
    swap_total: int  # 0: the kernel has no swap, or reports none
    swap_free: int
    estimated: bool = False  # the kernel does not report MemAvailable

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
    """The load averages, and the number of CPUs."""

    one: float
    five: float
    fifteen: float
    cpus: int


@dataclass(frozen=True)
class Pressure:
    """Percent of the last 300 s in which some, or all, tasks waited for `resource`: cpu, memory or io."""

    resource: str
    some: float
    full: float | None  # kernels before 5.13 have none for the CPU


@dataclass(frozen=True)
class Mount:
    """A mounted file system. `point`: its path on the host; `path`: its path in this process."""

    point: str
    path: Path
    kind: str
    device: str
    number: str  # major:minor of the device
    whole: bool  # the root of the file system, not a bind mount of a folder or file in it
    read_only: bool  # the file system itself, as after an error, not only this mount
    options: tuple[str, ...] = ()  # of this mount, then of the file system


@dataclass(frozen=True)
class Counters:
    """Counters of the kernel at one instant, for rates between two of them. CPU times are in ticks."""

    at: float  # monotonic seconds
    cpu_busy: int
    cpu_total: int
    swapped_in: int  # pages
    swapped_out: int


@dataclass(frozen=True)
class Gauge:
    """The usage of a table of the kernel."""

    name: str
    used: int
    limit: int


class Host:
    """One host; every call reads the present state."""

    def __init__(self, target: HostTarget, name: str) -> None:
        self.target = target
        self.name = name

    @property
    def local(self) -> bool:
        """Whether the target is the machine of this process, by its paths."""
        return self.target.proc == Path("/proc") and self.target.root == Path("/")

    def memory(self) -> Memory:
        """Memory and swap, from meminfo. Raises TargetError."""
        fields = {
            key.strip(): int(value.split()[0]) * _KIB
            for key, _, value in (line.partition(":") for line in self._lines("meminfo"))
            if re.fullmatch(r"[0-9]{1,18}", value.split()[0] if value.split() else "")
        }
        total = fields.get("MemTotal", 0)
        if total <= 0:
            raise self._malformed("meminfo")
        swap = fields.get("SwapTotal", 0), fields.get("SwapFree", 0)
        if "MemAvailable" in fields:
            return Memory(total, fields["MemAvailable"], *swap)
        return Memory(total, self._estimated_available(fields), *swap, estimated=True)

    def _estimated_available(self, fields: Mapping[str, int]) -> int:
        """MemAvailable where the kernel does not report it: Linux before 3.14, some containers and sandboxes.

        Source: the kernel's si_mem_available: free memory and what it can reclaim of page cache and slabs, each less
        than a half of it or the low watermark. Raises TargetError when the fields for it are missing too.
        """
        files = [fields[name] for name in ("Active(file)", "Inactive(file)") if name in fields]
        cache = sum(files) if len(files) == 2 else fields.get("Cached", -1) - fields.get("Shmem", 0)
        if "MemFree" not in fields or cache < 0:
            raise TargetError(
                f"{self.name}: {self.target.proc / 'meminfo'} has no MemAvailable, and not the fields to estimate it",
                "check it with: free -m",
                cause="unfamiliar",
            )
        least = self._numbers("sys/vm/min_free_kbytes")
        # The kernel's default for the zones together: 4 * sqrt(16 * KiB of memory).
        kib = least[0] if least else 4 * math.isqrt(16 * (fields["MemTotal"] // _KIB))
        low = kib * _KIB * 5 // 4
        slabs = fields.get("SReclaimable", 0)
        found = fields["MemFree"] - low + sum(part - min(part // 2, low) for part in (cache, slabs))
        return min(max(found, 0), fields["MemTotal"])

    def load(self) -> Load:
        """Load averages, from loadavg and stat. Raises TargetError."""
        try:
            one, five, fifteen = (float(word) for word in self._text("loadavg").split()[:3])
        except ValueError as error:
            raise self._malformed("loadavg") from error
        cpus = sum(1 for line in self._lines("stat") if re.match(r"cpu\d", line))
        return Load(one, five, fifteen, max(1, cpus))

    def pressure(self) -> list[Pressure]:
        """Pressure, from pressure/*; empty when the kernel has it disabled."""
        found = []
        for resource in ("cpu", "memory", "io"):
            try:
                text = _text_of(self.target.proc / "pressure" / resource)
            except OSError:
                continue
            found_averages = re.findall(r"(some|full) .*?avg300=([0-9]{1,6}(?:\.[0-9]{1,6})?)", text)
            average = {kind: float(value) for kind, value in found_averages}
            if "some" in average:
                found.append(Pressure(resource, average["some"], average.get("full")))
        return found

    def counters(self) -> Counters:
        """CPU and swap counters since boot. Raises TargetError."""
        try:
            ticks = [int(word) for word in self._lines("stat")[0].split()[1:9]]  # user time includes guest time
            pages = dict(line.split(maxsplit=1) for line in self._lines("vmstat"))
            idle = ticks[3] + ticks[4]
            return Counters(
                time.monotonic(), sum(ticks) - idle, sum(ticks), int(pages["pswpin"]), int(pages["pswpout"])
            )
        except (ValueError, KeyError, IndexError) as error:
            raise self._malformed("stat or vmstat") from error

    def gauges(self) -> list[Gauge]:
        """Open files and tracked connections of the whole host, as far as the kernel reports them."""
        found = []
        files = self._numbers("sys/fs/file-nr")
        if len(files) == 3:
            found.append(Gauge("open files", files[0] - files[1], files[2]))
        connections = self._numbers("sys/net/netfilter/nf_conntrack_count")
        limits = self._numbers("sys/net/netfilter/nf_conntrack_max")
        if connections and limits:
            found.append(Gauge(TRACKED_CONNECTIONS, connections[0], limits[0]))
        return found

    def mounts(self) -> list[Mount]:
        """The target's mounts that are mounted; without any, every real file system once. Raises TargetError."""
        found = _mounts(self._mountinfo(), self.target.root)
        if not found:
            text = f"{self.name}: its mountinfo has no mount"
            raise TargetError(text, "mount the host's own /proc", cause="unfamiliar")
        if self.target.mounts:
            last = {mount.point: mount for mount in found}  # of several mounts over a point the last is visible
            return [last[point] for point in self.target.mounts if point in last]
        return distinct(found) or [mount for mount in found if mount.point == "/"][-1:]

    def _mountinfo(self) -> str:
        # In a sidecar, the host's mounts are those of its process 1; if that is hidden, use this process's.
        if not self.local:
            try:
                return _text_of(self.target.proc / "1/mountinfo")
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
            return _text_of(path)
        except OSError as error:
            raise TargetError(
                f"{self.name}: {path}: {error.strerror}",
                "mount the host's /proc there, or correct the target's proc",
                cause="denied" if isinstance(error, PermissionError) else "failed",
            ) from error

    def _malformed(self, name: str) -> TargetError:
        return TargetError(f"{self.name}: {self.target.proc / name} has an unexpected format", cause="malformed")


def _text_of(path: Path) -> str:
    """The text of a file; a mount point may have any bytes in its name."""
    return path.read_text("utf-8", "surrogateescape")


def connect(target: HostTarget, *, name: str = "local") -> Host:
    """A host client; reads nothing yet."""
    return Host(resolved(target), name)


def distinct(mounts: list[Mount]) -> list[Mount]:
    """Each real file system once, by its mount of the whole with the shortest path; sorted by path."""
    best: dict[str, Mount] = {}
    for mount in mounts:
        if mount.kind in VIRTUAL_FILE_SYSTEMS:
            continue
        other = best.get(mount.number)
        if other is None or _rank(mount) < _rank(other):
            best[mount.number] = mount
    return sorted(best.values(), key=lambda mount: mount.point)


def _rank(mount: Mount) -> tuple[bool, int, str]:
    return not mount.whole, len(mount.point), mount.point


def _mounts(mountinfo: str, root: Path) -> list[Mount]:
    """All mounts of a mountinfo, in its order. Source of the format: proc(5)."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, super_fields = left.split(), right.split(" ")
        if len(fields) < 6 or len(super_fields) < 3:
            continue
        point = _unescaped(fields[4])
        found.append(
            Mount(
                point=point,
                path=root / point.lstrip("/"),
                kind=super_fields[0],
                device=_unescaped(super_fields[1]),
                number=fields[2],
                whole=fields[3] == "/",
                read_only="ro" in super_fields[2].split(","),
                options=(*fields[5].split(","), *super_fields[2].split(",")),
            )
        )
    return found


def own_mounts() -> list[Mount]:
    """The file systems of this process's container: its root, and each real one that is mounted beside it.

    Without the files that an engine mounts into each container. Raises TargetError.
    """
    try:
        found = _mounts(_text_of(Path("/proc/self/mountinfo")), Path("/"))
    except OSError as error:
        raise TargetError(f"/proc/self/mountinfo: {error.strerror}", "mount /proc", cause="failed") from error
    own = distinct([mount for mount in found if mount.point not in _FILES_OF_ENGINES])
    return [*[mount for mount in found if mount.point == "/"][-1:], *(mount for mount in own if mount.point != "/")]


def root_file_system(process: str) -> str:
    """The device and the folder on it that a process of /proc has as its root: `8:1 /`. Empty: it is not known."""
    try:
        lines = _text_of(Path("/proc", process, "mountinfo")).splitlines()
    except OSError:
        return ""
    roots = [" ".join(fields[2:4]) for fields in map(str.split, lines) if fields[4:5] == ["/"]]
    return roots[-1] if roots else ""


def _unescaped(text: str) -> str:
    r"""mountinfo escapes spaces, tabs, newlines and backslashes, for example as \040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def rates(first: Counters, second: Counters) -> Mapping[str, float]:
    """Rates between two instants: `cpu` in percent of all CPUs; `swap_in`, `swap_out` in bytes per second."""
    seconds = max(second.at - first.at, 1e-9)
    page = os.sysconf("SC_PAGESIZE")
    return {
        "cpu": 100 * (second.cpu_busy - first.cpu_busy) / max(second.cpu_total - first.cpu_total, 1),
        "swap_in": (second.swapped_in - first.swapped_in) * page / seconds,
        "swap_out": (second.swapped_out - first.swapped_out) * page / seconds,
    }


@dataclass(frozen=True)
class Usage:
    """Bytes and inodes of a file system. `available`: to users other than root."""

    size: int
    used: int
    available: int
    inodes: int  # 0: the file system allocates them dynamically
    inodes_available: int

    @property
    def used_percent(self) -> float:
        """As shown by `df`: root's reserve is neither used nor available."""
        return 100 * self.used / max(self.used + self.available, 1)

    @property
    def inodes_used_percent(self) -> float | None:
        """None when inodes are allocated dynamically."""
        return 100 * (self.inodes - self.inodes_available) / self.inodes if self.inodes else None


def usages(mounts: Sequence[Mount], timeout: timedelta) -> Iterator[tuple[Mount, Usage | TargetError]]:
    """Each mount with its usage or an error.

    statvfs of a dead network mount never returns, so that a child process calls it; a mount that does not answer within
    `timeout` is skipped.
    """
    waiting = list(mounts)
    while waiting:
        for answer in _answers([str(mount.path) for mount in waiting], timeout):
            mount = waiting.pop(0)
            yield mount, _usage(mount, answer)
        if waiting:  # the first of the rest hangs
            mount = waiting.pop(0)
            yield (
                mount,
                TargetError(
                    f"{mount.point}: no answer within {duration_text(timeout)}",
                    f"{mount.device} ({mount.kind}) hangs: check its server; umount -l {mount.point} detaches it",
                    cause="timed_out",
                ),
            )


def _answers(paths: Sequence[str], timeout: timedelta) -> Iterator[list[int] | int]:
    """The answers of the child process, until it ends or is silent for `timeout`; then it is killed."""
    argv = [sys.executable, "-I", "-S", "-c", _STATVFS_SCRIPT, *paths]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            rest, answered = b"", 0
            deadline = time.monotonic() + timeout.total_seconds()
            while answered < len(paths):
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return
                more = os.read(process.stdout.fileno(), 65536)
                if not more:
                    return
                *lines, rest = (rest + more).split(b"\n")
                for line in lines:
                    answered += 1
                    deadline = time.monotonic() + timeout.total_seconds()
                    yield json.loads(line)
    finally:
        process.kill()
        process.stdout.close()
        # In an uninterruptible wait, KILL does not end it until the server answers; leave it to the kernel.
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.5)


def _usage(mount: Mount, answer: list[int] | int) -> Usage | TargetError:
    if isinstance(answer, int):
        denied = answer in (errno.EACCES, errno.EPERM)
        hint = "allow this process to enter its parent folders" if denied else "check whether it is still mounted"
        cause = "denied" if denied else "failed"
        return TargetError(f"{mount.point}: {os.strerror(answer)} at {mount.path}", hint, cause=cause)
    unit, blocks, free, available, inodes, inodes_available, major, minor = answer
    if mount.number != f"{major}:{minor}" and mount.kind not in _SUBVOLUME_DEVICES:
        return TargetError(
            f"{mount.point}: {mount.path} is another file system",
            "mount the host's root with rslave propagation, so that its later mounts are visible here",
            cause="partial",
        )
    return Usage(blocks * unit, (blocks - free) * unit, available * unit, inodes, inodes_available)


class _Timex(ctypes.Structure):
    # Source: linux/timex.h; longs have the machine's size, and the tail is not read.
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("tail", ctypes.c_byte * 256),
    )


@dataclass(frozen=True)
class TimeSync:
    """State of the kernel's clock. `offset`: still to be corrected; meaningless while it is not synchronised."""

    synchronised: bool
    offset: timedelta


def time_sync() -> TimeSync:
    """State of the clock of the kernel, which a container shares with its host. Raises TargetError."""
    timex = _Timex()
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except AttributeError:
        state = -1
    if state < 0:
        code = ctypes.get_errno()
        # Reading needs no right: a filter of system calls answers this, of systemd, an engine or another sandbox.
        denied = code in (errno.EPERM, errno.EACCES, errno.ENOSYS)
        hint = "allow the system calls adjtimex and clock_adjtime to this process; see timedatectl"
        raise TargetError(
            f"adjtimex: {os.strerror(code)}",
            hint if denied else "see timedatectl",
            cause="denied" if denied else "failed",
        )
    microseconds = abs(timex.offset) / (1000 if timex.status & _STA_NANO else 1)
    return TimeSync(not timex.status & _STA_UNSYNC, timedelta(microseconds=microseconds))
