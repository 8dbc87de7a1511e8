"""What the audit needs of each container, from the engine's description of it.

Nothing of a container's environment but the names of its variables, no label but those of compose, and no command is
kept; an error names a field, never its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from docker.errors import NotFound
from pydantic import ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_pascal

from maintd.checks.audit.rule import Blind
from maintd.checks.audit.secret_names import holds_secret
from maintd.checks.hints import printable
from maintd.clients.docker import NUMBER, ONE_OFF, PROJECT, SERVICE, Docker, translated
from maintd.clients.shapes import Shape
from maintd.errors import TargetError

_LISTING = 3  # times the target's time-out, as for other lists of containers


class EngineShape(Shape):
    """A part of the engine's answer; its keys are in CamelCase."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_pascal)


class Restart(EngineShape):
    """A restart policy."""

    name: str = ""
    maximum_retry_count: int = 0


class HostConfig(EngineShape):
    """How a container is bound to its host."""

    # Without a default is what an engine always answers: without it nothing is known, and nothing is in order.
    privileged: bool
    network_mode: str
    pid_mode: str
    ipc_mode: str
    readonly_rootfs: bool
    memory: int
    uts_mode: str = Field("", alias="UTSMode")
    userns_mode: str = ""
    cap_add: list[str] = []
    security_opt: list[str] = []
    devices: list[Any] = []
    nano_cpus: int = 0
    cpu_quota: int = 0
    cpu_shares: int = 0
    pids_limit: int = 0
    cgroup_parent: str = ""
    restart_policy: Restart = Restart()


class Mount(EngineShape):
    """A mount; `source` is a path of the host, or empty."""

    source: str = ""
    destination: str = ""
    rw: bool = Field(False, alias="RW")
    propagation: str = ""


class Binding(EngineShape):
    """An address of the host that leads to a port of the container."""

    host_ip: str = ""
    host_port: str = ""


@dataclass(frozen=True)
class Inspected:
    """What the rules need of one container."""

    label: str
    service: str
    running: bool
    user: str
    health_check: bool
    host: HostConfig
    mounts: tuple[Mount, ...]
    published: tuple[Binding, ...]
    app_armor: str
    process_label: str
    secret_variables: tuple[str, ...]
    """Names of variables that hold a secret itself; not their values."""

    def option(self, name: str) -> str | None:
        """The value of an option of `security_opt`, None without it: `seccomp=unconfined`, `no-new-privileges`."""
        for text in self.host.security_opt:
            key, separator, value = text.replace(":", "=", 1).partition("=")
            if key == name:
                return value if separator else "true"
        return None


def collect(engine: Docker, project: str | None) -> tuple[list[Inspected], list[Blind]]:
    """All containers of a project, or of the engine, also stopped ones, and those that were not understood.

    Raises TargetError.
    """
    labels = {"label": f"{PROJECT}={project}"} if project else {}
    api, found, blind = engine.api, [], []
    with translated(engine.name), api.all_within(_LISTING * timedelta(seconds=float(api.timeout))):
        for item in api.containers(all=True, filters=labels):
            try:
                raw = api.inspect_container(item["Id"])
            except NotFound:
                continue  # removed since it was listed
            label = _label(raw)
            if (raw["Config"].get("Labels") or {}).get(ONE_OFF) == "True":
                continue
            try:
                found.append(read(raw, label))
            except TargetError as error:
                blind.append(Blind(label, f"{error.cause}: {error.message}"))
    return sorted(found, key=lambda one: one.label), blind


def _label(raw: Mapping[str, Any]) -> str:
    labels = raw["Config"].get("Labels") or {}
    name = labels.get(SERVICE) or str(raw["Name"]).removeprefix("/")
    number = labels.get(NUMBER, "")
    return printable(name if number in ("", "1") else f"{name}-{number}")


def read(raw: Mapping[str, Any], label: str) -> Inspected:
    """From the answer to inspect. Raises TargetError, whose message has no value of the answer."""
    try:
        config, state = raw["Config"], raw["State"]
        ports = (raw.get("NetworkSettings") or {}).get("Ports") or {}
        health = (config.get("Healthcheck") or {}).get("Test") or []
        return Inspected(
            label=label,
            service=(config.get("Labels") or {}).get(SERVICE) or label,
            running=state["Status"] in ("running", "paused", "restarting"),
            user=str(config["User"] or ""),
            health_check=bool(health) and health[0] != "NONE",
            host=HostConfig.model_validate(raw["HostConfig"]),
            mounts=tuple(Mount.model_validate(item) for item in raw["Mounts"] or ()),
            published=tuple(Binding.model_validate(item) for each in ports.values() for item in each or ()),
            app_armor=str(raw.get("AppArmorProfile") or ""),
            process_label=str(raw.get("ProcessLabel") or ""),
            secret_variables=_secret_variables(config.get("Env") or ()),
        )
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])
        raise TargetError(f"{label}: unfamiliar value of {where}", cause="unfamiliar") from None
    except KeyError as error:
        raise TargetError(f"{label}: the engine's answer has no {error.args[0]}", cause="unfamiliar") from None
    except (TypeError, AttributeError, IndexError):
        raise TargetError(f"{label}: the engine's answer has another shape", cause="unfamiliar") from None


def _secret_variables(environment: Sequence[str]) -> tuple[str, ...]:
    pairs = (text.partition("=") for text in environment)
    return tuple(sorted({printable(name)[:80] for name, _, value in pairs if holds_secret(name, value)}))
