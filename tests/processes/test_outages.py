"""The store goes away, the daemon is killed, the node shuts down: nothing is lost, nothing runs twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from support.nodes import Node, is_alive, node, only, read_pids
from support.servers.base import wait_for
from support.servers.disks import small_disk
from support.servers.postgres import PostgresServer

from maintd.executor.journal import replay
from maintd.executor.process_tree import kill_orphans
from maintd.executor.spool import Spool
from maintd.model.entry import Policy
from maintd.model.run import RunState
from maintd.model.run_updates import RunFinished, StepStarted

OUTAGE = float(os.environ.get("MAINTD_TEST_OUTAGE", "4"))
"""Seconds that the store is away; 40 for the long form."""

COUNTING = """
with open(params.into, "a") as file:
    file.write("started ")
for n in range(params.number):
    ctx.measure("n", n)
    print("line", n)
    time.sleep(0.02)
ctx.check("all", params.number, equals=params.number)
"""


def assert_all_is_there(made: Node, run_id: int, count: int, into: Path) -> None:
    run = made.ended(run_id, 30 + OUTAGE)
    assert (run.state, run.reason) == (RunState.SUCCEEDED, "")
    assert [measure.value for measure in only(run).measures] == [float(n) for n in range(count)]
    assert made.log(run_id) == [f"line {n}" for n in range(count)]
    assert into.read_text() == "started "


@pytest.mark.server
@pytest.mark.parametrize("when", ["back before it ends", "back after it ended"])
def test_a_stopped_postgres_costs_no_evidence(own_postgres: PostgresServer, tmp_path: Path, when: str) -> None:
    into = tmp_path / "starts"
    count = int(OUTAGE / 0.02) + 50 if when == "back before it ends" else 60
    with node(tmp_path / "node", own_postgres.create("maintd")) as made:
        step = made.step(made.job(COUNTING), {"into": str(into), "number": count})
        run_id = made.queue(step)
        made.running(run_id)

        own_postgres.stop("immediate")
        threading.Event().wait(OUTAGE)
        spooled = list(made.settings.spool_dir.iterdir())
        own_postgres.start()

        assert_all_is_there(made, run_id, count, into)
        assert len(spooled) == 1
        wait_for(lambda: not list(made.settings.spool_dir.iterdir()), "the spool is gone")


@pytest.fixture(name="small_disk")
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "6m") as folder:
        yield folder


def fill(ballast: Path) -> None:
    """Fill the disk with this file, to the last block."""
    with ballast.open("wb") as file:
        try:
            while True:
                os.write(file.fileno(), b"x" * 4096)
        except OSError:
            pass


@pytest.mark.parametrize("spool", ["elsewhere", "on the same disk"])
def test_a_full_disk_costs_no_evidence(small_disk: Path, tmp_path: Path, spool: str) -> None:
    into = tmp_path / "starts"
    state = small_disk if spool == "on the same disk" else tmp_path
    with node(tmp_path, f"sqlite:///{small_disk}/maintd.db", state_dir=state / "state") as made:
        step = made.step(made.job(COUNTING), {"into": str(into), "number": 150})
        run_id = made.queue(step)
        made.running(run_id)

        ballast = small_disk / "ballast"
        fill(ballast)
        wait_for(lambda: not made.executor.running, "the attempt ended", 20)
        is_recorded = made.run(run_id).state.final
        ballast.unlink()

        assert not is_recorded
        assert_all_is_there(made, run_id, 150, into)


CHANGING = """
while not Path(params.text).exists():
    time.sleep(0.02)
with ctx.change("halt", "x"):
    Path(params.into).touch()
