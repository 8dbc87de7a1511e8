"""A daemon of root runs jobs as another user: a hostile job reaches nothing of the daemon, and can do its own work."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.servers.base import needs_root
from support.servers.maintd import JOBS, RunningDaemon, clean_environ, maintd_daemon
from support.users import environ_for_all, folder_for_all

HOSTILE = '''"""Try to reach what belongs to the daemon, and do the work of a job."""

import ctypes
import errno
import os
import signal
import socket
import subprocess
from pathlib import Path

from maintd.job import Context, JobParams, job


class Params(JobParams):
    daemon: int
    state: Path
    uid: int


def refused(act, *words) -> bool:
    try:
        act(*words)
    except PermissionError:
        return True
    return False


def trace(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, pid, 0, 0) != 0:  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), "ptrace")


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))


@job(timeout="60s")
def run(ctx: Context, params: Params) -> None:
    state = params.state
    own = Path(str(ctx.work_dir))
    tries = {
        "list the state": (os.listdir, state),
        "add to the state": ((state / "new").write_text, ""),
        "read the store": ((state / "maintd.db").read_bytes,),
        "write the store": (os.open, state / "maintd.db", os.O_WRONLY),
        "replace the store": (os.rename, state / "maintd.db", own / "stolen"),
        "read the log of the store": ((state / "maintd.db-wal").read_bytes,),
        "open the control socket": (connect, state / "maintd.sock"),
        "list the artifacts": (os.listdir, state / "artifacts"),
        "write beside its artifacts": ((state / "artifacts" / str(ctx.run_id) / "x").write_text, ""),
        "replace its folder": (os.rename, own, own.with_name("other")),
        "change the calendar": (os.open, state.parent / "schedules.yaml", os.O_WRONLY),
        "become root": (os.setuid, 0),
        "join a group": (os.setgroups, [0]),
    }
    for name, pid in (("daemon", params.daemon), ("template", os.getppid())):
        for file in ("environ", "mem", "maps"):
            tries[f"read {file} of the {name}"] = (Path(f"/proc/{pid}/{file}").open, "rb")
        tries[f"list descriptors of the {name}"] = (os.listdir, f"/proc/{pid}/fd")
        tries[f"trace the {name}"] = (trace, pid)
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
            tries[f"send {number.name} to the {name}"] = (os.kill, pid, number)
    for name, (act, *words) in tries.items():
        ctx.check(f"refused: {name}", refused(act, *words), equals=True)
    ctx.check("user ids", sorted({*os.getresuid(), *os.getresgid()})[0] >= params.uid, equals=True)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    for name in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
        ctx.check(name, int(status[name], 16), at_most=0)
    ctx.check("no new privileges", int(status["NoNewPrivs"]), at_least=1)

    for path in ("/dev/stdout", "/dev/stderr"):
        with open(path, "w") as file:
            file.write(f"written to {path}\\n")
    shown = subprocess.run(["id", "-u"], capture_output=True, text=True, check=True, cwd=own).stdout
    ctx.check("user of programs", shown.strip(), equals=str(params.uid))
    ctx.check("home", os.environ["HOME"] != "/root", equals=True)
    (own / "scratch").write_text("x")
    ctx.save("report.txt", "evidence")
'''

PRIVILEGED = '''"""Report the user ids."""

import os

from maintd.job import Context, JobParams, job


class Params(JobParams):
    pass


@job(timeout="60s")
def run(ctx: Context, params: Params) -> None:
    ctx.check("root", os.getuid(), at_most=0)
'''

EMPTY = "timezone: UTC\nentries: {}\n"
NOBODY = pwd.getpwnam("nobody")


@pytest.fixture(scope="module")
def environ() -> Iterator[dict[str, str]]:
    """An environment in which every user can run Python and maintd."""
    needs_root("runs jobs as another user")
    with folder_for_all() as folder:
        yield environ_for_all(folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can enter, with the jobs."""
    with folder_for_all() as folder:
        shutil.copytree(JOBS, folder / "jobs")
        (folder / "jobs/hostile.py").write_text(HOSTILE)
        (folder / "jobs/privileged.py").write_text(PRIVILEGED)
        yield folder


@contextmanager
def daemon_with(
    folder: Path, environ: dict[str, str], calendar: str = EMPTY, **settings: str
) -> Iterator[RunningDaemon]:
    program = Path(environ["PYTHONHOME"]) / "bin/maintd"
    with maintd_daemon(folder, calendar, folder / "jobs", program, **environ, **settings) as daemon:
        yield daemon


def refusal(folder: Path, environ: dict[str, str], **settings: str) -> str:
    """Return the message of a daemon that does not start."""
    (folder / "schedules.yaml").write_text(EMPTY)
    settings = {
        "MAINTD_STATE_DIR": str(folder / "state"),
        "MAINTD_JOBS_PATH": str(folder / "jobs"),
        "MAINTD_LISTEN": "",
        **settings,
    }
    argv = [f"{environ['PYTHONHOME']}/bin/maintd", "serve"]
    done = subprocess.run(
        argv, env=clean_environ(**environ, **settings), cwd=folder, capture_output=True, text=True, timeout=100
    )
    assert done.returncode != 0
    return done.stderr


def hostile(daemon: RunningDaemon, *words: str) -> str:
    params = (f"daemon={daemon.process.pid}", f"state={daemon.state_dir}", f"uid={NOBODY.pw_uid}")
    done = daemon.maintd("trigger", "hostile", *(word for one in params for word in ("-p", one)), "--wait", *words)
    assert done.code == 0, done.out + done.err + daemon.maintd("show", "last").out
    return done.out


