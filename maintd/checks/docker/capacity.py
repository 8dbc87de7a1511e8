"""A Docker engine's images, volumes, writable layers and build cache; its containers' memory against their limits."""

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


def figures(target: DockerTarget, name: str, patience: timedelta, most: int = 10) -> Iterator[Figure]:
    """What the engine keeps on its disk and what its running containers hold in memory; `most` is how many volumes."""
    try:
        engine = connect(target, name=name, timeout=patience)  # the engine walks every volume: it may take minutes
    except TargetError as error:
        yield unmeasured("docker", name, "B", _SOURCE.format(name), str(error))
        yield unmeasured("container memory", name, "B", f"stats of {name}", str(error))
        return
    with engine:
        yield from _disk(engine, most)
        yield from _memory(engine, target.project)


def _disk(engine: Docker, most: int) -> Iterator[Figure]:
    source = _SOURCE.format(engine.name)
    try:
        with translated(engine.name):
            found = engine.client.api.df()
            parts = dict(_parts(found))
            volumes = sorted(_volumes(found), key=lambda item: (-item[1], item[0]))[:most]
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
    """Size of each part, and of what in it nothing uses. A size of −1 is one that the engine did not take."""
    images = found.get("Images") or []
    # A layer that two images share is counted once in the whole; what only unused images have is a lower bound.
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
        taken = samples(engine, running)
    except TargetError as error:
        yield unmeasured("container memory", engine.name, "B", source, str(error))
        return
    for container in running:
        sample = taken[container.id]
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
