"""Updates of a host by the files of its root: each finding, and what is unknown because it was not seen."""

from __future__ import annotations

import gzip
import lzma
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.host_roots import KERNEL, LIBC, SSHD, HostRoot, release, stanza
from support.job_runs import JobResult, run_job
from support.servers.base import require_program, wait_for
from support.users import as_unprivileged_user, folder_for_all

from maintd.checks.os_updates.versions import compare
from maintd.job.attempt_info import Point
from maintd.model.evidence import CheckStatus

OK, WARN, FAIL, UNKNOWN = CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL, CheckStatus.UNKNOWN
PENDING, OLDEST = "host: pending security updates", "host: oldest pending security update"
REBOOT, RUNNING, RESTART = "host: a reboot is due for", "host: running kernel", "host: services to restart"
OPENSSL = stanza("openssl", "3.5.2-1~deb13u1", None)


@pytest.fixture
def host(tmp_path: Path) -> HostRoot:
    return HostRoot(tmp_path)


def examine(host: HostRoot, params: dict[str, Any] | None = None, **attempt: Any) -> JobResult:
    return run_job("os_updates", {"root": str(host.root), **(params or {})}, **attempt)


def not_ok(result: JobResult) -> dict[str, CheckStatus]:
    return {check.name: check.status for check in result.checks if check.status is not OK}


def test_a_host_that_is_up_to_date_passes_every_check(host: HostRoot) -> None:
    result = examine(host)

    assert (result.outcome, not_ok(result)) == ("succeeded", {}), result.text()
    assert result.measure("os_security_updates_pending", host="host") == 0
    assert len(result.checks) == 10, result.text()


def test_a_pending_security_update_warns_with_the_command_and_fails_when_it_was_seen_long_ago(host: HostRoot) -> None:
    host.security(OPENSSL, stanza("not-installed", "9", None))

    first = examine(host)

    assert not_ok(first) == {PENDING: WARN}, first.text()
    hint = first.check(PENDING).hint
    assert "apt-get install --only-upgrade openssl" in hint
    assert "openssl 3.5.1-1 → 3.5.2-1~deb13u1" in hint
    labels = {"host": "host", "package": "openssl", "version": "3.5.2-1~deb13u1"}
    seen = datetime.now(UTC) - timedelta(days=31)
    earlier = {"os_security_update_first_seen": [Point(seen, seen.timestamp(), labels)]}
    assert not_ok(examine(host, series=earlier)) == {PENDING: WARN, OLDEST: FAIL}


def test_other_updates_are_counted_and_backports_are_not_pending(host: HostRoot) -> None:
    host.list("deb_dists_trixie", release("Debian", "stable"), stanza("libc6", "2.41-13", None))
    more = {"NotAutomatic": "yes", "ButAutomaticUpgrades": "yes"}
    host.list(
        "deb_dists_trixie-backports",
        release("Debian Backports", "stable-backports", **more),
        stanza("openssl", "3.6.0-1~bpo13+1", None),
    )
    host.security(stanza("openssl", "3.5.1-1", None), stanza("openssl", "9", None, "arm64"))

    result = examine(host)

    assert (result.outcome, result.measure("os_updates_pending", host="host")) == ("succeeded", 1), result.text()


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_compressed_lists_are_read(host: HostRoot, suffix: str, pack: Any) -> None:
    plain = host.lists / "sec_dists_trixie-security_main_binary-amd64_Packages"
    plain.unlink()
    host.write(f"var/lib/apt/lists/{plain.name}{suffix}", pack(OPENSSL.encode()))
    assert not_ok(examine(host)) == {PENDING: WARN}


@pytest.mark.parametrize("fault", ["lz4", "damaged", "old", "no security", "no lists"])
def test_what_the_lists_do_not_show_is_unknown(host: HostRoot, fault: str) -> None:
    name = "sec_dists_trixie-security"
    plain = host.lists / f"{name}_main_binary-amd64_Packages"
    if fault in ("lz4", "damaged"):
        plain.rename(plain.with_name(f"{plain.name}.{'lz4' if fault == 'lz4' else 'gz'}"))
        host.write(f"var/lib/apt/lists/{plain.name}.{'lz4' if fault == 'lz4' else 'gz'}", b"\x1f\x8bnothing")
    elif fault == "old":
        for path in host.lists.iterdir():
            at = (datetime.now(UTC) - timedelta(days=8)).timestamp()
            os.utime(path, (at, at))
    else:
        for path in host.lists.glob(f"{name}*" if fault == "no security" else "*"):
            path.unlink()

    result = examine(host)

    assert (result.outcome, result.check(PENDING).status) == ("unknown", UNKNOWN), result.text()
    assert result.check(OLDEST).status is UNKNOWN
    assert {item.name for item in result.measures} == {"review_checks"}, "no number of what was not seen"


