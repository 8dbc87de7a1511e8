"""Compose files: their content without expanding `${…}`, and how the containers of their project differ from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from maintd.checks.config_review.containers import Found
from maintd.checks.config_review.snapshot import Collector, Seen, require_bounded
from maintd.checks.hints import command, name_first
from maintd.clients.bounded import parse_yaml
from maintd.clients.files import read_regular
from maintd.errors import TargetError
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus

_MAX_BYTES = 2 << 20
_ENVIRONMENT = re.compile(r"(?:services/[^/]+/(?:environment|build/args)|(?:secrets|configs)/[^/]+/content)$")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SPEC = "Compose specification"
_NOT_FOLLOWED = ("include",)


def load(paths: Sequence[Path]) -> dict[str, Any]:
    """The content of compose files, later ones merged over earlier ones. Raises TargetError."""
    merged: dict[str, Any] = {}
    for path in paths:
        merged = _merged(merged, _read(path))
    if not isinstance(merged.get("services"), Mapping):
        raise TargetError(f"{paths[-1]}: has no services", "name the compose files of the project", cause="malformed")
    return merged


def read(paths: Sequence[Path], collector: Collector) -> tuple[Seen, dict[str, Any]]:
    """The content as a snapshot, and as it is, which may have secrets. Raises TargetError."""
    content = load(paths)
    collector.tree(
        "", content, plain=("secrets",), as_environment=lambda path: _ENVIRONMENT.fullmatch(path) is not None
    )
    unread = {}
    services: Mapping[str, Any] = content["services"]
    extended = [name for name, item in services.items() if isinstance(item, Mapping) and "extends" in item]
    if any(name in content for name in _NOT_FOLLOWED) or extended:
        unread["services/"] = f"include and extends are not followed: {', '.join(map(str, extended)) or 'include'}"
    return Seen(collector.snapshot(), unread), content


def compare(content: Mapping[str, Any], containers: Sequence[Found], one_shot: Sequence[str]) -> Iterator[Criterion]:
    """What runs, against the files: services that do not run, containers that are not in them, fields that differ."""
    services = {str(name): item for name, item in content["services"].items() if isinstance(item, Mapping)}
    by_service: dict[str, list[Found]] = {}
    for container in containers:
        by_service.setdefault(container.service, []).append(container)
    idle = [
        f"{name} ({', '.join(sorted({item.state for item in by_service.get(name, [])})) or 'no container'})"
        for name, item in sorted(services.items())
        if _is_expected(item) and not any(_is_running(each, name in one_shot) for each in by_service.get(name, []))
    ]
    yield Criterion(
        "services of the compose file run",
        name_first(idle) or "all do",
        equals="all do",
        hint="docker compose up -d SERVICE; a service that ends on purpose is in one_shot of the target, one that is "
        "not wanted has a profile in the file",
        rule=f"{_SPEC}, services",
    )
    unknown = sorted(name for name in by_service if name not in services)
    yield Criterion(
        "containers are in the compose file",
        name_first(unknown) or "all are",
        equals="all are",
        hint="add it to the file; or, once it is not needed: " + command("docker", "compose", "up", "--remove-orphans"),
        rule=f"{_SPEC}, services; Docker documentation, docker compose up --remove-orphans",
    )
    for name, service in sorted(services.items()):
        for each in by_service.get(name, []):
            yield _as_in_file(name, service, each)


def _as_in_file(name: str, service: Mapping[str, Any], container: Found) -> Criterion:
    differing = list(_differing(service, container))
    return Criterion(
        f"{container.label} is as in the compose file",
        name_first(differing) or "yes",
        equals="yes",
        severity=CheckStatus.WARN,
        hint=f"{command('docker', 'compose', 'up', '-d', name)} makes it as in the file; or change the file",
        rule=f"{_SPEC}, services; a container that was changed beside the file loses that at the next up",
    )


def _differing(service: Mapping[str, Any], container: Found) -> Iterator[str]:
    """Only what the file has without `${…}`: other values are not known here."""
    config, host = container.config, container.host
    for field, wanted, now in (
        ("image", service.get("image"), config.get("Image")),
        ("restart", service.get("restart"), _restart(host)),
        ("user", service.get("user"), config.get("User") or ""),
        ("privileged", service.get("privileged"), bool(host.get("Privileged"))),
        ("read_only", service.get("read_only"), bool(host.get("ReadonlyRootfs"))),
        ("network_mode", service.get("network_mode"), host.get("NetworkMode")),
    ):
        if wanted is not None and _is_known(wanted) and str(wanted) != str(now) and not _same(field, wanted, now):
            yield f"{field} is {now}, in the file {wanted}"
    limits = _mapping(_mapping(_mapping(service.get("deploy")).get("resources")).get("limits"))
    memory = _bytes(service.get("mem_limit", limits.get("memory")))
    if memory is not None and memory != int(host.get("Memory") or 0):
        yield f"memory limit is {host.get('Memory') or 'none'}, in the file {memory}"
    cpus = _number(service.get("cpus", limits.get("cpus")))
    if cpus is not None and round(cpus * 1e9) != int(host.get("NanoCpus") or 0):
        yield f"CPU limit is {int(host.get('NanoCpus') or 0) / 1e9:g}, in the file {cpus:g}"
    words = service.get("command")
    if isinstance(words, list) and all(_is_known(word) for word in words):
        written = [str(word).replace("$$", "$") for word in words]
        if written != [str(word) for word in config.get("Cmd") or ()]:
            yield "command differs"  # without the words: a password may be among them
    names = {str(item).partition("=")[0] for item in config.get("Env") or ()}
    missing = sorted(_environment_names(service.get("environment")) - names)
    if missing:
        yield f"environment lacks {', '.join(missing)}"
    check = service.get("healthcheck") or {}
    disabled = (config.get("Healthcheck") or {}).get("Test") in (["NONE"], None)
    if isinstance(check, Mapping) and check.get("test") and not check.get("disable") and disabled:
        yield "it has no healthcheck"
    yield from _missing_places(service, container)


def _missing_places(service: Mapping[str, Any], container: Found) -> Iterator[str]:
    """Mounts and ports of the file that the container does not have, and ports that only the container has."""
    mounted = {str(mount.get("Destination")) for mount in container.raw.get("Mounts") or ()}
    wanted = {place for item in _items(service.get("volumes")) if (place := _destination(item))}
    if wanted - mounted:
        yield f"mounts lack {', '.join(sorted(wanted - mounted))}"
    ports = _items(service.get("ports"))
    if all(_is_known(item) for item in ports):
        published = {str(port).partition("/")[0] for port in container.host.get("PortBindings") or {}}
        inside = {port for item in ports if (port := _port_inside(item))}
        if published != inside and not any("-" in port for port in inside):
            yield f"published ports are {', '.join(sorted(published)) or 'none'}, in the file {_listed(inside)}"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _same(field: str, wanted: object, now: object) -> bool:
    if field == "restart":
        return str(wanted).lower() in ("no", "false", "") and str(now) == "no"
    if isinstance(wanted, bool) or isinstance(now, bool):
        return str(wanted).lower() == str(now).lower()
    return field == "image" and str(now) in (f"{wanted}:latest", f"docker.io/{wanted}", f"docker.io/library/{wanted}")


def _restart(host: Mapping[str, Any]) -> str:
    policy = host.get("RestartPolicy") or {}
    count = policy.get("MaximumRetryCount")
    return f"{policy.get('Name') or 'no'}{f':{count}' if count else ''}"


def _is_expected(service: Mapping[str, Any]) -> bool:
    replicas = _mapping(service.get("deploy")).get("replicas", service.get("scale", 1))
    return not service.get("profiles") and replicas != 0


def _is_running(item: Found, ends: bool) -> bool:
    exit_code = (item.raw.get("State") or {}).get("ExitCode")
    return item.state == "running" or (ends and item.state == "exited" and exit_code == 0)


def _is_known(value: object) -> bool:
    return "${" not in str(value) and re.search(r"\$[A-Za-z_]", str(value).replace("$$", "")) is None


def _bytes(value: object) -> int | None:
    if value is None or isinstance(value, bool) or not _is_known(value):
        return None
    found = _SIZE.fullmatch(str(value).strip())
    return int(float(found[1]) * _UNITS[found[2].lower()]) if found else None


def _number(value: object) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(str(value))
    except ValueError:
        return None


def _environment_names(value: object) -> set[str]:
    """Names with a value; one without is taken from where compose ran, and may be unset there."""
    if isinstance(value, Mapping):
        return {str(name) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return {str(item).partition("=")[0] for item in value if "=" in str(item)}
    return set()


def _destination(item: object) -> str:
    if isinstance(item, Mapping):
        return str(item.get("target") or "") if _is_known(item.get("target")) else ""
    text = re.sub(r"\$\{[^}]*\}", "x", str(item))  # the source may be a reference with a colon in it
    parts = text.split(":")
    place = parts[1] if len(parts) > 1 else parts[0]
    return place.rstrip("/") or "/" if place.startswith("/") else ""


def _port_inside(item: object) -> str:
    if isinstance(item, Mapping):
        return str(item.get("target") or "") if item.get("published") is not None else ""
    return str(item).partition("/")[0].rpartition(":")[2]


def _read(path: Path) -> dict[str, Any]:
    data = read_regular(path, _MAX_BYTES)
    try:
        found = parse_yaml(data, str(path))
    except TargetError as error:
        if isinstance(error.__cause__, yaml.constructor.ConstructorError):  # `!reset` and `!override`
            text = f"{path}: has tags that only compose understands"
            raise TargetError(text, "name a file that has none", cause="unfamiliar") from error
        raise
    if not isinstance(found, dict):
        raise TargetError(f"{path}: is not a compose file", cause="malformed")
    require_bounded(found, str(path))
    return found


def _merged(base: Any, over: Any, name: str = "") -> Any:
    """As compose merges: mappings by key, lists one after the other, anything else and commands by the later file."""
    if name in ("environment", "labels") and isinstance(base, list | Mapping) and isinstance(over, list | Mapping):
        return {**_as_mapping(base), **_as_mapping(over)}
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        merged = {**base}
        for key, value in over.items():
            merged[key] = _merged(base[key], value, str(key)) if key in base else value
        return merged
    if isinstance(base, list) and isinstance(over, list) and name not in ("command", "entrypoint", "test"):
        return [*base, *(item for item in over if item not in base)]
    return over


def _as_mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    split = [str(item).partition("=") for item in value]
    return {name: text if sign else None for name, sign, text in split}
