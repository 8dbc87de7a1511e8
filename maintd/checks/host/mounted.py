"""Which hosts can be read: in a container only those whose root is mounted, since its own root is that of its image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from maintd.model.target import HostTarget

_IN_CONTAINER = (Path("/.dockerenv"), Path("/run/.containerenv"))


def mounted(targets: Mapping[str, HostTarget]) -> dict[str, HostTarget]:
    """Those of the targets whose root is that of a host."""
    inside = any(mark.exists() for mark in _IN_CONTAINER)
    return {name: target for name, target in targets.items() if not (inside and target.root == Path("/"))}
