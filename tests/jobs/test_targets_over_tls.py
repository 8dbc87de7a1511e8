"""Every target that can be reached over TLS: its certificate is verified, also against an authority of its own."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.http_services import http_service, json_reply
from support.job_runs import run_job
from support.servers.base import free_port
from support.servers.docker import docker_engine
from support.servers.prometheus import WebServer
from support.servers.redis import RedisServer
from support.servers.tls import Authority, authority, tls_front

from maintd.checks.alerts.grafana import collect_grafana
from maintd.checks.logs import loki
from maintd.checks.logs.denied_requests import DeniedRequests
from maintd.clients import alertmanager, docker, http, prometheus, redis
from maintd.errors import TargetError
from maintd.model.evidence import CheckStatus
from maintd.model.target import (
    AlertmanagerTarget,
    DockerTarget,
    HttpTarget,
    PrometheusTarget,
    RedisTarget,
    Targets,
)

NOW = datetime(2026, 11, 29, tzinfo=UTC)
SECONDS = timedelta(seconds=20)
KINDS = ["http", "loki", "grafana", "prometheus", "alertmanager", "redis", "docker"]


@dataclass
class Authorities:
    right: Authority
    other: Authority
    of_another_address: Authority


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    folder = tmp_path_factory.mktemp("tls")
    return Authorities(
        authority(folder / "right"), authority(folder / "other"), authority(folder / "address", "127.0.0.9")
    )


ANSWERS = {
    "/": json_reply({"status": "ok"}),
    "/loki/api/v1/query": json_reply({"status": "success", "data": {"resultType": "vector", "result": []}}),
    "/api/prometheus/grafana/api/v1/rules": json_reply({"status": "success", "data": {"groups": []}}),
    "/api/alertmanager/grafana/api/v2/silences": json_reply([]),
    "/api/alertmanager/grafana/api/v2/alerts": json_reply([]),
    "/api/alertmanager/grafana/api/v2/status": json_reply({}),
}


@dataclass
class Servers:
    """The ports over TLS by kind, with the right authority's certificate, and the plain ports."""

    secured: dict[str, int]
    plain: dict[str, int]


@pytest.fixture(scope="module")
def servers(
    authorities: Authorities,
    prometheus_server: WebServer,
    alertmanager_server: WebServer,
    redis_server: RedisServer,
) -> Iterator[Servers]:
    certificate = authorities.right
    with ExitStack() as stack:
        service = int(stack.enter_context(http_service(ANSWERS)).rpartition(":")[2])
        plain = dict.fromkeys(("http", "loki", "grafana"), service)
        plain["prometheus"] = int(prometheus_server.url.rpartition(":")[2])
        plain["alertmanager"] = int(alertmanager_server.url.rpartition(":")[2])
        plain["redis"] = redis_server.port
        secured = {kind: stack.enter_context(tls_front(port, certificate)) for kind, port in plain.items()}
        secured["docker"] = free_port()
        options = ("--tls", "--tlscert", certificate.certificate, "--tlskey", certificate.key)
        options += ("--tlscacert", certificate.ca_file, "--tlsverify=false")  # clients need no certificate
        stack.enter_context(docker_engine("-H", f"tcp://127.0.0.1:{secured['docker']}", *options))
        yield Servers(secured, plain)


def ask(kind: str, scheme: str, port: int, **fields: Any) -> None:
    """Send one request to a target of this kind. Raises TargetError."""
    url = f"{scheme}://127.0.0.1:{port}"
    given = {"url": url, "timeout": SECONDS, **fields}
    requests: dict[str, Callable[[], object]] = {
        "http": lambda: http.get(HttpTarget(**given)),
        "loki": lambda: loki.read(HttpTarget(**given), "loki", loki.SELECTOR, DeniedRequests(NOW - SECONDS, NOW)),
        "grafana": lambda: collect_grafana(
            HttpTarget(**given),
            "grafana",
            "/api/prometheus/grafana/api/v1/rules",
            "/api/alertmanager/grafana",
        ),
        "prometheus": lambda: prometheus.connect(PrometheusTarget(**given)).runtime_info(),
        "alertmanager": lambda: alertmanager.connect(AlertmanagerTarget(**given)).status(),
        "redis": lambda: redis.connect(RedisTarget(**{**given, "url": url.replace(scheme, "rediss")})).ping(),
        "docker": lambda: docker.connect(DockerTarget(**given)).api.close(),
    }
    requests[kind]()


