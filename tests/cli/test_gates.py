"""Gates at the command line, with a real daemon."""

from __future__ import annotations

import html
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.receivers import webhook
from support.servers.base import wait_for
from support.servers.maintd import RunningDaemon, maintd_daemon

from maintd.client import Client

HEARTBEAT = timedelta(minutes=2)
"""Of the daemon: so long is it between two sweeps."""

CALENDAR = """
timezone: UTC
entries:
  daily-backup:
    title: Backup
    steps: [greet]
  maintenance:
    title: Planned maintenance
    steps:
      - gate:
          ask: Start now?
          checklist: [Desk informed, {item: Backup completed, proof: {entry: daily-backup, within: 1h}}]
      - greet
    always: [greet]
  hurried:
    title: Two seconds
    steps: [{gate: {ask: Start now?, timeout: 2s}}, greet]
    always: [greet]
  guarded:
    title: With four eyes
    steps: [{gate: {ask: Start now?, approve: {role: approver, not_requester: true}}}, greet]
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    heartbeat = {"MAINTD_HEARTBEAT": "2m", "MAINTD_LEASE": "12m"}
    with maintd_daemon(tmp_path, CALENDAR, **heartbeat) as running:
        yield running


def waiting(daemon: RunningDaemon, entry: str) -> str:
    """Trigger a run and return its number when it waits at its gate."""
    number = str(daemon.maintd("trigger", entry, "--json").json["id"])
    wait_for(lambda: shown(daemon, number)["state"] == "waiting", f"run {number} waits", seconds=120)
    return number


def shown(daemon: RunningDaemon, number: str) -> dict[str, Any]:
    found: dict[str, Any] = daemon.maintd("show", number, "--json").json
    return found


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_run_is_listed_ticked_approved_and_goes_on(daemon: RunningDaemon) -> None:
    number = waiting(daemon, "maintenance")
    listed = words(daemon.maintd("gates").out)
    assert f'run {number} of maintenance waits at gate "gate" for an operator' in listed
    assert "1 Desk informed: not ticked" in listed and "daily-backup has never succeeded" in listed
    assert f"type maintd approve {number} --item 1" in listed

    early = daemon.maintd("approve", number)
    assert (early.code, '1 "Desk informed" is not ticked' in early.err) == (4, True)
    by_hand = daemon.maintd("approve", number, "--item", "2")
    assert (by_hand.code, "is proved by maintd and never ticked" in by_hand.err) == (4, True)
    assert daemon.maintd("approve", number, "--item", "7").code == 2

    ticked = daemon.maintd("approve", number, "--item", "1", "--note", "by phone")
    assert ticked.code == 0 and ": by phone" in words(ticked.out)
    assert "type maintd trigger daily-backup --wait" in words(ticked.out)
    assert daemon.maintd("trigger", "daily-backup", "--wait").code == 0

    passed = daemon.maintd("approve", number, "--note", "go")
    assert passed.out == f"run {number} of maintenance goes on; follow it with: maintd logs -f {number}\n"
    wait_for(lambda: shown(daemon, number)["state"] == "succeeded", "its end", seconds=120)
    assert [one["kind"] for one in shown(daemon, number)["decisions"]] == ["ticked", "proved", "approved"]
    again = daemon.maintd("approve", number)
    assert (again.code, "does not wait at a gate: it is succeeded" in again.err) == (4, True)
    assert daemon.maintd("gates").out == "no run waits at a gate\n"
    assert daemon.maintd("approve", "4711").code == 3


def test_status_show_and_the_page_show_for_whom_a_run_waits_and_what_to_type(daemon: RunningDaemon) -> None:
    number = waiting(daemon, "maintenance")
    command = f"maintd approve {number} --item 1"

    status, shown_text = daemon.maintd("status"), words(daemon.maintd("show", number).out)
    pages = []
    for path in ("/", f"/runs/{number}"):
        with urllib.request.urlopen(daemon.page + path, timeout=60) as answer:
            pages.append(words(html.unescape(answer.read().decode())))

    assert status.code == 0, "a run that waits is no failure"
    for text in (words(status.out), shown_text):
        assert f'run {number} of maintenance waits at gate "gate" for an operator' in text
        assert "1 Desk informed: not ticked" in text and f"type {command}" in text
        assert "then the run ends as timed out" in text
    assert command in pages[0] and "waits for an operator" in pages[0]
    assert command in pages[1] and "daily-backup has never succeeded" in pages[1]
    entry = words(daemon.maintd("status", "maintenance").out)
    assert f"run {number} waits for approval by an operator: Start now?, until" in entry
    daemon.maintd("approve", number, "--item", "1", "--note", "by phone")
    assert "item 1 ticked by" in words(daemon.maintd("show", number).out)


def test_a_command_that_waits_for_a_run_prints_how_it_goes_on(daemon: RunningDaemon) -> None:
    command = daemon.start("trigger", "guarded", "--wait")
    assert command.stderr is not None
    err = ""
    while "type " not in err:
        line = command.stderr.readline()
        assert line, f"it ended: {err}"
        err += line
    number = str(daemon.maintd("gates", "--json").json["gates"][0]["run_id"])
    wait_for(lambda: daemon.maintd("reject", number, "--why", "no").code == 0, "it is rejected", seconds=60)

    command.communicate(timeout=120)

    assert command.returncode == 1
    assert "for an approver other than" in words(err) and f"type maintd approve {number}" in words(err)


def test_a_rejected_run_fails_and_runs_its_always_steps(daemon: RunningDaemon) -> None:
    """By the name of its entry, which has a run of a higher number that is planned for later."""
    number = waiting(daemon, "maintenance")
    assert daemon.maintd("reject", number).code == 2, "a reason is needed"
    planned = daemon.maintd("trigger", "maintenance", "--at", "2h")
    assert (planned.code, planned.err.startswith("2h is ")) == (0, True), planned.err

    done = daemon.maintd("reject", "maintenance", "--why", "not today")

    assert done.out == f"run {number} of maintenance is rejected; see how it ends with: maintd show {number}\n"
    wait_for(lambda: shown(daemon, number)["state"] == "failed", "its end", seconds=120)
    assert [step["state"] for step in shown(daemon, number)["steps"]] == ["failed", "skipped", "succeeded"]
    again = daemon.maintd("approve", "maintenance")
    assert (again.code, "no run of maintenance waits at a gate" in again.err) == (4, True), again.err
    assert daemon.maintd("approve", "maintenanc").code == 3


def test_the_caller_at_the_control_socket_is_an_admin_with_a_name(daemon: RunningDaemon) -> None:
    number = waiting(daemon, "guarded")
    second = daemon.maintd("trigger", "guarded")
    assert f"(begins when run {number}, which waits at a gate, has ended)" in words(second.out)
    own = daemon.maintd("approve", number)
    assert own.code == 4 and "must be approved by another person" in own.err
    assert f"maintd approve {number} --emergency --why REASON" in own.err
    assert daemon.maintd("approve", number, "--emergency").code == 2
    assert daemon.maintd("approve", number, "--why", "x").code == 2

    done = daemon.maintd("approve", number, "--emergency", "--why", "the exchange is down")

    assert (done.code, "keeps the mark of an emergency" in done.out) == (0, True)
    assert "the exchange is down" in shown(daemon, number)["emergency"]


def test_a_gate_whose_time_is_over_ends_the_run_before_the_next_sweep(
    daemon: RunningDaemon,
) -> None:
    number = str(daemon.maintd("trigger", "hurried", "--json").json["id"])

    wait_for(lambda: shown(daemon, number)["state"] == "timed_out", "its end", seconds=120)

    run = shown(daemon, number)
    assert [step["state"] for step in run["steps"]] == ["timed_out", "skipped", "succeeded"]
    gate = run["steps"][0]
    waited = datetime.fromisoformat(gate["finished_at"]) - datetime.fromisoformat(gate["started_at"])
    assert timedelta(seconds=2) <= waited < HEARTBEAT, "the daemon wakes up at the end of the wait"
    assert [(one["kind"], one["by"]) for one in run["decisions"]] == [("timed_out", "maintd")]
    assert daemon.maintd("approve", number).code == 4
    assert daemon.maintd("status", "hurried", "--json").json["next_step"] == f"maintd resume {number}"


def test_the_notices_of_a_gate_are_sent_before_the_next_sweep(tmp_path: Path) -> None:
    notify = 'notify: {channels: {pager: {webhook: "%s", secret: "${HOOK_SECRET}"}}}\n'
    calendar = """
