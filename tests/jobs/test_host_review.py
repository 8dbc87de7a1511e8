"""The review of hosts: folders with files as a host has them, and this machine's own kernel."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.job_runs import JobResult, run_job

from maintd.clients import diskstats, sockets, sysctl
from maintd.errors import TargetError
from maintd.job.attempt_info import Point
from maintd.model.evidence import Check, CheckStatus

WANTED = {
    "vm.swappiness": 10,
    "vm.overcommit_memory": 1,
    "vm.dirty_background_ratio": 10,
    "vm.dirty_ratio": 20,
    "vm.zone_reclaim_mode": 0,
}
DISKSTATS = """\
   7       0 loop0 9 0 9 9 0 0 0 0 0 9 9 0 0 0 0
   8       0 sda {reads} 0 0 {read_ms} {writes} 0 0 {write_ms} 0 {busy_ms} 0 0 0 0 0 0 0
   8       1 sda1 9 0 0 9 9 0 0 9 0 9 9 0 0 0 0 0 0
 259       0 nvme0n1 2000 0 0 1000 2000 0 0 1000 0 10 10 0 0 0 0
 259       1 nvme0n1p1 9 0 0 9 9 0 0 9 0 9 9
"""
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0500000A:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3
   3: 0500000A:D431 0600000A:01BB 01 00000000:00000000 00:00000000 00000000     0        0 4
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue
   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000
   1: 00000000000000000000000001000000:0019 00000000000000000000000000000000:0000 0A 00000000:00000000
"""
UDP = """\
   sl  local_address rem_address   st tx_queue rx_queue
    0: 00000000:0035 00000000:0000 07 00000000:00000000
    1: 00000000:C001 00000000:0000 07 00000000:00000000
"""
MOUNTINFO = """\
25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
26 25 8:2 / /data {options} shared:2 - ext4 /dev/sda2 rw{super_options}
"""


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host in order, below which a test changes a file."""
    for key, value in WANTED.items():
        write(tmp_path, f"proc/sys/{key.replace('.', '/')}", f"{value}\n")
    write(tmp_path, "etc/sysctl.d/99-stack.conf", "vm.swappiness = 10\n# Redis\nvm/overcommit_memory=1\n")
    write(tmp_path, f"sys/{sysctl.HUGE_PAGES}", "always [madvise] never\n")
    write(tmp_path, "proc/diskstats", disk_lines())
    write(tmp_path, "proc/1/net/tcp", TCP)
    write(tmp_path, "proc/1/net/tcp6", TCP6)
    write(tmp_path, "proc/1/net/udp", UDP)
    write(tmp_path, "proc/1/mountinfo", mountinfo())
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    return tmp_path


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def disk_lines(**counters: int) -> str:
    usual = {"reads": 2000, "read_ms": 1000, "writes": 2000, "write_ms": 1000, "busy_ms": 50}
    return DISKSTATS.format(**{**usual, **counters})


def mountinfo(options: str = "rw,relatime", super_options: str = "") -> str:
    return MOUNTINFO.format(options=options, super_options=super_options)


def review(root: Path, **params: Any) -> JobResult:
    earlier = params.pop("series", {})
    targets = {"host": {"local": {"root": str(root), "proc": str(root / "proc")}}}
    return run_job("host_review", {"interval": "100ms", **params}, targets, series=earlier)


def artifact(result: JobResult, name: str) -> str:
    return Path(next(item for item in result.artifacts if item.name == name).path).read_text()


def found(result: JobResult, name: str) -> Check:
    return next(check for check in result.checks if check.name == f"host local: {name}")


def not_ok(result: JobResult) -> dict[str, CheckStatus]:
    """The checks that are not ok, apart from those that depend on this machine."""
    return {
        check.name.removeprefix("host local: "): check.status
        for check in result.checks
        if check.status is not CheckStatus.OK and "clock" not in check.name and not check.optional
    }


def test_a_host_in_order_has_no_finding(host: Path) -> None:
    result = review(host, listening=["22", "8080", "10.0.0.0/8:5432", "53/udp"])

    assert not_ok(result) == {}
    assert found(result, "vm.swappiness after a restart").observed == "10 by /etc/sysctl.d/99-stack.conf:1"
    assert found(result, "vm.dirty_ratio after a restart").observed == "the kernel's default"


def test_a_setting_of_another_network_namespace_is_unknown_as_a_fact_of_the_site(host: Path) -> None:
    check = found(review(host), "net.core.somaxconn")

    assert (check.status, check.optional) == (CheckStatus.UNKNOWN, True)
    assert "network_mode: host" in check.hint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vm.swappiness", 60),
        ("vm.overcommit_memory", 0),
        ("vm.dirty_background_ratio", 30),
        ("vm.dirty_ratio", 40),
        ("vm.zone_reclaim_mode", 1),
    ],
)
def test_a_setting_that_differs_warns_with_the_line_to_write(host: Path, key: str, value: int) -> None:
    write(host, f"proc/sys/{key.replace('.', '/')}", str(value))

    result = review(host)

    assert not_ok(result) == {key: CheckStatus.WARN}
    line = f"{key} = {WANTED[key]}"
    assert line in found(result, key).hint
    assert found(result, key).rule
    assert line in artifact(result, "local.sysctl.conf")


def test_params_change_the_profile(host: Path) -> None:
    write(host, "proc/sys/vm/swappiness", "60")
    write(host, "proc/sys/vm/max_map_count", "65530")
    settings = {"vm.swappiness": None, "vm.max_map_count": {"at_least": 262144, "source": "manual of a search engine"}}

    result = review(host, settings=settings)

    assert not_ok(result) == {"vm.max_map_count": CheckStatus.WARN}
    assert found(result, "vm.max_map_count").rule == "manual of a search engine"


def test_a_setting_that_this_kernel_does_not_have_is_unknown(host: Path) -> None:
    (host / "proc/sys/vm/zone_reclaim_mode").unlink()

    result = review(host, settings={"vm.swapiness": {"equals": 10}})

    assert not_ok(result) == {"vm.swapiness": CheckStatus.UNKNOWN}  # misspelt by a person
    assert found(result, "vm.zone_reclaim_mode").optional


@pytest.mark.parametrize("text", ["", "10 20", "many", "9" * 30])
def test_a_value_that_is_no_number_is_unknown(host: Path, text: str) -> None:
    write(host, "proc/sys/vm/swappiness", text)

    assert not_ok(review(host)) == {"vm.swappiness": CheckStatus.UNKNOWN}


def test_a_setting_made_by_hand_is_not_kept(host: Path) -> None:
    write(host, "etc/sysctl.d/99-stack.conf", "vm.overcommit_memory = 1\n")

    check = found(review(host), "vm.swappiness after a restart")

    assert (check.status, check.observed) == (CheckStatus.WARN, "set in no file")
    assert "vm.swappiness = 10" in check.hint


def test_the_last_file_by_name_applies_and_a_file_hides_one_of_its_name(host: Path) -> None:
    write(host, "usr/lib/sysctl.d/99-stack.conf", "vm.swappiness = 1\n")  # hidden by the one in /etc
    write(host, "usr/lib/sysctl.d/99-z.conf", "vm.swappiness = 60\n")

    check = found(review(host), "vm.swappiness after a restart")

    assert (check.status, check.observed) == (CheckStatus.WARN, "60 by /usr/lib/sysctl.d/99-z.conf:1")


def test_a_link_is_followed_within_the_host_and_one_to_nothing_masks(host: Path) -> None:
    write(host, "etc/sysctl.conf", "vm.swappiness = 5\n")
    (host / "etc/sysctl.d/99-sysctl.conf").symlink_to("/etc/sysctl.conf")
    (host / "etc/sysctl.d/99-other.conf").symlink_to("/dev/null")
    write(host, "usr/lib/sysctl.d/99-other.conf", "vm.swappiness = 60\n")

    result = review(host)

    assert found(result, "vm.swappiness after a restart").observed == "5 by /etc/sysctl.conf:1"


@pytest.mark.parametrize("link", ["../../../../../../etc/passwd", "/mnt/not-mounted/a.conf", "99-link.conf"])
def test_what_a_link_to_nothing_below_the_root_sets_is_unknown_and_nothing_outside_is_read(
    host: Path, link: str
) -> None:
    (host / "etc/sysctl.d/99-link.conf").symlink_to(link)

    check = found(review(host), "vm.swappiness after a restart")

    assert check.status is CheckStatus.UNKNOWN
    assert "99-link.conf" in str(check.observed)


def test_a_folder_of_settings_that_is_a_link_is_read_where_it_leads_below_the_root(host: Path) -> None:
    write(host, "usr/share/settings/99-z.conf", "vm.swappiness = 60\n")
    (host / "lib").symlink_to("/usr")
    (host / "usr/sysctl.d").symlink_to("../../../usr/share/settings")

    check = found(review(host), "vm.swappiness after a restart")

    assert check.observed == "60 by /usr/share/settings/99-z.conf:1"


def test_lines_that_the_runbook_appended_again_and_again_are_named(host: Path) -> None:
    write(host, "etc/sysctl.conf", "vm.swappiness=10\nvm.swappiness=10\n")
    (host / "etc/sysctl.d/99-sysctl.conf").symlink_to("../sysctl.conf")

    check = found(review(host), "settings given twice in a file")

    assert (check.status, check.observed) == (CheckStatus.WARN, 1)
    assert "vm.swappiness in /etc/sysctl.conf:1" in check.hint


def test_a_file_that_systemd_does_not_read_is_named(host: Path) -> None:
    write(host, "etc/sysctl.conf", "kernel.panic = 10\n")

    assert "kernel.panic in /etc/sysctl.conf:1" in found(review(host), "settings that no start reads").hint

    (host / "run/systemd/system").rmdir()  # another init reads it

    assert found(review(host), "settings that no start reads").status is CheckStatus.OK


def test_huge_pages_warn_with_the_line_to_write(host: Path) -> None:
    write(host, f"sys/{sysctl.HUGE_PAGES}", "[always] madvise never\n")

    result = review(host)

    assert not_ok(result) == {"transparent huge pages": CheckStatus.WARN}
    line = "w /sys/kernel/mm/transparent_hugepage/enabled - - - - madvise"
    assert line in artifact(result, "local.tmpfiles.conf")


def test_a_slow_disk_is_known_by_its_average_since_the_last_run(host: Path) -> None:
    labels = {"host": "local", "disk": "sda"}
    last = datetime.now(UTC) - timedelta(days=90)
    before = {"disk_reads": 2000, "disk_read_milliseconds": 1000, "disk_writes": 2000, "disk_write_milliseconds": 1000}
    series = {name: [Point(last, value, labels)] for name, value in before.items()}
    slow = {"reads": 4000, "read_ms": 1000 + 2000 * 60, "writes": 4000, "write_ms": 1000 + 2000 * 20}
    write(host, "proc/diskstats", disk_lines(**slow))

    first, second = review(host), review(host, series=series)

    assert found(first, "sda: wait of a read").observed == 30.25  # all since the host started
    assert not_ok(second) == {"sda: wait of a read": CheckStatus.FAIL, "sda: wait of a write": CheckStatus.WARN}
    assert found(second, "sda: wait of a read").observed == 60
    assert "2,000 requests since the last run" in found(second, "sda: wait of a read").hint


def test_few_requests_are_not_evaluated(host: Path) -> None:
    write(host, "proc/diskstats", disk_lines(reads=10, read_ms=9999))

    result = review(host)

    assert not any("sda: wait of a read" in check.name for check in result.checks)
    assert any("too few to evaluate" in line for line in result.logs)


def test_partitions_and_virtual_devices_are_no_disks(host: Path) -> None:
    assert set(diskstats.disks(host / "proc")) == {"sda", "nvme0n1"}


@pytest.mark.parametrize("text", ["", "   7       0 loop0 9 0 9 9 0 0 0 0 0 9 9\n"])
def test_a_host_that_shows_no_disk_is_unknown(host: Path, text: str) -> None:
    write(host, "proc/diskstats", text)

    assert not_ok(review(host)) == {"disks": CheckStatus.UNKNOWN}


@pytest.mark.parametrize(
    ("options", "super_options", "status"),
    [
        ("rw,relatime", ",barrier=0", CheckStatus.FAIL),
        ("rw,relatime", ",data=writeback", CheckStatus.FAIL),
        ("rw,strictatime", "", CheckStatus.WARN),
        ("rw,noatime", ",discard", CheckStatus.OK),
    ],
)
def test_mount_options_with_which_data_can_be_lost(
    host: Path, options: str, super_options: str, status: CheckStatus
) -> None:
    write(host, "proc/1/mountinfo", mountinfo(options, super_options))

    assert found(review(host), "/data: mount options").status is status


def test_without_a_list_sockets_are_listed_and_not_evaluated(host: Path) -> None:
    result = review(host)

    assert not any("listen" in check.name for check in result.checks)
    assert "[::]:8080/tcp" in artifact(result, "local.listening.json")


def test_each_socket_that_is_not_allowed_is_a_check_of_its_own(host: Path) -> None:
    result = review(host, listening=["22/tcp", "192.168.0.0/16:5432"])

    assert not_ok(result) == {
        "listening sockets that are not allowed": CheckStatus.FAIL,
        "listens on 0.0.0.0:53/udp": CheckStatus.FAIL,
        "listens on 10.0.0.5:5432/tcp": CheckStatus.FAIL,
        "listens on [::]:8080/tcp": CheckStatus.FAIL,
    }
    assert "ss -ltnp 'sport = :8080'" in found(result, "listens on [::]:8080/tcp").hint


def test_a_kernel_without_ipv6_has_no_such_sockets(host: Path) -> None:
    (host / "proc/1/net/tcp6").unlink()

    assert [str(item) for item in sockets.listening(host / "proc")][:2] == ["0.0.0.0:22/tcp", "10.0.0.5:5432/tcp"]


@pytest.mark.parametrize("line", ["   0: zz:16 00:00 0A\n", "   0: 0000:0016 00:00 0A\n", "   0: 00000000 00:00 0A\n"])
def test_a_line_that_is_no_address_is_an_error(host: Path, line: str) -> None:
    write(host, "proc/1/net/tcp", TCP.splitlines()[0] + "\n" + line)

    with pytest.raises(TargetError, match="is not an address"):
        sockets.listening(host / "proc")


@pytest.mark.parametrize("text", ["", "cut\n"])
def test_tables_of_the_kernel_that_are_empty_are_unknown(host: Path, text: str) -> None:
    write(host, "proc/1/net/tcp", text)
    write(host, "proc/1/mountinfo", text)

    result = not_ok(review(host, listening=["22"]))

    assert (result["sockets"], result["mounts"]) == (CheckStatus.UNKNOWN, CheckStatus.UNKNOWN), result


@pytest.mark.parametrize("text", ["1_0", "١٠", "+10", "1e1", "08", "0x1_0", "10 "])
def test_a_value_of_a_file_is_read_as_the_kernel_reads_it(host: Path, text: str) -> None:
    write(host, "etc/sysctl.d/99-stack.conf", f"vm.swappiness = {text}\nvm.overcommit_memory = 01\n")

    check = found(review(host), "vm.swappiness after a restart")

    assert check.status is (CheckStatus.OK if text == "10 " else CheckStatus.WARN)


@pytest.mark.parametrize("text", ["ssh", "1:2:3", "99999", "10.0.0.0/99:5", "22/icmp", ""])
def test_a_list_that_cannot_be_read_is_refused(host: Path, text: str) -> None:
    assert re.search(r"PORT|network", str(review(host, listening=[text]).error))


def test_what_is_missing_of_a_host_is_known_by_its_cause(host: Path) -> None:
    for name in ("proc/diskstats", "proc/1/net/tcp", "proc/1/mountinfo"):
        (host / name).unlink()

    result = review(host)

    assert set(not_ok(result)) == {"disks", "sockets", "mounts"}
    assert all(status is not CheckStatus.WARN for status in not_ok(result).values())


def test_the_kernel_of_this_machine_can_be_read() -> None:
    result = run_job("host_review", {"interval": "100ms"}, {})

    assert isinstance(found(result, "vm.swappiness").observed, int)
    assert found(result, "transparent huge pages").observed in ("always", "madvise", "never") or (
        found(result, "transparent huge pages").status is CheckStatus.UNKNOWN
    )
