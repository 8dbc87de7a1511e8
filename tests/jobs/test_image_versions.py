"""Newer versions of images: by number, of the same variant, in a registry over a real socket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from support.http_services import Reply, http_service, json_reply
from support.job_runs import JobResult, run_job
from support.servers.registry import Registry, registry

from maintd.checks.docker.versions import newer, version
from maintd.clients.registry import Credentials, HttpRegistryClient, parse
from maintd.errors import TargetError
from maintd.job.attempt_info import Point
from maintd.model.evidence import CheckStatus


@pytest.fixture
def images() -> Iterator[Registry]:
    with registry() as held:
        yield held


@pytest.mark.parametrize(
    ("tag", "tags", "same_major", "newest"),
    [
        ("15.12-alpine", ["15.12-alpine", "15.20-alpine", "18.1-alpine", "15.21"], "15.20-alpine", "18.1-alpine"),
        ("v2.11.2", ["v2.11.31", "v2.9.9", "2.12.0", "v2.11"], "v2.11.31", "v2.11.31"),
        ("3.12.1", ["3.12.2-rc1", "3.13.0-beta.1", "3.12.1"], None, None),
        ("3.12.1-alpine3.19", ["3.12.3-alpine3.22", "3.12.9-slim"], "3.12.3-alpine3.22", "3.12.3-alpine3.22"),
        ("1.9", ["1.10", "1.9.4", "latest", "edge", ""], "1.10", "1.10"),
        ("1.2.3", ["1.2.3", "1.2.2", "nonsense", "1." + "9" * 400], None, None),
    ],
)
def test_the_newest_version_is_of_the_same_form_and_variant(
    tag: str, tags: list[str], same_major: str | None, newest: str | None
) -> None:
    current = version(tag)
    assert current is not None

    found = newer(current, tags)

    assert [item.tag if item else None for item in found] == [same_major, newest]


@pytest.mark.parametrize("tag", ["latest", "7", "20261105", "7-alpine", "", "v3", "stable-2026.1"])
def test_a_tag_without_a_minor_version_has_nothing_to_compare(tag: str) -> None:
    assert version(tag) is None


def client() -> HttpRegistryClient:
    return HttpRegistryClient({}, timeout=timedelta(seconds=2))


def test_tags_are_read_page_by_page(images: Registry) -> None:
    images.tags_per_page = 2
    for number in range(7):
        images.push("app", f"1.{number}", "content")

    tags = client().tags(parse(f"{images.host}/app:1.0"))

    assert (len(tags.names), tags.complete) == (7, True)
    assert sum("/tags/list" in path for _, path in images.asked) == 4


def test_endless_pages_end_at_a_limit(images: Registry) -> None:
    images.tags_per_page = 1
    for number in range(30):
        images.push("app", f"1.{number}", "content")

    tags = client().tags(parse(f"{images.host}/app:1.0"))

    assert (len(tags.names), tags.complete) == (20, False)


def test_tags_are_listed_with_a_login(images: Registry) -> None:
    images.push("app", "1.0", "content")
    images.login = ("ci", "secret")
    logins = {images.host: Credentials(username="ci", password="secret")}  # type: ignore[arg-type]

    tags = HttpRegistryClient(logins, timeout=timedelta(seconds=2)).tags(parse(f"{images.host}/app:1.0"))

    assert tags.names == ("1.0",)


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (json_reply({"tags": [1]}), "malformed"),
        (json_reply({"tags": "1.0"}), "malformed"),
        (json_reply({}), "malformed"),
        (json_reply([]), "malformed"),
        (json_reply({"tags": ["1.0"]}, 403), "denied"),
        (json_reply({}, 404), "empty"),
        (Reply(b'{"tags":["1.0"]}', headers={"Link": '</v2/other/tags/list>; rel="next"'}), "malformed"),
        (Reply(b'{"tags":["1.0"]}', headers={"Link": '<https://example.org/x>; rel="next"'}), "malformed"),
    ],
)
def test_an_answer_of_another_shape_is_an_error(reply: Reply, cause: str) -> None:
    with http_service({"/v2/app/tags/list": reply}) as url, pytest.raises(TargetError) as raised:
        client().tags(parse(f"{url.removeprefix('http://')}/app:1.0"))

    assert raised.value.cause == cause


def check(
    images: Registry, tag: str, through: str, tmp_path: Path, series: Mapping[str, Sequence[Point]] | None = None
) -> JobResult:
    """The job, with an engine that has one container of the image. `series`: measures of earlier runs."""
    name, digest = f"{images.host}/app", images.tags[("app", tag)]
    container = {
        "Id": "c",
        "Name": "/shop",
        "Image": "sha256:1",
        "Config": {"Image": f"{name}:{tag}"},
        "State": {"Status": "running", "ExitCode": 0},
    }
    found = {"Id": "sha256:1", "RepoTags": [f"{name}:{tag}"], "RepoDigests": [f"{name}@{digest}"], "Config": {}}
    replies = {
        "/version": json_reply({"ApiVersion": "1.41"}),
        "/v1.41/containers/json": json_reply([{"Id": "c"}]),
        "/v1.41/containers/c/json": json_reply(container),
        "/v1.41/images/sha256:1/json": json_reply(found),
        f"/v1.41/images/{name}:{tag}/json": json_reply(found),
        f"/v1.41/distribution/{name}:{tag}/json": json_reply(
            {"Descriptor": {"digest": digest, "mediaType": "application/vnd.oci.image.manifest.v1+json"}}
        ),
    }
    with http_service(replies) as url:
        targets = {"docker": {"main": {"url": url.replace("http://", "tcp://")}}}
        return run_job("image_updates", {"through": through}, targets, folder=tmp_path, series=series)


def test_a_newer_version_warns_and_a_newer_major_version_is_logged(images: Registry, tmp_path: Path) -> None:
    for tag in ("1.2.0", "1.4.1", "2.0.0"):
        images.push("app", tag, tag)

    result = check(images, "1.2.0", "registry", tmp_path)

    found = result.check("shop: newer version")
    assert found.status is CheckStatus.WARN, result.text()
    assert found.hint.startswith("1.4.1, found by the first comparison:")
    assert any("2.0.0 is a newer major version" in line for line in result.logs)
    assert result.check("shop: current").status is CheckStatus.OK


@pytest.mark.parametrize(
    ("before", "since"),
    [
        ([("2026-11-15", "1.3.0"), ("2026-11-22", "1.3.0")], "new since the run of 2026-11-22"),
        ([("2026-11-22", "")], "new since the run of 2026-11-22"),
        ([("2026-11-08", ""), ("2026-11-15", "1.4.1"), ("2026-11-22", "1.4.1")], "known since 2026-11-15"),
        # withdrawn for a week
        ([("2026-11-08", "1.4.1"), ("2026-11-15", "1.3.0"), ("2026-11-22", "1.4.1")], "known since 2026-11-22"),
        ([("2026-11-15", "1.4.1"), ("2026-11-22", "1.3.0")], "new since the run of 2026-11-22"),
    ],
)
def test_a_newer_version_is_new_when_the_last_run_did_not_have_it(
    images: Registry, tmp_path: Path, before: list[tuple[str, str]], since: str
) -> None:
    for tag in ("1.2.0", "1.4.1"):
        images.push("app", tag, tag)
    points = [
        Point(
            datetime.fromisoformat(f"{day}T00:00Z"),
            int(bool(tag)),
            {"service": "shop"} | ({"version": tag} if tag else {}),
        )
        for day, tag in before
    ]
    others = [Point(points[-1].at, 1, {"service": "other", "version": "1.4.1"})]

    result = check(images, "1.2.0", "registry", tmp_path, {"image_newer_version": [*points, *others]})

    assert result.check("shop: newer version").hint.startswith(f"1.4.1, {since}: "), result.text()


def test_the_version_that_was_found_is_kept_for_the_next_run(images: Registry, tmp_path: Path) -> None:
    for tag in ("1.2.0", "1.4.1"):
        images.push("app", tag, tag)

    assert (
        check(images, "1.2.0", "registry", tmp_path).measure("image_newer_version", service="shop", version="1.4.1")
        == 1
    )


def test_the_newest_version_is_ok(images: Registry, tmp_path: Path) -> None:
    for tag in ("1.2.0", "1.4.1"):
        images.push("app", tag, tag)

    assert check(images, "1.4.1", "registry", tmp_path).check("shop: newer version").status is CheckStatus.OK


def test_tags_beyond_the_limit_are_unknown_when_the_others_have_no_newer_version(
    images: Registry, tmp_path: Path
) -> None:
    images.tags_per_page = 1
    for number in range(30):
        images.push("app", f"0.{number}", "content")
    images.push("app", "1.0", "content")

    result = check(images, "1.0", "registry", tmp_path)

    assert result.check("shop: newer version").status is CheckStatus.UNKNOWN


def test_through_the_engine_newer_versions_are_unknown_without_an_alarm(images: Registry, tmp_path: Path) -> None:
    images.push("app", "1.0", "content")

    found = check(images, "1.0", "engine", tmp_path).check("main: newer versions")

    assert (found.status, found.optional) == (CheckStatus.UNKNOWN, True)
    assert found.hint == "set through: registry"
