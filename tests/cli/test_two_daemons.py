"""Two daemons as real processes on one Postgres: decisions at one gate at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from support.servers.base import wait_for
from support.servers.maintd import RunningDaemon, maintd_daemon
from support.servers.postgres import PostgresServer

from maintd.client import Client
from maintd.errors import RefusedError

CALENDAR = """
timezone: UTC
entries:
  maintenance:
    title: Planned maintenance
    steps: [{gate: {ask: Start now?}}, greet]
"""

AT_ONCE = 6
ROUNDS = 3


@pytest.fixture
def daemons(tmp_path: Path, postgres_server: PostgresServer) -> Iterator[list[RunningDaemon]]:
    url = postgres_server.create("two_daemons")
    with ExitStack() as stack:
        found = []
        for name in ("n1", "n2"):
            (tmp_path / name).mkdir()
            settings = {"MAINTD_STORE_URL": url, "MAINTD_NODE": name}
            found.append(stack.enter_context(maintd_daemon(tmp_path / name, CALENDAR, **settings)))
        yield found
    postgres_server.drop("two_daemons")


def decide(daemon: RunningDaemon, number: int, kind: str, together: Barrier) -> str:
    """Approve or reject when all are ready; `kind` if it was accepted, else empty."""
    client = Client(daemon.socket)
    together.wait(120)
    try:
        client.approve(number) if kind == "approved" else client.reject(number, why="no")
    except RefusedError as error:
        assert "does not wait at a gate" in error.message, error.message
        return ""
    return kind


def test_of_decisions_at_once_on_two_nodes_the_first_counts(daemons: list[RunningDaemon]) -> None:
    for others in ("approved", "approved", "rejected")[:ROUNDS]:
        number = daemons[0].maintd("trigger", "maintenance", "--json").json["id"]
        wait_for(lambda number=number: shown(daemons[1], number)["state"] == "waiting", "it waits")
        together = Barrier(AT_ONCE)
        kinds = ["approved", others] * (AT_ONCE // 2)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            nodes = [daemons[index // 2 % 2] for index in range(AT_ONCE)]
            accepted = list(pool.map(decide, nodes, [number] * AT_ONCE, kinds, [together] * AT_ONCE))

        won = [kind for kind in accepted if kind]
        assert len(won) == 1, accepted
        wait_for(lambda number=number: shown(daemons[0], number)["finished_at"], "it ends")
        run = shown(daemons[0], number)
        assert [decision["kind"] for decision in run["decisions"]] == won
        assert run["state"] == ("succeeded" if won == ["approved"] else "failed")
        assert len(run["steps"][1]["attempts"]) == (1 if won == ["approved"] else 0), "its step ran once"


def shown(daemon: RunningDaemon, number: int) -> dict[str, Any]:
    found: dict[str, Any] = daemon.maintd("show", str(number), "--json").json
    return found
