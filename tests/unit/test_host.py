"""A host by its proc file system: what the kernel writes, and what a sidecar or an odd kernel shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from maintd.checks.probes import value_or_error
from maintd.clients import host
from maintd.clients.cgroup import own_memory
from maintd.clients.host import time_sync
from maintd.clients.open_files import ancestors
from maintd.errors import TargetError
from maintd.job.causes import Role, status_of
from maintd.model.evidence import CheckStatus
from maintd.model.target import HostTarget

MEMINFO = """MemTotal:       16000000 kB
MemFree:          500000 kB
MemAvailable:    4000000 kB
SwapTotal:       2000000 kB
SwapFree:        1500000 kB
HugePages_Total:       0
"""
MOUNTINFO = """21 27 0:21 / /proc rw - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,errors=remount-ro
28 27 254:0 /srv/data /var/lib/maintd rw - ext4 /dev/vda rw
29 27 0:30 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw
30 27 0:31 / /run rw - tmpfs tmpfs rw
31 27 8:16 / /mnt/my\\040disk ro,relatime shared:1 - xfs /dev/sdb ro,noquota
32 27 0:45 / /srv/nfs rw - nfs4 files:/export rw,vers=4.2
33 27 7:0 / /snap/x/1 ro - squashfs /dev/loop0 ro
34 27 8:32 /@home /home rw - btrfs /dev/sdc rw,subvol=/@home
35 27 8:32 / /pool rw - btrfs /dev/sdc rw,subvol=/
"""


def made(folder: Path, files: dict[str, str], **more: object) -> host.Host:
    for name, text in files.items():
        path = folder / "proc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return host.connect(HostTarget.model_validate({"root": folder, "proc": folder / "proc", **more}), name="made")


def test_memory_counts_what_is_available_and_not_what_is_free(tmp_path: Path) -> None:
    memory = made(tmp_path, {"meminfo": MEMINFO}).memory()

    assert memory.available_percent == 25.0  # 4,000,000 of 16,000,000
    assert memory.swap_used_percent == 25.0  # 500,000 of 2,000,000


def test_a_host_without_swap_has_no_percentage_of_it(tmp_path: Path) -> None:
    memory = made(tmp_path, {"meminfo": MEMINFO.replace("2000000", "0").replace("1500000", "0")}).memory()

    assert memory.swap_used_percent is None


OLD_KERNEL = """MemTotal:       16000000 kB
MemFree:         1000000 kB
Cached:          4200000 kB
SwapTotal:       2000000 kB
SwapFree:        1500000 kB
Active(file):    2000000 kB
Inactive(file):  2000000 kB
Shmem:            200000 kB
SReclaimable:     400000 kB
"""


def without(meminfo: str, *names: str) -> str:
    return "".join(line for line in meminfo.splitlines(keepends=True) if line.partition(":")[0] not in names)


@pytest.mark.parametrize(
    ("meminfo", "kib"),
    [
        # low watermark 67584 * 5 / 4 = 84480: 1,000,000 - 84,480 + (4,000,000 - 84,480) + (400,000 - 84,480)
        (OLD_KERNEL, 5_146_560),
        (without(OLD_KERNEL, "Active(file)", "Inactive(file)"), 5_146_560),  # 4,200,000 of cache less 200,000
        (without(OLD_KERNEL, "SReclaimable"), 4_831_040),
        (without(OLD_KERNEL, "SwapTotal", "SwapFree"), 5_146_560),
        (OLD_KERNEL.replace("1000000", "0").replace("2000000", "0").replace("400000", "0"), 0),
    ],
    ids=["2.6.32", "no lists of file pages", "no slabs", "no swap", "nothing free"],
)
def test_without_memavailable_it_is_estimated_as_the_kernel_does(tmp_path: Path, meminfo: str, kib: int) -> None:
    memory = made(tmp_path, {"meminfo": meminfo, "sys/vm/min_free_kbytes": "67584\n"}).memory()

    assert memory.estimated
    assert memory.available == kib * 1024


def test_the_estimate_is_near_the_kernels_own_figure(tmp_path: Path) -> None:
    real = Path("/proc/meminfo").read_text()

    memory = made(tmp_path, {"meminfo": real}).memory()
    estimate = made(tmp_path, {"meminfo": without(real, "MemAvailable")}).memory()

    assert estimate.available == pytest.approx(memory.available, abs=0.05 * memory.total)


@pytest.mark.parametrize(
    "names", [("MemFree",), ("Cached", "Active(file)"), ("Cached", "Inactive(file)"), ("MemFree", "Cached")]
)
def test_without_the_fields_for_an_estimate_available_memory_is_unknown(tmp_path: Path, names: tuple[str, ...]) -> None:
    machine = made(tmp_path, {"meminfo": without(OLD_KERNEL, *names)})

    with pytest.raises(TargetError, match="no MemAvailable") as caught:
        machine.memory()

    assert caught.value.cause == "unfamiliar"


@pytest.mark.parametrize("meminfo", ["", "MemTotal: 0 kB\n", "MemTotal: ² kB\n", "MemTotal:\n", "<html>"])
def test_a_meminfo_without_a_total_is_malformed(tmp_path: Path, meminfo: str) -> None:
    machine = made(tmp_path, {"meminfo": meminfo})

    with pytest.raises(TargetError) as caught:
        machine.memory()

    assert caught.value.cause == "malformed"


def test_load_knows_the_number_of_cpus(tmp_path: Path) -> None:
    stat = "cpu  1 2 3 4 5 6 7 8 9 0\ncpu0 1 2 3\ncpu1 1 2 3\ncpu10 1 2 3\nintr 5\n"

    load = made(tmp_path, {"loadavg": "0.50 3.00 2.00 1/200 1234\n", "stat": stat}).load()

    assert (load.five, load.cpus) == (3.0, 3)


def test_pressure_is_read_and_may_be_missing(tmp_path: Path) -> None:
    memory = "some avg10=0.00 avg60=0.00 avg300=1.50 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.75 total=1\n"
    machine = made(
        tmp_path, {"pressure/memory": memory, "pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=2.00 total=1\n"}
    )

    assert machine.pressure() == [host.Pressure("cpu", 2.0, None), host.Pressure("memory", 1.5, 0.75)]
    assert made(tmp_path / "old", {}).pressure() == []


def test_every_real_file_system_is_watched_once_by_its_best_name(tmp_path: Path) -> None:
    mounts = made(tmp_path, {"1/mountinfo": MOUNTINFO}).mounts()

    assert [mount.point for mount in mounts] == ["/", "/mnt/my disk", "/pool", "/srv/nfs"]
    assert [mount.read_only for mount in mounts] == [False, True, False, False]
    assert mounts[1].path == tmp_path / "mnt/my disk"


def test_named_mounts_are_watched_whatever_they_are(tmp_path: Path) -> None:
    machine = made(tmp_path, {"1/mountinfo": MOUNTINFO}, mounts=("/run", "/backups"))

    assert [mount.point for mount in machine.mounts()] == ["/run"]


def test_a_container_whose_root_is_an_overlay_watches_that(tmp_path: Path) -> None:
    only = "1 0 0:50 / / rw - overlay overlay rw\n2 1 0:51 / /proc rw - proc proc rw\n"

    assert [mount.kind for mount in made(tmp_path, {"self/mountinfo": only}).mounts()] == ["overlay"]


@pytest.mark.parametrize(
    ("files", "act", "cause"),
    [
        ({}, "memory", "failed"),
        ({"meminfo": "nothing here\n"}, "memory", "malformed"),
        ({"loadavg": "\n", "stat": ""}, "load", "malformed"),
        ({"stat": "", "vmstat": ""}, "counters", "malformed"),
    ],
)
def test_a_missing_or_foreign_proc_is_an_error_with_its_cause(
    tmp_path: Path, files: dict[str, str], act: str, cause: str
) -> None:
    machine = made(tmp_path, files)

    with pytest.raises(TargetError) as caught:
        getattr(machine, act)()

    assert caught.value.cause == cause
    assert str(tmp_path) in caught.value.message


def test_rates_are_between_two_samples() -> None:
    first = host.Counters(at=10.0, cpu_busy=100, cpu_total=1000, swapped_in=0, swapped_out=5)
    second = host.Counters(at=12.0, cpu_busy=150, cpu_total=1200, swapped_in=10, swapped_out=5)

    rates = host.rates(first, second)

    page = os.sysconf("SC_PAGESIZE")
    assert rates == {"cpu": 25.0, "swap_in": 5.0 * page, "swap_out": 0.0}  # 50 of 200 ticks; 10 pages in 2 s


def test_this_machine_answers_everything() -> None:
    machine = host.connect(HostTarget())

    assert machine.memory().total > machine.memory().available > 0
    assert machine.counters().cpu_total > 0
    assert {gauge.name for gauge in machine.gauges()} >= {"open files"}
    assert machine.mounts()
    seen = value_or_error(time_sync)
    assert isinstance(seen, TargetError) or seen.offset.total_seconds() < 60


FILTERED = """
import ctypes, json, platform, struct
from maintd.checks.probes import value_or_error
from maintd.clients.host import time_sync

