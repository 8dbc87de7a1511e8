"""Output that cannot be written, in any encoding, and text that would control the terminal."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.servers.maintd import JOBS, MAINTD, Shell, clean_environ, maintd_daemon

from maintd.terminal import clip_lines, for_terminal, quotable

CALENDAR = """
timezone: UTC
entries:
  two:
    title: Zwei Schritte – für Zoë ✓
    steps: [greet, greet: {whom: Zoë}]
"""

ASCII_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
starts_in_ascii = pytest.mark.skipif(
    not str(MAINTD).isascii(), reason="Python itself does not start in ASCII from a folder with such a name"
)
READS = [["status"], ["history"], ["show", "last"], ["status", "--json"], ["jobs"], ["settings"], ["next"], ["--help"]]


@pytest.fixture
def here(tmp_path: Path, remembered: Path) -> Shell:
    """A folder with a calendar of two steps, and no daemon."""
    (tmp_path / "schedules.yaml").write_text(CALENDAR)
    (tmp_path / "state").mkdir()
    shutil.copy(remembered, tmp_path / "state")
    environ = {
        "MAINTD_STATE_DIR": str(tmp_path / "state"),
        "MAINTD_CALENDAR": str(tmp_path / "schedules.yaml"),
        "MAINTD_JOBS_PATH": str(JOBS),
    }
    return Shell(tmp_path, environ)


def run_into(shell: Shell, redirection: str, words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `maintd WORDS REDIRECTION` in a POSIX shell; its exit code is that of maintd."""
    script = f'{{ "{MAINTD}" {words}; echo $? >code; }} {redirection}'
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=shell.cwd,
        env=clean_environ(**shell.environ, **more),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )
    done.returncode = int((shell.cwd / "code").read_text())
    return done


@pytest.mark.parametrize(
    ("redirection", "more"),
    [
        ("| head -1", {}),
        ("| true", {}),
        (">/dev/full", {}),
        (">/dev/full 2>&1", {}),
        (">&-", {}),
        (">&- 2>&-", {}),
        pytest.param("", ASCII_LOCALE, marks=starts_in_ascii),
        ("", {"PYTHONIOENCODING": "latin-1:strict"}),
    ],
)
@pytest.mark.parametrize("as_json", ["", "--json"])
def test_a_run_ends_as_it_would_whatever_becomes_of_its_output(
    here: Shell, redirection: str, more: dict[str, str], as_json: str
) -> None:
    done = run_into(here, redirection, f"run two --here {as_json}", **more)

    assert done.returncode == 0
    assert "Traceback" not in done.stdout + done.stderr
    run = here.maintd("show", "last", "--json").json
    assert (run["state"], [step["state"] for step in run["steps"]]) == ("succeeded", ["succeeded", "succeeded"])


def test_output_that_cannot_be_written_is_one_message(here: Shell, tmp_path: Path) -> None:
    assert here.maintd("run", "two", "--here").code == 0

    for words in (*READS, ["status", "nothing-of-this-name"]):
        done = run_into(here, ">/dev/full", " ".join(words))
        assert done.returncode != 0, words
        assert "Traceback" not in done.stderr, words
        assert "No space left on device" in done.stderr or done.returncode == 3, words


@starts_in_ascii
def test_commands_work_in_an_eight_bit_locale(here: Shell) -> None:
    assert here.maintd("run", "two", "--here", **ASCII_LOCALE).code == 0

    for words in READS:
        done = here.maintd(*words, **ASCII_LOCALE)
        assert "Traceback" not in done.err, words
        assert done.code in (0, 6), words


def test_an_argument_that_is_not_text_is_a_usage_error(here: Shell) -> None:
    done = subprocess.run(
        [os.fsencode(MAINTD), b"status", b"caf\xe9\xff"],
        cwd=here.cwd,
        env=clean_environ(**here.environ),
        capture_output=True,
    )

    assert done.returncode == 2
    assert b"not text in the encoding" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_daemon_goes_on_when_its_log_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "run").write_text(f'#!/bin/sh\nexec "{MAINTD}" serve 2>/dev/full\n')
    state = tmp_path / "state"
    environ = {"MAINTD_STATE_DIR": str(state), "MAINTD_JOBS_PATH": str(JOBS), "MAINTD_LISTEN": ""}
    (tmp_path / "schedules.yaml").write_text(CALENDAR)
    shell = Shell(tmp_path, environ)
    process = subprocess.Popen(["sh", str(tmp_path / "run")], cwd=tmp_path, env=clean_environ(**environ))
    try:
        for _ in range(200):
            if shell.maintd("status", "--quiet").code == 0:
                break
        assert shell.maintd("trigger", "two", "--wait").code == 0
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(30)


def test_a_daemons_status_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    with maintd_daemon(tmp_path, CALENDAR) as daemon:
        full = run_into(daemon, ">/dev/full", "status")
        piped = run_into(daemon, "| true", "trigger two --wait")
        closed = run_into(daemon, ">/dev/full", "trigger two --wait")

    assert (full.returncode, full.stderr) == (1, "cannot write the output: No space left on device\n")
    assert (piped.returncode, piped.stderr) == (0, "")
    assert (closed.returncode, "Traceback" in closed.stderr) == (0, False)


HOSTILE = ["\x1b[2J\x1b[31mred", "two\nlines", "bell\a", "\x9b31m", "\u202egnp.exe", "\x1b]0;title\a", "x" * 4_000_000]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:12]))
def test_no_message_controls_the_terminal_or_fills_it(here: Shell, text: str) -> None:
    (here.cwd / "bad.yaml").write_text(f"timezone: UTC\n? {text[:1_000_000]!r}\n: 1\nentries: {{}}\n".replace("'", '"'))
    typed = [here.maintd("validate", "bad.yaml")]
    if len(text) < 1000:
        typed += [here.maintd("status", text), here.maintd("jobs", "show", text), here.maintd("trigger", text)]
        typed += [here.maintd("settings", MAINTD_NODE=text, MAINTD_SOCKET="/tmp/s"), here.maintd(text)]

    for done in typed:
        shown = done.out + done.err
        assert not set(shown) & set("\x1b\x07\x9b\u202e"), ascii(shown[:300])
        assert len(shown) < 20_000
        assert "two\nlines" not in shown


def test_colours_of_maintd_stay_and_other_sequences_go() -> None:
    assert for_terminal("\x1b[31mred\x1b[0m \x1b[2J\x1b[5m\ttab\n", colour=True) == "\x1b[31mred\x1b[0m �[2J�[5m\ttab\n"
    assert for_terminal("\x1b[31mred") == "�[31mred"
    assert clip_lines("a" * 10 + "\nb", 4) == "aaaa… (6 more characters)\nb"
    assert quotable("a\n\x1b" + "b" * 200) == "a\\n\\x1b" + "b" * 117 + "…"
