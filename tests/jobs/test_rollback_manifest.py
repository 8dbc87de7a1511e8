"""The rollback manifest on real servers: what is in it and what is not, and that no clean-up takes its images."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.databases import database
from support.job_runs import JobResult, run_job
from support.servers.docker import DockerEngine, docker_engine
from support.servers.postgres import PostgresServer
from support.servers.redis import RedisServer

from maintd.checks.rollback import manifest as layout
from maintd.checks.rollback.image_tags import RollbackTag, superfluous, tag_name
from maintd.errors import TargetError
from maintd.model.evidence import Change, CheckStatus

pytestmark = [pytest.mark.server, pytest.mark.engine]

PROJECT = "shop"


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    """Images are removed here, which must not be those of other tests."""
    with docker_engine() as started, closing(started.client()) as client:
        for service, version in (("web", "1"), ("worker", "1")):
            image = started.busybox(f"shop/{service}:{version}")
            labels = {"com.docker.compose.project": PROJECT, "com.docker.compose.service": service}
            labels |= {"com.docker.compose.config-hash": f"hash-of-{service}"}
            client.containers.run(
                image,
                ["sleep", "100000"],
                name=f"shop-{service}-1",
                labels=labels,
                environment={"ADMIN_TOKEN": "s3cret-of-the-container"},
                network_mode="none",
                stop_signal="SIGKILL",
                detach=True,
            )
        yield started


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A folder of manifests, a stack with configuration and secrets, and a folder for the key."""
    for name in ("manifests", "stack/secrets", "keys"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "stack/docker-compose.yml").write_text("services: {web: {image: shop/web:1}}\n")
    (tmp_path / "stack/.env").write_text("MODE=paper\nADMIN_TOKEN=s3cret-of-the-env\n")
    (tmp_path / "stack/secrets/postgres_password").write_text("s3cret-password")
    return tmp_path


def targets(folders: Path, **more: Any) -> dict[str, Any]:
    return {"folders": {"rollback": {"path": str(folders / "manifests")}}, **more}


def docker_of(engine: DockerEngine) -> dict[str, Any]:
    return {"main": {"url": engine.url, "project": PROJECT}}


def params(folders: Path, **more: Any) -> dict[str, Any]:
    stack = folders / "stack"
    return {
        "files": [str(stack / "docker-compose.yml")],
        "environment": [str(stack / ".env")],
        "secrets": [str(stack / "secrets")],
        "key": str(folders / "keys/rollback.key"),
        **more,
    }


def made(folders: Path) -> list[str]:
    """The names in the folder of manifests, but that of the lock."""
    return sorted(path.name for path in (folders / "manifests").iterdir() if not path.name.endswith(".lock"))


def tags_of(engine: DockerEngine) -> set[str]:
    with closing(engine.client()) as client:
        return {tag for image in client.images.list() for tag in image.tags if tag.startswith("maintd/rollback:")}


def test_all_of_a_stack_is_recorded_and_read_back(
    engine: DockerEngine, folders: Path, postgres_server: PostgresServer, redis_server: RedisServer
) -> None:
    with database(postgres_server) as db, closing(redis_server.client()) as client:
        db.run("CREATE TABLE migrations (id int, name text)", "INSERT INTO migrations VALUES (1, '001_first')")
        lsn = db.ask("SELECT pg_current_wal_lsn()::text")
        saved = client.lastsave()
        places = targets(
            folders,
            docker=docker_of(engine),
            postgres={"main": {"dsn": db.url}},
            redis={"main": {"url": redis_server.url}},
        )

        result = run_job(
            "rollback_manifest", params(folders, schema_versions={"main": "SELECT name FROM migrations"}), places
        )

    assert result.outcome == "succeeded", result.text()
    (name,) = made(folders)
    found = layout.read(folders / "manifests" / name)
    by_service = {image.service: image for image in found.manifest.images}
    assert set(by_service) == {"web", "worker"}
    assert by_service["web"].container == "shop-web-1"
    assert by_service["web"].config_hash == "hash-of-web"
    assert found.manifest.postgres[0].schema_version == (("001_first",),)
    assert _position(found.manifest.postgres[0].lsn) >= _position(lsn)
    assert found.manifest.redis[0].saved_at.timestamp() == saved.timestamp()  # redis-py: local time without a zone
    copy = folders / "manifests" / name / "files/1-docker-compose.yml"
    assert copy.read_text() == (folders / "stack/docker-compose.yml").read_text()
    sha256 = hashlib.sha256((folders / "manifests" / name / "rollback.json").read_bytes()).hexdigest()
    assert sha256 in str(result.check("manifest is whole").observed)
    assert result.handed["rollback_manifest"]["sha256"] == sha256
    with closing(engine.client()) as client:
        for image in found.manifest.images:
            assert client.images.get(image.tag).id == image.image_id


