"""Capacity figures of a Docker engine: images, volumes, writable layers, build cache, memory of containers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from maintd.checks.docker.stats import samples
from maintd.clients.docker import Docker, connect
from maintd.clients.docker_usage import DiskUsage, disk_usage
from maintd.errors import TargetError
from maintd.model.target import DockerTarget
from maintd.reports.figure import Figure, unmeasured

_SOURCE = "/system/df of {}"


def figures(target: DockerTarget, name: str, timeout: timedelta, max_volumes: int = 10) -> Iterator[Figure]:
    """Disk usage of the engine, with at most `max_volumes` volumes, and memory of its running containers."""
    try:
        engine = connect(target, name=name)
    except TargetError as error:
        yield unmeasured("docker", name, "B", _SOURCE.format(name), str(error))
        yield unmeasured("container memory", name, "B", f"stats of {name}", str(error))
        return
    with engine:
        yield from _disk(engine, timeout, max_volumes)
        yield from _memory(engine, target.project)


def _disk(engine: Docker, timeout: timedelta, max_volumes: int) -> Iterator[Figure]:
    source = _SOURCE.format(engine.name)
    try:
        found = disk_usage(engine, timeout)
    except TargetError as error:
        yield unmeasured("docker", engine.name, "B", source, str(error))
        return
    volumes = sorted(_volumes(found), key=lambda item: (-item[1], item[0]))[:max_volumes]
    for part, (size, unused) in _parts(found):
        labels = {"engine": engine.name, "part": part}
        details = {"unused": unused}
        yield Figure("docker", part, size, "B", source, measure="docker_bytes", labels=labels, details=details)
    for volume, size in volumes:
        labels = {"engine": engine.name, "volume": volume}
        yield Figure("volume", volume, size, "B", source, measure="volume_bytes", labels=labels)


def _parts(found: DiskUsage) -> Iterator[tuple[str, tuple[float, float]]]:
    """By part, its size and that of its unused objects. The engine reports −1 for a size that it did not measure."""
    # A layer shared by images counts once in the total; the unused size is a lower bound.
    free = sum(image.own_bytes for image in found.images if not image.containers)
    yield "images", (float(found.layers), float(free))
    layers = [(max(0, item.size), item.state == "running") for item in found.containers]
    yield "containers", (float(sum(s for s, _ in layers)), float(sum(s for s, running in layers if not running)))
    sizes = [(record.size, record.in_use) for record in found.build_cache if not record.shared]
    yield "build cache", (float(sum(s for s, _ in sizes)), float(sum(s for s, used in sizes if not used)))
    known = [(volume.usage.size, volume.usage.users) for volume in found.volumes if volume.usage.size >= 0]
    yield "volumes", (float(sum(s for s, _ in known)), float(sum(s for s, users in known if users == 0)))


def _volumes(found: DiskUsage) -> Iterator[tuple[str, float]]:
    for volume in found.volumes:
        if volume.usage.size >= 0:
            yield volume.name, float(volume.usage.size)


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
            measure="container_memory_working_set_bytes",
            labels={"engine": engine.name, "container": container.label},
        )
