"""`image_updates` on a real engine and a registry over a real socket: moved tags, indexes, limits, logins, pulls."""

from __future__ import annotations

import json
import socket
import stat
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.http_services import Reply, http_service, port_that_hangs
from support.job_runs import JobResult, run_job
from support.servers.docker import DockerEngine
from support.servers.refusing_engine import replaced_answers
from support.servers.registry import Registry, registry

from maintd.checks.docker.end_of_life import Software, Support, software, support
from maintd.checks.docker.image_updates import floating_reason
from maintd.clients.registry import Credentials, HttpRegistryClient, RateLimitedError, RemoteImage, parse
from maintd.errors import TargetError
from maintd.model.evidence import ChangeState, CheckStatus

DIGEST = "sha256:" + "a" * 64

# --- names, tags, dates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "registry_", "repository", "tag", "digest", "familiar"),
    [
        ("redis", "docker.io", "library/redis", "latest", "", "redis"),
        ("redis:7-alpine", "docker.io", "library/redis", "7-alpine", "", "redis"),
        ("grafana/grafana:11.2.0", "docker.io", "grafana/grafana", "11.2.0", "", "grafana/grafana"),
        ("docker.io/library/redis:7", "docker.io", "library/redis", "7", "", "redis"),
        ("ghcr.io/a/b/c:v1", "ghcr.io", "a/b/c", "v1", "", "ghcr.io/a/b/c"),
        ("127.0.0.1:5000/app", "127.0.0.1:5000", "app", "latest", "", "127.0.0.1:5000/app"),
        ("localhost/app:2", "localhost", "app", "2", "", "localhost/app"),
        (f"redis@{DIGEST}", "docker.io", "library/redis", "", DIGEST, "redis"),
        (f"redis:7.2.4@{DIGEST}", "docker.io", "library/redis", "7.2.4", DIGEST, "redis"),
    ],
)
def test_a_name_is_read_as_the_engine_reads_it(
    text: str, registry_: str, repository: str, tag: str, digest: str, familiar: str
) -> None:
    found = parse(text)

    assert (found.registry, found.repository, found.tag, found.digest) == (registry_, repository, tag, digest)
    assert found.familiar == familiar


@pytest.mark.parametrize("text", ["", "UPPER", "redis@7", "a" * 64, DIGEST])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"image|digest"):
        parse(text)


@pytest.mark.parametrize(
    ("tag", "why"),
    [
        ("latest", "it names no version"),
        ("alpine", "it names no version"),
        ("7-alpine", "it names only a major version"),
        ("v3", "it names only a major version"),
        ("v2.11", ""),
        ("15.20-alpine", ""),
        ("20241105", ""),
    ],
)
def test_a_tag_floats_unless_it_names_a_minor_version(tag: str, why: str) -> None:
    assert floating_reason(tag) == why


def test_the_version_is_the_images_own_word_before_the_tags() -> None:
    assert software("library/node", "20-alpine", {"NODE_VERSION": "20.18.3"}, {}) == Software("nodejs", "20.18.3")
    assert software("library/postgres", "latest", {"PG_VERSION": "15.12-1.pgdg120+1"}, {}) == Software(
        "postgresql", "15.12"
    )
    assert software("library/traefik", "v2.11", {}, {}) == Software("traefik", "2.11")
    assert software("grafana/grafana", "latest", {}, {}) == Software("grafana", "")
    assert software("acme/shop", "1.0", {}, {}) is None


@pytest.mark.parametrize(
    ("product", "version", "expected"),
    [
        # The dates of the stack's own images, by https://endoflife.date
        ("nodejs", "20.18.3", Support("20", date(2026, 4, 30))),
        ("traefik", "2.11.31", Support("2.11", date(2026, 2, 1))),
        ("postgresql", "15.20", Support("15", date(2027, 11, 11))),
        ("redis", "7.0.15", Support("7.0", date(2024, 7, 29))),
        ("prometheus", "3.1.0", Support("3.1", date(2025, 2, 13))),
        ("prometheus", "3.10.1", Support("3.10", date(2026, 4, 8))),
        ("redis", "7", None),
        ("nodejs", "2", None),
        ("redis", "", None),
    ],
)
def test_support_is_found_by_whole_version_numbers(product: str, version: str, expected: Support | None) -> None:
    assert support(Software(product, version)) == expected