"""


def test_a_change_of_a_procedure_that_cannot_be_recorded_is_not_made(small_disk: Path, tmp_path: Path) -> None:
    made_it, full = tmp_path / "made", tmp_path / "full"
    with node(tmp_path, f"sqlite:///{small_disk}/maintd.db", state_dir=small_disk / "state") as made:
        step = made.step(made.job(CHANGING), {"into": str(made_it), "text": str(full)}, timeout="5s")
        run_id = made.queue(step, policy=Policy(hold_locks=True))
        made.running(run_id)
        fill(small_disk / "ballast")
        full.touch()
        wait_for(lambda: not made.executor.running, "the attempt ended", 60)
        (small_disk / "ballast").unlink()

        run = made.ended(run_id)

    assert (run.state, made_it.exists()) == (RunState.TIMED_OUT, False), run.reason


DAEMON = """
import sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}]
from support.nodes import Node
made = Node(Path({folder!r}), incarnation="first")
made.start()
name = made.job({body!r}, name="long")
run_id = made.queue(made.step(name, {{"into": {into!r}}}))
print(run_id, flush=True)
time.sleep(300)
"""


@contextmanager
def daemon_process(code: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs this, killed at the end whatever happens."""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_nothing_outlives_a_killed_daemon_and_its_run_is_lost(tmp_path: Path) -> None:
    from processes.test_endings import GRANDCHILDREN

    into = tmp_path / "pids"
    body = GRANDCHILDREN + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(60)"
    code = DAEMON.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path / "node"), body=body, into=str(into))
    with daemon_process(code) as daemon:
        assert daemon.stdout is not None
        run_id = int(next(line for line in daemon.stdout if line.strip().isdigit()))
        pids = read_pids(into, 4)
        store_sees = Node(tmp_path / "node", incarnation="second")
        store_sees.running(run_id)

        os.kill(daemon.pid, signal.SIGKILL)
        wait_for(lambda: not [pid for pid in pids if is_alive(pid)], "all are gone", 10)

    lost = store_sees.store.runs.claimed_by_earlier_process("n1", "second")
    assert [run.id for run in lost] == [run_id]
    wait_for(lambda: kill_orphans(store_sees.settings.state_dir) == [], "nothing carries the mark")
    store_sees.store.close()


def test_nothing_outlives_a_daemon_that_is_killed_with_its_template(tmp_path: Path) -> None:
    into = tmp_path / "pids"
    body = """
    plain = subprocess.Popen(["sleep", "300"])
    away = subprocess.Popen(["setsid", "sleep", "301"])
    Path(params.into).write_text(f"{plain.pid} {away.pid} {os.getpid()} {os.getppid()}")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True: pass
    """
    code = DAEMON.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path / "node"), body=body, into=str(into))
    with daemon_process(code) as daemon:
        plain, away, child, template = read_pids(into, 4)

        os.kill(daemon.pid, signal.SIGSTOP)
        os.kill(template, signal.SIGKILL)
        os.kill(daemon.pid, signal.SIGKILL)
        # By the kernel, through the lifeline, though the child never looks.
        wait_for(lambda: not is_alive(child) and not is_alive(plain), "the group is gone")
        killed = kill_orphans(tmp_path / "node" / "state")

    assert away in killed
    assert not is_alive(away)


def test_what_a_dead_daemon_spooled_is_brought_in_once(tmp_path: Path) -> None:
    made = Node(tmp_path)
    run_id = made.queue(made.step(made.job("pass")))
    now = made.store.now()
    claimed = made.store.runs.claim(run_id, "n1", "dead", now + timedelta(minutes=5), now)
    assert claimed is not None
    spool = Spool(made.settings.spool_dir, run_id, claimed.fence)
    spool.append(1, [StepStarted(step=0, at=now), RunFinished(state=RunState.FAILED, at=now, reason="the true reason")])

    while_it_lives = replay(made.settings.spool_dir, made.store)
    spool.leave()
    with spool.path.open("ab") as file:
        file.write(b'{"seq":3,"wri')  # it died while it wrote
    counts = [replay(made.settings.spool_dir, made.store) for _ in range(2)]

    assert (while_it_lives, counts) == (0, [1, 0])
    assert made.run(run_id).reason == "the true reason"
    made.store.close()


