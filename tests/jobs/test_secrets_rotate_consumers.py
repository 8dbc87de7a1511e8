"""Rotations with real containers that have the file mounted: restarted, recreated, and brought back with the value."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.compose_project import COMMAND, Project, severed_engine
from support.secret_folders import SecretFolder, token_service

from maintd.model.evidence import ChangeState, CheckStatus

pytestmark = [pytest.mark.server, pytest.mark.engine]

OLD = "the-old-token-of-the-service-0123456789"
MOUNTED = "/run/secrets/token"
FAST: dict[str, Any] = {"gate": {"every": "50ms", "settle": "0s", "within": "1m"}, "only_running": ["web", "worker"]}


@pytest.fixture
def folder(tmp_path: Path, project: Project) -> SecretFolder:
    path = tmp_path / "secrets"
    path.mkdir(mode=0o700)
    return SecretFolder(path, targets=project.targets())


class AsOfItsStart:
    """What a container read from its mounted file when it was started; None twice after a restart: not ready yet."""

    def __init__(self, project: Project, service: str) -> None:
        self._name = project.container(service)
        self._engine = project.engine
        self._started, self._value = "", ""
        self._not_ready = 0

    def __call__(self) -> str | None:
        with closing(self._engine.client()) as client:
            container = client.containers.get(self._name)
            started = str(container.attrs["State"]["StartedAt"])
            if started != self._started:
                self._not_ready = 2 if self._started else 0
                self._started, self._value = started, inside(container)
        self._not_ready -= 1
        return None if self._not_ready >= 0 else self._value


def inside(container: Any) -> str:
    """The value as the container has it mounted."""
    return str(container.exec_run(["cat", MOUNTED]).output.decode())


def start(project: Project, service: str, path: Path, **options: Any) -> Any:
    return project.start(service, volumes={str(path): {"bind": MOUNTED, "mode": "ro"}}, **options)


def test_a_restarted_container_has_the_new_value_by_the_same_mount(folder: SecretFolder, project: Project) -> None:
    with token_service(AsOfItsStart(project, "web")) as url:
        login = {"url": url, "header": "X-Admin-Token"}
        path = folder.add("token", OLD, kind="generated", http=login, consumers=["worker", "web"])
        before = [start(project, service, path) for service in ("web", "worker")]
        inode = path.stat().st_ino

        result = folder.rotate(FAST)

    assert result.outcome == "succeeded", result.text()
    new = folder.read("token")
    assert path.stat().st_ino == inode
    for container in before:
        started = container.attrs["State"]["StartedAt"]
        container.reload()
        assert container.attrs["State"]["StartedAt"] != started
        assert inside(container) == new
    restarts = [change.target for change in result.changes if change.action == "restart"]
    assert [target.split()[1] for target in restarts] == [project.container("worker"), project.container("web")]
    assert result.check(f"old value of token is refused by {url}").status is CheckStatus.OK


def test_services_that_do_not_start_with_the_new_value_get_the_old_one_back(
    folder: SecretFolder, project: Project
) -> None:
    path = folder.add("cookie", OLD, kind="generated", form="cookie", consumers=["web"])
    has_old = f'test "$(cat {MOUNTED})" = {OLD}'
    check = {"test": ["CMD-SHELL", has_old], "interval": 200_000_000, "retries": 1000}
    container = start(project, "web", path, command=["sh", "-c", f"{has_old} && exec sleep 100000"], healthcheck=check)

    result = folder.rotate(FAST)

    assert result.outcome == "failed"
    assert folder.read("cookie") == OLD
    assert result.check("cookie as it was before").status is CheckStatus.OK
    container.reload()
    assert (container.status, inside(container)) == ("running", OLD)
    assert folder.under_way == []


def test_a_replaced_file_is_mounted_in_a_recreated_container(folder: SecretFolder, project: Project) -> None:
    path = folder.add("cookie", OLD, kind="generated", form="cookie", consumers=["web"], recreate=True)
    old = start(project, "web", path)
    inode = path.stat().st_ino

    result = folder.rotate(FAST)

    assert result.outcome == "succeeded", result.text()
    value = folder.read("cookie")
    assert len(value.encode()) == 32
    assert path.stat().st_ino != inode
    assert path.stat().st_mode & 0o777 == 0o600
    new = project.get("web")
    assert new.id != old.id
    assert inside(new) == value
    assert (
        result.check("old value of cookie is refused by the services").status is CheckStatus.UNKNOWN
    )  # it is optional


@pytest.mark.parametrize("after", range(1, 6))
def test_a_recreation_that_was_interrupted_is_ended_and_the_old_value_brought_back(
    folder: SecretFolder, project: Project, after: int
) -> None:
    path = folder.add("cookie", OLD, kind="generated", form="cookie", consumers=["web"], recreate=True)
    start(project, "web", path)
    fast = {**FAST, "gate": {**FAST["gate"], "engine_silent": "100ms"}}
    with severed_engine(project.engine, after) as severed:
        folder.targets = project.targets(severed.url)
        first = folder.rotate(fast)
    assert first.outcome == "failed", first.text()
    assert folder.under_way == ["cookie"]

    folder.targets = project.targets()
    second = folder.rotate({**fast, "rotate": False})

    assert second.check("cookie as it was before").status is CheckStatus.OK, second.text()
    assert list(project.states()) == ["web-1"]
    assert project.get("web").status == "running"
    assert inside(project.get("web")) == folder.read("cookie") == OLD


def test_nothing_is_changed_when_a_service_must_not_be_restarted(folder: SecretFolder, project: Project) -> None:
    path = folder.add("cookie", OLD, kind="generated", form="cookie", consumers=["web"])
    start(project, "web", path, command=COMMAND)

    result = folder.rotate({**FAST, "protect": ["web"]})

    assert result.outcome == "failed"
    assert [change for change in result.changes if change.state is not ChangeState.PLANNED] == []
    assert folder.read("cookie") == OLD
    assert "may not be restarted" in str(result.check("rotation of cookie").observed)
