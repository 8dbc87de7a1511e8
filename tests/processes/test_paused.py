"""A daemon that is paused, or cut off from the store, past its lease: who held a lock is dead before others take it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from support.nodes import Node, node, only
from support.servers.base import wait_for
from support.servers.maintd import maintd_daemon
from support.servers.postgres import PostgresServer

from maintd.model.entry import Policy
from maintd.model.run import AttemptState, RunState

pytestmark = [pytest.mark.server, pytest.mark.slow]

LEASE = 3.0
BEATS = """
import json
with open(params.into, "a") as file:
    deadline = time.monotonic() + params.number
    while time.monotonic() < deadline:
        file.write(json.dumps([ctx.run_id, time.clock_gettime(time.CLOCK_BOOTTIME)]) + "\\n")
        file.flush()
        time.sleep(0.02)
ctx.check("worked", 1, equals=1)
"""
OTHER = """
import sys
from pathlib import Path
from support.nodes import Node
made = Node(Path(sys.argv[1]), sys.argv[2], incarnation="other", node="n2", lease="3s")
name = made.job(sys.argv[3], 'timeout="1m", locks={"thing": "exclusive"}', name="long")
made.executor.start()
run_id = made.queue(made.step(name, {"into": sys.argv[4], "number": 60}))
print(run_id, flush=True)
sys.stdin.read()
"""


@contextmanager
def other_daemon(folder: Path, url: str, into: Path) -> Iterator[tuple[psutil.Process, int]]:
    """A second process with an executor of its own, whose run holds the lock for a minute; that run's id."""
    argv = [sys.executable, "-c", OTHER, str(folder), url, BEATS, str(into)]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, text=True)
    try:
        assert process.stdout is not None
        yield psutil.Process(process.pid), int(process.stdout.readline())
    finally:
        below = psutil.Process(process.pid).children(recursive=True)
        for one in (psutil.Process(process.pid), *below):
            with suppress(psutil.NoSuchProcess):  # it ends with its parent
                one.kill()
        process.communicate()


class Two(NamedTuple):
    """This node, and another process on the same store whose run holds the lock."""

    made: Node
    daemon: psutil.Process
    first: int
    into: Path


@pytest.fixture
def two(own_postgres: PostgresServer, tmp_path: Path) -> Iterator[Two]:
    url, into = own_postgres.create("maintd"), tmp_path / "beats"
    with other_daemon(tmp_path / "there", url, into) as (daemon, first):
        wait_for(lambda: beats(into, first), "the first holder at work")  # before this node could take its run
        with node(tmp_path / "here", url, lease=f"{LEASE}s") as made:
            yield Two(made, daemon, first, into)


def beats(into: Path, run_id: int) -> list[float]:
    """When the run was at work, by the clock since boot."""
    if not into.exists():
        return []
    found = [json.loads(line) for line in into.read_text().splitlines()]
    return [at for run, at in found if run == run_id]


def takes_over(made: Node, into: Path, first: int) -> int:
    """A run on this node that waits for the lock until it has it; its id. Another node's silence is noticed here."""
    name = made.job(BEATS, 'timeout="1m", locks={"thing": "exclusive"}', name="short")
    second = made.queue(
        made.step(name, {"into": str(into), "number": 1}),
        entry="second",
        policy=Policy.model_validate({"lock_wait": "4m"}),
    )
    assert made.ended(second, 250).state is RunState.SUCCEEDED
    assert beats(into, first)
    return second


def test_a_daemon_alone_does_not_lose_what_outlived_its_pause(tmp_path: Path) -> None:
    """As a suspended machine, or one whose clock was set: no other node could have taken anything."""
    with maintd_daemon(tmp_path, MAINTD_LEASE="2s", MAINTD_HEARTBEAT="500ms") as daemon:
        assert daemon.maintd("trigger", "dawdle", "-p", "seconds=6").code == 0
        wait_for(lambda: "run_claimed" in daemon.log_text(), "it is claimed")
        daemon.process.send_signal(signal.SIGSTOP)
        threading.Event().wait(3)
        daemon.process.send_signal(signal.SIGCONT)

        wait_for(lambda: "run_ended" in daemon.log_text(), "it ends")

        assert daemon.maintd("show", "1", "--json").json["state"] == "succeeded"
        assert "run_lost" not in daemon.log_text()


def test_a_paused_daemons_lock_is_handed_on_only_after_its_holder_is_dead(two: Two) -> None:
    made, daemon, first, into = two
    daemon.send_signal(signal.SIGSTOP)
    paused_at = time.clock_gettime(time.CLOCK_BOOTTIME)

    second = takes_over(made, into, first)
    daemon.send_signal(signal.SIGCONT)

    assert max(beats(into, first)) < min(beats(into, second))
    assert max(beats(into, first)) - paused_at <= LEASE


def test_a_node_that_is_cut_off_from_the_store_stops_what_holds_a_lock(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    into = tmp_path / "beats"
    with node(tmp_path / "node", own_postgres.create("maintd"), lease=f"{LEASE}s", grace="200ms") as made:
        held = made.job(BEATS, 'timeout="1m", locks={"thing": "exclusive"}', name="held")
        free = made.job(BEATS, 'timeout="1m"', name="free")
        first = made.queue(made.step(held, {"into": str(into), "number": 40}))
        second = made.queue(made.step(free, {"into": str(into), "number": 5}))
        wait_for(lambda: beats(into, first) and beats(into, second), "both at work")

        own_postgres.stop("immediate")
        cut_at = time.clock_gettime(time.CLOCK_BOOTTIME)
        wait_for(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) - max(beats(into, first)) > 1, "the holder dead")
        own_postgres.start()

        stopped = made.ended(first)
        assert max(beats(into, first)) - cut_at < LEASE
        assert stopped.state is RunState.FAILED
        assert only(stopped).state is AttemptState.FAILED
        assert stopped.reason.startswith("stopped, since the lease of the run could not be renewed in time")
        assert made.ended(second).state is RunState.SUCCEEDED


BEATS_OF_A_MINUTE = 60 / 0.02


def frozen_tree(daemon: psutil.Process) -> list[psutil.Process]:
    """Stop a process and all below it, from the top, so that no process starts another; return them, in order."""
    daemon.send_signal(signal.SIGSTOP)
    frozen = [daemon]
    for process in daemon.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended by itself
            process.send_signal(signal.SIGSTOP)
            frozen.append(process)
    return frozen


def has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_daemon_that_is_thawed_with_all_its_processes_kills_what_outlived_its_lease(two: Two) -> None:
    """As by `docker pause`: until the thaw nothing of it works, and after it hardly anything."""
    made, daemon, first, into = two
    frozen = frozen_tree(daemon)

    second = takes_over(made, into, first)
    thawed_at = time.clock_gettime(time.CLOCK_BOOTTIME)
    for process in frozen:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
    wait_for(lambda: has_ended(frozen[-1]), "the holder dead")

    # Without its end, the holder works until a minute after its begin. It ends as soon as the thawed daemon looks.
    assert len([at for at in beats(into, first) if at >= thawed_at]) < BEATS_OF_A_MINUTE / 2
    assert [at for at in beats(into, first) if min(beats(into, second)) < at < thawed_at] == []