engine = pytest.mark.engine
server = pytest.mark.server


@engine
@server
@pytest.mark.parametrize("kind", KINDS)
def test_the_certificate_of_the_targets_own_authority_is_accepted(
    servers: Servers, authorities: Authorities, kind: str
) -> None:
    ask(kind, "https", servers.secured[kind], ca_file=authorities.right.ca_file)


@engine
@server
@pytest.mark.parametrize("kind", KINDS)
def test_an_authority_that_only_python_3_13_refuses_is_accepted_by_every_version(
    servers: Servers, authorities: Authorities, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_default = ssl.create_default_context

    def as_python_3_13_has_it(**options: Any) -> ssl.SSLContext:
        context = by_default(**options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", as_python_3_13_has_it)
    strict = as_python_3_13_has_it(cafile=authorities.right.ca_file)
    address = ("127.0.0.1", servers.secured[kind])

    with (
        socket.create_connection(address, timeout=20) as plain,
        pytest.raises(ssl.SSLCertVerificationError, match="key usage"),
    ):
        strict.wrap_socket(plain, server_hostname="127.0.0.1")
    ask(kind, "https", servers.secured[kind], ca_file=authorities.right.ca_file)


@engine
@server
@pytest.mark.parametrize("scheme", ["https", "HTTPS"])
@pytest.mark.parametrize("trusted", ["the system's", "another authority"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_that_is_not_trusted_has_the_cause_tls(
    servers: Servers, authorities: Authorities, kind: str, trusted: str, scheme: str
) -> None:
    fields = {"ca_file": authorities.other.ca_file} if trusted == "another authority" else {}

    with pytest.raises(TargetError) as caught:
        ask(kind, scheme, servers.secured[kind], **fields)

    assert caught.value.cause == "tls", caught.value
    assert "certificate" in str(caught.value).lower()


@engine
@server
@pytest.mark.parametrize("kind", KINDS)
def test_only_verify_false_accepts_any_certificate(servers: Servers, authorities: Authorities, kind: str) -> None:
    ask(kind, "https", servers.secured[kind], verify=False)
    ask(kind, "https", servers.secured[kind], verify=False, ca_file=authorities.other.ca_file)


@server
@engine
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "docker"])
def test_a_certificate_of_another_address_has_the_cause_tls(
    servers: Servers, authorities: Authorities, kind: str
) -> None:
    certificate = authorities.of_another_address

    with tls_front(servers.plain[kind], certificate) as port, pytest.raises(TargetError) as caught:
        ask(kind, "https", port, ca_file=certificate.ca_file)

    assert caught.value.cause == "tls", caught.value


@server
@engine
@pytest.mark.parametrize("kind", ["http", "loki", "grafana", "prometheus", "alertmanager"])
def test_a_server_without_tls_has_the_cause_tls(servers: Servers, authorities: Authorities, kind: str) -> None:
    with pytest.raises(TargetError) as caught:
        ask(kind, "https", servers.plain[kind], ca_file=authorities.right.ca_file)

    assert caught.value.cause == "tls", caught.value


@engine
@server
def test_a_job_reports_an_untrusted_engine_as_a_problem_of_tls(servers: Servers) -> None:
    targets = {"docker": {"main": {"url": f"https://127.0.0.1:{servers.secured['docker']}"}}}

    result = run_job("health_check", {"include": ["docker"]}, targets)

    check = result.check("docker main: answers")
    assert (check.status, str(check.observed).partition(":")[0]) == (CheckStatus.FAIL, "tls")
    assert "ca_file" in check.hint


def test_every_target_with_a_url_has_an_authority_of_its_own_and_verifies_by_default() -> None:
    kinds = {
        name: field.annotation.__args__[1]  # type: ignore[union-attr] # all are dicts by name
        for name, field in Targets.model_fields.items()
    }
    with_url = {name: model for name, model in kinds.items() if "url" in model.model_fields}

    assert set(with_url) == {"redis", "docker", "http", "prometheus", "alertmanager", "halts"}
    for name, model in with_url.items():
        assert {"ca_file", "verify"} <= set(model.model_fields), name
        assert model.model_fields["verify"].default is True, name
        assert model.model_fields["ca_file"].annotation == Path | None, name