def test_an_operators_own_date_goes_first() -> None:
    more = {"nodejs": {"20": date(2027, 1, 1), "26": date(2029, 4, 30)}}

    assert support(Software("nodejs", "20.1"), more) == Support("20", date(2027, 1, 1))
    assert support(Software("nodejs", "26.0"), more) == Support("26", date(2029, 4, 30))


# --- the registry's own API ---------------------------------------------------------------------------------------


@pytest.fixture
def images() -> Iterator[Registry]:
    with registry() as held:
        yield held


def asking(**login: str) -> HttpRegistryClient:
    logins = {host: Credentials(username="ci", password=password) for host, password in login.items()}  # type: ignore[arg-type]
    return HttpRegistryClient(logins, timeout=timedelta(seconds=2))


def test_an_index_is_asked_for_before_the_manifest_of_one_platform(images: Registry) -> None:
    pushed = images.push("app", "1.0", "one", index=True)
    reference = parse(f"{images.host}/app:1.0")

    found = asking().remote(reference)

    assert found.digest == pushed.digest != pushed.platform_digest
    assert found.is_index
    assert asking().contains(reference, found, pushed.platform_digest)
    assert not asking().contains(reference, found, DIGEST)
    assert images.asked[0] == ("HEAD", "/v2/app/manifests/1.0")


def test_a_digest_that_the_registry_does_not_send_is_computed(images: Registry) -> None:
    pushed = images.push("app", "1.0", "one")
    images.omit_digest_header = True

    assert asking().remote(parse(f"{images.host}/app:1.0")).digest == pushed.digest


def test_a_token_is_fetched_with_the_login_and_a_wrong_one_is_denied(images: Registry) -> None:
    pushed = images.push("app", "1.0", "one")
    images.login = ("ci", "secret")
    reference = parse(f"{images.host}/app:1.0")

    assert asking(**{images.host: "secret"}).remote(reference).digest == pushed.digest
    for wrong in ({}, {images.host: "guess"}):
        with pytest.raises(TargetError) as caught:
            asking(**wrong).remote(reference)
        assert caught.value.cause == "denied"
        assert "guess" not in str(caught.value)


def test_a_short_pause_is_kept_and_a_long_one_given_up(images: Registry) -> None:
    pushed = images.push("app", "1.0", "one")
    reference = parse(f"{images.host}/app:1.0")
    images.limited, images.retry_after = 1, "0"

    assert asking().remote(reference).digest == pushed.digest

    images.limited, images.retry_after = 1, "600"
    with pytest.raises(RateLimitedError, match="429"):
        asking().remote(reference)


@pytest.mark.parametrize(
    ("head", "cause"),
    [
        (Reply(b"", 404), "empty"),
        (Reply(b"<html>login</html>", 200, "text/html", {"Docker-Content-Digest": "nonsense"}), "malformed"),
        (Reply(b"", 302, headers={"Location": "https://login.example/"}), "failed"),
        (Reply(b"", 401, headers={"WWW-Authenticate": 'Bearer realm="ftp://elsewhere/"'}), "malformed"),
        (Reply(b"", 500), "failed"),
    ],
)
def test_what_is_not_a_registry_is_recognized(head: Reply, cause: str) -> None:
    with http_service({"/v2/app/manifests/1": head}) as url, pytest.raises(TargetError) as caught:
        asking().remote(parse(f"{url.removeprefix('http://')}/app:1"))
    assert caught.value.cause == cause


