"""The change log, notes, checklists and the chain of records at the command line, with a real daemon."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clock import ManualClock
from support.servers.base import wait_for
from support.servers.maintd import RunningDaemon, maintd_daemon
from support.stores import NOON

from maintd.model.run import DecisionKind, GateDecision, RunState, StepState
from maintd.store import open_store
from maintd.store.gates import add_decision, end_wait

CALENDAR = """
timezone: UTC
entries:
  tidy:
    title: Tidy up
    steps: [tidy]
  looked-at:
    title: Looked at
    steps: [look]
  planned:
    title: Planned maintenance
    window: {lasts: 2h}
    on_failure: undo
    steps:
      - gate: {ask: "May it begin?", checklist: [Stakeholders notified, Emergency contacts confirmed]}
      - {job: tidy, undo: {job: look}}
      - look
  resumable:
    title: To be resumed
    steps: [{gate: {ask: "May it begin?", checklist: [Desk informed]}}, look, {switch: {flag: FLAG}}]
"""

SWITCH = '''"""Switch it on."""

from pathlib import Path

from maintd.job import Context, JobParams, job


class Params(JobParams):
    flag: Path
    """It fails while there is no such file."""


@job(timeout="20s", repeatable=True)
def run(ctx: Context, params: Params) -> None:
    """Switch it on."""
    with ctx.change("switch on", "the site"):
        pass
    ctx.check("flag", params.flag.exists(), equals=True)
'''

TIDY = '''"""Tidy up."""

from maintd.job import Context, JobParams, job


@job(timeout="20s")
def run(ctx: Context, params: JobParams) -> None:
    """Delete a file."""
    with ctx.change("vacuum", "table orders", before_bytes=2048, after_bytes=1024):
        pass
    ctx.check("disk /", 85, at_most=90, warn_above=80, unit="%", hint="free some space")
'''

LOOK = '''"""Look."""

from maintd.job import Context, JobParams, job


@job(timeout="20s", mutates=False)
def run(ctx: Context, params: JobParams) -> None:
    """Check something."""
    ctx.check("seen", 1, at_least=1)
'''


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    folder = tmp_path_factory.mktemp("changelog")
    jobs = folder / "jobs"
    jobs.mkdir()
    (jobs / "tidy.py").write_text(TIDY)
    (jobs / "look.py").write_text(LOOK)
    (jobs / "switch.py").write_text(SWITCH)
    reports = str(folder / "reports")
    calendar = CALENDAR.replace("FLAG", str(folder / "flag"))
    with maintd_daemon(folder, calendar, jobs, MAINTD_REPORTS_DIR=reports, MAINTD_HEARTBEAT="1s") as running:
        yield running


def ended(daemon: RunningDaemon, name: str) -> int:
    """Run an entry to its end and its review; return the run's number."""
    done = daemon.maintd("trigger", name, "--wait", "--json", "--why", "to see")
    number: int = done.json["id"]
    reviewed(daemon, number)
    return number


def reviewed(daemon: RunningDaemon, number: int) -> None:
    wait_for(lambda: daemon.maintd("changelog", "verify", "--json").json["to_follow"] == 0, f"run {number} is reviewed")


def test_a_run_that_changed_something_is_in_the_change_log_and_one_that_only_looked_is_not(
    daemon: RunningDaemon,
) -> None:
    number = ended(daemon, "tidy")
    ended(daemon, "looked-at")

    text = daemon.maintd("changelog", "--entry", "tidy").out
    whole = daemon.maintd("changelog", "--format", "json").json["records"]

    assert f"**Run:** {number} of tidy, warned" in text
    assert "- Manual Maintenance: Tidy up" in text
    assert "**Why:** to see" in text
    assert "(requested it)" in text
    assert "**Planned Downtime:** No, the entry declares no window" in text
    assert "- tidy: vacuum table orders: 2,048 → 1,024" in text
    assert "disk /: warn, 85 %" in text
    assert "what to do: free some space" in text
    assert "→ open, finding " in text
    assert "- [ ] No alerts triggered: open: not known: no run with alert_review has ended since" in text
    assert "- disk / is warn (finding " in text
    assert {record["entry"] for record in whole} >= {"tidy"}
    assert "looked-at" not in {record["entry"] for record in whole}


