"""Commands without a daemon, and how broken stores, calendars and jobs are reported."""

from __future__ import annotations

import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from support.servers.base import wait_for
from support.servers.maintd import JOBS, CommandResult, Shell, clean_environ


@pytest.fixture
def here(shell: Shell) -> Shell:
    """A shell with the small jobs and a calendar of its own."""
    (shell.cwd / "schedules.yaml").write_text(
        "timezone: Europe/Berlin\nentries:\n"
        "  greeting: {title: Greet, schedule: every sunday at 02:30, steps: [greet]}\n"
    )
    return Shell(shell.cwd, {**shell.environ, "MAINTD_JOBS_PATH": str(JOBS)})


def store_of(shell: Shell) -> Path:
    return Path(shell.environ["MAINTD_STATE_DIR"]) / "maintd.db"


def test_status_without_daemon_and_store_reports_what_is_missing(here: Shell) -> None:
    typed = here.maintd("status")

    assert typed.code == 6
    assert "no daemon answers on" in typed.err
    assert "there is no store at" in typed.err
    assert typed.out == ""
    assert here.maintd("status", "--json").json["error"]["code"] == "no_daemon"
    assert here.maintd("status", "--quiet").code == 6


def test_a_command_does_not_look_for_garbage_among_its_modules(here: Shell) -> None:
    program = (
        "import gc; from maintd.__main__ import main; main()\n"
        "print(*(generation['collections'] for generation in gc.get_stats()))"
    )
    argv = [sys.executable, "-c", program, "history", "--json"]
    done = subprocess.run(argv, cwd=here.cwd, env=clean_environ(**here.environ), capture_output=True, text=True)

    young, middle, old = map(int, done.stdout.splitlines()[-1].split())

    # Before the command is known Python collects a few dozen times; with its own threshold it was 284, 25 and 2.
    assert (young < 100, middle < 10, old) == (True, True, 0)


def test_commands_that_need_a_daemon_exit_with_6_without_one(here: Shell) -> None:
    for words in (("trigger", "greeting"), ("cancel", "1"), ("reload",), ("pause", "greeting", "--why", "x")):
        typed = here.maintd(*words)
        assert typed.code == 6, words
        assert "start it with: maintd serve" in typed.err
    assert here.maintd("trigger", "greeting", "--json").json["error"]["code"] == "no_daemon"


def test_a_name_that_only_the_calendar_of_the_daemon_may_have_is_not_reported_as_unknown(here: Shell) -> None:
    elsewhere = here.cwd / "elsewhere"
    elsewhere.mkdir()
    without_calendar = Shell(elsewhere, here.environ)

    misspelt = here.maintd("trigger", "greetin")
    of_the_daemon = without_calendar.maintd("trigger", "greeting")
    unlike_all = here.maintd("trigger", "Vacuum.2")

    assert [typed.code for typed in (misspelt, of_the_daemon, unlike_all)] == [6, 6, 6]
    assert 'no entry or job named "greetin"; did you mean "greeting"?' in misspelt.err
    for typed in (misspelt, of_the_daemon, unlike_all):
        assert typed.err.startswith("no daemon answers on"), typed.err


@pytest.mark.parametrize("name", ["", "a b", "../x", ".hidden", "ä", "a\n"])
def test_a_name_that_no_calendar_can_have_is_unknown_without_a_daemon(here: Shell, name: str) -> None:
    typed = here.maintd("trigger", name)

    assert (typed.code, typed.err.startswith("no entry or job named")) == (3, True), typed.err


def test_the_health_check_times_out_on_a_daemon_that_hangs(here: Shell) -> None:
    path = here.cwd / "m.sock"
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        deaf.listen()

        typed = here.maintd("--socket", path, "status", "--quiet", seconds=5)

    assert typed.code == 6


def test_run_here_works_without_daemon_and_without_store(here: Shell) -> None:
    typed = here.maintd("run", "greet", "--here", "--no-store", "-p", "whom=ana")

    assert typed.code == 0, typed.err
    assert "✓ greetings: 1 (expected at least 1)" in typed.out
    assert "· greet ana (times 1)" in typed.out
    assert not store_of(here).exists()


def test_run_here_is_recorded_if_the_store_is_writable(here: Shell) -> None:
    run = here.maintd("run", "greeting", "--here", "--why", "on call", "--json")

    assert run.code == 0, run.err
    runs = here.maintd("history", "--json").json["runs"]
    assert [(item["id"], item["entry"], item["state"], item["why"]) for item in runs] == [
        (run.json["id"], "greeting", "succeeded", "on call")
    ]


def test_run_here_works_with_a_broken_store_and_a_broken_calendar(here: Shell) -> None:
    (here.cwd / "schedules.yaml").write_text("entries: [\n")

    typed = here.maintd("run", "greet", "--here", MAINTD_STORE_URL="postgresql://nobody@127.0.0.1:1/x")

    assert typed.code == 0, typed.err
    assert "schedules.yaml:" in typed.err
    assert "not recorded, because the store cannot be written" in typed.err


