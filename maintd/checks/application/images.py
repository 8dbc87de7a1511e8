"""Sizes and layers of the images that services use, and how they grow."""

from __future__ import annotations

from dataclasses import dataclass

from docker.errors import NotFound

from maintd.checks.docker.images import ImageInUse
from maintd.clients.docker import Docker, translated
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.units import format_size

BEST_PRACTICES = "Docker documentation, Building best practices"
MAX_GROWTH = 1.25
GROWTH_FLOOR = 50 * 1024 * 1024
"""Growth up to this size is normal, however small the image is."""
MAX_LAYERS = 100
"""The overlay driver mounts at most 128 layers."""


@dataclass(frozen=True)
class ImageSize:
    """The image of a service. `size_bytes`: of all layers, also of those that it shares."""

    service: str
    name: str
    size_bytes: int
    layers: int


def inspect(engine: Docker, used: ImageInUse) -> ImageSize:
    """The image of a service. Raises TargetError, `not_found` for one that was removed while a container has it."""
    try:
        with translated(engine.name):
            raw = engine.api.inspect_image(used.image_id)  # type: ignore[no-untyped-call]
    except TargetError as error:
        if isinstance(error.__cause__, NotFound):
            text = f"{engine.name}: the image {used.name} was removed, while a container of {used.service} has it"
            raise TargetError(text, "remove the container, or create it again", cause="not_found") from error
        raise
    size, layers = raw.get("Size"), (raw.get("RootFS") or {}).get("Layers")
    if not isinstance(size, int) or not isinstance(layers, list):
        raise TargetError(f"{engine.name}: {used.name}: no size or layers in the answer", cause="malformed")
    return ImageSize(used.service, used.name, size, len(layers))


def criteria(image: ImageSize, before_bytes: float | None, large_from: int) -> list[Criterion]:
    """Size, growth since the last run (None: there was none) and layers."""
    smaller = "build in stages, start from a -slim or -alpine image, exclude files by .dockerignore"
    history = f"docker history {image.name} shows what is large"
    grown = None if before_bytes is None else image.size_bytes - before_bytes
    limit = max((before_bytes or 0) * (MAX_GROWTH - 1), GROWTH_FLOOR)
    return [
        Criterion(
            "size of the image",
            image.size_bytes,
            warn_above=large_from,
            unit="B",
            hint=f"{history}; {smaller}",
            rule=f"{BEST_PRACTICES}; the param large_image",
        ),
        Criterion(
            "growth of the image",
            None if grown is None else round(grown),
            warn_above=round(limit),
            unit="B",
            unknown="" if grown is not None else "empty: there is no earlier run to compare with",
            optional=True,
            hint=f"now {format_size(image.size_bytes)}; {history}",
            rule=f"{BEST_PRACTICES}; more than {MAX_GROWTH - 1:.0%} and {format_size(GROWTH_FLOOR)} since the last run",
        ),
        Criterion(
            "layers of the image",
            image.layers,
            warn_above=MAX_LAYERS,
            hint=f"join RUN instructions, or build in stages; {history}",
            rule=f"{BEST_PRACTICES}: each RUN, COPY and ADD makes a layer; overlay mounts 128",
        ),
    ]


def report(ctx: Context, engine: str, image: ImageSize, large_from: int) -> None:
    """Report an image and keep its size and layers for trends."""
    labels = {"engine": engine, "service": image.service}
    ctx.report(criteria(image, ctx.last("image_size_bytes", None, **labels), large_from), image.service)
    ctx.measure("image_size_bytes", image.size_bytes, "B", **labels)
    ctx.measure("image_layers", image.layers, "layer", **labels)
