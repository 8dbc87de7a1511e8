"""The template starts and ends with the work, and leaves no process behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
from support.nodes import node
from support.servers.base import wait_for

from maintd.model.run import RunState


def below() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def test_a_template_that_is_stopped_leaves_no_zombie(tmp_path: Path) -> None:
    before = below()
    with node(tmp_path) as made:
        assert made.make("ctx.check('x', 1, equals=1)").state is RunState.SUCCEEDED
        assert below() > before

    assert below() <= before


def test_what_a_killed_template_leaves_is_reaped(tmp_path: Path) -> None:
    before = below()
    with node(tmp_path) as made:
        body = "Path(params.into).write_text(str(os.getpid()))\ntime.sleep(1)\nctx.check('x', 1, equals=1)"
        run_id = made.queue(made.step(made.job(body), {"into": str(tmp_path / "pid")}))
        child = made.running(run_id).pid
        first = made.executor.template_pid
        assert first is not None

        os.kill(first, signal.SIGKILL)
        assert made.make("ctx.check('x', 1, equals=1)").state is RunState.SUCCEEDED
        assert made.ended(run_id).state is RunState.SUCCEEDED

        wait_for(lambda: not {child, first} & below(), "the child and the template are reaped")
    assert below() <= before


def test_what_a_template_imports_is_not_in_the_list_of_processes(tmp_path: Path) -> None:
    """`systemctl status` shows the arguments of each process."""
    body = "Path(params.into).write_text(sys.stdin.read() + '|')\nctx.check('x', 1, equals=1)"
    with node(tmp_path) as made:
        assert made.make(body, {"into": str(tmp_path / "seen")}).state is RunState.SUCCEEDED
        assert made.executor.template_pid is not None

        words = psutil.Process(made.executor.template_pid).cmdline()

    assert len(" ".join(words)) < 200, words
    assert (tmp_path / "seen").read_text() == "|", "the standard input of an attempt is empty"
