"""A rollback rehearsed on copies of containers of a real engine; the originals are untouched, and nothing is left."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.compose_project import BROKEN, GOOD, Project, make_images
from support.job_runs import JobResult, run_job
from support.servers.docker import DockerEngine, docker_engine
from support.servers.refusing_engine import refusing_engine

from maintd.checks.restore.objectives import RESTORED
from maintd.checks.services.containers import ServiceContainer, read_all
from maintd.checks.services.rehearsal import LABEL, body_of, is_harmless, why_not
from maintd.clients.docker import connect
from maintd.model.target import Targets

pytestmark = [pytest.mark.server, pytest.mark.engine]

HEALTHY = {"test": ["CMD-SHELL", 'test -z "$BROKEN"'], "interval": 100_000_000, "retries": 3}
DRILL = {RESTORED: {"source": "set-1", "seconds": 90.0}}


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with docker_engine("--default-address-pool", "base=10.214.0.0/16,size=24") as started:
        with closing(started.client()) as client:
            make_images(started, client)
        yield started


@dataclass
class Site:
    """A project with a manifest of what it ran."""

    project: Project
    manifests: Path
    secret: Path

    def manifest(self) -> None:
        done = run_job("rollback_manifest", {"postgres": [], "redis": []}, self.targets())
        assert done.outcome == "succeeded", done.text()

    def targets(self, url: str | None = None) -> dict[str, Any]:
        return self.project.targets(url, folders={"rollback": {"path": str(self.manifests)}})

    def rehearse(self, params: dict[str, Any] | None = None, url: str | None = None, **more: Any) -> JobResult:
        gate = {"every": "50ms", "settle": "0s", "within": "1m"}
        return run_job("rehearsal", {"gate": gate, **(params or {})}, self.targets(url), **more)

    def left(self) -> list[str]:
        """What the engine has besides the project."""
        client = self.project.client
        containers = [item["Names"][0] for item in client.api.containers(all=True, filters={"label": LABEL})]
        networks = [item["Name"] for item in client.api.networks(filters={"label": LABEL})]
        return [*containers, *networks, *(volume["Name"] for volume in client.api.volumes()["Volumes"] or ())]

    def originals(self) -> list[Any]:
        found = (self.project.get(name) for name in ("cache", "web"))
        return [
            (item.id, item.attrs["State"]["StartedAt"], item.attrs["NetworkSettings"]["Networks"]) for item in found
        ]


@pytest.fixture
def site(engine: DockerEngine, tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "secret").write_text("s")
    (tmp_path / "data").mkdir()
    with closing(engine.client()) as client:
        project = Project(engine, client, f"p{uuid.uuid4().hex[:8]}", "none")
        made = Site(project, tmp_path / "manifests", tmp_path / "secret")
        mounts = {
            str(made.secret): {"bind": "/secret", "mode": "ro"},
            str(tmp_path / "data"): {"bind": "/own", "mode": "rw"},
        }
        more = {"healthcheck": HEALTHY, "volumes": mounts, "labels": {"traefik.enable": "true"}}
        project.start("cache", healthcheck=HEALTHY, tmpfs={"/data": ""})
        project.start("web", depends_on=["cache"], tmpfs={"/data": ""}, **more)
        made.manifest()
        yield made
        project.remove()


def test_copies_are_rolled_back_and_timed_and_the_originals_are_untouched(site: Site) -> None:
    before, left = site.originals(), site.left()

    result = site.rehearse(handed=DRILL)

    assert result.outcome == "succeeded", result.text()
    recreated = [
        change.target.rpartition("-")[0].rpartition("-")[2] for change in result.changes if change.action == "recreate"
    ]
    assert recreated == ["cache", "web"], "in the order of a rollback"
    assert all("maintd-rehearsal-" in change.target for change in result.changes), result.text()
    images = result.measure("rehearsal_phase_seconds", phase="images")
    assert result.measure("rehearsal_rto_seconds") == pytest.approx(images + 90)
    assert (site.originals(), site.left()) == (before, left)


def test_an_image_that_does_not_become_healthy_fails_and_nothing_is_left(site: Site) -> None:
    site.project.get("web").remove(force=True)
    site.project.start(
        "web", BROKEN, depends_on=["cache"], healthcheck=HEALTHY, tmpfs={"/data": ""}, command=["sleep", "9999"]
    )
    site.manifest()
    site.project.get("web").remove(force=True)
    site.project.start(
        "web", GOOD, depends_on=["cache"], healthcheck=HEALTHY, tmpfs={"/data": ""}, command=["sleep", "9999"]
    )
    before = site.originals()

    result = site.rehearse(handed=DRILL)

    assert result.outcome == "failed", result.text()
    assert [item for item in result.measures if item.name == "rehearsal_rto_seconds"] == []
    assert "web: new container is healthy" in result.text()
    assert (site.originals(), site.left()) == (before, [])


def test_what_a_rehearsal_that_was_killed_left_is_removed_by_the_next(site: Site) -> None:
    client = site.project.client
    labels = {LABEL: site.project.name}
    client.networks.create("maintd-rehearsal-1-x", internal=True, labels=labels)
    client.containers.run(
        GOOD,
        ["sleep", "1000"],
        name="maintd-rehearsal-1-x-web-1",
        labels=labels,
        detach=True,
        network="maintd-rehearsal-1-x",
        tmpfs={"/data": ""},
    )
    other = client.containers.run(
        GOOD, ["sleep", "1000"], labels={LABEL: "another"}, detach=True, network_mode="none", tmpfs={"/data": ""}
    )

    result = site.rehearse(handed=DRILL)
    kept = [name.removeprefix("/") for name in site.left()]
    other.remove(force=True)

    assert result.outcome == "succeeded", result.text()
    assert kept == [other.name], "those of another project are not touched"


def test_a_rehearsal_without_a_restore_has_the_time_of_the_images_only(site: Site) -> None:
    result = site.rehearse()
    failed = site.rehearse(outcomes={"restore_drill": "failed"})

    images = result.measure("rehearsal_phase_seconds", phase="images")
    assert (result.outcome, result.measure("rehearsal_rto_seconds")) == ("succeeded", images)
    assert result.check("restore of the newest backup").optional
    assert failed.outcome == "unknown"
    assert [item for item in failed.measures if item.name == "rehearsal_rto_seconds"] == [], "nothing is proven"


def test_a_dry_run_makes_nothing(site: Site) -> None:
    result = site.rehearse(dry_run=True)

    assert {change.state for change in result.changes} == {"planned"}
    assert site.left() == []


@pytest.mark.parametrize("refused", ["POST .*/networks/create", "POST .*/containers/create", "POST .*/start"])
def test_what_the_proxy_refuses_fails_and_leaves_nothing(site: Site, engine: DockerEngine, refused: str) -> None:
    with refusing_engine(engine, refused, 403) as url:
        result = site.rehearse(url=url, handed=DRILL)

    assert result.outcome == "failed", result.text()
    assert "denied" in result.text() or "refused" in result.text()
    assert site.left() == []


def test_a_copy_has_nothing_of_production(site: Site) -> None:
    with connect(Targets.model_validate(site.targets()).docker["main"], name="main") as engine:
        item = next(item for item in read_all(engine) if item.service == "web" and item.project == site.project.name)

    body = body_of(item, "net", site.project.name, "7-ab", ["/more"])

    host = body["HostConfig"]
    assert host["Binds"] == [f"{site.secret}:/secret:ro"]
    assert set(host["Tmpfs"]) == {"/data", "/own", "/more"}
    assert "traefik.enable" not in body["Labels"]
    assert not {"PortBindings", "RestartPolicy", "Privileged"} & host.keys()
    assert body["NetworkingConfig"]["EndpointsConfig"] == {"net": {"Aliases": ["web"]}}


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ({"Privileged": True}, "privileges"),
        ({"CapAdd": ["NET_ADMIN"]}, "privileges"),
        ({"Devices": [{"PathOnHost": "/dev/kvm"}]}, "privileges"),
        ({"NetworkMode": "host"}, "namespace"),
        ({"NetworkMode": "container:web"}, "namespace"),
        ({"PidMode": "host"}, "namespace"),
        ({"NetworkMode": "shop"}, ""),
    ],
)
def test_what_shares_with_the_host_has_no_copy(host: dict[str, Any], reason: str) -> None:
    item = ServiceContainer(state=None, labels={}, raw={"HostConfig": host})  # type: ignore[arg-type] # not looked at
    assert reason in why_not(item)
    assert bool(why_not(item)) == bool(reason)


@pytest.mark.parametrize(
    ("source", "harmless"),
    [
        ("/stack/secrets/token", True),
        ("/", False),
        ("/var/run/docker.sock", False),
        ("/srv/x.sock", False),
        ("/proc", False),
    ],
)
def test_no_socket_and_nothing_of_the_kernel_is_mounted(source: str, harmless: bool) -> None:
    assert is_harmless(source) is harmless
