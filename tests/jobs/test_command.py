"""`command` with real programs: found or not, long or loud, well or badly ended."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError
from support.job_runs import JobResult, run_job

from maintd.clients import shell
from maintd.model.evidence import CheckStatus


def command(*argv: str, **params: Any) -> JobResult:
    return run_job("command", {"argv": list(argv), **params})


def python(code: str, **params: Any) -> JobResult:
    return command(sys.executable, "-c", textwrap.dedent(code), **params)


def test_a_program_that_ends_with_zero_succeeds_and_its_output_is_the_log() -> None:
    result = command("printf", r"%s\n", "one", "two words")

    assert result.outcome == "succeeded", result.text()
    assert result.logs == ["one", "two words"]
    assert result.check("exit code").observed == 0
    assert [(c.action, c.target, c.done) for c in result.changes] == [("run", "printf '%s\\n' one 'two words'", True)]


def test_no_shell_reads_the_arguments() -> None:
    result = command("echo", "$HOME; echo `id` > /tmp/no & *")

    assert result.logs == ["$HOME; echo `id` > /tmp/no & *"]


def test_a_shell_reads_the_text_when_asked() -> None:
    result = run_job("command", {"argv": "printf 'a\\nb\\n' | wc -l", "shell": True})

    assert [line.strip() for line in result.logs] == ["2"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"argv": "ls -l /"}, "set shell: true"),
        ({"argv": ["echo", "a"], "shell": True}, "one text for /bin/sh"),
        ({"argv": []}, "at least 1 item"),
        ({"argv": ["true"], "stdout_has": ["("]}, "not a regular expression"),
        ({"argv": ["true"], "numbers": {"n": {"pattern": r"\d+"}}}, "in parentheses"),
    ],
)
def test_params_that_cannot_mean_anything_are_refused(params: dict[str, Any], message: str) -> None:
    result = run_job("command", params)

    assert isinstance(result.error, ValidationError)
    assert message in str(result.error)


def test_another_exit_code_fails_and_the_last_words_are_in_the_hint() -> None:
    result = run_job("command", {"argv": "echo working; echo disk is full >&2; exit 3", "shell": True})

    check = result.check("exit code")
    assert (check.status, check.observed, check.expected) == (CheckStatus.FAIL, 3, "0")
    assert "disk is full" in check.hint
    assert result.logs == ["working", "stderr: disk is full"] or result.logs == ["stderr: disk is full", "working"]


def test_exit_codes_that_are_expected_succeed_and_those_that_warn_warn() -> None:
    fine = run_job("command", {"argv": "exit 3", "shell": True, "exit_codes": [0, 3]})
    doubtful = run_job("command", {"argv": "exit 1", "shell": True, "warn_exit_codes": [1]})

    assert (fine.outcome, doubtful.outcome) == ("succeeded", "warned")
    assert fine.check("exit code").expected == "one of 0, 3"


def test_a_signal_is_named() -> None:
    result = run_job("command", {"argv": "kill -SEGV $$", "shell": True})

    assert result.check("exit code").observed == "killed by SIGSEGV"
    assert result.outcome == "failed"


def test_a_program_that_is_not_there_is_named_with_the_path_that_was_searched() -> None:
    result = command("vacuumdbb", "--all")

    assert 'the program "vacuumdbb" is not in PATH (' in str(result.error)
    assert result.changes == []


def test_the_error_names_why_a_program_cannot_be_executed(tmp_path: Path) -> None:
    script = tmp_path / "clean.sh"
    script.write_text("echo hello\n")
    refused = str(command(str(script)).error)
    script.chmod(0o755)
    formless = str(command(str(script)).error)
    script.write_text("#!/no/such/shell\n")
    without = str(command(str(script)).error)
    missing = str(command(str(tmp_path / "none.sh")).error)
    folder = str(command(str(tmp_path)).error)

    assert "is not executable for user" in refused
    assert "start a script with #!/bin/sh" in formless
    assert "its interpreter is missing" in without
    assert "does not exist" in missing
    assert "is a folder" in folder


def test_a_working_directory_that_is_missing_is_an_error_of_its_own(tmp_path: Path) -> None:
    result = command("true", cwd=str(tmp_path / "gone"))

    assert str(result.error) == f'the working directory "{tmp_path}/gone" does not exist; create it or correct cwd'


def test_it_runs_in_the_working_directory_with_the_environment_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret\n")
    monkeypatch.setenv("REGION", "eu-1")
    monkeypatch.setenv("MAINTD_STORE_URL", "postgresql://maintd:pw@store/maintd")
    monkeypatch.setenv("MAINTD_TARGETS__POSTGRES", "{}")
    monkeypatch.setenv("MAINTD_ATTEMPT", "7")

    result = python(
        """
        import os
        print(os.getcwd(), os.environ["WHERE"], os.environ["TOKEN"], os.environ["MAINTD_RUN_ID"])
        print(sorted(name for name in os.environ if name.startswith("MAINTD_")))
        """,
        cwd=str(tmp_path),
        env={"WHERE": "in ${REGION}", "TOKEN": f"${{file:{secret}}}"},
    )

    assert result.logs == [
        f"{tmp_path} in eu-1 s3cret 1",
        "['MAINTD_ATTEMPT', 'MAINTD_ENTRY', 'MAINTD_RUN_ID']",
    ], result.text()


def test_a_relative_program_is_found_from_its_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "here.sh").write_text("#!/bin/sh\npwd\n")
    (folder / "here.sh").chmod(0o755)
    monkeypatch.chdir(tmp_path)

    result = command("./here.sh", cwd="scripts")

    assert result.logs == [str(folder)], result.text()


def test_an_argument_that_no_program_can_get_is_an_error() -> None:
    assert "null byte" in str(command("echo", "a\0b").error)


def test_it_reads_nothing_or_what_it_is_fed() -> None:
    assert command("cat").logs == []
    assert command("cat", stdin="a secret\n").logs == ["a secret"]


def test_a_dry_run_starts_nothing_and_logs_what_it_would(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    result = run_job("command", {"argv": ["touch", str(mark)]}, dry_run=True)

    assert not mark.exists()
    assert result.logs[0].startswith(f"would run: touch {mark} (found as /")
    assert [change.done for change in result.changes] == [False]


def test_a_dry_run_finds_what_is_missing() -> None:
    result = run_job("command", {"argv": ["no-such-program"]}, dry_run=True)

    assert result.outcome == "failed"


def test_output_is_seen_while_the_program_runs(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    seen: list[str] = []

    def receive(stream: shell.Stream, line: str) -> None:
        seen.append(line)
        if line == "ready":
            with gate.open("w") as fifo:  # the program goes on only now
                fifo.write("go\n")

    ended = shell.run(
        shell.Command([f"echo ready; read word < {gate}; echo $word"], shell=True), timedelta(seconds=20), receive
    )

    assert (seen, ended.exit_code) == (["ready", "go"], 0)


def test_one_that_takes_too_long_is_stopped_with_its_children() -> None:
    began = time.monotonic()

    result = run_job("command", {"argv": "sleep 300 & echo $!; sleep 301", "shell": True, "timeout": "500ms"})

    assert time.monotonic() - began < 60  # of 300
    check = result.check("duration")
    assert (check.status, check.expected) == (CheckStatus.FAIL, "at most 500ms")
    assert not psutil.pid_exists(int(result.logs[0]))


def test_one_that_ignores_terminate_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "GRACE_SECONDS", 0.3)

    result = python(
        """
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(os.getpid(), flush=True)
        time.sleep(300)
        """,
        timeout="1s",
    )

    assert result.check("duration").status is CheckStatus.FAIL
    assert not psutil.pid_exists(int(result.logs[0]))


@pytest.mark.parametrize("own", [{}, {"timeout": "1h"}])
def test_a_program_has_all_of_the_attempts_time(own: dict[str, str]) -> None:
    result = run_job("command", {"argv": ["sleep", "1.5"], **own}, timeout=timedelta(seconds=2))

    assert result.outcome == "succeeded", result.text()


def test_a_child_that_keeps_the_output_open_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "DRAIN_SECONDS", 0.2)

    result = run_job("command", {"argv": "sleep 60 & echo $!", "shell": True})

    psutil.Process(int(result.logs[0])).kill()
    assert result.outcome == "succeeded"
    assert "still holds its output" in result.logs[-1]


def test_a_flood_is_cut_to_its_head_and_its_end() -> None:
    result = python(
        "import sys\nfor n in range(400_000): sys.stdout.write(f'line {n} of a flood\\n')\nprint('rows=400000')",
        log_head="10kB",
        log_tail="2kB",
        numbers={"rows": {"pattern": r"rows=(\d+)"}},
    )

    assert sum(len(line) for line in result.logs) < 13_000
    assert (result.logs[0], result.logs[-1]) == ("line 0 of a flood", "rows=400000")
    assert any("lines omitted" in line for line in result.logs)
    assert result.measure("rows") == 400_000
    assert result.measure("command_output_bytes") > 8_000_000


def test_a_line_without_an_end_comes_in_pieces() -> None:
    before = psutil.Process().memory_info().rss

    result = command("head", "-c", "60000000", "/dev/zero", log_head="50kB", log_tail="20kB")

    assert result.outcome == "succeeded"
    assert max(len(line) for line in result.logs) <= shell.LINE_LIMIT
    assert psutil.Process().memory_info().rss - before < 40_000_000


def test_output_that_is_not_text_is_still_logged() -> None:
    result = command("printf", r"caf\351 \000 end\n")

    assert result.logs == ["caf� � end"]


def test_output_is_checked_for_patterns_it_must_and_must_not_have() -> None:
    result = run_job(
        "command",
        {
            "argv": "echo 3 files copied; echo 0 errors; echo deprecated >&2",
            "shell": True,
            "stdout_has": [r"^\d+ files copied$", "checksum"],
            "stdout_lacks": ["[1-9]\\d* errors"],
            "stderr_lacks": ["deprecated"],
        },
    )

    assert {(check.name, check.status) for check in result.named("has")} == {
        (r'stdout has "^\d+ files copied$"', CheckStatus.OK),
        ('stdout has "checksum"', CheckStatus.FAIL),
        ('stdout has "[1-9]\\d* errors"', CheckStatus.OK),
        ('stderr has "deprecated"', CheckStatus.FAIL),
    }


def test_a_number_in_the_output_becomes_a_measure_with_limits() -> None:
    result = run_job(
        "command",
        {
            "argv": "echo copied=5; echo copied=1,250; echo lag=much",
            "shell": True,
            "numbers": {
                "copied": {"pattern": r"copied=([\d,]+)", "unit": "row", "at_least": 2000},
                "lag": {"pattern": r"lag=(\w+)"},
                "absent": {"pattern": r"absent=(\d+)"},
            },
        },
    )

    assert result.measure("copied") == 1250  # the last line that has it
    assert result.check("copied").status is CheckStatus.FAIL
    assert result.check("lag").observed == 'unknown: "much" is not a number'
    assert result.check("absent").status is CheckStatus.UNKNOWN
