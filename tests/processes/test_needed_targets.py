"""Steps whose job needs one of several kinds of target."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.nodes import Node

from maintd.executor.foreground import run_here
from maintd.model.entry import Entry
from maintd.model.run import Run, RunState, StepState
from maintd.model.target import Targets

REDIS = {"redis": {"main": {"url": "redis://127.0.0.1:1"}}}
HTTP = {"http": {"web": {"url": "http://127.0.0.1:1"}}}
POSTGRES = {"postgres": {"main": {"dsn": "postgresql://127.0.0.1:1/x"}}}


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.store.close()


def run(made: Node, needs: str, targets: dict[str, Any]) -> Run:
    job = made.job('ctx.check("ran", 1, equals=1)', f"needs=({needs})")
    return run_here(
        Entry(name=job, title=job, steps=(made.step(job),)),
        settings=made.settings,
        targets=Targets.model_validate(targets),
        jobs=made.jobs,
        store=None,
        clock=made.clock,
        on_report=lambda step, attempt, item: None,
        params={},
        dry_run=False,
        requested_by="ada",
        why="",
    )


@pytest.mark.parametrize("targets", [REDIS, HTTP, REDIS | HTTP])
def test_a_step_that_needs_one_or_another_target_runs_with_either(made: Node, targets: dict[str, Any]) -> None:
    ended = run(made, '"redis or http",', targets)

    assert (ended.state, ended.steps[0].state) == (RunState.SUCCEEDED, StepState.SUCCEEDED), ended.reason


@pytest.mark.parametrize("targets", [{}, POSTGRES])
def test_a_step_without_any_of_them_is_skipped_and_names_each_setting(made: Node, targets: dict[str, Any]) -> None:
    ended = run(made, '"redis or http or docker",', targets)

    assert ended.steps[0].state is StepState.SKIPPED
    assert ended.state is RunState.SKIPPED
    assert "targets.redis or targets.http or targets.docker" in ended.steps[0].reason


@pytest.mark.parametrize("targets", [REDIS | HTTP, POSTGRES])
def test_each_of_several_needs_must_be_met(made: Node, targets: dict[str, Any]) -> None:
    ended = run(made, '"redis or http", "postgres"', targets)

    assert ended.steps[0].state is StepState.SKIPPED, ended.reason


def test_one_target_for_each_need_is_enough(made: Node) -> None:
    ended = run(made, '"redis or http", "postgres"', HTTP | POSTGRES)

    assert ended.state is RunState.SUCCEEDED, ended.reason
