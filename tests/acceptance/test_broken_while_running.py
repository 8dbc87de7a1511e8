"""A calendar, a module or a disk that breaks under a running daemon: a problem everywhere, a row for each due time."""

from __future__ import annotations

import re
import shutil
import time
import urllib.request
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from support.servers.base import wait_for
from support.servers.disks import small_disk
from support.servers.maintd import JOBS, RunningDaemon, maintd_daemon

pytestmark = pytest.mark.slow

CALENDAR = """
timezone: UTC
entries:
  often: {title: Often, every: 2s, steps: [greet]}
"""

SYNTAX = "def run(:\n"
MISSING = '"""Missing."""\n\nimport nothing_of_this_name\n'
NO_JOB = '"""No job."""\n'


def metrics(daemon: RunningDaemon) -> dict[str, float]:
    """The metrics without labels."""
    with urllib.request.urlopen(f"{daemon.page}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}


def page(daemon: RunningDaemon) -> str:
    with urllib.request.urlopen(daemon.page, timeout=20) as answer:
        text: str = answer.read().decode()
    return text


@pytest.mark.parametrize(
    ("source", "reason"),
    [(SYNTAX, "greet.py:1: "), (MISSING, "greet.py:3: cannot be imported"), (NO_JOB, "greet.py: has no")],
)
def test_each_due_time_of_a_broken_module_is_a_failed_run_with_the_error(
    tmp_path: Path, source: str, reason: str
) -> None:
    jobs = tmp_path / "jobs"
    shutil.copytree(JOBS, jobs)
    with maintd_daemon(tmp_path, CALENDAR, jobs, MAINTD_HEARTBEAT="500ms") as daemon:
        wait_for(lambda: daemon.maintd("history", "--json").json["runs"], "a run of the sound module")
        (jobs / "greet.py").write_text(source)

        def failed() -> bool:
            runs = daemon.maintd("history", "--json").json["runs"]
            return sum(run["state"] == "failed" and reason in run["reason"] for run in runs) >= 3

        wait_for(failed, "three runs fail with the error of the module")
        runs = [run for run in daemon.maintd("history", "--limit", "100", "--json").json["runs"] if run["due_at"]]
        due = sorted(run["due_at"] for run in runs)
        status = daemon.maintd("status", "--json")
        shutil.copy(JOBS / "greet.py", jobs)
        wait_for(lambda: daemon.maintd("status").code == 0, "the repaired module runs again")

    seconds = [time.mktime(time.strptime(at[:19], "%Y-%m-%dT%H:%M:%S")) for at in due]
    assert {later - earlier for earlier, later in pairwise(seconds)} == {2.0}
    assert status.code == 1
    assert any(reason in problem for problem in status.json["problems"])


def broken_syntax(daemon: RunningDaemon) -> None:
    daemon.calendar.write_text("timezone: UTC\nentries: [\n")


def unknown_job(daemon: RunningDaemon) -> None:
    daemon.calendar.write_text(CALENDAR.replace("greet", "greeet"))


def deleted(daemon: RunningDaemon) -> None:
    daemon.calendar.unlink()


def a_folder(daemon: RunningDaemon) -> None:
    daemon.calendar.unlink()
    daemon.calendar.mkdir()


def without_jobs(daemon: RunningDaemon) -> None:
    shutil.rmtree(daemon.cwd / "jobs")


@pytest.mark.parametrize("spoil", [broken_syntax, unknown_job, deleted, a_folder, without_jobs])
def test_a_refused_reload_is_a_problem_in_status_page_metrics_and_exit_code(
    tmp_path: Path, spoil: Callable[[RunningDaemon], None]
) -> None:
    jobs = tmp_path / "jobs"
    shutil.copytree(JOBS, jobs)
    with maintd_daemon(tmp_path, CALENDAR, jobs, MAINTD_HEARTBEAT="500ms") as daemon:
        wait_for(lambda: daemon.maintd("status").code == 0, "nothing needs attention")
        assert metrics(daemon)["maintd_calendar_last_reload_successful"] == 1
        spoil(daemon)

        wait_for(lambda: "calendar was refused" in daemon.maintd("status").out, "the status has the problem")
        status, measured, shown = daemon.maintd("status"), metrics(daemon), page(daemon)
        quiet = daemon.maintd("status", "--quiet")
        if daemon.calendar.is_dir():
            daemon.calendar.rmdir()
        daemon.calendar.write_text(CALENDAR)
        shutil.copytree(JOBS, jobs, dirs_exist_ok=True)
        wait_for(lambda: daemon.maintd("status").code == 0, "the problem ends with its cause")
        after = metrics(daemon)

    assert status.code == 1
    assert "the calendar was refused" in shown
    assert measured["maintd_problems"] >= 1
    assert measured["maintd_calendar_last_reload_successful"] == 0
    assert quiet.code == 0  # the daemon itself is healthy: it plans by the earlier calendar
    assert (after["maintd_problems"], after["maintd_calendar_last_reload_successful"]) == (0, 1)


def test_a_disk_that_is_full_is_a_problem_and_the_daemon_lives(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "small", "8m") as state,
        maintd_daemon(tmp_path, CALENDAR, MAINTD_STATE_DIR=str(state), MAINTD_HEARTBEAT="500ms") as daemon,
    ):
        filler = state / "filler"
        with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        wait_for(lambda: "full" in daemon.maintd("status").out, "the status says that the disk is full")

        code, measured = daemon.maintd("status").code, metrics(daemon)
        filler.unlink()
        wait_for(lambda: metrics(daemon)["maintd_problems"] == 0, "it recovers")
        assert daemon.maintd("trigger", "often", "--wait").code == 0

    assert code == 1
    assert measured["maintd_problems"] >= 1
