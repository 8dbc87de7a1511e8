"""The health check of a compose project's containers, on a real engine, and of engines that do not answer."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.http_services import http_service, json_reply
from support.job_runs import JobResult, run_job
from support.servers.base import wait_for
from support.servers.docker import DockerEngine, docker_engine

from maintd.job.attempt_info import Point
from maintd.model.evidence import CheckStatus

pytestmark = [pytest.mark.server, pytest.mark.engine]


@pytest.fixture(scope="module")
def image(docker_server: DockerEngine) -> str:
    return docker_server.busybox("maintd-test/health:1")


class Project:
    """A compose project of a test's own, made as compose labels it."""

    def __init__(self, engine: DockerEngine, client: Any, image: str) -> None:
        self.engine, self.client, self.image = engine, client, image
        self.name = f"p{uuid.uuid4().hex[:8]}"

    def start(self, service: str, *words: str, **options: Any) -> Any:
        labels = {"com.docker.compose.project": self.name, "com.docker.compose.service": service}
        name = f"{self.name}_{service}_1"  # as the first compose named them: only the labels count
        options = {"network_mode": "none", "stop_signal": "SIGKILL", **options}
        return self.client.containers.run(self.image, list(words), name=name, labels=labels, detach=True, **options)

    def check(self, *, services: tuple[str, ...] = (), one_shot: tuple[str, ...] = (), **more: Any) -> JobResult:
        target = {"url": self.engine.url, "project": self.name, "services": services, "one_shot": one_shot}
        return run_job("health_check", {"include": ["docker"]}, {"docker": {"main": target}}, **more)


@pytest.fixture
def project(docker_server: DockerEngine, image: str) -> Iterator[Project]:
    with closing(docker_server.client()) as client:
        made = Project(docker_server, client, image)
        yield made
        for container in client.containers.list(all=True, filters={"label": f"com.docker.compose.project={made.name}"}):
            container.remove(force=True)


def until(container: Any, seen: Callable[[dict[str, Any]], bool], what: str) -> None:
    def look() -> bool:
        container.reload()
        return seen(container.attrs)

    wait_for(look, what)


def test_running_stopped_missing_and_one_shot_services_differ(project: Project) -> None:
    project.start("web", "sleep", "600")
    crashed = project.start("worker", "sh", "-c", "exit 1")
    migrated = project.start("migrator", "true")
    broken = project.start("tests", "sh", "-c", "exit 3")
    for container in (crashed, migrated, broken):
        container.wait()

    result = project.check(services=("web", "worker", "cache"), one_shot=("migrator", "tests"))

    seen = {check.name.removeprefix("docker main: "): (check.status.value, check.observed) for check in result.checks}
    assert seen["web state"] == ("ok", "running")
    assert seen["worker state"] == ("fail", "exited, exit code 1")
    assert seen["cache state"] == ("fail", "missing")
    assert seen["migrator ended"] == ("ok", "exit code 0")
    assert seen["tests ended"] == ("fail", "exit code 3")
    assert seen["web killed for memory"] == ("ok", False)
    assert "docker logs" in result.check("docker main: worker state").hint
    assert result.measure("container_running", service="web") == 1
    assert result.measure("container_running", service="cache") == 0


def test_the_state_is_kept_as_evidence_without_the_environment(project: Project) -> None:
    project.start("web", "sleep", "600", environment={"ADMIN_TOKEN": "s3cret-token"})

    result = project.check()

    assert result.outcome == "succeeded", result.text()
    (artifact,) = result.artifacts
    text = Path(artifact.path).read_text()
    assert json.loads(text)[0]["service"] == "web"
    assert "s3cret-token" not in text + result.text()


