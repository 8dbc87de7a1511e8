"""Looking at what a Docker engine keeps, and removing an image or a container by its id, after one more look.

Nothing is forced: what came into use since it was planned answers 409 and stays. Volumes are never touched, those
without a name that belong to a removed container included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from docker.errors import APIError, NotFound

from maintd.checks.docker.unused import KeptContainer, References, StoredImage
from maintd.clients.docker import ONE_OFF, Docker, translated
from maintd.errors import TargetError

_FRACTION = re.compile(r"(\.\d{6})\d+")


class InUseError(TargetError):
    """It has changed or came into use since it was planned, and was left alone."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "the next run looks again", cause="partial")


@dataclass(frozen=True)
class Volume:
    """A volume that no container uses."""

    name: str
    size_bytes: int
    created_at: datetime | None


@dataclass(frozen=True)
class DiskUse:
    """What the engine takes on its disk. Layers that images share are counted once."""

    layers_bytes: int
    unused_bytes: int  # of images without any container, without what they share
    build_cache_bytes: int
    dangling: tuple[Volume, ...]


def disk_use(engine: Docker) -> DiskUse:
    """Ask for it; this is slow and heavy work for a large engine. Raises TargetError."""
    with translated(engine.name):
        raw = engine.client.api.df()
        volumes = [
            Volume(item["Name"], max(0, int(usage.get("Size") or 0)), instant(item.get("CreatedAt")))
            for item in raw.get("Volumes") or ()
            if (usage := item.get("UsageData") or {}).get("RefCount") == 0
        ]
        unused = [item for item in raw.get("Images") or () if item.get("Containers") == 0]
        return DiskUse(
            int(raw.get("LayersSize") or 0),
            sum(max(0, int(item["Size"]) - max(0, int(item.get("SharedSize") or 0))) for item in unused),
            sum(int(item.get("Size") or 0) for item in raw.get("BuildCache") or () if not item.get("Shared")),
            tuple(sorted(volumes, key=lambda volume: -volume.size_bytes)),
        )


def stored_images(engine: Docker) -> tuple[list[StoredImage], frozenset[str]]:
    """All images but intermediate ones, and the ids on which others are built. Raises TargetError."""
    with translated(engine.name):
        every = engine.client.api.images(all=True)
        parents = frozenset(str(item["ParentId"]) for item in every if item.get("ParentId"))
        found = [_image(engine, item["Id"]) for item in engine.client.api.images()]
    return [image for image in found if image is not None], parents


def _image(engine: Docker, name: str) -> StoredImage | None:
    try:
        raw = engine.client.api.inspect_image(name)  # type: ignore[no-untyped-call]
    except NotFound:
        return None
    config = raw.get("Config") or {}
    return StoredImage(
        raw["Id"],
        tuple(tag for tag in raw.get("RepoTags") or () if "<none>" not in tag),
        tuple(raw.get("RepoDigests") or ()),
        config.get("Labels") or {},
        int(raw.get("Size") or 0),
        instant(raw.get("Created")),
        instant((raw.get("Metadata") or {}).get("LastTagTime")),
    )


def kept_containers(engine: Docker) -> list[KeptContainer]:
    """All containers of the engine, of every project, stopped ones too. Raises TargetError."""
    found = []
    with translated(engine.name):
        for item in engine.client.api.containers(all=True):
            with suppress(NotFound):
                found.append(_container(engine.client.api.inspect_container(item["Id"])))
    return found


def _container(raw: Mapping[str, Any]) -> KeptContainer:
    labels = raw["Config"].get("Labels") or {}
    policy = ((raw.get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name", "")
    return KeptContainer(
        raw["Id"],
        str(raw["Name"]).removeprefix("/"),
        str(raw["Config"]["Image"]),
        str(raw["Image"]),
        str(raw["State"]["Status"]),
        instant(raw["State"].get("FinishedAt")),
        policy,
        labels,
        labels.get(ONE_OFF) == "True",
    )


def instant(text: str | None) -> datetime | None:
    """As the engine writes it, with up to nine digits of a second and the year 1 for never; None for no time."""
    if not text or text.startswith("0001"):
        return None
    try:
        at = datetime.fromisoformat(_FRACTION.sub(r"\1", text))
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


def remove_image(engine: Docker, planned: StoredImage) -> None:
    """Remove an image with all its tags. Raises InUseError when it is not as planned any more, and TargetError.

    1. Look again: the same tags, and no container that uses it. 2. Take off all tags but the last, each only while it
    still means this image. 3. Remove it by its id, which takes the last tag along. 4. Where the engine declines that,
    put the tags back.
    """
    now = _look(engine, planned.id)
    if set(now.tags) != set(planned.tags):
        raise InUseError(f"its tags have changed to {', '.join(now.tags) or 'none'}")
    if use := References(kept_containers(engine)).of(now):
        raise InUseError(use)
    taken: list[str] = []
    try:
        for tag in planned.tags[1:]:
            if _look(engine, tag).id != planned.id:
                raise InUseError(f"{tag} was given to another image")
            _remove(engine, tag)
            taken.append(tag)
        _remove(engine, planned.id)
    except TargetError:
        for tag in taken:
            repository, _, name = tag.rpartition(":")
            with suppress(TargetError), translated(engine.name):
                engine.client.api.tag(planned.id, repository, name)
        raise


def _look(engine: Docker, name: str) -> StoredImage:
    with translated(engine.name):
        found = _image(engine, name)
    if found is None:
        raise InUseError(f"{name} is gone")
    return found


def _remove(engine: Docker, name: str) -> None:
    with _faster(), translated(engine.name):
        # noprune: else what it was built upon goes along when it has no tag, whatever label it has.
        engine.client.api.remove_image(name, force=False, noprune=True)


def last_lines(engine: Docker, container: KeptContainer, count: int) -> bytes:
    """The last lines that it wrote, with their times. Raises TargetError where its log cannot be read."""
    with translated(engine.name):
        found = engine.client.api.logs(container.id, stdout=True, stderr=True, timestamps=True, tail=count)
    if not isinstance(found, bytes):
        raise TargetError(
            f"{engine.name}: the log of {container.name} is not what an engine answers", cause="malformed"
        )
    return found


def remove_container(engine: Docker, planned: KeptContainer) -> None:
    """Remove a container that has ended; its volumes stay. Raises InUseError when it was started since, and
    TargetError."""
    api = engine.client.api
    with _faster(), translated(engine.name):
        now = _container(api.inspect_container(planned.id))
        if (now.state, now.finished_at) != (planned.state, planned.finished_at):
            raise InUseError(f"it was started meanwhile, and is {now.state}")
        api.remove_container(planned.id, v=False, link=False, force=False)


@contextmanager
def _faster() -> Iterator[None]:
    """The engine's 404 and 409 say that somebody was faster."""
    try:
        yield
    except TargetError as error:
        behind = error.__cause__
        if isinstance(behind, APIError) and behind.response is not None and behind.response.status_code in (404, 409):
            raise InUseError(str(behind.explanation or "in use")) from error
        raise


def prune_build_cache(engine: Docker, unused_for: timedelta, keep_bytes: int) -> int:
    """Drop what builds have cached and not used for so long; the bytes that this has freed. Raises TargetError."""
    with translated(engine.name):
        answer = engine.client.api.prune_builds(
            filters={"until": f"{int(unused_for.total_seconds())}s"}, keep_storage=keep_bytes
        )
        return int(answer.get("SpaceReclaimed") or 0)
