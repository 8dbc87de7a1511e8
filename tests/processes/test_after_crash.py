"""A daemon that is killed in the middle of a step of a procedure: what becomes of the run, by `after_crash`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.servers.base import wait_for
from support.servers.maintd import RunningDaemon, maintd_daemon

JOB = '''"""Append a name to a file; fail or block where a file says so.

Runbook: none
"""

import time
from pathlib import Path

from maintd.job import Context, JobParams, job


class Params(JobParams):
    folder: Path
    name: str


@job(timeout="5m", mutates=True, repeatable={repeatable}, locks={{"stack": "exclusive"}})
def run(ctx: Context, params: Params) -> None:
    if (params.folder / f"fail-{{params.name}}").exists():
        raise RuntimeError("as the test wants it")
    with ctx.change("write", params.name) as allowed:
        if allowed:
            with (params.folder / "written").open("a") as file:
                file.write(params.name + "\\n")
    ctx.hand_over(f"by-{{params.name}}", params.name)
    while (params.folder / f"block-{{params.name}}").exists():
        time.sleep(0.05)
'''

CALENDAR = """
timezone: UTC
entries:
  procedure:
    title: A procedure with undo
    on_failure: undo
    after_crash: {after_crash}
    steps:
      - job: once
        params: {{folder: {folder}, name: one}}
        undo: {{job: once, params: {{folder: {folder}, name: back-one}}}}
      - job: {second}
        params: {{folder: {folder}, name: two}}
        undo: {{job: often, params: {{folder: {folder}, name: back-two}}}}
      - {{job: often, params: {{folder: {folder}, name: three}}}}
    always:
      - {{job: often, params: {{folder: {folder}, name: last}}}}
  other:
    title: Needs the lock
    steps:
      - {{job: often, params: {{folder: {folder}, name: other}}}}
    lock_wait: 1s
  blocker:
    title: Occupies a slot
    steps:
      - job: command
        params: {{argv: [sh, -c, "touch {folder}/blocks; while test -e {folder}/block-slot; do sleep 0.05; done"]}}
"""


FREEZE = """
freezes:
  - {from: 2020-01-01, until: 2099-01-01, why: the closing}