def test_a_reboot_is_due_because_of_packages_and_a_kernel(host: HostRoot) -> None:
    host.write("run/reboot-required", "*** System restart required ***\n", timedelta(days=3))
    host.write("run/reboot-required.pkgs", "libc6\nlibc6\ndbus\n")
    recent = examine(host)
    assert not_ok(recent) == {}, recent.text()
    assert "libc6; dbus" in recent.check(REBOOT).hint

    host.write("boot/vmlinuz-6.12.100-amd64", "", timedelta(days=46))
    host.write("boot/vmlinuz-6.13.1-cloud-amd64", "")
    late = examine(host)
    assert not_ok(late) == {RUNNING: WARN, REBOOT: FAIL}, late.text()
    assert late.check(RUNNING).expected == "6.12.100-amd64"

    host.write("boot/vmlinuz-6.12.100-amd64", "", timedelta(days=15))
    assert not_ok(examine(host)) == {RUNNING: WARN, REBOOT: WARN}


def test_services_with_replaced_libraries_are_named_and_containers_are_not(host: HostRoot) -> None:
    deleted = f"{LIBC} (deleted)"
    host.process(70, "sshd", SSHD, deleted)
    host.process(71, "node", "0::/system.slice/docker-0123.scope\n", deleted)
    host.process(72, "app", "0::/user.slice\n", "7f00-7f01 r-xp 00000000 00:01 9  /memfd:x (deleted)")
    host.process(73, "app", "0::/user.slice\n", "7f00-7f01 rw-p 00000000 00:01 9  /usr/lib/x.so (deleted)")

    result = examine(host)

    assert not_ok(result) == {RESTART: WARN}, result.text()
    assert (
        "systemctl restart ssh.service: ssh.service has /usr/lib/x86_64-linux-gnu/libc.so.6"
        in result.check(RESTART).hint
    )


def test_a_process_of_this_machine_with_a_replaced_program_is_found(tmp_path: Path) -> None:
    """A real one, by the real /proc."""
    from maintd.checks.os_updates.running import _REPLACED

    program = tmp_path / "sleeper"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([program, "600"]) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        try:
            wait_for(lambda: "sleeper" in maps.read_text(), "the program is loaded")
            program.unlink()
            found = _REPLACED.findall(maps.read_text().replace(str(tmp_path), "/usr/bin"))
        finally:
            process.kill()
    assert set(found) == {"/usr/bin/sleeper"}


def test_held_and_broken_packages_are_found(host: HostRoot) -> None:
    host.installed(
        stanza("docker-ce-cli", "5:28.5", "hold ok installed"),
        stanza("openssl", "3.5.1-1", "hold ok installed"),
        stanza("unattended-upgrades", "2.12", "install ok half-configured"),
        stanza("gone", "1", "deinstall ok config-files"),
    )
    host.security(OPENSSL)

    result = examine(host)

    assert not_ok(result) == {
        PENDING: WARN,
        "host: held packages": WARN,
        "host: held packages with a security update": FAIL,
        "host: packages that are not fully installed": FAIL,
    }, result.text()
    assert "apt-mark unhold openssl" in result.check("host: held packages").hint


def test_the_end_of_support_fails_and_an_unknown_distribution_is_unknown(host: HostRoot) -> None:
    name = "host: {}: days of support left"
    host.write("etc/os-release", 'ID=debian\nVERSION_ID="11"\n')  # until 2024-08-14
    assert examine(host).check(name.format("debian")).status is FAIL

    host.write("etc/os-release", 'ID=ubuntu\nVERSION_ID="24.04"\n')
    assert examine(host).check(name.format("ubuntu")).status is UNKNOWN
    assert examine(host, {"support_ends": "2999-01-01"}).check(name.format("ubuntu")).status is OK


