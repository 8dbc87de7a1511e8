"""Open inspectors of Node in containers, on a real engine."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.http_services import Reply, http_service, json_reply
from support.job_runs import JobResult, run_job
from support.servers.base import wait_for
from support.servers.docker import DockerEngine

from maintd.checks.docker.inspector import inspect_options, listening
from maintd.model.evidence import CheckStatus

OPEN, REACHABLE = "docker main: open Node inspectors", "docker main: Node inspectors open to others"


class Project:
    """A project of busybox containers."""

    def __init__(self, engine: DockerEngine, client: Any) -> None:
        self.engine, self.client, self.name = engine, client, f"p{uuid.uuid4().hex[:8]}"
        self.image = engine.busybox("maintd-test/inspector:1")

    def start(self, service: str, *words: str) -> Any:
        labels = {"com.docker.compose.project": self.name, "com.docker.compose.service": service}
        options = {"network_mode": "none", "stop_signal": "SIGKILL", "labels": labels, "detach": True}
        return self.client.containers.run(self.image, list(words), **options)

    def check(self, proc: str = "/proc") -> JobResult:
        targets = {
            "docker": {"main": {"url": self.engine.url, "project": self.name}},
            "host": {"local": {"proc": proc}},
        }
        return run_job("health_check", {"include": ["docker"]}, targets)


@pytest.fixture
def project(docker_server: DockerEngine) -> Iterator[Project]:
    with closing(docker_server.client()) as client:
        made = Project(docker_server, client)
        yield made
        for container in client.containers.list(all=True, filters={"label": f"com.docker.compose.project={made.name}"}):
            container.remove(force=True)


def listens(container: Any, address: str) -> None:
    container.reload()
    tables = Path(f"/proc/{container.attrs['State']['Pid']}/net")
    wait_for(lambda: address in list(listening((tables / "tcp").read_text(), 9229)), "a listener at 9229")


@pytest.mark.engine
@pytest.mark.parametrize(("address", "reachable"), [("127.0.0.1", CheckStatus.OK), ("0.0.0.0", CheckStatus.FAIL)])
def test_a_port_that_a_signal_opened_is_found(project: Project, address: str, reachable: CheckStatus) -> None:
    listens(project.start("api", "httpd", "-f", "-p", f"{address}:9229"), address)
    project.start("web", "sleep", "600")

    result = project.check()

    check = result.check(OPEN)
    assert (check.status, check.observed) == (CheckStatus.WARN, 1)
    assert check.hint.startswith("api: ")
    assert result.check(REACHABLE).status is reachable


@pytest.mark.engine
def test_an_option_is_found_without_the_hosts_proc(project: Project, tmp_path: Path) -> None:
    project.start("api", "sh", "-c", "sleep 600; true", "node", "--inspect=0.0.0.0:9229", "server.js")

    result = project.check(str(tmp_path))

    assert result.check(OPEN).status is CheckStatus.WARN
    assert result.check(REACHABLE).status is CheckStatus.FAIL


@pytest.mark.engine
def test_without_an_inspector_all_is_well(project: Project) -> None:
    project.start("api", "sh", "-c", "sleep 600; true", "node", "server.js")
    project.start("other", "httpd", "-f", "-p", "9230")

    result = project.check()

    assert result.check(OPEN).status is CheckStatus.OK
    assert result.check(REACHABLE).status is CheckStatus.OK


@pytest.mark.engine
def test_node_whose_sockets_are_not_visible_is_unknown_without_an_alarm(project: Project, tmp_path: Path) -> None:
    project.start("api", "sh", "-c", "sleep 600; true", "node", "server.js")
    project.start("web", "sleep", "600")

    check = project.check(str(tmp_path)).check(OPEN)

    assert (check.status, check.optional) == (CheckStatus.UNKNOWN, True)
    assert "sockets of api are not visible" in str(check.observed)


def test_an_engine_that_does_not_list_processes_still_reports_its_containers(tmp_path: Path) -> None:
    raw = {
        "Id": "a1",
        "Name": "/api",
        "Image": "sha256:1",
        "Config": {"Image": "node:24"},
        "State": {"Status": "running", "ExitCode": 0, "Pid": 1},
    }
    asked = []

    def hangs() -> Reply:
        asked.append(1)
        time.sleep(2)
        return json_reply({})

    replies: dict[str, Any] = {
        "/version": json_reply({"ApiVersion": "1.41"}),
        "/v1.41/containers/json": json_reply([{"Id": f"a{n}"} for n in range(20)]),
    }
    for number in range(20):
        replies[f"/v1.41/containers/a{number}/json"] = json_reply({**raw, "Id": f"a{number}", "Name": f"/api-{number}"})
        replies[f"/v1.41/containers/a{number}/top"] = hangs
    with http_service(replies) as url:
        targets = {
            "docker": {"main": {"url": url.replace("http://", "tcp://"), "timeout": "1s"}},
            "host": {"local": {"proc": str(tmp_path)}},
        }

        result = run_job("health_check", {"include": ["docker"]}, targets)

    assert result.check(OPEN).status is CheckStatus.UNKNOWN
    assert result.check(OPEN).optional
    assert result.check("docker main: api-19 state").status is CheckStatus.OK
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("command", "addresses"),
    [
        ("node --inspect app.js", ["127.0.0.1"]),
        ("/usr/local/bin/node --inspect-brk=9230 app.js", ["127.0.0.1"]),
        ("node --inspect=0.0.0.0 app.js", ["0.0.0.0"]),
        ("nodemon --inspect=[::]:9229 app.js", ["[::]"]),
        ("node --inspect-wait=localhost:9229 app.js", ["localhost"]),
        ("node --inspect-port=9230 app.js", []),
        ("node --inspector app.js", []),
        ("skopeo --inspect node", []),
        ("python app.py --inspect", []),
        ("", []),
    ],
)
def test_options_open_an_inspector_at_an_address(command: str, addresses: list[str]) -> None:
    assert list(inspect_options(command)) == addresses


@pytest.mark.parametrize(
    ("entry", "addresses"),
    [
        ("0: 0100007F:240D 00000000:0000 0A", ["127.0.0.1"]),
        ("0: 00000000:240D 00000000:0000 0A", ["0.0.0.0"]),
        ("0: 00000000000000000000000000000000:240D 0:0 0A", ["::"]),
        ("0: 00000000000000000000000001000000:240D 0:0 0A", ["::1"]),
        ("0: 0000000000000000FFFF00000100007F:240D 0:0 0A", ["127.0.0.1"]),
        ("0: 0100007F:240D 0100007F:9C40 01", []),  # a connection, not a listener
        ("0: 0100007F:240E 00000000:0000 0A", []),
        ("short", []),
    ],
)
def test_listeners_are_read_from_the_kernels_table(entry: str, addresses: list[str]) -> None:
    assert list(listening(f"  sl  local_address rem_address   st\n   {entry}\n", 9229)) == addresses