def _position(lsn: str) -> int:
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def test_no_secret_is_in_the_manifest_and_a_changed_one_is_seen(engine: DockerEngine, folders: Path) -> None:
    places = targets(folders, docker=docker_of(engine))
    first = run_job("rollback_manifest", params(folders), places)
    (folders / "stack/secrets/postgres_password").write_text("another-s3cret")
    second = run_job("rollback_manifest", params(folders), places)

    texts = [path.read_text() for path in (folders / "manifests").rglob("rollback.json")]
    assert len(texts) == 2
    assert "s3cret" not in "".join(texts) + first.text() + second.text()
    before, after = (json.loads(text) for text in sorted(texts, key=lambda text: json.loads(text)["name"]))
    assert before["secrets"][0]["hmac_sha256"] != after["secrets"][0]["hmac_sha256"]
    assert before["environment"] == after["environment"]
    assert before["images"][0]["environment"] == after["images"][0]["environment"]
    plain = hashlib.sha256(b"s3cret-password").hexdigest()
    assert before["secrets"][0]["hmac_sha256"] != plain


def test_the_key_is_not_accepted_beside_the_manifests(folders: Path) -> None:
    key = folders / "manifests/rollback.key"

    result = run_job("rollback_manifest", params(folders, key=str(key)), targets(folders))

    assert result.outcome == "failed"
    assert "folder of the manifests" in result.text()
    assert not key.exists()


def test_images_of_a_manifest_survive_a_clean_up_that_keeps_nothing(engine: DockerEngine, folders: Path) -> None:
    engine.busybox("shop/old:1")
    with closing(engine.client()) as client:
        labels = {"com.docker.compose.project": PROJECT, "com.docker.compose.service": "old"}
        container = client.containers.create("shop/old:1", ["true"], labels=labels, network_mode="none")
        places = targets(folders, docker=docker_of(engine))
        run_job("rollback_manifest", {}, places)
        container.remove()
        client.images.remove("shop/old:1")
        (name,) = made(folders)
        record = next(i for i in layout.read(folders / "manifests" / name).manifest.images if i.service == "old")

        keep_nothing = {"keep": [], "image_age": "0s", "generations": 1, "max_share": 1.0, "build_cache": None}
        cleaned = run_job("docker_cleanup", keep_nothing, places)

        assert cleaned.error is None, cleaned.text()
        assert client.images.get(record.tag).id == record.image_id


def test_old_manifests_and_tags_go_by_number_and_what_is_in_use_stays(engine: DockerEngine, folders: Path) -> None:
    places = targets(folders, docker=docker_of(engine))
    with closing(engine.client()) as client:
        image = client.images.get(engine.busybox("shop/gone:1"))
        for day in range(1, 5):
            image.tag("maintd/rollback", f"gone-2026010{day}T000000Z")
        client.images.remove("shop/gone:1")
    results = [run_job("rollback_manifest", {"keep": 2, "keep_tags": 2}, places) for _ in range(3)]

    assert [result.outcome for result in results] == ["succeeded"] * 3, results[-1].text()
    assert len(made(folders)) == 2
    left = tags_of(engine)
    assert {tag for tag in left if "gone" in tag} == {
        "maintd/rollback:gone-20260103T000000Z",
        "maintd/rollback:gone-20260104T000000Z",
    }
    named = {image.tag for name in made(folders) for image in layout.read(folders / "manifests" / name).manifest.images}
    assert named <= left