def test_what_cannot_be_read_is_no_success_and_hides_nothing_else() -> None:
    with folder_for_all() as folder:
        host = HostRoot(folder)
        for path in ("var/lib/dpkg/status", "run", "proc/70/maps", "boot"):
            (folder / path).chmod(0)
        with as_unprivileged_user(folder):
            result = examine(host)
        for path in ("run", "boot"):
            (folder / path).chmod(0o755)

    assert not_ok(result) == {
        "host: packages": UNKNOWN,
        "host: reboot required": UNKNOWN,
        RUNNING: UNKNOWN,
        RESTART: UNKNOWN,
    }, result.text()
    assert result.check("host: debian: days of support left").status is OK


def test_a_host_without_dpkg_or_without_its_mounts_is_no_success(host: HostRoot) -> None:
    (host.root / "var/lib/dpkg/status").unlink()
    (host.root / "run/utmp").unlink()

    result = examine(host)

    assert result.check("host: packages").status is UNKNOWN
    assert result.check("host: reboot required").status is UNKNOWN


@pytest.mark.parametrize(
    "version", ["1", "1.0-1", "1:0.9", "2.41-12+deb13u1", "2.41-12~rc1", "2.41-12", "1.0a", "1.0+b"]
)
def test_versions_are_ordered_as_by_dpkg(version: str) -> None:
    dpkg = require_program("dpkg", "dpkg")
    for other in ("1.0", "1.0~~", "1.0~~a", "1.0-1.1", "0:1", "2.41-12+b1", "2.41-2", "1.0.", "1.0A", "00001"):
        found = subprocess.run([dpkg, "--compare-versions", version, "lt", other], check=False).returncode == 0
        same = subprocess.run([dpkg, "--compare-versions", version, "eq", other], check=False).returncode == 0
        expected = -1 if found else 0 if same else 1
        assert (compare(version, other) > 0) - (compare(version, other) < 0) == expected, (version, other)


def test_this_kernel_has_a_version_that_is_read(host: HostRoot) -> None:
    assert examine(host).check(RUNNING).observed == KERNEL


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("etc/os-release", "host: distribution"),
        ("var/lib/dpkg/status", "host: packages"),
        ("var/lib/dpkg", "host: packages"),
        ("var/lib/apt/lists", "host: packages"),
        ("run", "host: reboot required"),
        ("boot", RUNNING),
    ],
)
@pytest.mark.parametrize("to", ["absolute", "relative", "loop"])
def test_a_link_out_of_the_root_is_unknown_and_nothing_outside_is_read(
    host: HostRoot, tmp_path_factory: pytest.TempPathFactory, name: str, check: str, to: str
) -> None:
    outside = HostRoot(tmp_path_factory.mktemp("outside"))
    outside.write("etc/os-release", "ID=debian\nVERSION_ID=11\n")
    outside.write("run/reboot-required", "")
    outside.write("boot/vmlinuz-9.9.9-amd64", "")
    outside.installed(stanza("outside", "1"))
    place = host.root / name
    place.rename(host.root / "before")
    target = outside.root / name
    relative = os.path.relpath(target, place.parent)
    place.symlink_to({"absolute": target, "relative": relative, "loop": place.name}[to])

    result = examine(host)

    assert result.check(check).status is UNKNOWN, result.text()
    assert "outside" not in {str(item.labels.get("package")) for item in result.measures}
    assert "9.9.9" not in result.text()


def test_links_are_followed_as_on_the_host(host: HostRoot) -> None:
    for name in ("etc/os-release", "var/lib/dpkg", "var/lib/apt/lists", "run", "boot"):
        (host.root / "data").mkdir(exist_ok=True)
        moved = host.root / "data" / name.replace("/", "-")
        (host.root / name).rename(moved)
        (host.root / name).symlink_to(f"/data/{moved.name}")

    assert not_ok(examine(host)) == {}


def test_a_reboot_that_is_required_since_the_year_11476_is_no_error(host: HostRoot) -> None:
    path = host.write("run/reboot-required", "")
    os.utime(path, (300_000_000_000, 300_000_000_000))  # ext4 keeps 2446 of it

    result = examine(host)

    assert result.check(REBOOT).status in (OK, WARN, UNKNOWN), result.text()
    assert "Error" not in result.text()