def test_run_here_exits_with_the_result_of_the_run(here: Shell) -> None:
    assert here.maintd("run", "stumble", "--here", "--no-store").code == 1
    assert here.maintd("run", "gret", "--here").code == 3
    assert here.maintd("run", "greet").code == 2
    assert here.maintd("run", "greet", "--here", "-p", "times=often").code == 2


def test_ctrl_c_cancels_a_run_in_the_foreground(here: Shell) -> None:
    log = here.cwd / "out"
    with log.open("w") as out:
        process = here.start("run", "dawdle", "--here", "--no-store", "-p", "seconds=30", out=out)
        wait_for(lambda: "part 1 of" in log.read_text(), "the job")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)

    assert process.returncode == 1
    assert "cancelled" in log.read_text()


# --- validate ---------------------------------------------------------------------------------------------------------


def validated(shell: Shell, text: str | bytes, *words: str) -> CommandResult:
    path = shell.cwd / "c.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return shell.maintd("validate", "c.yaml", *words)


def test_validate_prints_a_valid_calendar_in_english_with_its_next_due_times(here: Shell) -> None:
    typed = here.maintd("validate")

    assert typed.code == 0, typed.err
    assert "every Sunday at 02:30 (Europe/Berlin)" in typed.out
    assert " = Sun 20" in typed.out  # the same in UTC
    assert "no errors" in typed.err
    answer = here.maintd("validate", "--json").json
    assert answer["ok"] is True
    assert set(answer["entries"][0]) >= {"entry", "schedule", "next_due_at", "next_due_local", "jobs"}


CHANNELS = """timezone: UTC
notify:
  ping: "https://hc-ping.com/${PING_CANARY}/maintd"
  channels:
    mail: {url: "mailtos://maintd:hunter2hunter2@mail.example.com?to=ops@example.com"}
    chat: {url: "${CHAT_URL_THAT_IS_NOT_SET}"}
    pager: {webhook: "https://hooks.example.com/hunter2hunter2", secret: hunter2hunter2hunter2}
entries:
  a: {title: A, steps: [greet]}
"""


def test_validate_lists_channels_by_scheme_and_never_their_secrets(here: Shell) -> None:
    typed = validated(here, CHANNELS)
    answer = validated(here, CHANNELS, "--json")

    assert typed.code == 0, typed.err
    assert "mail: mailtos, by apprise\n" in typed.out
    assert "chat: the URL is a reference, by apprise; not parsed:" in typed.out
    assert "pager: webhook, https\n" in typed.out
    assert "maintd:ping: monitor, https" in typed.out
    assert "send a test with: maintd notify test mail" in typed.out
    kinds = {one["name"]: (one["kind"], one["scheme"]) for one in answer.json["channels"]}
    assert kinds == {
        "mail": ("apprise", "mailtos"),
        "chat": ("apprise", ""),
        "pager": ("webhook", "https"),
        "maintd:ping": ("ping", "https"),
    }
    for text in (typed.out, typed.err, answer.out, answer.err):
        assert "hunter2hunter2" not in text


def test_a_channel_that_apprise_cannot_parse_is_an_error_with_its_line(here: Shell) -> None:
    typed = validated(here, CHANNELS.replace("${CHAT_URL_THAT_IS_NOT_SET}", "slack://hunter2hunter2"))

    assert typed.code == 2
    assert 'c.yaml:6:5: channel "chat": apprise cannot parse the URL' in typed.err.replace("\n  ", " ")
    assert "chat: slack, by apprise; cannot be parsed" in typed.out
    assert "hunter2hunter2" not in typed.out + typed.err


def test_the_shipped_calendar_is_valid(shell: Shell) -> None:
    typed = shell.maintd("validate")

    assert typed.code == 0, typed.err
    assert "every day at 08:00" in typed.out


def test_every_error_is_reported_with_its_position(here: Shell) -> None:
    typed = validated(
        here,
        "timezone: Europe/Berlim\nentries:\n"
        "  a: {title: A, schedul: every sunday at 02:00, steps: [greet]}\n"
        "  b: {title: B, steps: [gret]}\n"
        "  c: {title: C, steps: [greet: {whome: x}]}\n"
        "  d: {title: D, steps: [greet: {times: often}]}\n",
    )

    assert typed.code == 2
    assert "c.yaml:1:" in typed.err
    assert 'did you mean "Europe/Berlin"?' in typed.err
    assert "c.yaml:3:" in typed.err
    assert 'did you mean "schedule"?' in typed.err
    assert "c.yaml:4:" in typed.err
    assert 'did you mean "greet"?' in typed.err
    assert "c.yaml:5:" in typed.err
    assert 'did you mean "whom"?' in typed.err
    assert "c.yaml:6:" in typed.err
    as_json = here.maintd("validate", "c.yaml", "--json")
    assert as_json.json["error"]["code"] == "calendar"
    assert len(as_json.json["problems"]) >= 5