def test_a_server_that_is_down_is_named_in_the_manifest_and_fails_the_run(
    engine: DockerEngine, folders: Path, free_port: int
) -> None:
    places = targets(folders, docker=docker_of(engine), redis={"main": {"url": f"redis://127.0.0.1:{free_port}/0"}})

    result = run_job("rollback_manifest", {}, places)

    assert result.outcome == "failed"
    assert result.check("redis main: recorded").status is CheckStatus.FAIL
    (name,) = made(folders)
    found = layout.read(folders / "manifests" / name).manifest
    assert list(found.missing) == ["redis main"]
    assert {image.service for image in found.images} >= {"web", "worker"}


def test_what_a_killed_run_has_left_is_removed_by_the_next(folders: Path) -> None:
    (folders / "manifests/.manifest-20260101T000000Z.partial/files").mkdir(parents=True)

    result = run_job("rollback_manifest", params(folders), targets(folders))

    assert result.outcome == "succeeded", result.text()
    assert all(layout.read(folders / "manifests" / name) for name in made(folders))


def test_nothing_is_written_or_tagged_in_a_dry_run(engine: DockerEngine, folders: Path) -> None:
    before = tags_of(engine)

    result = run_job("rollback_manifest", params(folders), targets(folders, docker=docker_of(engine)), dry_run=True)

    assert result.error is None, result.text()
    assert made(folders) == []
    assert tags_of(engine) == before
    assert not (folders / "keys/rollback.key").exists()


def test_a_manifest_is_not_there_until_it_is_whole(folders: Path) -> None:
    seen: list[list[str]] = []

    def note(change: Change) -> None:
        seen.append([name for name in made(folders) if not name.startswith(".")])

    result = run_job("rollback_manifest", params(folders), targets(folders), at_intent=note)

    assert result.outcome == "succeeded", result.text()
    assert seen
    assert all(names == [] for names in seen)


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (lambda path: (path / "rollback.json").write_text("{"), "malformed"),
        (lambda path: (path / "rollback.json").write_text('{"format": "maintd-rollback-9"}'), "unfamiliar"),
        (lambda path: (path / "files/1-docker-compose.yml").write_text("changed"), "malformed"),
        (lambda path: shutil.rmtree(path / "files"), "not_found"),
    ],
)
def test_a_manifest_that_has_changed_is_not_used(folders: Path, damage: Any, cause: str) -> None:
    run_job("rollback_manifest", params(folders), targets(folders))
    (name,) = made(folders)
    damage(folders / "manifests" / name)

    with pytest.raises(TargetError) as caught:
        layout.newest(folders / "manifests")

    assert caught.value.cause == cause


def test_secrets_need_a_key() -> None:
    result: JobResult = run_job("rollback_manifest", {"secrets": ["/etc/hostname"]})

    assert result.error is not None
    assert "keyed hash" in str(result.error)


def test_the_key_is_readable_by_its_owner_only_and_stays(folders: Path) -> None:
    for _ in range(2):
        run_job("rollback_manifest", params(folders), targets(folders))
        key = folders / "keys/rollback.key"
        content = key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_bytes() == content


def test_tags_beyond_the_number_are_superfluous_unless_a_manifest_names_them() -> None:
    tags = [RollbackTag(f"maintd/rollback:web-{at}", "web", at, "sha256:1") for at in ("5", "4", "3", "2")]

    found = superfluous(tags, 2, {"maintd/rollback:web-2"})

    assert [tag.at for tag in found] == ["3"]


def test_a_label_becomes_a_valid_tag() -> None:
    assert tag_name("my service/é", "20260101T000000Z") == "my-service---20260101T000000Z"
