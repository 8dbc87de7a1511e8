"""How full file systems are: real small ones, and one that hangs, in a mount namespace of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.job_runs import JOBS
from support.servers.base import needs_root, require_program

from maintd.clients.host import Mount, usages
from maintd.errors import TargetError

TESTS = JOBS.parent / "tests"

# Mounts are seen by this process only, and are gone with it. It mounts, runs the job and prints its checks.
INSIDE = """
import ctypes, json, os, sys
from pathlib import Path
libc = ctypes.CDLL(None, use_errno=True)

def mount(source, point, kind, flags=0, data=""):
    Path(point).mkdir(parents=True, exist_ok=True)
    if libc.mount(source.encode(), point.encode(), kind.encode(), flags, data.encode()) != 0:
        sys.exit(f"mount {kind}: {os.strerror(ctypes.get_errno())}")

def hung(point):
    fd = os.open("/dev/fuse", os.O_RDWR)  # nobody answers what the kernel asks here
    mount("dead:/export", point, "fuse", 0, f"fd={fd},rootmode=40000,user_id=0,group_id=0")

folder = sys.argv[1]
from maintd.checks.host import mounted
mounted.MARKS = ()  # the tests are of a host, also where they run in a container
os.environ.pop(mounted.KUBERNETES, None)
from support.job_runs import run_job
exec(sys.argv[2])
result = run_job("health_check", {"include": ["host"]}, {"host": {"local": target}})
seen = {c.name.removeprefix("host local: "): [c.status.value, c.observed, c.hint] for c in result.checks}
print(json.dumps({"checks": seen, "told": result.text()}))
"""


def inside(folder: Path, prepare: str) -> dict[str, Any]:
    """The checks of a host whose mounts are made by `prepare`, which sets `target`."""
    needs_root("mounts file systems")
    private = [require_program("unshare", "util-linux"), "--mount", "--propagation", "private"]
    done = subprocess.run(
        [*private, sys.executable, "-c", INSIDE, str(folder), prepare],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        cwd=JOBS.parent,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


TMPFS = """
mount("tmpfs", folder + "/m", "tmpfs", 0, "size=10m,nr_inodes=100")
target = {"mounts": [folder + "/m"]}
"""


@pytest.mark.parametrize(("mib", "status"), [(7.5, "ok"), (8.5, "warn"), (9.5, "fail")])
def test_a_small_file_system_is_evaluated_by_how_full_it_is(tmp_path: Path, mib: float, status: str) -> None:
    fill = f"Path(folder + '/m/file').write_bytes(b'x' * {int(mib * 1024 * 1024)})"

    found = inside(tmp_path, TMPFS + fill)

    judged, observed, hint = found["checks"][f"{tmp_path}/m used"]
    assert judged == status, found["told"]
    assert observed == pytest.approx(mib * 10, abs=0.5)  # of 10 MiB
    assert "du -xh" in hint


def test_a_file_system_can_run_out_of_inodes_while_it_is_empty(tmp_path: Path) -> None:
    found = inside(tmp_path, TMPFS + "[Path(folder + f'/m/{n}').touch() for n in range(94)]")

    assert found["checks"][f"{tmp_path}/m used"][0] == "ok"
    assert found["checks"][f"{tmp_path}/m inodes used"][:2] == ["fail", 95.0]  # 94 files and the root, of 100


def test_a_mount_that_hangs_fails_by_itself_within_its_timeout(tmp_path: Path) -> None:
    prepare = """
hung(folder + "/hung")
mount("tmpfs", folder + "/m", "tmpfs", 0, "size=10m")
target = {"mounts": [folder + "/hung", folder + "/m"], "timeout": "1s"}
"""

    found = inside(tmp_path, prepare)

    judged, observed, hint = found["checks"][f"{tmp_path}/hung used"]
    assert judged == "fail", found["told"]
    assert "no answer within 1s" in observed
    assert "dead:/export" in hint
    assert found["checks"][f"{tmp_path}/m used"][0] == "ok"


def test_a_hung_mount_is_found_without_being_named(tmp_path: Path) -> None:
    found = inside(tmp_path, 'hung(folder + "/hung"); target = {"timeout": "1s"}')

    assert found["checks"][f"{tmp_path}/hung used"][0] == "fail", found["told"]
    assert found["checks"]["/ used"][0] in ("ok", "warn", "fail")


def test_a_mount_that_is_named_and_not_there_fails(tmp_path: Path) -> None:
    found = inside(tmp_path, 'target = {"mounts": [folder + "/backups"]}')

    assert found["checks"][f"{tmp_path}/backups used"][:2] == ["fail", "not mounted"]


def test_a_sidecar_sees_its_host_by_another_root(tmp_path: Path) -> None:
    prepare = """
mount("/", folder + "/host", "", 4096)
mount("/proc", folder + "/host/proc", "", 4096)
target = {"root": folder + "/host", "proc": folder + "/host/proc"}
"""

    found = inside(tmp_path, prepare)

    assert found["checks"]["/ used"][0] in ("ok", "warn", "fail"), found["told"]
    assert found["checks"]["memory available"][0] in ("ok", "warn", "fail")


def test_a_path_that_shows_another_file_system_or_none_is_an_error(tmp_path: Path) -> None:
    other = Mount("/data", tmp_path, "ext4", "/dev/sdz", "8:99", whole=True, read_only=False)
    gone = Mount("/gone", tmp_path / "gone", "ext4", "/dev/sdz", "8:99", whole=True, read_only=False)

    found = [seen for _, seen in usages([other, gone], timedelta(seconds=5))]

    assert [seen.cause for seen in found if isinstance(seen, TargetError)] == ["partial", "failed"]
