"""An attempt that holds a lock and whose claim no longer stands is not begun, whatever the daemon thinks by then."""

from __future__ import annotations

import pickle
import select
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.nodes import Node, node

from maintd.clock import since_boot
from maintd.executor.cancellation import CancelToken, LeaseDeadline
from maintd.executor.child_protocol import AttemptOrder
from maintd.executor.fork_client import Launched, Warm
from maintd.job.context import AttemptInfo
from maintd.model.run import RunState
from maintd.model.target import Targets

pytestmark = pytest.mark.slow


def order(made: Node, name: str, into: Path) -> AttemptOrder:
    standing = AttemptInfo(
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
    return AttemptOrder(made.jobs[name].path, {"into": str(into)}, standing, pickle.dumps(Targets()))


def said(launched: Launched) -> bytes:
    """What the template says in the end."""
    ready, _, _ = select.select([launched.socket], [], [], 20)
    assert ready, "the template says nothing"
    return launched.socket.recv(4096)


@pytest.mark.parametrize("own_template", [False, True])
def test_a_start_that_comes_too_late_forks_nothing(tmp_path: Path, own_template: bool) -> None:
    into = tmp_path / "ran"
    warm = Warm(tmp_path, timedelta(seconds=1))
    with node(tmp_path / "node") as made:
        name = made.job("open(params.into, 'w').close()")
        try:
            if own_template:
                warm.start({made.jobs[name].path: 1})
                deadline = time.monotonic() + 20
                while not warm.is_ready_for(made.jobs[name].path):
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            late = warm.launch(order(made, name, into), since_boot() - 0.001)
            assert b'"lapsed": true' in said(late)
            late.close()
            warm.finished(None)
            assert not into.exists()

            in_time = warm.launch(order(made, name, into), since_boot() + 30)
            assert b'"code": 0' in said(in_time)
            in_time.close()
            warm.finished(None)
            assert into.exists()
        finally:
            warm.stop()


def test_the_time_to_live_holds_from_the_fork_on_though_the_daemon_says_no_more(tmp_path: Path) -> None:
    warm = Warm(tmp_path, timedelta(seconds=1))
    with node(tmp_path / "node") as made:
        name = made.job("time.sleep(30)")
        try:
            began = since_boot()
            launched = warm.launch(order(made, name, tmp_path / "x"), began + 1.5)
            told = said(launched)  # nothing is sent meanwhile, as by a daemon that was paused right after it had asked
            assert b'"lapsed": true' in told and b'"signal": 9' in told
            assert 1.4 <= since_boot() - began < 5
            launched.close()
            warm.finished(None)
        finally:
            warm.stop()


def test_a_run_whose_claim_lapsed_before_its_step_began_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with node(tmp_path) as made:
        into = tmp_path / "ran"
        name = made.job("open(params.into, 'w').close()", 'timeout="1m", locks={"press": "exclusive"}')
        lapsed = LeaseDeadline(give_up_at=since_boot() + 60, until=since_boot() - 1)
        monkeypatch.setattr(CancelToken, "hold", property(lambda self: lapsed))

        run = made.ended(made.queue(made.step(name, {"into": str(into)})))

    assert run.state is RunState.FAILED
    assert "lease" in run.reason
    assert not into.exists()
