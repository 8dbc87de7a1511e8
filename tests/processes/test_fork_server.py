"""Commands that tests fork from a server are as those that a shell starts."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.servers.base import wait_for
from support.servers.fork_server import ForkedProcess, ForkServer, fork_server
from support.servers.maintd import MAINTD, clean_environ, maintd_daemon, run

COMMANDS = (
    ("version",),
    ("validate",),
    ("settings",),
    ("--help",),
    ("status",),
    ("history", "--json"),
    ("statu",),
    ("trigger", "\udce9"),
    (),
)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "schedules.yaml").write_text("timezone: UTC\nentries: {}\n")
    return clean_environ(MAINTD_STATE_DIR=str(tmp_path / "state"), MAINTD_CALENDAR=str(tmp_path / "schedules.yaml"))


def server_for(environ: Mapping[str, str]) -> ForkServer:
    server = fork_server(environ)
    if server is None:
        pytest.skip("nothing is forked in this session")
    return server


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_forked_command_prints_and_returns_what_a_started_one_does(
    environ: dict[str, str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    argv = [str(MAINTD), *words]

    forked = server_for(environ).run(argv, environ, tmp_path, 200)

    assert forked == run(argv, environ, tmp_path, 200)


def state_of(pid: int, folder: Path) -> dict[str, str]:
    """What a process took over when it started, with FOLDER in the place of its folder."""
    proc = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    names = ("Umask", "Uid", "Gid", "Groups", "CapEff", "SigBlk", "SigIgn", "SigCgt", "Cpus_allowed")
    state = {name: status[name] for name in names}
    state |= {name: str((proc / name).readlink()) for name in ("cwd", "root", "fd/0", "fd/1", "fd/2")}
    state["limits"] = (proc / "limits").read_text()
    return {name: value.replace(str(folder), "FOLDER") for name, value in state.items()}


def test_a_forked_daemon_has_the_state_of_a_started_one(tmp_path: Path) -> None:
    server_for(clean_environ())
    states = {}
    for own_python in (False, True):
        folder = tmp_path / str(own_python)
        folder.mkdir()
        with maintd_daemon(folder, own_python=own_python, MAINTD_DEBUGGABLE="1") as daemon:
            states[type(daemon.process)] = state_of(daemon.process.pid, folder)

    assert len(states) == 2
    assert states[ForkedProcess] == states[subprocess.Popen]


def test_the_end_of_a_forked_daemon_is_seen(tmp_path: Path) -> None:
    with maintd_daemon(tmp_path) as daemon:
        running = daemon.process.poll()

        daemon.process.kill()

        assert running is None
        assert daemon.process.wait(60) == -signal.SIGKILL
        assert daemon.process.poll() == daemon.process.returncode == -signal.SIGKILL
        assert not Path(f"/proc/{daemon.process.pid}").exists()


def test_a_command_that_takes_too_long_is_killed(environ: dict[str, str], tmp_path: Path) -> None:
    server = server_for(environ)

    with pytest.raises(subprocess.TimeoutExpired):
        server.run([str(MAINTD), "serve"], environ, tmp_path, 0.01)


@pytest.mark.parametrize("more", [{"LC_ALL": "C"}, {"PYTHONUTF8": "1"}, {"TZ": "Asia/Tokyo"}], ids=str)
def test_what_python_reads_at_its_start_is_not_forked(environ: dict[str, str], more: dict[str, str]) -> None:
    server_for(environ)

    assert fork_server(environ | more) is None


def test_the_server_ends_with_the_tests(tmp_path: Path) -> None:
    program = (
        "from support.servers.fork_server import fork_server\n"
        "from support.servers.maintd import MAINTD, clean_environ\n"
        "from pathlib import Path\n"
        "server = fork_server(clean_environ())\n"
        "print(server.run([str(MAINTD), 'version'], clean_environ(), Path('/'), 200)[0], server.pid)\n"
    )
    environ = clean_environ(PYTHONPATH=str(Path(__file__).parents[1]))
    environ.pop("MAINTD_TESTS_EXEC", None)

    code, out, err = run([sys.executable, "-c", program], environ, tmp_path, 200)

    assert code == 0, err.decode()
    returned, pid = out.split()
    assert returned == b"0"
    wait_for(lambda: not Path(f"/proc/{int(pid)}").exists(), "the server has ended")
