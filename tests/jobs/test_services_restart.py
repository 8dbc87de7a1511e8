"""Restarts one at a time on a real engine: their order, health gates and drains, and what is never stopped."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.compose_project import GOOD, Project, make_images
from support.http_services import Reply, http_service, json_reply
from support.job_runs import JOBS, run_job
from support.servers.docker import DockerEngine, docker_engine
from support.servers.redis import RedisServer
from support.servers.refusing_engine import refusing_engine

from maintd.checks.requirements.jobs import windows
from maintd.checks.requirements.store_place import StorePlace
from maintd.checks.services.containers import ServiceContainer, read_all
from maintd.checks.services.order import in_order
from maintd.checks.services.protection import own_ids, protected
from maintd.clients.docker import connect, container_of
from maintd.errors import JobError, TargetError
from maintd.job.description import load_job
from maintd.model.evidence import ChangeState, CheckStatus
from maintd.model.target import Targets

pytestmark = [pytest.mark.server, pytest.mark.engine]


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with docker_engine() as started, closing(started.client()) as client:
        make_images(started, client)
        started.network("shop-net", 63)
        yield started


@pytest.fixture
def project(engine: DockerEngine) -> Iterator[Project]:
    with closing(engine.client()) as client:
        made = Project(engine, client, f"p{uuid.uuid4().hex[:8]}", "shop-net")
        yield made
        made.remove()


def started_at(project: Project, service: str) -> str:
    return str(project.get(service).attrs["State"]["StartedAt"])


def restarted(result: Any) -> list[str]:
    """The services of the changes, in order."""
    return [str(change.target).rpartition("-1")[0].rpartition("-")[2] for change in result.changes]


def test_services_restart_after_those_that_they_depend_on(project: Project) -> None:
    # Each writes to the anonymous volume of its image, so that none comes last for that.
    project.start("web", depends_on=["api"])
    project.start("api", depends_on=["cache"])
    project.start("cache")
    before = {name: started_at(project, name) for name in ("web", "api", "cache")}

    result = project.run("services_restart", {})

    assert result.outcome == "succeeded", result.text()
    assert restarted(result) == ["cache", "api", "web"]
    assert all(started_at(project, name) != at for name, at in before.items())


def test_a_stateful_service_comes_last_and_its_users_are_checked_again(project: Project) -> None:
    project.start("db")
    project.start("web", depends_on=["db"], healthcheck={"test": ["CMD", "true"], "interval": 100_000_000})

    result = project.run("services_restart", {"stateful": ["db"]})

    assert result.outcome == "succeeded", result.text()
    assert restarted(result) == ["web", "db"]
    assert result.check("web: healthy at the end").status is CheckStatus.OK


def test_a_service_that_is_not_healthy_stops_the_restart(project: Project) -> None:
    project.start("api")
    project.start("web", depends_on=["api"])
    before = started_at(project, "web")
    with http_service({"/health": json_reply({"redis": "error"})}) as url:
        places = {"http": {"api": {"url": f"{url}/health", "expect": {"redis": "ok"}}}}

        result = project.run("services_restart", {"gate": {"within": "1s"}}, places=places)

    assert result.outcome == "failed"
    check = result.check("api: healthy")
    assert check.status is CheckStatus.FAIL
    assert "redis" in str(check.observed)
    assert "web" in str(result.check("services after it").observed)
    assert started_at(project, "web") == before


def test_health_that_comes_late_is_waited_for(project: Project) -> None:
    project.start("api")
    answers = iter([json_reply({}, 503), json_reply({}, 503)])
    with http_service({"/health": lambda: next(answers, json_reply({"status": "ok"}))}) as url:
        result = project.run("services_restart", {}, places={"http": {"api": {"url": f"{url}/health"}}})

    assert result.outcome == "succeeded", result.text()
    assert "http api" in str(result.check("api: healthy").observed)


def test_a_service_of_which_only_running_is_known_is_unknown(project: Project) -> None:
    project.start("api")

    result = project.run("services_restart", {"only_running": []})

    assert result.outcome == "unknown", result.text()
    assert "only_running" in result.check("api: healthy").hint


def test_a_service_with_a_backlog_is_not_restarted(project: Project, redis_server: RedisServer) -> None:
    project.start("api")
    before = started_at(project, "api")
    stream = f"orders-{uuid.uuid4().hex}"
    drain = {"api": {"streams": [stream], "within": "200ms", "every": "50ms"}}
    places = {"redis": {"main": {"url": redis_server.url}}}
    with closing(redis_server.client()) as client:
        client.xadd(stream, {"n": 1})
        client.xgroup_create(stream, "workers", id="0")

        waiting = project.run("services_restart", {"drain": drain}, places=places)
        after_waiting = started_at(project, "api")
        (_, entries), *_ = client.xreadgroup("workers", "w1", {stream: ">"})
        pending = project.run("services_restart", {"drain": drain}, places=places)
        client.xack(stream, "workers", *[entry for entry, _ in entries])
        drained = project.run("services_restart", {"drain": drain}, places=places)

        client.xadd(stream, {"n": 2})
        patient = {"api": {**drain["api"], "within": "5m"}}
        timeout = timedelta(seconds=5)
        cut = project.run("services_restart", {"drain": patient}, places=places, timeout=timeout)

    assert "and the step has no time left to wait for 5m" in cut.text(), "the bound that ended it is named"
    assert waiting.outcome == pending.outcome == cut.outcome == "failed"
    assert "not drained within 200ms" in waiting.text()
    assert "lag 1" in waiting.text()
    assert "pending 1" in pending.text()
    assert after_waiting == before
    assert drained.outcome == "succeeded", drained.text()
    assert started_at(project, "api") != before


def test_a_drain_is_requested_awaited_and_ended(project: Project) -> None:
    project.start("api")
    requested: list[str] = []
    left = iter([2, 1])

    def note(path: str) -> Reply:
        requested.append(path)
        return json_reply({"draining": path == "/drain"})

    pages = {
        "/drain": lambda: note("/drain"),
        "/resume": lambda: note("/resume"),
        "/work": lambda: json_reply({"left": next(left, 0)}),
        "/health": json_reply({"status": "ok"}),
    }
    with http_service(pages) as url:
        drain = {
            "request": {"target": "api", "path": "/drain", "body": {"why": "restart"}, "expect": {"draining": True}},
            "until": {"target": "api", "path": "/work", "method": "GET", "expect": {"left": 0}},
            "resume": {"target": "api", "path": "/resume"},
            "every": "20ms",
        }
        places = {"http": {"api": {"url": f"{url}/health"}}}

        result = project.run("services_restart", {"drain": {"api": drain}}, places=places)

    assert result.outcome == "succeeded", result.text()
    assert requested == ["/drain", "/resume"]
    assert [change.action for change in result.changes] == ["drain", "restart", "resume"]


def test_an_interrupted_replacement_is_reported_and_not_touched(project: Project) -> None:
    old = project.start("web")
    project.start("api")
    old.rename(f"{project.container('web')}.maintd-old")
    old.stop(timeout=0)

    result = project.run("services_restart", {"only_running": ["api", "web"]})

    assert result.outcome == "failed"
    assert "services_recreate" in result.check("web: replacement that was interrupted").hint
    assert restarted(result) == ["api"]
    old.reload()
    assert old.status == "exited"


def test_stopped_containers_are_started_as_an_undo(project: Project) -> None:
    project.start("web").stop(timeout=0)
    project.start("api")
    before = started_at(project, "api")

    result = project.run("services_restart", {"stopped": True, "services": ["web", "api"]})

    assert result.outcome == "succeeded", result.text()
    assert [(change.action, change.state) for change in result.changes] == [("start", ChangeState.DONE)]
    assert project.states()["web-1"] == ("running", GOOD)
    assert started_at(project, "api") == before


def test_the_container_of_the_store_is_never_stopped(project: Project) -> None:
    database = project.start("database", network_mode=None, network="shop-net")
    project.start("web")
    database.reload()
    address = database.attrs["NetworkSettings"]["Networks"]["shop-net"]["IPAddress"]
    before = started_at(project, "database")
    calendar = {"store": {"host": address, "port": 5432}, "steps": []}

    named = project.run("services_restart", {"services": ["web", "database"], "calendar": calendar})
    all_of_them = project.run("services_restart", {"calendar": calendar})

    assert named.outcome == "failed"
    assert named.changes == []
    assert "maintd's store" in str(named.check("database: may be stopped").observed)
    assert all_of_them.outcome == "succeeded", all_of_them.text()
    assert restarted(all_of_them) == ["web"]
    assert started_at(project, "database") == before


def test_a_process_finds_the_container_that_it_is_in(project: Project, tmp_path: Path) -> None:
    own, other = project.start("maintd"), project.start("web")
    (tmp_path / "self").mkdir()
    for name in ("mountinfo", "cgroup"):
        (tmp_path / "self" / name).write_bytes(own.exec_run(["cat", f"/proc/self/{name}"]).output)
    with (tmp_path / "self/mountinfo").open("a") as file:  # as with the host's root as a volume
        file.write(f"9 8 0:1 / /host/var/lib/docker/containers/{other.id}/mounts/shm rw - tmpfs shm rw\n")
    with connect(Targets.model_validate(project.targets()).docker["main"]) as docker:
        found = protected(read_all(docker), project.engine.url, None, own_ids(tmp_path), "host")

    assert found == {own.id: "it is maintd's own container"}
    assert other.id not in own_ids(tmp_path)


def test_an_engine_without_a_project_needs_names(project: Project) -> None:
    project.start("web")
    targets = {"docker": {"main": {"url": project.engine.url}}}
    result = run_job("services_restart", {}, targets)

    assert result.outcome == "failed"
    assert "no services are named" in result.text()


def test_an_unknown_service_is_named_with_a_similar_one(project: Project) -> None:
    project.start("web")

    result = project.run("services_restart", {"services": ["wep"]})

    assert result.outcome == "failed"
    assert "wep" in result.text()
    assert result.changes == []


REQUESTS = {
    "services_restart": [r"POST /v[\d.]+/containers/.*/restart", r"POST /v[\d.]+/containers/.*/start"],
    "services_recreate": [
        *(rf"POST /v[\d.]+/containers/.*/{action}" for action in ("stop", "start", "rename")),
        r"POST /v[\d.]+/containers/create",
        r"DELETE /v[\d.]+/containers/.*",
    ],
    "rehearsal": [
        *(rf"POST /v[\d.]+/containers/.*/{action}" for action in ("stop", "start", "rename")),
        r"POST /v[\d.]+/(containers|networks)/create",
        r"DELETE /v[\d.]+/(containers|networks)/.*",
    ],
    "rollback_manifest": [r"POST /v[\d.]+/images/.*/tag", r"DELETE /v[\d.]+/images/.*"],
}


@pytest.mark.parametrize("job", REQUESTS)
def test_each_request_that_is_denied_is_known_before_it_is_needed(
    engine: DockerEngine, job: str, tmp_path: Path
) -> None:
    def denied(url: str) -> list[str]:
        """What the job needs of the engine and does not get."""
        targets = Targets.model_validate(
            {"docker": {"main": {"url": url}}, "folders": {"rollback": {"path": tmp_path}}}
        )
        found = []
        with connect(targets.docker["main"]) as docker:
            for requirement in getattr(windows, job)(targets, load_job(JOBS / f"{job}.py").params()):
                if requirement.kind == "docker":
                    try:
                        requirement.exercise(docker)
                    except TargetError as error:
                        found.append(f"{error.cause}: {error.message}")
        return found

    assert denied(engine.url) == []
    for request in REQUESTS[job]:
        with refusing_engine(engine, request, 403) as url:
            assert [text.partition(":")[0] for text in denied(url)] == ["denied"], request
    with closing(engine.client()) as client:
        assert client.containers.list(all=True) == []


# --- decisions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depends_on", "stateful", "first", "expected"),
    [
        ({"web": ["api"], "api": ["db"], "db": []}, [], [], ["db", "api", "web"]),
        ({"web": ["api"], "api": ["db"], "db": []}, ["db"], [], ["api", "web", "db"]),
        ({"web": ["api"], "api": ["db"], "db": []}, ["db"], ["web", "db"], ["web", "db", "api"]),
        ({"b": [], "a": [], "c": ["gone"]}, [], [], ["a", "b", "c"]),
        ({"a": ["a"]}, [], [], ["a"]),
    ],
)
def test_the_order_of_services(
    depends_on: dict[str, list[str]], stateful: list[str], first: list[str], expected: list[str]
) -> None:
    assert in_order(depends_on, stateful, first) == expected


def test_services_that_depend_on_each_other_need_an_order() -> None:
    circle = {"a": ["b"], "b": ["a"], "c": []}

    with pytest.raises(JobError, match="a, b"):
        in_order(circle, [])
    assert in_order(circle, [], ["a", "b"]) == ["a", "b", "c"]


def described(number: int, service: str, **parts: Any) -> ServiceContainer:
    raw: dict[str, Any] = {
        "Id": f"{number:064x}",
        "Name": f"/{service}-1",
        "Image": "sha256:1",
        "State": {"Status": "running", "ExitCode": 0},
        "Config": {"Image": "app", "Labels": {"com.docker.compose.service": service, **parts.pop("labels", {})}},
        "HostConfig": {"NetworkMode": parts.pop("mode", "net")},
        "NetworkSettings": parts.pop("network", {}),
    }
    return ServiceContainer(container_of(raw), raw["Config"]["Labels"], raw)


def test_maintd_and_all_that_it_needs_is_protected(tmp_path: Path) -> None:
    own = described(1, "maintd", labels={"com.docker.compose.depends_on": "needed:x:y"}, mode=f"container:{4:064x}")
    others = [
        described(2, "needed"),
        described(3, "docker-proxy"),
        described(4, "vpn"),
        described(5, "pg", network={"Ports": {"5432/tcp": [{"HostIp": "0.0.0.0", "HostPort": "15432"}]}}),
        described(6, "web"),
        described(7, "named"),
    ]
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(f"1 2 0:1 /var/lib/docker/containers/{own.id}/hostname /etc/hostname rw\n")
    store = StorePlace(host="127.0.0.1", port=15432)

    found = protected([own, *others], "tcp://docker-proxy:2375", store, own_ids(tmp_path), "host", ["named"])

    assert {item.service for item in [own, *others] if item.id in found} == {
        "maintd",
        "needed",
        "docker-proxy",
        "vpn",
        "pg",
        "named",
    }


def test_maintd_is_found_by_its_hostname_too() -> None:
    own = described(0xABCDEF << 232, "maintd")

    found = protected([own], "unix:///d.sock", None, frozenset(), own.id[:12])

    assert found == {own.id: "it is maintd's own container"}