"""


class Procedure:
    """A folder with a calendar, in which daemons are started and killed."""

    def __init__(self, folder: Path, after_crash: str, second: str) -> None:
        self.folder = folder
        jobs = folder / "jobs"
        jobs.mkdir()
        for name, repeatable in (("once", False), ("often", True)):
            (jobs / f"{name}.py").write_text(JOB.format(repeatable=repeatable))
        self.calendar = CALENDAR.format(folder=folder, after_crash=after_crash, second=second)

    def daemon(self, **environ: str) -> Any:
        (self.folder / "daemon.log").unlink(missing_ok=True)  # an earlier one was ready, too
        environ = {"MAINTD_LEASE": "2s", "MAINTD_HEARTBEAT": "300ms"} | environ
        return maintd_daemon(self.folder, self.calendar, self.folder / "jobs", **environ)

    @property
    def written(self) -> list[str]:
        file = self.folder / "written"
        return file.read_text().split() if file.exists() else []

    def killed_in(self, name: str) -> None:
        """Start a run; kill the daemon while the step that writes `name` runs."""
        block = self.folder / f"block-{name}"
        block.touch()
        with self.daemon() as daemon:
            assert daemon.maintd("trigger", "procedure").code == 0
            wait_for(lambda: name in self.written, f"{name} runs", seconds=120)
            daemon.process.kill()
            daemon.process.wait()
        block.unlink()


def run_of(daemon: RunningDaemon, number: int) -> dict[str, Any]:
    found: dict[str, Any] = daemon.maintd("show", str(number), "--json").json
    return found


def ended(daemon: RunningDaemon, number: int) -> dict[str, Any]:
    def is_over() -> dict[str, Any] | None:
        done = daemon.maintd("show", str(number), "--json")
        return done.json if done.code == 0 and done.json["finished_at"] else None

    return wait_for(is_over, f"run {number} ends", seconds=120)


def states(run: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["state"] for step in run["steps"]}


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Procedure, RunningDaemon]]:
    """A new daemon after one that was killed in step two, which is not repeatable; `after_crash` is hold."""
    procedure = Procedure(tmp_path, "hold", "once")
    procedure.killed_in("two")
    with procedure.daemon() as daemon:
        yield procedure, daemon


def test_a_held_run_keeps_its_locks_and_its_entry_until_it_is_released(
    held: tuple[Procedure, RunningDaemon],
) -> None:
    procedure, daemon = held

    status = daemon.maintd("status")
    needs = status.out.partition("needs attention")[2]
    assert status.code == 1
    assert "run 1 was lost in step" in " ".join(needs.split())
    redo = "maintd resume 1 --redo once-2 --why TEXT"
    for command in (redo, "maintd undo 1 --why TEXT", "maintd release 1 --why TEXT", "stack"):
        assert command in " ".join(needs.split())
    refused = daemon.maintd("trigger", "procedure")
    assert (refused.code, "maintd release 1" in refused.err) == (4, True)
    assert daemon.maintd("trigger", "other", "--wait").code == 1, "its lock is held"
    assert daemon.maintd("release", "1").code == 2, "a reason is needed"

    assert daemon.maintd("release", "1", "--why", "cleaned up").code == 0

    assert daemon.maintd("release", "1", "--why", "again").code == 4
    assert daemon.maintd("trigger", "other", "--wait").code == 0
    assert daemon.maintd("trigger", "procedure", "--wait").code == 0
    assert procedure.written == ["one", "two", "other", "one", "two", "three", "last"]


def test_a_held_run_is_resumed_where_a_person_allows_its_step_to_run_again(
    held: tuple[Procedure, RunningDaemon],
) -> None:
    procedure, daemon = held

    refused = daemon.maintd("resume", "1")
    assert (refused.code, "--redo once-2" in refused.err) == (4, True)
    assert daemon.maintd("resume", "1", "--redo", "once-2").code == 2, "--redo needs a reason"
    resumed = daemon.maintd("resume", "1", "--redo", "once-2", "--why", "it wrote nothing")
    assert (resumed.code, resumed.out.split(";")[0]) == (0, 'run 2 resumes run 1 from step "once-2"')

    run = ended(daemon, 2)
    assert (run["state"], run["reason"]) == ("succeeded", "")
    assert procedure.written == ["one", "two", "two", "three", "last"]
    assert {value["name"]: value["value"] for value in run["handed"]}["by-one"] == "one"
    assert "it resumes run 1" in daemon.maintd("show", "2").out
    assert "run 2 resumed it" in daemon.maintd("show", "1").out
    again = daemon.maintd("resume", "1", "--redo", "once-2", "--why", "x")
    assert (again.code, "resumed by run 2" in again.err) == (4, True)
    assert daemon.maintd("trigger", "other", "--wait").code == 0, "the lock is free"


REDO_ALL = ("--from", "once", "--redo", "once", "--redo", "once-2", "--why", "again from the start")


def test_a_resumed_run_that_fails_early_undoes_what_the_lost_run_left_in_effect(
    held: tuple[Procedure, RunningDaemon],
) -> None:
    procedure, daemon = held
    (procedure.folder / "fail-one").touch()

    assert daemon.maintd("resume", "1", *REDO_ALL).code == 0

    run = ended(daemon, 2)
    assert procedure.written == ["one", "two", "back-two", "back-one", "last"]
    assert (run["state"], run["reason"].partition("; ")[2]) == ("failed", "undone: once-2, once")
    assert states(run)["once-2"] == "skipped"
    assert daemon.maintd("undo", "2", "--why", "x").code == 4, "nothing is left"
    assert daemon.maintd("trigger", "other", "--wait").code == 0, "the lock is free"


def test_the_undo_of_a_resumed_run_that_fails_is_left_for_the_next_one(held: tuple[Procedure, RunningDaemon]) -> None:
    procedure, daemon = held
    for name in ("fail-one", "fail-back-two"):
        (procedure.folder / name).touch()
    assert daemon.maintd("resume", "1", *REDO_ALL).code == 0
    run = ended(daemon, 2)
    assert "NOT undone: once-2" in run["reason"]
    (procedure.folder / "fail-back-two").unlink()

    assert daemon.maintd("resume", "2", "--why", "once more").code == 0  # it fails again, in its first step

    run = ended(daemon, 3)
    assert (run["state"], run["reason"].partition("; ")[2]) == ("failed", "undone: once-2, once")
    assert procedure.written == ["one", "two", "back-one", "last", "back-two", "back-one", "last"]


def test_a_resumed_run_that_is_cancelled_undoes_the_step_in_which_the_lost_run_was_interrupted(
    held: tuple[Procedure, RunningDaemon],
) -> None:
    procedure, daemon = held
    (procedure.folder / "block-one").touch()
    assert daemon.maintd("resume", "1", *REDO_ALL).code == 0
    wait_for(lambda: procedure.written == ["one", "two", "one"], "the first step runs again", seconds=120)

    assert daemon.maintd("cancel", "2", "--why", "stop").code == 0

    run = ended(daemon, 2)
    assert procedure.written == ["one", "two", "one", "back-two", "back-one", "last"]
    assert run["state"] == "cancelled"


def test_a_held_run_is_undone_by_a_person(held: tuple[Procedure, RunningDaemon]) -> None:
    procedure, daemon = held

    assert daemon.maintd("undo", "1", "--why", "we stop").code == 0

    run = ended(daemon, 2)
    assert procedure.written == ["one", "two", "back-two", "back-one", "last"]
    assert (run["state"], run["trigger"], run["why"]) == ("succeeded", "undo", "we stop")
    assert states(run)["once-2"] == "lost"
    status = " ".join(daemon.maintd("status").out.split())
    assert "undone by run 2" in status and "next: maintd show 2" in status
    assert daemon.maintd("trigger", "other", "--wait").code == 0, "the lock is free"


@pytest.mark.parametrize(("interrupted", "undone"), [("one", ["back-one"]), ("two", ["back-two", "back-one"])])
def test_a_queued_resume_that_is_cancelled_undoes_the_interrupted_step_and_frees_the_locks(
    tmp_path: Path, interrupted: str, undone: list[str]
) -> None:
    procedure = Procedure(tmp_path, "hold", "once")
    procedure.killed_in(interrupted)
    before = procedure.written
    (tmp_path / "block-slot").touch()
    with procedure.daemon(MAINTD_SLOTS="1") as daemon:
        assert daemon.maintd("trigger", "blocker").code == 0
        wait_for((tmp_path / "blocks").exists, "the slot is occupied", seconds=120)
        step = "once" if interrupted == "one" else "once-2"
        assert daemon.maintd("resume", "1", "--redo", step, "--why", "x").code == 0
        assert run_of(daemon, 3)["state"] == "queued"

        assert daemon.maintd("cancel", "procedure", "--why", "not today").code == 0

        waits = run_of(daemon, 3)
        assert waits["state"] == "queued"
        assert waits["cancel_requested"].endswith(": not today")
        (tmp_path / "block-slot").unlink()
        run = ended(daemon, 3)
        assert run["state"] == "cancelled"
        assert procedure.written == [*before, *undone, "last"]
        assert daemon.maintd("trigger", "other", "--wait").code == 0, "the lock is free"


@pytest.mark.parametrize(
    ("after_crash", "second", "expected", "state"),
    [
        ("undo", "once", ["one", "two", "back-two", "back-one", "last"], "undo"),
        ("resume", "often", ["one", "two", "two", "three", "last"], "resume"),
    ],
)
def test_the_next_daemon_follows_a_lost_run_by_after_crash(
    tmp_path: Path, after_crash: str, second: str, expected: list[str], state: str
) -> None:
    procedure = Procedure(tmp_path, after_crash, second)
    procedure.killed_in("two")

    with procedure.daemon() as daemon:
        run = ended(daemon, 2)

        assert (run["state"], run["trigger"], run["why"]) == ("succeeded", state, f"after_crash: {after_crash}")
        assert run["requested_by"] == "maintd"
        assert procedure.written == expected
        assert run_of(daemon, 1)["held"] is False
        assert daemon.maintd("trigger", "other", "--wait").code == 0, "the lock is free"
        assert len(daemon.maintd("history", "procedure", "--json").json["runs"]) == 2, "once"


def test_a_lost_step_that_must_not_be_repeated_keeps_the_run_held_although_it_is_to_resume(tmp_path: Path) -> None:
    procedure = Procedure(tmp_path, "resume", "once")
    procedure.killed_in("two")

    with procedure.daemon() as daemon:
        text = " ".join(daemon.maintd("status").out.split())
        assert 'after_crash of its entry is resume, but step "once-2" was lost' in text
        assert run_of(daemon, 1)["held"] is True
        assert procedure.written == ["one", "two"]


def test_a_freeze_holds_back_an_automatic_resume_but_no_undo(tmp_path: Path) -> None:
    folders = {after_crash: tmp_path / after_crash for after_crash in ("resume", "undo")}
    for after_crash, folder in folders.items():
        folder.mkdir()
        procedure = Procedure(folder, after_crash, "often")
        procedure.killed_in("two")
        procedure.calendar += FREEZE

        with procedure.daemon() as daemon:
            if after_crash == "undo":
                assert ended(daemon, 2)["trigger"] == "undo"
                continue
            text = " ".join(daemon.maintd("status").out.split())
            assert "after_crash of its entry is resume, which follows the end of the freeze: frozen by" in text, text
            assert "the closing" in text
            assert run_of(daemon, 1)["held"] is True, "its locks are kept"
            assert procedure.written == ["one", "two"]

            procedure.calendar = procedure.calendar.removesuffix(FREEZE)
            daemon.calendar.write_text(procedure.calendar)
            daemon.maintd("reload")
            run = ended(daemon, 2)
            assert (run["trigger"], procedure.written) == ("resume", ["one", "two", "two", "three", "last"])


def test_a_crash_in_the_undo_is_not_undone_again_by_itself(tmp_path: Path) -> None:
    procedure = Procedure(tmp_path, "undo", "once")
    procedure.killed_in("two")
    block = tmp_path / "block-back-one"
    block.touch()
    with procedure.daemon() as daemon:
        wait_for(lambda: "back-one" in procedure.written, "the undo runs", seconds=120)
        daemon.process.kill()
        daemon.process.wait()
    block.unlink()

    with procedure.daemon() as daemon:
        assert run_of(daemon, 2)["held"] is True
        assert "it followed a lost run itself" in " ".join(daemon.maintd("status").out.split())
        refused = daemon.maintd("undo", "2", "--why", "go on")
        assert (refused.code, "--redo undo-once" in refused.err) == (4, True)
        assert daemon.maintd("undo", "2", "--redo", "undo-once", "--why", "looked").code == 0
        run = ended(daemon, 3)
        assert run["state"] == "succeeded"
        assert procedure.written == ["one", "two", "back-two", "back-one", "back-one", "last"]
