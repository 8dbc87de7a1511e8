"""Replaced containers on a real engine: what they keep, swapping back, and a kill at any instant."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.compose_project import BROKEN, GOOD, NEWER, Project, allowed_in_a_window, make_images, severed_engine
from support.job_runs import run_job
from support.servers.docker import DockerEngine, docker_engine

from maintd.checks.services.containers import ServiceContainer
from maintd.checks.services.replace import REPLACES, creation
from maintd.clients.docker import container_of
from maintd.model.evidence import ChangeState, CheckStatus

pytestmark = [pytest.mark.server, pytest.mark.engine]


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with docker_engine() as started, closing(started.client()) as client:
        make_images(started, client)
        started.network("shop-net", 61)
        started.network("shop-back", 62)
        yield started


@pytest.fixture
def project(engine: DockerEngine) -> Iterator[Project]:
    with closing(engine.client()) as client:
        made = Project(engine, client, f"p{uuid.uuid4().hex[:8]}", "shop-net")
        yield made
        made.remove()


def test_a_new_container_has_all_of_the_old_one_but_the_image(project: Project) -> None:
    old = project.start(
        "web",
        environment={"ADMIN_TOKEN": "s3cret-token"},
        network_mode=None,
        network="shop-net",
        labels={"com.docker.compose.config-hash": "abc", "com.docker.compose.image": "sha256:old"},
        tmpfs={"/scratch": "size=1m"},
        mem_limit="64m",
        restart_policy={"Name": "unless-stopped"},
    )
    project.client.networks.get("shop-back").connect(old, aliases=["backend-web"])
    old.exec_run(["sh", "-c", "echo kept > /data/file"])
    old.reload()

    result = project.run("services_recreate", {"images": {"web": NEWER}})

    assert result.outcome == "succeeded", result.text()
    new = project.get("web")
    assert new.id != old.id
    assert new.status == "running"
    assert project.states() == {"web-1": ("running", NEWER)}
    assert new.exec_run(["cat", "/data/file"]).output == b"kept\n"
    before, after = old.attrs, new.attrs
    for key in ("Memory", "RestartPolicy", "Tmpfs", "NetworkMode"):
        assert after["HostConfig"][key] == before["HostConfig"][key]
    env = after["Config"]["Env"]
    assert "ADMIN_TOKEN=s3cret-token" in env
    assert "VERSION=2" in env
    assert "VERSION=1" not in env
    assert set(after["NetworkSettings"]["Networks"]) == {"shop-net", "shop-back"}
    assert "backend-web" in after["NetworkSettings"]["Networks"]["shop-back"]["Aliases"]
    assert new.labels["com.docker.compose.config-hash"] == "abc"
    assert new.labels["com.docker.compose.image"] == after["Image"]
    assert new.labels[REPLACES] == old.id
    assert "s3cret-token" not in result.text()


def test_a_second_replacement_finds_nothing_to_do(project: Project) -> None:
    project.start("web")
    project.run("services_recreate", {"images": {"web": NEWER}})
    first = project.get("web").id

    result = project.run("services_recreate", {"images": {"web": NEWER}})

    assert result.outcome == "succeeded", result.text()
    assert result.changes == []
    assert project.get("web").id == first


def test_a_container_that_does_not_become_healthy_is_swapped_back(project: Project) -> None:
    old = project.start("web")
    project.start("worker", depends_on=["web"])

    result = project.run("services_recreate", {"images": {"web": BROKEN, "worker": NEWER}})

    assert result.outcome == "failed"
    assert project.states() == {"web-1": ("running", GOOD), "worker-1": ("running", GOOD)}
    assert project.get("web").id == old.id
    assert result.check("web: new container is healthy").status is CheckStatus.FAIL
    assert result.check("web: swapped back").status is CheckStatus.OK
    assert "worker" in str(result.check("services after it").observed)
    assert [(change.action, change.state) for change in result.changes] == [
        ("recreate", ChangeState.FAILED),
        ("swap back", ChangeState.DONE),
    ]


def test_a_health_check_decides_not_that_it_runs(project: Project) -> None:
    check = {"test": ["CMD-SHELL", 'test "$VERSION" = 1'], "interval": 200_000_000, "retries": 1}
    project.start("web", healthcheck=check)

    result = project.run("services_recreate", {"images": {"web": NEWER}, "gate": {"within": "2s"}, "only_running": []})

    # The old one starts again with a health check that needs a moment, which a busy machine may not give it in 2 s.
    assert result.outcome == "failed", result.text()
    assert result.check("web: new container is healthy").status is CheckStatus.FAIL
    assert project.states() == {"web-1": ("running", GOOD)}


def test_a_kill_at_any_instant_is_ended_by_the_next_run(project: Project) -> None:
    project.start("web")
    fast = {"gate": {"engine_silent": "100ms"}}
    changes: list[str] = []
    for after in range(20):
        with severed_engine(project.engine, after) as severed:
            killed = project.run("services_recreate", {"images": {"web": NEWER}, **fast}, url=severed.url)
        changes = severed.changes
        if killed.outcome == "succeeded":
            break
        left = project.states()

        back = project.run("services_recreate", {"back": True})

        assert back.error is None, f"after {changes}: {left}\n{back.text()}"
        assert back.outcome in ("succeeded", "warned"), f"after {changes}: {left}\n{back.text()}"
        # What the next run found is reported: by its name, or since nothing was left.
        found = back.named("replacement that was interrupted")
        assert bool(found) == any(name.endswith(("old", "new")) for name in left), f"after {changes}: {left}"
        states = project.states()
        assert list(states) == ["web-1"], f"after {changes}: {states}"
        assert states["web-1"][0] == "running", f"after {changes}: {states}"
        if states["web-1"][1] == NEWER:  # it was over, but for the answer
            project.run("services_recreate", {"images": {"web": GOOD}})
        assert project.states() == {"web-1": ("running", GOOD)}
    else:
        pytest.fail(f"never succeeded; the last one made {changes}")
    for change in changes:
        method, path = change.partition("?")[0].split()
        assert allowed_in_a_window(method, f"/v1.41{path}"), change
    # Each change of the replacement was the last one once.
    assert [change.partition("?")[0].rpartition("/")[2] for change in changes[:5]] == [
        "create",
        "stop",
        "rename",
        "rename",
        "start",
    ]
    assert project.states() == {"web-1": ("running", NEWER)}


def test_a_replacement_whose_new_container_is_healthy_is_finished(project: Project) -> None:
    project.start("web")
    with severed_engine(project.engine, 5) as severed:  # it was started, and the old one is still there
        fast = {"gate": {"engine_silent": "100ms"}}
        project.run("services_recreate", {"images": {"web": NEWER}, **fast}, url=severed.url)
    left = project.states()

    result = project.run("services_recreate", {"images": {"web": NEWER}})

    assert left == {"web-1": ("running", NEWER), "web-1.maintd-old": ("exited", GOOD)}
    assert result.outcome == "warned", result.text()
    assert result.check("web: replacement that was interrupted").observed == "finished"
    assert project.states() == {"web-1": ("running", NEWER)}


def test_what_another_client_made_is_not_removed(project: Project) -> None:
    old = project.start("web")
    old.rename(f"{project.container('web')}.maintd-old")
    other = project.start("web")

    result = project.run("services_recreate", {"back": True})

    assert result.outcome == "failed"
    assert "was not made by maintd" in result.text()
    assert {item.id for item in project.client.containers.list()} >= {old.id, other.id}


def test_the_images_of_a_manifest_are_restored(project: Project, tmp_path: Path) -> None:
    project.start("web")
    project.start("worker")
    places = {"folders": {"rollback": {"path": str(tmp_path)}}}
    recorded = run_job("rollback_manifest", {}, project.targets(**places))
    project.run("services_recreate", {"images": {"web": NEWER}})
    assert project.states()["web-1"] == ("running", NEWER)

    result = project.run("services_recreate", {"manifest": "rollback"}, places=places, handed=recorded.handed)

    assert result.outcome == "succeeded", result.text()
    assert project.states() == {"web-1": ("running", GOOD), "worker-1": ("running", GOOD)}
    assert [change.target for change in result.changes if change.action == "recreate"] == [
        f"main: {project.container('web')}"
    ]


def test_the_undo_restores_what_this_run_has_replaced(project: Project) -> None:
    project.start("web")
    project.start("worker")
    done = project.run("services_recreate", {"images": {"web": NEWER}})

    result = project.run("services_recreate", {"back": True}, handed=done.handed)

    assert result.outcome == "succeeded", result.text()
    assert project.states() == {"web-1": ("running", GOOD), "worker-1": ("running", GOOD)}
    again = project.run("services_recreate", {"back": True}, handed=done.handed)
    assert (again.outcome, again.changes) == ("succeeded", []), again.text()


def test_an_image_that_is_not_here_fails_before_any_change(project: Project) -> None:
    old = project.start("web")
    project.start("worker")

    result = project.run("services_recreate", {"images": {"worker": NEWER, "web": "shop/app:nowhere"}})

    assert result.outcome == "failed"
    assert result.changes == []
    assert project.get("web").id == old.id


def test_a_container_whose_network_others_use_is_not_replaced(project: Project) -> None:
    old = project.start("web")
    project.start("sidecar", network_mode=f"container:{old.id}")

    result = project.run("services_recreate", {"images": {"web": NEWER}})

    assert result.outcome == "failed"
    assert "sidecar" in result.check("web: containers in its namespaces").hint
    assert project.get("web").id == old.id


def test_a_container_that_would_vanish_when_it_stops_is_not_replaced(project: Project) -> None:
    old = project.start("web", auto_remove=True)

    result = project.run("services_recreate", {"images": {"web": NEWER}})

    assert result.outcome == "failed"
    assert "--rm" in result.check("web: removed when it stops").hint
    assert project.get("web").id == old.id


def test_nothing_happens_in_a_dry_run(project: Project) -> None:
    old = project.start("web")

    result = project.run("services_recreate", {"images": {"web": NEWER}}, dry_run=True)

    assert result.error is None, result.text()
    assert [change.state for change in result.changes] == [ChangeState.PLANNED]
    assert project.states() == {"web-1": ("running", GOOD)}
    assert project.get("web").id == old.id


def test_a_program_replaces_the_containers_where_it_is_configured(project: Project) -> None:
    project.start("web")
    name, url = project.container("web"), project.engine.url
    script = (
        f"docker -H {url} rm -f {name} && docker -H {url} run -d --name {name} --network none "
        f"--label com.docker.compose.project={project.name} --label com.docker.compose.service=$0 "
        f"--stop-signal SIGKILL {NEWER} sleep 100000"
    )

    result = project.run(
        "services_recreate", {"images": {"web": NEWER}, "compose": ["/bin/sh", "-c", script, "{service}"]}
    )

    assert result.outcome == "succeeded", result.text()
    assert project.states() == {"web-1": ("running", NEWER)}


def test_a_program_that_runs_another_image_fails(project: Project) -> None:
    project.start("web")

    result = project.run("services_recreate", {"images": {"web": NEWER}, "compose": ["/bin/true"]})

    assert result.outcome == "failed"
    assert "not sha256" in result.text()


# --- the request that creates the new container -------------------------------------------------------------------

OLD_ID = "ab" * 32


def described(**changes: Any) -> ServiceContainer:
    """A container as the engine describes it."""
    raw: dict[str, Any] = {
        "Id": OLD_ID,
        "Name": "/shop-web-1",
        "Image": "sha256:one",
        "State": {"Status": "running", "ExitCode": 0},
        "Config": {
            "Image": "app:1",
            "Hostname": OLD_ID[:12],
            "Env": ["A=1", "PATH=/bin"],
            "Cmd": ["serve"],
            "Entrypoint": ["/run"],
            "Labels": {"of": "image", "own": "x"},
            "Volumes": {"/data": {}},
            "WorkingDir": "/app",
            "User": "app",
        },
        "HostConfig": {"NetworkMode": "net", "Binds": ["named:/named:rw"], "Mounts": None},
        "Mounts": [
            {"Type": "volume", "Name": "anon", "Destination": "/data", "RW": True},
            {"Type": "volume", "Name": "named", "Destination": "/named", "RW": True},
            {"Type": "bind", "Source": "/etc", "Destination": "/conf", "RW": False},
        ],
        "NetworkSettings": {
            "Networks": {
                "net": {
                    "Aliases": ["web", OLD_ID[:12]],
                    "IPAMConfig": {"IPv4Address": "10.0.0.9"},
                    "IPAddress": "10.0.0.9",
                },
                "other": {"Aliases": None, "IPAddress": "10.1.0.3"},
            }
        },
    }
    for path, value in changes.items():
        part, _, key = path.partition("__")
        raw[part][key] = value
    return ServiceContainer(container_of(raw), raw["Config"]["Labels"], raw)


IMAGE = {
    "Env": ["PATH=/bin"],
    "Cmd": ["serve"],
    "Entrypoint": ["/run"],
    "Labels": {"of": "image"},
    "WorkingDir": "/app",
}


def test_what_came_from_the_old_image_is_left_to_the_new_one() -> None:
    made = creation(described(), IMAGE, "app:2", "sha256:two")

    body = made.body
    assert body["Image"] == "app:2"
    assert body["Env"] == ["A=1"]
    assert not {"Cmd", "Entrypoint", "WorkingDir", "Hostname"} & body.keys()
    assert body["User"] == "app"
    assert body["Labels"] == {"own": "x", REPLACES: OLD_ID}


def test_a_command_of_its_own_stays() -> None:
    made = creation(described(Config__Cmd=["worker"]), IMAGE, "app:2", "sha256:two")

    assert made.body["Cmd"] == ["worker"]
    assert "Entrypoint" not in made.body


def test_volumes_stay_and_networks_keep_only_what_was_configured() -> None:
    made = creation(described(), IMAGE, "app:2", "sha256:two")

    assert made.body["HostConfig"]["Binds"] == ["named:/named:rw", "anon:/data"]
    assert made.body["NetworkingConfig"]["EndpointsConfig"] == {
        "net": {"Aliases": ["web"], "IPAMConfig": {"IPv4Address": "10.0.0.9"}}
    }
    assert made.networks == {"other": {"Aliases": []}}


@pytest.mark.parametrize("mode", ["host", "none", "container:abc"])
def test_a_container_without_networks_of_its_own_gets_none(mode: str) -> None:
    made = creation(described(HostConfig__NetworkMode=mode), IMAGE, "app:2", "sha256:two")

    assert made.body["NetworkingConfig"]["EndpointsConfig"] == {}
    assert made.networks == {}