def test_a_registry_that_hangs_and_one_that_does_not_exist_differ(free_port: int) -> None:
    quick = HttpRegistryClient({}, timeout=timedelta(milliseconds=200))
    with port_that_hangs() as port, pytest.raises(TargetError) as caught:
        quick.remote(parse(f"127.0.0.1:{port}/app:1"))
    assert caught.value.cause == "timed_out"
    with pytest.raises(TargetError) as caught:
        quick.remote(parse(f"127.0.0.1:{free_port}/app:1"))
    assert caught.value.cause == "refused"


# --- the job, on a real engine ------------------------------------------------------------------------------------


@dataclass
class Project:
    """A compose project of its own on the session's engine, and a registry of its own."""

    engine: DockerEngine
    images: Registry
    name: str = field(default_factory=lambda: f"p{uuid.uuid4().hex[:8]}")

    def reference(self, tag: str, name: str = "app") -> str:
        return f"{self.images.host}/{name}:{tag}"

    def pull(self, tag: str, name: str = "app") -> str:
        """As `docker compose pull`: the tag here moves. The image's id."""
        with closing(self.engine.client()) as client:
            client.api.pull(f"{self.images.host}/{name}", tag=tag, auth_config={"username": "ci", "password": "secret"})
            return str(client.api.inspect_image(self.reference(tag, name))["Id"])

    def create(self, service: str, image: str) -> None:
        """A container that need not run."""
        labels = {"com.docker.compose.project": self.name, "com.docker.compose.service": service}
        with closing(self.engine.client()) as client:
            client.containers.create(image, command=["/none"], labels=labels, name=f"{self.name}-{service}")

    def ids(self) -> set[str]:
        with closing(self.engine.client()) as client:
            return {str(image["Id"]) for image in client.api.images(all=True)}

    def job(self, params: Mapping[str, Any] | None = None, **options: Any) -> JobResult:
        target = {"url": self.engine.url, "project": self.name}
        return run_job("image_updates", params or {}, {"docker": {"main": target}}, **options)


@pytest.fixture
def project(docker_server: DockerEngine, images: Registry) -> Iterator[Project]:
    made = Project(docker_server, images)
    yield made
    with closing(docker_server.client()) as client:
        for container in client.containers.list(all=True, filters={"label": f"com.docker.compose.project={made.name}"}):
            container.remove(force=True)
        for image in client.images.list():
            if any(images.host in digest for digest in image.attrs.get("RepoDigests") or ()):
                client.images.remove(image.id, force=True)


THROUGH = pytest.mark.parametrize("through", ["engine", "registry"])
engine = pytest.mark.engine


@engine
@THROUGH
def test_an_image_is_current_until_its_tag_moves_in_the_registry(project: Project, through: str) -> None:
    project.images.push("app", "1.0", "one", index=True)
    project.pull("1.0")
    project.create("shop", project.reference("1.0"))
    before = project.ids()

    current = project.job({"through": through})
    project.images.push("app", "1.0", "two", index=True)
    behind = project.job({"through": through})

    assert current.check("shop: current").observed == "current"
    assert current.measure("image_behind", service="shop") == 0
    assert current.outcome == "succeeded", current.text()
    check = behind.check("shop: current")
    assert (check.status, str(check.observed).partition(":")[0]) == (CheckStatus.WARN, "behind")
    assert behind.measure("image_behind", service="shop") == 1
    assert not behind.changes
    assert project.ids() == before
    assert not [path for method, path in project.images.asked[-1:] if method == "GET" and "blobs" in path]


@engine
def test_an_image_pulled_by_its_platforms_digest_is_found_in_the_index_by_the_registry_only(project: Project) -> None:
    pushed = project.images.push("app", "1.0", "one", index=True)
    with closing(project.engine.client()) as client:
        client.api.pull(f"{project.images.host}/app", tag=pushed.platform_digest)
        client.api.tag(f"{project.images.host}/app@{pushed.platform_digest}", f"{project.images.host}/app", "1.0")
    project.create("shop", project.reference("1.0"))

    asked = project.job({"through": "registry"})
    told = project.job({"through": "engine"})

    assert asked.check("shop: current").observed == "current"
    assert told.check("shop: current").status is CheckStatus.UNKNOWN
    assert "through: registry" in told.check("shop: current").hint


