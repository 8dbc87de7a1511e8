"""The template comes and goes, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
from support.nodes import Node, node
from support.servers.base import wait_for

from maintd.executor.fork_server import USUAL_SPARES
from maintd.model.run import RunState


def below() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def with_spares(made: Node) -> int:
    """Make a run and wait until the template has all its spares; its pid."""
    assert made.make("ctx.check('x', 1, equals=1)").state is RunState.SUCCEEDED
    pid = made.executor._warm.pid
    assert pid is not None
    wait_for(lambda: len(psutil.Process(pid).children()) >= USUAL_SPARES, "spares")
    return pid


def test_a_template_that_is_let_go_leaves_no_zombie(tmp_path: Path) -> None:
    before = {process.pid for process in below()}
    with node(tmp_path) as made:
        with_spares(made)

        assert made.executor._warm.let_go()

        assert [process for process in below() if process.pid not in before] == []


def test_what_a_killed_template_leaves_is_reaped(tmp_path: Path) -> None:
    before = {process.pid for process in below()}
    with node(tmp_path) as made:
        first = with_spares(made)
        spares = {process.pid for process in psutil.Process(first).children()}

        os.kill(first, signal.SIGKILL)
        assert made.make("ctx.check('x', 1, equals=1)").state is RunState.SUCCEEDED

        wait_for(lambda: not spares & {process.pid for process in below()}, "the spares are reaped")
    assert [process for process in below() if process.pid not in before] == []
