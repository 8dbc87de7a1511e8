"""A run in the foreground, with a store and without one."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.nodes import Node

from maintd.errors import RefusedError, UsageError
from maintd.executor.foreground import run_here
from maintd.model.entry import Entry
from maintd.model.evidence import Check, LogLine
from maintd.model.run import Run, RunState
from maintd.model.run_updates import AttemptFinished
from maintd.model.target import Targets
from maintd.store import Store

Reports = list[tuple[str, int, Any]]


def run(made: Node, job: str, reports: Reports, store: Store | None = None, **arguments: Any) -> Run:
    entry = Entry(name=job, title=job, steps=(made.step(job),))
    given: dict[str, Any] = {"params": {}, "dry_run": False, "requested_by": "ada", "why": "by hand"} | arguments
    return run_here(
        entry,
        settings=made.settings,
        targets=Targets(),
        jobs=made.jobs,
        store=store,
        clock=made.clock,
        on_report=lambda step, attempt, item: reports.append((step, attempt, item)),
        **given,
    )


@pytest.fixture
def made(tmp_path: Path) -> Any:
    node = Node(tmp_path)
    yield node
    node.store.close()


def test_it_works_without_a_store_and_reports_all_as_it_happens(made: Node) -> None:
    reports: Reports = []
    job = made.job('ctx.check("there", params.number, equals=7)\nctx.log("seen")')

    ended = run(made, job, reports, params={"number": 7})

    assert (ended.id, ended.state, ended.requested_by) == (0, RunState.SUCCEEDED, "ada")
    assert [check.observed for check in ended.steps[0].attempts[0].checks] == [7]
    kinds = [type(item) for _, _, item in reports]
    assert {Check, LogLine, AttemptFinished} <= set(kinds)
    assert {step for step, _, _ in reports} == {job}


def test_with_a_store_it_is_in_the_history_like_any_other(made: Node) -> None:
    job = made.job('ctx.check("there", 1, equals=2)')

    ended = run(made, job, [], made.store)

    kept = made.run(ended.id)
    assert (kept.state, kept.reason) == (ended.state, ended.reason) == (RunState.FAILED, kept.reason)
    assert kept.node == "n1/here"
    assert kept.steps[0].attempts[0].checks == ended.steps[0].attempts[0].checks


def test_a_daemon_does_not_take_it_for_its_own(made: Node) -> None:
    job = made.job("time.sleep(0.3)")
    made.executor.start()

    ended = run(made, job, [], made.store)

    assert made.store.runs.claimed_by_earlier_process("n1", "2") == []
    assert ended.state is RunState.SUCCEEDED
    made.executor.stop(timedelta(0))


def test_a_second_run_of_the_entry_is_refused(made: Node) -> None:
    job = made.job("pass")
    run_id = made.queue(made.step(job), entry=job)
    now = made.store.now()
    made.store.runs.claim(run_id, "other", "x", now + timedelta(minutes=5), now)

    with pytest.raises(RefusedError, match="is under way"):
        run(made, job, [], made.store)


def test_a_param_that_is_none_is_a_usage_error(made: Node) -> None:
    with pytest.raises(UsageError, match='did you mean "number"'):
        run(made, made.job("pass"), [], params={"nunber": 7})


def test_ctrl_c_cancels_and_the_job_cleans_up(made: Node, tmp_path: Path) -> None:
    into = tmp_path / "cleaned"
    body = "try:\n    Path(params.text).touch()\n    time.sleep(60)\nfinally:\n    Path(params.into).touch()"
    job = made.job(body)

    def interrupt() -> None:
        while not (tmp_path / "on").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    ended = run(made, job, [], params={"text": str(tmp_path / "on"), "into": str(into)})

    assert (ended.state, ended.reason) == (RunState.CANCELLED, "cancelled by SIGINT at the terminal")
    assert into.exists()


def test_a_state_directory_that_cannot_be_written_does_not_stop_it(made: Node, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    job = made.job('ctx.save("report", "text")')
    made.settings = made.settings.model_copy(update={"state_dir": file / "below"})

    ended = run(made, job, [])

    assert ended.state is RunState.SUCCEEDED