timezone: UTC
%sentries:
  reminding:
    title: Asks twice
    steps: [{gate: {ask: First?, remind: 1s}}, {gate: {ask: Second?, remind: 1s}}, greet]
"""
    settings = {"MAINTD_HEARTBEAT": "2m", "MAINTD_LEASE": "12m", "HOOK_SECRET": "canary-signing-secret-0815"}
    with webhook() as hook, maintd_daemon(tmp_path, calendar % (notify % hook.url), **settings) as daemon:
        number = waiting(daemon, "reminding")
        wait_for(lambda: hook.accepted, "the notice arrives")
        wait_for(lambda: "incident:1:reminder:1:pager" in notices(daemon), "a reminder of the first gate")
        assert daemon.maintd("approve", number, "--gate", "gate").code == 0
        wait_for(lambda: "incident:2:reminder:1:pager" in notices(daemon), "a reminder of the second gate")
        steps, created = shown(daemon, number)["steps"], notices(daemon)

    for incident, step in enumerate(steps[:2], 1):
        reached = datetime.fromisoformat(step["started_at"])
        assert created[f"incident:{incident}:waiting:pager"] - reached < HEARTBEAT / 2
        reminder = created[f"incident:{incident}:reminder:1:pager"] - created[f"incident:{incident}:waiting:pager"]
        assert timedelta(seconds=1) <= reminder < HEARTBEAT / 2


def notices(daemon: RunningDaemon) -> dict[str, datetime]:
    """When the notices were written, by key."""
    return {notice.key: notice.created_at for notice in Client(daemon.socket).notices(limit=100).notices}


def test_the_gates_are_read_from_the_store_without_a_daemon(daemon: RunningDaemon) -> None:
    number = waiting(daemon, "maintenance")
    daemon.process.terminate()
    daemon.process.wait(60)

    listed = daemon.maintd("gates")

    assert (listed.code, f"run {number} of maintenance waits" in words(listed.out)) == (0, True)
    assert daemon.maintd("approve", number).code == 6