@engine
def test_an_image_that_was_pulled_and_not_deployed_warns(project: Project) -> None:
    project.images.push("app", "latest", "one")
    project.pull("latest")
    project.create("shop", project.reference("latest"))
    project.images.push("app", "latest", "two")
    project.pull("latest")

    result = project.job()

    assert str(result.check("shop: newest image here").observed).startswith("not running")
    assert str(result.check("shop: current").observed).startswith("behind")
    assert result.check("shop: tag").observed == "it names no version"
    assert result.outcome == "warned"


@engine
def test_nothing_is_pulled_unless_asked_and_then_by_digest_beside_the_image_in_use(project: Project) -> None:
    project.images.push("app", "1.0", "one", index=True)
    old = project.pull("1.0")
    project.create("shop", project.reference("1.0"))
    newer = project.images.push("app", "1.0", "two", index=True)

    dry = project.job({"pull": True}, dry_run=True)
    before = project.ids()
    result = project.job({"pull": True})

    assert [(change.action, change.done) for change in dry.changes] == [("pull", False)]
    assert old in before
    assert [change.action for change in result.changes] == ["pull", "tag"]
    pulled = f"{project.images.host}/app@{newer.digest}"
    assert result.changes[0].target == pulled
    assert result.changes[0].details["before"] == old
    assert len(project.ids() - before) == 1
    with closing(project.engine.client()) as client:
        assert client.api.inspect_image(project.reference("1.0"))["Id"] == old  # no tag has moved
        assert client.api.inspect_image(pulled)["Id"] != old
        rollback = result.changes[1].target
        assert client.api.inspect_image(rollback)["Id"] == old
        client.api.remove_image(rollback)
    assert result.check("shop: pulled").status is CheckStatus.OK
    assert str(result.check("shop: newest image here").observed).startswith("not running")


@engine
def test_a_pull_that_breaks_off_fails_and_the_image_in_use_stays(project: Project) -> None:
    project.images.push("app", "1.0", "one")
    old = project.pull("1.0")
    project.create("shop", project.reference("1.0"))
    project.images.push("app", "1.0", "two")
    project.images.blobs.clear()

    result = project.job({"pull": True})

    assert result.check("shop: pulled").status is CheckStatus.FAIL
    with closing(project.engine.client()) as client:
        assert client.api.inspect_image(project.reference("1.0"))["Id"] == old
        client.api.remove_image(result.changes[1].target)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LAYER = b'{"status":"Downloading","progressDetail":{"current":1048576,"total":4194304},"id":"a1"}\n'
TRICKLES = {
    "lines of the same progress": (CHUNKED, b"%x\r\n%s\r\n" % (len(LAYER), LAYER)),
    "a line without an end": (CHUNKED, b"1\r\n{\r\n"),
    "spaces in a body without a length": (HEAD + b"\r\n", b" "),
    "lines in a body without a length": (HEAD + b"\r\n", LAYER),
    "a body of a declared length": (HEAD + b"Content-Length: 99999999\r\n\r\n", b'{"status":"Waiting"}\n'),
}


