"""What jobs work on, as settings and calendar describe it.

Texts may hold `${NAME}` and `${file:/run/secrets/x}`; these are resolved only in the child process that needs them and
never reach the store, a log or the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SecretStr

from maintd.units import Duration


class Target(BaseModel):
    """What every target has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout: Duration = timedelta(seconds=5)  # of one request; jobs may allow more for long work


class PostgresTarget(Target):
    """A Postgres database. `dsn` is a libpq URL or keyword string; a password belongs in `password` or a `${…}`."""

    dsn: str
    password: SecretStr | None = None
    bin_dir: Path | None = None  # of the matching pg_restore, pg_verifybackup; None: from PATH


class RedisTarget(Target):
    """A Redis server, `redis://host:6379/0`. `streams` are checked for consumer lag."""

    url: str
    username: str | None = None
    password: SecretStr | None = None
    streams: tuple[str, ...] = ()


class DockerTarget(Target):
    """A Docker engine by socket, TCP or proxy: `unix:///var/run/docker.sock`, `tcp://docker-proxy:2375`.
    `project` is the value of the containers' `com.docker.compose.project` label."""

    url: str = "unix:///var/run/docker.sock"
    project: str | None = None
    services: tuple[str, ...] = ()  # expected to run; empty: whatever is there
    one_shot: tuple[str, ...] = ()  # services that end by themselves with exit code 0
    timeout: Duration = timedelta(seconds=10)


class HttpTarget(Target):
    """A service with its health rule: the status, and values that the JSON body must have.
    `expect` maps a dotted path in the body to its value: `{"redis": "ok", "checks.db": "ok"}`."""

    url: str
    status: int = 200
    expect: dict[str, str | int | float | bool] = {}
    expect_text: str | None = None  # must occur in the body
    headers: dict[str, SecretStr] = {}
    max_latency: Duration = timedelta(seconds=2)  # slower warns
    ca_file: Path | None = None
    verify: bool = True


class PrometheusTarget(Target):
    """A Prometheus server's base URL."""

    url: str
    headers: dict[str, SecretStr] = {}


class AlertmanagerTarget(Target):
    """An Alertmanager's base URL (API v2)."""

    url: str
    headers: dict[str, SecretStr] = {}


class HostTarget(Target):
    """A host by its file systems: `root` and `proc` are `/host` and `/host/proc` in a sidecar."""

    root: Path = Path("/")
    proc: Path = Path("/proc")
    mounts: tuple[str, ...] = ()  # to watch, as the host names them; empty: every real file system


class FolderTarget(Target):
    """A folder that jobs read or keep clean."""

    path: Path


TargetKind = Literal["postgres", "redis", "docker", "http", "prometheus", "alertmanager", "host", "folders"]


class Targets(BaseModel):
    """All targets by kind and name. The host itself is always there under the name `local`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    postgres: dict[str, PostgresTarget] = {}
    redis: dict[str, RedisTarget] = {}
    docker: dict[str, DockerTarget] = {}
    http: dict[str, HttpTarget] = {}
    prometheus: dict[str, PrometheusTarget] = {}
    alertmanager: dict[str, AlertmanagerTarget] = {}
    host: dict[str, HostTarget] = {"local": HostTarget()}
    folders: dict[str, FolderTarget] = {}

    def of(self, kind: str) -> dict[str, Target]:
        """Targets of one kind by name. Raises KeyError for a kind that does not exist."""
        if kind not in type(self).model_fields:
            raise KeyError(kind)
        found: dict[str, Target] = getattr(self, kind)
        return found

    def merged(self, over: Targets) -> Targets:
        """These, with those of `over` added; a name in both is taken from `over`."""
        explicit = over.model_fields_set
        kinds = type(self).model_fields
        return Targets(**{kind: {**self.of(kind), **(over.of(kind) if kind in explicit else {})} for kind in kinds})


def secrets_of(model: BaseModel) -> Iterator[str]:
    """Every secret text in a settings or target model, for redaction."""
    for name in type(model).model_fields:
        yield from _secrets(getattr(model, name))


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        yield from secrets_of(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _secrets(item)
