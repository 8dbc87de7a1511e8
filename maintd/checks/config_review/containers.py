"""The effective configuration of the containers of a compose project, as the engine describes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from maintd.checks.config_review.snapshot import Collector, Seen, joined
from maintd.clients.docker import NUMBER, ONE_OFF, PROJECT, SERVICE, connect, translated
from maintd.model.target import DockerTarget

CONFIG_HASH = "com.docker.compose.config-hash"
_ANONYMOUS = re.compile(r"[0-9a-f]{64}")
_COMPOSE = "com.docker.compose."
_HOST = {
    "cap_add": "CapAdd",
    "cap_drop": "CapDrop",
    "cpu_quota": "CpuQuota",
    "cpu_shares": "CpuShares",
    "cpuset": "CpusetCpus",
    "devices": "Devices",
    "dns": "Dns",
    "extra_hosts": "ExtraHosts",
    "ipc_mode": "IpcMode",
    "memory": "Memory",
    "memory_reservation": "MemoryReservation",
    "nano_cpus": "NanoCpus",
    "network_mode": "NetworkMode",
    "pid_mode": "PidMode",
    "pids_limit": "PidsLimit",
    "privileged": "Privileged",
    "read_only": "ReadonlyRootfs",
    "security_opt": "SecurityOpt",
    "sysctls": "Sysctls",
    "tmpfs": "Tmpfs",
    "ulimits": "Ulimits",
    "userns_mode": "UsernsMode",
}
_OWN = {"command": "Cmd", "entrypoint": "Entrypoint", "user": "User", "working_dir": "WorkingDir"}


@dataclass(frozen=True)
class Found:
    """A container as the engine describes it. `label`: its service, with the container's number unless that is 1."""

    label: str
    service: str
    raw: Mapping[str, Any]

    @property
    def state(self) -> str:
        """running, exited, and the others of the engine."""
        return str((self.raw.get("State") or {}).get("Status", ""))

    @property
    def config(self) -> Mapping[str, Any]:
        """Its `Config`."""
        return self.raw.get("Config") or {}

    @property
    def host(self) -> Mapping[str, Any]:
        """Its `HostConfig`."""
        return self.raw.get("HostConfig") or {}


@dataclass(frozen=True)
class Stack:
    """The containers of a project. Their environment is in here, so that it is never kept or printed as it is."""

    seen: Seen
    containers: tuple[Found, ...]


def read(target: DockerTarget, collector: Collector) -> Stack:
    """Read the containers of the target's project, those of the whole engine without one. Raises TargetError."""
    with connect(target, name=collector.subject) as engine, translated(collector.subject):
        found = sorted(_containers(engine.api, target.project), key=lambda item: (item.label, item.raw["Id"]))
        for item in found:
            _add(collector, item)
    return Stack(Seen(collector.snapshot()), tuple(found))


def _containers(api: Any, project: str | None) -> Iterator[Found]:
    filters = {"label": f"{PROJECT}={project}"} if project else {}
    for item in api.containers(all=True, filters=filters):
        try:
            raw = api.inspect_container(item["Id"])
        except Exception as error:
            if getattr(getattr(error, "response", None), "status_code", None) == 404:
                continue  # removed since it was listed
            raise
        labels = raw["Config"].get("Labels") or {}
        if labels.get(ONE_OFF) == "True":
            continue
        service = labels.get(SERVICE) or str(raw["Name"]).removeprefix("/")
        number = labels.get(NUMBER, "")
        yield Found(service if number in ("", "1") else f"{service}-{number}", service, raw)


def _add(collector: Collector, item: Found) -> None:
    at, config, host = item.label, item.config, item.host
    collector.add(f"{at}/image", config.get("Image"))
    collector.add(f"{at}/image id", item.raw.get("Image"))
    for name, key in _OWN.items():
        if config.get(key):
            collector.tree(f"{at}/{name}", config[key])
    collector.environment(f"{at}/environment", list(config.get("Env") or ()))
    for name, key in _HOST.items():
        if host.get(key):
            collector.tree(f"{at}/{name}", host[key])
    policy = host.get("RestartPolicy") or {}
    collector.add(f"{at}/restart", f"{policy.get('Name') or 'no'}{_retries(policy)}")
    for mount in item.raw.get("Mounts") or ():
        name = str(mount.get("Name") or "")
        source = "anonymous" if _ANONYMOUS.fullmatch(name) else name or str(mount.get("Source") or "")
        mode = "rw" if mount.get("RW") else "ro"
        collector.add(joined(f"{at}/mounts", str(mount.get("Destination"))), f"{mount.get('Type')} {source} {mode}")
    for port, places in (host.get("PortBindings") or {}).items():
        shown = [f"{place.get('HostIp') or '0.0.0.0'}:{place.get('HostPort') or 'any'}" for place in places or ()]
        collector.add(joined(f"{at}/ports", str(port)), ", ".join(shown))
    names = sorted((item.raw.get("NetworkSettings") or {}).get("Networks") or {})
    collector.add(f"{at}/networks", ", ".join(names) or "none")
    if config.get("Healthcheck"):
        collector.tree(f"{at}/healthcheck", config["Healthcheck"])
    log = host.get("LogConfig") or {}
    collector.tree(f"{at}/logging", {"driver": log.get("Type"), "options": log.get("Config") or {}})
    for name, value in (config.get("Labels") or {}).items():
        if name == CONFIG_HASH or not name.startswith(_COMPOSE):
            collector.add(joined(f"{at}/labels", name), value)


def _retries(policy: Mapping[str, Any]) -> str:
    count = policy.get("MaximumRetryCount")
    return f":{count}" if count else ""
