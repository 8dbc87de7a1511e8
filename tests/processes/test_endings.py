"""However an attempt ends, its run ends as a row with the true reason."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest
from support.job_runs import JOBS
from support.nodes import Node, is_alive, only, read_pids
from support.servers.base import wait_for

from maintd.job.description import load_job
from maintd.model.entry import Policy
from maintd.model.evidence import ChangeState, CheckStatus
from maintd.model.run import AttemptState, RunState


def test_a_job_that_returns_and_meets_its_checks_succeeds(here: Node) -> None:
    run = here.make('ctx.check("rows", 3, at_least=1)\nctx.measure("rows", 3)\nctx.log("counted")\nprint("printed")')

    attempt = only(run)
    assert (run.state, run.reason, attempt.exit_code) == (RunState.SUCCEEDED, "", 0)
    assert [check.status for check in attempt.checks] == [CheckStatus.OK]
    assert [measure.value for measure in attempt.measures] == [3]
    assert sorted(here.log(run.id)) == ["counted", "printed"]


def test_a_failed_check_fails_the_run_in_its_own_words(here: Node) -> None:
    run = here.make('ctx.check("rows", 0, at_least=1, hint="look at the import")')

    assert run.state is RunState.FAILED
    assert run.reason == 'check "rows": observed 0, expected at least 1; look at the import'


def test_what_could_not_be_observed_is_unknown_and_named(here: Node) -> None:
    run = here.make('ctx.unknown("replication lag", "timed out")')

    assert (run.state, run.reason) == (
        RunState.UNKNOWN,
        "1 check not observed: replication lag",
    )


@pytest.mark.parametrize(
    ("body", "complete"),
    [
        ('ctx.check("rows", 3, at_least=1)', True),
        ('ctx.check("rows", 0, at_least=1)', True),
        ('ctx.unknown("rows", "timed out")', True),
        ('ctx.require("rows", 0, at_least=1)\nctx.check("columns", 1, at_least=1)', False),
        ('ctx.check("rows", 3, at_least=1)\nprint(1 / 0)', False),
        ('ctx.check("rows", 3, at_least=1)\nimport os\nos._exit(0)', False),
    ],
)
def test_the_evidence_of_an_attempt_is_complete_when_its_job_returned(here: Node, body: str, complete: bool) -> None:
    run = here.make(body)

    assert only(run).complete is complete


def test_the_evidence_of_an_attempt_that_was_stopped_is_not_complete(here: Node) -> None:
    run = here.make('ctx.check("rows", 3, at_least=1)\ntime.sleep(60)', traits='timeout="300ms"')

    assert (run.state, only(run).complete) == (RunState.TIMED_OUT, False)


def test_an_exception_is_reported_with_the_line_that_raised_it(here: Node) -> None:
    run = here.make('with ctx.phase("divide"):\n    print(1 / 0)')

    assert run.state is RunState.FAILED
    assert "ZeroDivisionError: division by zero (job_" in run.reason
    assert any("print(1 / 0)" in line for line in here.log(run.id))


def test_a_job_with_a_syntax_error_fails_with_its_line(here: Node) -> None:
    name = here.job("pass")
    here.jobs[name].path.write_text('"""Broken."""\ndef run(:\n', encoding="utf-8")

    run = here.ended(here.queue(here.step(name)))

    assert (run.state, "py:2: " in run.reason) == (RunState.FAILED, True)


def test_an_edited_job_is_live_at_its_next_run(here: Node) -> None:
    name = here.job('ctx.log("before")')
    here.ended(here.queue(here.step(name)))
    here.job('ctx.log("after the edit")', name=name)

    run = here.ended(here.queue(here.step(name)))

    assert here.log(run.id) == ["after the edit"]


def test_an_attempt_that_takes_too_long_is_stopped_in_its_phase(here: Node) -> None:
    run = here.make('with ctx.phase("read backup.tar"):\n    time.sleep(60)', traits='timeout="300ms"')

    assert run.state is RunState.TIMED_OUT
    assert run.reason == 'stopped after its 300ms timeout in phase "read backup.tar"'


@pytest.mark.parametrize("own", [{}, {"timeout": "1h"}])
def test_a_command_that_takes_too_long_has_timed_out_and_its_last_output_is_kept(
    here: Node, own: dict[str, str]
) -> None:
    here.jobs["command"] = load_job(JOBS / "command.py").description
    text = "for n in 1 2 3 4 5 6 7 8 9; do echo line $n; done; sleep 60"
    params = {"argv": text, "shell": True, "log_head": "6B", **own}

    run = here.ended(here.queue(here.step("command", params), policy=Policy(timeout=timedelta(seconds=8))))

    assert (run.state, run.reason.partition(" in phase")[0]) == (
        RunState.TIMED_OUT,
        "stopped after the run's 8s timeout",
    )
    assert [change.state for change in only(run).changes] == [ChangeState.UNCERTAIN]
    # The supervisor logs what it had to kill, if the shell ended before its `sleep`.
    printed = [line for line in here.log(run.id) if not line.startswith("killed what it left running")]
    assert printed[-1] == "line 9"


def test_the_timeout_of_the_run_is_named_as_such(here: Node) -> None:
    step = here.step(here.job("time.sleep(60)"))

    run = here.ended(here.queue(step, policy=Policy(timeout=timedelta(milliseconds=300))))

    assert (run.state, run.reason) == (RunState.TIMED_OUT, "stopped after the run's 300ms timeout")


def test_a_cancelled_job_cleans_up_and_names_who_cancelled_it(here: Node, tmp_path: Path) -> None:
    into = tmp_path / "cleaned"
    name = here.job("try:\n    time.sleep(60)\nfinally:\n    Path(params.into).touch()")
    run_id = here.queue(here.step(name, {"into": str(into)}))
    here.running(run_id)

    here.cancel(run_id)
    run = here.ended(run_id)

    assert (run.state, run.reason) == (RunState.CANCELLED, "cancelled by ada: wrong database")
    assert into.exists()


def test_a_job_that_ignores_sigterm_is_killed_after_the_grace(here: Node) -> None:
    run = here.make(
        'signal.signal(signal.SIGTERM, signal.SIG_IGN)\nctx.log("deaf")\nwhile True:\n    time.sleep(60)',
        traits='timeout="5s"',  # time enough, on a busy machine, to become deaf
    )

    assert run.state is RunState.TIMED_OUT
    assert "it did not end on SIGTERM and was killed 500ms later" in run.reason
    assert only(run).signal == signal.SIGKILL


GRANDCHILDREN = """
plain = subprocess.Popen(["sleep", "300"])
session = subprocess.Popen(["setsid", "sleep", "301"])
script = "import os,time\\nif os.fork(): os._exit(0)\\nos.setsid()\\nif os.fork(): os._exit(0)\\n"
script += "open(%r,'a').write(str(os.getpid())+' ')\\ntime.sleep(302)" % params.into
subprocess.run(["env", "-i", sys.executable, "-c", script], check=True)
with open(params.into, "a") as file:
    file.write(f"{plain.pid} {session.pid} {os.getpid()} ")
