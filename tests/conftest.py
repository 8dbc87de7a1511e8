"""Real servers as fixtures, and the Hypothesis profile of the whole suite.

Fixtures named `…_server` live as long as the session. A test that stops a server starts one of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from support.servers import docker, maintd, postgres, prometheus, redis
from support.servers.base import free_port as _free_port

# A slow machine is not a failure: no deadline per example, no limit on how long generating inputs takes.
settings.register_profile("maintd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("maintd")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.PostgresServer]:
    with postgres.postgres() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[postgres.PostgresServer]:
    """A Postgres server that the test may stop."""
    with postgres.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[redis.RedisServer]:
    with redis.redis() as server:
        yield server


@pytest.fixture(scope="session")
def prometheus_server() -> Iterator[prometheus.WebServer]:
    """Prometheus without history; a test that needs some starts its own: `prometheus.prometheus(openmetrics=…)`."""
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
    """`maintd serve` on SQLite with `support.servers.maintd.CALENDAR`; tests leave its entries idle and unpaused."""
    with maintd.maintd_daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running
