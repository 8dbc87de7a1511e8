"""The disk usage of a Docker engine, in the forms of API versions before 1.52 and from then on.

Source: the engine API's change log. From 1.52 on each kind of object has its totals and, when asked for, its items;
1.53 no longer has the older fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pydantic import Field

from maintd.clients.docker import Docker, translated
from maintd.clients.shapes import Shape, read
from maintd.errors import TargetError

_KINDS = {"Images": "ImageUsage", "Containers": "ContainerUsage", "Volumes": "VolumeUsage"}
_CACHE = {"BuildCache": "BuildCacheUsage"}  # an engine without a builder has none


class ImageUsage(Shape):
    """An image; the layers that it shares with others are part of its size."""

    size: int = Field(alias="Size")
    shared: int = Field(0, alias="SharedSize")  # −1: not measured
    containers: int = Field(alias="Containers", ge=0)

    @property
    def own_bytes(self) -> int:
        """What its removal would free at least."""
        return max(0, self.size - max(0, self.shared))


class ContainerUsage(Shape):
    """The writable layer of a container."""

    size: int = Field(0, alias="SizeRw")
    state: str = Field("", alias="State")


class VolumeUsageData(Shape):
    """Size and users of a volume; −1: not measured."""

    size: int = Field(-1, alias="Size")
    users: int = Field(-1, alias="RefCount")


class VolumeUsage(Shape):
    """A volume."""

    name: str = Field(alias="Name")
    created: str = Field("", alias="CreatedAt")
    usage: VolumeUsageData = Field(VolumeUsageData(), alias="UsageData")


class CacheUsage(Shape):
    """A record of the build cache."""

    size: int = Field(0, alias="Size")
    in_use: bool = Field(False, alias="InUse")
    shared: bool = Field(False, alias="Shared")  # with an image, where it is counted


class DiskUsage(Shape):
    """All objects with their sizes. `layers`: of all images, a layer that they share counted once."""

    layers: int = Field(alias="LayersSize", ge=0)
    images: tuple[ImageUsage, ...] = Field((), alias="Images")
    containers: tuple[ContainerUsage, ...] = Field((), alias="Containers")
    volumes: tuple[VolumeUsage, ...] = Field((), alias="Volumes")
    build_cache: tuple[CacheUsage, ...] = Field((), alias="BuildCache")


def disk_usage(engine: Docker, timeout: timedelta = timedelta(minutes=2)) -> DiskUsage:
    """Read the disk usage: the engine walks every volume, which may take minutes. Raises TargetError."""
    with translated(engine.name), engine.api.each_within(timeout):
        return parse(engine.api.df())


def parse(answer: Any) -> DiskUsage:
    """The answer in either form. Raises TargetError: unfamiliar when it has neither, partial without its items."""
    if not isinstance(answer, Mapping):
        raise TargetError("the disk usage has an unexpected format", cause="malformed")
    if any(isinstance(answer.get(part), Mapping) for part in _KINDS.values()):
        answer = _older_form(answer)
    elif "LayersSize" not in answer:
        raise TargetError("the disk usage has none of the fields that are known", cause="unfamiliar")
    return read(DiskUsage, answer, "the disk usage")


def _older_form(answer: Mapping[str, Any]) -> dict[str, Any]:
    older: dict[str, Any] = {}
    for name, part in (_KINDS | _CACHE).items():
        usage = answer.get(part)
        if usage is None and name in _CACHE:
            continue
        if not isinstance(usage, Mapping):
            raise TargetError(f"the disk usage has no {part}", cause="partial")
        items = usage.get("Items")
        if items is None and usage.get("TotalCount"):
            raise TargetError(f"the disk usage counts {usage['TotalCount']} in {part}, and lists none", cause="partial")
        older[name] = items
        if name == "Images":
            older["LayersSize"] = usage.get("TotalSize", 0 if not items else None)
    return older
