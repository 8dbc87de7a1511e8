"""`docker_cleanup` and networks, on a real engine: reported by default, removed where that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from docker.types import IPAMConfig, IPAMPool
from support.http_services import http_service, json_reply
from support.job_runs import JobResult, run_job, run_with_hook
from support.servers.docker import DockerEngine, docker_engine

from maintd.checks.docker.cleanup import StoredContainer
from maintd.checks.docker.networks import Network, decide_networks
from maintd.clients.docker import PROJECT
from maintd.job.attempt_info import Point
from maintd.model.evidence import Change, ChangeState, CheckStatus

NOW = datetime(2026, 11, 29, tzinfo=UTC)
UNUSED = "main: networks without a container"


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    """Its networks are removed here, which must not be those of other tests."""
    with docker_engine() as started:
        yield started


@pytest.fixture
def client(engine: DockerEngine) -> Iterator[Any]:
    made = engine.client()
    yield made
    made.close()
    engine.remove_all()


def clean(engine: DockerEngine, *, unused: Mapping[str, float] | None = None, **params: Any) -> JobResult:
    """`unused`: by id, for how many days yesterday's and earlier runs have found the network unused."""
    targets = {"docker": {"main": {"url": engine.url}}}
    options = {name: params.pop(name) for name in ("dry_run",) if name in params}
    series = {"docker_network_unused": list(points(unused or {}))}
    return run_job("docker_cleanup", {"build_cache": None, **params}, targets, series=series, **options)


def points(unused: Mapping[str, float]) -> Iterator[Point]:
    for network_id, days in unused.items():
        labels = {"engine": "main", "network": network_id[:24]}
        yield Point(datetime.now(UTC) - timedelta(days=days), 1, labels)


def names(client: Any) -> set[str]:
    return {network.name for network in client.networks.list()} - {"bridge", "host", "none"}


def ids(client: Any) -> dict[str, str]:
    return {network.name: network.id for network in client.networks.list()}


@pytest.mark.engine
def test_an_unused_network_is_reported_and_stays_by_default(engine: DockerEngine, client: Any) -> None:
    engine.network("left-over", 1)

    result = clean(engine, unused={ids(client)["left-over"]: 400})

    assert result.check(UNUSED).observed == 1
    assert "left-over" in result.check(UNUSED).hint
    assert not result.changes
    assert names(client) == {"left-over"}


@pytest.mark.engine
def test_only_what_all_runs_found_unused_for_long_is_removed(engine: DockerEngine, client: Any) -> None:
    for number, name in enumerate(("old", "recent", "unseen", "used", "stopped", "dead-project"), 1):
        if name != "dead-project":
            engine.network(name, number)
    client.networks.create("dead-project", labels={PROJECT: "gone"}, ipam=pool(6))
    client.networks.create("labelled", labels={"maintd.keep": ""}, ipam=pool(7))
    client.networks.create("shop_default", labels={PROJECT: "shop"}, ipam=pool(8))
    image = engine.busybox()
    running = client.containers.create(image, ["sleep", "600"], name="runs", network="used")
    running.start()
    client.containers.create(image, ["true"], name="never-started", network="stopped")
    client.containers.create(image, ["true"], name="shop-1", network_mode="none", labels={PROJECT: "shop"})
    known = ids(client)
    days = {known[name]: 31.0 for name in known if name not in ("recent", "unseen")} | {known["recent"]: 29.0}

    result = clean(engine, unused=days, networks="30d")

    assert names(client) == {"recent", "unseen", "used", "stopped", "labelled", "shop_default"}
    assert {change.target.split()[1] for change in result.changes if change.done} == {"old", "dead-project"}
    assert result.measure("docker_networks_removed") == 2


@pytest.mark.engine
@pytest.mark.parametrize("start", [False, True], ids=["created", "running"])
def test_a_network_that_comes_into_use_after_the_plan_stays(engine: DockerEngine, client: Any, *, start: bool) -> None:
    engine.network("left-over", 1)
    image = engine.busybox()

    def interfere(change: Change) -> None:
        late = client.containers.create(image, ["sleep", "600"], name="late", network="left-over")
        if start:
            late.start()

    logs = interfered(engine, interfere, points({ids(client)["left-over"]: 31}))

    assert names(client) == {"left-over"}
    assert any("network left-over kept: used by" in line for line in logs), logs


