"""An entry that another one names in `on_failure` runs once after a failure, and both runs show it."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.servers.base import wait_for
from support.servers.maintd import RunningDaemon, maintd_daemon

pytestmark = pytest.mark.slow

CALENDAR = """
timezone: UTC
entries:
  stumbling:
    on_failure: {run: greeting}
    steps: [stumble]
  fine:
    on_failure: {run: greeting}
    steps: [greet]
  greeting:
    on_failure: {run: stumbling}
    steps: [greet]
"""


def runs_of(daemon: RunningDaemon, entry: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.maintd("history", entry, "--json").json["runs"]
    return found


def test_a_failure_triggers_the_named_entry_once_and_a_success_does_not(tmp_path: Path) -> None:
    heartbeat = {"MAINTD_HEARTBEAT": "2m", "MAINTD_LEASE": "12m"}  # so long is it between two sweeps
    with maintd_daemon(tmp_path, CALENDAR, **heartbeat) as daemon:
        assert daemon.maintd("trigger", "fine", "--wait").code == 0
        failed = daemon.maintd("trigger", "stumbling", "--wait", "--json").json

        followed = wait_for(lambda: runs_of(daemon, "greeting"), "the other entry runs")
        assert [run["trigger"] for run in followed] == ["on_failure"]
        begun = wait_for(lambda: runs_of(daemon, "greeting")[0]["started_at"], "it begins", seconds=120)
        waited = datetime.fromisoformat(begun) - datetime.fromisoformat(followed[0]["queued_at"])
        assert waited < timedelta(minutes=1), "it does not wait for a sweep"
        shown = daemon.maintd("show", str(followed[0]["id"])).out
        assert f"the failure of run {failed['id']} triggered it" in shown
        assert f"its failure triggered run {followed[0]['id']}" in daemon.maintd("show", str(failed["id"])).out

        daemon.maintd("trigger", "fine", "--wait")  # reviewed after the failure
        assert len(runs_of(daemon, "greeting")) == 1
