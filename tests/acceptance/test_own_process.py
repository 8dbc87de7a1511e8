"""What the daemon guards of its own: file modes, memory, credentials, and who sent a request."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from support.servers.base import require_program, running, wait_for
from support.servers.maintd import JOBS, MAINTD, Shell, clean_environ, maintd_daemon
from support.web_services import on_socket

ROOT = Path(__file__).parents[2]

SPY = '''"""Read what a job must not have: the daemon's environment and memory."""

import os
from pathlib import Path

from maintd.job import Context, JobParams, job


class Params(JobParams):
    daemon: int


def denied(name: str) -> bool:
    try:
        with open(name, "rb") as file:
            file.read(1)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


@job(timeout="20s")
def run(ctx: Context, params: Params) -> None:
    ctx.check("store in my environment", sum("STORE_URL" in name for name in os.environ), at_most=0)
    for name in ("environ", "mem", "maps"):
        ctx.check(name, denied(f"/proc/{params.daemon}/{name}"), equals=True)
'''


def modes(folder: Path) -> dict[str, int]:
    """The permission bits of others, for everything in a folder that has any."""
    found = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*") if not path.is_symlink()}
    return {name: stat.S_IMODE(status.st_mode) & 0o007 for name, status in found.items() if status.st_mode & 0o007}


def start_with_umask(folder: Path, umask: int) -> None:
    """Have processes that this one starts begin with a umask, and the folder exist with mode 0755."""
    folder.mkdir(mode=0o755, exist_ok=True)
    folder.chmod(0o755)
    os.umask(umask)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_others_can_read_nothing_of_the_state_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(0o022)
    try:
        start_with_umask(tmp_path / "state", umask)
        (tmp_path / "state/job_descriptions.json").write_text("{}")
        (tmp_path / "state/job_descriptions.json").chmod(0o644)  # of an earlier version
        with maintd_daemon(tmp_path) as daemon:
            assert daemon.maintd("trigger", "greeting", "--wait").code == 0
            assert daemon.maintd("run", "greeting", "--here", MAINTD_STATE_DIR=str(tmp_path / "other")).code == 0
            assert modes(daemon.state_dir) == {}
            assert modes(tmp_path / "other") == {}
            assert stat.S_IMODE((daemon.state_dir / "maintd.db").stat().st_mode) & 0o700 == 0o600
    finally:
        os.umask(before)


@pytest.mark.parametrize("debuggable", [False, True])
def test_a_job_reads_neither_the_daemons_memory_nor_its_environment(tmp_path: Path, debuggable: bool) -> None:
    jobs = tmp_path / "jobs"
    shutil.copytree(JOBS, jobs)
    (jobs / "spy.py").write_text(SPY)
    (tmp_path / "schedules.yaml").write_text("timezone: UTC\nentries: {}\n")
    environ = {
        "MAINTD_STATE_DIR": str(tmp_path / "state"),
        "MAINTD_JOBS_PATH": str(jobs),
        "MAINTD_LISTEN": "",
        "MAINTD_STORE_URL": f"sqlite:///{tmp_path}/secret.db",
        "MAINTD_DEBUGGABLE": str(debuggable),
    }
    argv: list[str | Path] = [MAINTD, "serve"]
    if os.geteuid() == 0:  # root may read everything by its capabilities
        argv = [require_program("setpriv", "util-linux"), "--bounding-set", "-all", *argv]
    shell = Shell(tmp_path, environ)

    with running(argv, tmp_path / "log", env=clean_environ(**environ), cwd=tmp_path) as process:
        wait_for(lambda: shell.maintd("status", "--quiet").code == 0, "the daemon is ready")
        done = shell.maintd("trigger", "spy", "-p", f"daemon={process.pid}", "--wait")

    assert (done.code == 0) is not debuggable, done.out
    assert "store in my environment" not in done.out or "store in my environment: 0" in done.out


def user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


@pytest.mark.parametrize(
    ("claimed", "recorded"),
    [("", "{user}"), ("ada", "ada (as {user})"), ("root (as ada)", "root (as ada) (as {user})"), ("{user}", "{user}")],
)
def test_the_audit_names_the_user_at_the_other_end_of_the_socket(tmp_path: Path, claimed: str, recorded: str) -> None:
    claimed, recorded = claimed.format(user=user()), recorded.format(user=user())
    with maintd_daemon(tmp_path) as daemon:
        client = on_socket(daemon.socket)
        posted = client.post("/api/v1/runs", {"name": "greeting", "by": claimed}).text
        client.post("/api/v1/entries/greeting/pause", {"why": "noise", "by": claimed})
        wait_for(lambda: daemon.maintd("show", "last", "--json").json["state"] == "succeeded", "it runs")
        status = daemon.maintd("status", "greeting", "--json").json
        events = client.get("/api/v1/events").text

    assert f'"requested_by":"{recorded}"' in posted
    assert status["pause"]["by"] == recorded
    assert f'"by":"{recorded}"' in events


def test_the_shipped_unit_is_hardened() -> None:
    unit = ROOT / "deploy/maintd.service"
    shown = subprocess.run(
        [require_program("systemd-analyze", "systemd"), "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    level = re.search(r"exposure level for maintd\.service: ([\d.]+)", shown)
    assert level is not None
    assert float(level[1]) < 3
    text = unit.read_text()
    for line in ("UMask=0027", "StateDirectoryMode=0750", "LimitNOFILE=8192"):
        assert line in text.splitlines()