def test_a_note_is_in_the_change_log_and_in_the_chain(daemon: RunningDaemon) -> None:
    number = ended(daemon, "tidy")
    before = daemon.maintd("changelog", "verify", "--json").json["records"]

    done = daemon.maintd("note", str(number), "a disk\n# is ordered", "--by", "ada")

    assert (done.code, done.err) == (0, "")
    assert "- a disk # is ordered (ada" in daemon.maintd("changelog").out
    assert daemon.maintd("changelog", "verify", "--json").json["records"] == before + 1
    events = daemon.maintd("show", str(number), "--json").json["notes"]
    assert [note["text"] for note in events] == ["a disk\n# is ordered"]
    assert daemon.maintd("note", str(number), " ").code == 2
    assert daemon.maintd("note", "99999", "x").code == 3


def test_the_checklist_of_a_procedure_shows_open_boxes_then_their_persons(daemon: RunningDaemon) -> None:
    number = daemon.maintd("trigger", "planned", "--json").json["id"]

    def waits() -> bool:
        return bool(daemon.maintd("show", str(number), "--json").json["state"] == "waiting")

    wait_for(waits, "the run waits at its gate")
    waiting = daemon.maintd("checklist", str(number)).out
    assert "- [ ] Stakeholders notified: open: not ticked" in waiting
    assert "- [ ] Backup completed: open: no item of a gate and no step of the run is about a backup" in waiting
    assert "- [x] Rollback plan ready: the entry can undo: tidy" in waiting
    assert "- [x] Maintenance window scheduled: from " in waiting
    assert "- [ ] May it begin?: open: waits for the role operator until " in waiting

    pass_gate(daemon, number)
    wait_for(lambda: daemon.maintd("show", str(number), "--json").json["state"] == "warned", "the run ends")
    reviewed(daemon, number)

    found = daemon.maintd("checklist", str(number))
    assert "- [x] Stakeholders notified (ada, " in found.out
    assert "- [ ] Emergency contacts confirmed: open: not ticked" in found.out
    assert "- [x] Change log updated: 1 change; record " in found.out
    assert "- [ ] System validation completed: open: not known: no run with health_check has ended since" in found.out
    assert f"- [ ] Documentation updated: open: no note of a person; write one: maintd note {number} TEXT" in found.out
    assert "boxes open" in found.out
    log = daemon.maintd("changelog", "--entry", "planned").out
    assert "- Planned Maintenance: Planned maintenance" in log
    assert "**Planned Downtime:** Yes, a window of 2h" in log
    assert "- gate: ticked “Stakeholders notified” by ada" in log
    assert "- gate: approved by ada" in log


def test_a_resumed_run_shows_the_approvals_of_the_runs_that_it_follows(daemon: RunningDaemon) -> None:
    first = daemon.maintd("trigger", "resumable", "--json").json["id"]
    wait_for(lambda: daemon.maintd("approve", str(first), "--item", "1", "--note", "by phone").code == 0, "it waits")
    assert daemon.maintd("approve", str(first), "--note", "go on").code == 0
    second = followed(daemon, first)
    (daemon.cwd / "flag").touch()
    third = followed(daemon, second)
    wait_for(lambda: shown(daemon, third)["state"] == "succeeded", "it ends")

    log = daemon.maintd("changelog", "--entry", "resumable").out.split("## ")[1]
    record = daemon.maintd("changelog", "--entry", "resumable", "--format", "json").json["records"][0]
    checklist = daemon.maintd("checklist", str(third)).out

    person = shown(daemon, first)["decisions"][-1]["by"]
    assert f"**Follows:** run {second}, and takes over what was done in it" in log
    assert f"- gate: ticked “Desk informed” by {person}, " in log and f", taken over from run {first}: by phone" in log
    assert f"- gate: approved by {person}, " in log and f", taken over from run {first}: go on" in log
    assert f"{person} (at gates of run {first})" in log
    assert (record["run_id"], record["follows"]) == (third, second)
    assert [(each["kind"], each["run_id"]) for each in record["decisions"]] == [("ticked", first), ("approved", first)]
    assert f"- [x] May it begin?: approved: go on; in run {first}, taken over ({person}, " in checklist
    assert f"- [x] Desk informed: by phone; in run {first}, taken over ({person}, " in checklist