@engine
@pytest.mark.parametrize("trickle", TRICKLES)
def test_a_pull_that_trickles_on_ends_at_its_limit_and_the_image_in_use_stays(project: Project, trickle: str) -> None:
    project.images.push("app", "1.0", "one")
    old = project.pull("1.0")
    project.create("shop", project.reference("1.0"))
    project.images.push("app", "1.0", "two")
    ended = threading.Event()

    def send(client: socket.socket) -> None:
        head, piece = TRICKLES[trickle]
        client.sendall(head)
        while not ended.wait(0.02):  # until the client has closed the connection, or for as long as the test
            client.sendall(piece)

    with replaced_answers(project.engine, r"POST /v[\d.]+/images/create", send) as url:
        try:
            target = {"url": url, "project": project.name}
            params = {"pull": True, "through": "registry", "pull_limit": "1s"}
            result = run_job("image_updates", params, {"docker": {"main": target}}, timeout=timedelta(hours=1))
        finally:
            ended.set()

    check = result.check("shop: pulled")
    assert (check.status, str(check.observed).partition(":")[0]) == (CheckStatus.FAIL, "timed_out"), result.text()
    assert "pull_limit" in check.hint
    pull = next(change for change in result.changes if change.action == "pull")
    assert pull.state is ChangeState.UNCERTAIN
    assert "stopped after" in pull.cause
    if b"Downloading" in TRICKLES[trickle][1]:
        assert any("pull of" in line and "Downloading, 1.0 MiB of 4.0 MiB" in line for line in result.logs), result.logs
        assert 1048576 in {progress.done for progress in result.progress}
    with closing(project.engine.client()) as client:
        assert client.api.inspect_image(project.reference("1.0"))["Id"] == old
        client.api.remove_image(result.changes[-1].target)


@engine
@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("pull access denied for app, repository does not exist or may require 'docker login'", "denied"),
        ("Get https://registry/v2/: unauthorized: incorrect username or password", "denied"),
        ("manifest for app@sha256:00 not found: manifest unknown", "not_found"),
        ("failed to register layer: write /x: no space left on device", "failed"),
        ("Get https://registry/v2/: net/http: TLS handshake timeout", "timed_out"),
        ("something else", "failed"),
    ],
)
@pytest.mark.parametrize("status", [404, 500, 200])
def test_why_a_pull_fails_is_read_from_the_engines_words(
    project: Project, message: str, cause: str, status: int
) -> None:
    project.images.push("app", "1.0", "one")
    project.pull("1.0")
    project.create("shop", project.reference("1.0"))
    project.images.push("app", "1.0", "two")
    body = json.dumps({"error" if status == 200 else "message": message}).encode()
    head = f"HTTP/1.1 {status} Some\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"

    def send(client: socket.socket) -> None:
        client.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)

    with replaced_answers(project.engine, r"POST /v[\d.]+/images/create", send) as url:
        target = {"url": url, "project": project.name}
        result = run_job("image_updates", {"pull": True, "through": "registry"}, {"docker": {"main": target}})

    check = result.check("shop: pulled")
    assert (check.status, str(check.observed).partition(":")[0]) == (CheckStatus.FAIL, cause), result.text()
    assert message[:40] in str(check.observed)


@engine
@THROUGH
def test_a_registry_that_has_had_enough_is_asked_once_and_the_rest_is_unknown(project: Project, through: str) -> None:
    for name in ("app", "web"):
        project.images.push(name, "1.0", name)
        project.pull("1.0", name)
        project.create(name, project.reference("1.0", name))
    project.images.limited = 1000
    project.images.asked.clear()

    result = project.job({"through": through})

    assert result.check("app: current").status is CheckStatus.UNKNOWN
    assert result.check("web: current").status is CheckStatus.UNKNOWN
    assert "web" not in "".join(path for _, path in project.images.asked)
    assert result.outcome == "unknown"


@engine
@THROUGH
def test_a_private_registry_needs_a_login_and_never_shows_it(project: Project, through: str) -> None:
    project.images.push("app", "1.0", "one")
    project.images.login = ("ci", "secret")
    project.pull("1.0")
    project.create("shop", project.reference("1.0"))
    login = {project.images.host: {"username": "ci", "password": "secret"}}

    refused = project.job({"through": through})
    told = project.job({"through": through, "credentials": login})

    check = refused.check("shop: current")
    assert check.status is CheckStatus.UNKNOWN
    assert check.hint == f"set credentials for {project.images.host}", refused.text()
    assert told.check("shop: current").observed == "current", told.text()
    assert "secret" not in told.text() + refused.text()