def test_unhealthy_and_restarting_containers_fail(project: Project) -> None:
    second = 1_000_000_000
    check = {"test": ["CMD", "/bin/false"], "interval": second // 4, "timeout": second, "retries": 1}
    unhealthy = project.start("web", "sleep", "600", healthcheck=check)
    looping = project.start("worker", "sh", "-c", "exit 1", restart_policy={"Name": "always"})
    until(unhealthy, lambda raw: raw["State"]["Health"]["Status"] == "unhealthy", "unhealthy")
    until(looping, lambda raw: raw["RestartCount"] >= 3, "three restarts")
    labels = {"engine": "main", "service": "worker"}
    yesterday = [Point(datetime.now(UTC) - timedelta(days=1), 0, labels)]

    result = project.check(series={"restarts_total": yesterday})

    assert result.check("docker main: web state").status is CheckStatus.OK
    assert result.check("docker main: web health").status is CheckStatus.FAIL
    restarts = result.check("docker main: worker new restarts")
    assert restarts.status is CheckStatus.FAIL
    assert int(str(restarts.observed)) >= 3
    assert result.outcome == "failed"


def test_a_container_killed_for_memory_fails(project: Project) -> None:
    def eaten() -> bool:
        """Until the engine noticed it: it misses some."""
        eater = project.start(
            "web", "sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M", mem_limit="16m", memswap_limit="16m"
        )
        eater.wait()
        eater.reload()
        if not eater.attrs["State"]["OOMKilled"]:
            eater.remove(force=True)
            return False
        return True

    wait_for(eaten, "a kill for memory that the engine noticed")

    result = project.check()

    assert result.check("docker main: web killed for memory").status is CheckStatus.FAIL
    assert "exit code 137" in str(result.check("docker main: web state").observed)


def test_a_container_that_was_killed_for_an_unknown_reason_is_unknown_not_ok(project: Project) -> None:
    killed = project.start("web", "sleep", "600")
    killed.kill("SIGKILL")
    killed.wait()

    result = project.check()

    assert result.check("docker main: web killed for memory").status is CheckStatus.UNKNOWN
    assert result.check("docker main: web state").status is CheckStatus.FAIL


def test_an_empty_project_fails_since_its_name_is_probably_wrong(project: Project) -> None:
    result = project.check()

    assert result.check("docker main: containers").status is CheckStatus.FAIL
    assert project.name in result.check("docker main: containers").hint


def test_a_proxy_that_forbids_is_unknown_and_the_services_are_still_checked() -> None:
    with (
        http_service({"/health": json_reply({"redis": "error"})}) as service,
        http_service({"/version": json_reply({"message": "no"}, 403)}) as proxy,
    ):
        targets = {
            "docker": {"main": {"url": proxy.replace("http", "tcp")}},
            "http": {"orders": {"url": f"{service}/health", "expect": {"redis": "ok"}}},
        }

        result = run_job("health_check", {"skip": ["host"]}, targets)

    unseen = result.check("docker main: answers")
    assert unseen.status is CheckStatus.UNKNOWN
    assert "socket proxy" in unseen.hint
    assert result.check("http orders: redis").status is CheckStatus.FAIL


def test_engines_that_are_stopped_or_not_engines_fail(tmp_path: Path) -> None:
    with http_service({"/version": json_reply([1, 2])}) as other:
        targets = {
            "docker": {
                "stopped": {"url": f"unix://{tmp_path}/none.sock"},
                "other": {"url": other.replace("http", "tcp")},
            }
        }

        result = run_job("health_check", {"include": ["docker"]}, targets)

    stopped = result.check("docker stopped: answers")
    assert (stopped.status, str(stopped.observed).split(":")[0]) == (CheckStatus.FAIL, "refused")
    assert result.check("docker other: answers").status is CheckStatus.FAIL


def test_an_engine_that_hangs_fails_within_its_timeout() -> None:
    with docker_engine() as engine:
        os.kill(engine.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()

            result = run_job(
                "health_check", {"include": ["docker"]}, {"docker": {"main": {"url": engine.url, "timeout": "1s"}}}
            )

            took = time.monotonic() - started
        finally:
            os.kill(engine.pid, signal.SIGCONT)

    assert took < 60  # without the limit it never ends
    answers = result.check("docker main: answers")
    assert answers.status is CheckStatus.FAIL
    assert "timed_out" in str(answers.observed)
