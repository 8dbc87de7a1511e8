"""The shipped unit under a systemd that is process 1: started, killed, stopped, and with what its sandbox forbids."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.servers.base import wait_for
from support.servers.systemd import Machine, booted
from support.users import environ_for_all, folder_for_all

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CALENDAR = """
timezone: UTC
entries:
  usage:
    schedule: every day at 04:00
    steps: [resource_usage]
  sleeper:
    schedule: every day at 05:00
    steps: [command: {argv: [sleep, "600"]}]
  identity:
    schedule: every day at 06:00
    steps: [command: {argv: [id, -un]}]
"""


@dataclass
class Host:
    """A host with maintd installed as the operator's guide has it."""

    machine: Machine
    environ: dict[str, str]

    def maintd(self, *words: str) -> str:
        return self.machine.output("/opt/maintd/bin/maintd", *words, environ=self.environ)

    def is_healthy(self) -> bool:
        done = self.machine.run("/opt/maintd/bin/maintd", "status", "--quiet", environ=self.environ)
        return done.returncode == 0

    def runs(self) -> list[dict[str, Any]]:
        """The latest runs, the last one first."""
        found: list[dict[str, Any]] = json.loads(self.maintd("history", "--json"))["runs"]
        return found

    def trigger(self, entry: str) -> dict[str, Any]:
        """Run an entry to its end, however it ends."""
        words = ("trigger", entry, "--wait", "--json")
        done = self.machine.run("/opt/maintd/bin/maintd", *words, environ=self.environ)
        assert done.stdout.startswith("{"), done.stderr
        run: dict[str, Any] = json.loads(done.stdout)
        return run

    def start(self) -> None:
        self.machine.output("systemctl", "daemon-reload")
        self.machine.output("systemctl", "start", "maintd")
        wait_for(self.is_healthy, "maintd is healthy", seconds=180, every=0.5)

    def log(self) -> str:
        return self.machine.run("journalctl", "-u", "maintd", "-n", "30", "--no-pager", "-o", "cat").stdout


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with folder_for_all() as folder:
        environ = {name: value.replace(str(folder), "/opt/maintd") for name, value in environ_for_all(folder).items()}
        script = folder / "bin/maintd"
        script.write_text(script.read_text().replace(str(folder), "/opt/maintd"))
        with booted(folder) as machine:
            host = Host(machine, environ)
            home = ("--home-dir", "/var/lib/maintd", "--shell", "/usr/sbin/nologin")
            machine.output("useradd", "--system", *home, "maintd")
            machine.output("useradd", "--system", "--no-create-home", "maintd-jobs")
            machine.path("/etc/maintd").mkdir()
            machine.path("/etc/maintd/schedules.yaml").write_text(CALENDAR)
            lines = "".join(f"{name}={value}\n" for name, value in environ.items())
            machine.path("/etc/maintd/environment").write_text(lines)
            unit = (ROOT / "deploy/maintd.service").read_text()
            machine.path("/etc/systemd/system/maintd.service").write_text(unit)
            yield host


@pytest.fixture
def started(host: Host) -> Iterator[Host]:
    host.start()
    yield host
    host.machine.output("systemctl", "stop", "maintd")


def test_it_starts_and_its_sandbox_lets_a_job_see_the_host(started: Host) -> None:
    run = started.trigger("usage")

    checks = {check["name"]: check for check in run["steps"][-1]["attempts"][-1]["checks"]}
    assert checks["host local: memory available"]["status"] in ("ok", "warn", "fail")
    seen = checks.get("host local: clock offset") or checks["host local: clock synchronised"]
    assert seen["status"] in ("ok", "warn"), seen
    assert [check for check in checks.values() if "denied" in str(check["observed"])] == []
    assert (started.machine.path("/var/lib/maintd").stat().st_mode & 0o777) == 0o750


def test_killed_it_starts_again_and_its_run_is_lost_with_its_processes(started: Host) -> None:
    started.maintd("trigger", "sleeper")
    wait_for(lambda: started.machine.run("pgrep", "-x", "sleep").returncode == 0, "its program runs")

    started.machine.output("kill", "-9", started.machine.property("maintd", "MainPID"))

    wait_for(lambda: started.machine.property("maintd", "NRestarts") == "1", "systemd starts it again")
    wait_for(started.is_healthy, "healthy again", seconds=180, every=0.5)
    assert (started.runs()[0]["entry"], started.runs()[0]["state"]) == ("sleeper", "lost")
    wait_for(lambda: started.machine.run("pgrep", "-x", "sleep").returncode == 1, "the program is gone")


def test_it_reloads_its_calendar_and_stops_in_order(host: Host) -> None:
    host.start()
    calendar = host.machine.path("/etc/maintd/schedules.yaml")
    calendar.write_text(CALENDAR.replace("usage:", "host-usage:"))

    host.machine.output("systemctl", "reload", "maintd")
    wait_for(lambda: "host-usage" in host.maintd("next"), "the edited calendar")
    host.machine.output("systemctl", "stop", "maintd")

    calendar.write_text(CALENDAR)
    assert host.machine.property("maintd", "Result") == "success"
    assert host.machine.property("maintd", "ExecMainStatus") == "0"
    assert host.machine.property("maintd", "ActiveState") == "inactive"
    assert "daemon_stopped" in host.log()


def test_a_program_that_is_missing_fails_the_start(host: Host) -> None:
    program = host.machine.path("/opt/maintd/bin/maintd")
    moved = program.rename(program.with_name("moved"))

    done = host.machine.run("systemctl", "start", "maintd")

    host.machine.run("systemctl", "stop", "maintd")
    moved.rename(program)
    host.machine.run("systemctl", "reset-failed", "maintd")
    assert done.returncode != 0


def test_with_the_drop_in_of_the_guide_jobs_have_the_rights_of_another_user(host: Host) -> None:
    guide = (ROOT / "docs/operations.md").read_text().split("**A separate user for jobs.**")[1]
    drop_in = guide.split("```ini\n")[1].split("```")[0]
    folder = host.machine.path("/etc/systemd/system/maintd.service.d")
    folder.mkdir()
    (folder / "jobs.conf").write_text(drop_in)
    try:
        host.start()

        run = host.trigger("identity")
        log = host.maintd("logs", str(run["id"]))
        usage = host.trigger("usage")
    finally:
        host.machine.run("systemctl", "stop", "maintd")
        (folder / "jobs.conf").unlink()
        folder.rmdir()
        host.machine.output("systemctl", "daemon-reload")
    assert run["state"] == "succeeded", log
    assert re.search(r"\bmaintd-jobs$", log, re.MULTILINE), log
    assert usage["state"] in ("succeeded", "warned", "failed"), usage