LAUGHS = "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 8)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

NO_CALENDARS = {
    "empty": b"",
    "not UTF-8": b"\xff\xfe\x00",
    "tab": b"timezone: UTC\nentries:\n\ta: 1\n",
    "list": b"- a\n",
    "key twice": b"timezone: UTC\ntimezone: UTC\nentries: {}\n",
    "entry twice": b"timezone: UTC\nentries:\n  a: {title: A, steps: [greet]}\n  a: {title: B, steps: [greet]}\n",
    "50 MB": b"x" * 51_000_000,
    "never": b"timezone: UTC\nentries:\n  a: {title: A, schedule: {cron: '0 0 30 2 *'}, steps: [greet]}\n",
    "billion laughs": LAUGHS.encode(),
}


@pytest.mark.parametrize("text", NO_CALENDARS.values(), ids=NO_CALENDARS)
def test_a_file_that_is_not_a_calendar_is_rejected_by_name(here: Shell, text: bytes) -> None:
    path = here.cwd / "c.yaml"
    path.write_bytes(text)

    typed = here.maintd("validate", "c.yaml", seconds=120)  # 1 s on a quiet machine

    assert typed.code == 2
    assert "c.yaml" in typed.err
    assert "Traceback" not in typed.err


def test_a_missing_calendar_is_named(here: Shell) -> None:
    typed = here.maintd("validate", "missing.yaml")

    assert typed.code == 2
    assert "missing.yaml" in typed.err


def test_a_broken_job_module_is_reported_by_validate_and_by_jobs(here: Shell) -> None:
    (here.cwd / "jobs").mkdir()
    (here.cwd / "jobs/broken.py").write_text('"""Broken."""\ndef run(:\n')
    environ = {"MAINTD_JOBS_PATH": str(here.cwd / "jobs")}
    (here.cwd / "schedules.yaml").write_text("timezone: UTC\nentries: {a: {title: A, steps: [broken]}}\n")

    typed = here.maintd("validate", **environ)

    assert typed.code == 2
    assert "broken.py:2" in typed.err
    assert "broken" in here.maintd("jobs", **environ).out
    assert here.maintd("jobs", "show", "broken", **environ).code == 1


def test_a_missing_jobs_folder_is_named(here: Shell) -> None:
    typed = here.maintd("jobs", MAINTD_JOBS_PATH="/nowhere/jobs")

    assert typed.code == 1
    assert typed.err == "/nowhere/jobs is not a folder of job modules; correct MAINTD_JOBS_PATH\n"


# --- db ---------------------------------------------------------------------------------------------------------------


def test_the_store_is_created_checked_pruned_and_copied(here: Shell) -> None:
    made = here.maintd("db", "upgrade")
    here.maintd("run", "greet", "--here")
    checked = here.maintd("db", "check", "--json")
    pruned = here.maintd("db", "prune", "--json")
    copied = here.maintd("db", "backup", "copy.db", "--json")

    assert (made.code, store_of(here).exists()) == (0, True)
    assert (checked.json["ok"], checked.json["problems"]) == (True, [])
    assert pruned.json["runs"] == 0
    assert copied.json["backup"] == str(here.cwd / "copy.db")
    with sqlite3.connect(here.cwd / "copy.db") as copy:
        assert copy.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    copy.close()


def test_a_corrupt_store_is_reported_with_a_hint(here: Shell) -> None:
    here.maintd("db", "upgrade")
    store_of(here).write_bytes(b"no database at all" * 1000)

    for words in (("db", "check"), ("history",), ("serve",)):
        typed = here.maintd(*words)
        assert typed.code != 0
        assert "maintd.db" in typed.err
        assert "maintd db backup" in typed.err
        assert "Traceback" not in typed.err


def test_a_store_that_is_newer_than_the_code_is_refused(here: Shell) -> None:
    here.maintd("db", "upgrade")
    with sqlite3.connect(store_of(here)) as conn:
        conn.execute("UPDATE alembic_version SET version_num = '9999'")
    conn.close()

    for words in (("db", "upgrade"), ("history",), ("serve",)):
        typed = here.maintd(*words)
        assert typed.code != 0
        assert "9999" in typed.err


def test_a_store_that_cannot_be_opened_is_named_without_its_password(here: Shell) -> None:
    typed = here.maintd("--store-url", "postgresql://op:geheim@127.0.0.1:1/x", "db", "check")

    assert typed.code == 1
    assert "127.0.0.1" in typed.err
    assert "geheim" not in typed.err


def test_an_invalid_store_url_is_refused(here: Shell) -> None:
    typed = here.maintd("--store-url", "mysql://x/y", "db", "check")

    assert typed.code == 2
    assert "is not supported" in typed.err


def test_a_read_only_folder_is_named(here: Shell) -> None:
    typed = here.maintd("--state-dir", "/proc/nowhere", "serve")

    assert typed.code == 2
    assert "/proc/nowhere" in typed.err