@pytest.mark.engine
def test_a_network_that_another_client_removed_after_the_plan_is_no_failure(engine: DockerEngine, client: Any) -> None:
    engine.network("left-over", 1)

    def interfere(change: Change) -> None:
        client.networks.get("left-over").remove()

    logs = interfered(engine, interfere, points({ids(client)["left-over"]: 31}))

    assert any("network left-over kept:" in line for line in logs), logs


@pytest.mark.engine
def test_a_dry_run_plans_and_a_limit_stops_the_removal(engine: DockerEngine, client: Any) -> None:
    for number in range(1, 4):
        engine.network(f"n{number}", number)
    known = dict.fromkeys(ids(client).values(), 31.0)

    planned = clean(engine, unused=known, networks="30d", max_share=1, dry_run=True)
    limited = clean(engine, unused=known, networks="30d", max_networks=2)

    assert [(change.action, change.state) for change in planned.changes] == [
        ("remove network", ChangeState.PLANNED)
    ] * 3
    assert limited.check("main: networks to remove").status is CheckStatus.FAIL
    assert names(client) == {"n1", "n2", "n3"}


def pool(number: int) -> Any:
    return IPAMConfig(pool_configs=[IPAMPool(subnet=f"10.213.{number}.0/24")])


def interfered(engine: DockerEngine, hook: Callable[[Change], None], unused: Iterator[Point]) -> list[str]:
    """The log of a run in which `hook` is called when the removal was declared and is not done yet."""
    params = {"build_cache": None, "networks": "30d"}
    targets = {"docker": {"main": {"url": engine.url}}}
    return run_with_hook("docker_cleanup", params, targets, hook, {"docker_network_unused": list(unused)})


# --- decisions ----------------------------------------------------------------------------------------------------


def network(name: str = "n", **facts: Any) -> Network:
    known: dict[str, Any] = {
        "id": f"id-{name}",
        "driver": "bridge",
        "scope": "local",
        "created_at": NOW - timedelta(days=100),
        "labels": {},
        "users": (),
        "for_others": False,
    }
    return Network(name=name, **{**known, **facts})


def kept(found: Network, containers: Sequence[StoredContainer] = (), days: float = 31) -> str:
    since = {found.id: NOW - timedelta(days=days)}
    return decide_networks([found], containers, timedelta(days=30), "maintd.keep", NOW, since)[0].kept


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, ""),
        ({"scope": "swarm"}, "its scope is swarm"),
        ({"scope": ""}, "its scope is not known"),
        ({"for_others": True}, "other networks need it"),
        ({"users": ("web",)}, "used by web"),
        ({"created_at": None}, "it is not known when it was created"),
        ({"labels": {"maintd.keep": "1"}}, "it has the label maintd.keep"),
    ],
)
def test_what_is_not_known_or_needed_stays(facts: Mapping[str, Any], reason: str) -> None:
    assert kept(network(**facts)) == reason


def test_a_container_uses_a_network_by_its_name_or_id() -> None:
    for used in ("n", "id-n"):
        user = StoredContainer("c", "c", "i", "i", "exited", NOW, "no", {}, False, frozenset({used}))

        assert kept(network(), [user]) == "used by the exited container c"


def test_a_network_is_kept_until_it_was_unused_for_long_enough() -> None:
    assert kept(network(), days=29.9).startswith("unused since")
    assert not kept(network(), days=30)


@pytest.mark.parametrize(("networks", "optional"), [(None, True), ("30d", False)])
def test_networks_that_the_proxy_does_not_show_are_unknown(networks: str | None, *, optional: bool) -> None:
    replies = {
        "/version": json_reply({"ApiVersion": "1.41"}),
        "/v1.41/containers/json": json_reply([]),
        "/v1.41/images/json": json_reply([]),
        "/v1.41/system/df": json_reply({}),
        "/v1.41/networks": json_reply({"message": "forbidden"}, 403),
    }
    with http_service(replies) as url:
        targets = {"docker": {"main": {"url": url.replace("http://", "tcp://")}}}

        check = run_job("docker_cleanup", {"build_cache": None, "networks": networks}, targets).check(UNUSED)

    assert (check.status, check.optional) == (CheckStatus.UNKNOWN, optional)