@pytest.mark.parametrize("user", ["nobody", str(NOBODY.pw_uid), f"{NOBODY.pw_uid}:{NOBODY.pw_gid}"])
@pytest.mark.parametrize("entry", ["preloaded", "first use"])
def test_a_hostile_job_of_another_user_reaches_nothing_of_the_daemon(
    folder: Path, environ: dict[str, str], user: str, entry: str
) -> None:
    calendar = EMPTY
    if entry == "preloaded":
        step = "{hostile: {daemon: 1, state: /nowhere, uid: 1}}"
        calendar = f"timezone: UTC\nentries:\n  spies: {{title: T, schedule: every 6 hours, steps: [{step}]}}\n"
    with daemon_with(folder, environ, calendar, MAINTD_JOB_USER=user) as daemon:
        hostile(daemon)
        hostile(daemon)

        assert daemon.process.poll() is None
        run = daemon.maintd("show", "last", "--json").json
        artifacts = sorted((daemon.state_dir / "artifacts").rglob("report.txt"))
        assert [path.read_text() for path in artifacts] == ["evidence", "evidence"]
        assert {(path.stat().st_gid, stat.S_IMODE(path.stat().st_mode) & 0o007) for path in artifacts} == {(0, 0)}
        assert not list((daemon.state_dir / "work").iterdir())
        log = daemon.maintd("logs", str(run["id"])).out
        assert "written to /dev/stdout" in log
        assert "written to /dev/stderr" in log
        assert daemon.maintd("trigger", "dawdle", "-p", "seconds=0", "--wait").code == 0
        with_artifacts = {path.name for path in (daemon.state_dir / "artifacts").iterdir()}
        assert with_artifacts == {"1", "2"}  # no empty folder for the third run


def test_a_job_that_is_named_keeps_the_rights_of_root(folder: Path, environ: dict[str, str]) -> None:
    more = {"MAINTD_JOB_USER": "nobody", "MAINTD_ROOT_JOBS": "privileged"}
    with daemon_with(folder, environ, **more) as daemon:
        assert daemon.maintd("trigger", "privileged", "--wait").code == 0
        hostile(daemon)
        more = daemon.environ | {"MAINTD_STATE_DIR": str(folder / "here"), "MAINTD_ROOT_JOBS": ""}
        argv = [f"{environ['PYTHONHOME']}/bin/maintd", "run", "privileged", "--here"]
        here = subprocess.run(argv, env=clean_environ(**more), cwd=folder, capture_output=True, text=True, timeout=100)
        assert here.returncode == 1
        assert "root: 65,534" in here.stdout


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"MAINTD_JOB_USER": "root"}, "is root, or in the group of root"),
        ({"MAINTD_JOB_USER": "65534:0"}, "is root, or in the group of root"),
        ({"MAINTD_JOB_USER": "nobody", "MAINTD_JOB_GROUPS": "root"}, "is root, or in the group of root"),
        ({"MAINTD_JOB_USER": "nobody_here"}, 'there is no user "nobody_here"'),
        ({"MAINTD_JOB_USER": "nobody", "MAINTD_JOB_GROUPS": "docker_here"}, 'there is no group "docker_here"'),
        ({"MAINTD_JOB_GROUPS": "daemon"}, "no effect without job_user"),
        ({"MAINTD_ROOT_JOBS": "greet"}, "no effect without job_user"),
    ],
)
def test_a_user_that_would_isolate_nothing_is_refused(
    folder: Path, environ: dict[str, str], settings: dict[str, str], message: str
) -> None:
    assert message in refusal(folder, environ, **settings)


@pytest.mark.parametrize("exposed", ["store", "calendar", "state"])
def test_a_daemon_whose_files_jobs_could_change_does_not_start(
    folder: Path, environ: dict[str, str], exposed: str
) -> None:
    (folder / "state").mkdir(mode=0o750)
    settings = {"MAINTD_JOB_USER": "nobody", "MAINTD_CALENDAR": str(folder / "schedules.yaml")}
    if exposed == "store":
        settings["MAINTD_STORE_URL"] = f"sqlite:///{folder}/elsewhere.db"
        (folder / "elsewhere.db").touch()
        (folder / "elsewhere.db").chmod(0o666)
    elif exposed == "calendar":
        (folder / "schedules.yaml").touch()
        (folder / "schedules.yaml").chmod(0o666)
    else:
        os.chown(folder / "state", NOBODY.pw_uid, 0)

    message = refusal(folder, environ, **settings)

    assert "which jobs must not" in message
    assert str(folder) in message


@pytest.mark.parametrize(("group", "code"), [("", 1), ("12", 0)])
def test_a_groups_files_can_be_read_when_the_group_is_given(
    folder: Path, environ: dict[str, str], group: str, code: int
) -> None:
    (folder / "shared.txt").write_text("x")
    (folder / "shared.txt").chmod(0o640)
    os.chown(folder / "shared.txt", 0, 12)
    (folder / "jobs/shared.py").write_text(
        PRIVILEGED.replace("os.getuid()", f'len(open("{folder}/shared.txt").read()) - 1')
    )
    with daemon_with(folder, environ, MAINTD_JOB_USER="nobody", MAINTD_JOB_GROUPS=group) as daemon:
        assert daemon.maintd("trigger", "shared", "--wait").code == code
