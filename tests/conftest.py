"""Real servers as fixtures. Those named `…_server` live as long as the session; a test that stops one makes its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.servers import docker, maintd, postgres, prometheus, redis
from support.servers.base import free_port as _free_port


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.PostgresServer]:
    with postgres.postgres() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[postgres.PostgresServer]:
    """A server that the test may stop."""
    with postgres.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[redis.RedisServer]:
    with redis.redis() as server:
        yield server


@pytest.fixture(scope="session")
def prometheus_server() -> Iterator[prometheus.WebServer]:
    """Without history; a test that needs some starts its own: `servers.prometheus.prometheus(openmetrics=…)`."""
    with prometheus.prometheus() as server:
        yield server


@pytest.fixture(scope="session")
def alertmanager_server() -> Iterator[prometheus.WebServer]:
    with prometheus.alertmanager() as server:
        yield server


@pytest.fixture(scope="session")
def docker_server() -> Iterator[docker.DockerEngine]:
    with docker.docker_engine() as engine:
        yield engine


@pytest.fixture
def free_port() -> int:
    """A loopback port that nothing listens on."""
    return _free_port()


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[maintd.RunningDaemon]:
    """`maintd serve` on SQLite with `servers.maintd.CALENDAR`, shared by the session: leave it as you found it."""
    with maintd.maintd_daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running