@engine
@THROUGH
def test_offline_is_unknown_with_its_cause(project: Project, through: str, free_port: int) -> None:
    project.images.push("app", "1.0", "one")
    project.pull("1.0")
    name = f"127.0.0.1:{free_port}/app"
    with closing(project.engine.client()) as client:
        client.api.tag(project.reference("1.0"), name, "1.0")
        project.create("shop", f"{name}:1.0")

        result = project.job({"through": through})

        client.api.remove_image(f"{name}:1.0", force=True)
    assert result.check("shop: current").status is CheckStatus.UNKNOWN
    assert result.outcome == "unknown"


@engine
def test_age_and_end_of_support_are_evaluated_by_dates(project: Project) -> None:
    project.images.push("node", "20-alpine", "n", env={"NODE_VERSION": "20.18.3"}, created="2026-01-01T00:00:00Z")
    project.images.push("postgres", "17.4", "p", env={"PG_VERSION": "17.4-1"}, created="1980-01-01T00:00:00Z")
    project.images.push("redis", "latest", "r")
    for name, tag in (("node", "20-alpine"), ("postgres", "17.4"), ("redis", "latest")):
        project.pull(tag, name)
        project.create(name, project.reference(tag, name))

    result = project.job()

    ended = result.check("node: days of support left")
    assert ended.status is CheckStatus.FAIL
    assert ended.observed == (date(2026, 4, 30) - datetime.now(UTC).date()).days
    assert "https://nodejs.org/en/about/previous-releases" in ended.hint
    assert result.check("node: age of the image").status is CheckStatus.WARN
    assert result.check("node: tag").observed == "it names only a major version"
    assert result.check("postgres: days of support left").status is CheckStatus.OK
    assert not result.named("postgres: age")  # it does not say when it was built
    assert result.check("redis: days of support left").status is CheckStatus.UNKNOWN


@engine
def test_an_image_that_was_built_here_is_not_requested_from_any_registry(project: Project) -> None:
    with closing(project.engine.client()) as client:
        client.api.import_image_from_data(b"\0" * 1024, repository=project.name, tag="latest")
        project.create("agent", f"{project.name}:latest")

        result = project.job()

        client.api.remove_image(f"{project.name}:latest", force=True)
    assert not result.named("agent: current")
    assert any("was built here" in line for line in result.logs)
    assert not project.images.asked


# --- trivy --------------------------------------------------------------------------------------------------------


def report(image: str, image_id: str, made_at: datetime, *found: tuple[str, str, str]) -> dict[str, Any]:
    """In the form of trivy's report, schema 2: id, severity, version with the fix."""
    listed = [
        {"VulnerabilityID": name, "PkgName": "openssl", "Severity": severity, "FixedVersion": fixed}
        for name, severity, fixed in found
    ]
    return {
        "SchemaVersion": 2,
        "CreatedAt": made_at.isoformat(),
        "ArtifactName": image,
        "ArtifactType": "container_image",
        "Metadata": {"ImageID": image_id},
        "Results": [{"Target": image, "Vulnerabilities": listed}, {"Target": "npm"}],
    }


@pytest.fixture
def deployed(project: Project) -> tuple[Project, str]:
    """One service that is current, and its image's id."""
    project.images.push("app", "1.0", "one")
    image_id = project.pull("1.0")
    project.create("shop", project.reference("1.0"))
    return project, image_id


@engine
def test_trivys_reports_are_read_by_image_and_only_what_has_a_fix_counts(
    deployed: tuple[Project, str], tmp_path: Path
) -> None:
    project, image_id = deployed
    now = datetime.now(UTC)
    found = [
        ("CVE-1", "CRITICAL", "3.1"),
        ("CVE-2", "CRITICAL", ""),
        ("CVE-3", "HIGH", "2"),
        ("CVE-4", "HIGH", "2"),
        ("CVE-5", "CRITICAL", "4"),
    ]
    (tmp_path / "shop.json").write_text(json.dumps(report("other/name", image_id, now, *found)))
    (tmp_path / "old.json").write_text(json.dumps(report("x", image_id, now - timedelta(days=2))))
    (tmp_path / "broken.json").write_text("{")
    later, past = str((now + timedelta(days=9)).date()), str((now - timedelta(days=1)).date())

    result = project.job({"trivy_reports": str(tmp_path), "accepted": {"CVE-5": later, "CVE-3": past}})

    critical = result.check("shop: critical vulnerabilities with a fix")
    assert (critical.observed, critical.status, critical.hint.partition(":")[0]) == (1, CheckStatus.FAIL, "CVE-1")
    high = result.check("shop: high vulnerabilities with a fix")
    assert (high.observed, high.status) == (2, CheckStatus.WARN)
    assert result.check("trivy report").status is CheckStatus.UNKNOWN
    assert result.measure("image_vulnerabilities", severity="HIGH") == 2


