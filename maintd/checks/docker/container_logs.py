"""Log drivers of containers, and whether their logs have a size limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.errors import NotFound

from maintd.clients.docker import SERVICE, Docker, translated
from maintd.clients.rooted_files import RootedFiles
from maintd.errors import TargetError


@dataclass(frozen=True)
class ContainerLog:
    """A container's log. `size_bytes`: of its file and the rotated ones; None when they are not accessible."""

    label: str
    driver: str
    limited: bool
    size_bytes: int | None


def container_logs(engine: Docker, root: Path) -> list[ContainerLog]:
    """The logs of all containers of the engine, of every project. Raises TargetError.

    `root`: where the root directory of the engine's host is mounted.
    """
    found = []
    with translated(engine.name):
        for item in engine.api.containers(all=True):
            try:
                found.append(_log(engine.api.inspect_container(item["Id"]), root))
            except NotFound:
                continue  # removed since it was listed
    return sorted(found, key=lambda log: log.label)


def _log(raw: Mapping[str, Any], root: Path) -> ContainerLog:
    config = (raw.get("HostConfig") or {}).get("LogConfig") or {}
    driver = str(config.get("Type") or "")
    labels = raw["Config"].get("Labels") or {}
    # Only json-file has no limit by default; `local` keeps 100 MB, other drivers store logs elsewhere.
    limited = driver != "json-file" or (config.get("Config") or {}).get("max-size") not in (None, "", "-1")
    label = labels.get(SERVICE) or str(raw["Name"]).removeprefix("/")
    return ContainerLog(label, driver, limited, _size(str(raw.get("LogPath") or ""), root))


def _size(path: str, root: Path) -> int | None:
    if not path:
        return None
    files, (folder, _, name) = RootedFiles(root), path.rpartition("/")
    try:
        parts = [each for each in files.names(folder) if each.startswith(name)]
        return sum(files.status(f"{folder}/{each}").st_size for each in parts)
    except TargetError:
        return None
