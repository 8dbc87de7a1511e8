"""An attempt that holds a lock does not start, and does not live on, after the lease of its run has ended."""

from __future__ import annotations

import pickle
import select
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.nodes import Node, node

from maintd.clock import since_boot
from maintd.executor.cancellation import CancelToken, LeaseDeadline
from maintd.executor.child_protocol import AttemptRequest
from maintd.executor.fork_client import ForkClient, Launched, Preload
from maintd.executor.fork_protocol import decode
from maintd.job.attempt_info import AttemptInfo
from maintd.model.run import RunState
from maintd.model.target import Targets

pytestmark = pytest.mark.slow


def order(made: Node, name: str, into: Path) -> AttemptRequest:
    info = AttemptInfo(
        run_id=1,
        entry=name,
        step=name,
        attempt=1,
        due_at=None,
        deadline_at=datetime.now(UTC) + timedelta(minutes=1),
        dry_run=False,
        artifacts_dir=made.folder / "artifacts",
        work_dir=made.folder / "work",
    )
    return AttemptRequest(str(made.jobs[name].path), {"into": str(into)}, info, pickle.dumps(Targets()), False)


def end_of(launched: Launched) -> dict[str, Any]:
    """How the template reports that the attempt ended."""
    ready, _, _ = select.select([launched.socket], [], [], 20)
    assert ready, "the template reports nothing"
    return decode(launched.socket.recv(4096))


@pytest.mark.parametrize("preloaded", [False, True])
def test_a_start_after_the_end_of_the_lease_forks_nothing(tmp_path: Path, preloaded: bool) -> None:
    into = tmp_path / "ran"
    with node(tmp_path / "node") as made:
        name = made.job("open(params.into, 'w').close()")
        jobs = frozenset({made.jobs[name].path} if preloaded else ())
        client = ForkClient(tmp_path, timedelta(seconds=1), lambda: Preload(jobs=jobs))
        try:
            late = client.launch(order(made, name, into), since_boot() - 0.001)
            assert end_of(late)["lapsed"]
            late.close()
            client.finished(None)
            assert not into.exists()

            in_time = client.launch(order(made, name, into), since_boot() + 30)
            assert end_of(in_time)["code"] == 0
            in_time.close()
            client.finished(None)
            assert into.exists()
        finally:
            client.stop()


def test_the_template_kills_at_the_end_of_the_lease_without_a_request_of_the_daemon(tmp_path: Path) -> None:
    client = ForkClient(tmp_path, timedelta(seconds=1))
    with node(tmp_path / "node") as made:
        brief, name = made.job("pass"), made.job("time.sleep(30)")
        try:
            # Starting the template may take longer than the lease below.
            ready = client.launch(order(made, brief, tmp_path / "x"), since_boot() + 60)
            assert end_of(ready)["code"] == 0
            ready.close()
            began = since_boot()
            launched = client.launch(order(made, name, tmp_path / "x"), began + 3)
            end = end_of(launched)  # nothing is sent in the meantime, as by a daemon that was paused after its request
            assert (end["lapsed"], end["signal"]) == (True, 9)
            assert since_boot() - began >= 2.9
            launched.close()
            client.finished(None)
        finally:
            client.stop()


def test_a_run_whose_lease_ended_before_its_step_started_reports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with node(tmp_path) as made:
        into = tmp_path / "ran"
        name = made.job("open(params.into, 'w').close()", 'timeout="1m", locks={"press": "exclusive"}')
        lapsed = LeaseDeadline(stop_at=since_boot() + 60, kill_at=since_boot() - 1)
        monkeypatch.setattr(CancelToken, "lease", property(lambda self: lapsed))

        run = made.ended(made.queue(made.step(name, {"into": str(into)})))

    assert run.state is RunState.FAILED
    assert "lease" in run.reason
    assert not into.exists()
