"""The targets that jobs work on, as settings and calendar define them.

Texts can contain `${NAME}` and `${file:/run/secrets/x}`. Only the child process that needs them resolves them; the
values never reach the store, a log or the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, SecretStr, model_validator

from maintd.redaction import secrets_in
from maintd.units import Duration


class Target(BaseModel):
    """The fields of every target."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout: Duration = timedelta(seconds=5)  # of one request; jobs allow more for long operations
    # Targets that this one needs: `postgres`, `redis main`, `container db`. In a health check what follows from one
    # that is down is shown below it. For a service also by field of its body: `{db: postgres, redis: redis}`.
    depends_on: tuple[str, ...] | dict[str, str] = ()


class PostgresTarget(Target):
    """A Postgres database. `dsn` is a libpq URL or keyword string; write a password in `password` or as `${…}`."""

    dsn: str
    password: SecretStr | None = None
    bin_dir: Path | None = None  # folder of the matching pg_restore and pg_verifybackup; None: from PATH


class RedisTarget(Target):
    """A Redis server, `redis://host:6379/0`, or `rediss://…` over TLS. Jobs check the consumer lag of its `streams`."""

    url: str
    username: str | None = None
    password: SecretStr | None = None
    streams: tuple[str, ...] = ()
    ca_file: Path | None = None
    verify: bool = True


class DockerTarget(Target):
    """A Docker engine by socket, TCP, TLS or proxy: `unix:///var/run/docker.sock`, `tcp://docker-proxy:2375`,
    `https://engine:2376`; `tcp` with a `ca_file` is TLS, too.
    `project` is the value of the containers' `com.docker.compose.project` label."""

    url: str = "unix:///var/run/docker.sock"
    project: str | None = None
    services: tuple[str, ...] = ()  # expected to run; empty: all that exist
    one_shot: tuple[str, ...] = ()  # services that are expected to exit with code 0
    timeout: Duration = timedelta(seconds=10)  # of each answer
    ca_file: Path | None = None  # of an engine or proxy that speaks TLS
    verify: bool = True


class HttpTarget(Target):
    """An HTTP service and its health criteria: the status, and values in the JSON body.
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
    ca_file: Path | None = None
    verify: bool = True


class AlertmanagerTarget(Target):
    """An Alertmanager's base URL (API v2)."""

    url: str
    headers: dict[str, SecretStr] = {}
    ca_file: Path | None = None
    verify: bool = True


class TlsTarget(Target):
    """A TLS server whose certificate is checked, by `address`, `host:port`; each address of the host is examined.
    `name` is requested by SNI, and the certificate must be for it; by default the host. `starttls`: TLS begins within
    this protocol. `ca_file` has the authorities to trust instead of the system's."""

    address: str
    name: str | None = None
    starttls: Literal["postgres", "smtp"] | None = None
    ca_file: Path | None = None


class HaltSource(BaseModel):
    """Where the state of a service is read, one of: a field of the JSON answer to a GET of `path`, below the target's
    url or a whole URL; a `key` of a `redis` target, with the `field` of a hash; the first column of a `query` of a
    `postgres` target. `halted` and `running` are its values; any other value is unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = None
    redis: str | None = None
    key: str = ""
    postgres: str | None = None
    query: str = ""
    field: str = ""
    halted: str | int | float | bool = True
    running: str | int | float | bool = False

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if sum(kind is not None for kind in (self.path, self.redis, self.postgres)) != 1:
            raise ValueError("give one of path, redis and postgres")
        for kind, needed in (("path", "field"), ("redis", "key"), ("postgres", "query")):
            if getattr(self, kind) is not None and not getattr(self, needed):
                raise ValueError(f"{kind} needs {needed}")
        if str(self.halted) == str(self.running):
            raise ValueError("halted and running must differ")
        return self


class HaltRequest(BaseModel):
    """A request that halts or unhalts a service: its `body` is sent as JSON, and the JSON answer has these values at
    the dotted paths of `expect`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = "POST"
    path: str
    body: dict[str, Any] = {}
    expect: dict[str, str | int | float | bool] = {}


class HaltTarget(Target):
    """A service that can be halted over HTTP. `look` is read first, so that it may initialise the day, then `confirm`,
    a second source; a service is halted, or running, when both agree. `halt` and `unhalt` are the requests. `{date}`
    (UTC), `{run}`, `{entry}` and `{reason}` in their texts are replaced."""

    url: str
    headers: dict[str, SecretStr] = {}
    look: HaltSource
    confirm: HaltSource
    halt: HaltRequest
    unhalt: HaltRequest
    ca_file: Path | None = None
    verify: bool = True


class HostTarget(Target):
    """A host by its file systems. In a sidecar, `root` and `proc` are `/host` and `/host/proc`."""

    root: Path = Path("/")
    proc: Path = Path("/proc")
    mounts: tuple[str, ...] = ()  # mount points to check, as the host names them; empty: every real file system


class FolderTarget(Target):
    """A folder that jobs read or clean up."""

    path: Path


class Targets(BaseModel):
    """All targets by kind and name. The host `local` always exists."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    postgres: dict[str, PostgresTarget] = {}
    redis: dict[str, RedisTarget] = {}
    docker: dict[str, DockerTarget] = {}
    http: dict[str, HttpTarget] = {}
    prometheus: dict[str, PrometheusTarget] = {}
    alertmanager: dict[str, AlertmanagerTarget] = {}
    tls: dict[str, TlsTarget] = {}
    halts: dict[str, HaltTarget] = {}
    host: dict[str, HostTarget] = {"local": HostTarget()}
    folders: dict[str, FolderTarget] = {}

    def of(self, kind: str) -> dict[str, Target]:
        """The targets of one kind by name. Raises KeyError for an unknown kind."""
        if kind not in type(self).model_fields:
            raise KeyError(kind)
        found: dict[str, Target] = getattr(self, kind)
        return found

    def merged(self, over: Targets) -> Targets:
        """These targets and those of `over`; on equal names, `over` wins."""
        explicit = over.model_fields_set
        kinds = type(self).model_fields
        return Targets(**{kind: {**self.of(kind), **(over.of(kind) if kind in explicit else {})} for kind in kinds})


def secrets_of(model: BaseModel) -> Iterator[str]:
    """Yield every secret in a settings or target model, also those within URLs and connection strings."""
    for name in type(model).model_fields:
        yield from _secrets(getattr(model, name))


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, str):
        yield from secrets_in(value)
    elif isinstance(value, BaseModel):
        yield from secrets_of(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _secrets(item)