# A filter as systemd's SystemCallFilter and engines set it: adjtimex and clock_adjtime are answered EPERM.
numbers = {"x86_64": (159, 305), "aarch64": (171, 266)}[platform.machine()]
load, equal, answer = 0x20, 0x15, 0x06
program = b"".join(struct.pack("HBBI", *item) for item in [
    (load, 0, 0, 0), (equal, 1, 0, numbers[0]), (equal, 0, 1, numbers[1]),
    (answer, 0, 0, 0x00050000 | 1), (answer, 0, 0, 0x7FFF0000)])
class Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_char_p))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.byref(Filter(5, program)), 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
seen = value_or_error(time_sync)
print(json.dumps([seen.cause, seen.message, seen.hint]))
"""


def test_a_clock_that_a_filter_of_system_calls_hides_is_denied_and_so_unknown() -> None:
    done = subprocess.run([sys.executable, "-c", FILTERED], capture_output=True, text=True, check=True)

    cause, message, hint = json.loads(done.stdout)
    assert (cause, message) == ("denied", "adjtimex: Operation not permitted")
    assert "clock_adjtime" in hint
    assert status_of(cause, Role.SUBJECT) is CheckStatus.UNKNOWN


V1_GROUPS = "9:name=systemd:/\n4:memory:/docker/abc\n0::/\n"
V2_GROUPS = "0::/system.slice/maintd.service\n"


def group(root: Path, path: str, files: dict[str, str]) -> None:
    folder = root / path
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.fixture
def groups(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path / "proc", tmp_path / "cgroup"


def test_the_own_limit_is_read_from_control_groups_v1(groups: tuple[Path, Path]) -> None:
    proc, root = groups
    (proc / "self/cgroup").write_text(V1_GROUPS)
    stat = "inactive_file 1\ntotal_inactive_file 40\n"
    files = {"memory.limit_in_bytes": "200\n", "memory.usage_in_bytes": "140\n", "memory.stat": stat}
    group(root, "memory/docker/abc", files)

    own = own_memory(proc, root)

    assert own is not None
    assert (own.used, own.limit, own.used_percent) == (100, 200, 50.0)


def test_inside_a_container_of_v1_its_group_is_mounted_as_the_top(groups: tuple[Path, Path]) -> None:
    proc, root = groups
    (proc / "self/cgroup").write_text(V1_GROUPS)
    group(root, "memory", {"memory.limit_in_bytes": "200\n", "memory.usage_in_bytes": "140\n"})

    own = own_memory(proc, root)

    assert own is not None
    assert own.used == 140


def test_the_own_limit_of_v2_may_be_that_of_a_group_above(groups: tuple[Path, Path]) -> None:
    proc, root = groups
    (proc / "self/cgroup").write_text(V2_GROUPS)
    group(
        root, "system.slice", {"memory.max": "400\n", "memory.current": "300\n", "memory.stat": "inactive_file 100\n"}
    )
    group(root, "system.slice/maintd.service", {"memory.max": "max\n", "memory.current": "30\n"})

    own = own_memory(proc, root)

    assert own is not None
    assert own.used_percent == 50.0


def test_no_limit_is_none(groups: tuple[Path, Path]) -> None:
    proc, root = groups
    (proc / "self/cgroup").write_text(V1_GROUPS)
    group(root, "memory", {"memory.limit_in_bytes": "9223372036854771712\n", "memory.usage_in_bytes": "140\n"})

    assert own_memory(proc, root) is None
    assert own_memory(proc / "none", root) is None


def test_the_daemon_that_a_job_descends_from_is_not_counted_as_not_inspected(tmp_path: Path) -> None:
    folders = {"7": "1", "20": "7", "30": "20", "40": "1"}  # by their parents
    for pid, parent in folders.items():
        folder = tmp_path / pid
        folder.mkdir()
        (folder / "stat").write_text(f"{pid} (a program) S {parent} 1 1")
        (folder / "comm").write_text("program\n")
        if pid != "7":
            (folder / "fd").mkdir()
    (tmp_path / "self").symlink_to("30")

    assert ancestors(tmp_path) == {7, 20, 30}
