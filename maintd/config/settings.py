"""Settings and targets, from options, the environment (`MAINTD_…`), a file `.env`, a `--config` file and defaults.

The first source that has a value wins. A secret can be in a file: `MAINTD_STORE_URL_FILE=/run/secrets/store_url` reads
the value from there.
"""

from __future__ import annotations

import os
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from socket import gethostname
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from maintd.config.file import read_config
from maintd.errors import SettingsError, nearest
from maintd.model.access import Role
from maintd.model.target import Targets
from maintd.secret_params import malformed_references
from maintd.units import Duration, Size

PREFIX = "MAINTD_"


def _words(value: Any) -> Any:
    return [word for part in value.split(",") if (word := part.strip())] if isinstance(value, str) else value


def _pairs(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = {}
    for word in _words(value):
        group, equals, role = word.partition("=")
        if not equals:
            raise ValueError(f'"{word}" is not GROUP=ROLE; write for example ops=operator')
        pairs[group.strip()] = role.strip()
    return pairs


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
"""Words, in the environment separated by commas."""

Roles = Annotated[dict[str, Role], NoDecode, BeforeValidator(_pairs)]
"""Roles by group, in the environment as `ops=operator, *=viewer`."""


class Retention(BaseModel):
    """How long history is kept. The last success and the last failure of each entry are always kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: Duration = timedelta(days=400)
    runs_per_entry: int = Field(default=5000, ge=2)
    logs: Duration = timedelta(days=60)
    artifacts: Duration = timedelta(days=400)
    ledger: Duration = timedelta(days=800)


def default_state_dir() -> Path:
    """`/var/lib/maintd` for root and for a user without a home, else the XDG state directory."""
    if os.geteuid() == 0:
        return Path("/var/lib/maintd")
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111 - keeps "~" without a home
    return Path("/var/lib/maintd") if state.startswith("~") else Path(state) / "maintd"


_PATHS = ("config", "calendar", "calendar_overlay", "store_url", "socket", "freeze_file", "reports_dir")
"""Settings for which an empty text means none."""


class BelowError(ValueError):
    """A value somewhere below a setting is not valid. `path` leads to it from the setting."""

    def __init__(self, path: tuple[str | int, ...], problem: str) -> None:
        super().__init__(problem)
        self.path = path


class Settings(BaseSettings):
    """All settings. The environment variable of a setting is its name in capitals after `MAINTD_`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
        validate_default=True,
    )

    config: Path | None = Field(None, description="Settings file in YAML with these names; also --config FILE")
    calendar: Path | None = Field(
        None, description="Calendar file; by default ./schedules.yaml, else the shipped calendar"
    )
    calendar_overlay: Path | None = Field(
        None, description="Overlay of the calendar; by default schedules.local.yaml in its folder, if it exists"
    )
    state_dir: Path = Field(default_factory=default_state_dir, description="Folder of the store, artifacts and spool")
    store_url: SecretStr | None = Field(
        None, description="sqlite:///path or postgresql://user@host/db; by default SQLite in the state directory"
    )
    socket: Path | None = Field(None, description="Control socket; by default maintd.sock in the state directory")
    listen: str = Field("127.0.0.1:8420", description="host:port of the page and the API; empty: disabled")
    anonymous_read: bool = Field(True, description="Let clients on this machine read without a token, if on loopback")
    allowed_hosts: Words = Field((), description="Further host names of the page, for example of a proxy; *: all")
    trusted_proxies: Words = Field((), description="Addresses and networks of proxies whose user headers are believed")
    proxy_user_header: str = Field("X-Forwarded-User", description="Header in which a trusted proxy names the user")
    proxy_groups_header: str = Field("X-Forwarded-Groups", description="Header with the user's groups, with commas")
    proxy_roles: Roles = Field({}, description="Roles by group: ops=operator, *=viewer; * is for every user")
    jobs_path: str = Field("", description="Additional folders of job modules, separated by colons")
    node: str = Field(default_factory=gethostname, description="Name of this node; unique among the nodes of a store")
    slots: int = Field(4, ge=1, le=256, description="Maximum number of concurrent runs on this node")
    log_format: Literal["auto", "text", "json"] = Field("auto", description="auto: text on a terminal, otherwise json")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Minimum level of log messages")
    lease: Duration = Field(timedelta(minutes=5), description="Time without renewal after which a run is lost")
    heartbeat: Duration = Field(timedelta(seconds=15), description="Interval of lease renewals and clock checks")
    grace: Duration = Field(timedelta(seconds=10), description="Time between SIGTERM and SIGKILL of an attempt")
    drain: Duration = Field(timedelta(seconds=60), description="Time that a shutdown waits for running runs")
    log_limit: Size = Field(10_000_000, description="Bytes kept of the start, and of the end, of an attempt's log")
    warm_before: Duration = Field(timedelta(seconds=30), description="Time before a due time at which libraries load")
    job_user: str = Field(
        "", description="User whose rights jobs have when the daemon is root: name, uid or uid:gid; empty: root"
    )
    job_groups: str = Field("", description="Further groups of job_user, separated by commas: docker, adm")
    root_jobs: str = Field("", description="Jobs, separated by commas, that keep the rights of root beside job_user")
    debuggable: bool = Field(False, description="Let processes of the daemon's user trace it and read its memory")
    freeze_file: Path | None = Field(
        None, description="While this file exists, entries that change something do not run; its first line is why"
    )
    reports_dir: Path | None = Field(None, description="Folder for copies of reports; by default artifacts only")
    retention: Retention = Field(Retention(), description="How long runs, logs, artifacts and the ledger are kept")
    targets: Targets = Field(Targets(), description="Systems that jobs work on; usually defined in the calendar")

    @field_validator(*_PATHS, mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        """An empty variable takes back a value of a source below it, for example of a systemd unit."""
        return None if value == "" else value

    @field_validator("targets", mode="before")
    @classmethod
    def _references(cls, value: Any) -> Any:
        for path, problem in malformed_references(value):
            raise BelowError(path, problem)
        return value

    @field_validator("heartbeat")
    @classmethod
    def _positive(cls, value: timedelta) -> timedelta:
        if value <= timedelta(0):
            raise ValueError("must be longer than zero")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                network = ip_network(text, strict=False)
            except ValueError:
                raise ValueError(
                    f'"{text}" is neither an address nor a network; write for example 172.18.0.0/16'
                ) from None
            if network.prefixlen == 0:
                raise ValueError(f'"{text}" is every address, so any client could name a user')
        return value

    @property
    def store(self) -> str:
        """The URL of the store, or the default."""
        if self.store_url is not None:
            return self.store_url.get_secret_value()
        return f"sqlite:///{self.state_dir / 'maintd.db'}"

    @property
    def store_file(self) -> Path | None:
        """The file of a store on SQLite; None for one on a server."""
        name = self.store.partition("?")[0].removeprefix("sqlite:///")
        return None if "://" in name else Path(name)

    @property
    def socket_path(self) -> Path:
        """The control socket, or the default."""
        return self.socket or self.state_dir / "maintd.sock"

    @property
    def job_dirs(self) -> tuple[Path, ...]:
        """The operator's folders of job modules."""
        return tuple(Path(part) for part in self.jobs_path.split(":") if part)

    @property
    def job_cache_file(self) -> Path:
        """The file in which descriptions of jobs are kept between starts."""
        return self.state_dir / "job_descriptions.json"

    @property
    def artifacts_dir(self) -> Path:
        """The folder of artifacts."""
        return self.state_dir / "artifacts"

    @property
    def secrets_dir(self) -> Path:
        """The folder for secrets that were given for one run, until it has ended."""
        return self.state_dir / "secrets"

    @property
    def spool_dir(self) -> Path:
        """The folder for updates of runs that could not be written to the store yet."""
        return self.state_dir / "spool"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            env_settings,
            FileEnvSource(settings_cls),
            dotenv_settings,
            ConfigFileSource(settings_cls),
        )


class FileEnvSource(PydanticBaseSettingsSource):
    """`MAINTD_NAME_FILE=/path`: the value of NAME is the content of the file without the final newline."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        path = os.environ.get(f"{PREFIX}{field_name.upper()}_FILE")
        if path is None:
            return None, field_name, False
        try:
            return Path(path).read_text(encoding="utf-8").rstrip("\n"), field_name, False
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"{PREFIX}{field_name.upper()}_FILE: cannot read {path}: {error}", "mount the secret or unset it"
            ) from error

    def __call__(self) -> dict[str, Any]:
        values = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, _ = self.get_field_value(field, name)
            if value is not None:
                values[key] = value
        return values


class ConfigFileSource(PydanticBaseSettingsSource):
    """The file that the setting `config` of an earlier source names."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False  # __call__ reads all fields at once

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("config")
        if not path:
            return {}
        found = read_config(Path(path))
        for name in found.values:
            if name not in self.settings_cls.model_fields or name == "config":
                near = nearest(name, self.settings_cls.model_fields)
                raise SettingsError(
                    f'{found.place(name)}: unknown setting "{name}"', f'did you mean "{near}"?' if near else None
                )
        return found.values