@engine
def test_a_report_that_is_missing_or_old_is_unknown_and_without_trivy_nothing_is_claimed(
    deployed: tuple[Project, str], tmp_path: Path
) -> None:
    project, image_id = deployed

    missing = project.job({"trivy_reports": str(tmp_path)})
    old = report("x", image_id, datetime.now(UTC) - timedelta(days=4))
    (tmp_path / "old.json").write_text(json.dumps(old))
    stale = project.job({"trivy_reports": str(tmp_path)})
    unasked = project.job()

    assert missing.check("shop: vulnerabilities with a fix").status is CheckStatus.UNKNOWN
    assert stale.check("shop: vulnerabilities with a fix").status is CheckStatus.UNKNOWN
    without = unasked.check("vulnerabilities")
    assert (without.status, without.optional) == (CheckStatus.UNKNOWN, True)


def scanner(path: Path, database: datetime, answer: Mapping[str, Any], exit_code: int = 0) -> Path:
    """A program that answers as trivy does; trivy itself is not installed here."""
    (path.parent / "answer.json").write_text(json.dumps(answer))
    version = json.dumps({"Version": "0.58.0", "VulnerabilityDB": {"UpdatedAt": database.isoformat()}})
    path.write_text(
        f"#!/bin/sh\nif [ $1 = version ]; then echo '{version}'; exit 0; fi\n"
        f"while [ $# -gt 1 ]; do [ $1 = --output ] && cp {path.parent}/answer.json $2; shift; done\n"
        f"[ {exit_code} = 0 ] || echo 'FATAL cannot open the image' >&2\nexit {exit_code}\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@engine
def test_trivy_itself_is_asked_where_it_is_configured(deployed: tuple[Project, str], tmp_path: Path) -> None:
    project, image_id = deployed
    now = datetime.now(UTC)
    answer = report("shop", image_id, now, ("CVE-1", "HIGH", "2"))

    found = project.job({"trivy": str(scanner(tmp_path / "trivy", now, answer))})
    failed = project.job({"trivy": str(scanner(tmp_path / "trivy", now, answer, exit_code=1))})
    stale = project.job({"trivy": str(scanner(tmp_path / "trivy", now - timedelta(days=9), answer))})
    absent = project.job({"trivy": str(tmp_path / "nothing")})

    assert found.check("shop: high vulnerabilities with a fix").status is CheckStatus.WARN, found.text()
    for result, told in ((failed, "FATAL cannot open"), (stale, "9d old"), (absent, "does not exist")):
        check = result.check("shop: vulnerabilities with a fix")
        assert check.status is CheckStatus.UNKNOWN
        assert told in str(check.observed)


# --- the engine ---------------------------------------------------------------------------------------------------


def test_an_engine_that_is_down_fails(tmp_path: Path) -> None:
    result = run_job("image_updates", {}, {"docker": {"main": {"url": f"unix://{tmp_path}/none.sock"}}})

    assert str(result.check("main: images compared").observed).startswith("refused")


@engine
def test_a_project_without_containers_fails(project: Project) -> None:
    assert project.job().check("main: images in use").status is CheckStatus.FAIL


def test_an_index_is_recognized_by_its_media_type() -> None:
    assert not RemoteImage(DIGEST, "application/vnd.oci.image.manifest.v1+json").is_index
