"""Every command against a real daemon."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from support.servers.base import wait_for
from support.servers.maintd import CALENDAR, MAINTD, RunningDaemon, Shell, clean_environ, maintd_daemon

from maintd.client import Client


def test_status_names_every_entry_within_80_columns_and_without_colour(daemon: RunningDaemon) -> None:
    typed = daemon.maintd("status")

    assert typed.code in (0, 1)  # other tests let an entry of this daemon fail
    assert max(map(len, typed.out.splitlines())) <= 80 or str(daemon.calendar) in typed.out
    assert "\x1b" not in typed.out
    for name in ("greeting", "night-round", "stumbling", "hurried"):
        assert name in typed.out
    assert "03:00 CE" in typed.out  # local time of the entry


def test_status_on_a_terminal_has_colour_unless_it_is_refused(daemon: RunningDaemon) -> None:
    assert "\x1b[" in on_a_terminal(daemon, "status")
    assert "\x1b[" not in on_a_terminal(daemon, "status", NO_COLOR="1")
    assert "\x1b[" not in on_a_terminal(daemon, "status", TERM="dumb")
    assert "\x1b[" in on_a_terminal(daemon, "status", "greeting")


def on_a_terminal(daemon: RunningDaemon, *words: str, **more: str) -> str:
    ours, theirs = pty.openpty()
    environ = clean_environ(**{"TERM": "xterm", **daemon.environ, **more})
    process = subprocess.Popen([MAINTD, *words], cwd=daemon.cwd, env=environ, stdout=theirs, stdin=subprocess.DEVNULL)
    os.close(theirs)
    received = bytearray()
    try:
        while part := os.read(ours, 65536):
            received += part
    except OSError:
        pass  # Linux says so at the end of a terminal
    os.close(ours)
    process.wait(20)
    return received.decode()


def test_the_shortcut_prints_the_same_as_the_full_program(daemon: RunningDaemon) -> None:
    (daemon.cwd / "empty.yaml").write_text("")

    short = daemon.maintd("status")
    whole = daemon.maintd("--config", "empty.yaml", "status")

    # Ages and durations may differ by the seconds between the two.
    assert whole.out.splitlines()[1:4] == short.out.splitlines()[1:4]
    assert len(whole.out.splitlines()) == len(short.out.splitlines())


def test_the_shortcut_replaces_characters_that_the_terminal_lacks(daemon: RunningDaemon) -> None:
    typed = daemon.maintd("status", PYTHONIOENCODING="ascii", PYTHONUTF8="0")

    assert typed.code in (0, 1)
    assert typed.out.isascii()
    assert "up " in typed.out


def test_status_as_json_is_the_report(daemon: RunningDaemon) -> None:
    answer = daemon.maintd("status", "--json").json

    assert {entry["entry"] for entry in answer["entries"]} == {"greeting", "night-round", "stumbling", "hurried"}
    assert answer["pid"] == daemon.process.pid
    assert answer["at"].endswith("Z")


def test_quiet_status_checks_the_health_of_the_daemon_and_prints_nothing(daemon: RunningDaemon) -> None:
    daemon.maintd("trigger", "stumbling", "--wait")

    typed = daemon.maintd("status", "--quiet")

    assert (typed.code, typed.out, typed.err) == (0, "", "")
    assert daemon.maintd("--config", "/dev/null", "status", "--quiet").code == 0


def test_trigger_and_wait_shows_the_evidence_and_exits_with_the_result_of_the_run(daemon: RunningDaemon) -> None:
    typed = daemon.maintd("trigger", "greeting", "-p", "whom=ana", "--why", "she is here", "--wait")

    assert typed.code == 0, typed.err
    assert "▶ step greet" in typed.out
    assert "✓ greetings: 1 (expected at least 1)" in typed.out
    assert "· greet ana (times 1)" in typed.out
    assert "artifact card.txt" in typed.out
    assert "she is here" in typed.out


def test_trigger_and_wait_as_json_prints_the_finished_run(daemon: RunningDaemon) -> None:
    typed = daemon.maintd("trigger", "greet", "-p", "times=2", "--dry-run", "--wait", "--json")

    run = typed.json
    assert typed.code == 0
    assert (run["entry"], run["state"], run["dry_run"]) == ("greet", "succeeded", True)
    attempt = run["steps"][0]["attempts"][0]
    assert attempt["checks"][0] | {"observed": 2, "expected": "at least 1", "status": "ok"} == attempt["checks"][0]
    assert attempt["changes"][0]["done"] is False


def test_a_failed_run_exits_with_1_and_a_timed_out_one_with_124(daemon: RunningDaemon) -> None:
    failed = daemon.maintd("trigger", "stumbling", "--wait")
    late = daemon.maintd("trigger", "hurried", "--wait", "--json")

    assert failed.code == 1
    assert "✗ fail: stones: 3 (expected at most 0)\n      → pick them up" in failed.out
    assert late.code == 124
    assert late.json["state"] == "timed_out"


def test_the_same_idempotency_key_returns_the_same_run(daemon: RunningDaemon) -> None:
    key = uuid4().hex

    first = daemon.maintd("trigger", "greeting", "--idempotency-key", key, "--json").json
    second = daemon.maintd("trigger", "greeting", "--idempotency-key", key, "--json").json

    assert first["id"] == second["id"]


def test_a_run_can_be_triggered_for_later_and_cancelled(daemon: RunningDaemon) -> None:
    asked = daemon.maintd("trigger", "greeting", "--at", "2h", "--json").json

    cancelled = daemon.maintd("cancel", str(asked["id"]), "--why", "a slip")

    assert asked["state"] == "queued"
    assert cancelled.out == f"run {asked['id']} of greeting is cancelled\n"
    assert daemon.maintd("cancel", str(asked["id"])).code == 4
    shown = daemon.maintd("show", str(asked["id"]), "--json").json
    assert (shown["state"], "a slip" in shown["reason"]) == ("cancelled", True)


def test_an_unknown_name_is_reported_with_a_similar_one(daemon: RunningDaemon) -> None:
    typed = daemon.maintd("trigger", "vacum")
    as_json = daemon.maintd("trigger", "vacum", "--json")

    assert (typed.code, typed.err) == (3, 'no entry or job named "vacum"; did you mean "vacuum"?\n')
    assert (as_json.code, as_json.json) == (
        3,
        {
            "error": {
                "code": "unknown_name",
                "message": 'no entry or job named "vacum"',
                "hint": 'did you mean "vacuum"?',
            }
        },
    )
    assert daemon.maintd("status", "greetin").code == 3
    assert daemon.maintd("show", "999999").code == 3
    assert daemon.maintd("logs", "greetin").code == 3
    assert daemon.maintd("history", "greetin").code == 3


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("-p", "whome=x"), 'did you mean "whom"?'),
        (("-p", "times=often"), "greet.times"),
        (("-p", "times"), "is not name=value"),
        (("--at", "tomorrow"), '"tomorrow" is not a time'),
        (("--at", "2020-01-01T00:00Z"), "is in the past"),
    ],
)
def test_an_invalid_request_exits_with_2(daemon: RunningDaemon, words: tuple[str, ...], answer: str) -> None:
    typed = daemon.maintd("trigger", "greeting", *words)

    assert typed.code == 2
    assert answer in typed.err


def test_ctrl_c_ends_the_waiting_but_not_the_run(daemon: RunningDaemon) -> None:
    wait_for(lambda: _running(daemon, "dawdle") is None, "the runs of other tests to end")
    waiting = daemon.start("trigger", "dawdle", "-p", "seconds=300", "--wait")
    run = wait_for(lambda: _running(daemon, "dawdle"), "the run")

    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=120)

    state = daemon.maintd("show", str(run), "--json").json["state"]
    daemon.maintd("cancel", str(run), "--why", "the test has ended")
    assert waiting.returncode == 130, err
    assert f"run {run} continues" in err
    assert f"maintd cancel {run}" in err
    assert state == "running"


def test_logs_of_a_run_are_followed_to_its_end(daemon: RunningDaemon) -> None:
    run = daemon.maintd("trigger", "dawdle", "-p", "seconds=3", "--json").json["id"]

    followed = daemon.maintd("logs", "-f", str(run))

    assert followed.code == 0
    assert "part 30 of 30" in followed.out
    assert followed.err == f"run {run}: succeeded\n"


def _running(daemon: RunningDaemon, entry: str) -> int | None:
    runs = daemon.maintd("history", entry, "--state", "running", "--json").json["runs"]
    return int(runs[0]["id"]) if runs else None


def test_logs_as_json_is_one_object(daemon: RunningDaemon) -> None:
    number = daemon.maintd("trigger", "greeting", "-p", "times=3", "--wait", "--json").json["id"]

    answer = daemon.maintd("logs", "-f", str(number), "--json").json

    assert answer["final"] is True
    texts = [line["text"] for line in answer["lines"]]
    assert texts == ["hello world, 1", "hello world, 2", "hello world, 3", "printed"]


def test_a_run_is_found_by_number_by_name_and_as_the_last(daemon: RunningDaemon) -> None:
    number = daemon.maintd("trigger", "night-round", "--wait", "--json").json["id"]

    by_entry = daemon.maintd("show", "night-round", "--json").json["id"]
    last = daemon.maintd("show", "last", "--json").json["id"]

    assert by_entry == number
    assert last >= number
    assert daemon.maintd("show", "vacuum").err == '"vacuum" has not run yet; run it with: maintd trigger vacuum\n'


def test_history_prints_a_page_and_where_the_next_begins(daemon: RunningDaemon) -> None:
    for _ in range(2):
        daemon.maintd("trigger", "greeting", "--wait")

    page = daemon.maintd("history", "greeting", "--limit", "1", "--json").json
    older = daemon.maintd("history", "greeting", "--limit", "1", "--before", str(page["next_before"]), "--json").json

    assert len(page["runs"]) == 1
    assert older["runs"][0]["id"] < page["runs"][0]["id"]
    assert daemon.maintd("history", "--since", "1h", "--state", "succeeded", "--job", "greet").code == 0
    assert daemon.maintd("history", "--state", "sucseeded").code == 2


def test_status_of_one_entry_shows_its_last_runs(daemon: RunningDaemon) -> None:
    number = daemon.maintd("trigger", "greeting", "--wait", "--json").json["id"]

    typed = daemon.maintd("status", "greeting")

    assert typed.code == 0
    assert "every Sunday at 02:30 (Europe/Berlin)" in typed.out
    assert f"✓ {number}  succeeded" in typed.out
    assert len(daemon.maintd("status", "greeting", "--json").json["runs"]) <= 10


def test_next_lists_due_times_in_local_time_and_as_json(daemon: RunningDaemon) -> None:
    answer = daemon.maintd("next", "--days", "2", "--json").json

    assert [due["entry"] for due in answer["due"] if due["entry"] == "night-round"] == ["night-round"] * 2
    assert set(answer["due"][0]) >= {"entry", "due_at", "local", "jobs"}
    assert answer["due"][0]["local"].partition(" ")[2].startswith("20")
    text = daemon.maintd("next", "--days", "2").out
    assert "03:00 CE" in text
    assert max(map(len, text.splitlines())) <= 80


def test_jobs_are_listed_and_shown_with_their_params(daemon: RunningDaemon) -> None:
    names = [job["name"] for job in daemon.maintd("jobs", "--json").json["jobs"]]

    assert {"greet", "dawdle", "health_check"} <= set(names)
    text = daemon.maintd("jobs", "show", "greet").out
    assert "Runbook: Tests / Greeting" in text
    assert "times: number, default 1\n      How often." in text
    assert daemon.maintd("jobs", "show", "gret").err == 'no job named "gret"; did you mean "greet"?\n'


def test_a_pause_is_shown_with_its_reason_and_ends(daemon: RunningDaemon) -> None:
    paused = daemon.maintd("pause", "night-round", "--why", "disk swap", "--for", "2h")
    shown = daemon.maintd("status").out
    gone_on = daemon.maintd("unpause", "night-round")

    assert paused.code == 0, paused.err
    assert "disk swap" in shown
    assert gone_on.out == "night-round is unpaused\n"
    assert daemon.maintd("unpause", "night-round").out == "night-round was not paused\n"
    assert daemon.maintd("pause", "night-roun", "--why", "x").code == 3
    assert daemon.maintd("pause", "night-round").code == 2
    assert daemon.maintd("pause", "night-round", "--why", "x", "--for", "2h", "--until", "3h").code == 2


def test_the_version_of_the_daemon_is_shown(daemon: RunningDaemon) -> None:
    answer = daemon.maintd("version", "--json").json

    assert answer["daemon"]["pid"] == daemon.process.pid
    assert answer["version"] == answer["daemon"]["version"]


def test_the_shell_completes_entries_jobs_and_runs(daemon: RunningDaemon) -> None:
    daemon.maintd("trigger", "greeting", "--wait")

    def completed(words: str, at: int) -> list[str]:
        typed = daemon.maintd(COMP_WORDS=words, COMP_CWORD=str(at), _MAINTD_COMPLETE="bash_complete")
        return [line.partition(",")[2] for line in typed.out.splitlines()]

    assert completed("maintd trigger gre", 2) == ["greet", "greeting"]
    assert completed("maintd pause gre", 2) == ["greeting"]
    assert completed("maintd jobs show gre", 3) == ["greet"]
    assert "1" in completed("maintd show 1", 2)
    assert "last" in completed("maintd show l", 2)


def test_a_closed_pipe_is_not_an_error(daemon: RunningDaemon) -> None:
    for words in ("status", "history --limit 1000", "jobs --json"):
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; '{MAINTD}' {words} | true"],
            cwd=daemon.cwd,
            env=clean_environ(**daemon.environ),
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.stderr == ""


# --- a daemon of the test's own ---------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, shell: Shell) -> Iterator[RunningDaemon]:
    # It looks at its files at each heartbeat: none shall come between an edit and the command that tells of it. The
    # first comes at once, and prunes at its end.
    with maintd_daemon(tmp_path, MAINTD_HEARTBEAT="10m", MAINTD_LEASE="1h") as daemon:
        wait_for(lambda: "history_pruned" in daemon.log_text(), "the first heartbeat")
        yield daemon


def test_reload_reports_changes_and_rejects_a_bad_calendar(own: RunningDaemon) -> None:
    own.calendar.write_text(CALENDAR + "  another:\n    title: Another\n    steps: [greet]\n")
    changed = own.maintd("reload", "--why", "a new entry")
    own.calendar.write_text(CALENDAR + "  broken:\n    stepps: [greet]\n")
    refused = own.maintd("reload", "--json")

    assert changed.code == 0
    assert "another" in changed.out
    assert refused.code == 2
    assert refused.json["ok"] is False
    assert any("schedules.yaml:" in problem for problem in refused.json["problems"])
    assert "another" in own.maintd("status").out
    events = Client(own.socket).events(limit=10)
    assert "a new entry" in [event.why for event in events if event.kind == "reload_requested"]


def test_the_daemon_exits_with_0_on_sigterm_and_the_store_can_still_be_read(own: RunningDaemon) -> None:
    number = own.maintd("trigger", "greeting", "--wait", "--json").json["id"]

    own.process.send_signal(signal.SIGTERM)
    assert own.process.wait(30) == 0
    status = own.maintd("status")
    shown = own.maintd("show", str(number), "--json")
    logs = own.maintd("logs", "-f", str(number))

    assert status.code == 6
    assert f"no daemon answers on {own.socket} (start it with: maintd serve)" in status.err
    assert "greeting" in status.out
    assert (shown.code, shown.json["state"]) == (0, "succeeded")
    assert "hello world, 1" in logs.out
    assert own.maintd("status", "--json").json["entries"]
    assert own.maintd("next", "--json").json["due"]


def test_the_socket_of_a_killed_daemon_does_not_count_as_a_daemon(own: RunningDaemon) -> None:
    own.process.kill()
    own.process.wait(10)

    assert own.socket.exists()
    assert own.maintd("status", "--quiet").code == 6
    typed = own.maintd("trigger", "greeting")
    assert (typed.code, f"no daemon answers on {own.socket}" in typed.err) == (6, True)


def test_a_second_daemon_is_refused_with_the_pid_of_the_first(own: RunningDaemon) -> None:
    typed = own.maintd("serve")

    assert typed.code == 4
    assert f"pid {own.process.pid}" in typed.err


def test_a_run_can_be_triggered_at_the_start_of_the_daemon(tmp_path: Path, shell: Shell) -> None:
    environ = clean_environ(MAINTD_STATE_DIR=str(tmp_path / "state"), MAINTD_LISTEN="")
    (tmp_path / "schedules.yaml").write_text(
        "timezone: UTC\nentries:\n  a: {title: A, steps: [command: {argv: ['true']}]}\n"
    )
    process = subprocess.Popen(
        [MAINTD, "serve", "--trigger", "a"], cwd=tmp_path, env=environ, stderr=subprocess.DEVNULL
    )
    try:

        def ended() -> object:
            done = subprocess.run([MAINTD, "history", "a", "--json"], cwd=tmp_path, env=environ, capture_output=True)
            runs = json.loads(done.stdout)["runs"] if done.returncode == 0 else []
            return runs and runs[0]["finished_at"]

        wait_for(ended, "the run", every=0.2)
    finally:
        process.terminate()
        assert process.wait(30) == 0


# --- how fast, and with what ------------------------------------------------------------------------------------------

BARE = {
    "_locale",
    "_socket",
    "__future__",
    "maintd",
    "maintd.__main__",
    "maintd.cli",
    "maintd.cli.control_socket",
    "maintd.cli.plain_http",
    "ntpath",
}
"""What plain status may import beyond what Python itself has imported by then."""


@pytest.mark.parametrize("words", [["status"], ["status", "--quiet"]])
def test_plain_status_imports_almost_nothing(daemon: RunningDaemon, words: list[str]) -> None:
    def imported(*argv: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", *argv],
            cwd=daemon.cwd,
            env=clean_environ(**daemon.environ),
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode in (0, 1)
        return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}

    assert imported(str(MAINTD), *words) - imported("-c", "pass") <= BARE
