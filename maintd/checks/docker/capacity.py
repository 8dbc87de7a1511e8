"""Capacity figures of a Docker engine: images, volumes, writable layers, build cache, memory of containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from maintd.checks.docker.stats import samples
from maintd.clients.docker import Docker, connect, translated
from maintd.errors import TargetError
from maintd.model.target import DockerTarget
from maintd.reports.figure import Figure, unmeasured

_SOURCE = "/system/df of {}"


def figures(target: DockerTarget, name: str, timeout: timedelta, max_volumes: int = 10) -> Iterator[Figure]:
    """Disk usage of the engine, with at most `max_volumes` volumes, and memory of its running containers."""
    try:
        engine = connect(target, name=name, timeout=timeout)  # the engine walks every volume, which may take minutes
    except TargetError as error:
        yield unmeasured("docker", name, "B", _SOURCE.format(name), str(error))
        yield unmeasured("container memory", name, "B", f"stats of {name}", str(error))
        return
    with engine:
        yield from _disk(engine, max_volumes)
        yield from _memory(engine, target.project)


def _disk(engine: Docker, max_volumes: int) -> Iterator[Figure]:
    source = _SOURCE.format(engine.name)
    try:
        with translated(engine.name):
            found = engine.client.api.df()
            parts = dict(_parts(found))
            volumes = sorted(_volumes(found), key=lambda item: (-item[1], item[0]))[:max_volumes]
    except TargetError as error:
        yield unmeasured("docker", engine.name, "B", source, str(error))
        return
    for part, (size, unused) in parts.items():
        labels = {"engine": engine.name, "part": part}
        details = {"unused": unused}
        yield Figure("docker", part, size, "B", source, measure="docker_bytes", labels=labels, details=details)
    for volume, size in volumes:
        labels = {"engine": engine.name, "volume": volume}
        yield Figure("volume", volume, size, "B", source, measure="volume_bytes", labels=labels)


def _parts(found: Mapping[str, Any]) -> Iterator[tuple[str, tuple[float, float]]]:
    """By part, its size and that of its unused objects. The engine reports −1 for a size that it did not measure."""
    images = found.get("Images") or []
    # A layer shared by images counts once in the total; the unused size is a lower bound.
    free = sum(max(0, i["Size"] - max(0, i.get("SharedSize", 0))) for i in images if not i.get("Containers"))
    yield "images", (float(found.get("LayersSize") or 0), float(free))
    containers = found.get("Containers") or []
    layers = [(c.get("SizeRw") or 0, c.get("State") == "running") for c in containers]
    yield "containers", (float(sum(s for s, _ in layers)), float(sum(s for s, running in layers if not running)))
    cache = found.get("BuildCache") or []
    sizes = [(c.get("Size") or 0, c.get("InUse")) for c in cache if not c.get("Shared")]
    yield "build cache", (float(sum(s for s, _ in sizes)), float(sum(s for s, used in sizes if not used)))
    volumes = [v.get("UsageData") or {} for v in found.get("Volumes") or []]
    known = [(v.get("Size", -1), v.get("RefCount", 0)) for v in volumes if v.get("Size", -1) >= 0]
    yield "volumes", (float(sum(s for s, _ in known)), float(sum(s for s, used in known if not used)))


def _volumes(found: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for volume in found.get("Volumes") or []:
        size = (volume.get("UsageData") or {}).get("Size", -1)
        if size >= 0:
            yield volume["Name"], float(size)


def _memory(engine: Docker, project: str | None) -> Iterator[Figure]:
    source = f"stats of {engine.name}"
    try:
        running = [item for item in engine.containers(project) if item.state == "running"]
        sampled = samples(engine, running)
    except TargetError as error:
        yield unmeasured("container memory", engine.name, "B", source, str(error))
        return
    for container in running:
        sample = sampled[container.id]
        if isinstance(sample, TargetError):
            yield unmeasured("container memory", container.label, "B", source, str(sample))
            continue
        yield Figure(
            "container memory",
            container.label,
            float(sample.memory),
            "B",
            f"{source}, working set",
            capacity=float(container.memory_limit) or None,
            measure="container_memory_bytes",
            labels={"engine": engine.name, "container": container.label},
        )
