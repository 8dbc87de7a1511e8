"""The targets that jobs work on, as settings and calendar define them.

Texts can contain `${NAME}` and `${file:/run/secrets/x}`. Only the child process that needs them resolves them; the
values never reach the store, a log or the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, model_validator

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


PlainName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")]
"""The name of a secret or of its file, without a folder."""


class PostgresLogin(BaseModel):
    """Logins of the server of a Postgres `target`. Two `roles` with the same rights take turns: the one that the
    consumers do not use gets the new password, by the target's own login, so that both work until the consumers have
    changed. A single role changes its own password, and the old one is refused from then on; its sessions continue."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str = "main"
    roles: tuple[str, ...] = Field(min_length=1, max_length=2)


class RedisLogin(BaseModel):
    """A user of a Redis `target`, which has both passwords until the consumers have changed. `persist`: where the
    server keeps its users over a restart: its `aclfile`, its `config` file, or `nowhere`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str = "main"
    user: str = "default"
    persist: Literal["aclfile", "config", "nowhere"] = "aclfile"


class HttpLogin(BaseModel):
    """A GET of `url` with the value in a `header`, after a `prefix` such as `Bearer `: 2xx with a value that is
    accepted, 401 or 403 with any other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    header: str = "Authorization"
    prefix: str = ""
    ca_file: Path | None = None
    verify: bool = True


class Secret(BaseModel):
    """A secret in a file of its own.

    `generated`: its new values come from maintd, for one of `postgres`, `redis` and `http`, or for `consumers` alone;
    `derived`: another one (`of`) within a `template` with `{user}` and `{secret}`, such as a URL, where both are
    percent-encoded; `external`: it is issued elsewhere, and never written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["generated", "derived", "external"] = "external"
    file: PlainName | None = None  # its name in the folder; None: the name of the secret
    user_file: PlainName | None = None  # of two roles: the file from which consumers read which one they use
    form: Literal["token", "cookie"] = "token"  # 32 random bytes as base64url; or exactly 32 characters
    postgres: PostgresLogin | None = None
    redis: RedisLogin | None = None
    http: HttpLogin | None = None
    consumers: tuple[str, ...] = ()  # services that read the file at their start
    recreate: bool = False  # replace the file and the containers, not write into it and restart them
    overlap: Duration = timedelta(0)  # how long the old value works after the consumers have changed
    of: PlainName | None = None
    template: str = "{secret}"
    max_age: Duration = timedelta(days=90)
    procedure: str = ""  # how an external one is rotated by hand
    example: Path | None = None  # a file with the value that it must not have
    min_bits: int = 80  # of entropy; 0: it is not secret by itself, such as a client id

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        logins = [login for login in (self.postgres, self.redis, self.http) if login is not None]
        if self.kind == "generated" and len(logins) != 1 and not (not logins and self.consumers):
            raise ValueError("a generated secret needs one of postgres, redis and http, or consumers")
        if self.kind != "generated" and (logins or self.consumers or self.user_file):
            raise ValueError("only a generated secret has postgres, redis, http, consumers and user_file")
        if (self.kind == "derived") != (self.of is not None):
            raise ValueError("of names the secret that a derived one is made from")
        if self.kind == "derived" and "{secret}" not in self.template:
            raise ValueError("the template needs {secret}")
        two_roles = self.postgres is not None and len(set(self.postgres.roles)) == 2
        if self.postgres is not None and len(set(self.postgres.roles)) != len(self.postgres.roles):
            raise ValueError("the two roles must differ")
        if self.user_file is not None and not two_roles:
            raise ValueError("user_file needs two roles")
        if self.overlap and not (two_roles or self.redis is not None):
            raise ValueError("an overlap needs two roles, or Redis: elsewhere there is one value only")
        return self


class SecretsTarget(Target):
    """A folder with the secrets of a stack, one a file, and what is known of each, by name. What is about to change is
    first encrypted to age `recipients`, in its folder `.versions`."""

    path: Path
    recipients: tuple[str, ...] = ()
    secrets: dict[PlainName, Secret] = {}

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        files: dict[str, str] = {}
        for name, secret in self.secrets.items():
            if secret.of is not None and (secret.of not in self.secrets or self.secrets[secret.of].kind != "generated"):
                raise ValueError(f"{name}: of must name a generated secret of this folder")
            for file in {secret.file or name, *({secret.user_file} if secret.user_file else ())}:
                if file in files:
                    raise ValueError(f"{name} and {files[file]} have the same file {file}")
                files[file] = name
            parts = [other for other in self.secrets.values() if other.of == name and "{user}" in other.template]
            if secret.postgres is not None and len(secret.postgres.roles) == 2 and not (secret.user_file or parts):
                raise ValueError(
                    f"{name}: two roles need a user_file, or a derived secret with {{user}} in its template"
                )
        return self


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
    secrets: dict[str, SecretsTarget] = {}
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
