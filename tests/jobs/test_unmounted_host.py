"""What is known of a host in a container without its root and /proc, and with them: a real container of the kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.job_runs import JOBS
from support.servers.base import needs_root, require_program

TESTS = JOBS.parent / "tests"
ROOT = "host local (container of maintd): / used"

# In namespaces of its own for mounts, processes and the network. Its root is an overlay over that of this machine, with
# the mark of an engine; the root of this machine and its /proc are below /host.
INSIDE = """
import ctypes, json, os, sys
from pathlib import Path
libc = ctypes.CDLL(None, use_errno=True)

def mount(source, point, kind, flags=0, data=""):
    Path(point).mkdir(parents=True, exist_ok=True)
    if libc.mount(source.encode(), str(point).encode(), kind.encode(), flags, data.encode()) != 0:
        sys.exit(f"mount {kind} {point}: {os.strerror(ctypes.get_errno())}")

folder = Path(sys.argv[1])
mount("tmpfs", folder, "tmpfs", 0, "mode=755")
for name in ("upper", "work"):
    (folder / name).mkdir()
layers = f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work"
root = folder / "root"
mount("overlay", root, "overlay", 0, layers)
mount("/", root / "host", "", 4096)
mount("/proc", root / "host/proc", "", 4096 | 16384)
mount("proc", root / "proc", "proc")
mount("sysfs", root / "sys", "sysfs")
mount("/dev", root / "dev", "", 4096 | 16384)
mount("tmpfs", root / "run/t", "tmpfs")
(root / ".dockerenv").touch()
exec(sys.argv[3])
os.chroot(root)
os.chdir("/run/t")
os.environ["TMPDIR"] = "/run/t"
from support.job_runs import run_job
name, params, host = json.loads(sys.argv[2])
result = run_job(name, params, {"host": {"local": host}})
checks = [[c.name, c.status.value, c.observed, c.hint, c.optional] for c in result.checks]
measures = [[m.name, m.value, m.labels] for m in result.measures]
print(json.dumps({"outcome": result.outcome, "checks": checks, "measures": measures, "text": result.text()}))
"""


class Seen:
    """The result of a job in a container."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.outcome = found["outcome"]
        self.checks = {name: (status, str(observed)) for name, status, observed, _, _ in found["checks"]}
        self.hints = {name: hint for name, _, _, hint, _ in found["checks"]}
        self.hosts = {labels.get("host") for _, _, labels in found["measures"]}
        self.measures = found["measures"]
        self.text = found["text"]


def in_a_container(
    folder: Path, job: str, params: dict[str, Any], host: dict[str, Any] | None = None, prepare: str = ""
) -> Seen:
    """Run a job in a container."""
    needs_root("mounts file systems")
    unshare = require_program("unshare", "util-linux")
    private = [unshare, "--mount", "--pid", "--net", "--fork", "--propagation", "private"]
    done = subprocess.run(
        [*private, sys.executable, "-c", INSIDE, str(folder), json.dumps([job, params, host or {}]), prepare],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{JOBS.parent}"},
        cwd=JOBS.parent,
    )
    assert done.returncode == 0, done.stderr
    return Seen(json.loads(done.stdout))


MOUNTED = {"root": "/host", "proc": "/host/proc"}


def test_a_health_check_names_the_file_systems_of_the_container_as_such_and_the_host_s_are_unknown(
    tmp_path: Path,
) -> None:
    seen = in_a_container(tmp_path, "health_check", {"include": ["host"]})

    status, observed = seen.checks["host local: file systems"]
    assert (status, "not_configured" in observed) == ("unknown", True), seen.text
    assert "/host" in seen.hints["host local: file systems"]
    assert "host local: / used" not in seen.checks
    assert seen.checks[ROOT][0] in ("ok", "warn", "fail")
    assert seen.checks["host local: memory available"][0] in ("ok", "warn", "fail"), "the kernel has it only once"
    disks = {labels["host"] for name, _, labels in seen.measures if name.startswith("fs_")}
    assert disks == {"local (container of maintd)"}


def test_a_mount_that_the_target_names_is_unknown_and_not_missing(tmp_path: Path) -> None:
    seen = in_a_container(tmp_path, "health_check", {"include": ["host"]}, {"mounts": ["/", "/data"]})

    assert seen.checks["host local: file systems"][0] == "unknown"
    assert not [name for name, (status, _) in seen.checks.items() if status == "fail" and "/data" in name]