while len(Path(params.into).read_text().split()) < 4:
    time.sleep(0.01)
"""


@pytest.mark.parametrize(
    "ending",
    ["return", "time.sleep(60)", "os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)", "ctypes.string_at(0)"],
)
def test_nothing_that_an_attempt_started_outlives_it(here: Node, tmp_path: Path, ending: str) -> None:
    into = tmp_path / "pids"
    timeout = "4s" if "sleep" in ending else "25s"
    name = here.job(GRANDCHILDREN + ending, f'timeout="{timeout}"')

    run = here.ended(here.queue(here.step(name, {"into": str(into)})), 30)
    pids = read_pids(into, 4)

    assert len(set(pids)) == 4
    assert [pid for pid in pids if is_alive(pid)] == [], run.reason


def test_what_was_left_running_is_named_in_the_log(here: Node) -> None:
    run = here.make('subprocess.Popen(["setsid", "sleep", "300"])\ntime.sleep(0.2)')

    assert run.state is RunState.SUCCEEDED
    assert here.log(run.id) == ["killed what it left running: sleep"]


@pytest.mark.parametrize(
    ("body", "reason", "code", "number"),
    [
        ("os._exit(3)", "the process ended with exit code 3 before the job returned", 3, None),
        ("os._exit(0)", "the process ended with exit code 0 before the job returned", 0, None),
        ("ctypes.string_at(0)", "killed by signal 11 (SIGSEGV): a crash in native code", None, 11),
        ("os.kill(os.getpid(), 9)", "killed by signal 9 (SIGKILL), which maintd did not send", None, 9),
        ("os.abort()", "killed by signal 6 (SIGABRT)", None, 6),
        ("sys.exit(4)", "the job called sys.exit(4)", 1, None),
        ("os.kill(os.getpid(), 15)\ntime.sleep(9)", "stopped by SIGTERM", 1, None),
    ],
)
def test_the_reason_states_how_a_process_ended_by_itself(
    here: Node, body: str, reason: str, code: int | None, number: int | None
) -> None:
    run = here.make(f'with ctx.phase("on the way"):\n    {body.replace(chr(10), chr(10) + "    ")}')

    assert run.state is RunState.FAILED
    assert reason in run.reason
    assert (only(run).exit_code, only(run).signal) == (code, number)


def test_a_job_that_runs_out_of_memory_fails_with_that_reason(here: Node) -> None:
    run = here.make(
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_AS, (400_000_000, 400_000_000))\n"
        "held = []\nwhile True:\n    held.append(bytearray(20_000_000))"
    )

    assert run.state is RunState.FAILED
    assert "MemoryError" in run.reason


def test_a_child_that_is_killed_from_outside_fails_its_run_only(here: Node) -> None:
    victim = here.queue(here.step(here.job("time.sleep(60)")))
    pid = here.running(victim).pid
    assert pid is not None

    os.kill(pid, signal.SIGKILL)
    run = here.ended(victim)

    assert (run.state, only(run).state) == (RunState.FAILED, AttemptState.FAILED)
    assert here.make("pass").state is RunState.SUCCEEDED


def test_a_template_that_is_killed_costs_no_run(here: Node, tmp_path: Path) -> None:
    go = tmp_path / "go"
    body = 'while not Path(params.into).exists():\n    time.sleep(0.01)\nctx.check("went on", 1, equals=1)'
    under_way = here.queue(here.step(here.job(body), {"into": str(go)}))
    here.running(under_way)
    template = here.executor.template_pid
    assert template is not None

    os.kill(template, signal.SIGKILL)
    after = here.make('ctx.check("new template", 1, equals=1)')
    go.touch()
    run = here.ended(under_way)

    assert (after.state, run.state) == (RunState.SUCCEEDED, RunState.SUCCEEDED)
    assert only(run).exit_code == 0
    assert here.executor.template_pid != template


def test_a_child_whose_template_is_gone_is_still_stopped_with_all_it_started(here: Node, tmp_path: Path) -> None:
    into = tmp_path / "pids"
    body = GRANDCHILDREN + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(60)"
    run_id = here.queue(here.step(here.job(body), {"into": str(into)}))
    pids = read_pids(into, 4)
    template = here.executor.template_pid
    assert template is not None

    os.kill(template, signal.SIGKILL)
    here.cancel(run_id)
    run = here.ended(run_id)

    assert (run.state, only(run).signal) == (RunState.CANCELLED, signal.SIGKILL)
    wait_for(lambda: not [pid for pid in pids if is_alive(pid)], "all are gone")


def test_a_template_that_hangs_is_replaced(here: Node) -> None:
    run_id = here.queue(here.step(here.job("time.sleep(60)", 'timeout="3s"')))
    here.running(run_id)
    template = here.executor.template_pid
    assert template is not None

    os.kill(template, signal.SIGSTOP)
    began = time.monotonic()
    run = here.ended(run_id, 30)

    assert run.state is RunState.TIMED_OUT
    assert time.monotonic() - began < 20
    assert here.make("pass").state is RunState.SUCCEEDED
