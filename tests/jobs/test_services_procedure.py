"""A procedure that replaces containers, by a real daemon on a real engine: its undo, and a kill in the middle."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.compose_project import GOOD, NEWER, Project
from support.servers.base import wait_for
from support.servers.maintd import RunningDaemon, maintd_daemon

from maintd.checks.rollback import manifest

pytestmark = [pytest.mark.server, pytest.mark.engine]


def calendar(project: Project, folder: Path, within: str, *, alone: bool = False) -> str:
    """A procedure that replaces a container, and then needs a file that is not there; `alone`: without other steps."""
    gate = {"every": "50ms", "settle": "0s", "within": within}
    scope: dict[str, Any] = {"gate": gate, "only_running": ["web"]}
    health = {"include": ["docker"]}
    steps = [
        {"stability_check": {"baseline": True}},
        {"rollback_manifest": {}},
        {
            "job": "services_recreate",
            "params": {**scope, "images": {"web": NEWER}},
            "undo": {"job": "services_recreate", "params": {**scope, "back": True}},
        },
        {"stability_check": {"lasts": "100ms", "every": "50ms", "requests": None, "health": health}},
        {"command": {"argv": ["test", "-e", str(folder / "no-such-file")]}},
    ]
    upgrade = {"title": "Upgrade", "on_failure": "undo", "after_crash": "undo", "steps": steps[2:3] if alone else steps}
    targets = project.targets(folders={"rollback": {"path": str(folder / "manifests")}})
    return str(yaml.safe_dump({"timezone": "UTC", "targets": targets, "entries": {"upgrade": upgrade}}))


def run_of(daemon: RunningDaemon, number: int) -> dict[str, Any]:
    found: dict[str, Any] = daemon.maintd("show", str(number), "--json").json
    return found


def test_a_step_that_fails_later_restores_the_containers_of_the_run(project: Project, tmp_path: Path) -> None:
    project.start("web")
    (tmp_path / "manifests").mkdir()
    with maintd_daemon(tmp_path, calendar(project, tmp_path, "2m")) as daemon:
        number = daemon.maintd("trigger", "upgrade", "--why", "1.2", "--json").json["id"]
        wait_for(lambda: run_of(daemon, number)["state"] in ("failed", "lost", "unknown"), "the run ends", seconds=300)
        found = run_of(daemon, number)

    assert "undone" in found["reason"], found
    assert "NOT undone" not in found["reason"]
    recorded = manifest.newest(tmp_path / "manifests").manifest
    assert [image.image_id for image in recorded.images] == [project.get("web").attrs["Image"]]
    assert project.states() == {"web-1": ("running", GOOD)}


def test_a_daemon_that_is_killed_while_a_service_is_replaced_undoes_it_when_it_is_back(
    project: Project, tmp_path: Path
) -> None:
    # The newer one never becomes healthy, so that the job waits at the gate until it is killed.
    check = {"test": ["CMD-SHELL", 'test "$VERSION" = 1'], "interval": 100_000_000, "retries": 3}
    project.start("web", healthcheck=check)
    text = calendar(project, tmp_path, "20m", alone=True)
    lease = {"MAINTD_LEASE": "2s", "MAINTD_HEARTBEAT": "300ms"}
    with maintd_daemon(tmp_path, text, **lease) as daemon:
        number = daemon.maintd("trigger", "upgrade", "--json").json["id"]
        wait_for(
            lambda: project.states() == {"web-1": ("running", NEWER), "web-1.maintd-old": ("exited", GOOD)},
            "the new container to be in place",
            seconds=300,
        )
        os.kill(daemon.process.pid, signal.SIGKILL)
        daemon.process.wait()
    (tmp_path / "daemon.log").unlink()

    with maintd_daemon(tmp_path, text, **lease) as daemon:
        wait_for(lambda: project.states() == {"web-1": ("running", GOOD)}, "the undo")
        assert run_of(daemon, number)["state"] == "lost"