def test_a_health_check_of_the_mounted_host_has_its_file_systems(tmp_path: Path) -> None:
    seen = in_a_container(tmp_path, "health_check", {"include": ["host"]}, MOUNTED)

    assert seen.checks["host local: / used"][0] in ("ok", "warn", "fail"), seen.text
    assert not [name for name in seen.checks if "container of maintd" in name]


@pytest.mark.parametrize("host", [{"root": "/host"}, {"root": "/", "proc": "/proc"}, {"root": "/tmp/../"}])
def test_a_host_that_is_mounted_in_part_has_no_file_systems(tmp_path: Path, host: dict[str, Any]) -> None:
    seen = in_a_container(tmp_path, "health_check", {"include": ["host"]}, host)

    assert seen.checks["host local: file systems"][0] == "unknown", seen.text


def test_a_host_review_takes_nothing_of_the_container_for_the_host_s(tmp_path: Path) -> None:
    seen = in_a_container(tmp_path, "host_review", {"interval": "1s"})

    for name in ("mounts", "sockets", "net.core.somaxconn", "vm.zone_reclaim_mode after a restart"):
        status, observed = seen.checks.get(f"host local: {name}", ("", ""))
        assert not status or (status, "not_configured" in observed) == ("unknown", True), (name, seen.text)
    assert seen.checks["host local: mounts"][0] == seen.checks["host local: sockets"][0] == "unknown"
    assert seen.checks["host local: vm.swappiness"][0] in ("ok", "warn"), "the kernel has it only once"
    assert not [name for name in seen.checks if "given twice" in name or "mount options" in name]


def test_a_host_review_of_the_mounted_host_sees_its_mounts_and_sockets(tmp_path: Path) -> None:
    seen = in_a_container(tmp_path, "host_review", {"interval": "1s"}, MOUNTED)

    assert "host local: /: mount options" in seen.checks, seen.text
    assert "host local: settings given twice in a file" in seen.checks
    assert "host local: sockets" not in seen.checks
    assert seen.checks["host local: net.core.somaxconn"][0] == "unknown", "it has a network of its own"


def test_a_log_of_logins_in_the_image_is_not_reviewed_as_the_host_s(tmp_path: Path) -> None:
    line = "(root / 'var/log/auth.log').write_text('Mar  1 10:00:00 image sshd[1]: Failed password for root\\n')"

    seen = in_a_container(tmp_path, "security_log_review", {"requests": False}, prepare=line)

    assert seen.outcome == "skipped" or "not_configured" in seen.text, seen.text
    assert not [name for name, _, _ in seen.measures if name.startswith("auth_")]


@pytest.mark.parametrize("job", ["os_updates", "access_review"])
def test_a_review_of_files_sees_no_host_without_its_root(tmp_path: Path, job: str) -> None:
    seen = in_a_container(tmp_path, job, {})

    assert "not mounted" in seen.text or "mount the host" in seen.text, seen.text
    assert not [name for name, (status, _) in seen.checks.items() if status == "ok" and "local" in name]


def test_processes_of_the_container_are_not_those_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()

    cleaned = in_a_container(tmp_path / "1", "log_cleanup", {"root": "/run/t"})
    updates = in_a_container(tmp_path / "2", "os_updates", {}, {"root": "/host"})

    assert cleaned.checks["local: deleted files held open"][0] == "unknown", cleaned.text
    assert cleaned.checks["local: journal"][0] == "unknown"
    assert updates.checks["local: services to restart"][0] == "unknown", updates.text


def test_capacity_figures_of_the_container_are_named_as_such(tmp_path: Path) -> None:
    seen = in_a_container(tmp_path, "capacity_report", {"report": False})

    disks = {(labels["host"], labels["mount"]) for name, _, labels in seen.measures if name == "fs_used_bytes"}
    assert ("local (container of maintd)", "/") in disks, seen.text
    assert not [labels for name, _, labels in seen.measures if name.startswith("network_")]


def test_a_machine_made_from_an_image_is_a_host(tmp_path: Path) -> None:
    """Its root has the mark of an engine, and is that of the first process of the kernel."""
    program = (
        "from pathlib import Path; import sys; from maintd.checks.host import mounted\n"
        "mounted.MARKS = (Path(sys.argv[1]),); print(mounted.in_container())"
    )
    (tmp_path / "mark").touch()
    pids = Path("/proc/self/ns/pid").readlink()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("KUBERNETES")}

    def answer(mark: str) -> str:
        argv = [sys.executable, "-c", program, str(tmp_path / mark)]
        done = subprocess.run(argv, capture_output=True, text=True, env=environ, cwd=JOBS.parent, check=True)
        return done.stdout.strip()

    assert answer("no mark") == "False"
    assert answer("mark") == str(str(pids) != "pid:[4026531836]")