def shown(daemon: RunningDaemon, number: int) -> dict[str, Any]:
    found: dict[str, Any] = daemon.maintd("show", str(number), "--json").json
    return found


def followed(daemon: RunningDaemon, number: int) -> int:
    """Resume a run when it has failed; return the number of the new one."""
    wait_for(lambda: shown(daemon, number)["state"] == "failed", f"run {number} fails")
    assert daemon.maintd("resume", str(number), "--json").code == 0
    return int(next(link["run_id"] for link in shown(daemon, number)["links"] if link["other_run_id"] == number))


def pass_gate(daemon: RunningDaemon, number: int) -> None:
    store = open_store(f"sqlite:///{daemon.state_dir}/maintd.db", clock=ManualClock(NOON), migrate=False)
    try:
        run = store.history.run(number)
        assert run is not None
        assert run.state is RunState.WAITING
        at = run.queued_at
        ticked = GateDecision(step=0, kind=DecisionKind.TICKED, item=1, by="ada", at=at)
        passed = GateDecision(step=0, kind=DecisionKind.APPROVED, by="ada", at=at)
        store.write(lambda conn: add_decision(conn, number, ticked))
        assert store.write(lambda conn: end_wait(conn, number, passed, StepState.SUCCEEDED, "approved by ada"))
    finally:
        store.close()


def test_verify_names_the_record_of_a_run_that_was_changed_below_maintd(daemon: RunningDaemon) -> None:
    number = ended(daemon, "tidy")
    assert daemon.maintd("changelog", "verify").code == 0
    reason = tampered(daemon, number, "all was well")

    found = daemon.maintd("changelog", "verify")
    as_json = daemon.maintd("changelog", "verify", "--json")
    tampered(daemon, number, reason)

    assert found.code == as_json.code == 1
    assert f"does not fit: the rows of run {number} were changed after its record was made" in found.out
    assert as_json.json["problem"]["run_id"] == number
    assert daemon.maintd("changelog", "verify").code == 0


def tampered(daemon: RunningDaemon, number: int, reason: str) -> str:
    """Set the reason of a run; return the earlier one."""
    with sqlite3.connect(daemon.state_dir / "maintd.db", timeout=60) as conn:
        earlier = conn.execute("SELECT reason FROM runs WHERE id = ?", (number,)).fetchone()[0]
        conn.execute("UPDATE runs SET reason = ? WHERE id = ?", (reason, number))
    conn.close()
    return str(earlier)


def test_the_head_that_is_kept_in_a_file_is_verified(daemon: RunningDaemon, tmp_path: Path) -> None:
    ended(daemon, "tidy")
    head = daemon.maintd("changelog", "verify", "--json").json["head"]
    kept = tmp_path / "heads"
    kept.write_text(f"# kept on paper\n{head['record']} {head['head']} {head['at']}\n")

    assert "the head that was kept fits" in daemon.maintd("changelog", "verify", "--head", kept).out
    kept.write_text(f"{head['record']} {'0' * 64}\n")
    other = daemon.maintd("changelog", "verify", "--head", kept)
    assert other.code == 1
    assert "the chain was written again" in other.out
    kept.write_text("nothing\n")
    assert daemon.maintd("changelog", "verify", "--head", kept).code == 2


def test_the_change_log_and_the_head_are_written_to_the_reports_folder_at_the_start(daemon: RunningDaemon) -> None:
    reports = daemon.cwd / "reports"

    wait_for(lambda: (reports / "CHANGELOG-maintenance.md").exists(), "the change log is written")

    assert (reports / "CHANGELOG-maintenance.md").read_text().startswith("# Maintenance Change Log\n")
