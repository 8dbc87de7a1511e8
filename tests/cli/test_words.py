"""Arguments: unknown words, params, times; and the shortcut for a plain status."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.servers.maintd import Shell

from maintd.__main__ import _plain_status
from maintd.cli import arguments
from maintd.cli.control_socket import default_state_dir_text
from maintd.config.settings import Settings, default_state_dir
from maintd.errors import UsageError
from maintd.units import utc_text

NOW = datetime(2026, 11, 24, 11, 30, tzinfo=UTC)


def test_without_a_command_the_help_is_shown(shell: Shell) -> None:
    typed = shell.maintd()

    assert typed.code == 2
    assert "Exit codes:" in typed.err


def test_an_unknown_command_is_reported_with_a_similar_one(shell: Shell) -> None:
    typed = shell.maintd("stauts")

    assert (typed.code, typed.err) == (2, 'no command "stauts"; did you mean "status"?\n')


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["status", "--jsn"], 'no such option "--jsn"; did you mean "--json"?'),
        (["findings", "--are", "x"], 'no such option "--are"; did you mean "--all" or "--area"?'),
        (["notify", "tst"], 'no such command "tst"; did you mean "test"?'),
        (["--confg", "x", "status"], 'no such option "--confg"; did you mean "--config"?'),
        (["settings", "--foo"], "no such option '--foo'; see: maintd settings --help"),
    ],
)
def test_an_unknown_option_is_reported_with_one_suggestion(shell: Shell, words: list[str], message: str) -> None:
    typed = shell.maintd(*words)

    assert (typed.code, typed.err) == (2, f"{message}\n")


def test_a_missing_argument_is_reported_with_the_help_command(shell: Shell) -> None:
    typed = shell.maintd("trigger")

    assert (typed.code, typed.err) == (2, "missing argument 'NAME'; see: maintd trigger --help\n")


def test_a_global_option_after_the_command_is_reported_with_its_place(shell: Shell) -> None:
    typed = shell.maintd("history", "--state-dir", "x")

    hint = "write it before the command: maintd --state-dir … COMMAND"
    assert (typed.code, typed.err) == (2, f"no such option '--state-dir'; {hint}\n")


def test_a_usage_error_is_an_error_object_with_json(shell: Shell) -> None:
    typed = shell.maintd("next", "--days", "0", "--json")

    assert typed.code == 2
    assert typed.json["error"]["code"] == "usage"
    assert typed.err == ""


def test_every_command_has_help_that_fits_a_terminal(shell: Shell) -> None:
    from maintd.cli.main import COMMANDS, cli

    context = cli.make_context("maintd", ["version"])
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        text = command.get_help(command.make_context(name, ["--help"], parent=context, resilient_parsing=True))
        assert max(map(len, text.splitlines())) <= 80, name


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(shell: Shell, name: str) -> None:
    typed = shell.maintd("completion", name)

    assert typed.code == 0
    assert "_MAINTD_COMPLETE" in typed.out


def test_completion_without_a_daemon_lists_jobs(shell: Shell) -> None:
    typed = shell.maintd(COMP_WORDS="maintd trigger vac", COMP_CWORD="2", _MAINTD_COMPLETE="bash_complete")

    assert "plain,vacuum" in typed.out.split()


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("30m", "2026-11-24T12:00:00Z"),
        ("in 2h", "2026-11-24T13:30:00Z"),
        ("+1d", "2026-11-25T11:30:00Z"),
        ("2026-12-06T02:00Z", "2026-12-06T02:00:00Z"),
        ("2026-12-06T02:00+01:00", "2026-12-06T01:00:00Z"),
    ],
)
def test_future_times_are_parsed(text: str, at: str) -> None:
    assert utc_text(arguments.future_time(text, NOW)) == at


@pytest.mark.parametrize("text", ["2026-12-06T02:00", "tomorrow", "", "2026-12-06"])
def test_an_invalid_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="write for example"):
        arguments.future_time(text, NOW)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("7d", "2026-11-17T11:30:00Z"),
        ("2h ago", "2026-11-24T09:30:00Z"),
        ("2026-11-01", "2026-11-01T00:00:00Z"),
        ("2026-11-01T02:00+02:00", "2026-11-01T00:00:00Z"),
    ],
)
def test_past_times_are_parsed(text: str, at: str) -> None:
    assert utc_text(arguments.past_time(text, NOW)) == at


def test_params_stay_text_unless_they_are_json_or_repeated() -> None:
    given = [
        "keep=30d",
        "n=5",
        "on=true",
        'argv=["true", "a=b"]',
        "table=a",
        "table=b",
        "empty=",
        'text="[x"',
        "no=null",
    ]

    assert arguments.params(given) == {
        "keep": "30d",
        "n": "5",
        "on": "true",
        "argv": ["true", "a=b"],
        "table": ["a", "b"],
        "empty": "",
        "text": "[x",
        "no": None,
    }


@pytest.mark.parametrize("pair", ["keep", "=3", "argv=[x"])
def test_an_invalid_param_is_refused(pair: str) -> None:
    with pytest.raises(UsageError):
        arguments.params([pair])


# --- the shortcut -----------------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and an environment without anything of ours."""
    for name in [name for name in os.environ if name.upper().startswith(("MAINTD_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_shortcut_finds_the_socket_of_the_settings(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def both(*words: str, **flags: str) -> tuple[object, object]:
        found = _plain_status([*words, "status"])
        assert found is not None
        place, quiet = found
        return (place.scheme, place.path, quiet), ("unix", str(Settings(**flags).socket_path), False)  # type: ignore[arg-type]

    for mine, theirs in (
        both(),
        both("--socket", "/run/a.sock", socket="/run/a.sock"),
        both("--state-dir", "/srv/m", state_dir="/srv/m"),
    ):
        assert mine == theirs
    monkeypatch.setenv("MAINTD_STATE_DIR", "/srv/n")
    mine, theirs = both()
    assert mine == theirs
    monkeypatch.setenv("MAINTD_SOCKET", "/run/b.sock")
    mine, theirs = both("--state-dir", "/srv/m", state_dir="/srv/m")
    assert mine == theirs


@pytest.mark.parametrize("user", [0, 1000])
def test_the_shortcut_has_the_same_default_state_directory(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, user: int
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert default_state_dir_text() == str(default_state_dir())
    monkeypatch.setenv("XDG_STATE_HOME", "/srv/state")
    assert default_state_dir_text() == str(default_state_dir())


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["status", "NAME"],
        ["status", "--json"],
        ["status", "--help"],
        ["--config", "x", "status"],
        ["history"],
        ["--calendar", "x", "status"],
    ],
)
def test_the_shortcut_is_for_plain_status_only(nowhere: Path, words: list[str]) -> None:
    assert _plain_status(words) is None


@pytest.mark.parametrize(
    "name", ["MAINTD_CONFIG", "MAINTD_SOCKET_FILE", "maintd_socket", "_MAINTD_COMPLETE", "maintd_state_dir"]
)
def test_the_shortcut_is_not_taken_if_settings_must_be_read(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "x")

    assert _plain_status(["status"]) is None


def test_the_shortcut_is_not_taken_for_a_dotenv_with_our_settings(nowhere: Path) -> None:
    state = nowhere / "state"
    state.mkdir()
    words = ["--state-dir", str(state), "status", "--quiet"]
    (nowhere / ".env").write_text("MAINTD_SOCKET=x\n")  # the working directory does not count
    (state / ".env").write_text("COMPOSE_PROJECT_NAME=x\n")
    assert _plain_status(words) is not None
    (state / ".env").write_text("MAINTD_SOCKET=x\n")
    assert _plain_status(words) is None


def test_python_dash_m_is_the_same_command(shell: Shell) -> None:
    import subprocess

    done = subprocess.run([sys.executable, "-m", "maintd", "--version"], capture_output=True, text=True, check=True)

    assert done.stdout == shell.maintd("--version").out


@pytest.mark.parametrize("words", [("jobs", "show", "vacuum"), ("jobs", "--json"), ("stätus",)])
def test_characters_that_the_terminal_lacks_are_replaced(shell: Shell, words: tuple[str, ...]) -> None:
    typed = shell.maintd(*words, PYTHONIOENCODING="ascii", PYTHONUTF8="0")

    assert "Traceback" not in typed.err
    assert typed.code == (2 if words == ("stätus",) else 0)
