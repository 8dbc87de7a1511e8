"""What commands state of what is not configured, not loaded, broken or stopping, with a real daemon."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest
from support.servers.base import wait_for
from support.servers.maintd import JOBS, RunningDaemon, Shell, maintd_daemon

CALENDAR = """
timezone: UTC
entries:
  rotation:
    title: Without its required target
    steps: [greet, {job: secrets_rotate, required: true}]
  sets:
    title: Without its folder
    steps: [backup]
  greeting:
    title: Runs
    steps: [greet]
  asks:
    title: Asks first
    steps: [{gate: {ask: Go on?}}, greet]
"""

GOOD = '''"""A job."""

from maintd.job import Context, JobParams, job


@job()
def run(ctx: Context, params: JobParams) -> None:
    ctx.check("done", 1, equals=1)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hints")


@pytest.fixture(scope="module")
def daemon(folder: Path) -> Iterator[RunningDaemon]:
    (folder / "jobs").mkdir()
    with maintd_daemon(folder, CALENDAR, MAINTD_JOBS_PATH=f"{JOBS}:{folder / 'jobs'}") as found:
        yield found


# --- not configured -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("entry", "lacks"), [("rotation", "a secrets target"), ("sets", "the folder backup_sets")])
def test_doctor_of_an_entry_of_which_nothing_runs_exits_with_1(daemon: RunningDaemon, entry: str, lacks: str) -> None:
    typed = daemon.maintd("doctor", entry)
    found = daemon.maintd("doctor", entry, "--json")

    assert (typed.code, found.code) == (1, 1)
    flat = " ".join(typed.out.split())
    assert f"? entry {entry}: configured unknown: not_configured: nothing of it runs without {lacks}" in flat
    check = next(check for check in found.json["checks"] if check["name"] == f"entry {entry}: configured")
    assert check["hint"].startswith("set targets.")


def test_doctor_of_all_entries_lists_those_that_are_not_configured_and_is_not_red(daemon: RunningDaemon) -> None:
    typed = daemon.maintd("doctor")

    assert typed.code == 0, typed.out
    for entry in ("rotation", "sets"):
        assert f"? entry {entry}: configured (not required)" in typed.out
    assert "entry greeting" not in typed.out


def test_a_trigger_states_that_nothing_will_run(daemon: RunningDaemon) -> None:
    planned = daemon.maintd("trigger", "rotation", "--at", "30m")
    assert daemon.maintd("trigger", "sets", "--wait").code == 1
    again = daemon.maintd("trigger", "sets", "--at", "30m")
    runs = daemon.maintd("trigger", "greeting", "--at", "30m")

    assert "(nothing of it will run: no target is configured of: secrets)" in planned.out
    assert "was skipped as not configured; examine it: maintd doctor sets)" in again.out
    assert "(" not in runs.out


# --- jobs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("jobs", "show"), ("trigger",)])
def test_a_job_that_only_this_shell_has_is_explained(
    daemon: RunningDaemon, tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "only_here.py").write_text(GOOD)
    shell = Shell(daemon.cwd, {**daemon.environ, "MAINTD_JOBS_PATH": str(tmp_path)})

    typed, unknown = shell.maintd(*words, "only_here"), shell.maintd(*words, "nowhere")

    assert (typed.code, unknown.code) == (3, 3)
    assert f"the daemon has other job folders than this shell, which finds {tmp_path}/only_here.py" in typed.err
    assert f"set MAINTD_JOBS_PATH={tmp_path} for the daemon, and restart it" in typed.err
    assert "MAINTD_JOBS_PATH" not in unknown.err


def test_a_reload_states_what_became_of_job_modules(daemon: RunningDaemon, folder: Path) -> None:
    module = folder / "jobs" / "changing.py"

    def reloaded(text: str | None) -> tuple[str, str]:
        if text is None:
            module.unlink()
        else:
            module.write_text(text)
        typed = daemon.maintd("reload")
        assert typed.code == 0, typed.err
        return typed.out.strip(), typed.err.strip()

    module.write_text(GOOD)
    wait_for(lambda: daemon.maintd("jobs", "show", "changing").code == 0, "the daemon has found it by itself")
    assert reloaded(GOOD) == ('added job "changing"', "")
    assert reloaded("def run(:\n") == (f'job "changing": broken: {module}:1: invalid syntax', "")
    unchanged = daemon.maintd("reload")
    assert reloaded(f"{GOOD}# mended\n") == ('job "changing": can be used again', "")
    assert reloaded(f"{GOOD}# edited\n") == ('job "changing": changed', "")
    assert reloaded(None) == ('removed job "changing"', "")

    assert (unchanged.out.strip(), unchanged.err.strip()) == (
        "no changes",
        f'job "changing" is broken: {module}:1: invalid syntax',
    )


def test_the_remedy_for_a_broken_module_is_given_once(tmp_path: Path, daemon: RunningDaemon) -> None:
    (tmp_path / "torn.py").write_text("def run(:\n")

    typed = Shell(daemon.cwd, {**daemon.environ, "MAINTD_JOBS_PATH": str(tmp_path)}).maintd("run", "torn", "--here")

    assert typed.err.strip().endswith("torn.py:1: invalid syntax; fix the module")


# --- files, options and requests ----------------------------------------------------------------------------------


def test_validate_of_a_file_that_was_given_by_its_name_names_no_setting(daemon: RunningDaemon, tmp_path: Path) -> None:
    missing, folder = daemon.maintd("validate", tmp_path / "no.yaml"), daemon.maintd("validate", tmp_path)

    assert "no.yaml: the file does not exist; create it, or correct the name" in missing.err
    assert f"{tmp_path}: is a folder; give the name of the file in it" in folder.err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--json", "status"), "write it after the command: maintd status --json"),
        (("--wait", "trigger", "greeting"), "write it after the command: maintd trigger --wait"),
        (("--json",), "write it after the command: maintd COMMAND --json"),
        (("--wait", "status"), "see: maintd --help"),
    ],
)
def test_an_option_of_a_command_before_it_is_explained(
    daemon: RunningDaemon, words: tuple[str, ...], hint: str
) -> None:
    typed = daemon.maintd(*words)

    assert typed.code == 2
    assert hint in (typed.json["error"]["hint"] if "--json" in words else typed.err)


def test_a_number_where_text_is_needed_is_to_be_quoted(daemon: RunningDaemon, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "timezone: UTC\ntargets: {postgres: {main: {dsn: x, password: 815}}}\n"
        "entries:\n  a: {title: A, steps: [{command: {argv: [x, --keep, 8, true]}}]}\n"
    )

    found = daemon.maintd("validate", path).err

    assert 'param "argv.2": should be text, but is a number; write it in quotes' in found
    assert 'param "argv.3": should be text, but is true; write it in quotes' in found
    assert "815" not in found


def posted(daemon: RunningDaemon, path: str, body: bytes, **headers: str) -> dict[str, str]:
    request = urllib.request.Request(f"{daemon.page}/api/v1{path}", body, headers, method="POST")
    with pytest.raises(HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    error: dict[str, str] = json.loads(refused.value.read())["error"]
    return error


def test_a_body_that_is_not_sent_as_json_is_named(daemon: RunningDaemon) -> None:
    token = daemon.maintd("token", "create", "--role", "operator", "poster", "--json").json["token"]
    headers = {"Authorization": f"Bearer {token}"}

    error = posted(daemon, "/runs", b'{"name": "greet"}', **headers)
    wrong = posted(daemon, "/runs", b'{"nam": 1}', **{**headers, "Content-Type": "application/json; charset=utf-8"})

    assert error["message"] == "the body is sent as application/x-www-form-urlencoded, not as JSON"
    assert error["hint"] == 'send the header "Content-Type: application/json"'
    assert wrong["hint"] == "see: /api/v1/openapi.json"


@pytest.mark.parametrize(
    ("path", "act"),
    [
        ("/entries/greeting/unpause", "to unpause, "),
        ("/entries/greeting/pause", "to pause, "),
        ("/freezes/end", "to end a freeze, "),
        ("/runs/1/undo", "to undo, "),
        ("/runs/1/gate/reject", "to reject, "),
    ],
)
def test_a_request_without_a_token_is_refused_by_what_it_asked_for(daemon: RunningDaemon, path: str, act: str) -> None:
    assert posted(daemon, path, b"{}", **{"Content-Type": "application/json"})["message"].startswith(act)


# --- words --------------------------------------------------------------------------------------------------------


def test_a_gate_that_waits_waits_for_some_time_and_is_called_by_its_name_once(daemon: RunningDaemon) -> None:
    number = str(daemon.maintd("trigger", "asks", "--json").json["id"])
    wait_for(lambda: daemon.maintd("show", number, "--json").json["state"] == "waiting", "it waits", every=0.3)

    shown = daemon.maintd("show", number).out

    assert "\n‖ gate: waiting for " in shown
    assert "  gate, at the start: " in daemon.maintd("validate").out


def test_a_start_in_utc_is_printed_once_and_the_end_of_a_token_like_other_times(daemon: RunningDaemon) -> None:
    planned = daemon.maintd("trigger", "greeting", "--at", "sat 01:00").err
    created = daemon.maintd("token", "create", "--role", "viewer", "reader").err
    listed = daemon.maintd("token", "list").out

    assert planned.count(" UTC") == 1
    end = created.partition("expires ")[2].partition(";")[0]
    assert end.endswith(" UTC") and end in listed


def test_during_a_drain_the_daemon_is_stopping_and_not_missing(tmp_path: Path) -> None:
    calendar = "timezone: UTC\nentries:\n  long: {title: Long, steps: [dawdle: {seconds: 120}]}\n"
    with maintd_daemon(tmp_path, calendar, MAINTD_DRAIN="90s") as own:
        number = str(own.maintd("trigger", "long", "--json").json["id"])
        wait_for(lambda: own.maintd("show", number, "--json").json["state"] == "running", "it runs", every=0.3)

        own.process.send_signal(signal.SIGTERM)
        wait_for(lambda: own.maintd("trigger", "long").code == 6, "it answers no more", every=0.3)
        trigger, status, second = own.maintd("trigger", "long"), own.maintd("status"), own.maintd("serve")
        alive = own.process.poll() is None
        own.process.kill()
        own.process.wait()
        killed = own.maintd("trigger", "long")

    assert alive
    stopping = f"the daemon (pid {own.process.pid}) on {own.socket} is stopping: it waits for what is running"
    assert trigger.err.startswith(f"{stopping}; start it again when it has ended: maintd serve")
    assert stopping in status.err
    assert f"another maintd (pid {own.process.pid}, which is stopping) uses the state directory" in second.err
    assert killed.err.startswith("no daemon answers on ")
