"""A maintenance window by a real daemon, its shipped jobs and real servers, over midnight and killed daemons."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.halting import TradingService, trading_service
from support.servers.base import free_port, wait_for
from support.servers.maintd import RunningDaemon, maintd_daemon
from support.servers.prometheus import WebServer, alertmanager
from support.servers.redis import RedisServer

from maintd.checks.alerts.flow import LABEL
from maintd.clients.alertmanager import connect
from maintd.model.target import AlertmanagerTarget

pytestmark = [pytest.mark.slow, pytest.mark.server]


@dataclass
class Site:
    """A service, an Alertmanager that routes test alerts to a port, and a folder for the daemon."""

    folder: Path
    service: TradingService
    server: WebServer
    port: int

    def calendar(self) -> str:
        """The procedure of docs/procedures.md with short times and the targets that are here."""
        unhalt = {"verified_by": ["stability_check"], "unchanged_before": ["gate"], "pause": "9s"}
        unsilence = {"listen": f"127.0.0.1:{self.port}", "grace": "0s"}
        folders = {name: {"path": str(self.folder / name)} for name in ("backup_sets", "rollback")}
        for folder in folders.values():
            Path(folder["path"]).mkdir()
        targets = self.service.targets() | {"alertmanager": {"main": {"url": self.server.url}}, "folders": folders}
        steps = [
            {
                "job": "alerts_silence",
                "params": {"matchers": ['service="orders"'], "grace": "0s"},
                "undo": {"job": "alerts_unsilence", "params": unsilence},
            },
            {"job": "service_halt", "undo": {"job": "service_unhalt", "params": unhalt}},
            {"backup": {"postgres": [], "min_free": "1MB"}},
            {"rollback_manifest": {"postgres": [], "docker": []}},
            {"gate": {"checklist": [{"item": "The backup is good", "proof": {"step": "backup"}}]}},
            {"command": {"argv": ["/bin/sh", "-c", f"while [ -e {self.folder}/busy ]; do sleep 0.1; done"]}},
            {
                "stability_check": {
                    "lasts": "1s",
                    "every": "1s",
                    "requests": None,
                    "health": {"include": ["redis"], "redis": {}},
                }
            },
        ]
        window = {
            "on_failure": "undo",
            "hold_locks": True,
            "steps": steps,
            "always": [
                {"job": "service_unhalt", "params": unhalt, "when": "succeeded"},
                {"job": "alerts_unsilence", "params": unsilence},
            ],
        }
        watch = {"every": "2s", "steps": [{"window_watch": {"grace": "0s"}}]}
        entries = {"planned-maintenance": window, "window-watch": watch}
        return yaml.safe_dump({"timezone": "UTC", "targets": targets, "entries": entries}, sort_keys=False)

    @property
    def silences(self) -> int:
        found = connect(AlertmanagerTarget(url=self.server.url)).silences()
        return sum(silence.state == "active" for silence in found)


@pytest.fixture
def site(tmp_path: Path, redis_server: RedisServer) -> Iterator[Site]:
    port = free_port()
    config = f"""
route:
  receiver: other
  routes:
    - {{matchers: ['{LABEL}=~".+"'], receiver: maintd, group_by: [{LABEL}], group_wait: 1s}}
receivers:
  - name: other
  - name: maintd
    webhook_configs: [{{url: "http://127.0.0.1:{port}/", send_resolved: false}}]
"""
    with trading_service(redis_server) as service, alertmanager(config) as server:
        yield Site(tmp_path, service, server, port)


@contextmanager
def daemon_of(site: Site, calendar: str) -> Iterator[RunningDaemon]:
    with maintd_daemon(site.folder, calendar) as running:
        yield running


def shown(daemon: RunningDaemon, run_id: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.maintd("show", str(run_id), "--json").out)
    return found


def in_state(daemon: RunningDaemon, run_id: int, *states: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        run = shown(daemon, run_id)
        assert run["state"] in (*states, "queued", "running"), run["reason"]
        return run if run["state"] in states else None

    return wait_for(found, f"run {run_id} is {' or '.join(states)}", every=0.5)


def start(daemon: RunningDaemon) -> int:
    result = daemon.maintd("trigger", "planned-maintenance", "--why", "a test", "--json")
    assert result.code == 0, result.err
    found: int = result.json["id"]
    return found


def kill(daemon: RunningDaemon) -> None:
    os.kill(daemon.process.pid, signal.SIGKILL)
    daemon.process.wait()


def halted_again(site: Site) -> None:
    site.service.pass_midnight()
    wait_for(lambda: site.service.halted, "the watch halts it again")


def test_a_window_holds_over_midnight_and_a_killed_daemon_and_ends_verified(site: Site) -> None:
    calendar = site.calendar()
    with daemon_of(site, calendar) as daemon:
        run_id = start(daemon)
        in_state(daemon, run_id, "waiting")
        assert (site.service.halted, site.silences) == (True, 1)
        halted_again(site)
        kill(daemon)
    site.service.pass_midnight()
    with daemon_of(site, calendar) as daemon:
        wait_for(lambda: site.service.halted, "the watch of the next daemon halts it again")
        assert site.silences == 1

        assert daemon.maintd("approve", str(run_id)).code == 0

        run = in_state(daemon, run_id, "succeeded", "warned", "unknown", "failed")
        assert run["state"] in ("succeeded", "warned"), daemon.maintd("show", str(run_id)).out
        assert (site.service.halted, site.silences) == (False, 0)
        assert len(list((site.folder / "backup_sets").glob("set-*"))) == 1
        assert check(run, "main: alerts flow")["status"] == "ok", "the test alert has arrived"
        requests = list(site.service.requests)
        wait_for(lambda: finished_watches(daemon) >= 2, "the watch ran after it", every=0.5)
        assert site.service.requests == requests, "what has ended is not halted again"


def check(run: dict[str, Any], name: str) -> dict[str, Any]:
    """The last check of this name in a run."""
    attempts = [attempt for step in run["steps"] for attempt in step["attempts"]]
    found: dict[str, Any] = [one for attempt in attempts for one in attempt["checks"] if one["name"] == name][-1]
    return found


def finished_watches(daemon: RunningDaemon) -> int:
    return len(json.loads(daemon.maintd("history", "window-watch", "--json").out)["runs"])


def test_a_daemon_that_is_killed_in_the_work_leaves_the_service_halted_and_no_silence(site: Site) -> None:
    calendar = site.calendar()
    (site.folder / "busy").touch()
    with daemon_of(site, calendar) as daemon:
        run_id = start(daemon)
        in_state(daemon, run_id, "waiting")
        assert daemon.maintd("approve", str(run_id)).code == 0
        wait_for(lambda: steps(daemon, run_id)["command"] == "running", "the work has begun", every=0.5)
        kill(daemon)
    with daemon_of(site, calendar) as daemon:
        in_state(daemon, run_id, "lost")
        wait_for(lambda: site.silences == 0, "its silence is ended")
        halted_again(site)

        undone = daemon.maintd("undo", str(run_id), "--why", "we stop here", "--json")

        assert undone.code == 0, undone.err
        run = in_state(daemon, undone.json["id"], "failed", "unknown", "succeeded", "warned")
        assert (run["state"], site.service.halted, site.silences) == ("failed", True, 0)
        assert "stays halted" in run["reason"]


def steps(daemon: RunningDaemon, run_id: int) -> dict[str, str]:
    return {step["name"]: step["state"] for step in shown(daemon, run_id)["steps"]}