def test_a_spool_whose_claim_is_over_is_set_aside(tmp_path: Path) -> None:
    made = Node(tmp_path)
    run_id = made.queue(made.step(made.job("pass")))
    spool = Spool(made.settings.spool_dir, run_id, 7)
    spool.append(1, [StepStarted(step=0, at=made.store.now())])
    spool.leave()

    assert replay(made.settings.spool_dir, made.store) == 0
    assert [path.name for path in made.settings.spool_dir.iterdir()] == [f"{run_id}-7.refused"]
    made.store.close()


def test_a_drain_lets_runs_end_and_claims_no_more(tmp_path: Path) -> None:
    made = Node(tmp_path, slots=1)
    made.start()
    under_way = made.queue(made.step(made.job("time.sleep(0.5)")))
    made.running(under_way)
    waiting = made.queue(made.step(made.job("pass")))

    made.executor.stop(timedelta(seconds=20))

    assert made.run(under_way).state is RunState.SUCCEEDED
    assert made.run(waiting).state is RunState.QUEUED
    made.store.close()


def test_what_does_not_end_within_the_drain_is_cancelled_by_the_shutdown(tmp_path: Path) -> None:
    made = Node(tmp_path)
    made.start()
    run_id = made.queue(made.step(made.job("time.sleep(60)")))
    made.running(run_id)
    began = time.monotonic()

    made.executor.stop(timedelta(seconds=0.2))

    run = made.run(run_id)
    assert (run.state, run.reason) == (RunState.CANCELLED, "cancelled by shutdown of node n1")
    assert time.monotonic() - began < 30  # of 60
    made.store.close()


def test_a_run_that_waits_for_its_first_lock_goes_back_into_the_queue(tmp_path: Path) -> None:
    made = Node(tmp_path)
    made.start()
    holder = made.queue(made.step(made.job("time.sleep(60)"), locks={"postgres": "exclusive"}))
    made.running(holder)
    waiting = made.queue(made.step(made.job("pass"), locks={"postgres": "shared"}))
    wait_for(lambda: made.run(waiting).steps[0].reason, "it waits")

    made.executor.stop(timedelta(seconds=0.2))

    run = made.run(waiting)
    assert (run.state, run.reason) == (RunState.QUEUED, "node n1 is shutting down")
    assert run.steps[0].state.value == "pending"
    made.store.close()


def test_the_template_comes_before_what_is_due_and_goes_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maintd.executor.executor.TEMPLATE_IDLE_SECONDS", 0.2)
    with node(tmp_path, warm_before="2s") as made:
        assert (made.executor.template_ready, made.executor.template_pid) == (False, None)

        made.executor.expect(made.store.now() + timedelta(seconds=1))
        wait_for(lambda: made.executor.template_ready, "it is warm")
        template = made.executor.template_pid
        made.executor.expect(made.store.now() + timedelta(hours=1))

        wait_for(lambda: made.executor.template_pid is None, "it is let go")
        assert template is not None
        wait_for(lambda: not is_alive(template), "it is gone")


def test_every_run_of_two_nodes_on_one_store_is_made_once(tmp_path: Path) -> None:
    into = tmp_path / "starts"
    body = 'with open(params.into, "a") as file:\n    file.write(f"{ctx.run_id}\\n")'
    url = f"sqlite:///{tmp_path}/shared.db"
    with node(tmp_path / "a", url, node="a") as one, node(tmp_path / "b", url, node="b") as other:
        name = one.job(body, name="counted")
        other.job(body, name="counted")
        ids = [one.queue(one.step(name, {"into": str(into)})) for _ in range(40)]
        other.executor.wake()
        runs = [one.ended(run_id, 30) for run_id in ids]

    assert sorted(map(int, into.read_text().split())) == ids
    assert {run.state for run in runs} == {RunState.SUCCEEDED}
