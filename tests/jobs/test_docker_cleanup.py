"""A real engine of its own: exactly which images, containers and volumes survive a clean-up."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.job_runs import JobResult, run_job, run_with_hook
from support.servers.base import wait_for
from support.servers.docker import DockerEngine, docker_engine
from support.servers.registry import registry

from maintd.checks.docker import cleanup
from maintd.checks.docker.cleanup import InUseError, Retention, StoredContainer, StoredImage, decide_images
from maintd.clients.docker import PROJECT, SERVICE, Docker, connect
from maintd.job.attempt_info import Point
from maintd.model.evidence import Change, CheckStatus
from maintd.model.target import DockerTarget

NOW = datetime(2026, 3, 1, tzinfo=UTC)
AT_ONCE = {"image_age": "0s", "container_age": "0s", "build_cache": None, "max_share": 1.0}


@pytest.fixture(scope="module")
def own_engine() -> Iterator[DockerEngine]:
    """Its images are removed here, which must not be those of other tests."""
    with docker_engine() as engine:
        yield engine


@pytest.fixture
def engine(own_engine: DockerEngine) -> Iterator[DockerEngine]:
    """Empty at the end: containers, volumes and images."""
    yield own_engine
    own_engine.remove_all()
    client = own_engine.client()
    try:
        for volume in client.volumes.list():
            volume.remove(force=True)
        # A child was made after the image that it is built on.
        for image in sorted(client.images.list(), key=lambda image: image.attrs["Created"], reverse=True):
            client.images.remove(image.id, force=True)
    finally:
        client.close()


@pytest.fixture
def client(engine: DockerEngine) -> Iterator[Any]:
    made = engine.client()
    yield made
    made.close()


@pytest.fixture
def docker(engine: DockerEngine) -> Iterator[Docker]:
    with connect(DockerTarget(url=engine.url)) as made:
        yield made


def clean(
    engine: DockerEngine, *, dry_run: bool = False, series: Mapping[str, Sequence[Point]] | None = None, **params: Any
) -> JobResult:
    targets = {"docker": {"main": {"url": engine.url}}}
    return run_job("docker_cleanup", {**AT_ONCE, **params}, targets, dry_run=dry_run, series=series)


def tags(client: Any) -> set[str]:
    """All tags, and how many images have none."""
    images = client.images.list()
    return {tag for image in images for tag in image.tags} | {
        f"{sum(not image.tags for image in images)} without a name"
    }


def ended(client: Any, image: str, name: str, words: str = "echo last words", **more: Any) -> Any:
    """A container that has run to its end."""
    container = client.containers.create(image, ["sh", "-c", words], name=name, network_mode="none", **more)
    container.start()
    wait_for(lambda: client.containers.get(container.id).status == "exited", f"{name} to end")
    return container


def names(client: Any) -> set[str]:
    return {container.name for container in client.containers.list(all=True)}


@pytest.mark.engine
def test_the_newest_generations_stay_and_so_does_what_any_container_uses(engine: DockerEngine, client: Any) -> None:
    for number in range(1, 8):
        engine.busybox(f"app/x:{number}")
    client.containers.create("app/x:1", ["true"], name="never-started", network_mode="none")
    ended(client, "app/x:2", "stopped", labels={PROJECT: "cli-trading"})

    result = clean(engine)

    assert tags(client) == {"app/x:1", "app/x:2", "app/x:5", "app/x:6", "app/x:7", "0 without a name"}, result.text()
    assert {change.details["tags"] for change in result.changes} == {"app/x:3", "app/x:4"}
    plan = json.loads(Path(result.artifacts[0].path).read_text())
    kept = {image["tags"][0]: image["kept"] for image in plan["images"]}
    assert kept["app/x:1"] == "used by the created container never-started"
    assert kept["app/x:2"] == "used by the exited container stopped"
    assert kept["app/x:3"] is None
    assert kept["app/x:7"] == "among the 3 newest of its repository"
    assert result.measure("docker_images_removed") == 2


@pytest.mark.engine
def test_the_build_before_the_last_stays_though_it_has_no_name_any_more(engine: DockerEngine, client: Any) -> None:
    for _ in range(5):
        engine.busybox("app/y:latest")

    clean(engine, generations=2)

    assert tags(client) == {"app/y:latest", "2 without a name"}


@pytest.mark.engine
def test_tags_and_labels_for_a_rollback_are_kept(engine: DockerEngine, client: Any) -> None:
    engine.busybox("maintd/rollback:web-20260101T000000Z")
    engine.busybox("app/z:rollback-1")
    client.images.build(fileobj=io.BytesIO(b"FROM app/z:rollback-1\nLABEL maintd.keep=yes\n"), tag="app/z:old", rm=True)
    for number in range(1, 4):
        engine.busybox(f"app/z:{number}")
        engine.busybox(f"maintd/rollback:web-2026020{number}T000000Z")

    result = clean(engine, generations=1)

    left = tags(client)
    assert {"maintd/rollback:web-20260101T000000Z", "app/z:rollback-1", "app/z:old", "app/z:3"} <= left, result.text()
    assert not {"app/z:1", "app/z:2"} & left


@pytest.mark.engine
def test_an_image_with_two_names_is_removed_only_when_both_are_old(engine: DockerEngine, client: Any) -> None:
    for repository in ("one/a", "one/b"):
        engine.busybox(f"{repository}:1")
    client.images.get("one/a:1").tag("two/a", "1")
    client.images.get("one/a:1").tag("one/a", "first")
    client.images.get("one/b:1").tag("alone/b", "1")
    for repository in ("one/a", "two/a", "one/b"):
        engine.busybox(f"{repository}:2")

    result = clean(engine, generations=1)

    # one/b:1 is old, but alone/b has no newer generation.
    assert tags(client) == {"one/a:2", "two/a:2", "one/b:1", "one/b:2", "alone/b:1", "0 without a name"}, result.text()
    assert len(result.changes) == 1


@pytest.mark.engine
def test_an_image_that_was_tagged_a_minute_ago_stays_however_old_its_build(engine: DockerEngine, client: Any) -> None:
    for number in range(1, 6):
        engine.busybox(f"app/x:{number}")

    clean(engine, image_age="14d", generations=1)

    assert len(tags(client)) == 6


@pytest.mark.engine
def test_an_unused_parent_with_a_label_to_keep_outlives_what_was_built_on_it(
    engine: DockerEngine, client: Any, docker: Docker
) -> None:
    engine.busybox("app/base:1")
    client.images.build(fileobj=io.BytesIO(b"FROM app/base:1\nLABEL maintd.keep=yes\n"), tag="app/kept:1", rm=True)
    client.images.build(fileobj=io.BytesIO(b"FROM app/kept:1\nLABEL a=b\n"), tag="app/child:1", rm=True)
    parent = client.images.get("app/kept:1").id
    client.api.remove_image("app/kept:1", noprune=True)  # now it has no name
    child = next(image for image in cleanup.stored_images(docker)[0] if "app/child:1" in image.tags)

    cleanup.remove_image(docker, child)

    # By default the engine prunes parents without a name along with an image, whatever their labels say.
    assert client.images.get(parent).tags == []
    assert tags(client) == {"app/base:1", "1 without a name"}


@pytest.mark.engine
def test_a_pulled_image_is_removed_once_the_runs_have_found_it_unused_for_long(
    engine: DockerEngine, client: Any
) -> None:
    now = datetime.now(UTC)
    with registry() as source:
        for number in range(1, 5):
            source.push("app", str(number), f"content {number}", created=f"2020-01-0{number}T00:00:00Z")
            client.api.pull(f"{source.host}/app", str(number))
        ids = {number: client.images.get(f"{source.host}/app:{number}").id for number in range(1, 5)}

    def seen(*days_and_use: tuple[int, int]) -> dict[str, list[Point]]:
        labels = {"engine": "main", "image": ids[1].removeprefix("sha256:")[:24]}
        return {"docker_image_unused": [Point(now - timedelta(days=d), v, labels) for d, v in days_and_use]}

    def run(*days_and_use: tuple[int, int]) -> JobResult:
        return clean(engine, image_age="14d", series=seen(*days_and_use))

    # The engine does not note when an image was pulled; it was built years ago and may have come a minute ago.
    first = run()
    in_use_since = run((90, 1), (20, 0), (10, 1))
    assert not first.changes + in_use_since.changes
    assert first.measure("docker_image_unused", image=ids[1].removeprefix("sha256:")[:24]) == 1

    last = run((21, 0), (15, 1), (8, 1))

    assert [ids[1] in change.target for change in last.changes] == [True], last.text()
    assert {image.id for image in client.images.list()} == {ids[2], ids[3], ids[4]}


@pytest.mark.engine
def test_stopped_containers_are_removed_after_their_last_lines_were_saved(engine: DockerEngine, client: Any) -> None:
    image = engine.busybox()
    project = {PROJECT: "cli-trading", SERVICE: "migrator"}
    ended(client, image, "crashed", "echo out; echo err >&2; exit 3")
    ended(client, image, "long", "i=0; while [ $i -lt 20 ]; do echo line-$i; i=$((i+1)); done")
    ended(client, image, "one-off", labels={**project, "com.docker.compose.oneoff": "True"})
    ended(client, image, "of-project", labels=project)
    ended(client, image, "kept", labels={"maintd.keep": ""})
    client.containers.create(image, ["true"], name="created", network_mode="none")
    client.containers.run(image, ["sleep", "600"], name="running", network_mode="none", detach=True)
    stopped = client.containers.run(
        image,
        ["sleep", "600"],
        name="stopped-by-hand",
        network_mode="none",
        detach=True,
        restart_policy={"Name": "unless-stopped"},
    )
    stopped.kill()
    wait_for(lambda: client.containers.get(stopped.id).status == "exited", "it to be stopped")

    result = clean(engine, log_lines=5)

    assert names(client) == {"of-project", "kept", "created", "running", "stopped-by-hand"}, result.text()
    saved = {artifact.name.split("-")[2]: Path(artifact.path).read_text() for artifact in result.artifacts[1:]}
    assert {line.split(" ", 1)[1] for line in saved["crashed"].splitlines()} == {"out", "err"}
    assert [line.split(" ", 1)[1] for line in saved["long"].splitlines()] == [f"line-{n}" for n in range(15, 20)]
    order = [item for item in result.items if isinstance(item, Change) or getattr(item, "type", "") == "artifact"]
    removed = next(i for i, item in enumerate(order) if isinstance(item, Change) and "crashed" in item.target)
    assert "crashed" in getattr(order[removed - 1], "name", "")


@pytest.mark.engine
def test_a_container_whose_log_cannot_be_saved_stays(engine: DockerEngine, client: Any) -> None:
    ended(client, engine.busybox(), "silent", log_config={"Type": "none", "Config": {}})

    result = clean(engine)

    assert names(client) == {"silent"}
    assert result.check("main: containers that could not be removed").status is CheckStatus.FAIL, result.text()


@pytest.mark.engine
def test_volumes_are_counted_and_never_removed(engine: DockerEngine, client: Any) -> None:
    image = engine.busybox()
    client.volumes.create("precious")
    client.volumes.create("unused")
    ended(client, image, "with-volumes", "echo x > /a/x; echo y > /b/y", volumes=["/a", "precious:/b"])
    before = {volume.name for volume in client.volumes.list()}

    result = clean(engine, volume_age="0s", max_dangling="1")

    assert names(client) == set()
    assert {volume.name for volume in client.volumes.list()} == before
    assert len(before) == 3
    again = clean(engine, volume_age="0s", max_dangling="1")
    check = again.check("main: volumes without a container")
    assert check.status is CheckStatus.WARN, again.text()
    assert "never removed here" in check.hint
    assert again.measure("docker_dangling_volumes") == 3
    assert result.measure("docker_dangling_volumes") == 1


@pytest.mark.engine
def test_what_comes_into_use_between_plan_and_removal_survives(engine: DockerEngine, client: Any) -> None:
    for number in range(1, 4):
        engine.busybox(f"app/x:{number}")
    idle = ended(client, engine.busybox(), "idle", "test -e /tmp/again && sleep 600; touch /tmp/again")

    def interfere(change: Change) -> None:
        if change.action == "remove container":
            idle.start()
        elif "app/x:1" in change.target:
            client.containers.create("app/x:1", ["true"], name="late", network_mode="none")

    logs = interfered(engine, interfere, generations=1)

    assert names(client) == {"idle", "late"}
    assert "app/x:1" in tags(client)
    assert "app/x:2" not in tags(client)
    assert any("container idle kept: it was started again" in line for line in logs)
    assert any("image app/x:1 kept: used by the created container late" in line for line in logs)


def interfered(engine: DockerEngine, hook: Callable[[Change], None], **params: Any) -> list[str]:
    """The log of a run in which `hook` is called when a change was declared and is not done yet."""
    return run_with_hook("docker_cleanup", {**AT_ONCE, **params}, {"docker": {"main": {"url": engine.url}}}, hook)


@pytest.mark.engine
def test_when_the_engine_declines_all_tags_are_as_before(engine: DockerEngine, client: Any, docker: Docker) -> None:
    engine.busybox("app/base:1")
    client.images.get("app/base:1").tag("app/base", "first")
    client.images.get("app/base:1").tag("other/base", "1")
    client.images.build(fileobj=io.BytesIO(b"FROM app/base:1\nLABEL a=b\n"), tag="app/child:1", rm=True)
    images, parents = cleanup.stored_images(docker)
    base = next(image for image in images if "app/base:1" in image.tags)

    with pytest.raises(InUseError, match="dependent child"):
        cleanup.remove_image(docker, base)

    assert tags(client) == {"app/base:1", "app/base:first", "other/base:1", "app/child:1", "0 without a name"}
    assert base.id in parents


@pytest.mark.engine
def test_a_tag_that_moved_since_the_plan_saves_its_image(engine: DockerEngine, client: Any, docker: Docker) -> None:
    engine.busybox("app/x:1")
    (planned,), _ = cleanup.stored_images(docker)
    engine.busybox("app/x:1")

    with pytest.raises(InUseError, match="tags have changed"):
        cleanup.remove_image(docker, planned)

    assert tags(client) == {"app/x:1", "1 without a name"}


@pytest.mark.engine
def test_a_dry_run_shows_the_plan_and_removes_nothing(engine: DockerEngine, client: Any) -> None:
    for number in range(1, 4):
        engine.busybox(f"app/x:{number}")
    ended(client, engine.busybox(), "ended")

    result = clean(engine, dry_run=True, generations=1, build_cache="14d")

    assert [(change.action, change.done) for change in result.changes] == [
        ("remove container", False),
        ("remove image", False),
        ("remove image", False),
        ("prune build cache", False),
    ]
    assert len(tags(client)) == 5
    assert names(client) == {"ended"}
    assert [artifact.name for artifact in result.artifacts] == ["plan-main.json"]


@pytest.mark.engine
def test_a_plan_beyond_a_limit_removes_nothing_of_its_kind(engine: DockerEngine, client: Any) -> None:
    for number in range(1, 9):
        engine.busybox(f"app/x:{number}")

    by_count, by_share = clean(engine, generations=1, max_images=3), clean(engine, generations=1, max_share=0.3)

    for result in (by_count, by_share):
        check = result.check("main: images to remove")
        assert (check.observed, check.status) == (7, CheckStatus.FAIL)
        assert "max_share or max_images" in check.hint
    assert len(tags(client)) == 9


@pytest.mark.engine
@pytest.mark.parametrize(
    ("max_share", "at_once", "then"),
    [
        (0.01, 1, 1),  # of 5 images, then of the rest; and never none
        (0.4, 2, 1),
        (0.6, 3, 1),
        (0.79, 3, 1),
        (1.0, 4, 0),
    ],
)
def test_of_a_short_plan_the_share_is_removed_oldest_first_and_the_next_run_goes_on(
    engine: DockerEngine, client: Any, max_share: float, at_once: int, then: int
) -> None:
    for number in range(1, 6):
        engine.busybox(f"app/x:{number}")

    first = clean(engine, generations=1, max_share=max_share)
    after_first = tags(client)
    second = clean(engine, generations=1, max_share=max_share)

    left = [f"app/x:{number}" for number in range(1 + at_once, 6)]
    assert after_first == {*left, "0 without a name"}, first.text()
    assert first.check("main: images to remove").status is CheckStatus.OK
    assert first.measure("docker_images_removed") == at_once
    assert any("because of max_share" in line for line in first.logs) == (at_once < 4)
    assert tags(client) == {*left[then:], "0 without a name"}, second.text()


@pytest.mark.engine
def test_the_build_cache_is_dropped_where_that_is_asked_for(engine: DockerEngine) -> None:
    result = clean(engine, build_cache="14d")

    assert [change.action for change in result.changes] == ["prune build cache"]
    assert result.measure("docker_build_cache_freed_bytes") == 0
    assert result.outcome == "succeeded", result.text()


def test_an_engine_that_is_down_fails(tmp_path: Path) -> None:
    result = run_job("docker_cleanup", {}, {"docker": {"main": {"url": f"unix://{tmp_path}/no.sock"}}})

    assert result.outcome == "failed"
    assert "dockerd" in result.check("main: cleaned").hint


def image(
    number: int,
    *tags: str,
    digests: tuple[str, ...] = (),
    days: float | None = 100,
    labels: dict[str, str] | None = None,
) -> StoredImage:
    tagged = None if days is None else NOW - timedelta(days=days)
    return StoredImage(f"sha256:{number:064x}", tags, digests, labels or {}, 1000, NOW, tagged)


def container(text: str, image_id: str = "sha256:gone") -> StoredContainer:
    return StoredContainer("c", "web", text, image_id, "exited", NOW, "", {}, False)


RULES = Retention(1, timedelta(days=14), timedelta(days=7), (), "maintd.keep")
NEWER = image(99, "app/x:9", days=20)


@pytest.mark.parametrize(
    ("text", "image_id"),
    [
        ("app/x:1", "sha256:gone"),  # by name: the next start takes it
        ("app/x@sha256:d1", "sha256:gone"),  # by the digest under which it was pulled
        ("app/x:9", f"sha256:{1:064x}"),  # by id, though the tag has moved on
        (f"sha256:{1:064x}", "sha256:gone"),
        ("anything", "sha256:d1"),  # a containerd store has the manifest's digest for an id
    ],
)
def test_every_way_to_use_an_image_counts(text: str, image_id: str) -> None:
    old = image(1, "app/x:1", digests=("app/x@sha256:d1",))

    decisions = decide_images([old, NEWER], [container(text, image_id)], frozenset(), RULES, NOW)

    assert "used by" in next(one.kept for one in decisions if one.subject is old)


def test_an_image_without_a_known_time_here_stays() -> None:
    old = image(1, "app/x:1", days=None)

    decisions = decide_images([old, NEWER], [], frozenset(), RULES, NOW)

    assert "not known" in next(one.kept for one in decisions if one.subject is old)


def test_a_nameless_image_counts_with_its_compose_service() -> None:
    labels = {PROJECT: "cli-trading", SERVICE: "web"}
    now, before, old = (image(n, *t, days=20 + n, labels=labels) for n, t in ((1, ["w:1"]), (2, []), (3, [])))
    rules = Retention(2, timedelta(days=14), timedelta(days=7), (), "maintd.keep")

    decisions = decide_images([now, before, old], [], frozenset(), rules, NOW)

    assert [one.subject for one in decisions if one.removable] == [old]


def test_a_name_without_a_tag_means_latest() -> None:
    old = image(1, "redis:latest", days=100)
    newer = image(2, "redis:8", days=20)

    decisions = decide_images([old, newer], [container("redis")], frozenset(), RULES, NOW)

    assert "used by" in next(one.kept for one in decisions if one.subject is old)
